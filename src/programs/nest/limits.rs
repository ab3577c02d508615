//! The resources that nested levels can exhaust, checked before the first of them starts.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::ForkResult;

use crate::facts::cgroup::CGROUP_ROOT;
use crate::facts::space::Space;
use crate::messages::fault::Fault;
use crate::messages::remedy::Remedy;
use crate::sys::process;
use crate::sys::read;
use crate::sys::wait;

/// The memory of one more level in bytes: its daemons, their shim, and the docker CLI that waits
/// for it. `tests/lab bench --deep` measures it; this is somewhat more.
const LEVEL_MEMORY: u64 = 100_000_000;

/// The threads of the same processes, on a machine with few processors.
const LEVEL_TASKS: u64 = 64;

/// By how many cgroups a level is below the level before it: `docker/ID`.
const LEVEL_CGROUP_DEPTH: u64 = 2;

/// The cgroups of one level: those two, the leaf of its processes, and those of its daemon.
const LEVEL_CGROUPS: u64 = 5;

/// The space of a stored image in percent of its content: with partly filled blocks,
/// directories, and dockerd's records of layers.
const STORED_PERCENT: u64 = 115;

/// The levels of pid namespaces that the kernel allows (`MAX_PID_NS_LEVEL` in
/// include/linux/pid_namespace.h), where the probe ends.
const MAX_PID_NAMESPACES: u8 = 32;

/// How long the probe may take: it makes that many forks.
const COUNT_DEADLINE: Duration = Duration::from_secs(10);

/// The resources that are left. `None` is no limit, or one that cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// How many pid namespaces can be nested in that of this process: pid_namespaces(7). `None`
    /// also where they were not probed.
    pub pid_namespaces: Option<u8>,
    /// Bytes of memory: the least of the host's and of this container's limit.
    pub memory: Option<u64>,
    /// Processes and threads: pids.max less pids.current.
    pub tasks: Option<u64>,
    /// Free bytes on the file system of the data root.
    pub disk: u64,
    /// Free inodes on it.
    pub files: Option<u64>,
    /// `cgroup.max.depth` of cgroup v2.
    pub cgroup_depth: Option<u64>,
    /// `cgroup.max.descendants` of cgroup v2.
    pub cgroups: Option<u64>,
}

/// The image that every level stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// The size of its files in bytes.
    pub bytes: u64,
    /// The number of its files.
    pub files: u64,
    /// How many times its files are stored: as a layer, and once more for each copy that a
    /// container of a storage driver without shared layers has.
    pub copies: u64,
    /// How many times its archive is stored beside them: it is as large, and one file.
    pub archives: u64,
}

/// Checks whether `room` is enough for `depth` levels, of which the first exists already. The
/// fault names every resource that will run out.
pub fn check(depth: u32, image: Image, room: Room) -> Result<(), Fault> {
    let below = u64::from(depth.saturating_sub(1));
    let mut short = Vec::new();
    // The containers of the innermost level need a pid namespace, too.
    let left = room.pid_namespaces.unwrap_or(MAX_PID_NAMESPACES);
    if u64::from(left) < u64::from(depth) {
        let here = match room.pid_namespaces {
            Some(left) => {
                format!(", of which {left} are left here, one for the containers of each level")
            }
            None => String::new(),
        };
        short.push(format!(
            "pid namespaces: the kernel nests at most {MAX_PID_NAMESPACES}{here}; nest at most {left}"
        ));
    }
    let mb = |bytes: u64| format!("{} MB", bytes / 1_000_000);
    let stored = image
        .bytes
        .saturating_mul(image.copies.saturating_add(image.archives))
        .saturating_mul(STORED_PERCENT)
        / 100;
    for (what, there, level, shown, way_out) in [
        (
            "memory",
            room.memory,
            LEVEL_MEMORY,
            mb as fn(u64) -> String,
            "give the container more memory",
        ),
        (
            "disk space of the data root",
            Some(room.disk),
            stored,
            mb,
            "give it a larger volume",
        ),
        (
            "files (inodes) of the data root",
            room.files,
            image.files.saturating_mul(image.copies),
            |count| count.to_string(),
            "give it a volume with more inodes",
        ),
        (
            "processes and threads (pids.max)",
            room.tasks,
            LEVEL_TASKS,
            |count| count.to_string(),
            "raise --pids-limit",
        ),
        (
            "depth of cgroups (cgroup.max.depth)",
            room.cgroup_depth,
            LEVEL_CGROUP_DEPTH,
            |count| count.to_string(),
            "raise it",
        ),
        (
            "number of cgroups (cgroup.max.descendants)",
            room.cgroups,
            LEVEL_CGROUPS,
            |count| count.to_string(),
            "raise it",
        ),
    ] {
        let needed = below.saturating_mul(level);
        if let Some(there) = there
            && there < needed
        {
            let most = there.checked_div(level).unwrap_or(0).saturating_add(1);
            short.push(format!(
                "{what}: {needed} needed, {there} left; {way_out}, or nest at most {most}",
                needed = shown(needed),
                there = shown(there),
            ));
        }
    }
    if short.is_empty() {
        return Ok(());
    }
    Err(Fault::failure(format!(
        "nest {depth}: too little is left for so many levels: {}",
        short.join("; ")
    )))
}

