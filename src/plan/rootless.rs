//! An engine in a user namespace: the namespaces, and what is done outside before and inside after they
//! are made.
//!
//! This process stays where it is and keeps the sockets. What is different is all here: the daemons
//! are its children as otherwise.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::action::{Action, OnFailure, Step};
use super::engine::{Connector, Saving};
use super::inputs::Inputs;
use super::listener::Listener;
use super::mode::{self, LINK, Mode};
use super::namespaces::{self, Namespaces, PORTS, Ports};
use super::resolver::Forwarder;
use super::rootless_limits;
use super::rootless_network::{self, Net};
use super::words::with_value;
use crate::facts::cgroup::Layout;
use crate::facts::nat::Rules;
use crate::facts::read_only::{KEY, RUN};
use crate::facts::surroundings::{SocketState, Surroundings};
use crate::input::config::Config;
use crate::input::dockerd_arguments::{DockerdArguments, DockerdOptions};
use crate::messages::fault::Fault;
use crate::messages::finding::Finding;
use crate::store::disk::PUBLISHED;

/// The variable by which dockerd finds rootlesskit.
const STATE: &str = "ROOTLESSKIT_STATE_DIR";

/// What the daemons make in `/run`: no links to what another start has left there.
const OWN_IN_RUN: &[&str] = &[
    "containerd",
    "dind",
    "dind-iptables",
    "dind-iptables-legacy",
    "docker",
    "docker.pid",
    "netns",
    "runc",
    "xtables.lock",
];

/// The part of a plan that is about an engine in a user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootlessPlan {
    /// The namespaces.
    pub namespaces: Namespaces,
    /// The program that connects their network with that of this container, if one does.
    pub connector: Option<Connector>,
    /// The steps in the namespaces of this process, before.
    pub steps: Vec<Step>,
    /// dockerd's arguments.
    pub arguments: Vec<OsString>,
    /// The DNS forwarder, for resolvers that cannot be reached from the namespaces.
    pub forwarder: Option<Forwarder>,
    /// The choice, and what follows from it.
    pub notes: Vec<Finding>,
}

/// Returns the plan, with `steps` as the ones that the daemons need where they run. The error is that
/// they run with the rights of this process, which carries out the steps.
pub fn plan(
    inputs: Inputs<'_>,
    listeners: &[Listener],
    saving: Option<&Saving>,
    steps: Vec<Step>,
    environment: &[(OsString, OsString)],
) -> Result<RootlessPlan, Vec<Step>> {
    let Mode::Rootless(rootless, maps, choice) = mode::decide(inputs.surroundings, inputs.config)
    else {
        return Err(steps);
    };
    let (networks, config) = (&inputs.facts.networks, inputs.config);
    let is_root = inputs.surroundings.user == 0;
    let user = rootless.account.user;
    let net = Net::free(networks);
    let has_cgroup = rootless_limits::has_cgroup(inputs);
    // In a cgroup namespace of its own the engine would see no more than the leaf that it is in.
    let cgroup = inputs.facts.container.cgroup.layout() == Layout::Unified && !has_cgroup;
    let (shown, ids) = (
        rootless.account.name.clone(),
        maps.users.iter().map(|extent| extent.count).sum::<u32>(),
    );
    let shown = shown.unwrap_or_else(|| user.to_string());
    let network = rootless_network::shown(&choice, net);
    let seen = format!(
        "rootless: the engine runs in a user namespace of {shown} with {ids} ids, and {network}"
    );
    let forwarder = rootless_network::forwarder(networks, config);
    let notes = [
        Some(Finding::note("rootless", seen, LINK)),
        forwarder.as_ref().map(rootless_network::forwards),
    ];
    let mut outside = match is_root {
        true => outside(inputs, listeners, saving),
        false => Vec::new(),
    };
    outside.extend(rootless_network::forwarding(&choice, rootless));
    outside.extend(rootless_limits::steps(inputs));
    let inside = inside(inputs, forwarder.as_ref());
    Ok(RootlessPlan {
        steps: outside,
        connector: rootless_network::connector(&choice, rootless, networks, config, environment),
        arguments: rootless_limits::arguments(inputs),
        notes: notes.into_iter().flatten().collect(),
        namespaces: Namespaces {
            user,
            group: rootless.account.group,
            maps,
            map_programs: rootless.map_programs.clone().filter(|_| !is_root),
            cgroup,
            veth: rootless_network::veth(&choice, rootless, networks, config),
            steps: [inside, steps].concat(),
            is_told: !has_cgroup,
            ports: Ports {
                directory: PORTS.into(),
                socket: "api.sock",
                address: net.address(),
                driver: choice.driver.name(),
            },
            resolver: forwarder.as_ref().map(|forwarder| forwarder.listen),
        },
        forwarder,
    })
}

