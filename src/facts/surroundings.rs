//! What the choice of a role needs to know of the system.

use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::errno::Errno;
use nix::sys::stat::{major, minor};

use super::paths::resolve;
use super::proc::effective_capabilities;
use crate::facts::mountinfo::MountTable;
use crate::sys::nonblocking::connect;

/// CAP_SYS_ADMIN in linux/capability.h.
const CAP_SYS_ADMIN: u32 = 21;

/// What standard input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    /// A terminal: somebody to talk to.
    Terminal,
    /// `/dev/null`, as in `docker run -d`, a Kubernetes pod or a CI service.
    Null,
    /// A pipe, a file, a socket.
    Other,
}

/// What is found where the daemon's socket belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketState {
    /// Nothing, or what an earlier start left behind.
    Free,
    /// Mounted from outside: it can be neither bound nor removed.
    Mounted {
        /// Whether a daemon answers there.
        live: bool,
    },
    /// A daemon answers there.
    Live,
}

impl SocketState {
    /// Whether a daemon answers there.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Live | Self::Mounted { live: true })
    }
}

/// What the decision needs to know of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// Standard input.
    pub stdin: Stdin,
    /// Whether this process has CAP_SYS_ADMIN, which every mount needs.
    pub cap_sys_admin: bool,
    /// The path where this project's socket would be.
    pub socket: PathBuf,
    /// What is there now.
    pub socket_state: SocketState,
}

/// Reads them. `socket` is where the daemon would listen, `mounts` are those of this process.
/// Fails where `/proc` cannot be read.
pub fn read(socket: PathBuf, mounts: &MountTable) -> Result<Surroundings> {
    Ok(Surroundings {
        stdin: stdin(),
        cap_sys_admin: effective_capabilities()? & (1 << CAP_SYS_ADMIN) != 0,
        socket_state: socket_state(&socket, mounts),
        socket,
    })
}

/// What standard input is.
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
    // A full backlog is a somebody too.
    let live = matches!(connect(path), Ok(_) | Err(Errno::EAGAIN));
    match (mounts.at(&resolve(path)), live) {
        (Some(_), live) => SocketState::Mounted { live },
        (None, true) => SocketState::Live,
        (None, false) => SocketState::Free,
    }
}
