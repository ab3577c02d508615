//! The machine's input, events, and its output, effects.

use nix::libc;

use crate::sys::end::End;

/// The children that the machine knows. Any other child is an orphan that PID 1 has adopted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// containerd, where it is a child of this process.
    Containerd,
    /// dockerd, in the foreground or beside the command.
    Dockerd,
    /// The user's command or shell, in the foreground.
    Command,
    /// Makes the namespaces of an engine in a user namespace, before anything that runs in them.
    Namespaces,
    /// Connects the network of those namespaces with that of this container, as long as the daemons
    /// run.
    UserNetwork,
    /// Publishes ports for a dockerd in those namespaces, as long as the daemons run.
    Ports,
    /// Mounts an ext4 image over the data root, before the daemons start.
    Mounter,
    /// See [`crate::helpers::filler`].
    Filler,
    /// Issues or verifies the certificates, before the daemons start.
    Certificates,
    /// Makes the default bridge beside another engine, before the daemons start.
    Joiner,
    /// Completes the delegation of cgroup controllers that processes prevented at first.
    Delegation,
    /// Runs the pre-start hooks, before the daemons start.
    PreStart,
    /// Loads images once the API answers.
    Loader,
    /// Runs the post-start hooks, after the images are loaded.
    PostStart,
    /// Runs the pre-stop hooks, before the daemons are stopped.
    PreStop,
    /// Finds the containers that cannot react to their stop signal, before dockerd is stopped.
    Watcher,
    /// Stops containers that a dead dockerd has left.
    Ender,
    /// Makes the engine ready for its data root to be published, after the command.
    Preparer,
    /// Publishes the data root in a store, after the daemons.
    Publisher,
    /// Empties the data root at the end.
    Sweeper,
    /// Forwards DNS queries of inner containers, as long as the daemons run.
    Forwarder,
    /// Makes the ext4 image larger as it fills, as long as the daemons run.
    Grower,
    /// Passes connections to a TCP socket without TLS on to dockerd's Unix socket.
    PortForwarder,
    /// Converts the lines of daemons and hooks to JSON.
    Relay,
    /// Shows the last lines of the daemons' log after a failed start.
    LogReader,
    /// Shows the same lines, and the findings of `dind doctor`.
    Diagnosis,
}

impl Process {
    /// The name in messages, as the subject of a sentence, and in the field `process` of JSON logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Dockerd => "dockerd",
            Self::Command => "the command",
            Self::Namespaces => "the maker of namespaces",
            Self::UserNetwork => "the network of the user namespace",
            Self::Ports => "the server of published ports",
            Self::Mounter => "the data-root mounter",
            Self::Filler => "the data root's filler",
            Self::Certificates => "the certificate issuer",
            Self::Joiner => "the network joiner",
            Self::Delegation => "the cgroup delegation",
            Self::PreStart => "the pre-start hook runner",
            Self::Loader => "the image loader",
            Self::PostStart => "the post-start hook runner",
            Self::PreStop => "the pre-stop hook runner",
            Self::Watcher => "the container watcher",
            Self::Ender => "the container ender",
            Self::Preparer => "the store's preparer",
            Self::Publisher => "the store's publisher",
            Self::Sweeper => "the sweeper",
            Self::Forwarder => "the DNS forwarder",
            Self::Grower => "the data-root grower",
            Self::PortForwarder => "the port forwarder",
            Self::Relay => "the log relay",
            Self::LogReader => "the log reader",
            Self::Diagnosis => "the diagnosis",
        }
    }
}

/// What the loop reports to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The loop begins: the first event, once.
    Begin,
    /// A signal reached this process. It is a number, as everywhere here, because nix has no
    /// names for the real-time signals.
    Signal(i32),
    /// A child ended, with its status or signal.
    Ended(Process, End),
    /// dockerd's API answers: it answered a ping, or dockerd sent `READY=1`.
    Ready,
    /// A child could not be started, with the exit status that this means. The reason has been
    /// logged.
    NotStarted(Process, u8),
    /// A step that the daemons need has failed, with the exit status that this means. The reason
    /// has been logged.
    Failed(u8),
    /// A deadline may have passed.
    Tick,
}

/// The severity of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// A change that is expected.
    Info,
    /// A failure that the container can go on with.
    Warn,
    /// A failure that ends the container or takes a function from it.
    Error,
}

/// A line for the log, with the values that JSON logs have as fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The severity of the line.
    pub level: Level,
    /// The text of the line.
    pub text: String,
    /// The child that it is about: the field `process`.
    pub process: Option<Process>,
    /// How that child ended: the field `status` or `signal`.
    pub end: Option<End>,
}

impl Message {
    /// A message about a child, with how it ended if it has.
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

    /// A message that is not about a child.
    pub fn plain(level: Level, text: impl Into<String>) -> Self {
        Self {
            level,
            text: text.into(),
            process: None,
            end: None,
        }
    }
}

/// Logs the end of a child that this process has not killed.
pub fn log_end(
    level: Level,
    process: Process,
    end: End,
    text: impl Into<String>,
    effects: &mut Vec<Effect>,
) {
    let message = Message::about(level, process, Some(end), text);
    effects.push(Effect::Log(message));
    if end == End::Signaled(libc::SIGKILL) {
        effects.push(Effect::ExplainKill(level));
    }
}

/// What the loop is to carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Log this message.
    Log(Message),
    /// Log, with this severity, whether the kernel has killed for want of memory: a SIGKILL that
    /// this process did not send has ended a child.
    ExplainKill(Level),
    /// Fork a helper.
    Fork(Process),
    /// Give dockerd the storage driver for a data root that has no ext4 image.
    GoWithoutDataFile,
    /// Start dockerd, and containerd where it is a child of this process.
    StartDaemons,
    /// Start the program that connects the network of the engine's namespaces.
    StartUserNetwork,
    /// Restart dockerd or containerd.
    Restart(Process),
    /// Close the sockets that are kept for the next dockerd, because there will be none.
    CloseSockets,
    /// Close the socket of the port forwarder, because there will be none.
    ClosePort,
    /// Log that docker is ready, and send `READY=1` to `NOTIFY_SOCKET`.
    AnnounceReady,
    /// Start the command in the foreground.
    StartCommand,
    /// Send a signal to a child.
    Send(Process, i32),
    /// Kill the processes of inner containers, and log their pids and names.
    KillContainers,
    /// Exit with this status: the stop is complete.
    Exit(u8),
}