/// Returns the same facts without the rules that a veth pair needs, for which the kernel was asked:
/// `refusal` is why. The fault is that nothing else connects the engine's network.
pub fn without_rules(
    surroundings: &Surroundings,
    config: &Config,
    refusal: Rules,
) -> Result<Surroundings, Fault> {
    let mut surroundings = surroundings.clone();
    if let Some(rootless) = &mut surroundings.rootless {
        rootless.nat.rules = refusal;
    }
    match mode::decide(&surroundings, config) {
        Mode::Impossible { missing, .. } => Err(mode::fault(&missing, surroundings.user)),
        Mode::Privileged | Mode::Rootless(..) => Ok(surroundings),
    }
}

/// Returns the environment of dockerd, which finds there, if it is told of its namespaces, where to ask
/// for published ports. From 28.0 on it does not start otherwise; before, it executes
/// `rootlesskit-docker-proxy` for each port. Where it finds `ROOTLESSKIT_STATE_DIR`, its paths are those
/// of an ordinary user, so that the other variables lead to the usual ones (`setPlatformDefaults` in
/// moby's daemon/config).
pub fn environment(
    namespaces: &Namespaces,
    daemons: &[(OsString, OsString)],
) -> Vec<(OsString, OsString)> {
    if !namespaces.is_told {
        // One of this container's own would tell it.
        let others = daemons.iter().filter(|(name, _)| name != STATE);
        return others.cloned().collect();
    }
    let directory = namespaces.ports.directory.clone().into_os_string();
    let mut path = directory.clone();
    if let Some((_, others)) = daemons.iter().find(|(name, _)| name == "PATH") {
        path.push(":");
        path.push(others);
    }
    let own: [(OsString, OsString); 5] = [
        ("PATH".into(), path),
        (STATE.into(), directory),
        ("XDG_CONFIG_HOME".into(), "/etc".into()),
        ("XDG_DATA_HOME".into(), "/var/lib".into()),
        ("XDG_RUNTIME_DIR".into(), RUN.into()),
    ];
    let is_own = |name: &OsString| own.iter().any(|(own, _)| own == name);
    let others = daemons.iter().filter(|(name, _)| !is_own(name)).cloned();
    others.chain(own.iter().cloned()).collect()
}

/// Returns the path of the Unix socket of an ordinary user's engine, which cannot be in `/var/run`:
/// `docker.sock` in `XDG_RUNTIME_DIR`, where docker:dind-rootless has it, too. `None` for root, for one
/// who names a socket, and where a daemon answers on the usual one.
pub fn socket(surroundings: &Surroundings, config: &Config) -> Option<PathBuf> {
    let is_named = config
        .docker_host
        .as_deref()
        .is_some_and(|host| host.starts_with("unix://"));
    let is_users = surroundings.user != 0
        && mode::is_rootless(surroundings, config)
        && surroundings.socket_state == SocketState::Free;
    if is_named || !is_users {
        return None;
    }
    Some(config.sockets_of(surroundings.user).join("docker.sock"))
}

/// Returns dockerd's arguments with the data root of an ordinary user's engine: the one of
/// docker:dind-rootless, so that a volume can go back and forth. `None` for root, and for one who names
/// a data root.
pub fn arguments(
    surroundings: &Surroundings,
    config: &Config,
    arguments: &DockerdArguments,
    options: &DockerdOptions,
) -> Option<DockerdArguments> {
    let is_users = surroundings.user != 0 && mode::is_rootless(surroundings, config);
    let home = config
        .home
        .as_ref()
        .filter(|_| is_users && !options.data_root_set)?;
    let flag = with_value("--data-root=", home.join(".local/share/docker"));
    let words: Vec<OsString> = arguments.words().cloned().collect();
    Some(DockerdArguments::new(&[flag], &words))
}

