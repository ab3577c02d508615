//! The data root, and what an earlier start left behind.

use std::path::Path;

use super::{Action, Emptied, OnFailure, Step};
use crate::config::Config;
use crate::facts::{Facts, Filesystem};
use crate::finding::Finding;

/// What dockerd gives its data root: the owner, and search for the group of a
/// remapped root (`setupDaemonRoot` in moby's daemon_unix.go).
const DATA_ROOT_MODE: u32 = 0o710;

/// The steps.
pub fn plan(facts: &Facts) -> Vec<Step> {
    let root = &facts.data_root;
    let mut steps = Vec::new();
    // Of a directory that is there only what would lock out or let in is changed.
    let wrong_mode = root
        .mode
        .is_none_or(|mode| mode & 0o022 != 0 || mode & 0o700 != 0o700);
    if wrong_mode {
        steps.push(Step {
            action: Action::Directory {
                path: root.path.clone(),
                mode: DATA_ROOT_MODE,
            },
            on_failure: OnFailure::Fatal(
                "dockerd needs its data root; mount a writable volume there",
            ),
            why: "dockerd's data root".into(),
        });
    }
    steps.push(Step {
        action: Action::Lock {
            path: root.path.clone(),
        },
        on_failure: OnFailure::Fatal(
            "the data root is in use, and two daemons would destroy it: stop the other container, \
             or give this one a volume of its own",
        ),
        why: "dockerd does not notice another one on its data root".into(),
    });
    steps.extend(facts.stale.iter().map(|path| {
        Step {
        action: Action::Remove { path: path.clone() },
        on_failure: OnFailure::Warn,
        why: "left behind by an earlier start, it would keep the daemon from starting: moby#40292"
            .into(),
    }
    }));
    steps
}

/// The data root, where it is to be emptied at the end.
pub fn emptied(config: &Config, facts: &Facts) -> Option<Emptied> {
    let path = &facts.data_root.path;
    config.ephemeral.then(|| Emptied {
        path: path.clone(),
        mounts: facts.mounts.below(path),
    })
}

/// What there is to know of where the data is: one warning for two causes with one cure.
pub fn warning(facts: &Facts) -> Option<Finding> {
    const LINK: &str = "https://docs.docker.com/engine/storage/drivers/select-storage-driver/";
    let root = &facts.data_root;
    let path = root.path.display();
    let flag = format!("give it a volume: docker run -v NAME:{path}");
    if let Filesystem::Unsuitable(name) = root.filesystem {
        let seen = format!(
            "{path} is on {name}, which overlay2 cannot use, so dockerd takes a slower storage driver"
        );
        return Some(Finding::warning("data-root-filesystem", seen, LINK).remedy(flag));
    }
    let own_mount = root
        .path
        .ancestors()
        .take_while(|ancestor| *ancestor != Path::new("/"))
        .any(|ancestor| facts.mounts.at(ancestor).is_some());
    let seen = format!("{path} is not a mount of its own, so its data ends with this container");
    (!own_mount).then(|| Finding::warning("data-root-volume", seen, LINK).remedy(flag))
}
