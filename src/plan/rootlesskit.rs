//! What becomes of the variables for rootlesskit, of docker:dind-rootless and moby's
//! contrib/dockerd-rootless.sh: an effect, or a warning by name. A value that asks for what is done
//! anyway has neither.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use super::inputs::Inputs;
use super::listener::Listener;
use super::words::listed;
use crate::input::config::Config;
use crate::input::rootlesskit::Published;
use crate::input::variables::{self, Variable};
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

const MTU: Variable = variables::DOCKERD_ROOTLESS_ROOTLESSKIT_MTU;

const VARIABLES: [Row; 8] = [
    (
        variables::DOCKERD_ROOTLESS_ROOTLESSKIT_NET,
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
        let variables = set.iter().map(|((variable, ..), _)| variable.name());
        let flags = config.is_set(FLAGS).then(|| FLAGS.name());
        let names: Vec<&str> = flags.into_iter().chain(variables).collect();
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
    let variables = set
        .iter()
        .filter(|((_, done, ..), value)| !done.contains(&value.as_str()))
        .filter(|((variable, ..), _)| *variable != MTU || config.rootless_mtu.is_none())
        .map(|((variable, _, why, remedy), value)| {
            let value = secrets::hide_in_word(value);
            let seen = format!("{}={value:?} has no effect: {why}", variable.name());
            Finding::warning(CODE, seen, LINK).remedy(*remedy)
        });
    let ports = config.rootlesskit.published.iter();
    let ports = ports.filter_map(|published| port(published, listeners));
    variables.chain(ports).chain(flags(config)).collect()
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
