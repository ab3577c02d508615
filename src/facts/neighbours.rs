//! Another Docker engine in this network namespace: on a Docker host with `--network=host`, or in
//! another container of the same pod.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::paths::existing;
use crate::sys::read;

/// What `/proc/net/unix` has among the flags of a socket that listens: `__SO_ACCEPTCON` of the
/// kernel (`unix_seq_show` in net/unix/af_unix.c).
const LISTENS: u32 = 1 << 16;

/// Whether an engine of another container listens in this network namespace. A Unix socket belongs
/// to the network namespace that it was made in, whoever can reach its path. `bound` are the inodes
/// of sockets that are this process's own.
pub fn listens(bound: &BTreeSet<u64>) -> bool {
    let table = read::kernel("/proc/net/unix").unwrap_or_default();
    let mut inodes = engines(&table);
    inodes.retain(|inode| !bound.contains(inode));
    if !inodes.is_empty() {
        for inode in own_sockets() {
            inodes.remove(&inode);
        }
    }
    !inodes.is_empty()
}

/// Whether a dockerd is in this network namespace, and not only the socket of one.
pub fn has_dockerd() -> bool {
    let table = read::kernel("/proc/net/unix").unwrap_or_default();
    !listening(&table, is_libnetworks).is_empty()
}

/// Whether a bridge of Docker's in this network namespace connects anything: then containers run,
/// also where their dockerd does not.
pub fn has_bridge_in_use() -> bool {
    let interfaces = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten();
    interfaces
        .filter(|interface| is_dockers(&interface.file_name().to_string_lossy()))
        .filter_map(|interface| fs::read_dir(interface.path().join("brif")).ok())
        .any(|mut ports| ports.next().is_some())
}

/// Whether a network interface has the name of a bridge of Docker's: the default one, or one with
/// the beginning of the id of a network.
fn is_dockers(interface: &str) -> bool {
    let id = interface.strip_prefix("br-").unwrap_or_default();
    interface == "docker0" || (id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The name of the default bridge of an engine beside another: the same at each of its starts, and
/// unlike those of others, as each data root is one engine's.
pub fn own_bridge(data_root: &Path) -> String {
    let found = existing(data_root).and_then(|path| fs::metadata(path).ok());
    let (device, inode) = found.map_or((0, 0), |found| (found.dev(), found.ino()));
    let bytes = [device.to_le_bytes(), inode.to_le_bytes()].concat();
    // FNV-1a: draft-eastlake-fnv.
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    format!("dind-{hash:08x}")
}

/// The inodes of the listening sockets in the text of `/proc/net/unix` that an engine has: its API,
/// and the socket of its networks.
fn engines(table: &str) -> BTreeSet<u64> {
    let is_api = |path: &Path| path.file_name().is_some_and(|name| name == "docker.sock");
    listening(table, |path| is_api(path) || is_libnetworks(path))
}

/// Whether this is the path of the socket of its networks, which every dockerd has
/// (`startExternalKeyListener` in moby's libnetwork).
fn is_libnetworks(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "sock")
        && path
            .parent()
            .is_some_and(|parent| parent.ends_with("libnetwork"))
}

/// The inodes of the listening sockets in the text of `/proc/net/unix` with such a path.
fn listening(table: &str, is_wanted: impl Fn(&Path) -> bool) -> BTreeSet<u64> {
    let sockets = table.lines().filter_map(|line| {
        // Number, reference count and protocol come first, type and state in between.
        let mut fields = line.split_whitespace().skip(3);
        let flags = u32::from_str_radix(fields.next()?, 16).ok()?;
        let mut fields = fields.skip(2);
        let inode = fields.next()?.parse().ok()?;
        let path = Path::new(fields.next()?);
        (flags & LISTENS != 0 && is_wanted(path)).then_some(inode)
    });
    sockets.collect()
}

/// The inodes of the sockets that processes of this container have: those in its mount namespace.
fn own_sockets() -> BTreeSet<u64> {
    let own = fs::read_link("/proc/self/ns/mnt").ok();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .map(|process| process.path())
        .filter(|process| own.is_some() && fs::read_link(process.join("ns/mnt")).ok() == own)
        .flat_map(|process| {
            fs::read_dir(process.join("fd"))
                .into_iter()
                .flatten()
                .flatten()
        })
        .filter_map(|descriptor| {
            let target = fs::read_link(descriptor.path()).ok()?;
            let inode = target.to_str()?.strip_prefix("socket:[")?;
            inode.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;

    #[test]
    fn an_engine_is_known_by_its_listening_sockets() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 11 /run/docker.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 12 docker.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 13 /run/docker.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 14 /var/run/docker/libnetwork/0a1b.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 15 /run/podman/podman.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 16 @/containerd-shim/x.sock\n\
            0000000000000000: 00000002 00000000 00010000 0005 01 17\n";
        assert_eq!(engines(table), BTreeSet::from([11, 12, 14]));
        assert_eq!(listening(table, is_libnetworks), BTreeSet::from([14]));
    }

    #[test]
    fn a_socket_of_this_container_is_no_neighbours() -> std::io::Result<()> {
        let directory = std::env::temp_dir().join(format!("dind-own-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let listener = UnixListener::bind(directory.join("docker.sock"))?;
        let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd()))?;
        let seen = engines(&fs::read_to_string("/proc/net/unix")?);
        let own = own_sockets();
        fs::remove_dir_all(&directory)?;
        let inode = own
            .iter()
            .find(|inode| link == Path::new(&format!("socket:[{inode}]")));
        assert!(inode.is_some_and(|inode| seen.contains(inode)), "{seen:?}");
        Ok(())
    }

    #[test]
    fn bridges_are_known_by_name() {
        for (name, expected) in [
            ("docker0", true),
            ("br-0123456789ab", true),
            ("br-lan", false),
            ("br-0123456789abc", false),
            ("eth0", false),
        ] {
            assert_eq!(is_dockers(name), expected, "{name}");
        }
        let own = own_bridge(Path::new("/"));
        // IFNAMSIZ is 16.
        assert!(
            own.len() == 13 && own == own_bridge(Path::new("/")),
            "{own}"
        );
        assert_ne!(own, own_bridge(Path::new("/proc")));
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*") {
            let _ = engines(&text);
        }
    }
}
