//! Limits of inner containers where the engine runs in a user namespace: whether the cgroup of this
//! container can be the engine's.
//!
//! With `--rootless` and without systemd dockerd has the cgroup driver `none`: it takes every limit
//! out of what it gives to runc (`cgroupDriver` in moby's daemon/daemon_unix.go, `WithRootless` in
//! oci_linux.go). Without `--rootless` it has `cgroupfs`, and no container starts where it may not
//! make cgroups. So it gets that flag wherever the cgroup is not the engine's, and nowhere else. Then
//! it may not find `ROOTLESSKIT_STATE_DIR` either: it takes that for the flag, and with the flag off it
//! does not start (`start` in moby's daemon/command/daemon.go).

use std::ffi::OsString;
use std::path::Path;

use super::action::{Action, OnFailure, Step};
use super::cgroups;
use super::inputs::Inputs;
use super::mode::LINK;
use super::namespaces;
use super::role::may_mount;
use super::words::{listed, with_value};
use crate::facts::cgroup::{CGROUP_ROOT, Layout};
use crate::messages::finding::Finding;

/// What a cgroup is delegated by, beside its directory: `/sys/kernel/cgroup/delegate`. The limits of
/// this container stay root's.
const DELEGATED: [&str; 3] = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"];

/// The limits, each with its controller.
const LIMITS: [(&str, &str); 3] = [
    ("memory", "--memory"),
    ("cpu", "--cpus"),
    ("pids", "--pids-limit"),
];

/// Whether the cgroup of this container becomes the engine's.
pub fn has_cgroup(inputs: Inputs<'_>) -> bool {
    inputs.rootless().is_some() && obstacle(inputs).is_none()
}

/// Returns the steps that make it so: the delegation, and for root the gift to the engine's user.
pub fn steps(inputs: Inputs<'_>) -> Vec<Step> {
    let Some((rootless, _)) = inputs.rootless().filter(|_| obstacle(inputs).is_none()) else {
        return Vec::new();
    };
    let mut steps = cgroups::plan(&inputs.facts.container);
    if inputs.surroundings.user == 0 {
        let root = Path::new(CGROUP_ROOT);
        let files = DELEGATED.iter().map(|name| root.join(name));
        steps.extend([root.to_owned()].into_iter().chain(files).map(|path| Step {
            action: Action::Give {
                path,
                user: rootless.account.user,
                alone: false,
            },
            on_failure: OnFailure::Warn,
            why: "the engine makes cgroups of inner containers: cgroup-v2.rst, Delegation".into(),
        }));
    }
    steps
}

/// Returns dockerd's arguments. Where it is not told that it is in a user namespace, it publishes ports
/// as dockerd otherwise does: a program of its own serves each, and this one asks for it outside.
pub fn arguments(inputs: Inputs<'_>) -> Vec<OsString> {
    match has_cgroup(inputs) {
        true => vec![with_value("--userland-proxy-path=", namespaces::proxy())],
        false => vec!["--rootless".into()],
    }
}

/// Returns the warning that limits of inner containers are not enforced, or some of them.
pub fn warning(inputs: Inputs<'_>) -> Option<Finding> {
    inputs.rootless()?;
    let warning = |flags: &[&str], why: String, remedy: &str| {
        let seen = format!(
            "rootless: limits of inner containers are not enforced ({}), since {why}",
            flags.join(", ")
        );
        Finding::warning("rootless-limits", seen, LINK).remedy(remedy)
    };
    if let Some((why, remedy)) = obstacle(inputs) {
        let all = LIMITS.map(|(_, flag)| flag);
        return Some(warning(&all, why, remedy));
    }
    let controllers = &inputs.facts.container.cgroup.unified.controllers;
    let missing = LIMITS
        .iter()
        .filter(|(controller, _)| !controllers.contains(*controller));
    let (names, flags): (Vec<_>, Vec<_>) = missing.copied().unzip();
    (!names.is_empty()).then(|| {
        let why = format!("{CGROUP_ROOT} has no controller {}", listed(&names));
        let remedy = "delegate it to the engine outside: systemd.resource-control(5), Delegate=";
        warning(&flags, why, remedy)
    })
}

/// Why the cgroup of this container cannot be the engine's, and what the user can do.
fn obstacle(inputs: Inputs<'_>) -> Option<(String, &'static str)> {
    let cgroup = &inputs.facts.container.cgroup;
    let is_writable = inputs
        .surroundings
        .rootless
        .as_ref()
        .is_some_and(|rootless| rootless.cgroup);
    if cgroup.layout() != Layout::Unified {
        let why = format!("the host has cgroup {}", cgroup.layout().name());
        return Some((why, "use a host with cgroup v2"));
    }
    if !cgroup.private_namespace() && !may_mount(inputs.surroundings) {
        let why = "this container is in the cgroup namespace of its host".to_owned();
        return Some((why, "start it with --cgroupns=private"));
    }
    match (is_writable, inputs.surroundings.user) {
        (true, _) => None,
        (false, 0) => Some((
            format!("{CGROUP_ROOT} is not writable"),
            "start it with --security-opt writable-cgroups=true (Docker 28 or later)",
        )),
        (false, user) => Some((
            format!("{CGROUP_ROOT} is not writable for user {user}"),
            "start it with --user 0 and a writable cgroup, or delegate it to that user",
        )),
    }
}