impl Room {
    /// Reads the limits of this container, and of the file system that `data_root` is on or will
    /// be. It changes nothing, so pid namespaces are `None`: see [`pid_namespaces`]. The error
    /// is that of statfs(2).
    pub fn read(data_root: &Path) -> Result<Self> {
        let disk = Space::read(data_root)
            .with_context(|| format!("cannot read the free space of {}", data_root.display()))
            .remedy("check its path")?;
        let root = Path::new(CGROUP_ROOT);
        let unified = |name: &str| number(&root.join(name));
        Ok(Self {
            pid_namespaces: None,
            memory: memory(root),
            tasks: tasks(root).or_else(|| tasks(&root.join("pids"))),
            disk: disk.bytes,
            files: disk.inodes,
            cgroup_depth: unified("cgroup.max.depth"),
            cgroups: unified("cgroup.max.descendants"),
        })
    }
}

/// The number in a file; `None`, which is no limit, for `max` and all other text.
fn number(path: &Path) -> Option<u64> {
    read::kernel(path).ok()?.trim().parse().ok()
}

/// The value of a field in a file: `NAME VALUE`, as in memory.stat, or `NAME: VALUE kB`.
fn field(path: &Path, name: &str) -> Option<u64> {
    let text = read::kernel(path).ok()?;
    let mut fields = text
        .lines()
        .map(str::split_whitespace)
        .find_map(|mut words| (words.next()? == name).then_some(words))?;
    fields.next()?.parse().ok()
}

fn memory(root: &Path) -> Option<u64> {
    let host =
        field(Path::new("/proc/meminfo"), "MemAvailable:").map(|kib| kib.saturating_mul(1024));
    let v1 = root.join("memory");
    let limits = [
        (root, "memory.max", "memory.current", "inactive_file"),
        (
            &v1,
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ];
    let own = limits.iter().find_map(|(directory, limit, usage, cache)| {
        let limit = number(&directory.join(limit))?;
        let usage = number(&directory.join(usage))?;
        // The kernel reclaims the inactive page cache under pressure.
        let cache = field(&directory.join("memory.stat"), cache).unwrap_or(0);
        Some(limit.saturating_sub(usage.saturating_sub(cache)))
    });
    host.into_iter().chain(own).min()
}

fn tasks(directory: &Path) -> Option<u64> {
    let limit = number(&directory.join("pids.max"))?;
    Some(limit.saturating_sub(number(&directory.join("pids.current"))?))
}

/// How many pid namespaces can be nested in that of this process, 32 at most. It nests them in a
/// child, since a process cannot see how deep its own namespace is. `None` where this process
/// may not create one. The error is that of pipe2(2) or fork(2).
pub fn pid_namespaces() -> Result<Option<u8>> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)
        .context("cannot make a pipe")
        .remedy("raise the limit of open files")?;
    // The child is reaped with all other children.
    match process::fork()
        .context("cannot fork")
        .remedy("raise the container's pids limit")?
    {
        ForkResult::Child => {
            let count = nest_pid_namespaces(MAX_PID_NAMESPACES);
            let _ = fs::File::from(writer).write_all(&[count.unwrap_or(u8::MAX)]);
            process::exit_child(0)
        }
        ForkResult::Parent { .. } => drop(writer),
    }
    let mut answer = [u8::MAX];
    let mut descriptors = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    if poll(&mut descriptors, wait::timeout(Some(COUNT_DEADLINE))).is_ok_and(|ready| ready > 0) {
        let _ = fs::File::from(reader).read(&mut answer);
    }
    let [count] = answer;
    Ok(Some(count).filter(|count| *count <= MAX_PID_NAMESPACES))
}

