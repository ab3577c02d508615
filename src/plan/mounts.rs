//! The mounts that a container needs before a daemon can run in it.

use std::path::Path;

use nix::mount::MsFlags;

use super::action::{Action, OnFailure, Step};
use crate::facts::cgroup::{CGROUP_ROOT, Layout, RootMount};
use crate::facts::container::ContainerFacts;
use crate::input::config::Config;

/// wrapdocker's message, which users search logs for.
const NO_TMPFS: &str = "Could not make a tmpfs mount. Did you use --privileged?";

/// One row of the mount table.
struct Row {
    source: &'static str,
    target: &'static str,
    fstype: &'static str,
    flags: MsFlags,
    data: &'static str,
    when: fn(&ContainerFacts) -> bool,
    on_failure: OnFailure,
    why: &'static str,
}

/// Flags for virtual file systems of the kernel: no container needs devices, set-user-ID or
/// executable files on them.
pub const RESTRICTED: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

/// The mount table, in the order of the steps.
const TABLE: &[Row] = &[
    Row {
        source: "cgroup",
        target: CGROUP_ROOT,
        fstype: "tmpfs",
        flags: RESTRICTED,
        data: "uid=0,gid=0,mode=0755",
        when: |facts| {
            facts.cgroup.root == RootMount::Nothing && facts.cgroup.layout() != Layout::Unified
        },
        on_failure: OnFailure::Fatal {
            lost: NO_TMPFS,
            remedy: "start the container with --privileged",
        },
        why: "the v1 hierarchies need a writable file system for their mount points: cgroups(7)",
    },
    Row {
        source: "cgroup",
        target: CGROUP_ROOT,
        fstype: "cgroup2",
        flags: RESTRICTED,
        data: "nsdelegate",
        when: |facts| {
            facts.cgroup.root == RootMount::Nothing && facts.cgroup.layout() == Layout::Unified
        },
        on_failure: OnFailure::Fatal {
            lost: "containers need cgroups",
            remedy: "start the container with --privileged",
        },
        why: "the parent has cgroup v2 and nothing is mounted here: cgroups(7)",
    },
    Row {
        source: "securityfs",
        target: "/sys/kernel/security",
        fstype: "securityfs",
        flags: RESTRICTED,
        data: "",
        when: |facts| {
            facts.security_directory && facts.mounts.at(Path::new("/sys/kernel/security")).is_none()
        },
        on_failure: OnFailure::Warn,
        why: "programs detect security modules through securityfs: moby#46852",
    },
];

/// The row for `/tmp`, which comes last: no later step needs the directory below.
const TMP: Row = Row {
    source: "tmpfs",
    target: "/tmp",
    fstype: "tmpfs",
    flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
    data: "mode=1777",
    when: |facts| facts.tmp_empty && facts.mounts.at(Path::new("/tmp")).is_none(),
    on_failure: OnFailure::Warn,
    why: "/tmp is empty, and builds are faster on a tmpfs: DIND_TMPFS=off prevents this",
};

/// Returns the mounts that come before those of the cgroup hierarchies.
pub fn plan(facts: &ContainerFacts) -> Vec<Step> {
    TABLE
        .iter()
        .filter_map(|row| row.step(facts))
        .chain(writable(facts))
        .collect()
}

/// Returns the mounts that come after all others: a tmpfs on `/tmp` if that is empty, and shared
/// propagation of every mount, so that containers which bind one with `rshared` see what is
/// mounted below it: mount_namespaces(7).
pub fn last(config: &Config, facts: &ContainerFacts) -> Vec<Step> {
    let tmp = TMP.step(facts).filter(|_| config.tmpfs);
    let share = Step {
        action: Action::Share { target: "/".into() },
        on_failure: OnFailure::Warn,
        why: "inner containers may need rshared propagation: mount_namespaces(7)".into(),
    };
    let share = (!facts.mounts.all_shared()).then_some(share);
    tmp.into_iter().chain(share).collect()
}

/// Remounts every read-only mount at or below the cgroup root. Engines mount it read-only unless
/// the container is privileged, and podman does so with some options.
fn writable(facts: &ContainerFacts) -> impl Iterator<Item = Step> {
    facts
        .mounts
        .mounts
        .iter()
        .filter(|mount| mount.target.starts_with(CGROUP_ROOT) && mount.read_only())
        .filter(|mount| facts.mounts.at(&mount.target) == Some(*mount))
        // The host's hierarchy is not touched: the delegation mounts another in its place.
        .filter(|_| facts.cgroup.layout() != Layout::Unified || facts.cgroup.private_namespace())
        .map(|mount| Step {
            action: Action::RemountWritable {
                target: mount.target.clone(),
                flags: kept_flags(&mount.options),
                superblock: mount.super_options.iter().any(|option| option == "ro"),
            },
            on_failure: OnFailure::Warn,
            why: "it is mounted read-only, and the daemons create cgroups in it".into(),
        })
}

/// Returns the mount flags among `options`, which are mountinfo's. A remount clears those that it
/// does not repeat: mount(2).
pub fn kept_flags(options: &[String]) -> MsFlags {
    options
        .iter()
        .map(|option| match option.as_str() {
            "nosuid" => MsFlags::MS_NOSUID,
            "nodev" => MsFlags::MS_NODEV,
            "noexec" => MsFlags::MS_NOEXEC,
            "noatime" => MsFlags::MS_NOATIME,
            "nodiratime" => MsFlags::MS_NODIRATIME,
            "relatime" => MsFlags::MS_RELATIME,
            _ => MsFlags::empty(),
        })
        .fold(MsFlags::empty(), MsFlags::union)
}

impl Row {
    fn step(&self, facts: &ContainerFacts) -> Option<Step> {
        (self.when)(facts).then(|| Step {
            action: Action::Mount {
                source: self.source.into(),
                target: self.target.into(),
                fstype: self.fstype.into(),
                flags: self.flags,
                data: self.data.into(),
            },
            on_failure: self.on_failure,
            why: self.why.into(),
        })
    }
}
