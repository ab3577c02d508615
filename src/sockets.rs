//! Binds the sockets that dockerd gets by socket activation.
//!
//! They are bound before anything else is done, so a client that comes early is
//! held by the kernel and answered once dockerd is there: sd_listen_fds(3).

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, UnixAddr, setsockopt, sockopt,
};
use nix::sys::stat::{Mode, umask};

use crate::plan::Listener;

/// Owner and group, nobody else: whoever can connect is root.
const SOCKET_MODE: u32 = 0o660;

/// Connects to a Unix socket that somebody listens on, without ever waiting: where
/// the backlog is full, the error is EAGAIN. The stream does not block either.
pub fn connect(path: &Path) -> nix::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// A socket that listens.
#[derive(Debug)]
pub struct Bound {
    socket: OwnedFd,
    /// The path of a Unix socket: this process made it, so this process removes it.
    pub path: Option<PathBuf>,
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Binds and listens.
pub fn bind(listener: &Listener) -> Result<Bound> {
    match listener {
        Listener::Unix { path, group } => unix(path, *group).with_context(|| {
            format!(
                "cannot listen on unix://{}; check that path",
                path.display()
            )
        }),
        Listener::Tcp(address) => {
            let address = SockaddrIn::from(*address);
            let socket = stream(AddressFamily::Inet)?;
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
            socket::bind(socket.as_raw_fd(), &address)
                .and_then(|()| listen(&socket))
                .with_context(|| {
                    format!("cannot listen on {listener}; set PORT to one that is free")
                })?;
            Ok(Bound { socket, path: None })
        }
    }
}

fn unix(path: &Path, group: Option<u32>) -> Result<Bound> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    remove_stale(path)?;
    let socket = stream(AddressFamily::Unix)?;
    let address = UnixAddr::new(path)?;
    // Nobody may connect before the mode is right.
    let old = umask(Mode::from_bits_truncate(0o177));
    let bound = socket::bind(socket.as_raw_fd(), &address);
    umask(old);
    bound?;
    if let Some(group) = group {
        chown(path, None, Some(group))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    listen(&socket)?;
    Ok(Bound {
        socket,
        path: Some(path.to_owned()),
    })
}

/// Removes a socket that nobody listens on any more. Anything but a socket is the
/// user's and stays.
fn remove_stale(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => Ok(fs::remove_file(path)?),
        Ok(_) => bail!("there is something that is no socket"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn stream(family: AddressFamily) -> nix::Result<OwnedFd> {
    socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
}

fn listen(socket: &OwnedFd) -> Result<(), Errno> {
    socket::listen(socket, Backlog::MAXCONN)
}
