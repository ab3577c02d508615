//! Everything that planning needs to know of the system. Reads, changes nothing.

pub mod cgroup;
pub mod client;
pub mod hooks;
pub mod host;
pub mod mountinfo;
pub mod netfilter;
pub mod network;
pub mod storage;
pub mod surroundings;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::libc;
use nix::sys::statfs;

use crate::facts::mountinfo::MountTable;
use crate::input::config::{self, Config};
use crate::input::dockerd_options::DockerdOptions;
use crate::sys::search::search;
use cgroup::{CGROUP_ROOT, CgroupFacts, Membership, RootMount, UnifiedRoot};
use client::ClientFacts;
use hooks::Hooks;
use netfilter::Netfilter;
use network::Networks;
use storage::{DataRoot, Means};

/// CAP_MAC_ADMIN in linux/capability.h.
const CAP_MAC_ADMIN: u32 = 33;

/// How deep and how far the search for stale files goes: containerd's pid file is
/// two directories below `/run`, and a `/run` full of other things must not hold
/// up a start.
const STALE_DEPTH: usize = 4;
const STALE_ENTRIES: usize = 20_000;

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
        let mounts = mounts()?;
        let (stale, running) = leftovers(options);
        Ok(Self {
            pid1: std::process::id() == 1,
            cgroup: cgroup_facts(&mounts)?,
            data_root: data_root(&options.data_root, &mounts, config),
            images: Path::new(config::IMAGES).is_dir(),
            mounts,
            apparmor: fs::read("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|enabled| enabled.starts_with(b"Y"))
                && effective_capabilities()? & (1 << CAP_MAC_ADMIN) != 0,
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
            socket_group: options.socket_group().and_then(group_id),
            addresses: addresses(),
            host_names: host_names(),
            networks: Networks::read(search("dockerd", search_path).as_deref(), config.mtu),
            netfilter: Netfilter::read(),
            hooks: Hooks::read(),
            client: ClientFacts::read(config),
        })
    }
}

/// Whether `directory` is on the container's own root file system, and on none that is
/// mounted into it: what is there, nobody outside has put there.
pub fn is_own(directory: &Path) -> bool {
    let directory = resolve(directory);
    mounts().is_ok_and(|mounts| mounts.mount_point(&directory) == Some(Path::new("/")))
}

/// More than any daemon.json has, and little enough to be read.
const DAEMON_JSON_BYTES: u64 = 16 << 20;

/// The text of daemon.json. A missing file is no error unless it was `asked` for. What is no
/// file is not waited for: dockerd reads it later, and would find a pipe empty.
pub fn daemon_json(path: &Path, asked: bool) -> Result<Option<String>> {
    let read = || -> io::Result<String> {
        let file = fs::File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        if metadata.len() > DAEMON_JSON_BYTES {
            return Err(io::Error::other("it is larger than 16 MiB"));
        }
        let mut text = String::new();
        file.take(DAEMON_JSON_BYTES).read_to_string(&mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked => Ok(None),
        Err(error) => Err(error).with_context(|| {
            format!(
                "cannot read {}; correct --config-file or the file",
                path.display()
            )
        }),
    }
}

/// The pids in the cgroup of `directory` as its `cgroup.procs` lists them; 0 is a
/// process of a pid namespace that cannot be seen from here.
pub fn processes(directory: &Path) -> std::io::Result<Vec<i32>> {
    let text = fs::read_to_string(directory.join("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// The name of a process, or `?` where it has ended.
pub fn process_name(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_else(|_| "?".into());
    name.trim_end().to_owned()
}

/// The main processes of the containers of this process's own engine: the children of
/// the containerd shims that are its children, or its containerd's. Nobody else's,
/// though with `--pid=host` those of the host's engines are in sight too, and always
/// those of nested ones.
pub fn container_processes() -> Vec<i32> {
    let own = i32::try_from(std::process::id()).ok();
    let parents: BTreeMap<i32, i32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let is_shim = |pid: &i32| {
        let parent = parents.get(pid).copied();
        let grandparent = parent.and_then(|parent| parents.get(&parent).copied());
        (parent == own || grandparent == own) && process_name(*pid).starts_with("containerd-shim")
    };
    let shims: BTreeSet<i32> = parents.keys().copied().filter(is_shim).collect();
    parents
        .into_iter()
        .filter(|(pid, parent)| shims.contains(parent) && !shims.contains(pid))
        .map(|(pid, _)| pid)
        .collect()
}

/// The parent of a process. The name in `/proc/PID/stat` may hold anything, also
/// `)`, so the fields are counted from its end: proc_pid_stat(5).
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(1)?.parse().ok()
}

/// The mounts of this process.
pub fn mounts() -> Result<MountTable> {
    Ok(MountTable::parse(&proc_text("/proc/self/mountinfo")?))
}

fn proc_text(path: &str) -> Result<String> {
    let bytes = fs::read(path)
        .with_context(|| format!("cannot read {path}; the container needs a /proc of its own"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn effective_capabilities() -> Result<u64> {
    let status = proc_text("/proc/self/status")?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .context("no CapEff in /proc/self/status; the container needs a /proc of its own")
}

/// The addresses of this network namespace: getifaddrs(3). None where they cannot be
/// read.
fn addresses() -> BTreeSet<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return BTreeSet::new();
    };
    interfaces
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|found| found.ip().into());
            v4.or_else(|| address.as_sockaddr_in6().map(|found| found.ip().into()))
        })
        .collect()
}

/// The host name, and what `/etc/hostname` says, each also up to its first dot.
fn host_names() -> BTreeSet<String> {
    let kernel = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    let file = fs::read_to_string("/etc/hostname").ok();
    [kernel, file]
        .into_iter()
        .flatten()
        .flat_map(|name| {
            let full = name.trim().to_owned();
            let short = full.split('.').next().unwrap_or_default().to_owned();
            [full, short]
        })
        .filter(|name| !name.is_empty())
        .collect()
}

/// The nearest directory above `path` that is there, or `path` itself.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|ancestor| ancestor.exists())
}

