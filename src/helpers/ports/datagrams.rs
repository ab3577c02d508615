//! Datagrams with the address that they were sent to: IP_PKTINFO in ip(7), IPV6_PKTINFO in ipv6(7).

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
};

/// Who has sent a datagram, and to which address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parties {
    /// The client.
    pub client: SocketAddr,
    /// The address that the client knows; `None` where the kernel does not tell.
    pub asked: Option<IpAddr>,
}

/// Receives a datagram. Returns its length; `None` where it has no sender that can be answered.
pub fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> nix::Result<Option<(usize, Parties)>> {
    let mut control = cmsg_space!(libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let asked = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            // The address of this host, also where a broadcast address was asked.
            Some(Ipv4Addr::from_bits(u32::from_be(info.ipi_spec_dst.s_addr)).into())
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into())
        }
        _ => None,
    });
    let client = received.address.and_then(|address| {
        let v4 = address
            .as_sockaddr_in()
            .map(|v4| SocketAddr::V4((*v4).into()));
        v4.or_else(|| {
            address
                .as_sockaddr_in6()
                .map(|v6| SocketAddr::V6((*v6).into()))
        })
    });
    Ok(client.map(|client| (received.bytes, Parties { client, asked })))
}

/// Sends an answer from the address that the client knows.
pub fn answer(socket: &UdpSocket, datagram: &[u8], parties: Parties) -> nix::Result<()> {
    let parts = [IoSlice::new(datagram)];
    let (v4, v6);
    let control = match parties.asked {
        Some(IpAddr::V4(address)) => {
            v4 = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: address.to_bits().to_be(),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            Some(ControlMessage::Ipv4PacketInfo(&v4))
        }
        // Nothing can come from a multicast address.
        Some(IpAddr::V6(address)) if !address.is_multicast() => {
            v6 = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: address.octets(),
                },
                ipi6_ifindex: 0,
            };
            Some(ControlMessage::Ipv6PacketInfo(&v6))
        }
        _ => None,
    };
    let client = SockaddrStorage::from(parties.client);
    sendmsg(
        socket.as_raw_fd(),
        &parts,
        control.as_slice(),
        MsgFlags::MSG_DONTWAIT,
        Some(&client),
    )
    .map(drop)
}
