//! The socket on which a daemon says that it is ready, and this program too: sd_notify(3).
//!
//! dockerd sends `READY=1` once its API is up (`notifyReady` in moby's
//! cmd/dockerd/daemon_linux.go).

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, getsockname};

/// Says `READY=1` to the socket at `address`, the value of `NOTIFY_SOCKET`: a path, or
/// an abstract name after `@`. Never waits: a full socket is an error.
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

/// A datagram socket with an abstract name that the kernel chose: nothing to clean
/// up, and free even where network namespaces are shared (unix(7), Autobind).
#[derive(Debug)]
pub struct Notify {
    socket: OwnedFd,
    /// The value for `NOTIFY_SOCKET`.
    pub address: OsString,
}

impl Notify {
    /// Binds it.
    pub fn bind() -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let bind = || -> nix::Result<(OwnedFd, UnixAddr)> {
            let socket = socket::socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
            socket::bind(socket.as_raw_fd(), &UnixAddr::new_unnamed())?;
            let address = getsockname(socket.as_raw_fd())?;
            Ok((socket, address))
        };
        let (socket, address) = bind()
            .context("cannot make the socket for READY=1; allow AF_UNIX in the seccomp profile")?;
        let name = address.as_abstract().unwrap_or_default();
        let mut written = vec![b'@'];
        written.extend_from_slice(name);
        Ok(Self {
            socket,
            address: OsString::from_vec(written),
        })
    }

    /// Reads what has come; whether `READY=1` was in it. At most a few messages a
    /// call: the rest is still readable at the next.
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

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
