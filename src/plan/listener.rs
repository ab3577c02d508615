//! The sockets that dockerd gets by socket activation.

use std::fmt;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};

/// A socket that a start binds before anything else. Its [`Display`](fmt::Display) is the
/// address as dockerd's `--host` takes it, and for TCP the kind of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listener {
    /// A Unix socket, mode 0660.
    Unix {
        /// The path of the socket.
        path: PathBuf,
        /// The gid of its group; `None` for root's.
        group: Option<u32>,
    },
    /// A TCP socket.
    Tcp {
        /// The address and port.
        address: SocketAddrV4,
        /// The TLS that dockerd requires of clients.
        protection: Protection,
        /// Whether the start fails if the address cannot be bound. It does not beside a command,
        /// which does not need this socket: with `--network host` another program may have the
        /// port.
        required: bool,
        /// Whether the port forwarder serves it, and not dockerd: see [`Forwarded`].
        forwarded: bool,
    },
}

/// A TCP socket without TLS beside one with it. dockerd has TLS on all of its TCP sockets or on
/// none (`TLSListeners` in go-systemd's activation), so a helper passes connections to this one on
/// to the Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// The address that clients connect to.
    pub from: SocketAddrV4,
    /// The path of dockerd's Unix socket.
    pub to: PathBuf,
}

impl Forwarded {
    /// Returns the one among `listeners`, if there is one.
    pub fn among(listeners: &[Listener]) -> Option<Self> {
        let from = listeners.iter().find_map(|listener| match listener {
            Listener::Tcp {
                address,
                forwarded: true,
                ..
            } => Some(*address),
            _ => None,
        });
        let to = listeners.iter().find_map(Listener::unix_path);
        Some(Self {
            from: from?,
            to: to?.to_owned(),
        })
    }
}

impl fmt::Display for Forwarded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to } = self;
        write!(
            formatter,
            "connections to tcp://{from} go to unix://{}",
            to.display()
        )
    }
}

/// The TLS on a TCP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// No TLS.
    None,
    /// TLS without client certificates.
    Encrypted,
    /// Mutual TLS: a client needs a certificate.
    Mutual,
}

impl Listener {
    /// Returns the path of a Unix socket, and `None` for a TCP socket.
    pub fn unix_path(&self) -> Option<&Path> {
        match self {
            Self::Unix { path, .. } => Some(path),
            Self::Tcp { .. } => None,
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path, .. } => write!(formatter, "unix://{}", path.display()),
            Self::Tcp {
                address,
                protection,
                ..
            } => {
                let suffix = match protection {
                    Protection::None => "",
                    Protection::Encrypted => " (TLS, no client certificate)",
                    Protection::Mutual => " (TLS)",
                };
                write!(formatter, "tcp://{address}{suffix}")
            }
        }
    }
}
