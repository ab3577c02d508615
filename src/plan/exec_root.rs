//! dockerd's exec root: the state of running containers ends with the boot of the container.
//!
//! A host has its `/run` on a tmpfs; a container has it in its own layer. What a commit takes from
//! there is in a lower layer of the next container, where overlayfs renames no directory
//! (overlayfs.rst, Directories), and containerd could then neither remove the state of a container
//! nor start that container again.

use std::path::Path;

use super::action::{Action, OnFailure, Step};
use super::inputs::Inputs;
use super::listener::Listener;
use super::mounts::RESTRICTED;

/// The mode that dockerd gives its exec root (`start` in moby's daemon/command/daemon.go).
const MODE: u32 = 0o700;

/// Returns the steps that remove the state of an earlier boot, and the step that mounts a tmpfs.
/// `listeners` are bound before.
pub fn plan(inputs: Inputs<'_>, listeners: &[Listener]) -> Vec<Step> {
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
    if has_tmpfs(inputs, listeners) {
        steps.push(Step {
            action: Action::Directory {
                path: root.path.clone(),
                mode: MODE,
            },
            // Then the mount fails, too, and says why.
            on_failure: OnFailure::Ignore,
            why: "dockerd's exec root".into(),
        });
        steps.push(Step {
            action: Action::Mount {
                source: "tmpfs".into(),
                target: root.path.clone(),
                fstype: "tmpfs".into(),
                flags: RESTRICTED,
                data: format!("mode={MODE:04o}"),
            },
            on_failure: OnFailure::Warn,
            why: "the state of running containers ends with this container and is in no image that is made of it"
                .into(),
        });
    }
    steps
}

/// Whether the exec root gets a tmpfs: where it is in the container's own layer, and nothing would
/// be hidden. What does not end with PID 1 may still be used when it has ended.
fn has_tmpfs(inputs: Inputs<'_>, listeners: &[Listener]) -> bool {
    let facts = inputs.facts;
    let root = &facts.exec_root;
    let mounts = &facts.container.mounts;
    let holds =
        |path: &Path| path.starts_with(&root.path) || path.starts_with(&inputs.options.exec_root);
    facts.pid1
        && !root.foreign
        // It would hold the data.
        && !facts.data_root.path.starts_with(&root.path)
        // Its socket may be below, and it may run already.
        && !inputs.options.containerd
        && mounts.mount_point(&root.path) == Some(Path::new("/"))
        && mounts.below(&root.path).is_empty()
        && !listeners.iter().filter_map(Listener::unix_path).any(holds)
}
