//! What depends on the host's kernel and cgroup layout, seen from both sides.
//! `tests/lab vm-test` runs this on a host of each layout; nothing here needs more of
//! an engine than its port.

use std::collections::BTreeSet;

use dind::facts::mountinfo::MountTable;

use crate::docker::{BUSYBOX, Container, Spec, all, dind, unprivileged};

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The standard output of a shell script that has the mounts of the host's PID 1.
#[track_caller]
fn on_host(script: &str) -> String {
    unprivileged()
        .flags(["--rm", "--privileged", "--pid=host"])
        .flags(["--entrypoint", "nsenter"])
        .run(&["--target", "1", "--mount", "sh", "-c", script])
        .text()
}

/// Takes away what Docker mounts on `/sys/fs/cgroup`, for dind to mount.
fn bare() -> Spec {
    dind().prelude("umount -R /sys/fs/cgroup; [ -z \"$(ls /sys/fs/cgroup)\" ]")
}

/// A hierarchy: its file system type, and its controllers or its name.
type Hierarchy = (String, BTreeSet<String>);

/// The cgroup hierarchies below `/sys/fs/cgroup`, each with its mount point.
fn hierarchies(mountinfo: &str) -> Vec<(Hierarchy, String)> {
    // What is not about which hierarchy it is.
    let options = ["rw", "ro", "xattr", "nsdelegate", "memory_recursiveprot"];
    MountTable::parse(mountinfo)
        .mounts
        .into_iter()
        .filter(|mount| mount.target.starts_with(CGROUP_ROOT))
        .filter(|mount| mount.fstype.starts_with("cgroup"))
        .map(|mount| {
            let names = mount.super_options.into_iter();
            let names = names.filter(|option| !options.contains(&option.as_str()));
            let target = mount.target.to_string_lossy().into_owned();
            ((mount.fstype, names.collect()), target)
        })
        .collect()
}

/// Every name in `/sys/fs/cgroup` that leads to a hierarchy, and which one.
const NAMES: &str = "
    for name in /sys/fs/cgroup /sys/fs/cgroup/*; do
        real=$(readlink -f $name)
        ! mountpoint -q $real || echo $name $real
    done";

/// The names of a host's or a container's hierarchies, out of its mountinfo and what
/// [`NAMES`] prints there.
fn names(mountinfo: &str, names: &str) -> BTreeSet<(String, Hierarchy)> {
    let mounts = hierarchies(mountinfo);
    names
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, target)| {
            let (hierarchy, _) = mounts.iter().find(|(_, mount)| mount == target)?;
            Some((name.to_owned(), hierarchy.clone()))
        })
        .collect()
}

/// The mounts of version 1 and hybrid hosts' hierarchies, with their options. On version
/// 2 they are not dind's alone to keep: runc mounts the hierarchy for every container,
/// and with `--cgroupns=host` gives it other options.
fn kept_mounts(mountinfo: &str) -> Vec<&str> {
    let lines = mountinfo.lines();
    lines
        .filter(|line| line.contains(" - cgroup") && line.contains(" /sys/fs/cgroup/"))
        .collect()
}

/// Every hierarchy of the host's is mounted in the container, under every name that
/// it has on the host, whether Docker has mounted them or not, and once however often
/// the container is started. Nothing is said against the cgroups, and the host's mounts
/// are as they were: a mount of cgroup2 can change the options of all the others.
#[test]
fn every_hierarchy_is_mounted_under_each_of_its_names() {
    let host = on_host("cat /proc/self/mountinfo");
    let theirs = names(&host, &on_host(NAMES));
    assert!(!theirs.is_empty(), "the host has hierarchies");
    // Under emulation each takes more than a minute.
    let starts = if all() { 3 } else { 2 };
    for spec in [dind(), bare()] {
        let container = spec.ready(&[]);
        let mut before = None;
        for start in 1..=starts {
            if start > 1 {
                container.docker(&["restart"]).exited(0);
                container.wait_ready_times(start);
            }
            let mountinfo = container.text(&["cat", "/proc/self/mountinfo"]);
            let ours = names(&mountinfo, &container.sh(NAMES));
            let missing: Vec<_> = theirs.difference(&ours).collect();
            assert!(missing.is_empty(), "{missing:#?}\nours: {ours:#?}");
            let mounted = hierarchies(&mountinfo);
            assert_eq!(
                *before.get_or_insert(mounted.clone()),
                mounted,
                "start {start}"
            );
            let now = on_host("cat /proc/self/mountinfo");
            assert_eq!(kept_mounts(&now), kept_mounts(&host), "start {start}");
        }
        container.not_logged(&["dind: warning:", "cgroup"]);
    }
}

/// Runs a container inside, and returns its id.
#[track_caller]
fn with_limit(container: &Container) -> String {
    container.load_busybox();
    let words = ["docker", "run", "--detach", "--memory", "64m", BUSYBOX];
    let words: Vec<&str> = words.into_iter().chain(["sleep", "100000"]).collect();
    container.text(&words)
}

/// What a shell script prints in a container inside.
#[track_caller]
fn said_by(container: &Container, inner: &str, script: &str) -> String {
    container.text(&["docker", "exec", inner, "sh", "-c", script])
}

/// On the host, a container inside is below the one that it is inside of, in every
/// hierarchy: it shares its limits, and goes with it.
#[track_caller]
fn is_below(container: &Container, inner: &str) {
    let outer = container.inspect("{{.Id}}");
    let found = on_host(&format!("find {CGROUP_ROOT}/ -type d -name '*{inner}*'"));
    assert!(!found.is_empty(), "the host has no cgroup of {inner}");
    for directory in found.lines() {
        let below = directory.split('/').any(|part| part.contains(&outer));
        assert!(below, "{directory} is not below {outer}");
    }
}

/// A container inside has its engine's AppArmor profile, where the kernel has AppArmor.
#[track_caller]
fn is_confined(container: &Container, inner: &str) {
    let parameter = "/sys/module/apparmor/parameters/enabled";
    let enabled = on_host(&format!("cat {parameter} 2>/dev/null || echo N"));
    let profile = "cat /proc/self/attr/current 2>/dev/null || echo none";
    let outer = container.sh(profile);
    let inner = said_by(container, inner, profile);
    println!("AppArmor: {enabled}; outer container: {outer}; container inside: {inner}");
    let confined = inner == "docker-default (enforce)";
    assert_eq!(confined, enabled == "Y", "{outer}, and inside {inner}");
}

/// In either cgroup namespace the limits of containers inside hold, and they are where
/// the host expects them.
#[test]
fn containers_inside_are_in_their_place_in_either_cgroup_namespace() {
    for namespace in ["private", "host"] {
        let container = dind().flags([format!("--cgroupns={namespace}")]).ready(&[]);
        let inner = with_limit(&container);
        let limit =
            "cd /sys/fs/cgroup; cat memory.max memory/memory.limit_in_bytes 2>/dev/null || :";
        let limit = said_by(&container, &inner, limit);
        assert_eq!(limit, "67108864", "bytes of memory");
        is_below(&container, &inner);
        is_confined(&container, &inner);
        container.not_logged(&["dind: warning:", "cgroup"]);
    }
}
