//! How much memory this container may use, and whether the kernel has killed for want of it:
//! Documentation/admin-guide/cgroup-v2.rst, Memory; cgroup-v1/memory.rst.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::cgroup::{Membership, Mounted, mounted};
use super::container::ContainerFacts;
use super::mountinfo::MountTable;
use super::proc;
use crate::sys::read;

/// In bytes: more than the files of a memory controller have that are read here.
const FILE_LIMIT: u64 = 4096;

/// The files that count the processes that the kernel has killed, the first that there is. Those
/// of version 2 without `.local` count the cgroups below, too; the kernel has the other since 5.2.
/// That of version 1 never does (`mem_cgroup_oom_control_read` in mm/memcontrol-v1.c).
const COUNTS: [&str; 3] = ["memory.events.local", "memory.events", "memory.oom_control"];

/// The files that hold the limit, of version 2 and of version 1.
const LIMITS: [&str; 2] = ["memory.max", "memory.limit_in_bytes"];

/// Version 1 has no word for no limit: it is the greatest number of pages, in bytes
/// (`PAGE_COUNTER_MAX` in linux/page_counter.h). No machine has half of that.
const NO_LIMIT: u64 = 1 << 62;

/// A limit on memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The limit in bytes.
    pub bytes: u64,
    /// The directory of the cgroup that has it.
    pub cgroup: PathBuf,
}

/// How many processes of a cgroup the kernel has killed for want of memory: of the cgroup itself,
/// and not of those below it, in which inner containers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kills {
    /// The directory of the cgroup.
    pub cgroup: PathBuf,
    /// The number of processes since the cgroup was made.
    pub count: u64,
}

/// The memory of the cgroup that this process is in, as its daemons are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// The processes that were killed. `None` where that cannot be read.
    pub kills: Option<Kills>,
    /// The lowest limit of the cgroup and of those above it, as far as they are visible. `None`
    /// where there is none.
    pub limit: Option<Limit>,
}

impl Memory {
    /// Reads it by the mounts and memberships of `container`.
    pub fn of(container: &ContainerFacts) -> Self {
        Self::read(&container.cgroup.memberships, &container.mounts)
    }

    /// Reads it by the mounts and memberships that this process has now. A start changes both.
    /// Fails where `/proc` cannot be read.
    pub fn now() -> Result<Self> {
        let memberships = Membership::parse(&proc::text("/proc/self/cgroup")?);
        Ok(Self::read(&memberships, &proc::mounts()?))
    }

    fn read(memberships: &[Membership], mounts: &MountTable) -> Self {
        let cgroups = mounted(memberships, mounts, "memory");
        Self {
            kills: kills(&cgroups),
            limit: limit(&cgroups),
        }
    }
}

/// The processes that were killed in the cgroup of `container`, by its mounts and memberships.
pub fn kills_of(container: &ContainerFacts) -> Option<Kills> {
    let memberships = &container.cgroup.memberships;
    kills(&mounted(memberships, &container.mounts, "memory"))
}

fn kills(cgroups: &[Mounted]) -> Option<Kills> {
    let mut cgroups = cgroups.iter().map(|cgroup| &cgroup.own);
    cgroups.find_map(|cgroup| {
        let mut counts = COUNTS.iter().map(|name| text(cgroup, name));
        let count = counts.find_map(|text| field(&text?, "oom_kill"))?;
        Some(Kills {
            cgroup: cgroup.clone(),
            count,
        })
    })
}

fn limit(cgroups: &[Mounted]) -> Option<Limit> {
    let directories = cgroups.iter().flat_map(Mounted::upwards);
    let limits = directories.filter_map(|directory| {
        let mut limits = LIMITS.iter().map(|name| text(directory, name));
        let bytes = limits.find_map(|text| text?.trim().parse().ok())?;
        Some(Limit {
            bytes,
            cgroup: directory.to_owned(),
        })
    });
    let limits = limits.filter(|limit| limit.bytes < NO_LIMIT);
    // Of equal limits the last is that of the highest cgroup, which has to be raised first.
    limits.reduce(|lowest, limit| match limit.bytes <= lowest.bytes {
        true => limit,
        false => lowest,
    })
}

fn text(directory: &Path, name: &str) -> Option<String> {
    read::text(&directory.join(name), FILE_LIMIT).ok().flatten()
}

