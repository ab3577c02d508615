//! Asks the kernel for nf_tables, loads modules, and makes the rules of a veth pair. The request
//! can itself load nf_tables.

use std::fs;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use nix::sys::socket::SockProtocol;
use tracing::debug;

use crate::facts::nat::{Rules, switch};
use crate::facts::netfilter::NfTables;
use crate::plan::NF_TABLES;
use crate::sys::nat::{self, Family, TABLE_FORWARDING};
use crate::sys::netlink::{self, Messages};

/// Makes the kernel load the module `name`, where it exists and is not loaded, by looking up a
/// network interface of that name. That needs neither modprobe nor the module's file in the
/// container: netdevice(7), `dev_load` in the kernel's net/core/dev_ioctl.c. A failure is only
/// logged.
pub fn load_module(name: &str) {
    if let Err(errno) = nix::net::if_::if_nametoindex(name) {
        // Expected: an interface of that name does not exist.
        debug!(
            module = name,
            error = errno.desc(),
            "requested module {name}: {}",
            errno.desc()
        );
    }
}

/// Asks the kernel whether it has nf_tables, and has it loaded where it can be. So only a start
/// asks.
pub fn ask() -> NfTables {
    // The kernel loads nf_tables to answer a request to it (`nfnetlink_rcv_msg` in
    // net/netfilter/nfnetlink.c), as for every `iptables -L`. Where it is built in, that runs no
    // modprobe, while the look-up of a missing interface runs two.
    if has_nf_tables() {
        return NfTables::Present;
    }
    load_module(NF_TABLES);
    match has_nf_tables() {
        true => NfTables::Present,
        false => NfTables::Missing,
    }
}

/// Makes the rules by which an engine behind the interface `name` reaches what is outside. They end
/// with the socket that is returned. The error is why there are none.
pub fn translate(name: &str) -> Result<OwnedFd, Rules> {
    let socket = nat::open().map_err(Rules::without_socket)?;
    nat::translate(&socket, name).map_err(Rules::without_table)?;
    Ok(socket)
}

/// Forwards packets of this family, and first sees to it that none go from one network of this container
/// to another: with forwarding on, whoever is in one of them reaches the others through this container.
/// dockerd has a policy for that (`setupIPForwarding` in moby's libnetwork/drivers/bridge).
pub fn forward(family: Family) -> Result<()> {
    nat::close(family)
        .with_context(|| format!("cannot make the table {TABLE_FORWARDING} of nf_tables"))?;
    let path = switch(family);
    fs::write(path, "1").with_context(|| format!("cannot write {path}"))
}

/// Whether nf_tables answers `NFT_MSG_GETGEN`, the first request of the nft backend of iptables:
/// linux/netfilter/nf_tables.h.
fn has_nf_tables() -> bool {
    ask_generation().is_ok_and(|kind| kind == NEW_GENERATION)
}

const SUBSYSTEM: u16 = 10 << 8;
const NEW_GENERATION: u16 = SUBSYSTEM | 15;
const GET_GENERATION: u16 = SUBSYSTEM | 16;

/// Sends `NFT_MSG_GETGEN` and gives the type of the answer.
fn ask_generation() -> nix::Result<u16> {
    let socket = netlink::open(SockProtocol::NetlinkNetFilter)?;
    let mut question = Messages::default();
    // struct nfgenmsg, all zero.
    question.mark(GET_GENERATION, |message| message.put(&[0; 4]));
    netlink::ask_kind(&socket, &question)
}
