//! What becomes of the variables for rootlesskit, of docker:dind-rootless and moby's
//! contrib/dockerd-rootless.sh: an effect, or a warning by name. A value that asks for what is done
//! anyway has neither. What else is for rootlesskit is warned of.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use super::inputs::Inputs;
use super::listener::Listener;
use super::words::listed;
use crate::input::config::Config;
use crate::input::rootlesskit::Published;
use crate::input::variables::{self, Foreign, Variable};
use crate::messages::finding::Finding;
use crate::messages::secrets;

const LINK: &str = "README.md#dockerdind-rootless";

const CODE: &str = "rootlesskit";

const FLAGS: Variable = variables::DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS;

/// A variable, the values that ask for what is done anyway, what another value would need, and what
/// the user can do.
type Row = (
    Variable,
    &'static [&'static str],
    &'static str,
    &'static str,
);

const NET: Variable = variables::DOCKERD_ROOTLESS_ROOTLESSKIT_NET;
const MTU: Variable = variables::DOCKERD_ROOTLESS_ROOTLESSKIT_MTU;

/// Those of dind's own that come before one of these.
const BEFORE: [(Variable, Variable); 2] = [
    (NET, variables::DIND_ROOTLESS_NETWORK),
    (MTU, variables::DIND_MTU),
];

const VARIABLES: [Row; 8] = [
    (
        NET,
        &["auto", "veth", "slirp4netns", "pasta"],
        "the drivers are veth, slirp4netns and pasta",
        "name one of these, or unset it for the fastest that is possible",
    ),
    (
        MTU,
        &["0"],
        "an MTU is 68 to 65535 bytes",
        "correct it, or unset it for the largest that the network takes",
    ),
    (
        variables::DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER,
        &["builtin", "implicit"],
        "published ports are dind's own business",
        "unset it",
    ),
    (
        variables::DOCKERD_ROOTLESS_ROOTLESSKIT_DISABLE_HOST_LOOPBACK,
        &["true"],
        "what listens on 127.0.0.1 of this container stays closed to inner ones",
        "let that program listen on this container's own address",
    ),
    (
        variables::DOCKERD_ROOTLESS_ROOTLESSKIT_SLIRP4NETNS_SANDBOX,
        &["auto", "false"],
        "slirp4netns has the mounts of this container",
        "unset it",
    ),
    (
        variables::DOCKERD_ROOTLESS_ROOTLESSKIT_SLIRP4NETNS_SECCOMP,
        &["auto", "false"],
        "slirp4netns has the seccomp profile of this container",
        "unset it, and start the container with --security-opt seccomp=dind.json",
    ),
    (
        variables::DOCKERD_ROOTLESS_ROOTLESSKIT_DETACH_NETNS,
        &["false", "0"],
        "dockerd pulls and pushes by the engine's own network",
        "unset it",
    ),
    (
        variables::DOCKERD_ROOTLESS_ROOTLESSKIT_STATE_DIR,
        &[],
        "no rootlesskit runs that could have a state",
        "unset it, and publish ports with docker run -p in the place of rootlessctl",
    ),
];

/// Flags that ask for what is done anyway.
const DONE: &[&str] = &[
    "cgroupns",
    "copy-up",
    "copy-up-mode",
    "disable-host-loopback",
    "ipcns",
    "reaper",
    "utsns",
];

/// What there is in the place of some of the others.
const INSTEAD: &[(&str, &str)] = &[
    ("debug", "set DIND_LOG=debug"),
    ("ipv6", "give dockerd --ipv6"),
    ("mtu", "set DIND_MTU"),
];

/// Returns the sockets that serve the API, too, because rootlesskit would publish the port of one of
/// `listeners` there.
pub fn listeners(config: &Config, listeners: &[Listener]) -> Vec<Listener> {
    let mut more: Vec<Listener> = Vec::new();
    for published in &config.rootlesskit.published {
        let Some(listener) = served(published, listeners) else {
            continue;
        };
        let mut others = listeners.iter().chain(&more);
        if !others.any(|other| covers(other, &listener)) {
            more.push(listener);
        }
    }
    more
}

/// The socket by which dind does for a port of the API what rootlesskit would do. `None` where it is
/// no port of the API, or cannot be served.
fn served(published: &Published, listeners: &[Listener]) -> Option<Listener> {
    let ip = match published.address {
        None => Ipv4Addr::UNSPECIFIED,
        Some(IpAddr::V4(address)) => address,
        Some(IpAddr::V6(_)) => return None,
    };
    let mut found = listeners.iter().filter(|_| published.tcp);
    found.find_map(|listener| match listener {
        // The port forwarder has one socket.
        Listener::Tcp {
            address,
            protection,
            required,
            forwarded: false,
        } if address.port() == published.inside => Some(Listener::Tcp {
            address: SocketAddrV4::new(ip, published.port),
            protection: *protection,
            required: *required,
            forwarded: false,
        }),
        Listener::Tcp { .. } | Listener::Unix { .. } => None,
    })
}

/// Whether who connects to the address of `listener` reaches `other`.
fn covers(other: &Listener, listener: &Listener) -> bool {
    match (other, listener) {
        (Listener::Tcp { address: other, .. }, Listener::Tcp { address, .. }) => {
            let same_port = other.port() == address.port();
            same_port && (other.ip().is_unspecified() || other.ip() == address.ip())
        }
        _ => false,
    }
}

