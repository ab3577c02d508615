//! Which packet filter of the kernel's is there to be used: nf_tables or the legacy
//! x_tables.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
};
use tracing::debug;

/// What docker-library's image calls its directory with the legacy programs.
const LEGACY_DIRECTORY: &str = "/usr/local/sbin/.iptables-legacy";

/// Debian's legacy program, beside which the others are.
const LEGACY_PROGRAM: &str = "/usr/sbin/iptables-legacy";

/// The packet filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netfilter {
    /// Whether legacy tables are in use in this network namespace.
    pub legacy_in_use: bool,
    /// Whether the kernel answers questions about nf_tables.
    pub nf_tables: bool,
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
    /// Reads them. The kernel may load nf_tables to answer, as it does for every
    /// `iptables -L`.
    pub fn read() -> Self {
        let tables = ["ip", "ip6", "arp"].map(|family| format!("/proc/net/{family}_tables_names"));
        let in_use = |path| fs::read(path).is_ok_and(|names| !names.is_empty());
        let suffixed = Path::new(LEGACY_PROGRAM);
        Self {
            legacy_in_use: tables.into_iter().any(in_use),
            nf_tables: has_nf_tables() || {
                load_module("nf_tables");
                has_nf_tables()
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

/// Makes the kernel load a module by asking for a network interface of that name, which
/// needs neither modprobe nor the module's file in the container: netdevice(7),
/// `dev_load` in the kernel's net/core/dev_ioctl.c.
pub fn load_module(name: &str) {
    if let Err(errno) = nix::net::if_::if_nametoindex(name) {
        // There is no such interface, and there need not be.
        debug!(
            module = name,
            error = errno.desc(),
            "asked for {name}: {}",
            errno.desc()
        );
    }
}

/// Whether nf_tables answers `NFT_MSG_GETGEN`, the question that the nft backend of
/// iptables begins with: linux/netfilter/nf_tables.h.
fn has_nf_tables() -> bool {
    ask_generation().is_ok_and(|kind| kind == NEW_GENERATION)
}

const NF_TABLES: u16 = 10 << 8;
const NEW_GENERATION: u16 = NF_TABLES | 15;
const GET_GENERATION: u16 = NF_TABLES | 16;

/// The kind of the answer: netlink(7), struct nlmsghdr.
fn ask_generation() -> nix::Result<u16> {
    const REQUEST: u16 = 1;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(
        AddressFamily::Netlink,
        SockType::Raw,
        flags,
        SockProtocol::NetlinkNetFilter,
    )?;
    // Length, kind, flags, sequence number, port; then struct nfgenmsg, all zero.
    let mut question = Vec::with_capacity(20);
    question.extend(20_u32.to_ne_bytes());
    question.extend(GET_GENERATION.to_ne_bytes());
    question.extend(REQUEST.to_ne_bytes());
    question.extend([0; 12]);
    let kernel = NetlinkAddr::new(0, 0);
    socket::sendto(socket.as_raw_fd(), &question, &kernel, MsgFlags::empty())?;
    // The kernel has answered when sendto returns.
    let mut answer = [0_u8; 256];
    socket::recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let [_, _, _, _, low, high, ..] = answer;
    Ok(u16::from_ne_bytes([low, high]))
}
