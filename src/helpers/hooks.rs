//! Runs the user's hooks: what a child of PID 1's own does at their times of a start and a
//! stop. It is not PID 1, so it may wait for them, but never without a deadline.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use tracing::{error, info, warn};

use crate::messages::fault::Fault;
use crate::sys::end::End;
use crate::sys::process;
use crate::sys::signals::Signals;
use crate::sys::spawn::{self, Child, Session};

/// The status of a hook that took too long, as timeout(1) has it.
const TIMED_OUT: u8 = 124;

/// How hooks are run.
pub struct Runner<'a> {
    /// How long each may take.
    pub timeout: Duration,
    /// What one has between SIGTERM and SIGKILL, and after that to be gone.
    pub grace: Duration,
    /// Their environment.
    pub environment: &'a [(OsString, OsString)],
    /// Their standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// The signals of this process, of which SIGTERM ends the hook that runs.
    pub signals: &'a mut Signals,
    /// The user's file mode creation mask.
    pub umask: Mode,
    /// Whether those after one that has failed are not run.
    pub until_failure: bool,
    /// Whether SIGTERM has come.
    pub stopped: bool,
}

/// How a hook that was started came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    /// By itself.
    Ended(End),
    /// It took too long.
    TimedOut,
    /// This process was told to end.
    Stopped,
}

impl Runner<'_> {
    /// Runs them, one after the other, and names those that fail. Returns the status of the
    /// first of these, as a shell would have it; 0 where none did.
    pub fn run(&mut self, hooks: &[PathBuf]) -> u8 {
        let mut status = 0;
        for path in hooks {
            info!(hook = %path.display(), "hook {}", path.display());
            let failed = match self.run_one(path) {
                Ok(Finish::Ended(End::Exited(0))) => 0,
                Ok(Finish::Ended(end)) => {
                    failed(
                        path,
                        end.status(),
                        format_args!("{end}; its output says why"),
                    );
                    end.status()
                }
                Ok(Finish::TimedOut) => {
                    let seconds = self.timeout.as_secs_f64();
                    failed(
                        path,
                        TIMED_OUT,
                        format_args!(
                            "has not ended within {seconds} s and was killed; a longer \
                             DIND_HOOK_TIMEOUT gives it more"
                        ),
                    );
                    TIMED_OUT
                }
                Ok(Finish::Stopped) => {
                    warn!(
                        hook = %path.display(),
                        "hook {} was ended by the container's stop",
                        path.display()
                    );
                    End::Signaled(libc::SIGTERM).status()
                }
                Err(fault) => {
                    error!(hook = %path.display(), status = fault.status, "hook: {fault}");
                    fault.status
                }
            };
            status = if status == 0 { failed } else { status };
            if self.stopped || (failed != 0 && self.until_failure) {
                break;
            }
        }
        status
    }

    fn run_one(&mut self, path: &Path) -> Result<Finish, Fault> {
        let pid = spawn::spawn(&Child {
            path,
            arguments: vec![path.as_os_str()],
            environment: self.environment,
            stdio: Some(self.stdio),
            descriptors: Vec::new(),
            session: Session::Own,
            dies_with_parent: true,
            oom_score_adj: None,
            inherited: self.signals.inherited(),
            umask: Some(self.umask),
        })
        .map_err(|error| error.fault(path.as_os_str()))?;
        let outcome = self.wait(pid, self.timeout, true)?;
        if !matches!(outcome, Finish::Ended(_)) {
            // What it has started is in its process group, but for what made its own.
            let group = Pid::from_raw(-pid.as_raw());
            let _ = process::kill(group, libc::SIGTERM);
            let told = self.wait(pid, self.grace, false)?;
            // Others of the group may care less for SIGTERM than the first of them.
            let _ = process::kill(group, libc::SIGKILL);
            if !matches!(told, Finish::Ended(_)) {
                self.wait(pid, self.grace, false)?;
            }
        }
        Ok(outcome)
    }

    /// Waits until a hook has ended, for so long; where `until_stop`, no longer than until
    /// a stop.
    fn wait(&mut self, pid: Pid, patience: Duration, until_stop: bool) -> Result<Finish, Fault> {
        let deadline = Instant::now() + patience;
        loop {
            for signal in self.signals.arrived() {
                if signal == libc::SIGTERM {
                    self.stopped = true;
                }
            }
            while let Some((ended, end)) = process::reap() {
                if ended == pid {
                    return Ok(Finish::Ended(end));
                }
            }
            if until_stop && self.stopped {
                return Ok(Finish::Stopped);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Finish::TimedOut);
            }
            let mut descriptors = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            if let Err(errno) = self.signals.poll(&mut descriptors, Some(left))
                && errno != Errno::EINTR
            {
                return Err(
                    Fault::failure(format!("cannot wait for {pid}: {}", errno.desc()))
                        .remedy("try again"),
                );
            }
        }
    }
}

fn failed(path: &Path, status: u8, how: fmt::Arguments<'_>) {
    error!(hook = %path.display(), status, "hook {} {how}", path.display());
}
