//! The free space of a file system.

use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};

use super::paths::existing;

/// The free space of a file system: statvfs(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that a process without privileges can still write.
    pub bytes: u64,
    /// Inodes that are free. `None` where the file system has no fixed number of them.
    pub inodes: Option<u64>,
    /// Whether the file system is mounted read-only.
    pub read_only: bool,
}

impl Space {
    /// Reads the free space of the file system that `path` is or will be on. `None` where that
    /// cannot be read.
    pub fn read(path: &Path) -> Option<Self> {
        let found = statvfs(existing(path)?).ok()?;
        Some(Self {
            bytes: found
                .blocks_available()
                .saturating_mul(found.fragment_size()),
            // btrfs and similar file systems create inodes on demand and report 0.
            inodes: (found.files() > 0).then(|| found.files_available()),
            read_only: found.flags().contains(FsFlags::ST_RDONLY),
        })
    }
}
