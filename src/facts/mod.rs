//! Everything that planning needs to know of the system. Reads, changes nothing.

pub mod cgroup;
pub mod client;
pub mod daemon_json;
mod groups;
pub mod hooks;
pub mod host;
pub mod leftovers;
pub mod mountinfo;
mod names;
pub mod netfilter;
pub mod network;
pub mod paths;
pub mod proc;
pub mod processes;
pub mod space;
pub mod storage;
pub mod surroundings;

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::input::config::{self, Config};
use crate::input::dockerd_arguments::DockerdOptions;
use crate::sys::search::search;
use cgroup::CgroupFacts;
use client::ClientFacts;
use hooks::Hooks;
use mountinfo::MountTable;
use netfilter::Netfilter;
use network::Networks;
use storage::DataRoot;

/// CAP_MAC_ADMIN in linux/capability.h.
const CAP_MAC_ADMIN: u32 = 33;

/// The facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whether this process is PID 1 of its pid namespace.
    pub pid1: bool,
    /// The mounts.
    pub mounts: MountTable,
    /// The cgroup hierarchies.
    pub cgroup: CgroupFacts,
    /// Whether `/sys/kernel/security` exists: the kernel has securityfs.
    pub security_directory: bool,
    /// Whether AppArmor is on and this process may load profiles: apparmor(7).
    pub apparmor: bool,
    /// Whether `/tmp` is an empty directory.
    pub tmp_empty: bool,
    /// dockerd's data root.
    pub data_root: DataRoot,
    /// Whether the usual directory of images to load is there.
    pub images: bool,
    /// Files that an earlier start left behind.
    pub stale: Vec<PathBuf>,
    /// A daemon that runs here already: its pid file and its pid.
    pub running: Option<(PathBuf, i32)>,
    /// Programs that were searched in `PATH`.
    pub programs: Programs,
    /// The id of the Unix socket's group, if there is such a group.
    pub socket_group: Option<u32>,
    /// The addresses of the network interfaces.
    pub addresses: BTreeSet<IpAddr>,
    /// What this host is called.
    pub host_names: BTreeSet<String>,
    /// The networks in sight.
    pub networks: Networks,
    /// The kernel's packet filters, and the programs for them.
    pub netfilter: Netfilter,
    /// The user's hooks.
    pub hooks: Hooks,
    /// What a client finds.
    pub client: ClientFacts,
}

/// Where programs are; `None` where they are not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Programs {
    /// `dockerd`.
    pub dockerd: Option<PathBuf>,
    /// `containerd`.
    pub containerd: Option<PathBuf>,
    /// `dmsetup`, where the kernel has a device mapper.
    pub dmsetup: Option<PathBuf>,
    /// `bash`.
    pub bash: Option<PathBuf>,
}

impl Facts {
    /// Reads the facts. Fails only where `/proc` cannot be read: without it nothing
    /// can be planned.
    pub fn read(options: &DockerdOptions, config: &Config) -> Result<Self> {
        let search_path = config.search_path.as_os_str();
        let mounts = proc::mounts()?;
        let (stale, running) = leftovers::find(options);
        Ok(Self {
            pid1: std::process::id() == 1,
            cgroup: CgroupFacts::read(&mounts)?,
            data_root: DataRoot::read(&options.data_root, &mounts, config),
            images: Path::new(config::IMAGES).is_dir(),
            mounts,
            apparmor: fs::read("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|enabled| enabled.starts_with(b"Y"))
                && proc::effective_capabilities()? & (1 << CAP_MAC_ADMIN) != 0,
            security_directory: Path::new("/sys/kernel/security").is_dir(),
            tmp_empty: fs::read_dir("/tmp").is_ok_and(|mut entries| entries.next().is_none()),
            stale,
            running,
            programs: Programs {
                dockerd: search("dockerd", search_path),
                containerd: search("containerd", search_path),
                dmsetup: device_mapper()
                    .then(|| search("dmsetup", search_path))
                    .flatten(),
                bash: search("bash", search_path),
            },
            socket_group: options.socket_group().and_then(groups::group_id),
            addresses: names::addresses(),
            host_names: names::host_names(),
            networks: Networks::read(search("dockerd", search_path).as_deref(), config.mtu),
            netfilter: Netfilter::read(),
            hooks: Hooks::read(),
            client: ClientFacts::read(config),
        })
    }
}

/// Whether the kernel has registered the device mapper's control device.
fn device_mapper() -> bool {
    fs::read_to_string("/proc/misc").is_ok_and(|devices| {
        devices
            .split_whitespace()
            .any(|name| name == "device-mapper")
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::input::dockerd_arguments::DockerdArguments;

    #[test]
    fn reads_this_systems_facts() -> Result<()> {
        let options = DockerdArguments::default().options(None)?;
        let facts = Facts::read(&options, &Config::read([], [])?)?;
        assert!(facts.addresses.contains(&Ipv4Addr::LOCALHOST.into()));
        assert!(facts.mounts.at(Path::new("/")).is_some());
        assert!(!facts.cgroup.memberships.is_empty());
        Ok(())
    }
}