/// The steps of root before: what the engine's user gets of this container.
fn outside(inputs: Inputs<'_>, listeners: &[Listener], saving: Option<&Saving>) -> Vec<Step> {
    let Some(rootless) = &inputs.surroundings.rootless else {
        return Vec::new();
    };
    let user = rootless.account.user;
    let give = |path: &Path, on_failure, why: &str| Step {
        action: Action::Give {
            path: path.to_owned(),
            user,
            alone: path == inputs.facts.data_root.path
                || saving.is_some_and(|saving| path == saving.store),
        },
        on_failure,
        why: why.into(),
    };
    let fatal = |lost, remedy| OnFailure::Fatal { lost, remedy };
    let mut steps = vec![give(
        &inputs.facts.data_root.path,
        fatal(
            "the engine's user needs the data root",
            "use another volume",
        ),
        "the engine's root is this user outside of its user namespace",
    )];
    steps.extend(saving.into_iter().flat_map(|saving| {
        let why = "what the engine saves is put there inside of its user namespace";
        let lost = || {
            fatal(
                "the engine's user needs the store",
                "save to another directory",
            )
        };
        let made = PUBLISHED.map(|name| saving.store.join(name));
        let mut steps: Vec<Step> = Vec::new();
        for path in made {
            steps.push(Step {
                action: Action::Directory {
                    path: path.clone(),
                    // An image may have programs with the set-user-ID bit, and secrets.
                    mode: 0o700,
                },
                on_failure: lost(),
                why: why.into(),
            });
            steps.push(give(&path, lost(), why));
        }
        steps.push(give(&saving.store, lost(), why));
        steps
    }));
    steps.extend(
        listeners
            .iter()
            .filter_map(Listener::unix_path)
            .map(|path| {
                give(
                    path,
                    OnFailure::Warn,
                    "what runs beside the engine has no rights of this container's root",
                )
            }),
    );
    let devices = [("/dev/net/tun", rootless.tun), ("/dev/fuse", rootless.fuse)];
    let devices = devices.iter().filter(|(_, found)| mode::must_open(*found));
    steps.extend(devices.map(|(path, _)| Step {
        action: Action::Open { path: path.into() },
        on_failure: OnFailure::Warn,
        // An engine in an inner container has the same node, and another user.
        why:
            "the node in this container has the host's mode, by which only root may open it".into(),
    }));
    if rootless.own_home {
        let why = "what runs beside the engine has this home";
        steps.push(give(mode::home(), OnFailure::Ignore, why));
    }
    steps.push(Step {
        action: Action::Directory {
            path: KEY.into(),
            mode: 0o755,
        },
        on_failure: OnFailure::Ignore,
        why: "dockerd before 23.0 makes a key there".into(),
    });
    steps
}

/// The steps inside, before those of the daemons.
fn inside(inputs: Inputs<'_>, forwarder: Option<&Forwarder>) -> Vec<Step> {
    let covered = |path: &str, own, later, on_failure, why: &str| Step {
        action: Action::CopyUp {
            path: path.into(),
            own,
            later,
        },
        on_failure,
        why: why.into(),
    };
    let mut steps = vec![
        covered(
            RUN,
            OWN_IN_RUN,
            &[],
            OnFailure::Fatal {
                lost: "the engine needs a directory for its state",
                remedy: "see mount(2)",
            },
            "the engine's state, which ends with it, is below: this container's root has the other",
        ),
        covered(
            KEY,
            &["key.json"],
            // SIGHUP has dockerd read it, whenever it was made.
            &["daemon.json"],
            OnFailure::Ignore,
            "dockerd before 23.0 makes a key there",
        ),
        Step {
            action: Action::Share { target: "/".into() },
            on_failure: OnFailure::Warn,
            why: "inner containers may need rshared propagation: mount_namespaces(7)".into(),
        },
    ];
    steps.extend(proxy(inputs));
    let networks = &inputs.facts.networks;
    steps.extend(
        forwarder
            .into_iter()
            .flat_map(|forwarder| rootless_network::resolvers(forwarder, networks)),
    );
    steps
}

/// The steps by which dockerd finds this program in the place of docker-proxy: by [`environment`], or by
/// a flag of its own.
fn proxy(inputs: Inputs<'_>) -> Vec<Step> {
    let Some((rootless, _)) = inputs.rootless() else {
        return Vec::new();
    };
    let directory = Action::Directory {
        path: PORTS.into(),
        mode: 0o755,
    };
    let link = Action::Symlink {
        link: namespaces::proxy(),
        to: rootless.program.clone(),
    };
    [directory, link]
        .map(|action| Step {
            action,
            on_failure: OnFailure::Fatal {
                lost: "dockerd needs a program that publishes ports",
                remedy: "see symlink(2)",
            },
            why: "dockerd executes it for each port: before 28.0, and where it enforces limits"
                .into(),
        })
        .into()
}
