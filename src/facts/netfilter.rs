//! Which packet filter the kernel has: nf_tables or the legacy x_tables.
//!
//! Only files are read here. A request to the kernel can make it load modules, so only a start
//! makes one (`apply::netfilter`).

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::elf;
use super::network::is_hosts;
use crate::sys::read::{self, Links};
use crate::sys::search::search;

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
    /// The programs of the nft backend. Read only where dockerd may get the shortcut.
    pub nft_programs: Option<NftPrograms>,
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

/// The programs that dockerd finds as `iptables` and `ip6tables`, where both are those of the nft
/// backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftPrograms {
    /// The path of `iptables`.
    pub iptables: PathBuf,
    /// The path of `ip6tables`.
    pub ip6tables: PathBuf,
    /// Their version: `1.8.11`.
    pub version: String,
}

/// The file behind every name of the nft backend: Makefile.am in iptables.
const NFT_PROGRAM: &str = "xtables-nft-multi";

impl NftPrograms {
    /// Looks for the programs in `search_path`, and reads the version in the file that both lead
    /// to. `None` where they lead elsewhere, such as to a user's own script.
    fn read(search_path: &OsStr) -> Option<Self> {
        let iptables = search("iptables", search_path)?;
        let ip6tables = search("ip6tables", search_path)?;
        let program = fs::canonicalize(&iptables).ok()?;
        let is_nft = program.file_name()? == NFT_PROGRAM;
        let version = (is_nft && fs::canonicalize(&ip6tables).ok()? == program)
            .then(|| version(&program))??;
        Some(Self {
            iptables,
            ip6tables,
            version,
        })
    }
}

/// The version of iptables that is in a program: a string of its own among the first constants.
fn version(program: &Path) -> Option<String> {
    const CONSTANTS: usize = 16 << 10;
    let (file, _) = read::open(program, Links::Follow).ok()?;
    // Under an emulator dockerd cannot execute what is written for this program's processor.
    if !elf::is_native(&file) {
        return None;
    }
    let constants = elf::section(&file, b".rodata\0", CONSTANTS)?;
    let mut strings = constants.split(|byte| *byte == 0);
    let version = strings.find(|string| {
        let numbers = string.strip_prefix(b"1.8.");
        numbers.is_some_and(|rest| !rest.is_empty() && rest.iter().all(u8::is_ascii_digit))
    })?;
    String::from_utf8(version.to_vec()).ok()
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
    /// is whether dockerd uses nftables in the place of iptables, and `shortcut` the directories in
    /// which the programs of the nft backend are searched for a shortcut, if there may be one.
    pub fn read(nftables: bool, shortcut: Option<&OsStr>) -> Self {
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
            nft_programs: shortcut.filter(|_| !nftables).and_then(NftPrograms::read),
            forwarding: match nftables {
                true => Forwarding::read(),
                false => Forwarding::default(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::facts::elf::SECTION;

    /// An ELF file of a header, two section headers, their names, and the constants.
    fn program(constants: &[u8]) -> Vec<u8> {
        let names = b"\0.shstrtab\0.rodata\0";
        let mut file = b"\x7fELF\x02\x01".to_vec();
        file.resize(64, 0);
        let machine = if cfg!(target_arch = "x86_64") {
            62
        } else {
            183
        };
        file.splice(18..20, u16::to_le_bytes(machine));
        file.splice(40..48, 64_u64.to_le_bytes());
        file.splice(60..62, 2_u16.to_le_bytes());
        let start = 64 + 2 * SECTION as u64;
        for (name, offset) in [(1_u32, start), (11, start + names.len() as u64)] {
            let mut header = name.to_le_bytes().to_vec();
            header.resize(SECTION, 0);
            header.splice(24..32, offset.to_le_bytes());
            file.extend(header);
        }
        file.extend(names);
        file.extend(constants);
        file
    }

    fn make(path: &Path, content: &[u8]) -> std::io::Result<()> {
        fs::write(path, content)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    }

    #[test]
    fn only_the_nft_programs_and_their_version_are_found() -> std::io::Result<()> {
        let directory = std::env::temp_dir().join(format!("dind-nft-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let place = |name: &str| directory.join(name);
        let [iptables, ip6tables] = ["iptables", "ip6tables"].map(place);
        let multi = place(NFT_PROGRAM);
        for link in [&iptables, &ip6tables] {
            symlink(&multi, link)?;
        }
        let found = |constants: &[u8]| {
            make(&multi, constants)?;
            let found = NftPrograms::read(directory.as_os_str());
            std::io::Result::Ok(found.map(|found| found.version))
        };
        let known = program(b"\x01\0x\0iptables v%s\x001.8.11\0more\0");
        assert_eq!(found(&known)?.as_deref(), Some("1.8.11"));
        for other in [
            &program(b"\x001.8.\0v1.8.11\x001.8.11-rc1\0")[..],
            b"#!/bin/sh\n",
        ] {
            assert_eq!(found(other)?, None);
        }
        // One of the two leads elsewhere.
        make(&multi, &known)?;
        fs::remove_file(&ip6tables)?;
        make(&ip6tables, &known)?;
        assert_eq!(NftPrograms::read(directory.as_os_str()), None);
        fs::remove_file(&ip6tables)?;
        assert_eq!(NftPrograms::read(directory.as_os_str()), None);
        fs::remove_dir_all(&directory)
    }
}
