//! Facts that only `dind doctor` uses: limits, free space, confinement, kernel modules,
//! the clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::cgroup::{Mounted, mounted};
use super::container::ContainerFacts;
use super::memory::{self, Memory};
use super::paths::resolve;
use super::proc;
use super::space::Space;
use crate::facts::mountinfo::MountTable;
use crate::input::config::Config;
use crate::input::dockerd_arguments::DockerdOptions;
use crate::sys::search::search;
use crate::sys::{denied, read};

/// The inode of the first pid namespace: `PROC_PID_INIT_INO` in linux/proc_ns.h.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Marker files that container engines create in their containers: Docker, podman.
const CONTAINER_MARKS: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];

/// Facts of the host and the container that `dind doctor` checks and no plan depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Whether this process is in a container.
    pub in_container: bool,
    /// The kernel's release, such as `6.12.43-amd64`: uname(2).
    pub kernel: String,
    /// The fields of `/proc/self/status` that a finding depends on.
    pub status: Status,
    /// The security module that denies mounts to this process.
    pub confinement: Confinement,
    /// Whether this process is in a user namespace that maps a part of the user ids:
    /// user_namespaces(7).
    pub user_namespace: bool,
    /// The free space of the file system that the data root is or will be on. `None` where it
    /// cannot be read.
    pub space: Option<Space>,
    /// The same of the file systems that the state of running containers and dockerd's pid file
    /// are on, usually `/run`, each with a directory on it.
    pub runtime: Vec<(PathBuf, Space)>,
    /// The kernel's quotas of inotify and keys.
    pub quotas: Quotas,
    /// The lowest limit on processes that applies to this process. `None` where there is none.
    pub processes: Option<Processes>,
    /// The numbers that the kernel has for processes and threads. `None` where they cannot be read.
    pub numbers: Option<Numbers>,
    /// The lowest limit on memory that applies to this process. `None` where there is none.
    pub memory: Option<memory::Limit>,
    /// Which parts of the kernel are present.
    pub modules: Modules,
    /// The time now, and the time of the build.
    pub clock: Clock,
    /// Whether `iptables` is in `PATH`.
    pub iptables: bool,
    /// Whether `nft` is in `PATH`.
    pub nft: bool,
    /// Whether `apparmor_parser` is at the path that dockerd runs it from.
    pub apparmor_parser: bool,
    /// The engine's programs and the versions that they print. [`Host::read`] leaves it empty.
    pub versions: Vec<(String, String)>,
}

/// Fields of `/proc/PID/status`: proc_pid_status(5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether execve(2) cannot grant privileges: `NoNewPrivs: 1`.
    pub no_new_privileges: bool,
    /// Whether a seccomp filter applies: `Seccomp: 2`.
    pub seccomp_filter: bool,
    /// Whether CAP_NET_ADMIN is effective, which nf_tables requires of every request.
    pub network_admin: bool,
}

/// The security module that confines a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confinement {
    /// No security module confines it.
    None,
    /// AppArmor enforces the profile of this name.
    AppArmor(String),
    /// SELinux confines it with this context.
    Selinux(String),
}

/// The kernel's quotas, `None` where they cannot be read: inotify(7), keyrings(7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quotas {
    /// `fs.inotify.max_user_instances`: inotify instances of one user.
    pub inotify_instances: Option<u64>,
    /// `fs.inotify.max_user_watches`: inotify watches of one user.
    pub inotify_watches: Option<u64>,
    /// `kernel.keys.maxkeys`: keys of one user who is not root.
    pub keys: Option<u64>,
}

/// A limit on processes and threads, set by the pids controller: cgroup-v2.rst, PID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processes {
    /// `pids.max`: the number of processes and threads.
    pub limit: u64,
    /// The directory of the cgroup that has this limit.
    pub cgroup: PathBuf,
    /// `pids.current`: how many there are now. 0 where it cannot be read.
    pub used: u64,
    /// `pids.events`: how many the limit has refused, here or below. 0 where the kernel does not
    /// count them.
    pub refused: u64,
}

/// The numbers of processes and threads: proc_sys_kernel(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// The name of the lower limit: `kernel.pid_max` or `kernel.threads-max`.
    pub name: &'static str,
    /// Its value.
    pub limit: u64,
    /// How many are taken on the whole host: proc_loadavg(5).
    pub used: u64,
}

/// Parts of the kernel that may be modules, and whether they are present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Modules {
    /// overlayfs: `overlay` in `/proc/filesystems`.
    pub overlay: bool,
    /// br_netfilter, with which bridged packets are filtered: `/proc/sys/net/bridge`.
    pub bridge_filter: bool,
    /// ip_tables, the legacy packet filter: `/proc/net/ip_tables_names`.
    pub ip_tables: bool,
}

