//! cgroup v2: evacuate the root of the namespace into a leaf, and enable every
//! controller for children.
//!
//! A cgroup may enable domain controllers for its children only while no process is
//! in it (cgroup-v2.rst, No Internal Process Constraint). Meanwhile `docker exec`
//! and an `--init` outside may put new ones in, so both are repeated for a bounded
//! time.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use tracing::{info, warn};

use crate::facts::processes;

/// How long to go on. An attempt takes some 100 µs and fails when a process is in the
/// root that came within it, or that cannot be moved: one of another pid namespace,
/// such as a health probe's, which is gone after some milliseconds. The kernel has no
/// event for that.
const PATIENCE: Duration = Duration::from_secs(1);

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegation {
    /// How often it had to be tried.
    pub attempts: usize,
    /// Controllers that cannot be enabled here, and why.
    pub refused: Vec<(String, String)>,
    /// Whether the cgroup is of a threaded kind: nothing is evacuated then, and only
    /// controllers of threads are to be had.
    pub threaded: bool,
}

/// A cgroup whose controllers are not enabled for its children yet, since processes were in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    root: PathBuf,
    leaf: PathBuf,
}

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// Controllers are enabled.
    Done(Delegation),
    /// Processes are in the way, which may be gone soon.
    Busy(Unfinished),
}

/// Evacuates the cgroup at `root` into its child `leaf` and enables every
/// controller of `root` for children; the leaf keeps the `cpu.max` of `root`, by
/// which Go programs count their processors. Done before, it changes nothing. Tries once.
pub fn attempt(root: &Path, leaf: &str) -> Result<Attempt> {
    if is_threaded(root) {
        return Ok(Attempt::Done(Delegation {
            attempts: 1,
            refused: enable(root, Busy::Refused)?.unwrap_or_default(),
            threaded: true,
        }));
    }
    let unfinished = Unfinished {
        root: root.to_owned(),
        leaf: root.join(leaf),
    };
    match fs::create_dir(&unfinished.leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| {
                format!(
                    "cannot make the cgroup {}; start the container with --privileged",
                    unfinished.leaf.display()
                )
            });
        }
        Ok(()) | Err(_) => {}
    }
    Ok(match unfinished.attempt(1)? {
        Some(delegation) => Attempt::Done(delegation),
        None => Attempt::Busy(unfinished),
    })
}

impl Unfinished {
    fn attempt(&self, attempts: usize) -> Result<Option<Delegation>> {
        let Self { root, leaf } = self;
        evacuate(root, leaf)?;
        let Some(refused) = enable(root, Busy::Retried)? else {
            return Ok(None);
        };
        keep_cpu_max(root, leaf)?;
        Ok(Some(Delegation {
            attempts,
            refused,
            threaded: false,
        }))
    }
}

/// Goes on after an attempt that found processes in the way, for a bounded time. It does not wait for anything, but it takes its time: not for PID 1 while it
/// has something to supervise.
pub fn finish(unfinished: &Unfinished) -> Result<Delegation> {
    let began = Instant::now();
    let mut attempts = 1;
    while began.elapsed() < PATIENCE {
        // Whoever is on the way in or out may need this processor.
        nix::sched::sched_yield()?;
        attempts += 1;
        if let Some(delegation) = unfinished.attempt(attempts)? {
            return Ok(delegation);
        }
    }
    bail!(
        "{} still has processes after {attempts} attempts in {} s: {}; inner containers have no \
         limits; end what keeps starting them, and restart the container",
        unfinished.root.display(),
        PATIENCE.as_secs(),
        named(&processes(&unfinished.root)?)
    )
}

