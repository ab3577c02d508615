//! The plan: everything that a start will do, as a value.
//!
//! [`client::plan`], [`inform::plan`], [`prepare::plan`], [`serve`] and [`session`] are pure,
//! one for each role, and each takes only the facts that it needs. `dind plan` prints what they
//! return, and `apply` carries out the same value, so the printed plan is what a start does.

pub mod action;
pub mod capabilities;
mod cgroups;
pub mod client;
mod daemons;
pub mod deaf;
pub mod engine;
mod exec_root;
pub mod growth;
pub mod hooks;
pub mod images;
mod in_use;
pub mod inform;
pub mod inputs;
mod iptables;
mod limits;
pub mod listener;
pub mod memory;
pub mod mode;
mod mounts;
pub mod namespaces;
mod network;
pub mod outcome;
pub mod own_network;
pub mod prepare;
mod print;
mod read_only;
pub mod resolver;
pub mod role;
pub mod rootless;
mod rootless_driver;
mod rootless_limits;
pub mod rootless_network;
mod rootlesskit;
pub mod saving;
pub mod seccomp;
pub mod stop_budget;
mod storage;
mod store;
mod tls;
pub mod warm_start;
mod words;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::facts::Facts;
use crate::facts::cgroup::CGROUP_ROOT;
use crate::facts::surroundings::Stdin;
use crate::input::config::{LOG_FILE, Log};
use crate::input::contract::Contract;
use crate::input::dockerd_arguments::DockerdArguments;
use crate::messages::fault::Fault;
use crate::messages::finding::Finding;
use crate::plan::role::Serve;
use action::{Action, Step};
pub use daemons::{CLIENT_VARIABLES, DOCKERD_OOM_SCORE, OWN_OOM_SCORE, find_dockerd, listeners};
use engine::{Engine, Foreground, LogPath, Program, Readiness};
use inputs::{Addresses, Inputs};
pub use iptables::NF_TABLES;
use listener::{Forwarded, Listener};
use outcome::{Outcome, Plan};
use stop_budget::StopBudget;
pub use store::Store;
pub use warm_start::{finding as store_finding, too_old};

/// Returns the plan of a start with dockerd in the foreground. A fault is final, and nothing
/// has been changed by then.
pub fn serve(serve: &Serve, inputs: Inputs<'_>) -> Result<Plan, Fault> {
    let foreground = Foreground::Daemon;
    engine(Some(serve), &serve.arguments, foreground, 0, inputs)
}

/// Returns the plan of a start with a command beside dockerd; an empty `command` is a login
/// shell. `levels_below` is the number of levels that a nest has inside this one, and 0 without
/// a nest. `arguments` are dockerd's. A fault is final, and nothing has been changed by then.
pub fn session(
    command: &[OsString],
    levels_below: u32,
    arguments: &DockerdArguments,
    inputs: Inputs<'_>,
) -> Result<Plan, Fault> {
    let command = match inputs.contract {
        _ if command.is_empty() => client::login_shell(inputs.facts.programs.bash),
        Contract::Dind => client::command(command, &inputs.facts.client),
        _ => command.to_vec(),
    };
    let foreground = Foreground::Command(command);
    if levels_below > 0 && inputs.rootless().is_some() {
        let message = "the levels of a nest are privileged containers, and the engine would run in a user namespace";
        return Err(Fault::failure(message).remedy("start dind nest with --privileged"));
    }
    engine(None, arguments, foreground, levels_below, inputs)
}

/// Whether a start gives dockerd certificates for the names and addresses of this container.
pub fn has_certificates(addresses: Addresses<'_>) -> bool {
    tls::wanted(addresses)
}