/// Times in seconds since the Epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// The time of the system's clock.
    pub now: u64,
    /// When this program's file was last modified, which a correct clock is later than.
    /// `None` where it cannot be read.
    pub written: Option<u64>,
}

impl Host {
    /// Reads the facts of this host and process, the free space for the directories of `options`,
    /// of which `data_root` is resolved, and the programs in the `PATH` of `config`. What cannot be
    /// read is assumed to be in order.
    pub fn read(
        container: &ContainerFacts,
        data_root: &Path,
        options: &DockerdOptions,
        config: &Config,
    ) -> Self {
        let text = |path: &str| read::kernel(path).unwrap_or_default();
        let number = |path: &str| text(path).trim().parse().ok();
        let exists = |path: &str| Path::new(path).exists();
        let filesystems = text("/proc/filesystems");
        Self {
            in_container: is_container(
                fs::read_link("/proc/self/ns/pid").ok().as_deref(),
                CONTAINER_MARKS.into_iter().any(exists),
                &container.mounts,
            ),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            status: Status::parse(&text("/proc/self/status")),
            confinement: Confinement::of_mounts(),
            user_namespace: proc::user_namespace(),
            space: Space::read(data_root),
            runtime: runtime(options, &container.mounts),
            quotas: Quotas {
                inotify_instances: number("/proc/sys/fs/inotify/max_user_instances"),
                inotify_watches: number("/proc/sys/fs/inotify/max_user_watches"),
                keys: number("/proc/sys/kernel/keys/maxkeys"),
            },
            processes: processes(container),
            numbers: numbers(&text),
            memory: Memory::of(container).limit,
            modules: Modules {
                overlay: filesystems.split_whitespace().any(|name| name == "overlay"),
                bridge_filter: exists("/proc/sys/net/bridge"),
                ip_tables: exists("/proc/net/ip_tables_names"),
            },
            clock: Clock {
                now: seconds(SystemTime::now()),
                written: fs::metadata("/proc/self/exe")
                    .and_then(|file| file.modified())
                    .ok()
                    .map(seconds),
            },
            iptables: search("iptables", &config.search_path).is_some(),
            nft: search("nft", &config.search_path).is_some(),
            // The path that containerd and dockerd check (containerd's pkg/apparmor).
            apparmor_parser: exists("/sbin/apparmor_parser"),
            versions: Vec::new(),
        }
    }
}

/// Whether this process is in a container: in a pid namespace that is not the first; or, with
/// `--pid=host`, beside an engine's marker file on a root file system that is an image layer. A
/// virtual machine whose disk was made from an image has the marker file only.
fn is_container(pid_namespace: Option<&Path>, marked: bool, mounts: &MountTable) -> bool {
    let layer = mounts.at(Path::new("/")).is_some_and(|root| {
        root.root != Path::new("/")
            || matches!(
                root.fstype.as_str(),
                "overlay" | "fuse.fuse-overlayfs" | "zfs" | "aufs"
            )
    });
    pid_namespace.is_some_and(|namespace| namespace != Path::new(FIRST_PID_NAMESPACE))
        || (marked && layer)
}

impl Status {
    /// Parses the text of `/proc/PID/status`. A missing field counts as 0.
    pub fn parse(text: &str) -> Self {
        const CAP_NET_ADMIN: u32 = 12;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        let capabilities = u64::from_str_radix(&field("CapEff:"), 16).unwrap_or(0);
        Self {
            no_new_privileges: field("NoNewPrivs:") == "1",
            seccomp_filter: field("Seccomp:") == "2",
            network_admin: capabilities & (1 << CAP_NET_ADMIN) != 0,
        }
    }
}

impl Confinement {
    /// The confinement of this process, from `/proc/self/attr/current`. [`Confinement::None`] where
    /// that cannot be read.
    pub fn read() -> Self {
        Self::parse(&read::kernel("/proc/self/attr/current").unwrap_or_default())
    }

    /// The same, but [`Confinement::None`] under a profile of AppArmor that allows mounts.
    pub fn of_mounts() -> Self {
        match Self::read() {
            Self::AppArmor(_) if denied::apparmor_allows_mounts() => Self::None,
            confinement => confinement,
        }
    }

    /// Parses the text of `/proc/PID/attr/current`. AppArmor writes `PROFILE (MODE)`, apparmor(7).
    /// SELinux writes `USER:ROLE:TYPE:LEVEL`; processes of the types `spc_t` and `unconfined_t`
    /// are not confined.
    pub fn parse(text: &str) -> Self {
        const FREE: [&str; 2] = ["spc_t", "unconfined_t"];
        let label = text.trim_end_matches(['\0', '\n']);
        if let Some(profile) = label.strip_suffix(" (enforce)") {
            return Self::AppArmor(profile.to_owned());
        }
        match label.split(':').collect::<Vec<_>>().as_slice() {
            [_, _, kind, ..] if !FREE.contains(kind) => Self::Selinux(label.to_owned()),
            _ => Self::None,
        }
    }
}

