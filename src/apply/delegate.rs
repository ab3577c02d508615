//! Delegation on cgroup v2: moves all processes from the root of the cgroup namespace into a
//! leaf, and enables every controller for children.
//!
//! A cgroup can enable domain controllers for its children only while it has no process
//! (cgroup-v2.rst, No Internal Process Constraint). `docker exec` and an `--init` outside can add
//! processes in the meantime, so both steps are repeated for a bounded time.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use tracing::{info, warn};

use crate::facts::processes;
use crate::messages::remedy::Remedy;
use crate::sys::read;

/// How long attempts are repeated. An attempt takes some 100 µs. It fails when a process entered
/// the root meanwhile, or cannot be moved because it is in another pid namespace, such as a health
/// probe, which exits after some milliseconds. The kernel has no event for that.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the user can do about a cgroup that cannot be read or changed.
const PRIVILEGED: &str = "start the container with --privileged";

/// The result of a delegation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegation {
    /// The number of attempts that were made.
    attempts: usize,
    /// Controllers that cannot be enabled, each with the error.
    pub refused: Vec<(String, String)>,
    /// Whether the cgroup's type is not `domain`. No process is moved then, and only threaded
    /// controllers are available: cgroup-v2.rst, Threads.
    pub threaded: bool,
}

/// A delegation that is not complete: `root` still had processes, so not all controllers are
/// enabled for its children. For [`finish`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    root: PathBuf,
    leaf: PathBuf,
}

/// The result of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The controllers are enabled, except those that the kernel refused.
    Done(Delegation),
    /// The cgroup still has processes, which may exit soon.
    Busy(Unfinished),
}

/// Moves every process of the cgroup at `root` into its child `leaf`, and enables every controller
/// of `root` for children. Copies `cpu.max` of `root` to the leaf, since Go programs derive their
/// number of processors from it. Makes one attempt. Idempotent. Fails where the kernel denies the
/// creation of the leaf, the move of a process or a read.
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
            return Err(error)
                .with_context(|| format!("cannot create the cgroup {}", unfinished.leaf.display()))
                .remedy(PRIVILEGED);
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

/// Repeats an attempt that found processes in the cgroup, for up to 1 s. Fails where
/// processes are still there after that. It yields the processor between attempts and does not
/// block, but can take that long, so PID 1 does not call it while it supervises.
pub fn finish(unfinished: &Unfinished) -> Result<Delegation> {
    let began = Instant::now();
    let mut attempts = 1;
    while began.elapsed() < PATIENCE {
        // A process that enters or exits may need this processor.
        nix::sched::sched_yield()?;
        attempts += 1;
        if let Some(delegation) = unfinished.attempt(attempts)? {
            return Ok(delegation);
        }
    }
    Err(anyhow!(
        "{} still has processes after {attempts} attempts in {} s: {}; some limits of inner \
         containers are missing",
        unfinished.root.display(),
        PATIENCE.as_secs(),
        named(&processes(&unfinished.root)?)
    )
    .remedy("end the program that keeps starting them, and restart the container"))
}

impl Delegation {
    /// Logs a warning for each refused controller and for a threaded cgroup, and a line where
    /// more than one attempt was needed.
    pub fn log(&self) {
        for (controller, reason) in &self.refused {
            warn!(
                controller = controller.as_str(),
                error = reason.as_str(),
                "cannot enable the {controller} controller ({reason}); going on without it"
            );
        }
        if self.threaded {
            warn!(
                "the cgroup of this container is threaded, so inner containers cannot have \
                 memory limits; start the container in a cgroup of type 'domain'"
            );
        }
        if self.attempts > 1 {
            info!(
                attempts = self.attempts,
                "enabled the cgroup controllers after {} attempts", self.attempts
            );
        }
    }
}

fn processes(root: &Path) -> Result<Vec<i32>> {
    processes::in_cgroup(root)
        .with_context(|| format!("cannot read {}/cgroup.procs", root.display()))
        .remedy(PRIVILEGED)
}

/// Moves every process of `root` that is visible in this pid namespace into `leaf`. Skips a
/// process that has exited meanwhile (ESRCH).
fn evacuate(root: &Path, leaf: &Path) -> Result<()> {
    let processes = processes(root)?;
    let target = leaf.join("cgroup.procs");
    for pid in processes.iter().filter(|pid| **pid != 0) {
        match fs::write(&target, pid.to_string()) {
            Err(error) if error.raw_os_error() != Some(Errno::ESRCH as i32) => {
                return Err(error)
                    .with_context(|| {
                        format!(
                            "cannot move process {pid} ({}) to {}",
                            processes::name(*pid),
                            leaf.display()
                        )
                    })
                    .remedy(PRIVILEGED);
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Whether `root` is threaded, or the domain of threaded cgroups: its `cgroup.procs` cannot be
/// read, or its children cannot be domains (cgroup-v2.rst, Threads). The root of the whole
/// hierarchy has no `cgroup.type`.
fn is_threaded(root: &Path) -> bool {
    read::kernel(root.join("cgroup.type")).is_ok_and(|kind| kind.trim_end() != "domain")
}

/// How [`enable`] takes EBUSY: as processes in the cgroup, to be retried, or as a controller that
/// is not available.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Busy {
    Retried,
    Refused,
}

/// Enables the controllers that are not enabled yet. `None` where processes in the cgroup prevent
/// it; otherwise the controllers that the kernel refused, each with the error.
fn enable(root: &Path, busy: Busy) -> Result<Option<Vec<(String, String)>>> {
    let control = root.join("cgroup.subtree_control");
    let words = |path: &Path| -> Result<BTreeSet<String>> {
        let text = read::kernel(path)
            .with_context(|| format!("cannot read {}", path.display()))
            .remedy(PRIVILEGED)?;
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
    // The kernel enables all or none of one write, so write them one by one.
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

/// Copies `cpu.max` to the leaf. The root of the whole hierarchy has none.
fn keep_cpu_max(root: &Path, leaf: &Path) -> Result<()> {
    let target = leaf.join("cpu.max");
    match read::kernel(root.join("cpu.max")) {
        Ok(limit) if target.exists() => fs::write(&target, limit.trim_end())
            .with_context(|| format!("cannot write {}", target.display()))
            .remedy(PRIVILEGED),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Formats processes for a message: the first five with pid and name, then the number of the
/// others.
fn named(processes: &[i32]) -> String {
    const SHOWN: usize = 5;
    let mut names: Vec<String> = processes
        .iter()
        .take(SHOWN)
        .map(|pid| match pid {
            0 => "a process of another pid namespace".to_owned(),
            pid => format!("{pid} ({})", processes::name(*pid)),
        })
        .collect();
    if processes.len() > SHOWN {
        names.push(format!("{} more", processes.len() - SHOWN));
    }
    if names.is_empty() {
        "all have exited since".to_owned()
    } else {
        names.join(", ")
    }
}
