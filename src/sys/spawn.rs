//! Starting a child: session or process group, descriptors, signals, exec.
//!
//! `std::process::Command` cannot do it: `LISTEN_PID` must be the child's own pid,
//! which exists only after the fork, and descriptors must land on given numbers.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, Pid};

use crate::messages::fault::{FAILURE, Fault, NOT_EXECUTABLE, NOT_FOUND};
use crate::sys::signals::Inherited;
use crate::sys::terminal::{self, Terminal};
use crate::sys::{descriptors, process, wait};

/// How long [`spawn`] waits for exec before it takes the child to be on its way: a program may
/// be on a file system that hangs.
const EXEC_DEADLINE: Duration = Duration::from_secs(10);

/// The first number of the descriptors that a child gets: sd_listen_fds(3).
const FIRST_DESCRIPTOR: RawFd = 3;

/// What the child is to the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// A session of its own: no key of the terminal reaches it.
    Own,
    /// The foreground of the terminal, when there is one; else a process group.
    Foreground(Terminal),
}

/// A child to start.
pub struct Child<'a> {
    /// The file to execute.
    pub path: &'a Path,
    /// argv, with argv\[0\].
    pub arguments: Vec<&'a OsStr>,
    /// The environment. `LISTEN_PID` and `LISTEN_FDS` are added where there are
    /// descriptors.
    pub environment: &'a [(OsString, OsString)],
    /// Standard input, output and error; this process's own where it is `None`.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// Descriptors for the child, from number 3 on.
    pub descriptors: Vec<BorrowedFd<'a>>,
    /// Its place on the terminal.
    pub session: Session,
    /// Whether it is killed when this process ends: prctl(2), PR_SET_PDEATHSIG.
    pub dies_with_parent: bool,
    /// `oom_score_adj` to try for: only a wish, as lowering it takes
    /// CAP_SYS_RESOURCE.
    pub oom_score_adj: Option<i16>,
    /// The signal mask and the dispositions to run with: those that this process was started
    /// with.
    pub inherited: &'a Inherited,
    /// The file mode creation mask to run with; this process's own where it is `None`.
    pub umask: Option<Mode>,
}

/// Why a child did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpawnError {
    /// Where it failed.
    failed: At,
    /// How.
    errno: Errno,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Preparation,
    Fork,
    Exec,
}

impl SpawnError {
    /// The exit status that a shell would have for it.
    pub fn status(self) -> u8 {
        match (self.failed, self.errno) {
            (At::Exec, Errno::ENOENT | Errno::ENOTDIR) => NOT_FOUND,
            (At::Exec, _) => NOT_EXECUTABLE,
            (At::Preparation | At::Fork, _) => FAILURE,
        }
    }

    /// The error as the last word on `program`.
    pub fn fault(self, program: &OsStr) -> Fault {
        let message = format!("cannot run {}: {self}", program.to_string_lossy());
        let fault = Fault::new(self.status(), message);
        match self.remedy() {
            Some(remedy) => fault.remedy(remedy),
            None => fault,
        }
    }

    fn remedy(self) -> Option<&'static str> {
        match (self.failed, self.errno) {
            (At::Exec, Errno::ENOENT) => Some("check its spelling, or its interpreter's"),
            (At::Exec, Errno::EACCES) => Some("check its mode"),
            (At::Exec, Errno::ENOEXEC) => Some("a script needs a first line with #!"),
            (At::Exec, _) => None,
            (At::Fork, _) => Some("raise the container's pids limit"),
            (At::Preparation, Errno::EINVAL) => Some("check its words for a NUL byte"),
            (At::Preparation, Errno::EMFILE | Errno::ENFILE) => {
                Some("raise the limit of open files")
            }
            (At::Preparation, _) => Some("see whether a seccomp profile forbids something"),
        }
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.failed {
            At::Fork => write!(formatter, "fork: {}", self.errno.desc()),
            At::Preparation | At::Exec => formatter.write_str(self.errno.desc()),
        }
    }
}

