//! The programs that a start looks for in `PATH`, and the facts for a dockerd that only prints
//! something and exits, such as `dockerd --version`.

use std::ffi::OsStr;
use std::path::PathBuf;

use anyhow::Result;

use super::capabilities::{Capabilities, Capability};
use crate::sys::read;
use crate::sys::search::search;

/// The paths of programs in `PATH`; `None` for a program that is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Programs {
    /// The path of `dockerd`.
    pub dockerd: Option<PathBuf>,
    /// The path of `containerd`.
    pub containerd: Option<PathBuf>,
    /// The path of `dmsetup`. Looked for only where the kernel has the device mapper.
    pub dmsetup: Option<PathBuf>,
    /// Whether `bash` is in `PATH`.
    pub bash: bool,
}

impl Programs {
    /// Looks for the programs in `search_path`, a list of directories in the form of `PATH`.
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

/// The facts for the start of a dockerd that only prints something and exits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InformFacts {
    /// The path of `dockerd`. `None` where it is not in `PATH`.
    pub dockerd: Option<PathBuf>,
    /// Whether AppArmor is enabled and this process may load profiles.
    pub apparmor: bool,
}

impl InformFacts {
    /// Looks for dockerd in `search_path`, and reads the rest from `/proc` and `/sys`. Fails where
    /// `/proc/self/status` cannot be read.
    pub fn read(search_path: &OsStr) -> Result<Self> {
        Ok(Self {
            dockerd: search("dockerd", search_path),
            apparmor: may_load_profiles()?,
        })
    }
}

/// Whether `bash` is in `search_path`, a list of directories in the form of `PATH`.
pub fn has_bash(search_path: &OsStr) -> bool {
    search("bash", search_path).is_some()
}

/// Whether AppArmor is enabled and this process has CAP_MAC_ADMIN, so that it may load profiles:
/// apparmor(7). Fails where `/proc/self/status` cannot be read.
pub fn may_load_profiles() -> Result<bool> {
    Ok(has_apparmor() && Capabilities::read()?.effective.has(Capability::MAC_ADMIN))
}

/// Whether AppArmor is enabled.
pub fn has_apparmor() -> bool {
    read::kernel("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|enabled| enabled.starts_with('Y'))
}

/// Whether the kernel has registered the device mapper's control device.
fn device_mapper() -> bool {
    read::kernel("/proc/misc").is_ok_and(|devices| {
        devices
            .split_whitespace()
            .any(|name| name == "device-mapper")
    })
}