/// The value of a field: `NAME VALUE`, one a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let (_, value) = lines.find(|(field, _)| *field == name)?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;

    use super::*;

    /// Cgroups as directories of plain files, removed on drop.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> io::Result<Self> {
            let name = format!("dind-memory-{name}-{}", std::process::id());
            let tree = Self(std::env::temp_dir().join(name));
            let _ = fs::remove_dir_all(&tree.0);
            for (path, content) in files {
                let path = tree.0.join(path);
                fs::create_dir_all(path.parent().unwrap_or(&tree.0))?;
                fs::write(path, content)?;
            }
            Ok(tree)
        }

        fn cgroups(&self, own: &str) -> [Mounted; 1] {
            [Mounted {
                top: self.0.clone(),
                own: self.0.join(own),
            }]
        }

        fn found(&self, own: &str) -> (Option<u64>, Option<(u64, String)>) {
            let cgroups = self.cgroups(own);
            let shown = |limit: Limit| {
                let path = limit.cgroup.strip_prefix(&self.0).unwrap_or(&limit.cgroup);
                (limit.bytes, path.display().to_string())
            };
            let count = kills(&cgroups).map(|kills| kills.count);
            (count, limit(&cgroups).map(shown))
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const EVENTS: &str = "low 0\nhigh 0\nmax 90\noom 7\noom_kill 7\noom_group_kill 0\n";
    const LOCAL: &str = "low 0\nhigh 0\nmax 0\noom 0\noom_kill 2\noom_group_kill 0\n";

    #[test]
    fn version_2_has_a_limit_above_the_leaf_and_counts_the_leafs_own_processes() -> io::Result<()> {
        let tree = Tree::new(
            "v2",
            &[
                ("memory.max", "41943040\n"),
                ("memory.events", EVENTS),
                ("memory.events.local", "oom_kill 0\n"),
                ("init/memory.max", "max\n"),
                ("init/memory.events", EVENTS),
                ("init/memory.events.local", LOCAL),
                ("docker/memory.events.local", "oom_kill 5\n"),
            ],
        )?;
        let limit = Some((41_943_040, String::new()));
        assert_eq!(tree.found("init"), (Some(2), limit.clone()));
        fs::remove_file(tree.0.join("init/memory.events.local"))?;
        assert_eq!(tree.found("init"), (Some(7), limit));
        // Of the limits above, the lowest; and none where there is none.
        fs::write(tree.0.join("init/memory.max"), "1000\n")?;
        assert_eq!(tree.found("init").1, Some((1000, "init".into())));
        fs::write(tree.0.join("init/memory.max"), "max\n")?;
        fs::write(tree.0.join("memory.max"), "max\n")?;
        assert_eq!(tree.found("init").1, None);
        Ok(())
    }

    #[test]
    fn version_1_has_a_number_for_no_limit() -> io::Result<()> {
        let tree = Tree::new(
            "v1",
            &[
                ("memory.limit_in_bytes", "9223372036854771712\n"),
                (
                    "memory.oom_control",
                    "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
                ),
                ("pod/memory.limit_in_bytes", "62914560\n"),
                ("pod/a/memory.limit_in_bytes", "62914560\n"),
                ("pod/a/memory.oom_control", "oom_kill_disable 0\n"),
            ],
        )?;
        assert_eq!(tree.found(""), (Some(3), None));
        // Before 4.13 the kernel did not count.
        let limit = Some((62_914_560, "pod".into()));
        assert_eq!(tree.found("pod/a"), (None, limit));
        Ok(())
    }

    #[test]
    fn what_is_no_number_or_no_file_is_not_known() -> io::Result<()> {
        let tree = Tree::new(
            "odd",
            &[
                ("memory.max", "lots"),
                ("memory.events", "oom_kill\noom_kill x\n"),
                ("b/memory.events/file", ""),
            ],
        )?;
        assert_eq!(tree.found(""), (None, None));
        assert_eq!(tree.found("b"), (None, None));
        assert_eq!(tree.found("missing"), (None, None));
        fs::write(tree.0.join("memory.events"), "oom_kill 1\n".repeat(1000))?;
        assert_eq!(tree.found(""), (None, None), "not read in part");
        Ok(())
    }
}