/// Returns the warnings about what has no effect.
pub fn warnings(inputs: Inputs<'_>, listeners: &[Listener]) -> Vec<Finding> {
    let config = inputs.config;
    let set: Vec<(Row, String)> = VARIABLES
        .into_iter()
        .filter_map(|row| Some((row, config.text(row.0)?)))
        .collect();
    if inputs.rootless().is_none() {
        let variables = set.iter().map(|((variable, ..), _)| *variable);
        let others = [FLAGS, variables::DIND_ROOTLESS_NETWORK];
        let others = others.into_iter().filter(|other| config.is_set(*other));
        // The rest is dockerd's business, or another program's.
        let foreign = foreign(config).filter_map(|(name, of)| match of {
            Foreign::Nobody | Foreign::Containerd(_) => Some(name),
            Foreign::Program | Foreign::Children => None,
        });
        let mut names: Vec<&str> = others.chain(variables).map(Variable::name).collect();
        names.extend(foreign);
        if names.is_empty() {
            return Vec::new();
        }
        let seen = format!(
            "the engine runs with the rights of this container, so there is nothing that these are for: {}",
            names.join(", ")
        );
        return vec![
            Finding::warning(CODE, seen, LINK)
                .remedy("set DIND_ROOTLESS=1 for an engine in a user namespace, or unset them"),
        ];
    }
    let variables = set.iter().filter_map(|(row, value)| {
        let (variable, done, why, remedy) = *row;
        let (why, remedy) = match first(config, variable).filter(|(_, first)| first != value) {
            Some((first, _)) => {
                let why = format!("{} comes first", first.name());
                (why, "unset one of them")
            }
            None if done.contains(&value.as_str()) => return None,
            None if variable == MTU && config.rootless_mtu.is_some() => return None,
            None => (why.to_owned(), remedy),
        };
        let value = secrets::hide_in_word(value);
        let seen = format!("{}={value:?} has no effect: {why}", variable.name());
        Some(Finding::warning(CODE, seen, LINK).remedy(remedy))
    });
    let ports = config.rootlesskit.published.iter();
    let ports = ports.filter_map(|published| port(published, listeners));
    let foreign = foreign(config).map(|(name, of)| without_effect(name, of));
    variables
        .chain(ports)
        .chain(flags(config))
        .chain(foreign)
        .collect()
}

/// The variable of dind's own that comes before this one, if it is set, and its value.
fn first(config: &Config, variable: Variable) -> Option<(Variable, String)> {
    let mut before = BEFORE.into_iter();
    let (_, first) = before.find(|(second, _)| *second == variable)?;
    Some((first, config.text(first)?))
}

/// The names of variables that are set and for others.
fn foreign(config: &Config) -> impl Iterator<Item = (&str, Foreign)> {
    let set = config.environment.iter();
    let set = set.filter(|(_, value)| !value.is_empty());
    set.filter_map(|(name, _)| {
        let name = name.to_str()?;
        Some((name, Foreign::of(name)?))
    })
}

/// The warning about a variable for others.
fn without_effect(name: &str, of: Foreign) -> Finding {
    let (why, remedy) = match of {
        Foreign::Nobody => (
            "there is no such variable",
            "check its spelling: 'dind --help' has those that there are".to_owned(),
        ),
        Foreign::Containerd(Some(same)) => (
            "it is for nerdctl's containerd-rootless.sh",
            format!("set {} in its place", same.name()),
        ),
        Foreign::Containerd(None) => (
            "it is for nerdctl's containerd-rootless.sh",
            "unset it".to_owned(),
        ),
        Foreign::Program => (
            "dockerd is looked for in PATH",
            "put its directory first in PATH, or unset it".to_owned(),
        ),
        Foreign::Children => (
            "no rootlesskit runs that could have a state",
            "unset it".to_owned(),
        ),
    };
    let seen = format!("{name} has no effect: {why}");
    Finding::warning(CODE, seen, LINK).remedy(remedy)
}

/// The warning about a port that is not published.
fn port(published: &Published, listeners: &[Listener]) -> Option<Finding> {
    if served(published, listeners).is_some() {
        return None;
    }
    let Published { text, inside, .. } = published;
    let is_api = listeners.iter().any(
        |listener| matches!(listener, Listener::Tcp { address, .. } if address.port() == *inside),
    );
    let (why, remedy) = match is_api && published.tcp {
        true => (
            "this port of the API is served on 0.0.0.0 only",
            "use PORT for another port, or unset it",
        ),
        false => (
            "the API is not served on that port",
            "publish it with the container that listens there: docker run -p",
        ),
    };
    let seen = format!("{}: -p {text} has no effect: {why}", FLAGS.name());
    Some(Finding::warning(CODE, seen, LINK).remedy(remedy))
}

/// The warning about other flags.
fn flags(config: &Config) -> Option<Finding> {
    let flags = config
        .rootlesskit
        .others
        .iter()
        .map(|flag| flag.name.as_str());
    let mut names: Vec<&str> = flags.filter(|name| !DONE.contains(name)).collect();
    names.dedup();
    let instead: Vec<&str> = names
        .iter()
        .filter_map(|name| INSTEAD.iter().find(|(flag, _)| flag == name))
        .map(|(_, remedy)| *remedy)
        .collect();
    let shown: Vec<String> = names
        .iter()
        .map(|name| format!("--{}", secrets::hide_in_word(name)))
        .collect();
    if shown.is_empty() {
        return None;
    }
    let seen = format!(
        "{}: {} of rootlesskit, which is not used: no effect",
        FLAGS.name(),
        listed(&shown)
    );
    let remedy = match instead.is_empty() {
        true => "leave them out".to_owned(),
        false => format!("{}, and leave them out", listed(&instead)),
    };
    Some(Finding::warning(CODE, seen, LINK).remedy(remedy))
}
