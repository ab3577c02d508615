//! Where the data is. What it lies on is the planner's to say.

use super::case::Case;
use crate::messages::finding::Finding;

/// Less than this, and not even the daemons' own databases can grow.
const LEAST_BYTES: u64 = 64 << 20;
/// Less than this, and most images do not fit.
const FEW_BYTES: u64 = 1 << 30;
/// An image of a distribution has some thousand files.
const LEAST_INODES: u64 = 1_000;
const FEW_INODES: u64 = 50_000;

/// Free space and inodes.
pub fn space(case: Case<'_>) -> Vec<Finding> {
    const LINK: &str = "https://docs.docker.com/engine/manage-resources/pruning/";
    const REMEDY: &str = "make room: docker system prune, and docker volume prune for volumes that \
        containers left behind; or put it on a larger file system";
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
