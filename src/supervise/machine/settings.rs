//! The settings of the machine, which do not change during a container's life.

use std::time::Duration;

use crate::plan::stop_budget::StopBudget;

/// Which parts a container has, and how long they may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether there is a command; else dockerd is in the foreground.
    pub command: bool,
    /// Whether the command has a terminal. A stop then sends it SIGHUP too, because an interactive
    /// shell ignores SIGTERM. And it is started even after dockerd has failed, so that the user
    /// can look for the cause.
    pub terminal: bool,
    /// Whether containerd is a child of this process.
    pub containerd: bool,
    /// Whether the engine runs in namespaces of its own.
    pub namespaces: bool,
    /// Whether an ext4 image is to be mounted over the data root.
    pub data_file: Need,
    /// Whether a store is to be put into the data root.
    pub filler: bool,
    /// Whether that image grows.
    pub grower: bool,
    /// Whether certificates are to be issued or verified.
    pub certificates: bool,
    /// Whether a default bridge is to be made.
    pub joiner: bool,
    /// Whether the delegation of cgroup controllers is incomplete.
    pub delegation: bool,
    /// Whether images are to be loaded.
    pub loader: Need,
    /// Whether there are pre-start hooks.
    pub pre_start: bool,
    /// Whether there are post-start hooks.
    pub post_start: bool,
    /// Whether there are pre-stop hooks.
    pub pre_stop: bool,
    /// Whether a stop ends containers at once that have no handler for their stop signal.
    pub ends_deaf: bool,
    /// Whether there is a DNS forwarder.
    pub forwarder: bool,
    /// Whether there is a port forwarder.
    pub port_forwarder: bool,
    /// Whether there is a log relay, which converts the lines of daemons and hooks to JSON.
    pub relay: bool,
    /// Whether the daemons log to a file.
    pub log_file: bool,
    /// How many times in a row a failed daemon is restarted.
    pub restarts: u32,
    /// How long the preparation of the daemons' start may take; and again, from their start on,
    /// the API's first answer.
    pub ready_timeout: Duration,
    /// The deadlines of a stop.
    pub stop: StopBudget,
    /// Whether what the command leaves is published in a store.
    pub saves: bool,
    /// Whether something is taken away once everything has ended: the content of the data root, or
    /// a bridge beside another engine.
    pub sweeps: bool,
}

/// Whether a start has a certain part, and whether it fails without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The start does not have this part.
    None,
    /// If the part fails, the start goes on without it.
    Wanted,
    /// If the part fails, the start fails.
    Required,
}

impl Need {
    /// Takes whether the part is required, or `None` where the start does not have it.
    pub fn of(required: Option<bool>) -> Self {
        match required {
            None => Self::None,
            Some(false) => Self::Wanted,
            Some(true) => Self::Required,
        }
    }
}
