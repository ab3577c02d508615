//! Processes, as /proc shows them at this moment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The pids in the cgroup of `directory` as its `cgroup.procs` lists them; 0 is a
/// process of a pid namespace that cannot be seen from here.
pub fn in_cgroup(directory: &Path) -> std::io::Result<Vec<i32>> {
    let text = fs::read_to_string(directory.join("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// The name of a process, or `?` where it has ended.
pub fn name(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_else(|_| "?".into());
    name.trim_end().to_owned()
}

/// The main processes of the containers of this process's own engine: the children of
/// the containerd shims that are its children, or its containerd's. Nobody else's,
/// though with `--pid=host` those of the host's engines are in sight too, and always
/// those of nested ones.
pub fn of_containers() -> Vec<i32> {
    let own = i32::try_from(std::process::id()).ok();
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
        (parent == own || grandparent == own) && name(*pid).starts_with("containerd-shim")
    };
    let shims: BTreeSet<i32> = parents.keys().copied().filter(is_shim).collect();
    parents
        .into_iter()
        .filter(|(pid, parent)| shims.contains(parent) && !shims.contains(pid))
        .map(|(pid, _)| pid)
        .collect()
}

/// The parent of a process. The name in `/proc/PID/stat` may hold anything, also
/// `)`, so the fields are counted from its end: proc_pid_stat(5).
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_found() {
        let own = i32::try_from(std::process::id()).ok();
        assert_eq!(own.and_then(parent), Some(nix::unistd::getppid().as_raw()));
    }
}
