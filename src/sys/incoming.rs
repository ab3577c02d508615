//! The interface over which a datagram or a connection came: ip(7), IP_PKTINFO.

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

use std::io::IoSliceMut;
use std::mem::size_of;
use std::net::{SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg};

/// Receives a datagram. Returns its length, its sender, and the index of the interface over which it
/// came; `None` where the kernel does not tell. The socket needs IP_PKTINFO. The error is that of
/// recvmsg(2).
pub fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
) -> nix::Result<Option<(usize, SocketAddr, u32)>> {
    let mut control = cmsg_space!(libc::in_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = recvmsg::<SockaddrIn>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let interface = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(found) => u32::try_from(found.ipi_ifindex).ok(),
        _ => None,
    });
    let sender = received
        .address
        .map(|address| SocketAddr::V4(SocketAddrV4::from(address)));
    Ok(sender
        .zip(interface)
        .map(|(sender, interface)| (received.bytes, sender, interface)))
}

/// The index of the interface over which the client's part of a connection came; `None` where the
/// kernel does not tell. The socket that accepted it needs IP_PKTINFO. The kernel keeps it for
/// IP_PKTOPTIONS (`do_ip_getsockopt` in net/ipv4/ip_sockglue.c, `mc_index` in
/// `tcp_v4_syn_recv_sock`).
pub fn interface(connection: &TcpStream) -> nix::Result<Option<u32>> {
    /// A control message with its content: cmsg(3). 64-bit, as this program is.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Message {
        header: libc::cmsghdr,
        info: libc::in_pktinfo,
    }
    // SAFETY: all of it is numbers, for which zero is a value.
    let mut message: Message = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of::<Message>()).unwrap_or_default();
    // SAFETY: the kernel writes at most `length` bytes to the message.
    let result = unsafe {
        libc::getsockopt(
            connection.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_PKTOPTIONS,
            (&raw mut message).cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    let is_info = (message.header.cmsg_level, message.header.cmsg_type)
        == (libc::IPPROTO_IP, libc::IP_PKTINFO);
    let index = u32::try_from(message.info.ipi_ifindex).ok();
    Ok(index.filter(|_| {
        is_info && usize::try_from(length).is_ok_and(|length| length >= size_of::<libc::cmsghdr>())
    }))
}
