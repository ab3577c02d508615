//! Which packet filter the kernel has: nf_tables or the legacy x_tables.
//!
//! Only files are read here. A request to the kernel can make it load modules, so only a start
//! makes one (`apply::netfilter`).

use super::network::is_hosts;
use std::path::{Path, PathBuf};

use crate::sys::read;

/// The directory of the legacy programs in docker-library's image.
const LEGACY_DIRECTORY: &str = "/usr/local/sbin/.iptables-legacy";

/// Debian's legacy iptables. Its other legacy programs are in the same directory.
const LEGACY_PROGRAM: &str = "/usr/sbin/iptables-legacy";

/// The directory of nf_tables when it is loaded as a module: sysfs-module in Documentation/ABI.
/// It does not exist for a built-in nf_tables, which has no parameters and no version.
const MODULE: &str = "/sys/module/nf_tables";

/// Whether the kernel has nf_tables, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NfTables {
    /// The kernel has it.
    Present,
    /// The kernel was asked: it does not have it, or does not let this process use it.
    Missing,
    /// It may be built in, or be a module that the kernel loads on the first request.
    Unknown,
}

/// The kernel's packet filters, and the programs for the legacy one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netfilter {
    /// Whether legacy tables are in use in this network namespace: a
    /// `/proc/net/*_tables_names` is not empty.
    pub legacy_in_use: bool,
    /// Whether the kernel has nf_tables.
    pub nf_tables: NfTables,
    /// The legacy programs of the image.
    pub legacy_programs: LegacyPrograms,
    /// The kernel's forwarding of packets. Read only where dockerd uses nftables.
    pub forwarding: Forwarding,
}

/// Whether the kernel forwards packets, as dockerd's nftables backend requires of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// The files below `/proc/sys` that turn it on, and are off: ip-sysctl.rst.
    pub off: Vec<PathBuf>,
    /// Whether this is the network namespace that the host started with.
    pub host: bool,
}

impl Forwarding {
    /// Those that dockerd reads (`setup_ip_forwarding.go` in its bridge driver). The last one also
    /// sets the one before it.
    const FILES: [&str; 3] = [
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/net/ipv6/conf/default/forwarding",
        "/proc/sys/net/ipv6/conf/all/forwarding",
    ];

    fn read() -> Self {
        let is_off = |path: &&str| read::kernel(path).is_ok_and(|value| value.trim() == "0");
        Self {
            off: Self::FILES
                .iter()
                .filter(|path| is_off(path))
                .map(PathBuf::from)
                .collect(),
            host: is_hosts(),
        }
    }
}

/// The directory of the legacy iptables programs, and how they are named there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LegacyPrograms {
    /// A directory with `iptables`, to be put first in `PATH`.
    Directory(PathBuf),
    /// A directory with `iptables-legacy`, as on Debian.
    Suffixed(PathBuf),
    /// The image has none.
    Missing,
}

impl Netfilter {
    /// Reads `/proc/net` and `/sys/module`, and looks for the legacy programs. Gives
    /// [`NfTables::Present`] or [`NfTables::Unknown`]. Causes no module to be loaded. `nftables`
    /// is whether dockerd uses nftables in the place of iptables.
    pub fn read(nftables: bool) -> Self {
        let tables = ["ip", "ip6", "arp"].map(|family| format!("/proc/net/{family}_tables_names"));
        let in_use = |path| read::kernel(path).is_ok_and(|names| !names.is_empty());
        let suffixed = Path::new(LEGACY_PROGRAM);
        Self {
            legacy_in_use: tables.into_iter().any(in_use),
            nf_tables: if Path::new(MODULE).exists() {
                NfTables::Present
            } else {
                NfTables::Unknown
            },
            legacy_programs: match suffixed.parent() {
                _ if Path::new(LEGACY_DIRECTORY).is_dir() => {
                    LegacyPrograms::Directory(LEGACY_DIRECTORY.into())
                }
                Some(directory) if suffixed.exists() => LegacyPrograms::Suffixed(directory.into()),
                Some(_) | None => LegacyPrograms::Missing,
            },
            forwarding: match nftables {
                true => Forwarding::read(),
                false => Forwarding::default(),
            },
        }
    }
}