/// The lowest `pids.max` between this process's cgroup and the root of the mounted hierarchy.
fn processes(container: &ContainerFacts) -> Option<Processes> {
    let cgroups = mounted(&container.cgroup.memberships, &container.mounts, "pids");
    let directories = cgroups.iter().flat_map(Mounted::upwards);
    let text = |directory: &Path, file: &str| read::kernel(directory.join(file)).ok();
    let number = |directory: &Path, file: &str| text(directory, file)?.trim().parse().ok();
    let mut refused = 0;
    directories
        .filter_map(|directory| {
            // Before Linux 6.11 they are counted where the process was that could not fork, and not
            // where the limit is (`pids_can_fork` in kernel/cgroup/pids.c).
            let events = text(directory, "pids.events");
            let max = events.and_then(|events| events.trim().strip_prefix("max ")?.parse().ok());
            refused = max.unwrap_or(0).max(refused);
            Some(Processes {
                limit: number(directory, "pids.max")?,
                cgroup: directory.to_owned(),
                used: number(directory, "pids.current").unwrap_or(0),
                refused,
            })
        })
        .min_by_key(|found| found.limit)
}

/// The lower of the two limits on processes and threads of the whole host.
fn numbers(text: &impl Fn(&str) -> String) -> Option<Numbers> {
    // The fourth word is `RUNNING/ALL`.
    let loads = text("/proc/loadavg");
    let used = loads.split_whitespace().nth(3)?.split_once('/')?.1;
    let used = used.parse().ok()?;
    let limits = [
        ("kernel.pid_max", "/proc/sys/kernel/pid_max"),
        ("kernel.threads-max", "/proc/sys/kernel/threads-max"),
    ];
    limits
        .into_iter()
        .filter_map(|(name, path)| {
            let limit = text(path).trim().parse().ok()?;
            Some(Numbers { name, limit, used })
        })
        .min_by_key(|numbers| numbers.limit)
}

/// The space for the exec root and for dockerd's pid file, once where that is one file system.
fn runtime(options: &DockerdOptions, mounts: &MountTable) -> Vec<(PathBuf, Space)> {
    let directories = [Some(options.exec_root.as_path()), options.pid_file.parent()];
    let mut seen = Vec::new();
    directories
        .into_iter()
        .flatten()
        .filter_map(|directory| {
            let real = resolve(directory);
            let mount = mounts.mount_point(&real)?.to_owned();
            if seen.contains(&mount) {
                return None;
            }
            seen.push(mount);
            let space = Space::read(&real)?;
            Some((real, space))
        })
        .collect()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_confinement_of_a_process() {
        for (text, expected) in [
            ("unconfined\n", Confinement::None),
            ("", Confinement::None),
            (
                "docker-default (enforce)\n",
                Confinement::AppArmor("docker-default".into()),
            ),
            ("docker-default (complain)\n", Confinement::None),
            ("system_u:system_r:spc_t:s0\0", Confinement::None),
            (
                "system_u:system_r:container_t:s0:c1,c2\0",
                Confinement::Selinux("system_u:system_r:container_t:s0:c1,c2".into()),
            ),
        ] {
            assert_eq!(Confinement::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn reads_the_status_of_a_process() {
        let status = Status::parse(
            "Name:\tx\nCapEff:\t00000000a80435fb\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n",
        );
        let all = Status {
            no_new_privileges: true,
            seccomp_filter: true,
            network_admin: true,
        };
        assert_eq!(status, all);
        let none = Status::parse("CapEff:\t00000000a80425fb\nNoNewPrivs:\t0\nSeccomp:\t0\n");
        assert_eq!(none, Status::default());
        assert_eq!(Status::parse("odd"), Status::default());
    }

    #[test]
    fn a_container_has_a_pid_namespace_or_a_marker_file_on_a_layer() {
        let own = Path::new("pid:[4026532179]");
        let first = Path::new(FIRST_PID_NAMESPACE);
        let disk = MountTable::parse("1 0 8:1 / / rw - ext4 /dev/sda rw\n");
        let overlay = MountTable::parse("1 0 0:9 / / rw - overlay overlay rw\n");
        let vfs = MountTable::parse("1 0 8:1 /docker/vfs/dir/1 / rw - ext4 /dev/sda rw\n");
        for (namespace, marked, mounts, expected) in [
            (Some(own), false, &disk, true),
            (Some(first), false, &overlay, false),
            (Some(first), true, &overlay, true),
            (Some(first), true, &vfs, true),
            (Some(first), true, &disk, false),
            (None, true, &overlay, true),
            (None, false, &disk, false),
        ] {
            let found = is_container(namespace, marked, mounts);
            assert_eq!(found, expected, "{namespace:?} {marked} {mounts:?}");
        }
    }
}
