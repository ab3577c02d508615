//! The root file system of this container as a pax(1) archive, with the extended attribute of
//! capabilities(7) as dockerd writes it.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::fs::{self, File, Metadata};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::libc;
use tar::{Builder, EntryType, Header};

use crate::facts::mountinfo::MountTable;
use crate::messages::remedy::Remedy;
use crate::sys::filesystem;

/// The name of the extended attribute in an archive. pax(1) defines none; dockerd reads and
/// writes this one (moby's pkg/archive).
const CAPABILITY: &str = "SCHILY.xattr.security.capability";

/// A tree of files, as it was when it was walked.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    files: Vec<Found>,
}

#[derive(Debug)]
struct Found {
    /// Relative to the root.
    path: PathBuf,
    metadata: Metadata,
    /// The first path of the same file, where this is another hard link to it.
    link: Option<PathBuf>,
}

impl Tree {
    /// Walks `root` in the order of names. A directory that is a mount point or in `left_out` is
    /// taken without its content. Other files that are, and sockets, are left out. The error
    /// names a directory that cannot be listed.
    pub fn walk(root: &Path, mounts: &MountTable, left_out: &[PathBuf]) -> Result<Self> {
        let mut tree = Self {
            root: root.to_owned(),
            files: Vec::new(),
        };
        let mut links = HashMap::new();
        let mut directories = vec![root.to_owned()];
        while let Some(directory) = directories.pop() {
            for name in sorted_names(&directory)? {
                let path = directory.join(name);
                let Ok(metadata) = fs::symlink_metadata(&path) else {
                    continue;
                };
                let own = mounts.at(&path).is_none() && !left_out.contains(&path);
                if metadata.file_type().is_socket() || (!own && !metadata.is_dir()) {
                    continue;
                }
                let inside = path.strip_prefix(root).unwrap_or(&path).to_owned();
                let mut link = None;
                if metadata.is_dir() {
                    if own {
                        directories.push(path);
                    }
                } else if metadata.nlink() > 1 {
                    match links.entry((metadata.dev(), metadata.ino())) {
                        Entry::Occupied(first) => {
                            let first: &PathBuf = first.get();
                            link = Some(first.clone());
                        }
                        Entry::Vacant(first) => drop(first.insert(inside.clone())),
                    }
                }
                tree.files.push(Found {
                    path: inside,
                    metadata,
                    link,
                });
            }
        }
        Ok(tree)
    }

    /// The number of entries, directories included.
    pub fn files(&self) -> u64 {
        u64::try_from(self.files.len()).unwrap_or(u64::MAX)
    }

    /// The total size of the regular files in bytes, each hard link counted once.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(Found::bytes).sum()
    }

    /// A hash of names, sizes, modes, owners and modification times: equal for trees in which
    /// none of them has changed.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for Found {
            path,
            metadata,
            link,
        } in &self.files
        {
            path.hash(&mut hasher);
            link.hash(&mut hasher);
            (metadata.mode(), metadata.uid(), metadata.gid()).hash(&mut hasher);
            if !metadata.is_dir() {
                (metadata.len(), metadata.mtime(), metadata.mtime_nsec()).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// Writes the archive. A file that has been removed since the walk is left out, and one that
    /// has grown or shrunk keeps its size of then. The error names the file.
    pub fn write(&self, output: impl Write) -> Result<()> {
        let mut archive = Builder::new(output);
        for found in &self.files {
            let path = self.root.join(&found.path);
            match found.write(&path, &mut archive) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => {
                    result.with_context(|| format!("cannot archive {}", path.display()))?;
                }
            }
        }
        archive.finish().context("cannot finish the archive")
    }
}

fn sorted_names(directory: &Path) -> Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(directory)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .with_context(|| format!("cannot list {}", directory.display()))
        .remedy("check its mode")?;
    let mut names: Vec<_> = entries.iter().map(fs::DirEntry::file_name).collect();
    names.sort();
    Ok(names)
}

impl Found {
    fn bytes(&self) -> u64 {
        if self.metadata.is_file() && self.link.is_none() {
            self.metadata.len()
        } else {
            0
        }
    }

    fn write(&self, path: &Path, archive: &mut Builder<impl Write>) -> io::Result<()> {
        let kind = self.metadata.file_type();
        let mut header = Header::new_gnu();
        header.set_metadata(&self.metadata);
        header.set_size(0);
        if let Some(first) = &self.link {
            header.set_entry_type(EntryType::Link);
            return archive.append_link(&mut header, &self.path, first);
        }
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            return archive.append_link(&mut header, &self.path, fs::read_link(path)?);
        }
        if kind.is_char_device() || kind.is_block_device() {
            let device = self.metadata.rdev();
            header.set_device_major(libc::major(device))?;
            header.set_device_minor(libc::minor(device))?;
        }
        if !kind.is_file() {
            return archive.append_data(&mut header, &self.path, io::empty());
        }
        // The file may have been replaced by a symbolic link or a FIFO since the walk.
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        if let Some(capability) = filesystem::capability(&file)? {
            archive.append_pax_extensions([(CAPABILITY, capability.as_slice())])?;
        }
        header.set_size(self.metadata.len());
        let content = file.chain(io::repeat(0)).take(self.metadata.len());
        archive.append_data(&mut header, &self.path, content)
    }
}
