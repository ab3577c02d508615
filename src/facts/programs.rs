//! The programs that a start looks for in `PATH`, and what a dockerd that only prints
//! something is started by.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::proc::effective_capabilities;
use crate::sys::search::search;

/// CAP_MAC_ADMIN in linux/capability.h.
const CAP_MAC_ADMIN: u32 = 33;

/// Where programs are; `None` where they are not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Programs {
    /// `dockerd`.
    pub dockerd: Option<PathBuf>,
    /// `containerd`.
    pub containerd: Option<PathBuf>,
    /// `dmsetup`, where the kernel has a device mapper.
    pub dmsetup: Option<PathBuf>,
    /// Whether there is a `bash`.
    pub bash: bool,
}

impl Programs {
    /// Looks for them in `search_path`, which has the form of `PATH`.
    pub fn read(search_path: &OsStr) -> Self {
        Self {
            dockerd: search("dockerd", search_path),
            containerd: search("containerd", search_path),
            dmsetup: device_mapper()
                .then(|| search("dmsetup", search_path))
                .flatten(),
            bash: has_bash(search_path),
        }
    }
}

/// What the start of a dockerd that only prints something follows from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InformFacts {
    /// `dockerd`, where it is in `PATH`.
    pub dockerd: Option<PathBuf>,
    /// Whether AppArmor is on and this process may load profiles.
    pub apparmor: bool,
}

impl InformFacts {
    /// Reads them. Fails where `/proc` cannot be read.
    pub fn read(search_path: &OsStr) -> Result<Self> {
        Ok(Self {
            dockerd: search("dockerd", search_path),
            apparmor: may_load_profiles()?,
        })
    }
}

/// Whether there is a `bash` in `search_path`.
pub fn has_bash(search_path: &OsStr) -> bool {
    search("bash", search_path).is_some()
}

/// Whether AppArmor is on and this process may load profiles: apparmor(7). Fails where
/// `/proc/self/status` cannot be read.
pub fn may_load_profiles() -> Result<bool> {
    let is_on = fs::read("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|enabled| enabled.starts_with(b"Y"));
    Ok(is_on && effective_capabilities()? & (1 << CAP_MAC_ADMIN) != 0)
}

/// Whether the kernel has registered the device mapper's control device.
fn device_mapper() -> bool {
    fs::read_to_string("/proc/misc").is_ok_and(|devices| {
        devices
            .split_whitespace()
            .any(|name| name == "device-mapper")
    })
}
