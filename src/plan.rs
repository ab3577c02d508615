//! The plan: everything that a start will do, as a value.
//!
//! [`plan`] is pure. `dind plan` prints what it returns and `apply` carries it out,
//! so what a user sends in as a diagnosis is what would have happened.

mod cgroups;
mod daemons;
mod hooks;
mod images;
mod iptables;
mod mounts;
mod network;
mod resolver;
mod storage;
mod tls;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::MsFlags;

use crate::client;
use crate::config::{Config, LOG_FILE, Log};
use crate::contract::{Contract, Role, Serve, Stdin, Surroundings};
use crate::dockerd_options::DockerdOptions;
use crate::facts::Facts;
use crate::facts::cgroup::{CGROUP_ROOT, Layout};
use crate::fault::Fault;
use crate::finding::Finding;
use crate::logging;
use crate::nest;
use crate::secrets;
use crate::tls::name::Name;
pub use daemons::{CLIENT_VARIABLES, DOCKERD_OOM_SCORE};
pub use hooks::Hooks;
pub use images::Images;
pub use resolver::Forwarder;

/// One change to the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make a directory with its parents, or give an existing one this mode.
    Directory {
        /// Which.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// mount(2).
    Mount {
        /// What mountinfo will show as the source.
        source: String,
        /// The mount point.
        target: PathBuf,
        /// File system type.
        fstype: String,
        /// Mount flags.
        flags: MsFlags,
        /// Options for the file system.
        data: String,
    },
    /// Remount without the read-only flag.
    RemountWritable {
        /// The mount point.
        target: PathBuf,
        /// The flags to keep.
        flags: MsFlags,
        /// Whether the superblock is read-only too.
        superblock: bool,
    },
    /// `mount --make-rshared`.
    Share {
        /// The top of the tree of mounts.
        target: PathBuf,
    },
    /// Lock a directory for as long as this process lives: flock(2).
    Lock {
        /// Which.
        path: PathBuf,
    },
    /// A symbolic link.
    Symlink {
        /// Where it is.
        link: PathBuf,
        /// What it says.
        to: PathBuf,
    },
    /// Remove a file that an earlier start left behind.
    Remove {
        /// Which.
        path: PathBuf,
    },
    /// Have the kernel load a module, where it can.
    LoadModule {
        /// Its name.
        name: String,
    },
    /// Make the TLS files of a server and its clients, or check those that are there.
    Certificates {
        /// The directory that has `ca`, `server` and `client` in it.
        directory: PathBuf,
        /// What the server's certificate is good for.
        names: BTreeSet<Name>,
    },
    /// Write a file anew.
    Write {
        /// Which.
        path: PathBuf,
        /// What it holds.
        content: String,
    },
    /// Evacuate the cgroup at `root` into its child `leaf` and enable every
    /// controller for children.
    Delegate {
        /// The flags of the mount at `root`, where that shows the host's hierarchy: this
        /// process then first enters a cgroup namespace of its own and mounts its own part
        /// there. Without these `root` is its own already.
        remount: Option<MsFlags>,
        /// The mount point of the version 2 hierarchy.
        root: PathBuf,
        /// The child's name.
        leaf: String,
    },
}

/// What follows when an action fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// The start ends with these words and the error.
    Fatal(&'static str),
    /// A warning, and the start goes on.
    Warn,
    /// Nothing: it is only for the better.
    Ignore,
}

/// An action, why it is done, and how much depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub action: Action,
    /// What follows when that fails.
    pub on_failure: OnFailure,
    /// Why, with the document it rests on.
    pub why: String,
}

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
    fn unix_path(&self) -> Option<&Path> {
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

/// An ext4 image that is mounted over the data root, before the daemons start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataImage {
    /// The image.
    pub path: PathBuf,
    /// The data root.
    pub target: PathBuf,
    /// How it is made, where there is none.
    pub new: Option<NewImage>,
    /// Whether a start without it is of no use: the user has asked for it, or it has data.
    pub required: bool,
}

