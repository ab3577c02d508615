//! Where a start writes: whether it can, and the free space on the data root. The planner reports
//! on the type of its file system.

use std::path::PathBuf;

use super::case::Case;
use crate::facts::space::Space;
use crate::messages::finding::Finding;
use crate::plan;

/// With less than this, not even the daemons' databases can grow.
const LEAST_BYTES: u64 = 64 << 20;
/// With less than this, most images do not fit.
const FEW_BYTES: u64 = 1 << 30;
/// An image of a distribution has a few thousand files.
const LEAST_INODES: u64 = 1_000;
const FEW_INODES: u64 = 50_000;

/// The state of a container takes 68 KiB and 18 to 23 inodes in the exec root; dockerd's own takes
/// 8 KiB and 17. With 64 KiB in all dockerd ran, and no container of 26.1 did.
const LEAST_RUNTIME_BYTES: u64 = 80 << 10;
const FEW_RUNTIME_BYTES: u64 = 4 << 20;
const LEAST_RUNTIME_INODES: u64 = 48;
const FEW_RUNTIME_INODES: u64 = 1_000;

/// Directories that a start writes to, on file systems that are mounted read-only.
pub fn read_only(case: Case<'_>) -> Vec<Finding> {
    const LINK: &str = "https://docs.docker.com/reference/cli/docker/container/run/#read-only";
    let fault = plan::read_only(case.inputs).filter(|_| case.host.in_container);
    let finding = fault.map(|fault| Finding::fault("read-only", fault, LINK));
    finding.into_iter().collect()
}

/// The store of images and build cache: what is in it, or why a start does not use it.
pub fn store(case: Case<'_>) -> Vec<Finding> {
    let versions = &case.host.versions;
    let dockerd = versions.iter().find(|(name, _)| name == "dockerd");
    let finding = plan::store_finding(case.inputs, dockerd.map(|(_, version)| version.as_str()));
    let finding = finding.filter(|_| case.host.in_container);
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
    let mib = space.bytes >> 20;
    let bytes = format!("{path} has {mib} MiB left");
    let inodes = |left| format!("{path} has {left} inodes left");
    let found = [
        low("space", space.bytes, [LEAST_BYTES, FEW_BYTES], LINK, bytes),
        space.inodes.and_then(|left| {
            low(
                "inodes",
                left,
                [LEAST_INODES, FEW_INODES],
                LINK,
                inodes(left),
            )
        }),
    ];
    // Of a read-only file system nothing can be used, whatever is left.
    let found = found.into_iter().flatten().filter(|_| !space.read_only);
    found.map(|finding| finding.remedy(REMEDY)).collect()
}

/// The same of the file systems for the state of running containers, usually `/run`.
pub fn runtime(case: Case<'_>) -> Vec<Finding> {
    const LINK: &str = "https://man7.org/linux/man-pages/man5/tmpfs.5.html";
    let of = |(path, space): &(PathBuf, Space)| {
        let path = path.display();
        let needed = "the state of each running container takes 70 KiB and 23 inodes there";
        let bytes = format!("{path} has {} KiB left, and {needed}", space.bytes >> 10);
        let limits = [LEAST_RUNTIME_BYTES, FEW_RUNTIME_BYTES];
        let few = [LEAST_RUNTIME_INODES, FEW_RUNTIME_INODES];
        [
            low("runtime-space", space.bytes, limits, LINK, bytes),
            space.inodes.and_then(|left| {
                let inodes = format!("{path} has {left} inodes left, and {needed}");
                low("runtime-inodes", left, few, LINK, inodes)
            }),
        ]
    };
    let found = case
        .host
        .runtime
        .iter()
        .filter(|(_, space)| !space.read_only);
    let remedy = "remove what fills it, or make it larger: docker run --tmpfs /run:size=64m";
    found
        .flat_map(of)
        .flatten()
        .filter(|_| case.host.in_container)
        .map(|finding| finding.remedy(remedy))
        .collect()
}

/// The finding that too little is left: an error below the first limit, a warning below the second.
fn low(
    code: &'static str,
    left: u64,
    [least, few]: [u64; 2],
    link: &'static str,
    seen: String,
) -> Option<Finding> {
    match left {
        left if left < least => Some(Finding::error(code, seen, link)),
        left if left < few => Some(Finding::warning(code, seen, link)),
        _ => None,
    }
}