/// `path` with the symbolic links of its longest existing part resolved, so that
/// `/var/run/x` is found as `/run/x` in mountinfo even where `x` is missing.
fn resolve(path: &Path) -> PathBuf {
    path.ancestors()
        .find_map(|ancestor| {
            let real = fs::canonicalize(ancestor).ok()?;
            let rest = path.strip_prefix(ancestor).ok()?;
            Some(if rest.as_os_str().is_empty() {
                real
            } else {
                real.join(rest)
            })
        })
        .unwrap_or_else(|| path.to_owned())
}

fn cgroup_facts(mounts: &MountTable) -> Result<CgroupFacts> {
    let root = Path::new(CGROUP_ROOT);
    let kind = match statfs::statfs(root) {
        Ok(stat) if stat.filesystem_type() == statfs::CGROUP2_SUPER_MAGIC => RootMount::Cgroup2,
        Ok(_) if mounts.at(root).is_some() => RootMount::Directory,
        _ => RootMount::Nothing,
    };
    let words = |name: &str| -> BTreeSet<String> {
        let text = fs::read_to_string(root.join(name)).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    };
    let names = fs::read_dir(root).into_iter().flatten().flatten();
    Ok(CgroupFacts {
        memberships: Membership::parse(&proc_text("/proc/self/cgroup")?),
        root: kind,
        entries: names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect(),
        unified: UnifiedRoot {
            controllers: words("cgroup.controllers"),
            enabled: words("cgroup.subtree_control"),
        },
    })
}

/// Whether the kernel has registered the device mapper's control device.
fn device_mapper() -> bool {
    fs::read_to_string("/proc/misc").is_ok_and(|devices| {
        devices
            .split_whitespace()
            .any(|name| name == "device-mapper")
    })
}

fn data_root(path: &Path, mounts: &MountTable, config: &Config) -> DataRoot {
    let path = resolve(path);
    let filesystem = storage::filesystem(&path);
    let to_choose = filesystem != storage::Filesystem::Other
        || config.storage != config::Storage::Auto
        || storage::has_image(&path, mounts);
    DataRoot {
        mode: fs::metadata(&path).ok().map(|found| found.mode() & 0o7777),
        means: to_choose.then(|| Means::read(&path, mounts, &config.search_path)),
        filesystem,
        path,
    }
}

