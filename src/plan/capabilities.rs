//! The capabilities that dockerd and the containers inside need, and what there cannot be without
//! one: capabilities(7).
//!
//! Each row was tried by dropping that capability alone, with 26.1; one of each kind with 20.10 and
//! 28.5, too.

use super::inputs::Inputs;
use super::listener::Listener;
use super::words::listed;
use crate::facts::capabilities::{Capability, CapabilitySet};
use crate::messages::fault::Fault;
use crate::messages::finding::Finding;

const LINK: &str =
    "https://docs.docker.com/engine/containers/run/#runtime-privilege-and-linux-capabilities";

/// What there cannot be without a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// dockerd exits before its API answers.
    Dockerd,
    /// Docker is ready, and runc fails on every container.
    Containers,
    /// Docker is ready, and runc fails on every container that is to have it: "unable to apply
    /// caps: operation not permitted". dockerd gives it to each, and refuses to drop what it does
    /// not have itself; only `--cap-drop ALL`, with what the container needs by `--cap-add`, helps.
    DefaultContainers,
}

/// Docker's fourteen defaults (`DefaultCapabilities` in moby's daemon/pkg/oci/caps), and what
/// dockerd itself needs.
const TABLE: [(Capability, &str, Lost); 16] = [
    (Capability::SYS_ADMIN, "SYS_ADMIN", Lost::Dockerd),
    // "failed to create NAT chain DOCKER: … Permission denied".
    (Capability::NET_ADMIN, "NET_ADMIN", Lost::Dockerd),
    // libnetwork's directory has the mode 0600, and dockerd binds a socket in it: "listen unix
    // /var/run/docker/libnetwork/….sock: bind: permission denied".
    (Capability::DAC_OVERRIDE, "DAC_OVERRIDE", Lost::Dockerd),
    // runc drops the supplementary groups of each: "setgroups: operation not permitted".
    (Capability::SETGID, "SETGID", Lost::Containers),
    (Capability::CHOWN, "CHOWN", Lost::DefaultContainers),
    (Capability::FSETID, "FSETID", Lost::DefaultContainers),
    (Capability::FOWNER, "FOWNER", Lost::DefaultContainers),
    (Capability::MKNOD, "MKNOD", Lost::DefaultContainers),
    (Capability::NET_RAW, "NET_RAW", Lost::DefaultContainers),
    (Capability::SETUID, "SETUID", Lost::DefaultContainers),
    (Capability::SETFCAP, "SETFCAP", Lost::DefaultContainers),
    (Capability::SETPCAP, "SETPCAP", Lost::DefaultContainers),
    (
        Capability::NET_BIND_SERVICE,
        "NET_BIND_SERVICE",
        Lost::DefaultContainers,
    ),
    (
        Capability::SYS_CHROOT,
        "SYS_CHROOT",
        Lost::DefaultContainers,
    ),
    (Capability::KILL, "KILL", Lost::DefaultContainers),
    (
        Capability::AUDIT_WRITE,
        "AUDIT_WRITE",
        Lost::DefaultContainers,
    ),
];

/// Returns the fault of a container in which dockerd would not start. `listeners` are bound by
/// this process.
pub fn fault(inputs: Inputs<'_>, listeners: &[Listener]) -> Option<Fault> {
    // In a user namespace its root has all of them.
    if inputs.rootless().is_some() {
        return None;
    }
    let gives_socket_away = listeners
        .iter()
        .any(|listener| matches!(listener, Listener::Unix { group: Some(_), .. }));
    let names = missing(given(inputs), |capability, lost| match capability {
        // chown(2) of the socket fails.
        Capability::CHOWN => gives_socket_away,
        // With `--bridge=none`, too, dockerd starts.
        Capability::NET_ADMIN => !inputs.options.iptables_off,
        _ => lost == Lost::Dockerd,
    });
    let message = format!("{}, so no daemon can run in it", lacks(&names)?);
    Some(Fault::failure(message).remedy(remedy(&names)))
}

/// Returns the finding that Docker will be ready here, and that containers will not start.
pub fn finding(inputs: Inputs<'_>, listeners: &[Listener]) -> Option<Finding> {
    let given = given(inputs);
    if inputs.rootless().is_some() {
        return None;
    }
    if !given.has(Capability::SYS_ADMIN) || fault(inputs, listeners).is_some() {
        return None;
    }
    let (seen, remedy) = containers(given)?;
    Some(Finding::error("capabilities", seen, LINK).remedy(remedy))
}

/// What was seen and what the user can do, where programs here have the capabilities `given`, and
/// no container of Docker's would start with them. `None` where containers do start.
pub fn containers(given: CapabilitySet) -> Option<(String, String)> {
    let of = |wanted: Lost| missing(given, |_, lost| lost == wanted);
    let needed = [of(Lost::Dockerd), of(Lost::Containers)].concat();
    let (names, follows) = match needed.is_empty() {
        false => (needed, "no inner container starts"),
        true => (
            of(Lost::DefaultContainers),
            "no inner container starts without --cap-drop ALL",
        ),
    };
    Some((format!("{}, so {follows}", lacks(&names)?), remedy(&names)))
}

/// The capabilities that dockerd, runc and containers can have.
fn given(inputs: Inputs<'_>) -> CapabilitySet {
    let surroundings = inputs.surroundings;
    surroundings.capabilities.of_programs(surroundings.user)
}

/// The names of those in the table that are not among `given` and that `counts` accepts.
fn missing(given: CapabilitySet, counts: impl Fn(Capability, Lost) -> bool) -> Vec<&'static str> {
    let rows = TABLE
        .iter()
        .filter(|(capability, _, lost)| !given.has(*capability) && counts(*capability, *lost));
    rows.map(|(_, name, _)| *name).collect()
}

fn lacks(names: &[&str]) -> Option<String> {
    let names: Vec<String> = names.iter().map(|name| format!("CAP_{name}")).collect();
    (!names.is_empty()).then(|| format!("this container has no {}", listed(&names)))
}

fn remedy(names: &[&str]) -> String {
    let flags: Vec<String> = names
        .iter()
        .map(|name| format!("--cap-add {name}"))
        .collect();
    format!("start it with --privileged, or with {}", flags.join(" "))
}
