//! Network interfaces, their addresses and routes: rtnetlink(7).

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::SockProtocol;
use nix::unistd::Pid;

use super::netlink::{self, Messages, NEW};

/// struct ifinfomsg, all zero.
const INTERFACE: [u8; 16] = [0; 16];

/// A socket for the requests of this file. The error is that of socket(2).
pub fn open() -> nix::Result<OwnedFd> {
    netlink::open(SockProtocol::NetlinkRoute)
}

/// Makes two interfaces that are connected: one here, and one with the name `peer` in the network
/// namespace of the process `pid`. The error is the kernel's: EEXIST where there is one of that
/// name.
pub fn add_pair(socket: &OwnedFd, name: &str, peer: &str, pid: Pid, mtu: u32) -> nix::Result<()> {
    // Of linux/veth.h.
    const PEER: u16 = 1;
    let mut messages = Messages::default();
    messages.message(libc::RTM_NEWLINK, NEW, |message| {
        message.put(&INTERFACE);
        message.string(libc::IFLA_IFNAME, name);
        message.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
        message.nested(libc::IFLA_LINKINFO, |information| {
            information.string(libc::IFLA_INFO_KIND, "veth");
            information.nested(libc::IFLA_INFO_DATA, |data| {
                data.enclosed(PEER, |other| {
                    other.put(&INTERFACE);
                    other.string(libc::IFLA_IFNAME, peer);
                    other.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
                    other.attribute(libc::IFLA_NET_NS_PID, &pid.as_raw().to_ne_bytes());
                });
            });
        });
    });
    netlink::ask(socket, &messages)
}

/// Removes an interface, and the one that it is connected with. The error is the kernel's: ENODEV
/// where there is none of that name.
pub fn remove(socket: &OwnedFd, name: &str) -> nix::Result<()> {
    let mut messages = Messages::default();
    messages.message(libc::RTM_DELLINK, 0, |message| {
        message.put(&INTERFACE);
        message.string(libc::IFLA_IFNAME, name);
    });
    netlink::ask(socket, &messages)
}

/// Gives an interface an address with the length of its prefix, which it has at once: no other is
/// asked whether it is free. The error is the kernel's.
pub fn add_address(socket: &OwnedFd, name: &str, address: IpAddr, prefix: u8) -> nix::Result<()> {
    let index = if_nametoindex(name)?;
    let (family, bytes) = parts(address)?;
    let mut messages = Messages::default();
    messages.message(libc::RTM_NEWADDR, NEW, |message| {
        // struct ifaddrmsg: family, prefix, flags, scope.
        message.put(&[family, prefix, 0, 0]);
        message.put(&index.to_ne_bytes());
        message.attribute(libc::IFA_LOCAL, &bytes);
        message.attribute(libc::IFA_ADDRESS, &bytes);
        message.attribute(libc::IFA_FLAGS, &libc::IFA_F_NODAD.to_ne_bytes());
    });
    netlink::ask(socket, &messages)
}

/// Makes the default route of the family of `gateway` by it. The error is the kernel's.
pub fn add_default_route(socket: &OwnedFd, name: &str, gateway: IpAddr) -> nix::Result<()> {
    let index = if_nametoindex(name)?;
    let (family, bytes) = parts(gateway)?;
    let mut messages = Messages::default();
    messages.message(libc::RTM_NEWROUTE, NEW, |message| {
        // struct rtmsg: family, the lengths of the destination and the source, tos; table,
        // protocol, scope, kind; flags.
        message.put(&[family, 0, 0, 0]);
        message.put(&[
            libc::RT_TABLE_MAIN,
            libc::RTPROT_BOOT,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
        ]);
        message.put(&[0; 4]);
        message.attribute(libc::RTA_GATEWAY, &bytes);
        message.attribute(libc::RTA_OIF, &index.to_ne_bytes());
    });
    netlink::ask(socket, &messages)
}

/// The family and the bytes of an address.
fn parts(address: IpAddr) -> nix::Result<(u8, Vec<u8>)> {
    let (family, bytes) = match address {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    };
    Ok((
        u8::try_from(family).map_err(|_| Errno::EAFNOSUPPORT)?,
        bytes,
    ))
}
