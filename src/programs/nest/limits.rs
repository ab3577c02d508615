//! What runs out on the way down, found before the way begins.

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
use crate::sys::process;
use crate::sys::wait;

/// What one more level takes in memory: its daemons, their shim, and the docker CLI that
/// waits for it. `tests/lab bench --deep` measures it; this is with some room.
pub const LEVEL_MEMORY: u64 = 100_000_000;

/// Their threads, on a machine of few processors.
const LEVEL_TASKS: u64 = 64;

/// The cgroups that a level stands below the one before it: `docker/ID`.
const LEVEL_CGROUP_DEPTH: u64 = 2;

/// Those, the leaf of its processes, and those of its daemon's own.
const LEVEL_CGROUPS: u64 = 5;

/// Of an image that is stored, in hundredths of its content: with blocks that are not full,
/// directories, and what dockerd notes about layers.
const STORED_PERCENT: u64 = 115;

/// As many levels as the kernel has (`MAX_PID_NS_LEVEL` in include/linux/pid_namespace.h),
/// and more than that is not looked for.
const MAX_PID_NAMESPACES: u8 = 32;

/// How long the count of them may take: it is that many forks.
const COUNT_DEADLINE: Duration = Duration::from_secs(10);

/// What there is. `None` is no limit, or one that cannot be seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// How many pid namespaces can be nested in this process's: pid_namespaces(7). `None`
    /// where they were not probed too.
    pub pid_namespaces: Option<u8>,
    /// Bytes of memory, by the host and by this container's limit.
    pub memory: Option<u64>,
    /// Threads and processes.
    pub tasks: Option<u64>,
    /// Bytes on the file system of the data root.
    pub disk: u64,
    /// Files on it.
    pub files: Option<u64>,
    /// `cgroup.max.depth`.
    pub cgroup_depth: Option<u64>,
    /// `cgroup.max.descendants`.
    pub cgroups: Option<u64>,
}

/// What a level puts on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// The bytes of its files.
    pub bytes: u64,
    /// How many they are.
    pub files: u64,
    /// How many times they are stored: the layer, and with a storage driver that cannot
    /// share it the container's copies of it.
    pub copies: u64,
}

/// Checks that there is room for `depth` levels, of which the first is there already. The
/// fault names all that will run out.
pub fn check(depth: u32, image: Image, room: Room) -> Result<(), Fault> {
    let below = u64::from(depth.saturating_sub(1));
    let mut short = Vec::new();
    // The containers of the innermost level need one, too.
    let left = room.pid_namespaces.unwrap_or(MAX_PID_NAMESPACES);
    if u64::from(left) < u64::from(depth) {
        let here = match room.pid_namespaces {
            Some(left) => {
                format!(", and of these {left} are left here, one for each level's containers")
            }
            None => String::new(),
        };
        short.push(format!(
            "pid namespaces: the kernel nests {MAX_PID_NAMESPACES} at most{here}; nest at most {left}"
        ));
    }
    let mb = |bytes: u64| format!("{} MB", bytes / 1_000_000);
    let stored = image
        .bytes
        .saturating_mul(image.copies)
        .saturating_mul(STORED_PERCENT)
        / 100;
    for (what, there, level, shown, way_out) in [
        (
            "memory",
            room.memory,
            LEVEL_MEMORY,
            mb as fn(u64) -> String,
            "give the container more",
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
            "give it a volume with more",
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
                "{what}: {needed} needed, {there} there; {way_out}, or nest at most {most}",
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
    /// Looks at this container, and at the file system that `data_root` is on, or will be.
    /// Changes nothing, so it leaves out the pid namespaces: see [`pid_namespaces`].
    pub fn read(data_root: &Path) -> Result<Self> {
        let disk = Space::read(data_root)
            .with_context(|| format!("cannot look at {}; check it", data_root.display()))?;
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

/// `max` and everything else that is no number is no limit.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The value behind a name: `NAME VALUE`, as in memory.stat, or `NAME: VALUE kB`.
fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
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
        // The page cache makes room when it has to.
        let cache = field(&directory.join("memory.stat"), cache).unwrap_or(0);
        Some(limit.saturating_sub(usage.saturating_sub(cache)))
    });
    host.into_iter().chain(own).min()
}

fn tasks(directory: &Path) -> Option<u64> {
    let limit = number(&directory.join("pids.max"))?;
    Some(limit.saturating_sub(number(&directory.join("pids.current"))?))
}

/// How many pid namespaces can be nested in this process's, by nesting them in a child: from
/// within a namespace nobody sees how deep it is. `None` where this process may make none.
pub fn pid_namespaces() -> Result<Option<u8>> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)
        .context("cannot make a pipe; raise the limit of open files")?;
    // Reaped with all other children.
    match process::fork().context("cannot fork; raise the container's pids limit")? {
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

/// Nests pid namespaces in this process's, each with one process, until the kernel refuses
/// or there are `most`, and returns how many there were: unshare(2), pid_namespaces(7).
/// `None` where this process may make none. Its later children would be in the first of
/// them, so it is to be a child that ends then.
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
        // A namespace ends with its first process, so that has to wait for those in it.
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
    fn what_is_short_is_named_with_what_would_do() {
        assert_eq!(check(31, IMAGE, PLENTY), Ok(()));
        for (depth, room, expected) in [
            (
                32,
                PLENTY,
                "pid namespaces: the kernel nests 32 at most, and of these 31 are left",
            ),
            (
                33,
                Room {
                    pid_namespaces: None,
                    ..PLENTY
                },
                "pid namespaces: the kernel nests 32 at most; nest at most 32",
            ),
            (
                5,
                Room {
                    memory: Some(250_000_000),
                    ..PLENTY
                },
                "memory: 400 MB needed, 250 MB there; give the container more, or nest at most 3",
            ),
            (
                3,
                Room {
                    disk: 600_000_000,
                    ..PLENTY
                },
                "disk space of the data root: 1150 MB needed, 600 MB there; give it a larger volume, or nest at most 2",
            ),
            (
                3,
                Room {
                    files: Some(19_999),
                    ..PLENTY
                },
                "files (inodes) of the data root: 20000 needed, 19999 there",
            ),
            (
                3,
                Room {
                    tasks: Some(100),
                    ..PLENTY
                },
                "(pids.max): 128 needed, 100 there; raise --pids-limit, or nest at most 2",
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

    #[test]
    fn everything_that_is_short_is_named() {
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
