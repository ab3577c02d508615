//! dockerd's exec root: the state of running containers ends with the boot of the container.
//!
//! A host has its `/run` on a tmpfs; a container has it in its own layer. What a commit takes from
//! there is in a lower layer of the next container, where overlayfs renames no directory
//! (overlayfs.rst, Directories), and containerd could then neither remove the state of a container
//! nor start that container again.

use std::path::Path;

use super::action::{Action, OnFailure, Step};
use super::in_use::{self, What};
use super::inputs::Inputs;
use super::mounts::RESTRICTED;
use crate::messages::finding::Finding;

/// The mode that dockerd gives its exec root (`start` in moby's daemon/command/daemon.go).
const MODE: u32 = 0o700;

/// The part of a plan that is about the exec root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRootPlan {
    /// The steps that remove the state of an earlier boot, and the step that mounts a tmpfs.
    pub steps: Vec<Step>,
    /// That there is no tmpfs, since it would hide something.
    pub note: Option<Finding>,
}

/// Returns the plan for the exec root.
pub fn plan(inputs: Inputs<'_>) -> ExecRootPlan {
    let mounts = &inputs.facts.container.mounts;
    let root = &inputs.facts.exec_root;
    let mut steps: Vec<Step> = root
        .stale
        .iter()
        // A file system that is still mounted there is a container's.
        .filter(|path| mounts.at(path).is_none() && mounts.below(path).is_empty())
        .map(|path| Step {
            action: Action::RemoveTree { path: path.clone() },
            on_failure: OnFailure::Warn,
            why: "state of containers that ran before, which containerd and runc take for theirs"
                .into(),
        })
        .collect();
    if !may_have_tmpfs(inputs) {
        return ExecRootPlan { steps, note: None };
    }
    // What ends with the boot, too, may be on the tmpfs.
    let counts = |what| !matches!(what, What::ExecRoot | What::PidFile | What::OwnSocket);
    let hidden = in_use::hidden_by(&root.path, inputs, counts);
    let note = hidden.map(|hidden| in_use::not_mounted("tmpfs", &root.path, &hidden));
    if note.is_none() {
        steps.extend(tmpfs(&root.path));
    }
    ExecRootPlan { steps, note }
}

fn tmpfs(path: &Path) -> [Step; 2] {
    [
        Step {
            action: Action::Directory {
                path: path.to_owned(),
                mode: MODE,
            },
            // Then the mount fails, too, and says why.
            on_failure: OnFailure::Ignore,
            why: "dockerd's exec root".into(),
        },
        Step {
            action: Action::Mount {
                source: "tmpfs".into(),
                target: path.to_owned(),
                fstype: "tmpfs".into(),
                flags: RESTRICTED,
                data: format!("mode={MODE:04o}"),
            },
            on_failure: OnFailure::Warn,
            why: "the state of running containers ends with this container and is in no image that is made of it"
                .into(),
        },
    ]
}

/// Whether the exec root may get a tmpfs: where it is in the container's own layer, and nothing is
/// in it but dockerd's. What does not end with PID 1 may still be used when it has ended.
fn may_have_tmpfs(inputs: Inputs<'_>) -> bool {
    let facts = inputs.facts;
    let root = &facts.exec_root;
    let mounts = &facts.container.mounts;
    // An engine in a user namespace has a tmpfs on all of `/run`.
    inputs.rootless().is_none()
        && facts.pid1
        && !root.foreign
        // Its socket may be below, and it may run already.
        && !inputs.options.containerd
        && mounts.mount_point(&root.path) == Some(Path::new("/"))
        && mounts.below(&root.path).is_empty()
}
