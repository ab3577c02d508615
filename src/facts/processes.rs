//! The running processes, from `/proc` and cgroupfs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use nix::unistd::Pid;

use crate::sys::read;

/// The pids in `cgroup.procs` of the cgroup at `directory`. 0 stands for a process in a pid
/// namespace that is not visible from this one. Fails where the file cannot be read.
pub fn in_cgroup(directory: &Path) -> std::io::Result<Vec<i32>> {
    let text = read::kernel(directory.join("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// The name of a process from `/proc/PID/comm`, or `?` where it has exited.
pub fn name(pid: i32) -> String {
    let name = read::kernel(format!("/proc/{pid}/comm")).unwrap_or_else(|_| "?".into());
    name.trim_end().to_owned()
}

/// The children of the containerd shims whose parent is `supervisor` or its containerd, by shim:
/// the main processes of this engine's containers, and those of `docker exec`. Containers of other
/// engines are left out: those of the host, which are visible with `--pid=host`, and those of
/// nested engines.
pub fn by_shim(supervisor: Pid) -> BTreeMap<i32, Vec<i32>> {
    let supervisor = Some(supervisor.as_raw());
    let parents: BTreeMap<i32, i32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let is_shim = |pid: &i32| {
        let parent = parents.get(pid).copied();
        let grandparent = parent.and_then(|parent| parents.get(&parent).copied());
        (parent == supervisor || grandparent == supervisor)
            && name(*pid).starts_with("containerd-shim")
    };
    let mut shims: BTreeMap<i32, Vec<i32>> = parents
        .keys()
        .copied()
        .filter(is_shim)
        .map(|shim| (shim, Vec::new()))
        .collect();
    for (pid, parent) in &parents {
        if !shims.contains_key(pid)
            && let Some(children) = shims.get_mut(parent)
        {
            children.push(*pid);
        }
    }
    shims
}

/// The pids of the processes in [`by_shim`].
pub fn of_containers(supervisor: Pid) -> Vec<i32> {
    by_shim(supervisor).into_values().flatten().collect()
}

/// Whether a containerd shim runs, whosever it is: then a container may run.
pub fn has_shim() -> bool {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.any(|pid| name(pid).starts_with("containerd-shim"))
}

/// The pid of the first child of `supervisor` with this name. `None` where there is none.
pub fn child(supervisor: i32, name: &str) -> Option<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid| parent(*pid) == Some(supervisor) && self::name(*pid) == name)
}

/// The pid of a process's parent.
pub fn parent(pid: i32) -> Option<i32> {
    field(pid, 4)
}

/// When a process was started, in ticks since the start of the system. With the pid, it tells the
/// process from every other one.
pub fn started(pid: i32) -> Option<u64> {
    field(pid, 22)
}

/// A field of `/proc/PID/stat` after the second, the name. That can contain any character, also `)`,
/// so the fields are counted from the last `)`: proc_pid_stat(5).
fn field<T: FromStr>(pid: i32, number: usize) -> Option<T> {
    let stat = read::kernel(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let place = number.checked_sub(3)?;
    fields.split(' ').nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_parent_of_a_process() {
        let own = i32::try_from(std::process::id()).ok();
        assert_eq!(own.and_then(parent), Some(nix::unistd::getppid().as_raw()));
    }

    #[test]
    fn a_process_was_started_after_its_parent() {
        let own = i32::try_from(std::process::id()).ok();
        let (own, parent) = (
            own.and_then(started),
            own.and_then(parent).and_then(started),
        );
        assert!(parent.is_some() && parent <= own, "{parent:?} {own:?}");
    }
}
