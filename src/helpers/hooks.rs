//! The hook runner: a child of PID 1 that runs the user's hooks of one point of a start or a
//! stop. It may wait for a hook, which PID 1 must not, but never without a deadline.

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
use crate::sys::clock::Clock;
use crate::sys::end::End;
use crate::sys::log;
use crate::sys::process::{self, Reaped};
use crate::sys::signals::Signals;
use crate::sys::spawn::{self, Child, Place, Session};

/// The exit status of a hook that exceeded its timeout, as with timeout(1).
const TIMED_OUT: u8 = 124;

/// The settings and the state of a run of hooks.
pub struct Runner<'a> {
    /// How long each hook may take.
    pub timeout: Duration,
    /// The time that a hook has to end after SIGTERM, and again after SIGKILL.
    pub grace: Duration,
    /// The environment of the hooks.
    pub environment: &'a [(OsString, OsString)],
    /// The standard input, output and error of the hooks.
    pub stdio: [BorrowedFd<'a>; 3],
    /// The signals of this process. SIGTERM ends the hook that runs.
    pub signals: &'a mut Signals,
    /// The user's file mode creation mask.
    pub umask: Mode,
    /// Where the hooks run.
    pub place: Place<'a>,
    /// The `oom_score_adj` of the hooks, where it is not this process's.
    pub oom_score_adj: Option<i16>,
    /// Whether the first hook that fails ends the run.
    pub until_failure: bool,
    /// Whether SIGTERM has arrived.
    pub stopped: bool,
}

/// How the wait for a hook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    /// The hook ended by itself.
    Ended(End),
    /// The hook exceeded its timeout.
    TimedOut,
    /// SIGTERM for this process arrived.
    Stopped,
}

impl Runner<'_> {
    /// Runs `hooks` one after the other and logs each that fails. Returns the exit status of the
    /// first that failed, 128 + n if signal n ended it, as in a shell; 0 where none failed.
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
                        format_args!("{end}; its output has the reason"),
                    );
                    end.status()
                }
                Ok(Finish::TimedOut) => {
                    let seconds = self.timeout.as_secs_f64();
                    failed(
                        path,
                        TIMED_OUT,
                        format_args!(
                            "did not end within {seconds} s and was killed; set a longer \
                             DIND_HOOK_TIMEOUT"
                        ),
                    );
                    TIMED_OUT
                }
                Ok(Finish::Stopped) => {
                    warn!(
                        hook = %path.display(),
                        "hook {} was terminated because the container stops",
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
            oom_score_adj: self.oom_score_adj,
            limits: &[],
            inherited: self.signals.inherited(),
            umask: Some(self.umask),
            place: self.place,
        })
        .map_err(|error| error.fault(path.as_os_str()))?;
        let outcome = self.wait(pid, self.timeout, true)?;
        if !matches!(outcome, Finish::Ended(_)) {
            // The hook leads its process group. Its children are in it, unless they left it.
            let group = Pid::from_raw(-pid.as_raw());
            let _ = process::kill(group, libc::SIGTERM);
            let terminated = self.wait(pid, self.grace, false)?;
            // Other processes of the group may ignore SIGTERM.
            let _ = process::kill(group, libc::SIGKILL);
            if !matches!(terminated, Finish::Ended(_)) {
                self.wait(pid, self.grace, false)?;
            }
        }
        Ok(outcome)
    }

    /// Waits at most `patience` for the hook `pid` to end; with `until_stop`, SIGTERM for this
    /// process ends the wait, too.
    fn wait(&mut self, pid: Pid, patience: Duration, until_stop: bool) -> Result<Finish, Fault> {
        let clock = Clock::since(Instant::now());
        loop {
            for signal in self.signals.arrived() {
                if signal == libc::SIGTERM {
                    self.stopped = true;
                }
            }
            if let Some(end) = reap(pid) {
                return Ok(Finish::Ended(end));
            }
            if until_stop && self.stopped {
                return Ok(Finish::Stopped);
            }
            if clock.now() >= patience {
                return Ok(Finish::TimedOut);
            }
            let timeout = clock.timeout(Some(patience));
            let mut descriptors = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            descriptors.extend(log::waiting());
            let polled = self.signals.poll(&mut descriptors, timeout);
            log::flush();
            if let Err(errno) = polled
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

/// Reaps every child that has ended, and returns how the hook `pid` did.
fn reap(pid: Pid) -> Option<End> {
    loop {
        match process::reap() {
            Reaped::Child(ended, end) if ended == pid => return Some(end),
            Reaped::Child(..) => {}
            Reaped::Childless => return Some(End::Unseen),
            Reaped::None => return None,
        }
    }
}

fn failed(path: &Path, status: u8, how: fmt::Arguments<'_>) {
    error!(hook = %path.display(), status, "hook {} {how}", path.display());
}
