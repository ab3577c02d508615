//! The plan: everything that a start will do, as a value.
//!
//! [`plan`] is pure. `dind plan` prints what it returns and `apply` carries it out,
//! so what a user sends in as a diagnosis is what would have happened.

pub mod action;
mod cgroups;
pub mod client;
mod daemons;
pub mod engine;
pub mod hooks;
pub mod images;
pub mod inputs;
mod iptables;
pub mod listener;
mod mounts;
mod network;
pub mod outcome;
mod print;
pub mod resolver;
pub mod role;
pub mod stop_budget;
mod storage;
mod tls;
mod words;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::facts::Facts;
use crate::facts::cgroup::{CGROUP_ROOT, Layout};
use crate::facts::surroundings::Stdin;
use crate::input::config::{LOG_FILE, Log};
use crate::input::contract::Contract;
use crate::input::dockerd_arguments::DockerdArguments;
use crate::messages::fault::Fault;
use crate::messages::finding::Finding;
use crate::plan::role::{Role, Serve};
use action::Action;
pub use daemons::{CLIENT_VARIABLES, DOCKERD_OOM_SCORE};
use engine::{Engine, Foreground, Program, Readiness};
use inputs::Inputs;
use listener::Listener;
use outcome::{Outcome, Plan};
use stop_budget::StopBudget;

/// Makes the plan. The faults are final; nothing has been changed by then.
pub fn plan(role: &Role, inputs: Inputs<'_>) -> Result<Plan, Fault> {
    match role {
        Role::Inform { arguments } => {
            let mut command = vec![find_dockerd(inputs)?.into_os_string()];
            command.extend(arguments.words().cloned());
            let environment = daemons::environment(inputs, None);
            Ok(unprepared(command, environment, inputs))
        }
        Role::Client { command } => Ok(client_of_another(command, inputs)),
        Role::Prepare { command } => Ok(prepare(command, inputs)),
        Role::Serve(serve) => engine(Some(serve), &serve.arguments, Foreground::Daemon, 0, inputs),
        Role::Session {
            command,
            levels_below,
            arguments,
        } => {
            let command = match inputs.contract {
                _ if command.is_empty() => login_shell(inputs.facts),
                Contract::Dind => client::command(command, &inputs.facts.client),
                _ => command.clone(),
            };
            let foreground = Foreground::Command(command);
            engine(None, arguments, foreground, *levels_below, inputs)
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
fn client_of_another(command: &[OsString], inputs: Inputs<'_>) -> Plan {
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
        let seen = "docker-entrypoint.sh prepares nothing for a dockerd";
        let finding = Finding::warning("dockerd-unprepared", seen, "README.md#contracts");
        plan.warnings
            .push(finding.remedy("start the image without --entrypoint"));
    }
    plan
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

/// The backend of iptables that a start would choose, and why: a finding of severity note.
pub fn iptables_note(inputs: Inputs<'_>) -> Finding {
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
    arguments: &DockerdArguments,
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
        let seen = "not PID 1: orphans of other processes are not reaped here, and what is left \
            at the end lives on";
        warnings.push(
            Finding::warning("not-pid-1", seen, "README.md#troubleshooting")
                .remedy("start the container without --init and without --pid=host"),
        );
    }
    warnings.extend(self::warnings(serve, inputs));
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
            arguments,
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
    let stop = StopBudget::new(
        config.stop_timeout,
        levels_below,
        !hooks.pre_stop.is_empty(),
    );
    let engine = Engine {
        data_file: storage.data_file,
        certificates: tls.certificates,
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
        stop,
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
    let path = path.display();
    Some(
        Fault::failure(format!(
            "a daemon already runs here with pid {pid}, says {path}"
        ))
        .remedy("stop it first, or start a container of its own"),
    )
}

/// Where dockerd is, or what stops a start without.
pub fn find_dockerd(inputs: Inputs<'_>) -> Result<PathBuf, Fault> {
    inputs.facts.programs.dockerd.clone().ok_or_else(|| {
        Fault::not_found(format!(
            "no dockerd in PATH ({})",
            inputs.config.search_path.to_string_lossy()
        ))
        .remedy("use an image with a Docker engine, or add its directory to PATH")
    })
}

fn login_shell(facts: &Facts) -> Vec<OsString> {
    if facts.programs.bash.is_some() {
        vec!["bash".into(), "--login".into()]
    } else {
        vec!["sh".into(), "-l".into()]
    }
}

#[cfg(test)]
mod tests;
