//! Binds the sockets that dockerd gets by socket activation: sd_listen_fds(3).
//!
//! They are bound before the facts are read, so an early client waits in the backlog until dockerd
//! answers.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{self, OFlag};
use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, UnixAddr, setsockopt, sockopt,
};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{chdir, fchdir};
use tracing::{debug, warn};

use crate::messages::fault::Fault;
use crate::messages::remedy::Remedy;
use crate::plan::listener::{Listener, Protection};

/// Owner and group only: a user who can connect has the rights of root.
const SOCKET_MODE: u32 = 0o660;

/// A listening socket, which dockerd or the port forwarder inherits.
#[derive(Debug)]
pub struct Bound {
    socket: OwnedFd,
    /// The address for messages: `unix://PATH` or `tcp://ADDRESS`.
    pub address: String,
    /// Whether it is the port forwarder's, and not dockerd's.
    pub forwarded: bool,
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The sockets of a start, and what became of those that could not be bound.
#[derive(Debug, Default)]
pub struct Opened {
    /// The sockets that listen.
    pub bound: Vec<Bound>,
    /// The files of the Unix sockets.
    pub files: Files,
    /// Why a TCP socket that is not required is missing.
    pub missing: Vec<(SocketAddrV4, Fault)>,
}

impl Opened {
    /// The inodes of the sockets, by which `/proc/net/unix` names them.
    pub fn inodes(&self) -> BTreeSet<u64> {
        let inodes = self.bound.iter().filter_map(|bound| fstat(bound).ok());
        inodes.map(|found| found.st_ino).collect()
    }

    /// Warns of the sockets that are missing.
    pub fn warn(&self) {
        for (address, fault) in &self.missing {
            warn!(address = %address, "{fault}");
        }
    }
}

/// The files of the Unix sockets of this start. They are removed when this is dropped: a start that
/// fails leaves none behind, and a client finds none that nobody answers on.
#[derive(Debug, Default)]
pub struct Files(Vec<PathBuf>);

impl Drop for Files {
    fn drop(&mut self) {
        for path in &self.0 {
            if let Err(error) = fs::remove_file(path) {
                debug!("cannot remove {}: {error}, ignoring", path.display());
            }
        }
    }
}

/// Binds and listens on each of `listeners`. A TCP listener that is not required and fails is left
/// out. Fails where any other listener fails, and leaves no socket behind.
pub fn open(listeners: &[Listener]) -> Result<Opened> {
    let mut opened = Opened::default();
    for listener in listeners {
        match (bind(listener), listener) {
            (Ok(bound), _) => {
                opened
                    .files
                    .0
                    .extend(listener.unix_path().map(Path::to_owned));
                opened.bound.push(bound);
            }
            (
                Err(error),
                Listener::Tcp {
                    address,
                    required: false,
                    ..
                },
            ) => {
                let fault = Fault::from(error).consequence("going on without it");
                opened.missing.push((*address, fault));
            }
            (Err(error), _) => return Err(error),
        }
    }
    Ok(opened)
}

fn bind(listener: &Listener) -> Result<Bound> {
    match listener {
        Listener::Unix { path, group } => unix(path, *group)
            .with_context(|| format!("cannot listen on unix://{}", path.display()))
            .remedy("check that path"),
        Listener::Tcp {
            address,
            protection,
            forwarded,
            ..
        } => {
            let address = SockaddrIn::from(*address);
            let listening = || -> nix::Result<OwnedFd> {
                let socket = stream(AddressFamily::Inet)?;
                setsockopt(&socket, sockopt::ReuseAddr, &true)?;
                socket::bind(socket.as_raw_fd(), &address)?;
                listen(&socket)?;
                Ok(socket)
            };
            let remedy = match protection {
                Protection::None => "free the port, or use another",
                Protection::Encrypted | Protection::Mutual => {
                    "set DOCKER_TLS_CERTDIR= to disable TLS, or free the port"
                }
            };
            let socket = listening()
                .with_context(|| format!("cannot listen on {listener}"))
                .remedy(remedy)?;
            Ok(Bound {
                socket,
                address: listener.to_string(),
                forwarded: *forwarded,
            })
        }
    }
}

/// Creates the socket in a private directory, and renames it into place when it listens and has
/// its mode. So a client that finds it is never refused, and the rename replaces a socket that an
/// earlier start left behind.
fn unix(path: &Path, group: Option<u32>) -> Result<Bound> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        bail!("the path of a socket needs a directory and a file name");
    };
    fs::create_dir_all(directory)?;
    // A file that is not a socket belongs to the user and is kept.
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("the file there is not a socket")
        }
        Ok(_) | Err(_) => {}
    }
    let hidden = directory.join(format!(".dind-{}", std::process::id()));
    let made = hidden.join(name);
    // Left behind by a start that was killed at this point.
    let _ = fs::remove_file(&made);
    let _ = fs::remove_dir(&hidden);
    fs::DirBuilder::new().mode(0o700).create(&hidden)?;
    let moved = || -> Result<OwnedFd> {
        let socket = stream(AddressFamily::Unix)?;
        bind_in(&hidden, Path::new(name), &socket)?;
        if let Some(group) = group {
            chown(&made, None, Some(group))
                .with_context(|| format!("cannot give it to the group {group}"))
                .remedy("start the container with --privileged, or with --cap-add CHOWN")?;
        }
        fs::set_permissions(&made, fs::Permissions::from_mode(SOCKET_MODE))?;
        listen(&socket)?;
        fs::rename(&made, path)?;
        Ok(socket)
    };
    let moved = moved();
    // The file is left only where a step failed; that error is the one to report.
    let _ = fs::remove_file(&made);
    let _ = fs::remove_dir(&hidden);
    Ok(Bound {
        socket: moved?,
        address: format!("unix://{}", path.display()),
        forwarded: false,
    })
}

/// Binds to `name` with `directory` as the working directory, so that the bound address, which
/// dockerd logs, does not contain the private directory. Restores the working directory, which the
/// command inherits.
fn bind_in(directory: &Path, name: &Path, socket: &OwnedFd) -> Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let back = fcntl::open(".", flags, Mode::empty())?;
    chdir(directory)?;
    let bound = UnixAddr::new(name).and_then(|address| socket::bind(socket.as_raw_fd(), &address));
    fchdir(back)?;
    Ok(bound?)
}

fn stream(family: AddressFamily) -> nix::Result<OwnedFd> {
    socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
}

fn listen(socket: &OwnedFd) -> nix::Result<()> {
    socket::listen(socket, Backlog::MAXCONN)
}
