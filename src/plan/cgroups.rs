//! The cgroup hierarchies, mounted as on the parent, and on version 2 the delegation of
//! controllers to inner engines.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use super::action::{Action, OnFailure, Step};
use super::mounts::kept_flags;
use crate::facts::cgroup::{CGROUP_ROOT, Hierarchy, LEAF, Layout, Membership};
use crate::facts::container::ContainerFacts;
use crate::facts::mountinfo::Mount;
use crate::messages::finding::Finding;

/// The flags with which systemd mounts cgroup hierarchies.
const FLAGS: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

/// The directory in which systemd mounts the version 2 hierarchy of a hybrid host.
const UNIFIED_DIRECTORY: &str = "unified";

/// Returns the steps for the host's cgroup layout: mounts and links of version 1 hierarchies, or
/// the delegation on version 2.
pub fn plan(facts: &ContainerFacts) -> Vec<Step> {
    match facts.cgroup.layout() {
        Layout::Legacy | Layout::Hybrid => hierarchies(facts),
        Layout::Unified => delegation(facts),
    }
}

/// Returns the warnings about cgroups that only the host's administrator can act on.
pub fn warnings(facts: &ContainerFacts) -> Vec<Finding> {
    match facts.cgroup.layout() {
        Layout::Legacy | Layout::Hybrid => devices_warning(facts).into_iter().collect(),
        Layout::Unified => Vec::new(),
    }
}

/// Whether `step` can be carried out while the daemons start. On a hybrid host only processes of
/// containers look for the version 2 hierarchy, and its first mount in a cgroup namespace took
/// 7 to 13 ms.
pub fn can_wait(step: &mut Step) -> bool {
    matches!(&step.action, Action::Mount { fstype, target, .. }
        if fstype == "cgroup2" && target.ends_with(UNIFIED_DIRECTORY))
}

/// How a hierarchy is mounted, and its names below the cgroup root.
struct Target {
    fstype: &'static str,
    data: String,
    /// The directory of the mount, then every other name that programs look for.
    names: Vec<String>,
}

impl Target {
    fn of(hierarchy: &Hierarchy) -> Self {
        match hierarchy {
            Hierarchy::Controllers(controllers) => {
                let together = controllers.join(",");
                let mut names = vec![together.clone()];
                if controllers.len() > 1 {
                    names.extend(controllers.iter().cloned());
                    // Kernels have listed both `cpuacct,cpu` and `cpu,cpuacct`, and programs
                    // rely on either.
                    let reversed: Vec<&str> =
                        controllers.iter().rev().map(String::as_str).collect();
                    names.push(reversed.join(","));
                }
                Self {
                    fstype: "cgroup",
                    data: together,
                    names,
                }
            }
            Hierarchy::Named(name) => Self {
                fstype: "cgroup",
                data: format!("none,name={name}"),
                names: vec![name.clone(), format!("name={name}")],
            },
            Hierarchy::Unified => Self {
                fstype: "cgroup2",
                data: String::new(),
                names: vec![UNIFIED_DIRECTORY.to_owned()],
            },
        }
    }
}

/// Where a hierarchy is mounted below the cgroup root. It is recognised by the super options of
/// the mount, since directories may have any name.
fn mounted<'a>(hierarchy: &Hierarchy, facts: &'a ContainerFacts) -> Option<&'a Path> {
    let matches = |mount: &&Mount| match hierarchy {
        Hierarchy::Controllers(controllers) => {
            mount.fstype == "cgroup"
                && controllers
                    .iter()
                    .any(|controller| mount.super_options.contains(controller))
        }
        Hierarchy::Named(name) => {
            mount.fstype == "cgroup" && mount.super_options.contains(&format!("name={name}"))
        }
        Hierarchy::Unified => mount.fstype == "cgroup2",
    };
    facts
        .mounts
        .mounts
        .iter()
        .filter(|mount| mount.target.starts_with(CGROUP_ROOT))
        .find(matches)
        .map(|mount| mount.target.as_path())
}

