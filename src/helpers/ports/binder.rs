//! Binds sockets in the network namespace of this container, for the server inside, which cannot:
//! it has no way back (setns(2) wants CAP_SYS_ADMIN in the user namespace that one comes from).
//!
//! One side asks with a datagram, and the other answers with an errno and, where that is 0, the
//! socket: unix(7), SCM_RIGHTS. Both have the number of the request, since an answer may come when
//! nobody waits for it any more. Nothing here waits but for the next request.

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

/// A request: its number, the protocol, the version of IP, the port, and the address in 16 bytes.
const REQUEST: usize = 24;

/// An answer: the number of its request, and the errno.
const ANSWER: usize = 8;

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
        let (number, wanted) = decode(request);
        let bound = wanted.ok_or(Errno::EINVAL).and_then(bind);
        match send(end, number, bound) {
            Ok(()) => {}
            Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
}

fn send(end: BorrowedFd<'_>, number: u32, bound: nix::Result<OwnedFd>) -> nix::Result<()> {
    let (errno, socket) = match bound {
        Ok(socket) => (0, Some(socket)),
        Err(errno) => (errno as i32, None),
    };
    let numbers: Vec<RawFd> = socket.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() { &[][..] } else { &rights };
    let text = [number.to_ne_bytes(), errno.to_ne_bytes()];
    sendmsg::<()>(
        end.as_raw_fd(),
        &[IoSlice::new(text.as_flattened())],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .map(drop)
}

/// The server's side. It has one request at a time.
#[derive(Debug)]
pub struct Asker<'a> {
    end: BorrowedFd<'a>,
    /// The number of the last request.
    asked: u32,
}

impl<'a> Asker<'a> {
    /// Asks at this end.
    pub fn new(end: BorrowedFd<'a>) -> Self {
        Self { end, asked: 0 }
    }

    /// Asks for a socket that is bound to `address`, and for TCP listens. The error is that of the
    /// call that failed in the binder; ETIMEDOUT and EPIPE are those of a binder that does not
    /// answer.
    pub fn ask(&mut self, protocol: Protocol, address: SocketAddr) -> nix::Result<OwnedFd> {
        loop {
            self.asked = self.asked.wrapping_add(1);
            send_request(self.end, &encode(self.asked, protocol, address)).map_err(timed_out)?;
            let mut late = false;
            let bound = loop {
                let answer = receive(self.end, MsgFlags::empty()).map_err(timed_out)?;
                let answer = answer.ok_or(Errno::EPIPE)?;
                if answer.number == self.asked {
                    break answer.bound;
                }
                late = true;
            };
            // The port may have been that of a late answer, whose socket is closed now. None is
            // behind this one, so this happens once.
            if !(late && matches!(bound, Err(Errno::EADDRINUSE))) {
                return bound;
            }
        }
    }

    /// Whether this network namespace has IPv6: without it the kernel has no such sockets, or no
    /// address for one.
    pub fn has_ipv6(&mut self) -> bool {
        let any = SocketAddr::from(([0; 8], 0));
        self.ask(Protocol::Udp, any).is_ok()
    }