/// An image that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewImage {
    /// Its bytes, of which it takes those that are used.
    pub size: u64,
    /// `mkfs.ext4`.
    pub mkfs: PathBuf,
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
    pub image: Option<DataImage>,
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
    pub log_file: Option<PathBuf>,
    /// How long the API may take.
    pub ready_timeout: Duration,
    /// How long everything may take to end.
    pub stop_timeout: Duration,
    /// How much of that the command may take.
    pub command_patience: Duration,
    /// How much of that the command and the pre-stop hooks together may take.
    pub hooks_patience: Duration,
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
    /// The image that is mounted on it, which goes.
    pub image: Option<PathBuf>,
}

/// What becomes of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It supervises an engine. Boxed: it is the large one.
    Supervise(Box<Engine>),
    /// It becomes a command.
    Become {
        /// The command.
        command: Vec<OsString>,
        /// Its environment.
        environment: Vec<(OsString, OsString)>,
    },
}

/// The whole plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The contract that is kept.
    pub contract: Contract,
    /// What the user should know whatever happens.
    pub warnings: Vec<String>,
    /// What was chosen, and why.
    pub notes: Vec<String>,
    /// What is done to the container, in this order.
    pub steps: Vec<Step>,
    /// What becomes of this process.
    pub outcome: Outcome,
}

/// Everything that a plan follows from, besides the role.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The contract that is kept.
    pub contract: Contract,
    /// What the user asked for.
    pub config: &'a Config,
    /// What the role was chosen by.
    pub surroundings: &'a Surroundings,
    /// What dockerd's flags and daemon.json say.
    pub options: &'a DockerdOptions,
    /// What the system is like.
    pub facts: &'a Facts,
}

impl Plan {
    /// Every change to the container, in order.
    pub fn changes(&self) -> impl Iterator<Item = &Step> {
        let meanwhile = match &self.outcome {
            Outcome::Supervise(engine) => engine.meanwhile.as_slice(),
            Outcome::Become { .. } => &[],
        };
        self.steps.iter().chain(meanwhile)
    }
}

/// Makes the plan. The faults are final; nothing has been changed by then.
pub fn plan(role: &Role, inputs: Inputs<'_>) -> Result<Plan, Fault> {
    match role {
        Role::Inform { arguments } => {
            let mut command = vec![find_dockerd(inputs)?.into_os_string()];
            command.extend(arguments.iter().cloned());
            let environment = daemons::environment(inputs, None);
            Ok(unprepared(command, environment, inputs))
        }
        Role::Client { command } => Ok(client(command, inputs)),
        Role::Prepare { command } => Ok(prepare(command, inputs)),
        Role::Serve(serve) => engine(Some(serve), Foreground::Daemon, 0, inputs),
        Role::Session {
            command,
            levels_below,
        } => {
            let command = match inputs.contract {
                _ if command.is_empty() => login_shell(inputs.facts),
                Contract::Dind => client::command(command, &inputs.facts.client),
                _ => command.clone(),
            };
            engine(None, Foreground::Command(command), *levels_below, inputs)
        }
    }
}

/// A command to become in a container that is left as it is.
fn unprepared(
    command: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    inputs: Inputs<'_>,
) -> Plan {
    Plan {
        contract: inputs.contract,
        warnings: Vec::new(),
        notes: Vec::new(),
        steps: Vec::new(),
        outcome: Outcome::Become {
            command,
            environment,
        },
    }
}

/// A client of another daemon, of whatever kind: nothing is said and nothing changed,
/// so that its output is its own.
fn client(command: &[OsString], inputs: Inputs<'_>) -> Plan {
    let facts = &inputs.facts.client;
    let environment = client::environment(inputs.config, facts);
    let command = if command.is_empty() {
        login_shell(inputs.facts)
    } else {
        client::command(command, facts)
    };
    let is_dockerd = command.first().is_some_and(|first| first == "dockerd");
    let mut plan = unprepared(command, environment, inputs);
    plan.warnings.extend(client::warning(inputs.config, facts));
    if is_dockerd {
        plan.warnings.push(
            "docker-entrypoint.sh prepares nothing for a dockerd; start the image without --entrypoint".into(),
        );
    }
    plan
}

