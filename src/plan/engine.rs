//! A start with daemons, as a value: what is started, with what, and what goes on beside it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::action::Step;
use super::hooks::Hooks;
use super::images::Images;
use super::listener::Listener;
use super::resolver::Forwarder;
use super::stop_budget::StopBudget;
use crate::input::san::Name;

/// A program to start, as execve(2) takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The file.
    pub path: PathBuf,
    /// Its arguments, without argv\[0\].
    pub arguments: Vec<OsString>,
    /// Its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// `oom_score_adj`, where the kernel allows it: proc_pid_oom_score_adj(5).
    pub oom_score_adj: i16,
}

/// A file with an ext4 file system that is mounted over the data root, before the daemons
/// start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// The file.
    pub path: PathBuf,
    /// The data root.
    pub target: PathBuf,
    /// How it is made, where there is none.
    pub new: Option<NewDataFile>,
    /// Whether a start without it is of no use: the user has asked for it, or it has data.
    pub required: bool,
}

/// An ext4 file that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDataFile {
    /// Its bytes, of which it takes those that are used.
    pub size: u64,
    /// `mkfs.ext4`.
    pub mkfs: PathBuf,
}

/// The TLS files of a server and its clients: what is missing is issued, and what is there is
/// verified, before the daemons start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificates {
    /// The directory that has `ca`, `server` and `client` in it.
    pub directory: PathBuf,
    /// What the server's certificate is good for.
    pub names: BTreeSet<Name>,
}

/// Where the daemons' log file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPath {
    /// The file.
    pub path: PathBuf,
    /// Whether the file may be a symbolic link.
    pub follow: bool,
}

/// How it is known that the API answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// `GET /_ping` is answered on this Unix socket, which was bound here.
    Ping(PathBuf),
    /// dockerd says `READY=1`: sd_notify(3). For the sockets it binds itself.
    Notify,
}

/// What runs beside the daemons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Foreground {
    /// Nothing: the container lives as long as dockerd.
    Daemon,
    /// A command, found in `PATH` when it starts.
    Command(Vec<OsString>),
}

/// A start with daemons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// What holds the data, where that is not the data root itself.
    pub data_file: Option<DataFile>,
    /// The certificates, where dockerd has TLS by our doing.
    pub certificates: Option<Certificates>,
    /// The sockets that dockerd gets.
    pub listeners: Vec<Listener>,
    /// containerd, where dockerd is not left to start its own.
    pub containerd: Option<Program>,
    /// dockerd.
    pub dockerd: Program,
    /// What forwards the DNS queries of inner containers, where it has to.
    pub forwarder: Option<Forwarder>,
    /// `dmsetup mknodes`, where there is a dmsetup and a device mapper.
    pub dmsetup: Option<Program>,
    /// The images that are loaded when the API answers.
    pub images: Option<Images>,
    /// What is done to the container while they start: nothing that they need by then.
    pub meanwhile: Vec<Step>,
    /// What the user has run at times of a start and a stop.
    pub hooks: Hooks,
    /// What runs beside them.
    pub foreground: Foreground,
    /// The environment of the command and of hooks, in which docker finds this container's
    /// daemon.
    pub environment: Vec<(OsString, OsString)>,
    /// Where the command is searched.
    pub search_path: OsString,
    /// How it is known that the API answers.
    pub readiness: Readiness,
    /// The `NOTIFY_SOCKET` that is told when it does.
    pub notify_socket: Option<OsString>,
    /// The daemons' log file; standard error where there is none.
    pub log_file: Option<LogPath>,
    /// How long the API may take.
    pub ready_timeout: Duration,
    /// The deadlines of a stop.
    pub stop: StopBudget,
    /// How many times in a row a daemon that has failed is started again.
    pub restarts: u32,
    /// What is emptied at the end.
    pub emptied: Option<Emptied>,
}

/// A data root that is emptied at the end: `DIND_EPHEMERAL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emptied {
    /// The directory, which stays.
    pub path: PathBuf,
    /// The user's mounts below it, which stay as they are.
    pub mounts: Vec<PathBuf>,
    /// The ext4 file that is mounted on it, which goes.
    pub data_file: Option<PathBuf>,
}
