//! The facts that preparing a container depends on: its mounts and cgroups.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::cgroup::CgroupFacts;
use super::mountinfo::MountTable;

/// The facts that preparing a container depends on, with daemons or, as in `hack/dind`, without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerFacts {
    /// The mounts of this process's mount namespace.
    pub mounts: MountTable,
    /// The cgroup hierarchies, and the memberships of this process in them.
    pub cgroup: CgroupFacts,
    /// Whether `/sys/kernel/security` exists: the kernel has securityfs.
    pub security_directory: bool,
    /// Whether `/tmp` is an empty directory, and no symbolic link to one.
    pub tmp_empty: bool,
}

impl ContainerFacts {
    /// Reads the remaining facts. `mounts` are the mounts of this process. Fails where
    /// `/proc/self/cgroup` cannot be read.
    pub fn read(mounts: MountTable) -> Result<Self> {
        Ok(Self {
            cgroup: CgroupFacts::read(&mounts)?,
            mounts,
            security_directory: Path::new("/sys/kernel/security").is_dir(),
            tmp_empty: fs::read_dir("/tmp").is_ok_and(|mut entries| entries.next().is_none())
                && fs::symlink_metadata("/tmp").is_ok_and(|found| found.is_dir()),
        })
    }
}