/// The stale pid files and sockets of dockerd and containerd, and a daemon that is
/// alive after all.
fn leftovers(options: &DockerdOptions) -> (Vec<PathBuf>, Option<(PathBuf, i32)>) {
    let mut found = Vec::new();
    let directories: BTreeSet<PathBuf> = ["/run", "/var/run"]
        .iter()
        .map(|path| resolve(Path::new(path)))
        .collect();
    let mut budget = STALE_ENTRIES;
    for directory in directories {
        walk(&directory, STALE_DEPTH, &mut budget, &mut |path, kind| {
            if kind.is_file() && is_pid_file(path) {
                found.push(path.to_owned());
            }
        });
    }
    let pid_file = resolve_directory(&options.pid_file);
    let is_left =
        fs::symlink_metadata(&pid_file).is_ok_and(|found| found.is_file() || found.is_symlink());
    if is_left && !found.contains(&pid_file) {
        found.push(pid_file);
    }
    let running = found.iter().find_map(|path| {
        let pid: i32 = pid_in(path)?;
        matches!(process_name(pid).as_str(), "dockerd" | "containerd").then(|| (path.clone(), pid))
    });
    // Only below containerd's own directory: `plugins` beside it holds sockets that
    // are the user's.
    walk(
        &resolve(&options.exec_root.join("containerd")),
        1,
        &mut budget,
        &mut |path, kind| {
            if kind.is_socket() {
                found.push(path.to_owned());
            }
        },
    );
    (found, running)
}

/// The pid in a pid file; a file of a few bytes, or it is none. A pipe is not waited for.
fn pid_in(path: &Path) -> Option<i32> {
    let file = fs::File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .ok()?;
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// `path` with the symbolic links before its last part resolved: that one itself is what is
/// meant, be it a link.
fn resolve_directory(path: &Path) -> PathBuf {
    match (path.parent(), path.file_name()) {
        (Some(directory), Some(name)) => resolve(directory).join(name),
        (Some(_) | None, _) => path.to_owned(),
    }
}

/// docker-library's entrypoint deletes `docker*.pid` in any case; containerd's is
/// beside it because it stops dockerd just the same.
fn is_pid_file(path: &Path) -> bool {
    let name = path
        .file_name()
        .map(OsStr::to_ascii_lowercase)
        .unwrap_or_default();
    let name = name.as_bytes();
    name.ends_with(b".pid") && (name.starts_with(b"docker") || name.starts_with(b"containerd"))
}

fn walk(
    directory: &Path,
    depth: usize,
    budget: &mut usize,
    visit: &mut dyn FnMut(&Path, fs::FileType),
) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries {
        let Some(left) = budget.checked_sub(1) else {
            return;
        };
        *budget = left;
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if !kind.is_dir() {
            visit(&entry.path(), kind);
        } else if depth > 1 {
            walk(&entry.path(), depth - 1, budget, visit);
        }
    }
}

/// A group's id from `/etc/group`, or the number that the name is. Read here
/// because getgrnam(3) loads shared libraries, which a static binary cannot count
/// on.
fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    group_id_in(&groups, name).or_else(|| name.parse().ok())
}

fn group_id_in(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let id = fields.nth(1)?.parse().ok()?;
        found.then_some(id)
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn finds_a_groups_id() {
        let groups = "root:x:0:\ndocker:x:998:me\nodd\n";
        assert_eq!(group_id_in(groups, "docker"), Some(998));
        assert_eq!(group_id_in(groups, "wheel"), None);
    }

    #[test]
    fn knows_the_daemons_pid_files_in_any_case() {
        for name in [
            "docker.pid",
            "Docker-x.PID",
            "containerd.pid",
            "dockerd.pid",
        ] {
            assert!(is_pid_file(&Path::new("/run").join(name)), "{name}");
        }
        for name in ["sshd.pid", "docker.sock", "mydocker.pid", "pid"] {
            assert!(!is_pid_file(&Path::new("/run").join(name)), "{name}");
        }
    }

    #[test]
    fn resolves_links_in_front_of_a_missing_file() -> std::io::Result<()> {
        let directory = std::env::temp_dir().join(format!("dind-resolve-{}", std::process::id()));
        fs::create_dir_all(directory.join("run"))?;
        let _ = fs::remove_file(directory.join("var-run"));
        std::os::unix::fs::symlink("run", directory.join("var-run"))?;
        let resolved = resolve(&directory.join("var-run/missing/x.sock"));
        let expected = fs::canonicalize(&directory)?.join("run/missing/x.sock");
        fs::remove_dir_all(&directory)?;
        assert_eq!(resolved, expected);
        Ok(())
    }

    #[test]
    fn reads_this_systems_facts() -> Result<()> {
        let options = DockerdOptions::read(&[], None)?;
        let facts = Facts::read(&options, &Config::read([], [])?)?;
        assert!(facts.addresses.contains(&Ipv4Addr::LOCALHOST.into()));
        assert!(facts.mounts.at(Path::new("/")).is_some());
        assert!(!facts.cgroup.memberships.is_empty());
        assert_eq!(
            parent(std::process::id().try_into()?),
            Some(nix::unistd::getppid().as_raw())
        );
        Ok(())
    }
}
