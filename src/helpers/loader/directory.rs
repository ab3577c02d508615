//! The listing of the directory of archives.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::record::Identity;
use crate::sys::{filesystem, read};

/// The suffixes of the names of archives.
const SUFFIXES: [&[u8]; 3] = [b".tar", b".tar.gz", b".tar.zst"];

/// An archive in the directory.
#[derive(Debug, Clone)]
pub struct Archive {
    /// The name of the file.
    pub name: OsString,
    /// The path of the file.
    pub path: PathBuf,
    /// The size of the file in bytes.
    pub size: u64,
    /// The properties by which a later start recognizes the file.
    pub identity: Identity,
}

/// The content of the directory, in the order of the names.
#[derive(Debug, Default)]
pub struct Listing {
    /// The regular files with the suffix of an archive.
    pub archives: Vec<Archive>,
    /// Everything else with the suffix of an archive, and the reason why it is not one.
    pub broken: Vec<(PathBuf, String)>,
    /// The names without the suffix of an archive.
    pub others: Vec<OsString>,
}

impl Listing {
    /// Reads a directory. Hidden files are skipped, and so is `lost+found`, which mkfs.ext4 makes
    /// on a volume. Symbolic links are followed. The error is that of opendir(3) or readdir(3).
    pub fn read(directory: &Path) -> io::Result<Self> {
        let mut names = read::names(directory)?;
        names.sort();
        let mut listing = Self::default();
        for name in names {
            if name.as_bytes().starts_with(b".") || name == filesystem::LOST_AND_FOUND {
                continue;
            }
            if !is_archive(&name) {
                listing.others.push(name);
                continue;
            }
            let path = directory.join(&name);
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => listing.archives.push(Archive {
                    name,
                    path,
                    size: metadata.len(),
                    identity: Identity::of(&metadata),
                }),
                Ok(_) => listing.broken.push((path, read::NOT_REGULAR.into())),
                Err(error) => {
                    let reason = match fs::read_link(&path) {
                        Ok(target) => format!("symbolic link to {}: {error}", target.display()),
                        Err(_) => error.to_string(),
                    };
                    listing.broken.push((path, reason));
                }
            }
        }
        Ok(listing)
    }
}

fn is_archive(name: &OsStr) -> bool {
    let name = name.as_bytes();
    SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_broken_entries_and_other_names_are_distinguished() -> io::Result<()> {
        let directory = std::env::temp_dir().join(format!("dind-listing-{}", std::process::id()));
        fs::create_dir_all(directory.join("directory.tar"))?;
        fs::create_dir_all(directory.join("lost+found"))?;
        for name in [
            "b.tar.gz",
            "a.tar",
            "c.tar.zst",
            "d.tgz",
            ".hidden.tar",
            "tar",
            "e.TAR",
        ] {
            fs::write(directory.join(name), "text")?;
        }
        let link = |target: &str, name: &str| {
            let _ = fs::remove_file(directory.join(name));
            std::os::unix::fs::symlink(target, directory.join(name))
        };
        link("nowhere", "dangling.tar")?;
        link("d.tgz", "link.tar")?;
        let listing = Listing::read(&directory)?;
        fs::remove_dir_all(&directory)?;
        let names: Vec<_> = listing
            .archives
            .iter()
            .map(|archive| &archive.name)
            .collect();
        assert_eq!(names, ["a.tar", "b.tar.gz", "c.tar.zst", "link.tar"]);
        assert_eq!(listing.others, ["d.tgz", "e.TAR", "tar"]);
        let broken: Vec<String> = listing
            .broken
            .iter()
            .map(|(path, reason)| format!("{}: {reason}", path.display()))
            .collect();
        assert_eq!(broken.len(), 2, "{broken:?}");
        for (broken, end) in broken.iter().zip([
            "/dangling.tar: symbolic link to nowhere: No such file or directory (os error 2)",
            "/directory.tar: not a regular file",
        ]) {
            assert!(broken.ends_with(end), "{broken}");
        }
        Ok(())
    }
}
