//! What is left on a file system.

use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};

use super::paths::existing;

/// What is left on a file system: statvfs(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes for those who are not root.
    pub bytes: u64,
    /// Inodes, where the file system counts them.
    pub inodes: Option<u64>,
    /// Whether it is mounted read-only.
    pub read_only: bool,
}

impl Space {
    /// Of the file system that `path` is on, or will be.
    pub fn read(path: &Path) -> Option<Self> {
        let found = statvfs(existing(path)?).ok()?;
        Some(Self {
            bytes: found
                .blocks_available()
                .saturating_mul(found.fragment_size()),
            // btrfs and its kin have as many as they like, and say 0.
            inodes: (found.files() > 0).then(|| found.files_available()),
            read_only: found.flags().contains(FsFlags::ST_RDONLY),
        })
    }
}
