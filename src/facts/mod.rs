//! The facts of the system that plans depend on. This folder reads and changes nothing.

mod build_info;
pub mod capabilities;
pub mod cgroup;
pub mod client;
pub mod container;
pub mod containers;
pub mod daemon_json;
mod elf;
pub mod engine;
pub mod exec_root;
mod groups;
pub mod hooks;
pub mod host;
pub mod interfaces;
pub mod leftovers;
pub mod limits;
pub mod links;
pub mod memory;
pub mod mountinfo;
mod names;
pub mod nat;
mod neighbours;
pub mod netfilter;
pub mod network;
pub mod paths;
pub mod proc;
pub mod processes;
mod program_text;
pub mod programs;
pub mod read_only;
pub mod rootless;
pub mod space;
pub mod storage;
pub mod store;
pub mod surroundings;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::input::config::{self, Config};
use crate::input::dockerd_arguments::DockerdOptions;
use client::ClientFacts;
use container::ContainerFacts;
use engine::{ConfigVersion, ImageStores};
use exec_root::ExecRoot;
use hooks::HookFiles;
use limits::Limits;
use memory::Kills;
use mountinfo::MountTable;
use netfilter::Netfilter;
use network::Networks;
use programs::Programs;
use read_only::ReadOnly;
use storage::DataRoot;
use store::StoreFacts;

/// The facts that a start with daemons depends on. Other starts read a part of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whether this process is PID 1 of its pid namespace.
    pub pid1: bool,
    /// The mounts and cgroups of this container.
    pub container: ContainerFacts,
    /// Whether AppArmor is enabled and this process may load profiles.
    pub apparmor: bool,
    /// dockerd's data root, and its file system.
    pub data_root: DataRoot,
    /// dockerd's exec root.
    pub exec_root: ExecRoot,
    /// Whether the directory of the daemons' log file is on the container's root file system,
    /// and not on a mount.
    pub log_directory_own: bool,
    /// Whether the default directory of images to load exists.
    pub images: bool,
    /// The store of images and build cache, if there is one or the user has named one.
    pub store: Option<StoreFacts>,
    /// Directories that a start may write to, on file systems that are mounted read-only.
    pub read_only: Vec<ReadOnly>,
    /// The paths of sockets, certificates and the like that a symbolic link leads elsewhere, each as
    /// it is named and resolved.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// The resource limits of this process.
    pub limits: Limits,
    /// The processes of this cgroup that the kernel has killed for want of memory so far.
    pub kills: Option<Kills>,
    /// Files that an earlier start left behind.
    pub stale: Vec<PathBuf>,
    /// A daemon that already runs in this pid namespace: its pid file and its pid.
    pub running: Option<(PathBuf, i32)>,
    /// The programs that were found in `PATH`.
    pub programs: Programs,
    /// Which image stores dockerd has. [`Facts::read`] leaves it out, since few plans depend on it.
    pub image_stores: Option<ImageStores>,
    /// The version of the configuration file that containerd wants.
    pub containerd_config: ConfigVersion,
    /// The id of the Unix socket's group. `None` where there is no such group.
    pub socket_group: Option<u32>,
    /// The addresses of the network interfaces. Left out where nothing is to be named after them.
    pub addresses: BTreeSet<IpAddr>,
    /// The host names of this container. Left out where there is no certificate to name them in.
    pub host_names: BTreeSet<String>,
    /// The routes, the resolvers and the MTU of this network namespace.
    pub networks: Networks,
    /// The kernel's packet filters, and the programs for them.
    pub netfilter: Netfilter,
    /// The user's hooks below `/etc/dind`.
    pub hooks: HookFiles,
    /// What a command that becomes a client of another daemon can use. Without a command, only
    /// what hooks can.
    pub client: ClientFacts,
}

/// What is known when the sockets are bound, before the other facts are read.
#[derive(Debug, Default)]
pub struct Known {
    /// Whether a command runs beside the daemon.
    pub command: bool,
    /// Whether the daemon has certificates for the names and addresses of this container.
    pub certificates: bool,
    /// The id of the Unix socket's group. `None` where there is no such group.
    pub socket_group: Option<u32>,
    /// The inodes of the sockets that were bound: no other engine's. Empty before.
    pub sockets: BTreeSet<u64>,
    /// The store that is saved to, if any.
    pub store: Option<PathBuf>,
    /// Whether the engine runs in namespaces of its own.
    pub rootless: bool,
}

impl Known {
    /// Reads the group that `options` name. Leaves no fact out.
    pub fn read(options: &DockerdOptions) -> Self {
        Self {
            command: true,
            certificates: true,
            socket_group: options.socket_group().and_then(groups::group_id),
            sockets: BTreeSet::new(),
            store: None,
            rootless: false,
        }
    }
}

