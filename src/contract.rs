//! Which contract is to be kept, and what follows from it for this start.
//!
//! The name that the program is started under chooses the contract, so that each
//! of the scripts it replaces can be replaced in place; `DIND_CONTRACT` overrides
//! the name. All of this is pure: what is asked of the system comes in as
//! [`Surroundings`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{self, Config};
use crate::dockerd_options::DockerdOptions;
use crate::fault::Fault;
use crate::nest::Nest;

/// The scripts that this program stands in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    /// This project's own: all of the others at once.
    Dind,
    /// The `wrapdocker` of jpetazzo/dind.
    Wrapdocker,
    /// `hack/dind` of moby/moby.
    HackDind,
    /// The entrypoint of the official `docker:dind` image.
    DockerdEntrypoint,
    /// The entrypoint of the official `docker:cli` image.
    DockerEntrypoint,
}

impl Contract {
    /// Every name that `DIND_CONTRACT` may have.
    pub const NAMES: &str =
        "dind, wrapdocker, hack-dind, dockerd-entrypoint.sh, docker-entrypoint.sh";

    /// The contract of that name, which is also the name of the program file.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "dind" => Some(Self::Dind),
            "wrapdocker" => Some(Self::Wrapdocker),
            "hack-dind" => Some(Self::HackDind),
            "dockerd-entrypoint.sh" => Some(Self::DockerdEntrypoint),
            "docker-entrypoint.sh" => Some(Self::DockerEntrypoint),
            _ => None,
        }
    }

    /// The contract's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dind => "dind",
            Self::Wrapdocker => "wrapdocker",
            Self::HackDind => "hack-dind",
            Self::DockerdEntrypoint => "dockerd-entrypoint.sh",
            Self::DockerEntrypoint => "docker-entrypoint.sh",
        }
    }

    /// The contract for a program path. moby installs its script as `hack/dind`,
    /// so there the directory decides; a name of nobody's is this project's own.
    fn from_program(program: &Path) -> Self {
        let name = program.file_name().map(|name| name.to_string_lossy());
        let in_hack = program
            .parent()
            .is_some_and(|parent| parent.ends_with("hack"));
        match name.as_deref().and_then(Self::from_name) {
            Some(Self::Dind) if in_hack => Self::HackDind,
            Some(contract) => contract,
            None => Self::Dind,
        }
    }
}

/// What the command line asks for, before the system is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Print this program's help.
    Help,
    /// Print this program's version.
    Version,
    /// Print what a start with these arguments would do, and do nothing.
    Plan(Start),
    /// Ask the daemon of this container whether it answers.
    Health(Health),
    /// Say what is wrong with this host or this container.
    Doctor(Report),
    /// Make the next level of nesting, beside the daemon of this one.
    Nest(Nest),
    /// Start.
    Start(Start),
}

/// How to ask for health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// How long to wait for the answer, and whether to wait for the daemon too.
    pub wait: Option<Duration>,
}

/// How to report what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// One line a finding, for people.
    Text,
    /// One JSON object, for programs.
    Json,
}

/// A contract and the arguments that it is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The contract.
    pub contract: Contract,
    /// Its arguments, without the program's name.
    pub arguments: Vec<OsString>,
    /// The levels that are to be made inside this one.
    pub nest: Option<Nest>,
}

/// Reads the command line. Bad input is a usage fault.
///
/// `docker run IMAGE wrapdocker` gives the name of another contract as the first
/// argument of the image's own entrypoint: that contract is then the one meant.
pub fn request(config: &Config) -> Result<Request, Fault> {
    let mut start = Start {
        contract: config
            .contract
            .unwrap_or_else(|| Contract::from_program(&config.program)),
        arguments: config.arguments.clone(),
        nest: None,
    };
    let ours = start.contract == Contract::Dind;
    // A probe runs in the container's environment, and so with its DIND_CONTRACT.
    let named_dind = Contract::from_program(&config.program) == Contract::Dind;
    let first = start
        .arguments
        .first()
        .map(|first| first.to_string_lossy().into_owned());
    match first.as_deref() {
        Some("help") if ours => Ok(Request::Help),
        Some("--help" | "-h") if ours && start.arguments.len() == 1 => Ok(Request::Help),
        Some("--version" | "-V") if ours && start.arguments.len() == 1 => Ok(Request::Version),
        Some("plan") if named_dind => {
            start.arguments.remove(0);
            let start = start.nested(config)?;
            Ok(Request::Plan(start.named_contract()))
        }
        Some("health") if named_dind => {
            health(start.arguments.get(1..).unwrap_or_default()).map(Request::Health)
        }
        Some("doctor") if named_dind => {
            doctor(start.arguments.get(1..).unwrap_or_default()).map(Request::Doctor)
        }
        Some("nest") if named_dind => {
            let start = start.nested(config)?;
            Ok(match start.nest {
                Some(nest) if nest.inside => Request::Nest(nest),
                _ => Request::Start(start.named_contract()),
            })
        }
        _ => Ok(Request::Start(start.named_contract())),
    }
}