fn hierarchies(facts: &ContainerFacts) -> Vec<Step> {
    let root = Path::new(CGROUP_ROOT);
    // Names that exist, or that an earlier step makes.
    let mut taken: BTreeSet<String> = facts.cgroup.entries.clone();
    let mut seen: Vec<&Hierarchy> = Vec::new();
    let mut directories = BTreeSet::new();
    let mut steps = Vec::new();
    for Membership { hierarchy, .. } in &facts.cgroup.memberships {
        if seen.iter().any(|other| other.overlaps(hierarchy)) {
            continue;
        }
        seen.push(hierarchy);
        let target = Target::of(hierarchy);
        let directory = match mounted(hierarchy, facts) {
            Some(directory) => directory.to_owned(),
            None => {
                let Some(name) = target.names.first() else {
                    continue;
                };
                let directory = root.join(name);
                if facts.mounts.at(&directory).is_some() || !directories.insert(name.clone()) {
                    continue;
                }
                taken.insert(name.clone());
                steps.extend(mount(&directory, &target));
                directory
            }
        };
        for name in &target.names {
            if let Some(step) = alias(&directory, &root.join(name))
                && taken.insert(name.clone())
            {
                steps.push(step);
            }
        }
    }
    steps
}

fn mount(directory: &Path, target: &Target) -> [Step; 2] {
    [
        Step {
            action: Action::Directory {
                path: directory.to_owned(),
                mode: 0o755,
            },
            on_failure: OnFailure::Warn,
            why: "mount point of a cgroup hierarchy of the parent".into(),
        },
        Step {
            action: Action::Mount {
                source: "cgroup".into(),
                target: directory.to_owned(),
                fstype: target.fstype.into(),
                flags: FLAGS,
                data: target.data.clone(),
            },
            on_failure: OnFailure::Warn,
            why: "the parent has this cgroup hierarchy, and it is not mounted here: cgroups(7)"
                .into(),
        },
    ]
}

/// The step that links `name` to `directory`; `None` if they are not siblings.
fn alias(directory: &Path, name: &Path) -> Option<Step> {
    if directory == name || directory.parent() != name.parent() {
        return None;
    }
    Some(Step {
        action: Action::Symlink {
            link: name.to_owned(),
            to: PathBuf::from(directory.file_name()?),
        },
        // A cgroup file system refuses symbolic links: jpetazzo/dind#89.
        on_failure: OnFailure::Ignore,
        why: "programs also look for the hierarchy under this name".into(),
    })
}

/// wrapdocker's warnings about the controller `devices`, in its words.
fn devices_warning(facts: &ContainerFacts) -> Option<Finding> {
    const LINK: &str = "https://man7.org/linux/man-pages/man7/cgroups.7.html";
    let devices =
        facts
            .cgroup
            .memberships
            .iter()
            .find_map(|membership| match &membership.hierarchy {
                Hierarchy::Controllers(controllers) => controllers
                    .iter()
                    .any(|controller| controller == "devices")
                    .then_some(controllers),
                Hierarchy::Named(_) | Hierarchy::Unified => None,
            });
    let words = match devices {
        Some(controllers) if controllers.len() > 1 => {
            "the 'devices' cgroup should be in its own hierarchy."
        }
        Some(_) => return None,
        None => "it looks like the 'devices' cgroup is not mounted.",
    };
    Some(Finding::warning("devices-cgroup", words, LINK))
}

fn delegation(facts: &ContainerFacts) -> Vec<Step> {
    let unified = &facts.cgroup.unified;
    let root = Path::new(CGROUP_ROOT);
    // In the host's cgroup namespace, which Kubernetes gives to privileged pods, the mount shows
    // the host's hierarchy.
    let remount = (!facts.cgroup.private_namespace()).then(|| {
        let mount = facts.mounts.at(root);
        mount.map_or(FLAGS, |mount| kept_flags(&mount.options))
    });
    let missing: Vec<String> = unified
        .controllers
        .difference(&unified.enabled)
        .cloned()
        .collect();
    // A hierarchy that an earlier step mounts shows its controllers only then.
    let unknown = unified.controllers.is_empty() && !facts.cgroup.entries.contains("cgroup.procs");
    if missing.is_empty() && !unknown && remount.is_none() {
        return Vec::new();
    }
    let step = Step {
        action: Action::Delegate {
            remount,
            root: root.to_owned(),
            leaf: LEAF.into(),
        },
        on_failure: OnFailure::Warn,
        why: "a cgroup with processes cannot enable domain controllers for its children: \
              cgroup-v2.rst, No Internal Process Constraint"
            .into(),
    };
    vec![step]
}
