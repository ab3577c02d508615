//! What is in the directory of archives when it is their turn.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::record::Identity;
use crate::sys::read;

/// What the names of archives end with.
const SUFFIXES: [&[u8]; 3] = [b".tar", b".tar.gz", b".tar.zst"];

/// An archive that is there.
#[derive(Debug, Clone)]
pub struct Archive {
    /// Its name in the directory.
    pub name: OsString,
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes.
    pub size: u64,
    /// How it is known again.
    pub identity: Identity,
}

/// What was found, each by name.
#[derive(Debug, Default)]
pub struct Listing {
    /// The archives.
    pub archives: Vec<Archive>,
    /// What is called like one and is none, with the reason.
    pub broken: Vec<(PathBuf, String)>,
    /// What is called otherwise.
    pub others: Vec<OsString>,
}

impl Listing {
    /// Reads a directory. Hidden files, and what mkfs.ext4 leaves on a volume, are passed over;
    /// symbolic links are followed.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            names.push(entry?.file_name());
        }
        names.sort();
        let mut listing = Self::default();
        for name in names {
            if name.as_bytes().starts_with(b".") || name == "lost+found" {
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
                        Ok(target) => format!("it leads to {}: {error}", target.display()),
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
    fn archives_are_told_from_what_is_broken_and_what_is_not_meant() -> io::Result<()> {
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
            "/dangling.tar: it leads to nowhere: No such file or directory (os error 2)",
            "/directory.tar: not a regular file",
        ]) {
            assert!(broken.ends_with(end), "{broken}");
        }
        Ok(())
    }
}