/// dockerd's arguments as the user gave them: the variable's before the command
/// line's, so that the command line wins.
pub fn user_arguments(config: &Config, role: &Role) -> Vec<OsString> {
    let given: &[OsString] = match role {
        Role::Serve(serve) => &serve.arguments,
        Role::Session { .. } | Role::Prepare { .. } | Role::Client { .. } | Role::Inform { .. } => {
            &[]
        }
    };
    config
        .daemon_arguments
        .iter()
        .chain(given)
        .cloned()
        .collect()
}

/// `hack/dind`: the container is prepared, the cgroup hierarchies of version 1 are
/// left as they are, and no descriptor is closed, since the command may be waiting
/// for some.
fn prepare(command: &[OsString], inputs: Inputs<'_>) -> Plan {
    let Inputs { config, facts, .. } = inputs;
    let mut steps = mounts::plan(facts);
    if facts.cgroup.layout() == Layout::Unified {
        steps.extend(cgroups::plan(facts));
    }
    steps.extend(mounts::last(config, facts));
    let mut environment = config.environment.clone();
    environment.retain(|(name, _)| name != "container");
    environment.push(("container".into(), "docker".into()));
    Plan {
        contract: inputs.contract,
        warnings: Vec::new(),
        notes: Vec::new(),
        steps,
        outcome: Outcome::Become {
            command: command.to_vec(),
            environment,
        },
    }
}

/// What the user should know of a daemon in this container, whatever else is asked for.
pub fn warnings(serve: Option<&Serve>, inputs: Inputs<'_>) -> Vec<Finding> {
    let (listeners, _) = daemons::listeners(serve, inputs);
    let daemons = daemons::warnings(serve, inputs, &listeners);
    daemons
        .into_iter()
        .chain(storage::warning(inputs))
        .chain(host_warnings(inputs.facts))
        .collect()
}

/// What of it is the same in every container of this host.
pub fn host_warnings(facts: &Facts) -> Vec<Finding> {
    cgroups::warnings(facts)
}

/// The mounts of cgroup hierarchies that a start would make, and those that it would make
/// writable.
pub fn cgroup_mounts(facts: &Facts) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let steps = mounts::plan(facts).into_iter().chain(cgroups::plan(facts));
    let (mut made, mut writable) = (Vec::new(), Vec::new());
    for step in steps {
        match step.action {
            Action::Mount { target, .. } if target.starts_with(CGROUP_ROOT) => made.push(target),
            Action::RemountWritable { target, .. } => writable.push(target),
            _ => {}
        }
    }
    (made, writable)
}

/// How many times an image of Docker's is stored that a container is made of.
pub fn image_copies(inputs: Inputs<'_>) -> u64 {
    storage::copies(inputs)
}

/// The backend of iptables that a start would choose, and why.
pub fn iptables_note(inputs: Inputs<'_>) -> String {
    iptables::plan(inputs.config, &inputs.facts.netfilter).note
}

/// The MTU that a start would give to inner networks, in bytes; `None` where it would not.
pub fn mtu(inputs: Inputs<'_>) -> Option<u32> {
    network::mtu(inputs)
}

/// Whether no addresses are left for inner networks, and the user has chosen none.
pub fn addresses_exhausted(inputs: Inputs<'_>) -> bool {
    !inputs.options.addresses_set && network::block(&inputs.facts.networks).is_none()
}

/// Whether inner containers reach no resolver of this container's, and get public ones.
pub fn resolvers_out_of_reach(inputs: Inputs<'_>) -> bool {
    resolver::is_out_of_reach(inputs)
}

