//! What happens to the supervisor, and what it is to do.

use crate::sys::end::End;

/// The children that matter. Every other one is an orphan that was handed to PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// containerd, where it is a child of this process.
    Containerd,
    /// dockerd.
    Dockerd,
    /// The command or the shell.
    Command,
    /// Mounts an ext4 image over the data root, before the daemons start.
    Mounter,
    /// Issues or verifies the certificates, before the daemons start.
    Certificates,
    /// Goes on delegating cgroup controllers, where processes were in the way at first.
    Delegation,
    /// Runs the hooks before the daemons start.
    PreStart,
    /// Loads images once the API answers.
    Loader,
    /// Runs the hooks after that.
    PostStart,
    /// Runs the hooks before the daemons are stopped.
    PreStop,
    /// Empties the data root at the end.
    Sweeper,
    /// Forwards DNS queries of inner containers, as long as the daemons run.
    Forwarder,
    /// Writes the lines of daemons and hooks as JSON.
    Relay,
    /// Shows the last lines of the daemons' log after a failed start.
    LogReader,
    /// Shows them, and what `dind doctor` finds.
    Diagnosis,
}

impl Process {
    /// Its name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Dockerd => "dockerd",
            Self::Command => "the command",
            Self::Mounter => "the data-root mounter",
            Self::Certificates => "the certificate issuer",
            Self::Delegation => "the cgroup delegation",
            Self::PreStart => "the pre-start hook runner",
            Self::Loader => "the image loader",
            Self::PostStart => "the post-start hook runner",
            Self::PreStop => "the pre-stop hook runner",
            Self::Sweeper => "the data-root sweeper",
            Self::Forwarder => "the DNS forwarder",
            Self::Relay => "the log relay",
            Self::LogReader => "the log reader",
            Self::Diagnosis => "the diagnosis",
        }
    }
}

/// What happens to the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The loop begins.
    Begin,
    /// A signal reached this process. A plain number, as everywhere here: nix has no
    /// names for the real-time signals.
    Signal(i32),
    /// A child ended.
    Ended(Process, End),
    /// The API answers.
    Ready,
    /// A child could not be started, and the reason has been logged; the shell's status for
    /// that.
    NotStarted(Process, u8),
    /// Something that the daemons need could not be done, and the reason has been logged; the
    /// status to end with.
    Failed(u8),
    /// A deadline may have passed.
    Tick,
}

/// How important a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Good to know.
    Info,
    /// Something is amiss and goes on.
    Warn,
    /// Something has failed.
    Error,
}

/// A line for the log, and what of it are fields of their own in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// How important it is.
    pub level: Level,
    /// The line.
    pub text: String,
    /// The child that it is about.
    pub process: Option<Process>,
    /// How that child ended.
    pub end: Option<End>,
}

impl Message {
    /// About a child, which may have ended.
    pub fn about(
        level: Level,
        process: Process,
        end: Option<End>,
        text: impl Into<String>,
    ) -> Self {
        Self {
            level,
            text: text.into(),
            process: Some(process),
            end,
        }
    }

    /// About no child.
    pub fn plain(level: Level, text: impl Into<String>) -> Self {
        Self {
            level,
            text: text.into(),
            process: None,
            end: None,
        }
    }
}

/// What the supervisor is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Log it.
    Log(Message),
    /// Have a part of this program run in a child.
    Fork(Process),
    /// Start both daemons.
    StartDaemons,
    /// Start one of them again.
    Restart(Process),
    /// Close the sockets that are kept for a dockerd to come: there will be none.
    CloseSockets,
    /// Announce that docker is ready.
    AnnounceReady,
    /// Start the command.
    StartCommand,
    /// Send a signal to a child.
    Send(Process, i32),
    /// Kill what runs in the inner containers, and name it.
    KillContainers,
    /// End with this status: no child that matters is left.
    Exit(u8),
}
