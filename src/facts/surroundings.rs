//! The facts that the choice of a role depends on.

use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::errno::Errno;
use nix::sys::stat::{major, minor};
use nix::unistd::geteuid;

use super::capabilities::{Capabilities, Capability};
use super::paths::resolve;
use super::rootless::Rootless;
use crate::facts::mountinfo::MountTable;
use crate::input::config::Config;
use crate::sys::nonblocking::connect;

/// The kind of standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    /// A terminal: the session is interactive.
    Terminal,
    /// `/dev/null`, as in `docker run -d`, a Kubernetes pod or a CI service.
    Null,
    /// Anything else: a pipe, a file, a socket, or closed.
    Other,
}

/// What is at the path of the daemon's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketState {
    /// Nothing, or a socket of an earlier start that no daemon listens on.
    Free,
    /// A mount from outside, which can be neither bound nor removed.
    Mounted {
        /// Whether a daemon listens on it.
        live: bool,
    },
    /// A socket that a daemon listens on.
    Live,
}

impl SocketState {
    /// Whether a daemon listens on the socket, mounted or not.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Live | Self::Mounted { live: true })
    }
}

/// The facts that the choice of a role depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// The kind of standard input.
    pub stdin: Stdin,
    /// The capabilities of this process, and those that one of root would have here.
    pub capabilities: Capabilities,
    /// The effective user id.
    pub user: u32,
    /// The path of the socket that dockerd would listen on.
    pub socket: PathBuf,
    /// What is at that path now.
    pub socket_state: SocketState,
    /// What an engine in a user namespace needs. Read only where this process may not mount, or
    /// `DIND_ROOTLESS=1` asks for one.
    pub rootless: Option<Rootless>,
}

/// Reads the facts. `socket` is the path that dockerd would listen on; `mounts` are the mounts of
/// this process. Fails where `/proc/self/status` cannot be read.
pub fn read(socket: PathBuf, mounts: &MountTable, config: &Config) -> Result<Surroundings> {
    let capabilities = Capabilities::read()?;
    let may_be_rootless = config.rootless == Some(true)
        || (config.rootless.is_none() && !capabilities.effective.has(Capability::SYS_ADMIN));
    Ok(Surroundings {
        stdin: stdin(),
        capabilities,
        rootless: may_be_rootless.then(|| Rootless::read(mounts, &config.search_path)),
        user: geteuid().as_raw(),
        socket_state: socket_state(&socket, mounts),
        socket,
    })
}

impl Surroundings {
    /// The same for a daemon that would listen on another path.
    #[must_use]
    pub fn listening_on(self, socket: PathBuf, mounts: &MountTable) -> Self {
        Self {
            socket_state: socket_state(&socket, mounts),
            socket,
            ..self
        }
    }
}

/// The kind of this process's standard input: isatty(3), fstat(2).
pub fn stdin() -> Stdin {
    let stdin = std::io::stdin();
    if nix::unistd::isatty(&stdin).unwrap_or(false) {
        return Stdin::Terminal;
    }
    // Memory devices are major 1, null is minor 3: null(4).
    match nix::sys::stat::fstat(&stdin) {
        Ok(stat) if (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3) => Stdin::Null,
        _ => Stdin::Other,
    }
}

fn socket_state(path: &Path, mounts: &MountTable) -> SocketState {
    // EAGAIN: the backlog is full, so a daemon listens: unix(7).
    let live = matches!(connect(path), Ok(_) | Err(Errno::EAGAIN));
    match (mounts.at(&resolve(path)), live) {
        (Some(_), live) => SocketState::Mounted { live },
        (None, true) => SocketState::Live,
        (None, false) => SocketState::Free,
    }
}