fn engine(
    serve: Option<&Serve>,
    foreground: Foreground,
    levels_below: u32,
    inputs: Inputs<'_>,
) -> Result<Plan, Fault> {
    let Inputs {
        contract,
        config,
        options,
        facts,
        ..
    } = inputs;
    let dockerd = find_dockerd(inputs)?;
    if let Some(fault) = already_running(facts) {
        return Err(fault);
    }
    let (listeners, tls) = daemons::listeners(serve, inputs);
    let storage = storage::plan(inputs)?;
    let iptables = iptables::plan(config, &facts.netfilter);
    let resolver = resolver::plan(inputs);
    let mut warnings = Vec::new();
    if !facts.pid1 {
        warnings.push(
            "not PID 1: orphans of other processes are not reaped here, and what is left at the \
             end lives on; start the container without --init and without --pid=host"
                .into(),
        );
    }
    let more = self::warnings(serve, inputs);
    warnings.extend(more.iter().map(Finding::to_string));
    warnings.extend(hooks::warnings(inputs));
    // First the lock: where it is somebody else's, nothing else is done.
    let mut steps = storage.steps;
    steps.extend(mounts::plan(facts));
    steps.extend(cgroups::plan(facts));
    steps.extend(mounts::last(config, facts));
    let meanwhile = steps.extract_if(.., cgroups::can_wait).collect();
    let containerd = daemons::containerd(inputs).map(|(program, configuration)| {
        steps.extend(configuration);
        program
    });
    steps.extend(iptables.steps);
    steps.extend(tls.step);
    let path = iptables.directory.as_deref();
    let environment = daemons::environment(inputs, path);
    let (session, more) = daemons::session_environment(inputs, &listeners);
    // Where there is no command, nobody misses what it would not get.
    let more = more.filter(|_| matches!(foreground, Foreground::Command(_)));
    let warnings = warnings
        .into_iter()
        .chain(images::warning(inputs, &listeners))
        .chain(more)
        .collect();
    let dockerd = Program {
        path: dockerd,
        arguments: daemons::dockerd_arguments(
            serve,
            config,
            options,
            &listeners,
            [
                tls.flags,
                storage.arguments,
                network::arguments(inputs),
                resolver.arguments,
            ]
            .concat(),
            containerd.is_some(),
        ),
        environment: environment.clone(),
        oom_score_adj: daemons::DOCKERD_OOM_SCORE,
    };
    let dmsetup = facts.programs.dmsetup.clone().map(|path| Program {
        path,
        arguments: vec!["mknodes".into()],
        environment,
        oom_score_adj: 0,
    });
    let hooks = hooks::plan(inputs)?;
    let (command_patience, hooks_patience) = patience(
        config.stop_timeout,
        levels_below,
        !hooks.pre_stop.is_empty(),
    );
    let engine = Engine {
        image: storage.image,
        containerd,
        dockerd,
        forwarder: resolver.forwarder,
        images: images::plan(inputs, &listeners),
        dmsetup,
        meanwhile,
        notify_socket: config.notify_socket.clone(),
        readiness: readiness(&listeners),
        hooks,
        listeners,
        log_file: logs_to_file(&foreground, inputs).then(|| PathBuf::from(LOG_FILE)),
        foreground,
        environment: session,
        search_path: config.search_path.clone(),
        ready_timeout: config.ready_timeout,
        stop_timeout: config.stop_timeout,
        command_patience,
        hooks_patience,
        restarts: config.restarts,
        emptied: storage.emptied,
    };
    Ok(Plan {
        contract,
        warnings,
        notes: storage
            .note
            .into_iter()
            .chain([iptables.note])
            .chain(resolver.note)
            .collect(),
        steps,
        outcome: Outcome::Supervise(Box::new(engine)),
    })
}

/// How much of a stop the command may take, and how much that and the pre-stop hooks. Around
/// further levels the hooks take of this level's own time, for the command is those.
fn patience(stop_timeout: Duration, levels_below: u32, hooks: bool) -> (Duration, Duration) {
    let both = match levels_below {
        0 => stop_timeout.saturating_mul(4) / 9,
        _ => nest::patience(stop_timeout, levels_below),
    };
    match (hooks, levels_below) {
        (false, _) => (both, both),
        (true, 0) => (both / 2, both),
        (true, _) => (
            both,
            both.saturating_add(stop_timeout.saturating_sub(both) / 3),
        ),
    }
}

fn readiness(listeners: &[Listener]) -> Readiness {
    match listeners.first() {
        Some(Listener::Unix { path, .. }) => Readiness::Ping(path.clone()),
        Some(Listener::Tcp { .. }) | None => Readiness::Notify,
    }
}

