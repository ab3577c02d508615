//! The sockets that dockerd gets by socket activation.

use std::fmt;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};

/// A socket that is bound before anything else is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listener {
    /// A Unix socket, mode 0660.
    Unix {
        /// Its path.
        path: PathBuf,
        /// Its group; root's where there is none.
        group: Option<u32>,
    },
    /// A TCP socket.
    Tcp {
        /// Its address.
        address: SocketAddrV4,
        /// What dockerd asks of clients.
        protection: Protection,
        /// Whether a start without it is of no use. Beside a command it is a service to
        /// others, and its port may be somebody else's, as with `--network host`.
        required: bool,
    },
}

/// What stands before a TCP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Nothing.
    None,
    /// TLS, in which the client shows no certificate.
    Encrypted,
    /// TLS, in which it must.
    Mutual,
}

impl Listener {
    /// The path of a Unix socket.
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
                    Protection::Encrypted => " (TLS, for everybody)",
                    Protection::Mutual => " (TLS)",
                };
                write!(formatter, "tcp://{address}{suffix}")
            }
        }
    }
}
