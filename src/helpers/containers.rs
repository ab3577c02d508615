//! The end of inner containers: the watcher, which ends those that cannot react to their stop signal
//! once they have got it, and the ender, which sends the signals where there is no dockerd for it.
//!
//! Whether dockerd has sent the stop signal to a container cannot be read anywhere, since the kernel
//! drops it. SIGKILL before that would be wrong: dockerd restarts a container with `--restart` until
//! it has cancelled that, right before it sends the signal (`killWithSignal` in moby's
//! daemon/kill.go; `ShouldRestart` looks at the shutdown for `unless-stopped` only). So the watcher
//! traces the processes. A traced process stops for a signal that would be dropped, and not for one
//! that it waits for in sigwait(3). Then the signal is there, and whether there is a handler is
//! certain: if not, nothing that the process does can be the answer to that signal.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::poll;
use nix::unistd::{ForkResult, Pid, pipe2};
use tracing::{debug, info, warn};

use crate::facts::containers::{self, Container, MainProcess, has};
use crate::facts::processes;
use crate::input::config::StopDeaf;
use crate::messages::fault::Fault;
use crate::messages::remedy::Remedy;
use crate::plan::deaf::deaf;
use crate::plan::engine::Engine;
use crate::sys::trace::{self, Change};
use crate::sys::{process, wait};

/// How often the ender looks whether containers still run. Their processes are not its children.
const PAUSE: Duration = Duration::from_millis(50);

/// Forks the watcher, and returns once it traces the containers that seem to be deaf: only then may
/// their stop signals be sent. `supervisor` is PID 1. A container that cannot be traced is waited
/// for as any other.
pub fn watch(engine: &Engine, supervisor: Pid) -> Result<()> {
    let containers = containers::running(&engine.data_root, supervisor);
    fork_watcher(engine, &containers)
}

/// Sends the stop signals of the containers, and waits for their end, where dockerd has not done so.
/// `supervisor` is PID 1.
pub fn end(engine: &Engine, supervisor: Pid) -> Result<()> {
    let containers = containers::running(&engine.data_root, supervisor);
    if containers.is_empty() {
        return Ok(());
    }
    info!(
        "dockerd has left inner containers, which get their stop signals now: {}",
        names(&containers)
    );
    if let Err(error) = fork_watcher(engine, &containers) {
        warn!("{}", Fault::from(error));
    }
    for container in &containers {
        let signal = container
            .settings
            .map_or(libc::SIGTERM, |found| found.signal);
        let MainProcess { pid, shim, .. } = container.process;
        // Not another process with this pid.
        if processes::parent(pid) == Some(shim)
            && let Err(errno) = process::kill(Pid::from_raw(pid), signal)
        {
            warn!(
                pid,
                error = errno.desc(),
                "cannot signal {pid}: {}",
                errno.desc()
            );
        }
    }
    while !processes::of_containers(supervisor).is_empty() {
        // It ends early by a signal, which is no harm.
        let _ = poll(&mut [], wait::timeout(Some(PAUSE)));
    }
    Ok(())
}

fn fork_watcher(engine: &Engine, containers: &[Container]) -> Result<()> {
    let deaf = match engine.stop_deaf {
        StopDeaf::Kill => deaf(containers, engine.stop.total),
        StopDeaf::Wait => Vec::new(),
    };
    if deaf.is_empty() {
        return Ok(());
    }
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)
        .context("cannot make a pipe")
        .remedy("raise the limit of open files")?;
    let forked = process::fork()
        .context("cannot fork the watcher of containers")
        .remedy("raise the container's pids limit")?;
    match forked {
        ForkResult::Parent { .. } => {
            drop(writer);
            // The end of the file is that it traces them, or has ended.
            File::from(reader)
                .read_to_end(&mut Vec::new())
                .context("cannot read from a pipe")?;
            Ok(())
        }
        ForkResult::Child => {
            let traced = deaf.into_iter().filter(|deaf| trace(deaf)).collect();
            drop(writer);
            follow(traced);
            process::exit_child(0)
        }
    }
}

/// Traces the main process of a container. Returns whether it does, and still has that process.
fn trace(container: &Container) -> bool {
    let MainProcess { pid, shim, .. } = container.process;
    match trace::seize(Pid::from_raw(pid)) {
        Err(errno) => {
            debug!(
                "cannot trace {} ({pid}): {}, so it is waited for",
                container.name,
                errno.desc()
            );
            false
        }
        // From here on this pid is not used again, so another process would be seen now. That one
        // goes on as it was.
        Ok(()) => MainProcess::read(pid, shim).is_some_and(|process| process.init),
    }
}

/// Ends each of the traced processes when it has got its stop signal and has no handler for it, and
/// returns when there is no other left. The one line about them is logged before the last of them is
/// killed: dockerd, and then this whole container, may end right after that.
fn follow(mut traced: Vec<&Container>) {
    let mut ended = Vec::new();
    while !traced.is_empty() {
        let Some((pid, change)) = trace::wait() else {
            break;
        };
        let place = traced
            .iter()
            .position(|container| container.process.pid == pid.as_raw());
        let done = match change {
            Change::Gone => true,
            Change::Signal(signal) => place
                .and_then(|place| traced.get(place))
                .is_some_and(|container| is_in_vain(container, signal)),
            Change::GroupStop => false,
        };
        let container = place
            .filter(|_| done)
            .map(|place| traced.swap_remove(place));
        if let Some(container) = container
            && change != Change::Gone
        {
            ended.push(container);
        }
        if traced.is_empty() && !ended.is_empty() {
            log(&ended);
        }
        let gone_on = match change {
            Change::Gone => Ok(()),
            Change::Signal(_) if done => process::kill(pid, libc::SIGKILL),
            Change::Signal(signal) => trace::resume(pid, signal),
            Change::GroupStop => trace::listen(pid),
        };
        if let Err(errno) = gone_on {
            debug!("{pid}: {}, ignoring", errno.desc());
        }
    }
}

/// Whether a signal that is about to be delivered is the stop signal from outside, and dropped.
fn is_in_vain(container: &Container, signal: i32) -> bool {
    let pid = container.process.pid;
    container
        .settings
        .is_some_and(|found| found.signal == signal)
        && trace::is_from_outside(Pid::from_raw(pid)).unwrap_or_default()
        && MainProcess::caught_now(pid).is_some_and(|caught| !has(caught, signal))
}

fn log(ended: &[&Container]) {
    info!(
        "inner containers have no handler for their stop signal and are ended at once: {}; DIND_STOP_DEAF=wait gives them time all the same",
        names(ended.iter().copied())
    );
}

fn names<'a>(containers: impl IntoIterator<Item = &'a Container>) -> String {
    let names = containers
        .into_iter()
        .map(|container| container.name.as_str());
    names.collect::<Vec<_>>().join(", ")
}