impl std::error::Error for SpawnError {}

/// What execve(2) takes.
struct Execution {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

/// Starts a child and returns when it has executed its program, or failed to. It waits, so it
/// is not for PID 1: see [`begin`].
pub fn spawn(child: &Child<'_>) -> Result<Pid, SpawnError> {
    let begun = begin(child)?;
    let mut ready = [PollFd::new(begun.as_fd(), PollFlags::POLLIN)];
    // An error, as EINTR, means that it is not known whether it has: then it is on its way.
    let _ = poll(&mut ready, wait::timeout(Some(EXEC_DEADLINE)));
    match begun.launch() {
        Launch::Failed(error) => Err(error),
        Launch::OnItsWay | Launch::Executed => Ok(begun.pid),
    }
}

/// A child on its way to its program.
#[derive(Debug)]
pub struct Begun {
    /// Its pid, which a failure does not change: it is reaped like any other.
    pub pid: Pid,
    report: OwnedFd,
}

/// How far a child is that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launch {
    /// It has not executed its program yet.
    OnItsWay,
    /// It has.
    Executed,
    /// It could not, and has ended.
    Failed(SpawnError),
}

impl Begun {
    /// How far it is. [`Begun::as_fd`] is readable when that changes, once.
    pub fn launch(&self) -> Launch {
        let mut report = [0_u8; 2];
        match nix::unistd::read(&self.report, &mut report) {
            Ok(2) => {
                let [exec, errno] = report;
                Launch::Failed(SpawnError {
                    failed: if exec == 1 { At::Exec } else { At::Preparation },
                    errno: Errno::from_raw(i32::from(errno)),
                })
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Launch::OnItsWay,
            // exec has closed the pipe.
            Ok(_) | Err(_) => Launch::Executed,
        }
    }
}

impl AsFd for Begun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }
}

/// Starts a child and does not wait for it: several that begin together do not wait
/// for each other either, and on a busy machine each wait is a few milliseconds.
pub fn begin(child: &Child<'_>) -> Result<Begun, SpawnError> {
    let prepare = |errno| SpawnError {
        failed: At::Preparation,
        errno,
    };
    let program = program(child).map_err(prepare)?;
    let above = first_free(child.descriptors.len()).map_err(prepare)?;
    let (reader, writer) = report_pipe(above).map_err(prepare)?;
    match process::fork().map_err(|errno| SpawnError {
        failed: At::Fork,
        errno,
    })? {
        ForkResult::Parent { child } => Ok(Begun {
            pid: child,
            report: reader,
        }),
        ForkResult::Child => {
            let error = become_child(child, program, above);
            let report = [
                u8::from(error.failed == At::Exec),
                u8::try_from(error.errno as i32).unwrap_or(0),
            ];
            // Nobody reads it if this fails, and the status below still says it.
            let _ = std::fs::File::from(writer).write_all(&report);
            process::exit_child(i32::from(error.status()))
        }
    }
}