/// Where the user did not choose: beside somebody at a terminal, the daemons' lines
/// would run into the shell's. wrapdocker let them.
fn logs_to_file(foreground: &Foreground, inputs: Inputs<'_>) -> bool {
    match (inputs.config.log, foreground) {
        (Log::File, _) => true,
        (Log::Stdio, _) | (Log::Auto, Foreground::Daemon) => false,
        (Log::Auto, Foreground::Command(_)) => {
            inputs.contract == Contract::Dind && inputs.surroundings.stdin == Stdin::Terminal
        }
    }
}

/// What stops a start where a daemon runs.
pub fn already_running(facts: &Facts) -> Option<Fault> {
    let (path, pid) = facts.running.as_ref()?;
    Some(Fault::failure(format!(
        "a daemon already runs here with pid {pid}, says {}; stop it first, or start a container of its own",
        path.display()
    )))
}

/// Where dockerd is, or what stops a start without.
pub fn find_dockerd(inputs: Inputs<'_>) -> Result<PathBuf, Fault> {
    inputs.facts.programs.dockerd.clone().ok_or_else(|| {
        Fault::not_found(format!(
            "no dockerd in PATH ({}); use an image with a Docker engine, or add its directory to PATH",
            inputs.config.search_path.to_string_lossy()
        ))
    })
}

fn login_shell(facts: &Facts) -> Vec<OsString> {
    if facts.programs.bash.is_some() {
        vec!["bash".into(), "--login".into()]
    } else {
        vec!["sh".into(), "-l".into()]
    }
}

/// Words as a shell would have to be given them, but for passwords.
fn quoted(words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
    let words: Vec<String> = words
        .into_iter()
        .map(|word| word.as_ref().to_string_lossy().into_owned())
        .collect();
    let words = secrets::words(words.iter().map(String::as_str));
    // A NUL byte cannot be quoted, and cannot be in an argument either.
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
}

fn flag_names(flags: MsFlags) -> String {
    flags
        .iter_names()
        .map(|(name, _)| name.trim_start_matches("MS_").to_ascii_lowercase())
        .collect::<Vec<_>>()
        .join(",")
}

fn joined_options(flags: MsFlags, data: &str) -> String {
    [flag_names(flags), data.to_owned()]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(",")
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, mode } => {
                write!(formatter, "mkdir -p -m {mode:04o} {}", path.display())
            }
            Self::Mount {
                source,
                target,
                fstype,
                flags,
                data,
            } => write!(
                formatter,
                "mount -t {fstype} -o {} {source} {}",
                joined_options(*flags, data),
                target.display()
            ),
            Self::RemountWritable { target, flags, .. } => write!(
                formatter,
                "mount -o {} {}",
                joined_options(*flags, "remount,rw"),
                target.display()
            ),
            Self::Share { target } => {
                write!(formatter, "mount --make-rshared {}", target.display())
            }
            Self::Symlink { link, to } => {
                write!(formatter, "ln -s {} {}", to.display(), link.display())
            }
            Self::Remove { path } => write!(formatter, "rm {}", path.display()),
            Self::Lock { path } => write!(formatter, "lock {}", path.display()),
            Self::LoadModule { name } => write!(formatter, "load module {name}"),
            Self::Certificates { directory, names } => {
                let names: Vec<String> = names.iter().map(ToString::to_string).collect();
                write!(
                    formatter,
                    "certificates in {} for {}",
                    directory.display(),
                    names.join(",")
                )
            }
            Self::Write { path, .. } => write!(formatter, "write {}", path.display()),
            Self::Delegate {
                root,
                leaf,
                remount: Some(flags),
            } => write!(
                formatter,
                "enter a cgroup namespace, mount -t cgroup2 -o {} cgroup {}, and delegate it from leaf {leaf}",
                flag_names(*flags),
                root.display(),
            ),
            Self::Delegate { root, leaf, .. } => write!(
                formatter,
                "move every process of {} to {leaf}, then enable every controller",
                root.display()
            ),
        }
    }
}

/// Writes one line, whatever is in it.
fn line(formatter: &mut fmt::Formatter<'_>, text: fmt::Arguments<'_>) -> fmt::Result {
    writeln!(formatter, "{}", logging::line(&text.to_string()))
}

