//! A start with daemons as a value: the programs with their arguments, and what runs beside
//! them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::action::Step;
use super::growth::Growth;
use super::hooks::Hooks;
use super::images::Images;
use super::listener::{Forwarded, Listener};
use super::namespaces::Namespaces;
use super::own_network::OwnNetwork;
use super::resolver::Forwarder;
use super::stop_budget::StopBudget;
use crate::facts::memory::Kills;
use crate::input::config::StopDeaf;
use crate::input::san::Name;
use crate::store::disk::Generation;
use crate::store::manifest::{Ids, Layout};
use crate::sys::limits::{Limit, Resource};

/// A program to start, as execve(2) takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The executable file.
    pub path: PathBuf,
    /// The arguments, without argv\[0\].
    pub arguments: Vec<OsString>,
    /// The whole environment, as pairs of name and value.
    pub environment: Vec<(OsString, OsString)>,
    /// The `oom_score_adj`, from -1000 to 1000, if the kernel allows it:
    /// proc_pid_oom_score_adj(5).
    pub oom_score_adj: i16,
}

/// The program that connects the networks, which runs in this container's
/// namespaces as the engine's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connector {
    /// The program.
    pub program: Program,
    /// Whether it gets the user and the network namespace as descriptors 0 and 1, and not 3 and 4.
    pub on_standard: bool,
}

/// An ext4 image that the data-root mounter mounts on the data root before the daemons start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// The image file.
    pub path: PathBuf,
    /// The mount point: the data root.
    pub target: PathBuf,
    /// How the image is made; `None` if it exists.
    pub new: Option<NewDataFile>,
    /// How it grows; `None` if it keeps its size.
    pub growth: Option<Growth>,
    /// Whether the start fails without it: the user has asked for it, or it has data.
    pub required: bool,
    /// dockerd's argument where a start goes on without it: the storage driver for the file system
    /// below.
    pub otherwise: Option<OsString>,
}

/// How an ext4 image is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDataFile {
    /// The size of the sparse file, in bytes.
    pub size: u64,
    /// The size that it may grow to, in bytes; `None` if it keeps its size.
    pub grows_to: Option<u64>,
    /// The path of `mkfs.ext4`.
    pub mkfs: PathBuf,
}

/// The input of the filler, which fills the data root before the daemons start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filling {
    /// The path of the store.
    pub store: PathBuf,
    /// Its generation, by the facts. `None` where another one may be needed: what is in an ext4 image
    /// is not known before that is mounted.
    pub generation: Option<Arc<Generation>>,
    /// The data root.
    pub data_root: PathBuf,
    /// The program dockerd, whose version is compared with that of the store.
    pub dockerd: PathBuf,
    /// How dockerd keeps images.
    pub layout: Layout,
    /// Whether a store that cannot be used ends the container: `DIND_STORE_STRICT`.
    pub strict: bool,
}

/// The input of the preparer and of the publisher, which run before and after the daemons' stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saving {
    /// The path of the store that is a directory. It is nobody else's where a file is made of it.
    pub store: PathBuf,
    /// The file that is made of it, if any.
    pub pack: Option<Pack>,
    /// The data root, in the store.
    pub data_root: PathBuf,
    /// dockerd's Unix socket.
    pub socket: PathBuf,
    /// The program dockerd.
    pub dockerd: PathBuf,
    /// How it keeps images.
    pub layout: Layout,
    /// The ids of its files.
    pub ids: Ids,
    /// Whether the data root begins empty.
    pub from_nothing: bool,
    /// Whether the build cache is published.
    pub build_cache: bool,
}

/// How a store becomes one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// The path of the file.
    pub path: PathBuf,
    /// The path of `mkfs.erofs`.
    pub mkfs: PathBuf,
}

impl Saving {
    /// The path of the store, as the user names it.
    pub fn target(&self) -> &Path {
        self.pack.as_ref().map_or(&self.store, |pack| &pack.path)
    }
}

/// The TLS files of a server and its clients. Before the daemons start, missing files are issued
/// and existing ones are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificates {
    /// The directory with `ca`, `server` and `client` in it.
    pub directory: PathBuf,
    /// The names and addresses in the server's certificate: its subjectAltName in RFC 5280.
    pub names: BTreeSet<Name>,
    /// The user who gets the server's files, where dockerd is not this container's root.
    pub owner: Option<u32>,
}

/// The log file of the daemons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPath {
    /// The path of the file.
    pub path: PathBuf,
    /// Whether a symbolic link at that path is followed.
    pub follow: bool,
}

/// How PID 1 finds out that dockerd's API answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// `GET /_ping` is answered on this Unix socket, which a start has bound.
    Ping(PathBuf),
    /// dockerd sends `READY=1`: sd_notify(3). For sockets that dockerd binds itself.
    Notify,
}

