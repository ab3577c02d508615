//! What the machine is given once.

use std::time::Duration;

use crate::plan::stop_budget::StopBudget;

/// The settings of a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether there is a command; else the container is dockerd's.
    pub command: bool,
    /// Whether the command has a terminal: a stop then sends it SIGHUP too, as an interactive
    /// shell ignores SIGTERM, and it is started even when dockerd is dead, for somebody to
    /// look around.
    pub terminal: bool,
    /// Whether containerd is a child of this process.
    pub containerd: bool,
    /// Whether an ext4 image is to be mounted over the data root.
    pub data_file: Need,
    /// Whether certificates are to be issued or verified.
    pub certificates: bool,
    /// Whether the delegation of cgroup controllers is not complete.
    pub delegation: bool,
    /// Whether images are to be loaded.
    pub loader: Need,
    /// Whether there are pre-start hooks.
    pub pre_start: bool,
    /// Whether there are post-start hooks.
    pub post_start: bool,
    /// Whether there are pre-stop hooks.
    pub pre_stop: bool,
    /// Whether DNS queries are to be forwarded.
    pub forwarder: bool,
    /// Whether the lines of daemons and hooks are to be written as JSON.
    pub relay: bool,
    /// Whether the daemons log to a file.
    pub log_file: bool,
    /// How many times in a row a daemon that has failed is started again.
    pub restarts: u32,
    /// How long the API may take to answer, from the start of the daemons on; and before
    /// that what prepares their start.
    pub ready_timeout: Duration,
    /// The deadlines of a stop.
    pub stop: StopBudget,
    /// Whether the data root is emptied once everything has ended.
    pub ephemeral: bool,
}

/// How much of a start depends on a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// There is nothing to do.
    None,
    /// The start goes on without.
    Wanted,
    /// Without it the start has failed.
    Required,
}

impl Need {
    /// Of a part that may not be there, by whether it is required.
    pub fn of(required: Option<bool>) -> Self {
        match required {
            None => Self::None,
            Some(false) => Self::Wanted,
            Some(true) => Self::Required,
        }
    }
}