/// Returns the warnings about a daemon in this container: capabilities, variables that are ignored,
/// its sockets, its data root and the host's cgroups. `serve` is `None` where a command runs beside
/// it. `dind doctor` reports the same.
pub fn warnings(serve: Option<&Serve>, inputs: Inputs<'_>) -> Vec<Finding> {
    let listeners = daemons::listeners(serve, inputs.addresses());
    let daemons = daemons::warnings(serve, inputs, &listeners);
    let ignored = inputs.config.ignored(inputs.contract);
    ignored
        .chain(rootlesskit::warnings(inputs, &listeners))
        .chain(capabilities::finding(inputs, &listeners))
        .chain(daemons)
        .chain(storage::warnings(inputs))
        .chain(iptables::warning(inputs.options, &inputs.facts.netfilter))
        .chain(network::warning(inputs))
        .chain(limits::warnings(inputs))
        .chain(rootless_limits::warning(inputs))
        .chain(rootless_network::warning(inputs))
        .chain(host_warnings(inputs.facts))
        .collect()
}

/// Returns those of the [`warnings`] that every container of this host gets.
pub fn host_warnings(facts: &Facts) -> Vec<Finding> {
    cgroups::warnings(&facts.container)
}

/// Returns the mount points at or below `/sys/fs/cgroup` that a start would mount, and those
/// that it would remount writable.
pub fn cgroup_mounts(facts: &Facts) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let container = &facts.container;
    let steps = mounts::plan(container)
        .into_iter()
        .chain(cgroups::plan(container));
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

/// Returns the fault that ends a start because it cannot write where it must, as with
/// `docker run --read-only`.
pub fn read_only(inputs: Inputs<'_>) -> Option<Fault> {
    let listeners = daemons::listeners(None, inputs.addresses());
    let tls = daemons::tls(None, inputs);
    let log_file = inputs.config.log == Log::File;
    read_only::fault(inputs, &listeners, tls.certificates.as_ref(), log_file)
}

/// Returns the fault that ends a start because this container lacks capabilities without which
/// dockerd does not start. That of CAP_SYS_ADMIN is [`role::unprivileged`].
pub fn incapable(inputs: Inputs<'_>) -> Option<Fault> {
    let listeners = daemons::listeners(None, inputs.addresses());
    capabilities::fault(inputs, &listeners)
}

/// Returns how many copies of a Docker image are stored when one container is created from it,
/// by the storage driver that a start would use.
pub fn image_copies(inputs: Inputs<'_>) -> u64 {
    storage::copies(inputs)
}

/// Returns how many archives of a Docker image are stored beside its copies: containerd's image
/// store keeps each layer as it came, and a graph driver keeps none. Where the store is not known,
/// it counts as containerd's.
pub fn image_archives(inputs: Inputs<'_>) -> u64 {
    match storage::store(inputs) {
        Some(Store::GraphDriver) => 0,
        Some(Store::Containerd) | None => 1,
    }
}

/// Returns the image store that dockerd would use, as far as it is known: see
/// [`stores_question`].
pub fn store(inputs: Inputs<'_>) -> Option<Store> {
    storage::store(inputs)
}

/// Whether a plan depends on which image stores dockerd has, and these have not been read:
/// [`Facts::with_image_stores`].
pub fn stores_question(inputs: Inputs<'_>) -> bool {
    storage::stores_question(inputs)
}

/// Returns the step that asks the kernel for nf_tables, if the iptables backend depends on it and no
/// file of the kernel shows it. In a user namespace nobody asks: there the legacy backend cannot load
/// what it needs.
pub fn netfilter_question(inputs: Inputs<'_>) -> Option<Step> {
    let question =
        iptables::netfilter_question(inputs.config, inputs.options, &inputs.facts.netfilter);
    question.filter(|_| inputs.rootless().is_none())
}

/// Returns the iptables backend that a start would choose, and the reason, as a finding of
/// severity note.
pub fn iptables_note(inputs: Inputs<'_>) -> Finding {
    let mounts = &inputs.facts.container.mounts;
    iptables::plan(
        inputs.config,
        inputs.options,
        &inputs.facts.netfilter,
        mounts,
        inputs.rootless().is_some(),
    )
    .note
}

