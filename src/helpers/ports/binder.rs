//! Binds sockets in the network namespace of this container, for the server inside, which cannot:
//! it has no way back (setns(2) wants CAP_SYS_ADMIN in the user namespace that one comes from).
//!
//! One side asks with a datagram, and the other answers with an errno and, where that is 0, the
//! socket: unix(7), SCM_RIGHTS. Nothing here waits but for the next request.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag,
    SockType, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeVal;

use crate::api::ports::Protocol;
use crate::sys::descriptors;

/// A request: the protocol, the version of IP, the port, and the address in 16 bytes.
const REQUEST: usize = 20;

/// For how long the server waits for an answer. The binder is a process of its own that does nothing
/// else, so it is silent only while it is stopped.
const PATIENCE: i64 = 10;

/// The two ends: the binder's, and the server's.
pub fn pair() -> nix::Result<(OwnedFd, OwnedFd)> {
    socket::socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
}

/// Answers requests until the server has ended. The error is that of recvmsg(2) or sendmsg(2).
pub fn serve(end: BorrowedFd<'_>) -> nix::Result<()> {
    let mut request = [0; REQUEST];
    loop {
        match socket::recv(end.as_raw_fd(), &mut request, MsgFlags::empty()) {
            Ok(0) | Err(Errno::ECONNRESET) => return Ok(()),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
        }
        let bound = decode(request).ok_or(Errno::EINVAL).and_then(bind);
        match send(end, bound) {
            Ok(()) => {}
            Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
}

fn send(end: BorrowedFd<'_>, bound: nix::Result<OwnedFd>) -> nix::Result<()> {
    let (errno, socket) = match bound {
        Ok(socket) => (0, Some(socket)),
        Err(errno) => (errno as i32, None),
    };
    let numbers: Vec<RawFd> = socket.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() { &[][..] } else { &rights };
    let text = errno.to_ne_bytes();
    sendmsg::<()>(
        end.as_raw_fd(),
        &[IoSlice::new(&text)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .map(drop)
}

/// Asks for a socket that is bound to `address`, and for TCP listens. The error is that of the call
/// that failed in the binder; ETIMEDOUT and EPIPE are those of a binder that does not answer.
pub fn ask(end: BorrowedFd<'_>, protocol: Protocol, address: SocketAddr) -> nix::Result<OwnedFd> {
    socket::send(
        end.as_raw_fd(),
        &encode(protocol, address),
        MsgFlags::MSG_NOSIGNAL,
    )?;
    let mut errno = [0; 4];
    let mut parts = [IoSliceMut::new(&mut errno)];
    let mut control = cmsg_space!(RawFd);
    let received = recvmsg::<()>(
        end.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    );
    let received = received.map_err(|errno| match errno {
        Errno::EAGAIN => Errno::ETIMEDOUT,
        errno => errno,
    })?;
    let mut socket = None;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            socket = numbers.into_iter().map(descriptors::own).next_back();
        }
    }
    match (received.bytes, i32::from_ne_bytes(errno)) {
        (0, _) => Err(Errno::EPIPE),
        (_, 0) => socket.ok_or(Errno::EMFILE),
        (_, number) => Err(Errno::from_raw(number)),
    }
}

/// Limits how long [`ask`] waits.
pub fn limit_patience(end: &OwnedFd) -> nix::Result<()> {
    let most = TimeVal::new(PATIENCE, 0);
    setsockopt(end, sockopt::ReceiveTimeout, &most)?;
    setsockopt(end, sockopt::SendTimeout, &most)
}

fn encode(protocol: Protocol, address: SocketAddr) -> [u8; REQUEST] {
    let mut request = [0; REQUEST];
    let (version, octets) = match address.ip() {
        IpAddr::V4(ip) => (4, ip.to_ipv6_mapped().octets()),
        IpAddr::V6(ip) => (6, ip.octets()),
    };
    let protocol = match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
    };
    let port = address.port().to_be_bytes();
    let bytes = [protocol, version].into_iter().chain(port).chain(octets);
    for (to, from) in request.iter_mut().zip(bytes) {
        *to = from;
    }
    request
}

fn decode(request: [u8; REQUEST]) -> Option<(Protocol, SocketAddr)> {
    let [protocol, version, high, low, octets @ ..] = request;
    let protocol = match protocol {
        0 => Protocol::Tcp,
        1 => Protocol::Udp,
        _ => return None,
    };
    let ip = IpAddr::from(octets);
    let ip = match version {
        4 => ip.to_canonical(),
        6 => ip,
        _ => return None,
    };
    Some((protocol, (ip, u16::from_be_bytes([high, low])).into()))
}

/// Binds as Go does, in which docker-proxy and rootlesskit are written, so that the same is in use
/// and the same is free: SO_REUSEADDR on a listener (`setDefaultListenerSockopts` in its net), and
/// IPv6 alone on an IPv6 address.
fn bind((protocol, address): (Protocol, SocketAddr)) -> nix::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let kind = match protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, kind, flags, None)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    match (protocol, address) {
        (Protocol::Tcp, _) => setsockopt(&socket, sockopt::ReuseAddr, &true)?,
        // The answer has to come from the address that was asked.
        (Protocol::Udp, SocketAddr::V4(_)) => {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        }
        (Protocol::Udp, SocketAddr::V6(_)) => {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
    }
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    if protocol == Protocol::Tcp {
        socket::listen(&socket, Backlog::MAXCONN)?;
    }
    Ok(socket)
}

/// Whether this network namespace has IPv6: without it the kernel has no such sockets, or no address
/// for one.
pub fn has_ipv6(end: BorrowedFd<'_>) -> bool {
    let any = SocketAddr::from(([0; 8], 0));
    ask(end.as_fd(), Protocol::Udp, any).is_ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use anyhow::Result;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::ForkResult;
    use proptest::prelude::*;

    use super::*;
    use crate::sys::process;

    proptest! {
        #[test]
        fn a_request_arrives_as_it_was_sent(udp: bool, address: SocketAddr) {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            // A request has neither a scope nor a flow label.
            let address = SocketAddr::new(address.ip(), address.port());
            prop_assert_eq!(decode(encode(protocol, address)), Some((protocol, address)));
        }
    }

    #[test]
    fn a_socket_arrives_or_the_reason_why_there_is_none() -> Result<()> {
        let (binder, server) = pair()?;
        let child = match process::fork()? {
            ForkResult::Child => {
                drop(server);
                process::exit_child(i32::from(serve(binder.as_fd()).is_err()))
            }
            ForkResult::Parent { child } => child,
        };
        drop(binder);
        limit_patience(&server)?;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = TcpListener::from(ask(server.as_fd(), Protocol::Tcp, any)?);
        let taken = listener.local_addr()?;
        std::net::TcpStream::connect(taken)?;
        let again = ask(server.as_fd(), Protocol::Tcp, taken);
        assert_eq!(again.map(drop), Err(Errno::EADDRINUSE));
        // Another protocol, and after that the same again.
        ask(server.as_fd(), Protocol::Udp, taken)?;
        drop(listener);
        ask(server.as_fd(), Protocol::Tcp, taken)?;
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 1));
        let elsewhere = ask(server.as_fd(), Protocol::Udp, elsewhere);
        assert_eq!(elsewhere.map(drop), Err(Errno::EADDRNOTAVAIL));
        drop(server);
        assert_eq!(waitpid(child, None)?, WaitStatus::Exited(child, 0));
        Ok(())
    }
}
