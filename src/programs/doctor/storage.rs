//! Where a start writes: whether it can, and the free space on the data root. The planner reports
//! on the type of its file system.

use super::case::Case;
use crate::messages::finding::Finding;
use crate::plan;

/// With less than this, not even the daemons' databases can grow.
const LEAST_BYTES: u64 = 64 << 20;
/// With less than this, most images do not fit.
const FEW_BYTES: u64 = 1 << 30;
/// An image of a distribution has a few thousand files.
const LEAST_INODES: u64 = 1_000;
const FEW_INODES: u64 = 50_000;

/// Directories that a start writes to, on file systems that are mounted read-only.
pub fn read_only(case: Case<'_>) -> Vec<Finding> {
    const LINK: &str = "https://docs.docker.com/reference/cli/docker/container/run/#read-only";
    let fault = plan::read_only(case.inputs).filter(|_| case.host.in_container);
    let finding = fault.map(|fault| Finding::fault("read-only", fault, LINK));
    finding.into_iter().collect()
}

/// Free bytes and inodes on the data root's file system: statfs(2).
pub fn space(case: Case<'_>) -> Vec<Finding> {
    const LINK: &str = "https://docs.docker.com/engine/manage-resources/pruning/";
    const REMEDY: &str = "free space: docker system prune, and docker volume prune for volumes that \
        containers left behind; or put the data root on a larger file system";
    let path = case.inputs.facts.data_root.path.display();
    let Some(space) = case.host.space else {
        return Vec::new();
    };
    if space.read_only {
        // Nothing of it can be used, whatever is left.
        return Vec::new();
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
