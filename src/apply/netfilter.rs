//! The kernel's own word on whether it has nf_tables, and the loading of modules, which the
//! question is a way of.

use std::os::fd::AsRawFd;

use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
};
use tracing::debug;

use crate::facts::netfilter::NfTables;
use crate::plan::NF_TABLES;

/// Makes the kernel load a module, where it has one of that name and has not loaded it, by
/// asking for a network interface of that name. That needs neither modprobe nor the module's
/// file in the container: netdevice(7), `dev_load` in the kernel's net/core/dev_ioctl.c.
pub fn load_module(name: &str) {
    // The kernel loads this one to answer a question about it (`nfnetlink_rcv_msg` in
    // net/netfilter/nfnetlink.c). Where it is built in, no modprobe is run for that, and two
    // for an interface that there is not.
    if name == NF_TABLES && has_nf_tables() {
        return;
    }
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

/// Asks the kernel. It may load nf_tables to answer, as it does for every `iptables -L`; so
/// this is for starts.
pub fn ask() -> NfTables {
    if has_nf_tables() {
        NfTables::Present
    } else {
        NfTables::Missing
    }
}

/// Whether nf_tables answers `NFT_MSG_GETGEN`, the question that the nft backend of
/// iptables begins with: linux/netfilter/nf_tables.h.
fn has_nf_tables() -> bool {
    ask_generation().is_ok_and(|kind| kind == NEW_GENERATION)
}

const SUBSYSTEM: u16 = 10 << 8;
const NEW_GENERATION: u16 = SUBSYSTEM | 15;
const GET_GENERATION: u16 = SUBSYSTEM | 16;

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
