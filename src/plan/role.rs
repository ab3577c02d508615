//! The role of this container, decided from the contract, the configuration and the
//! [`Surroundings`], which were read before.

use std::ffi::OsString;

use super::mode::{self, Mode};
use crate::facts::capabilities::Capability;
use crate::facts::surroundings::{SocketState, Stdin, Surroundings};
use crate::input::config::Config;
use crate::input::contract::Contract;
use crate::input::dockerd_arguments::DockerdArguments;
use crate::input::nest::Nest;
use crate::input::request::Start;
use crate::input::variables::{self, Variable};
use crate::messages::fault::Fault;

/// The role of this container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// dockerd in the foreground: the container ends with it.
    Serve(Serve),
    /// A command or a login shell beside dockerd.
    Session {
        /// The command; empty for a login shell.
        command: Vec<OsString>,
        /// The number of levels that a nest has inside this one; 0 without a nest.
        levels_below: u32,
        /// dockerd's arguments.
        arguments: DockerdArguments,
    },
    /// Prepare the container and become the command, as `hack/dind` does.
    Prepare {
        /// The command.
        command: Vec<OsString>,
    },
    /// Become a command that is a client of another daemon, or a login shell, as
    /// `docker-entrypoint.sh` does.
    Client {
        /// The command; empty for a login shell.
        command: Vec<OsString>,
    },
    /// Become a dockerd that only prints something and exits, as with `--version`.
    Inform {
        /// dockerd's arguments.
        arguments: DockerdArguments,
    },
}

/// The daemon in the foreground, as the command line has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serve {
    /// Whether the command line was `dockerd …`: then it listens only on its own addresses.
    pub literal: bool,
    /// dockerd's arguments.
    pub arguments: DockerdArguments,
    /// A command that does not run because `PORT` is set. Empty if there is none.
    pub ignored: Vec<OsString>,
}

/// Decides the role. A fault is final, and nothing has been changed by then.
pub fn decide(start: &Start, config: &Config, surroundings: &Surroundings) -> Result<Role, Fault> {
    let role = match start.contract {
        Contract::Dind => dind(start, config, surroundings)?,
        Contract::Wrapdocker => wrapdocker(start, config),
        Contract::HackDind => hack_dind(start)?,
        Contract::DockerdEntrypoint => dockerd_entrypoint(start, config),
        Contract::DockerEntrypoint => Role::Client {
            command: start.arguments.clone(),
        },
    };
    let role = match role {
        Role::Serve(Serve { arguments, .. }) if arguments.informational() => {
            Role::Inform { arguments }
        }
        role => role,
    };
    config.check(|variable| is_refused(variable, start.contract, &role))?;
    if let Role::Client { .. } | Role::Inform { .. } = role {
        return Ok(role);
    }
    let starts_daemon = matches!(role, Role::Serve(_) | Role::Session { .. });
    match mode::decide(surroundings, config) {
        Mode::Rootless(..) if starts_daemon => {}
        Mode::Impossible {
            missing,
            asked: true,
        } if starts_daemon => return Err(mode::fault(&missing, surroundings.user)),
        mode => {
            let fault = unprivileged(start.contract, surroundings);
            match (fault, mode) {
                (Some(fault), Mode::Impossible { missing, .. })
                    if starts_daemon && !lacks_root_only(surroundings) =>
                {
                    return Err(mode::or_rootless(fault, &missing));
                }
                (Some(fault), _) => return Err(fault),
                (None, _) => {}
            }
        }
    }
    match socket_taken(surroundings) {
        Some(fault) if starts_daemon => Err(fault),
        Some(_) | None => Ok(role),
    }
}

/// Whether an invalid value of a variable ends a start in this role. Whatever the contract, a
/// client reads what `docker-entrypoint.sh` does.
fn is_refused(variable: Variable, contract: Contract, role: &Role) -> bool {
    let is_clients = variable.is_refused_by(Contract::DockerEntrypoint);
    match role {
        Role::Client { .. } => is_clients,
        Role::Inform { .. } => is_clients || variable == variables::DOCKER_DAEMON_ARGS,
        Role::Serve(_) | Role::Session { .. } | Role::Prepare { .. } => {
            variable.is_refused_by(contract)
        }
    }
}

/// Whether this process has CAP_SYS_ADMIN, which every mount needs.
pub fn may_mount(surroundings: &Surroundings) -> bool {
    surroundings
        .capabilities
        .effective
        .has(Capability::SYS_ADMIN)
}

/// Whether a daemon can run here, or the user wants one and is told what is missing for it.
fn may_have_daemon(config: &Config, surroundings: &Surroundings) -> bool {
    match mode::decide(surroundings, config) {
        Mode::Privileged => may_mount(surroundings),
        Mode::Rootless(..) => true,
        Mode::Impossible { asked, .. } => asked,
    }
}

