//! The protocol of sd_notify(3): `READY=1` is received from dockerd and sent to the supervisor of
//! this container.
//!
//! dockerd sends `READY=1` once its API is up (`notifyReady` in moby's
//! cmd/dockerd/daemon_linux.go).

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, getsockname};

use crate::messages::remedy::Remedy;

/// Sends `READY=1` to the socket at `address`, the value of `NOTIFY_SOCKET`: a path, or
/// an abstract name after `@`. Never blocks: a full socket is an error.
pub fn tell_ready(address: &OsStr) -> nix::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    let address = match address.as_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name)?,
        None => UnixAddr::new(address)?,
    };
    socket::sendto(
        socket.as_raw_fd(),
        b"READY=1\n",
        &address,
        MsgFlags::empty(),
    )
    .map(drop)
}

/// A datagram socket with an abstract name that the kernel chooses: it needs no cleaning up, and is
/// unused even where network namespaces are shared (unix(7), Autobind). Such a name is found only
/// from the network namespace that the socket was made in, whoever has it (`unix_find_abstract` in
/// the kernel's net/unix/af_unix.c).
#[derive(Debug)]
pub struct Notify {
    socket: OwnedFd,
    /// The value for `NOTIFY_SOCKET`.
    pub address: OsString,
}

impl Notify {
    /// Makes and binds the socket in the network namespace of this process. Fails where the kernel or
    /// a seccomp profile refuses it.
    pub fn bind() -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let bind = || {
            let socket = socket::socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
            socket::bind(socket.as_raw_fd(), &UnixAddr::new_unnamed())?;
            Self::try_from(socket)
        };
        bind()
            .context("cannot make the socket for READY=1")
            .remedy("allow AF_UNIX in the seccomp profile")
    }

    /// Reads up to 16 messages without blocking, and returns whether `READY=1` was in one of them.
    /// The rest is left for the next call.
    pub fn ready(&self) -> bool {
        const MESSAGES: usize = 16;
        let mut ready = false;
        let mut buffer = [0_u8; 4096];
        for _ in 0..MESSAGES {
            match socket::recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(count) => {
                    let message = buffer.get(..count).unwrap_or_default();
                    ready |= message
                        .split(|byte| *byte == b'\n')
                        .any(|line| line == b"READY=1");
                }
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        ready
    }
}

/// One that another process has bound, in whatever network namespace.
impl TryFrom<OwnedFd> for Notify {
    type Error = Errno;

    fn try_from(socket: OwnedFd) -> nix::Result<Self> {
        let address: UnixAddr = getsockname(socket.as_raw_fd())?;
        let mut written = vec![b'@'];
        written.extend_from_slice(address.as_abstract().unwrap_or_default());
        Ok(Self {
            socket,
            address: OsString::from_vec(written),
        })
    }
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