/// Returns the MTU that a start would give to inner networks, in bytes; `None` where it leaves
/// the MTU to dockerd.
pub fn mtu(inputs: Inputs<'_>) -> Option<u32> {
    network::mtu(inputs)
}

/// Whether every address block for inner networks is taken, and the user has not chosen
/// addresses with dockerd's options.
pub fn addresses_exhausted(inputs: Inputs<'_>) -> bool {
    !inputs.options.addresses_set && network::block(&inputs.facts.networks).is_none()
}

/// Whether inner containers can reach none of this container's resolvers, so that dockerd gives
/// them public ones.
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
    let dockerd = find_dockerd(config, facts.programs.dockerd.as_deref())?;
    if let Some(fault) = already_running(facts) {
        return Err(fault);
    }
    let listeners = daemons::listeners(serve, inputs.addresses());
    let tls = daemons::tls(serve, inputs);
    let is_rootless = inputs.rootless().is_some();
    if let Some(fault) = capabilities::fault(inputs, &listeners) {
        return Err(fault);
    }
    if let Some(fault) = daemons::addresses_inside(inputs, &listeners) {
        return Err(fault);
    }
    let log_file = logs_to_file(&foreground, inputs);
    let certificates = tls.certificates.as_ref();
    if let Some(fault) = read_only::fault(inputs, &listeners, certificates, log_file) {
        return Err(fault);
    }
    let storage = storage::plan(inputs)?;
    let mounts = &facts.container.mounts;
    let saving = match inputs.save {
        Some(save) => Some(saving::plan(save, inputs, &listeners, &dockerd)?),
        None => None,
    };
    let warm_start = warm_start::plan(inputs, &dockerd, saving.as_ref())?;
    let iptables = iptables::plan(config, options, &facts.netfilter, mounts, is_rootless);
    let resolver = resolver::plan(inputs);
    let mut warnings = Vec::new();
    if !facts.pid1 {
        let seen = "not PID 1: orphans of other processes are not reaped, and processes that \
            are left at the end keep running";
        warnings.push(
            Finding::warning("not-pid-1", seen, "README.md#troubleshooting")
                .remedy("start the container without --init and without --pid=host"),
        );
    }
    warnings.extend(self::warnings(serve, inputs));
    warnings.extend(hooks::warnings(inputs));
    warnings.extend(warm_start.warning);
    // Loading nf_tables comes first: the iptables backend depends on the kernel's answer. Then
    // comes the lock: if another process holds it, nothing else in the container is changed.
    let mut steps: Vec<Step> = netfilter_question(inputs).into_iter().collect();
    steps.extend(storage.steps);
    let exec_root = exec_root::plan(inputs);
    steps.extend(exec_root.steps);
    let mut left_out: Vec<Finding> = exec_root.note.into_iter().collect();
    if !is_rootless {
        let first = in_use::kept(mounts::plan(&facts.container), inputs, &mut left_out);
        steps.extend(first);
        steps.extend(cgroups::plan(&facts.container));
        let last = in_use::kept(
            mounts::last(config, &facts.container),
            inputs,
            &mut left_out,
        );
        steps.extend(last);
    }
    let meanwhile = steps.extract_if(.., cgroups::can_wait).collect();
    // What the daemons find in their own mount namespace.
    let mut theirs: Vec<Step> = Vec::new();
    if is_rootless {
        theirs.extend(steps.extract_if(.., |step| matches!(step.action, Action::Mount { .. })));
    }
    let containerd = daemons::containerd(inputs).map(|(program, configuration)| {
        theirs.extend(configuration);
        program
    });
    theirs.extend(iptables.steps);
    let path = iptables.directory.as_deref();
    let mut environment = daemons::environment(config, facts.apparmor, path);
    environment.retain(|(name, _)| !(storage.drops_variable && name == "DOCKER_DRIVER"));
    let (session, more) = daemons::session_environment(inputs, &listeners);
    // The warnings are about the command's environment.
    let more = match foreground {
        Foreground::Command(_) => more,
        Foreground::Daemon => Vec::new(),
    };
    let warnings = warnings
        .into_iter()
        .chain(images::warning(inputs, &listeners))
        .chain(more)
        .collect();
    let rootless = match rootless::plan(inputs, &listeners, saving.as_ref(), theirs, &environment) {
        Ok(plan) => Some(plan),
        Err(own) => {
            steps.extend(own);
            None
        }
    };
    let (namespaces, user_network, rootless_arguments, forwarder, rootless_notes) = match rootless {
        Some(plan) => {
            steps.extend(plan.steps);
            (
                Some(plan.namespaces),
                plan.connector,
                plan.arguments,
                plan.forwarder,
                plan.notes,
            )
        }
        None => (None, None, Vec::new(), resolver.forwarder, Vec::new()),
    };
    let dockerds = namespaces.as_ref().map_or_else(
        || environment.clone(),
        |namespaces| rootless::environment(namespaces, &environment),
    );
    let dockerd = Program {
        path: dockerd,
        arguments: daemons::dockerd_arguments(
            arguments,
            options,
            &listeners,
            [
                rootless_arguments,
                tls.flags,
                storage.arguments,
                network::arguments(inputs),
                resolver.arguments,
            ]
            .concat(),
            containerd.is_some(),
        ),
        environment: dockerds,
        oom_score_adj: daemons::DOCKERD_OOM_SCORE,
    };
    let dmsetup = facts.programs.dmsetup.clone().filter(|_| !is_rootless);
    let dmsetup = dmsetup.map(|path| Program {
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
        namespaces,
        user_network,
        data_file: storage.data_file,
        filling: warm_start.filling,
        saving,
        network: network::own(inputs, path),
        certificates: tls.certificates,
        containerd,
        dockerd,
        forwarded: Forwarded::among(&listeners),
        forwarder,
        images: images::plan(inputs, &listeners),
        dmsetup,
        meanwhile,
        notify_socket: config.notify_socket.clone(),
        readiness: readiness(&listeners),
        hooks,
        listeners,
        log_file: log_file.then(|| LogPath {
            path: PathBuf::from(LOG_FILE),
            follow: facts.log_directory_own,
        }),
        foreground,
        environment: session,
        search_path: config.search_path.clone(),
        ready_timeout: config.ready_timeout,
        stop,
        restarts: config.restarts,
        emptied: storage.emptied,
        data_root: facts.data_root.path.clone(),
        stop_deaf: config.stop_deaf,
        limits: limits::plan(inputs),
        kills: facts.kills.clone(),
    };
    Ok(Plan {
        contract,
        warnings,
        notes: rootless_notes
            .into_iter()
            .chain(storage.note)
            .chain([iptables.note])
            .chain(resolver.note)
            .chain(left_out)
            .chain(limits::notes(inputs))
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

/// Whether the daemons log to [`LOG_FILE`]. If the user has not chosen, they do so beside a
/// command on a terminal, since their lines would mix with its output. wrapdocker always mixed
/// them.
fn logs_to_file(foreground: &Foreground, inputs: Inputs<'_>) -> bool {
    match (inputs.config.log, foreground) {
        (Log::File, _) => true,
        (Log::Stdio, _) | (Log::Auto, Foreground::Daemon) => false,
        (Log::Auto, Foreground::Command(_)) => {
            inputs.contract == Contract::Dind && inputs.surroundings.stdin == Stdin::Terminal
        }
    }
}

/// Returns the fault that ends a start because dockerd or containerd already runs in this
/// container. `None` where no pid file names a running daemon.
pub fn already_running(facts: &Facts) -> Option<Fault> {
    let (path, pid) = facts.running.as_ref()?;
    let path = path.display();
    Some(
        Fault::failure(format!(
            "a daemon already runs here with pid {pid}, according to {path}"
        ))
        .remedy("stop it first, or start another container"),
    )
}

#[cfg(test)]
mod tests;
