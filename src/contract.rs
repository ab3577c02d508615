//! Which contract is to be kept, and what follows from it for this start.
//!
//! The name that the program is started under chooses the contract, so that each
//! of the scripts it replaces can be replaced in place; `DIND_CONTRACT` overrides
//! the name. All of this is pure: what is asked of the system comes in as
//! [`Surroundings`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::dockerd_options::DockerdOptions;
use crate::fault::Fault;

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
    /// Start.
    Start(Start),
}

/// A contract and the arguments that it is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The contract.
    pub contract: Contract,
    /// Its arguments, without the program's name.
    pub arguments: Vec<OsString>,
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
    };
    if start.contract != Contract::Dind {
        return Ok(Request::Start(start));
    }
    let first = start
        .arguments
        .first()
        .map(|first| first.to_string_lossy().into_owned());
    match first.as_deref() {
        Some("help") => Ok(Request::Help),
        Some("--help" | "-h") if start.arguments.len() == 1 => Ok(Request::Help),
        Some("--version" | "-V") if start.arguments.len() == 1 => Ok(Request::Version),
        Some("plan") => {
            start.arguments.remove(0);
            Ok(Request::Plan(start.named_contract()))
        }
        Some(name @ ("doctor" | "health" | "nest")) => Err(Fault::usage(format!(
            "'dind {name}' is not in this version; to run a program of that name, give its path"
        ))),
        _ => Ok(Request::Start(start.named_contract())),
    }
}

impl Start {
    /// Takes a contract's name off the front of the arguments, when it is there.
    fn named_contract(mut self) -> Self {
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
    Mounted,
    /// A daemon answers there.
    Live,
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
    },
    /// Prepare the container and become the command, as `hack/dind` does.
    Prepare {
        /// The command.
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
        contract @ (Contract::DockerdEntrypoint | Contract::DockerEntrypoint) => {
            return Err(Fault::failure(format!(
                "the {} contract is not in this version; start the program as dind, wrapdocker or hack-dind",
                contract.name()
            )));
        }
    };
    if let Role::Serve(serve) = &role
        && DockerdOptions::informational(&serve.arguments)
    {
        return Ok(Role::Inform {
            arguments: serve.arguments.clone(),
        });
    }
    if !surroundings.cap_sys_admin {
        return Err(match start.contract {
            // Others search logs for these words of the old script.
            Contract::Wrapdocker => {
                Fault::failure("Could not make a tmpfs mount. Did you use --privileged?")
            }
            _ => Fault::failure(
                "this container has no CAP_SYS_ADMIN, so no daemon can run in it; start it with --privileged",
            ),
        });
    }
    let starts_daemon = matches!(role, Role::Serve(_) | Role::Session { .. });
    match surroundings.socket_state {
        SocketState::Mounted if starts_daemon => Err(Fault::failure(format!(
            "{} is mounted from outside and cannot be replaced; drop that mount to run a daemon here",
            surroundings.socket.display()
        ))),
        SocketState::Live if starts_daemon => Err(Fault::failure(format!(
            "a daemon already answers on {}; stop it first, or use it by running docker itself",
            surroundings.socket.display()
        ))),
        SocketState::Free | SocketState::Mounted | SocketState::Live => Ok(role),
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
        _ => match client_reason(config, surroundings) {
            Some(reason) => Err(Fault::failure(format!(
                "{reason}, so this container is a client, which is not in this version; \
                 run the docker program itself with --entrypoint docker"
            ))),
            None => Ok(Role::Session {
                command: arguments.clone(),
            }),
        },
    }
}

/// Why a container with a command or a terminal is to be a client of another
/// daemon. Where it merely lacks the privileges for one of its own, the fault
/// that names `--privileged` says more.
fn client_reason(config: &Config, surroundings: &Surroundings) -> Option<String> {
    if let Some(host) = &config.docker_host
        && !host.starts_with("unix://")
    {
        return Some(format!("DOCKER_HOST={host} names another daemon"));
    }
    (surroundings.socket_state == SocketState::Mounted).then(|| {
        format!(
            "a daemon from outside has its socket on {}",
            surroundings.socket.display()
        )
    })
}

/// `wrapdocker`: `PORT` decides, and with it the arguments were never looked at.
fn wrapdocker(start: &Start, config: &Config) -> Role {
    if config.port.is_some() {
        serve_without_flags(&start.arguments)
    } else {
        Role::Session {
            command: start.arguments.clone(),
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