/// The arguments of `health`: `--wait SECONDS`.
fn health(arguments: &[OsString]) -> Result<Health, Fault> {
    let words: Vec<_> = arguments
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let seconds = match words.as_slice() {
        [] => return Ok(Health { wait: None }),
        ["--wait", seconds] => Some(*seconds),
        [word] => word.strip_prefix("--wait="),
        _ => None,
    };
    let seconds = seconds.ok_or_else(|| {
        Fault::usage(format!(
            "health: {:?} is not valid; allowed: nothing, or --wait SECONDS",
            words.join(" ")
        ))
    })?;
    match config::seconds(seconds) {
        Some(wait) => Ok(Health { wait: Some(wait) }),
        None => Err(Fault::usage(format!(
            "health: --wait {seconds:?} is not valid; allowed: {}",
            config::SECONDS
        ))),
    }
}

/// The arguments of `doctor`: `--json`.
fn doctor(arguments: &[OsString]) -> Result<Report, Fault> {
    match arguments {
        [] => Ok(Report::Text),
        [word] if word == "--json" => Ok(Report::Json),
        words => Err(Fault::usage(format!(
            "doctor: {:?} is not valid; allowed: nothing, or --json",
            words.join(" ".as_ref()).to_string_lossy()
        ))),
    }
}

impl Start {
    /// What `nest` at the front of the arguments makes of them in this container: in the
    /// innermost level those behind `--`, in every other a command that makes the next one.
    fn nested(mut self, config: &Config) -> Result<Self, Fault> {
        let nest = match self.arguments.split_first() {
            Some((first, words)) if first == "nest" => Nest::parse(words)?,
            _ => return Ok(self),
        };
        if nest.levels_below() == 0 {
            self.arguments = nest.arguments;
            return Ok(self);
        }
        if let Some(port) = config.port {
            return Err(Fault::usage(format!(
                "PORT={port} asks for a daemon in the foreground, and nest for a command beside it; drop one of them"
            )));
        }
        self.contract = Contract::Dind;
        self.arguments = nest.inside(&config.program);
        self.nest = Some(nest);
        Ok(self)
    }

    /// Takes a contract's name off the front of the arguments, when it is there and
    /// this project's own contract is the one that reads it.
    fn named_contract(mut self) -> Self {
        if self.contract != Contract::Dind {
            return self;
        }
        let Some(first) = self.arguments.first() else {
            return self;
        };
        let named = Path::new(first)
            .file_name()
            .map(|name| name.to_string_lossy());
        match named.as_deref().and_then(Contract::from_name) {
            None | Some(Contract::Dind) => self,
            Some(contract) => {
                self.arguments.remove(0);
                self.contract = contract;
                self
            }
        }
    }
}

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
    fn is_live(self) -> bool {
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

/// What this container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The daemon in the foreground: the container lives as long as it does.
    Serve(Serve),
    /// A command, or a login shell where it is empty, beside the daemon.
    Session {
        /// The command; empty for a login shell.
        command: Vec<OsString>,
        /// How many levels of nesting it makes inside this one.
        levels_below: u32,
    },
    /// Prepare the container and become the command, as `hack/dind` does.
    Prepare {
        /// The command.
        command: Vec<OsString>,
    },
    /// Become a command that is a client of another daemon, or a login shell where it
    /// is empty, as `docker-entrypoint.sh` does.
    Client {
        /// The command; empty for a login shell.
        command: Vec<OsString>,
    },
    /// Become a dockerd that only prints something and ends.
    Inform {
        /// dockerd's arguments.
        arguments: Vec<OsString>,
    },
}

/// How to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serve {
    /// `dockerd …` was given word for word: it listens on what those words say.
    pub literal: bool,
    /// dockerd's arguments on the command line.
    pub arguments: Vec<OsString>,
    /// A command that was given and is not run, because `PORT` is set.
    pub ignored: Vec<OsString>,
}

/// The socket that the docker CLI and everybody else uses by default.
pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// The Unix socket that a start is to listen on: what `DOCKER_HOST` says when it
/// names one, else the default. `wrapdocker` never asked `DOCKER_HOST`.
pub fn socket_path(contract: Contract, config: &Config) -> PathBuf {
    match config
        .docker_host
        .as_deref()
        .and_then(|host| host.strip_prefix("unix://"))
    {
        Some(path) if contract != Contract::Wrapdocker && !path.is_empty() => PathBuf::from(path),
        _ => PathBuf::from(DOCKER_SOCKET),
    }
}

