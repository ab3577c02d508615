//! Free space on the data root. The planner reports on the type of its file system.

use super::case::Case;
use crate::messages::finding::Finding;

/// With less than this, not even the daemons' databases can grow.
const LEAST_BYTES: u64 = 64 << 20;
/// With less than this, most images do not fit.
const FEW_BYTES: u64 = 1 << 30;
/// An image of a distribution has a few thousand files.
const LEAST_INODES: u64 = 1_000;
const FEW_INODES: u64 = 50_000;

/// Free bytes and inodes on the data root's file system, and whether it is read-only: statfs(2).
pub fn space(case: Case<'_>) -> Vec<Finding> {
    const LINK: &str = "https://docs.docker.com/engine/manage-resources/pruning/";
    const REMEDY: &str = "free space: docker system prune, and docker volume prune for volumes that \
        containers left behind; or put the data root on a larger file system";
    let path = case.inputs.facts.data_root.path.display();
    let Some(space) = case.host.space else {
        return Vec::new();
    };
    if space.read_only {
        let seen = format!("{path} is on a file system that is mounted read-only");
        return vec![
            Finding::error("data-root-read-only", seen, LINK)
                .remedy("mount it writable: dockerd writes there at once"),
        ];
    }
    let mib = space.bytes >> 20;
    let bytes = format!("{path} has {mib} MiB left");
    let inodes = |left| format!("{path} has {left} inodes left");
    let mut found = Vec::new();
    match space.bytes {
        ..LEAST_BYTES => found.push(Finding::error("space", bytes, LINK).remedy(REMEDY)),
        LEAST_BYTES..FEW_BYTES => found.push(Finding::warning("space", bytes, LINK).remedy(REMEDY)),
        _ => {}
    }
    match space.inodes {
        Some(left @ ..LEAST_INODES) => {
            found.push(Finding::error("inodes", inodes(left), LINK).remedy(REMEDY));
        }
        Some(left @ LEAST_INODES..FEW_INODES) => {
            found.push(Finding::warning("inodes", inodes(left), LINK).remedy(REMEDY));
        }
        Some(_) | None => {}
    }
    found
}