/// Nests pid namespaces in that of this process, each with one process, until the kernel refuses
/// or there are `most`, and returns their number: unshare(2), pid_namespaces(7). `None` where this
/// process may not create one. Later children of the caller would be in the first of them, so the
/// caller must be a child that then ends.
fn nest_pid_namespaces(most: u8) -> Option<u8> {
    if most == 0 {
        return Some(0);
    }
    match unshare(CloneFlags::CLONE_NEWPID) {
        Ok(()) => {}
        Err(Errno::EPERM) => return None,
        Err(_) => return Some(0),
    }
    match process::fork() {
        Ok(ForkResult::Child) => {
            let inside = nest_pid_namespaces(most - 1).unwrap_or(0);
            process::exit_child(i32::from(inside))
        }
        // A namespace ends with its first process, which therefore waits for those inside.
        Ok(ForkResult::Parent { child }) => match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, inside)) => {
                Some(u8::try_from(inside).unwrap_or(0).saturating_add(1))
            }
            _ => Some(0),
        },
        Err(_) => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: Image = Image {
        bytes: 500_000_000,
        files: 10_000,
        copies: 1,
        archives: 0,
    };

    const PLENTY: Room = Room {
        pid_namespaces: Some(31),
        memory: Some(u64::MAX),
        tasks: None,
        disk: u64::MAX,
        files: None,
        cgroup_depth: None,
        cgroups: None,
    };

    #[test]
    fn what_runs_out_is_named_with_its_remedy() {
        assert_eq!(check(31, IMAGE, PLENTY), Ok(()));
        for (depth, room, expected) in [
            (
                32,
                PLENTY,
                "pid namespaces: the kernel nests at most 32, of which 31 are left",
            ),
            (
                33,
                Room {
                    pid_namespaces: None,
                    ..PLENTY
                },
                "pid namespaces: the kernel nests at most 32; nest at most 32",
            ),
            (
                5,
                Room {
                    memory: Some(250_000_000),
                    ..PLENTY
                },
                "memory: 400 MB needed, 250 MB left; give the container more memory, or nest at most 3",
            ),
            (
                3,
                Room {
                    disk: 600_000_000,
                    ..PLENTY
                },
                "disk space of the data root: 1150 MB needed, 600 MB left; give it a larger volume, or nest at most 2",
            ),
            (
                3,
                Room {
                    files: Some(19_999),
                    ..PLENTY
                },
                "files (inodes) of the data root: 20000 needed, 19999 left",
            ),
            (
                3,
                Room {
                    tasks: Some(100),
                    ..PLENTY
                },
                "(pids.max): 128 needed, 100 left; raise --pids-limit, or nest at most 2",
            ),
            (
                4,
                Room {
                    cgroup_depth: Some(5),
                    ..PLENTY
                },
                "cgroup.max.depth",
            ),
            (
                4,
                Room {
                    cgroups: Some(5),
                    ..PLENTY
                },
                "cgroup.max.descendants",
            ),
        ] {
            let Err(fault) = check(depth, IMAGE, room) else {
                panic!("{depth} levels in {room:?}");
            };
            assert_eq!(fault.status, 1);
            assert!(fault.message.contains(expected), "{}", fault.message);
            assert_eq!(check(1, IMAGE, room), Ok(()));
        }
    }

    /// An archive takes space, and no inodes to speak of; a copy takes both.
    #[test]
    fn copies_and_archives_are_counted() {
        for (copies, archives, bytes, files) in [
            (1, 0, 575_000_000, 10_000),
            (1, 1, 1_150_000_000, 10_000),
            (3, 0, 1_725_000_000, 30_000),
            (3, 1, 2_300_000_000, 30_000),
        ] {
            let image = Image {
                copies,
                archives,
                ..IMAGE
            };
            let room = Room {
                disk: bytes,
                files: Some(files),
                ..PLENTY
            };
            assert_eq!(check(2, image, room), Ok(()));
            for less in [
                Room {
                    disk: bytes - 1,
                    ..room
                },
                Room {
                    files: Some(files - 1),
                    ..room
                },
            ] {
                assert!(check(2, image, less).is_err(), "{image:?} in {less:?}");
            }
        }
    }

    #[test]
    fn everything_that_runs_out_is_named() {
        let room = Room {
            pid_namespaces: Some(3),
            ..Room::default()
        };
        let Err(fault) = check(5, IMAGE, room) else {
            panic!("no fault");
        };
        for name in ["pid namespaces", "disk space"] {
            assert!(fault.message.contains(name), "{}", fault.message);
        }
    }

    #[test]
    fn reads_this_system() -> Result<()> {
        let room = Room::read(&std::env::temp_dir())?;
        assert!(room.disk > 0);
        assert!(room.memory.is_some_and(|memory| memory > 1_000_000));
        let left = pid_namespaces()?;
        assert!(left.is_none_or(|left| left <= MAX_PID_NAMESPACES));
        Ok(())
    }
}