impl Delegation {
    /// Logs what the user should know of it.
    pub fn log(&self) {
        for (controller, reason) in &self.refused {
            warn!(
                controller = controller.as_str(),
                error = reason.as_str(),
                "the {controller} controller cannot be enabled ({reason}); going on without"
            );
        }
        if self.threaded {
            warn!(
                "the cgroup of this container is threaded, so inner containers can have no \
                 memory limits; start the container in a cgroup of the kind 'domain'"
            );
        }
        if self.attempts > 1 {
            info!(
                attempts = self.attempts,
                "cgroup controllers enabled at attempt {}", self.attempts
            );
        }
    }
}

fn processes(root: &Path) -> Result<Vec<i32>> {
    processes::in_cgroup(root)
        .with_context(|| format!("cannot read {}/cgroup.procs", root.display()))
}

/// Moves every process that can be seen out of `root`. One that has ended meanwhile is
/// as good as moved.
fn evacuate(root: &Path, leaf: &Path) -> Result<()> {
    let processes = processes(root)?;
    let target = leaf.join("cgroup.procs");
    for pid in processes.iter().filter(|pid| **pid != 0) {
        match fs::write(&target, pid.to_string()) {
            Err(error) if error.raw_os_error() != Some(Errno::ESRCH as i32) => {
                return Err(error).with_context(|| {
                    format!(
                        "cannot move process {pid} ({}) to {}; start the container with --privileged",
                        processes::name(*pid),
                        leaf.display()
                    )
                });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Whether `root` is threaded, or the domain of threaded ones: `cgroup.procs` cannot be
/// read in it, or its children cannot be domains (cgroup-v2.rst, Threads). The root of the
/// whole hierarchy has no type.
fn is_threaded(root: &Path) -> bool {
    fs::read_to_string(root.join("cgroup.type")).is_ok_and(|kind| kind.trim_end() != "domain")
}

/// What EBUSY means: processes in the cgroup, or a controller that is not to be had.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Busy {
    Retried,
    Refused,
}

/// Enables what is not enabled yet. `None` when processes stand in the way; else
/// the controllers that were refused for a reason of their own.
fn enable(root: &Path, busy: Busy) -> Result<Option<Vec<(String, String)>>> {
    let control = root.join("cgroup.subtree_control");
    let words = |path: &Path| -> Result<BTreeSet<String>> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    };
    let missing: Vec<String> = words(&root.join("cgroup.controllers"))?
        .difference(&words(&control)?)
        .cloned()
        .collect();
    let all: Vec<String> = missing
        .iter()
        .map(|controller| format!("+{controller}"))
        .collect();
    if all.is_empty() || fs::write(&control, all.join(" ")).is_ok() {
        return Ok(Some(Vec::new()));
    }
    // The kernel takes all of them or none, so ask again one by one.
    let mut refused = Vec::new();
    for controller in missing {
        match fs::write(&control, format!("+{controller}")) {
            Err(error)
                if busy == Busy::Retried && error.raw_os_error() == Some(Errno::EBUSY as i32) =>
            {
                return Ok(None);
            }
            Err(error) => refused.push((controller, error.to_string())),
            Ok(()) => {}
        }
    }
    Ok(Some(refused))
}

/// Copies `cpu.max` into the leaf. The root of the whole hierarchy has none.
fn keep_cpu_max(root: &Path, leaf: &Path) -> Result<()> {
    let target = leaf.join("cpu.max");
    match fs::read_to_string(root.join("cpu.max")) {
        Ok(limit) if target.exists() => fs::write(&target, limit.trim_end())
            .with_context(|| format!("cannot write {}", target.display())),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Processes for a message: each with its name, no more than fit on a line.
fn named(processes: &[i32]) -> String {
    const SHOWN: usize = 5;
    let mut names: Vec<String> = processes
        .iter()
        .take(SHOWN)
        .map(|pid| match pid {
            0 => "one of another pid namespace".to_owned(),
            pid => format!("{pid} ({})", processes::name(*pid)),
        })
        .collect();
    if processes.len() > SHOWN {
        names.push(format!("{} more", processes.len() - SHOWN));
    }
    if names.is_empty() {
        "each gone before it could be named".to_owned()
    } else {
        names.join(", ")
    }
}
