//! Binds the sockets that dockerd gets by socket activation.
//!
//! They are bound before anything else is done, so a client that comes early is
//! held by the kernel and answered once dockerd is there: sd_listen_fds(3).

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, UnixAddr, setsockopt, sockopt,
};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, fchdir};
use tracing::warn;

use crate::plan::listener::{Listener, Protection};

/// Owner and group, nobody else: whoever can connect is root.
const SOCKET_MODE: u32 = 0o660;

/// A socket that listens.
#[derive(Debug)]
pub struct Bound {
    socket: OwnedFd,
    /// What it listens on, for people.
    pub address: String,
    /// The path of a Unix socket: this process made it, so this process removes it.
    pub path: Option<PathBuf>,
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Binds and listens. One that is not required and cannot be had is said and left out.
pub fn bind_all(listeners: &[Listener]) -> Result<Vec<Bound>> {
    let mut bound = Vec::new();
    for listener in listeners {
        match (bind(listener), listener) {
            (Ok(socket), _) => bound.push(socket),
            (
                Err(error),
                Listener::Tcp {
                    address,
                    required: false,
                    ..
                },
            ) => warn!(address = %address, "{error:#}; going on without"),
            (Err(error), _) => return Err(error),
        }
    }
    Ok(bound)
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
        Listener::Tcp {
            address,
            protection,
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
            let socket = listening().with_context(|| {
                let hint = match protection {
                    Protection::None => "set PORT to one that is free",
                    Protection::Encrypted | Protection::Mutual => {
                        "set DOCKER_TLS_CERTDIR= to go without, or free that port"
                    }
                };
                format!("cannot listen on {listener}; {hint}")
            })?;
            Ok(Bound {
                socket,
                address: listener.to_string(),
                path: None,
            })
        }
    }
}

/// Makes the socket in a directory where nobody sees it, and moves it into place when
/// it listens and has its mode: a client that finds it is never refused, and one that
/// an earlier start left behind is replaced in the same step.
fn unix(path: &Path, group: Option<u32>) -> Result<Bound> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        bail!("a socket needs a directory and a name");
    };
    fs::create_dir_all(directory)?;
    // Anything but a socket is the user's and stays.
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("there is something that is no socket")
        }
        Ok(_) | Err(_) => {}
    }
    let hidden = directory.join(format!(".dind-{}", std::process::id()));
    let made = hidden.join(name);
    // A start that was killed here has left it.
    let _ = fs::remove_file(&made);
    let _ = fs::remove_dir(&hidden);
    fs::DirBuilder::new().mode(0o700).create(&hidden)?;
    let moved = || -> Result<OwnedFd> {
        let socket = stream(AddressFamily::Unix)?;
        bind_in(&hidden, Path::new(name), &socket)?;
        if let Some(group) = group {
            chown(&made, None, Some(group))?;
        }
        fs::set_permissions(&made, fs::Permissions::from_mode(SOCKET_MODE))?;
        listen(&socket)?;
        fs::rename(&made, path)?;
        Ok(socket)
    };
    let moved = moved();
    // It is empty unless something failed, and then that is the error to tell.
    let _ = fs::remove_file(&made);
    let _ = fs::remove_dir(&hidden);
    Ok(Bound {
        socket: moved?,
        address: format!("unix://{}", path.display()),
        path: Some(path.to_owned()),
    })
}

/// Binds to a name in a directory that is entered for it: the address that dockerd
/// logs is the one that was bound, and so has no hidden directory in it. The working
/// directory, which the command will have, is as it was.
fn bind_in(directory: &Path, name: &Path, socket: &OwnedFd) -> Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let back = open(".", flags, Mode::empty())?;
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