/// What runs in the foreground of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Foreground {
    /// dockerd: the container ends with it.
    Daemon,
    /// A command with its arguments beside the daemons. It is searched in `PATH` when it starts.
    Command(Vec<OsString>),
}

/// A start with daemons: everything that PID 1 supervises, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// The namespaces that the engine and the command run in; `None` for those of this process.
    pub namespaces: Option<Namespaces>,
    /// The program that connects the network of those namespaces, if one does.
    pub user_network: Option<Connector>,
    /// The ext4 image for the data root; `None` if the data root's own file system is used.
    pub data_file: Option<DataFile>,
    /// The store that the data root begins with; `None` if there is none.
    pub filling: Option<Filling>,
    /// The store that the data root is published in; `None` if in none.
    pub saving: Option<Saving>,
    /// The default bridge, if another engine is in this network namespace.
    pub network: Option<OwnNetwork>,
    /// The certificates, if `DOCKER_TLS_CERTDIR` gives dockerd TLS.
    pub certificates: Option<Certificates>,
    /// The sockets that dockerd gets by socket activation.
    pub listeners: Vec<Listener>,
    /// containerd; `None` if dockerd starts its own or the user has one.
    pub containerd: Option<Program>,
    /// dockerd with all of its arguments.
    pub dockerd: Program,
    /// The connections that the port forwarder passes on, if there is a TCP socket for it.
    pub forwarded: Option<Forwarded>,
    /// The DNS forwarder for inner containers, if a resolver is on loopback.
    pub forwarder: Option<Forwarder>,
    /// `dmsetup mknodes`, if there is a dmsetup and a device mapper.
    pub dmsetup: Option<Program>,
    /// The images that the image loader loads when the API answers.
    pub images: Option<Images>,
    /// The steps that are carried out while the daemons start, which do not need them by then.
    pub meanwhile: Vec<Step>,
    /// The user's hooks.
    pub hooks: Hooks,
    /// What runs in the foreground of the container.
    pub foreground: Foreground,
    /// The environment of the command and of hooks, in which docker finds this container's
    /// daemon.
    pub environment: Vec<(OsString, OsString)>,
    /// The `PATH` in which the command is searched.
    pub search_path: OsString,
    /// How PID 1 finds out that dockerd's API answers.
    pub readiness: Readiness,
    /// The `NOTIFY_SOCKET` that gets `READY=1` when docker is ready: sd_notify(3).
    pub notify_socket: Option<OsString>,
    /// The daemons' log file; `None` for standard output and error.
    pub log_file: Option<LogPath>,
    /// How long dockerd may take until its API answers: `DIND_READY_TIMEOUT`.
    pub ready_timeout: Duration,
    /// The deadlines of a stop.
    pub stop: StopBudget,
    /// dockerd's data root, which has the settings of containers.
    pub data_root: PathBuf,
    /// What a stop does with containers that have no handler for their stop signal.
    pub stop_deaf: StopDeaf,
    /// How many times in a row a failed daemon is started again; `u32::MAX` is no limit.
    pub restarts: u32,
    /// The data root that the sweeper empties at the end, if any.
    pub emptied: Option<Emptied>,
    /// The resource limits that the daemons get instead of those of this process.
    pub limits: Vec<(Resource, Limit)>,
    /// The processes that the kernel had killed for want of memory before the start.
    pub kills: Option<Kills>,
}

/// A data root that is emptied at the end: `DIND_EPHEMERAL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emptied {
    /// The directory. It is emptied and not removed.
    pub path: PathBuf,
    /// The mount points of the user below it, whose content is not touched.
    pub mounts: Vec<PathBuf>,
    /// The ext4 image that is mounted on it, which is removed.
    pub data_file: Option<PathBuf>,
}

impl Emptied {
    /// The same for an engine that went on without its ext4 image: then what is mounted on the
    /// data root is the user's, and unmounting it would leave its content in place.
    #[must_use]
    pub fn as_found(&self, without_data_file: bool) -> Self {
        Self {
            data_file: self.data_file.clone().filter(|_| !without_data_file),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_root_without_its_ext4_image_keeps_its_mount() {
        let emptied = Emptied {
            path: "/var/lib/docker".into(),
            mounts: vec!["/var/lib/docker/volumes".into()],
            data_file: Some("/var/lib/docker/dind.ext4".into()),
        };
        assert_eq!(emptied.as_found(false), emptied);
        let found = emptied.as_found(true);
        assert_eq!(found.data_file, None);
        assert_eq!((found.path, found.mounts), (emptied.path, emptied.mounts));
    }
}