/// Whether CAP_SYS_ADMIN is missing only because this process is not root's, as with
/// `--privileged --user`: execve(2) gives such a process none of the bounding set
/// (capabilities(7)).
pub fn lacks_root_only(surroundings: &Surroundings) -> bool {
    let root_has_it = surroundings
        .capabilities
        .bounding
        .has(Capability::SYS_ADMIN);
    !may_mount(surroundings) && root_has_it && surroundings.user != 0
}

/// Returns the fault of a container without `CAP_SYS_ADMIN`, which can only be a client.
pub fn unprivileged(contract: Contract, surroundings: &Surroundings) -> Option<Fault> {
    const AS_ROOT: &str = "start it without --user, or with --user 0 if the image names a user";
    if may_mount(surroundings) {
        return None;
    }
    let lacks_root_only = lacks_root_only(surroundings);
    // Users search logs for this message of the old script.
    let wrapdockers = "Could not make a tmpfs mount. Did you use --privileged?";
    let (message, remedy) = match surroundings.user {
        user if lacks_root_only => (
            format!(
                "this process is user {user}, not root, so no daemon can run in this container"
            ),
            AS_ROOT.to_owned(),
        ),
        user => (
            "this container has no CAP_SYS_ADMIN, so no daemon can run in it".to_owned(),
            match user {
                0 => "start it with --privileged".to_owned(),
                _ => format!("start it with --privileged, and as root: {AS_ROOT}"),
            },
        ),
    };
    Some(match contract {
        Contract::Wrapdocker if lacks_root_only => {
            Fault::failure(wrapdockers).remedy(format!("{message}: {remedy}"))
        }
        Contract::Wrapdocker => Fault::failure(wrapdockers),
        _ => Fault::failure(message).remedy(remedy),
    })
}

/// Returns the fault of a start with daemons whose Unix socket is mounted from outside or
/// answered by another daemon.
pub fn socket_taken(surroundings: &Surroundings) -> Option<Fault> {
    let path = surroundings.socket.display();
    match surroundings.socket_state {
        SocketState::Mounted { live } => {
            let remedy = if live {
                "drop that mount to run a daemon here, or give a command to use the daemon behind \
                 it"
            } else {
                "drop that mount to run a daemon here"
            };
            let message = format!("{path} is mounted from outside and cannot be replaced");
            Some(Fault::failure(message).remedy(remedy))
        }
        SocketState::Live => Some(
            Fault::failure(format!("a daemon already answers on {path}"))
                .remedy("stop it first, or run docker to use it"),
        ),
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
        Some("dockerd") => Ok(serve(
            config,
            true,
            arguments.get(1..).unwrap_or_default(),
            &[],
        )),
        Some(flag) if flag.starts_with('-') => Ok(serve(config, false, arguments, &[])),
        None if config.port.is_some() || surroundings.stdin == Stdin::Null => {
            Ok(serve(config, false, &[], &[]))
        }
        _ => {
            let command = arguments.clone();
            let elsewhere = config
                .docker_host
                .as_deref()
                .is_some_and(|host| !host.starts_with("unix://"));
            let has_daemon = elsewhere || surroundings.socket_state.is_live();
            // Without a command the user wants a daemon. A command may not need one.
            let needs_none = !may_have_daemon(config, surroundings)
                && !command.is_empty()
                && start.nest.is_none();
            if has_daemon || needs_none {
                Ok(Role::Client { command })
            } else if config.port.is_some() {
                // After the client: `PORT` may be another program's, in a CI job whose own image
                // is this one. Here it is `wrapdocker`'s.
                Ok(serve(config, false, &[], &command))
            } else {
                Ok(Role::Session {
                    command,
                    levels_below: start.nest.as_ref().map_or(0, Nest::levels_below),
                    arguments: DockerdArguments::new(&config.daemon_arguments, &[]),
                })
            }
        }
    }
}

/// `dockerd-entrypoint.sh`: a command other than dockerd is a client.
fn dockerd_entrypoint(start: &Start, config: &Config) -> Role {
    match start.arguments.split_first() {
        None => serve(config, false, &[], &[]),
        Some((first, rest)) if first == "dockerd" => serve(config, true, rest, &[]),
        Some((first, _)) if first.as_encoded_bytes().starts_with(b"-") => {
            serve(config, false, &start.arguments, &[])
        }
        Some(_) => Role::Client {
            command: start.arguments.clone(),
        },
    }
}

/// `wrapdocker`: with `PORT` it served and ignored its arguments.
fn wrapdocker(start: &Start, config: &Config) -> Role {
    if config.port.is_some() {
        serve(config, false, &[], &start.arguments)
    } else {
        Role::Session {
            command: start.arguments.clone(),
            levels_below: 0,
            arguments: DockerdArguments::new(&config.daemon_arguments, &[]),
        }
    }
}

/// `command_line` is dockerd's part of the command line, `ignored` a command that does not run.
fn serve(config: &Config, literal: bool, command_line: &[OsString], ignored: &[OsString]) -> Role {
    Role::Serve(Serve {
        literal,
        arguments: DockerdArguments::new(&config.daemon_arguments, command_line),
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
