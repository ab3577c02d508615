//! Which packet filter of the kernel's is there to be used: nf_tables or the legacy
//! x_tables. As far as that can be read: a question to the kernel would make it load modules,
//! so only a start asks (`apply::netfilter`).

use std::fs;
use std::path::{Path, PathBuf};

/// What docker-library's image calls its directory with the legacy programs.
const LEGACY_DIRECTORY: &str = "/usr/local/sbin/.iptables-legacy";

/// Debian's legacy program, beside which the others are.
const LEGACY_PROGRAM: &str = "/usr/sbin/iptables-legacy";

/// What the kernel shows of nf_tables that is loaded: sysfs-module in Documentation/ABI. Of
/// one that is built in it shows nothing, for it has no parameters and no version.
const MODULE: &str = "/sys/module/nf_tables";

/// What is known of the kernel's nf_tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NfTables {
    /// It is there.
    Present,
    /// The kernel has been asked and does not have it, or does not let this process use it.
    Missing,
    /// It may be built in, or be loaded when it is asked for.
    Unknown,
}

/// The packet filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netfilter {
    /// Whether legacy tables are in use in this network namespace.
    pub legacy_in_use: bool,
    /// Whether there is nf_tables.
    pub nf_tables: NfTables,
    /// The image's legacy programs.
    pub legacy_programs: LegacyPrograms,
}

/// Where the legacy iptables is, under which names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LegacyPrograms {
    /// A directory with an `iptables` in it, to be put first in `PATH`.
    Directory(PathBuf),
    /// A directory with an `iptables-legacy` in it, as Debian has it.
    Suffixed(PathBuf),
    /// None.
    Missing,
}

impl Netfilter {
    /// Reads them.
    pub fn read() -> Self {
        let tables = ["ip", "ip6", "arp"].map(|family| format!("/proc/net/{family}_tables_names"));
        let in_use = |path| fs::read(path).is_ok_and(|names| !names.is_empty());
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
        }
    }
}