/// Replaces this process by a program, which gets the signal mask and the dispositions that
/// this process was started with. Returns only when that failed.
pub fn become_program(
    path: &Path,
    arguments: &[&OsStr],
    environment: &[(OsString, OsString)],
    inherited: &Inherited,
) -> SpawnError {
    let error = |failed| move |errno| SpawnError { failed, errno };
    let run = || {
        let arguments = strings(arguments.iter().copied()).map_err(error(At::Preparation))?;
        let environment = variables(environment).map_err(error(At::Preparation))?;
        let path = string(path.as_os_str()).map_err(error(At::Preparation))?;
        inherited.restore().map_err(error(At::Preparation))?;
        nix::unistd::execve(&path, &arguments, &environment).map_err(error(At::Exec))
    };
    match run() {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// A pipe that exec closes, and that nobody waits at. Its writing end is numbered `above` or higher, out of the
/// way of the descriptors that the child gets; its first number is closed here, or
/// the reader would never see the end.
fn report_pipe(above: RawFd) -> nix::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    Ok((reader, raise(writer.as_fd(), above)?))
}

fn program(child: &Child<'_>) -> nix::Result<Execution> {
    let mut environment = variables(child.environment)?;
    if !child.descriptors.is_empty() {
        environment.push(string(OsStr::new(&format!(
            "LISTEN_FDS={}",
            child.descriptors.len()
        )))?);
    }
    Ok(Execution {
        path: string(child.path.as_os_str())?,
        arguments: strings(child.arguments.iter().copied())?,
        environment,
    })
}

fn string(word: &OsStr) -> nix::Result<CString> {
    CString::new(word.as_bytes()).map_err(|_| Errno::EINVAL)
}

fn strings<'a>(words: impl Iterator<Item = &'a OsStr>) -> nix::Result<Vec<CString>> {
    words.map(string).collect()
}

fn variables(environment: &[(OsString, OsString)]) -> nix::Result<Vec<CString>> {
    let joined = environment.iter().map(|(name, value)| {
        let mut variable = name.clone();
        variable.push("=");
        variable.push(value);
        variable
    });
    joined.map(|variable| string(&variable)).collect()
}

/// The child's side of the fork, up to exec.
fn become_child(child: &Child<'_>, mut program: Execution, above: RawFd) -> SpawnError {
    let mut run = || -> Result<std::convert::Infallible, SpawnError> {
        let prepare = |errno| SpawnError {
            failed: At::Preparation,
            errno,
        };
        match child.session {
            Session::Own => drop(nix::unistd::setsid().map_err(prepare)?),
            Session::Foreground(terminal) => terminal::take(terminal).map_err(prepare)?,
        }
        if child.dies_with_parent {
            prctl::set_pdeathsig(Signal::SIGKILL).map_err(prepare)?;
        }
        if let Some(score) = child.oom_score_adj {
            // Refused without CAP_SYS_RESOURCE, and no reason not to run.
            let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
        }
        place_descriptors(child, above).map_err(prepare)?;
        if !child.descriptors.is_empty() {
            let own = format!("LISTEN_PID={}", std::process::id());
            program
                .environment
                .push(string(OsStr::new(&own)).map_err(prepare)?);
        }
        if let Some(mode) = child.umask {
            umask(mode);
        }
        child.inherited.restore().map_err(prepare)?;
        nix::unistd::execve(&program.path, &program.arguments, &program.environment).map_err(
            |errno| SpawnError {
                failed: At::Exec,
                errno,
            },
        )
    };
    match run() {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// The first number above those that a child's descriptors get.
fn first_free(descriptors: usize) -> nix::Result<RawFd> {
    let count = RawFd::try_from(descriptors).map_err(|_| Errno::EMFILE)?;
    FIRST_DESCRIPTOR.checked_add(count).ok_or(Errno::EMFILE)
}

/// A copy of a descriptor, numbered `above` or higher, that closes at exec.
fn raise(descriptor: BorrowedFd<'_>, above: RawFd) -> nix::Result<OwnedFd> {
    fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(above)).map(descriptors::own)
}

/// Puts every descriptor on its number. All are first copied above the numbers that
/// are to be filled, so that none is overwritten before it is placed.
fn place_descriptors(child: &Child<'_>, above: RawFd) -> nix::Result<()> {
    let standard = child.stdio.into_iter().flatten().zip(0..);
    let numbered = child.descriptors.iter().copied().zip(FIRST_DESCRIPTOR..);
    let placed: Vec<(OwnedFd, RawFd)> = standard
        .chain(numbered)
        .map(|(descriptor, number)| Ok((raise(descriptor, above)?, number)))
        .collect::<nix::Result<_>>()?;
    placed.iter().try_for_each(|(descriptor, number)| {
        descriptors::duplicate_onto(descriptor.as_fd(), *number)
    })
}