/// Decides what this container is. The faults are final and nothing has been
/// changed when they are returned.
pub fn decide(start: &Start, config: &Config, surroundings: &Surroundings) -> Result<Role, Fault> {
    let role = match start.contract {
        Contract::Dind => dind(start, config, surroundings)?,
        Contract::Wrapdocker => wrapdocker(start, config),
        Contract::HackDind => hack_dind(start)?,
        Contract::DockerdEntrypoint => dockerd_entrypoint(start),
        Contract::DockerEntrypoint => Role::Client {
            command: start.arguments.clone(),
        },
    };
    if let Role::Client { .. } = role {
        return Ok(role);
    }
    if let Role::Serve(serve) = &role {
        let arguments = [config.daemon_arguments.as_slice(), &serve.arguments].concat();
        if DockerdOptions::informational(&arguments) {
            return Ok(Role::Inform { arguments });
        }
    }
    if let Some(fault) = unprivileged(start.contract, surroundings) {
        return Err(fault);
    }
    let starts_daemon = matches!(role, Role::Serve(_) | Role::Session { .. });
    match socket_taken(config, surroundings) {
        Some(fault) if starts_daemon => Err(fault),
        Some(_) | None => Ok(role),
    }
}

/// What stops everything but a client in a container without privileges.
pub fn unprivileged(contract: Contract, surroundings: &Surroundings) -> Option<Fault> {
    let message = match contract {
        // Others search logs for these words of the old script.
        Contract::Wrapdocker => "Could not make a tmpfs mount. Did you use --privileged?",
        _ => {
            "this container has no CAP_SYS_ADMIN, so no daemon can run in it; start it with --privileged"
        }
    };
    (!surroundings.cap_sys_admin).then(|| Fault::failure(message))
}

/// What stops a daemon whose socket is somebody else's.
pub fn socket_taken(config: &Config, surroundings: &Surroundings) -> Option<Fault> {
    match surroundings.socket_state {
        SocketState::Mounted { live } => Some(Fault::failure(format!(
            "{} is mounted from outside and cannot be replaced; drop that mount to run a daemon here{}",
            surroundings.socket.display(),
            match (live, config.port) {
                (false, _) => "",
                (true, None) => ", or give a command to use the daemon behind it",
                (true, Some(_)) => ", or drop PORT and give a command to use the daemon behind it",
            }
        ))),
        SocketState::Live => Some(Fault::failure(format!(
            "a daemon already answers on {}; stop it first, or use it by running docker itself",
            surroundings.socket.display()
        ))),
        SocketState::Free => None,
    }
}

/// The `dind` contract: serve, then client, then session.
fn dind(start: &Start, config: &Config, surroundings: &Surroundings) -> Result<Role, Fault> {
    let arguments = &start.arguments;
    let first = arguments
        .first()
        .map(|first| first.to_string_lossy().into_owned());
    match first.as_deref() {
        Some("dockerd") => Ok(Role::Serve(Serve {
            literal: true,
            arguments: arguments.iter().skip(1).cloned().collect(),
            ignored: Vec::new(),
        })),
        Some(flag) if flag.starts_with('-') => Ok(Role::Serve(Serve {
            literal: false,
            arguments: arguments.clone(),
            ignored: Vec::new(),
        })),
        _ if config.port.is_some() => Ok(serve_without_flags(arguments)),
        None if surroundings.stdin == Stdin::Null => Ok(serve_without_flags(&[])),
        _ => {
            let command = arguments.clone();
            let elsewhere = config
                .docker_host
                .as_deref()
                .is_some_and(|host| !host.starts_with("unix://"));
            let has_daemon = elsewhere || surroundings.socket_state.is_live();
            // Somebody who gave no command wants a daemon, and one who did may not.
            let needs_none =
                !surroundings.cap_sys_admin && !command.is_empty() && start.nest.is_none();
            if has_daemon || needs_none {
                Ok(Role::Client { command })
            } else {
                Ok(Role::Session {
                    command,
                    levels_below: start.nest.as_ref().map_or(0, Nest::levels_below),
                })
            }
        }
    }
}

/// `dockerd-entrypoint.sh`: whatever is no dockerd is a client.
fn dockerd_entrypoint(start: &Start) -> Role {
    match start.arguments.split_first() {
        None => serve_without_flags(&[]),
        Some((first, rest)) if first == "dockerd" => Role::Serve(Serve {
            literal: true,
            arguments: rest.to_vec(),
            ignored: Vec::new(),
        }),
        Some((first, _)) if first.as_encoded_bytes().starts_with(b"-") => Role::Serve(Serve {
            literal: false,
            arguments: start.arguments.clone(),
            ignored: Vec::new(),
        }),
        Some(_) => Role::Client {
            command: start.arguments.clone(),
        },
    }
}

/// `wrapdocker`: `PORT` decides, and with it the arguments were never looked at.
fn wrapdocker(start: &Start, config: &Config) -> Role {
    if config.port.is_some() {
        serve_without_flags(&start.arguments)
    } else {
        Role::Session {
            command: start.arguments.clone(),
            levels_below: 0,
        }
    }
}

fn serve_without_flags(ignored: &[OsString]) -> Role {
    Role::Serve(Serve {
        literal: false,
        arguments: Vec::new(),
        ignored: ignored.to_vec(),
    })
}

fn hack_dind(start: &Start) -> Result<Role, Fault> {
    if start.arguments.is_empty() {
        return Err(Fault::usage(
            "hack-dind needs a command: hack-dind COMMAND [ARGUMENT...]",
        ));
    }
    Ok(Role::Prepare {
        command: start.arguments.clone(),
    })
}