fn steps(formatter: &mut fmt::Formatter<'_>, when: &str, steps: &[Step]) -> fmt::Result {
    steps.iter().try_for_each(|step| {
        line(formatter, format_args!("{when}: {}", step.action))?;
        line(formatter, format_args!("    # {}", step.why))
    })
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(
            formatter,
            format_args!("contract: {}", self.contract.name()),
        )?;
        for warning in &self.warnings {
            line(formatter, format_args!("warning: {warning}"))?;
        }
        for note in &self.notes {
            line(formatter, format_args!("note: {note}"))?;
        }
        if let Outcome::Supervise(engine) = &self.outcome {
            for listener in &engine.listeners {
                line(formatter, format_args!("listen: {listener}"))?;
            }
        }
        steps(formatter, "step", &self.steps)?;
        match &self.outcome {
            Outcome::Become { command, .. } => {
                line(formatter, format_args!("become: {}", quoted(command)))
            }
            Outcome::Supervise(engine) => engine.fmt(formatter),
        }
    }
}

impl fmt::Display for DataImage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        if let Some(NewImage { size, mkfs }) = &self.new {
            let mkfs = mkfs.display();
            write!(formatter, "truncate -s {size} {path}; {mkfs} {path}; ")?;
        }
        let target = self.target.display();
        write!(formatter, "mount -t ext4 -o loop,discard {path} {target}")
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(image) = &self.image {
            line(formatter, format_args!("prepare: {image}"))?;
        }
        let seconds = self.hooks.timeout.as_secs_f64();
        let mut hooks = |stage: &str, hooks: &[PathBuf]| {
            hooks.iter().try_for_each(|path| {
                let path = path.display();
                line(
                    formatter,
                    format_args!("hook: {stage} {path}, within {seconds} s"),
                )
            })
        };
        hooks("pre-start", &self.hooks.pre_start)?;
        hooks("post-start", &self.hooks.post_start)?;
        hooks("pre-stop", &self.hooks.pre_stop)?;
        let beside = [&self.containerd, &self.dmsetup];
        for program in std::iter::once(&self.dockerd).chain(beside.into_iter().flatten()) {
            let words = std::iter::once(program.path.as_os_str())
                .chain(program.arguments.iter().map(OsString::as_os_str));
            line(formatter, format_args!("start: {}", quoted(words)))?;
        }
        if let Some(forwarder) = &self.forwarder {
            line(formatter, format_args!("forward: {forwarder}"))?;
        }
        steps(formatter, "meanwhile", &self.meanwhile)?;
        match &self.log_file {
            Some(path) => line(formatter, format_args!("log: {}", path.display()))?,
            None => line(formatter, format_args!("log: standard output and error"))?,
        }
        let timeout = self.ready_timeout.as_secs_f64();
        match &self.readiness {
            Readiness::Ping(path) => line(
                formatter,
                format_args!(
                    "ready: when unix://{} answers, within {timeout} s",
                    path.display()
                ),
            )?,
            Readiness::Notify => line(
                formatter,
                format_args!("ready: when dockerd says so, within {timeout} s"),
            )?,
        }
        if let Some(images) = &self.images {
            line(formatter, format_args!("images: {images}"))?;
        }
        match &self.foreground {
            Foreground::Daemon => line(formatter, format_args!("then: live as long as dockerd"))?,
            Foreground::Command(command) => {
                line(formatter, format_args!("then: run {}", quoted(command)))?;
            }
        }
        match self.restarts {
            0 => {}
            u32::MAX => line(formatter, format_args!("restart: a daemon that fails"))?,
            limit => line(
                formatter,
                format_args!("restart: a daemon that fails, {limit} times in a row"),
            )?,
        }
        let emptied = match &self.emptied {
            Some(emptied) => format!(", and empty {}", emptied.path.display()),
            None => String::new(),
        };
        let timeout = self.stop_timeout.as_secs_f64();
        line(formatter, format_args!("stop: within {timeout} s{emptied}"))
    }
}

#[cfg(test)]
mod tests;