    /// Takes the answers that came late, and closes their sockets, so that the ports are free.
    /// Returns whether the binder is there.
    pub fn discard_late(&self) -> nix::Result<bool> {
        loop {
            match receive(self.end, MsgFlags::MSG_DONTWAIT) {
                Ok(Some(_)) => {}
                Ok(None) | Err(Errno::ECONNRESET) => return Ok(false),
                Err(Errno::EAGAIN) => return Ok(true),
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// Readable when an answer has come, and when the binder has ended.
impl AsFd for Asker<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end
    }
}

/// The error of a call that has waited for as long as SO_RCVTIMEO or SO_SNDTIMEO allows: socket(7).
fn timed_out(errno: Errno) -> Errno {
    match errno {
        Errno::EAGAIN => Errno::ETIMEDOUT,
        errno => errno,
    }
}

// A call with a timeout is not restarted after this process was stopped or frozen, as by
// `docker pause`: signal(7). There are no handlers here, so EINTR means nothing else, and the time
// begins anew: the binder was mostly stopped, too.

fn send_request(end: BorrowedFd<'_>, request: &[u8]) -> nix::Result<()> {
    loop {
        match socket::send(end.as_raw_fd(), request, MsgFlags::MSG_NOSIGNAL) {
            Err(Errno::EINTR) => {}
            sent => return sent.map(drop),
        }
    }
}

/// An answer of the binder.
struct Answer {
    /// The number of the request.
    number: u32,
    bound: nix::Result<OwnedFd>,
}

/// Receives the next answer; `None` where the binder has ended.
fn receive(end: BorrowedFd<'_>, flags: MsgFlags) -> nix::Result<Option<Answer>> {
    let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut text = [0; ANSWER];
    let mut control = cmsg_space!(RawFd);
    let mut parts = [IoSliceMut::new(&mut text)];
    let received = loop {
        match recvmsg::<()>(end.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Err(Errno::EINTR) => {}
            received => break received?,
        }
    };
    let mut socket = None;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            socket = numbers.into_iter().map(descriptors::own).next_back();
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let [a, b, c, d, errno @ ..] = text;
    let bound = match i32::from_ne_bytes(errno) {
        0 => socket.ok_or(Errno::EMFILE),
        errno => Err(Errno::from_raw(errno)),
    };
    let number = u32::from_ne_bytes([a, b, c, d]);
    Ok(Some(Answer { number, bound }))
}

/// Limits how long [`Asker::ask`] waits.
pub fn limit_patience(end: &OwnedFd) -> nix::Result<()> {
    let most = TimeVal::new(PATIENCE, 0);
    setsockopt(end, sockopt::ReceiveTimeout, &most)?;
    setsockopt(end, sockopt::SendTimeout, &most)
}

fn encode(number: u32, protocol: Protocol, address: SocketAddr) -> [u8; REQUEST] {
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
    let number = number.to_ne_bytes().into_iter();
    let bytes = number.chain([protocol, version]).chain(port).chain(octets);
    for (to, from) in request.iter_mut().zip(bytes) {
        *to = from;
    }
    request
}

/// The number of a request, and what it asks for, where that makes sense.
fn decode(request: [u8; REQUEST]) -> (u32, Option<(Protocol, SocketAddr)>) {
    let [a, b, c, d, protocol, version, high, low, octets @ ..] = request;
    let protocol = match protocol {
        0 => Some(Protocol::Tcp),
        1 => Some(Protocol::Udp),
        _ => None,
    };
    let ip = IpAddr::from(octets);
    let ip = match version {
        4 => Some(ip.to_canonical()),
        6 => Some(ip),
        _ => None,
    };
    let port = u16::from_be_bytes([high, low]);
    let wanted = protocol.zip(ip.map(|ip| (ip, port).into()));
    (u32::from_ne_bytes([a, b, c, d]), wanted)
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use anyhow::Result;
    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, Pid};
    use proptest::prelude::*;

    use super::*;
    use crate::sys::process;

    proptest! {
        #[test]
        fn a_request_arrives_as_it_was_sent(number: u32, udp: bool, address: SocketAddr) {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            // A request has neither a scope nor a flow label.
            let address = SocketAddr::new(address.ip(), address.port());
            let wanted = Some((protocol, address));
            prop_assert_eq!(decode(encode(number, protocol, address)), (number, wanted));
        }
    }

    /// Forks a binder. Returns its pid.
    fn forked(binder: OwnedFd, server: &OwnedFd) -> Result<Pid> {
        match process::fork()? {
            ForkResult::Child => {
                // A copy of the other end, which would keep it open.
                let _ = nix::unistd::close(server.as_raw_fd());
                process::exit_child(i32::from(serve(binder.as_fd()).is_err()))
            }
            ForkResult::Parent { child } => Ok(child),
        }
    }

    #[test]
    fn a_socket_arrives_or_the_reason_why_there_is_none() -> Result<()> {
        let (binder, server) = pair()?;
        let child = forked(binder, &server)?;
        limit_patience(&server)?;
        let mut asker = Asker::new(server.as_fd());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = TcpListener::from(asker.ask(Protocol::Tcp, any)?);
        let taken = listener.local_addr()?;
        std::net::TcpStream::connect(taken)?;
        let again = asker.ask(Protocol::Tcp, taken);
        assert_eq!(again.map(drop), Err(Errno::EADDRINUSE));
        // Another protocol, and after that the same again.
        asker.ask(Protocol::Udp, taken)?;
        drop(listener);
        asker.ask(Protocol::Tcp, taken)?;
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 1));
        let elsewhere = asker.ask(Protocol::Udp, elsewhere);
        assert_eq!(elsewhere.map(drop), Err(Errno::EADDRNOTAVAIL));
        drop(server);
        assert_eq!(waitpid(child, None)?, WaitStatus::Exited(child, 0));
        Ok(())
    }

    #[test]
    fn an_answer_that_comes_late_is_nobodys() -> Result<()> {
        let (binder, server) = pair()?;
        let mut asker = Asker::new(server.as_fd());
        let own = |last| SocketAddr::from(([127, 0, 0, last], 0));
        let port = TcpListener::bind(own(2))?.local_addr()?;
        // The binder begins when two requests were given up.
        setsockopt(&server, sockopt::ReceiveTimeout, &TimeVal::new(0, 1))?;
        for address in [own(4), port] {
            let late = asker.ask(Protocol::Tcp, address);
            assert_eq!(late.map(drop), Err(Errno::ETIMEDOUT));
        }
        limit_patience(&server)?;
        let child = forked(binder, &server)?;
        // The port of a late answer is as free as it was.
        let listener = TcpListener::from(asker.ask(Protocol::Tcp, port)?);
        assert_eq!(listener.local_addr()?, port);
        let other = TcpListener::from(asker.ask(Protocol::Tcp, own(3))?);
        assert_eq!(other.local_addr()?.ip(), own(3).ip());
        assert_eq!(asker.discard_late(), Ok(true));
        kill(child, Signal::SIGKILL)?;
        waitpid(child, None)?;
        assert_eq!(asker.discard_late(), Ok(false));
        Ok(())
    }
}