impl Facts {
    /// Reads the remaining facts. `mounts` are the mounts of this process. Fails only where
    /// `/proc` cannot be read, without which no plan is possible.
    pub fn read(
        mounts: MountTable,
        options: &DockerdOptions,
        config: &Config,
        known: Known,
    ) -> Result<Self> {
        let (stale, running) = leftovers::find(options);
        let programs = Programs::read(&config.search_path);
        let exec_root = ExecRoot::read(options);
        let data_root = DataRoot::read(&options.data_root, &mounts, config);
        let container = ContainerFacts::read(mounts)?;
        // The ports of its own containers are no other engine's.
        // In a network namespace of its own there is no other engine.
        let neighbour = !known.rootless
            && (neighbours::listens(&known.sockets)
                || (!exec_root.alive && neighbours::has_bridge_in_use()));
        let networks = Networks::read(programs.dockerd.as_deref(), config.mtu, known.rootless);
        Ok(Self {
            pid1: std::process::id() == 1,
            log_directory_own: storage::is_own(&log_directory(), &container.mounts),
            read_only: read_only::find(
                options,
                config,
                log_directory(),
                programs.dockerd.as_deref(),
                &container.mounts,
            ),
            links: links::read(options, config),
            limits: Limits::read(),
            kills: memory::kills_of(&container),
            images: Path::new(config::IMAGES).is_dir(),
            store: StoreFacts::read(
                config,
                known.store.as_deref(),
                data_root.origin.as_ref().ok().and_then(Option::as_ref),
            ),
            apparmor: programs::may_load_profiles()?,
            stale,
            running,
            socket_group: known.socket_group,
            // The DNS forwarder listens on one of them.
            addresses: match known.certificates
                || networks.resolvers.iter().any(IpAddr::is_loopback)
            {
                true => names::addresses(),
                false => BTreeSet::new(),
            },
            host_names: match known.certificates {
                true => names::host_names(),
                false => BTreeSet::new(),
            },
            networks: Networks {
                neighbour,
                own_bridge: neighbours::own_bridge(&data_root.path),
                ..networks
            },
            data_root,
            exec_root,
            image_stores: None,
            containerd_config: match &programs.containerd {
                Some(path) if !options.has_own_containerd() => ConfigVersion::read(path),
                Some(_) | None => ConfigVersion::Two,
            },
            programs,
            netfilter: {
                let wanted = config.iptables_shortcut && !options.iptables_off;
                let search_path = wanted.then_some(config.search_path.as_os_str());
                Netfilter::read(options.nftables, search_path)
            },
            hooks: HookFiles::read(),
            client: match known.command {
                true => ClientFacts::read(config),
                false => ClientFacts::of_hooks(config),
            },
            container,
        })
    }

    /// The same facts with what [`Facts::read`] leaves out: which image stores dockerd has.
    #[must_use]
    pub fn with_image_stores(self) -> Self {
        Self {
            image_stores: self.programs.dockerd.as_deref().map(ImageStores::read),
            ..self
        }
    }
}

/// The directories that [`Facts::read`] looks into and that a user may have mounted from a
/// server. It waits for each of them as long as the server takes to answer.
pub fn directories(options: &DockerdOptions, config: &Config) -> Vec<PathBuf> {
    let mut directories = vec![
        options.data_root.clone(),
        options.exec_root.clone(),
        config::IMAGES.into(),
        config.store.clone().unwrap_or_else(|| config::STORE.into()),
        hooks::DIRECTORY.into(),
        read_only::KEY.into(),
        log_directory(),
    ];
    directories.extend(read_only::parents(options, config).map(Path::to_owned));
    directories.extend(config.tls_directory.clone());
    directories
}

fn log_directory() -> PathBuf {
    let directory = Path::new(config::LOG_FILE).parent();
    directory.unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::input::dockerd_arguments::DockerdArguments;

    #[test]
    fn names_what_it_looks_into() -> Result<()> {
        let words = ["--exec-root=/nfs/exec", "--pidfile=/nfs/pid/docker.pid"].map(Into::into);
        let options = DockerdArguments::new(&[], &words).options(None)?;
        let host = ("DOCKER_HOST".into(), "unix:///nfs/socket/d.sock".into());
        let found = directories(&options, &Config::read([], [host]));
        for directory in ["/nfs/exec", "/nfs/pid", "/nfs/socket", "/etc/docker"] {
            assert!(found.contains(&directory.into()), "{directory}: {found:?}");
        }
        Ok(())
    }

    #[test]
    fn reads_the_facts_of_this_system() -> Result<()> {
        let options = DockerdArguments::default().options(None)?;
        let facts = Facts::read(
            proc::mounts()?,
            &options,
            &Config::read([], []),
            Known::read(&options),
        )?;
        assert!(facts.addresses.contains(&Ipv4Addr::LOCALHOST.into()));
        assert!(facts.container.mounts.at(Path::new("/")).is_some());
        assert!(!facts.container.cgroup.memberships.is_empty());
        Ok(())
    }
}
