//! Starting a child process: session or process group, descriptors, signals, exec.
//!
//! `std::process::Command` cannot do this: `LISTEN_PID` must be the child's own pid, which
//! exists only after the fork, and descriptors must have given numbers.

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
use crate::sys::limits::{self, Limit, Resource};
use crate::sys::namespaces::Namespaces;
use crate::sys::signals::Inherited;
use crate::sys::terminal::{self, Terminal};
use crate::sys::{credentials, descriptors, log, process, wait};

/// How long [`spawn`] waits for exec. After that it treats the child as started: its program
/// may be on a file system that does not answer.
const EXEC_DEADLINE: Duration = Duration::from_secs(10);

/// The number of the first descriptor that is passed to a child: sd_listen_fds(3).
const FIRST_DESCRIPTOR: RawFd = 3;

/// The relation of a child to the terminal: credentials(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// A session of its own: no key of the terminal sends it a signal.
    Own,
    /// The foreground process group of the terminal; where there is none, a process group of
    /// its own.
    Foreground(Terminal),
}

/// Where a child runs, and as whom.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// In the namespaces of this process, as its user.
    Here,
    /// In the same, as another user, without capabilities.
    As {
        /// The user id.
        user: u32,
        /// The group id.
        group: u32,
    },
    /// In other namespaces, as their root. The working directory is that of the same path, if there
    /// is one.
    Inside(&'a Namespaces),
}

impl<'a> From<Option<&'a Namespaces>> for Place<'a> {
    fn from(namespaces: Option<&'a Namespaces>) -> Self {
        namespaces.map_or(Self::Here, Self::Inside)
    }
}

/// A child to start, for [`spawn`] and [`begin`].
pub struct Child<'a> {
    /// The program to execute.
    pub path: &'a Path,
    /// Its arguments, argv\[0\] included.
    pub arguments: Vec<&'a OsStr>,
    /// Its environment. `LISTEN_PID` and `LISTEN_FDS` are added where there are descriptors:
    /// sd_listen_fds(3).
    pub environment: &'a [(OsString, OsString)],
    /// Its standard input, output and error; `None` for those of this process.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// The descriptors to pass, numbered from 3 on.
    pub descriptors: Vec<BorrowedFd<'a>>,
    /// Its relation to the terminal.
    pub session: Session,
    /// Whether the kernel kills it when this process ends: prctl(2), PR_SET_PDEATHSIG.
    pub dies_with_parent: bool,
    /// Its `oom_score_adj`, -1000 to 1000: proc_pid_oom_score_adj(5). A failure to set it is
    /// ignored, since lowering it takes CAP_SYS_RESOURCE.
    pub oom_score_adj: Option<i16>,
    /// The resource limits that it gets instead of those of this process, as far as the kernel
    /// allows them.
    pub limits: &'a [(Resource, Limit)],
    /// Its signal mask and dispositions: those that this process was started with.
    pub inherited: &'a Inherited,
    /// Its file mode creation mask, umask(2); `None` for that of this process.
    pub umask: Option<Mode>,
    /// Where it runs.
    pub place: Place<'a>,
}

/// The failure to start a child: the step that failed, and its errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpawnError {
    failed: At,
    errno: Errno,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Preparation,
    Fork,
    Exec,
}

impl SpawnError {
    /// The exit status that a shell reports for it: 127 where the program is not found, 126
    /// where it cannot be executed, else 1.
    pub fn status(self) -> u8 {
        match (self.failed, self.errno) {
            (At::Exec, Errno::ENOENT | Errno::ENOTDIR) => NOT_FOUND,
            (At::Exec, _) => NOT_EXECUTABLE,
            (At::Preparation | At::Fork, _) => FAILURE,
        }
    }

    /// The fault "cannot run PROGRAM" with the reason, the remedy and the exit status of a
    /// shell.
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
            (At::Exec, Errno::ENOENT) => Some("check its spelling and that of its interpreter"),
            (At::Exec, Errno::EACCES) => Some("check its mode"),
            (At::Exec, Errno::ENOEXEC) => Some("a script needs a first line with #!"),
            (At::Exec, _) => None,
            (At::Fork, _) => Some("raise the container's pids limit"),
            (At::Preparation, Errno::EINVAL) => {
                Some("remove the NUL byte from its arguments or variables")
            }
            (At::Preparation, Errno::EMFILE | Errno::ENFILE) => {
                Some("raise the limit of open files")
            }
            (At::Preparation, _) => Some("check whether a seccomp profile forbids a system call"),
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

/// The arguments of execve(2).
struct Execution {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

/// Starts a child, and returns its pid when it has executed its program, or after 10 s. It
/// waits, so it is not for PID 1: see [`begin`]. The error is that the child could not be
/// started, or could not execute its program.
pub fn spawn(child: &Child<'_>) -> Result<Pid, SpawnError> {
    let begun = begin(child)?;
    let mut ready = [PollFd::new(begun.as_fd(), PollFlags::POLLIN)];
    // After an error, such as EINTR, the child may still be before its exec.
    let _ = poll(&mut ready, wait::timeout(Some(EXEC_DEADLINE)));
    match begun.launch() {
        Launch::Failed(error) => Err(error),
        Launch::OnItsWay | Launch::Executed => Ok(begun.pid),
    }
}

/// A forked child that may not have executed its program yet.
#[derive(Debug)]
pub struct Begun {
    /// Its pid. A child that fails to execute its program is reaped like any other.
    pub pid: Pid,
    report: OwnedFd,
}

/// The state of a child that [`begin`] has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launch {
    /// It has not executed its program yet: execve(2).
    OnItsWay,
    /// It has executed its program.
    Executed,
    /// It could not execute its program, and has ended.
    Failed(SpawnError),
}

impl Begun {
    /// The state of the child, without waiting. [`Begun::as_fd`] becomes readable when it is no
    /// longer [`Launch::OnItsWay`].
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
            // End of file: exec has closed the pipe.
            Ok(_) | Err(_) => Launch::Executed,
        }
    }
}

impl AsFd for Begun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }
}

/// Forks a child and does not wait for its exec, which takes a few milliseconds on a busy
/// machine: so several children start at the same time. [`Begun::launch`] has the outcome. The
/// error is that of the preparation or of fork(2).
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
            // Where this fails, the exit status below still shows the failure.
            let _ = std::fs::File::from(writer).write_all(&report);
            process::exit_child(i32::from(error.status()))
        }
    }
}

/// Replaces this process by the program at `path`: execve(2). `arguments` has argv\[0\]. This
/// process's last lines have [`log::LAST_CHANCE`] to be read. The program gets the signal mask and the dispositions that are `inherited`. Returns only on
/// failure.
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
        log::finish(Some(log::LAST_CHANCE));
        inherited.restore().map_err(error(At::Preparation))?;
        nix::unistd::execve(&path, &arguments, &environment).map_err(error(At::Exec))
    };
    match run() {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// A non-blocking pipe that exec closes. The number of its write end is at least `above`, so
/// that it is not one of those that the child's descriptors get. Its first number is closed
/// here, or the reader would never see the end of file.
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

/// The child's side of the fork, up to exec. Returns only on failure.
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
        if let Some(score) = child.oom_score_adj {
            // Without CAP_SYS_RESOURCE it fails, and the program runs all the same.
            let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
        }
        for (resource, limit) in child.limits {
            // The program runs all the same.
            let _ = limits::raise(*resource, *limit);
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
        go_to(child.place).map_err(prepare)?;
        // The kernel forgets it with a change of rights.
        if child.dies_with_parent {
            prctl::set_pdeathsig(Signal::SIGKILL).map_err(prepare)?;
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

/// Goes where the child is to run. What needs the rights of this process comes before.
fn go_to(place: Place<'_>) -> nix::Result<()> {
    match place {
        Place::Here => Ok(()),
        Place::As { user, group } => credentials::become_user(user, group),
        Place::Inside(namespaces) => {
            let here = nix::unistd::getcwd();
            namespaces.enter()?;
            // setns(2) has set it to the root directory.
            let _ = here.and_then(|here| nix::unistd::chdir(&here));
            Ok(())
        }
    }
}

/// The lowest number above those of the descriptors that are passed to a child.
fn first_free(descriptors: usize) -> nix::Result<RawFd> {
    let count = RawFd::try_from(descriptors).map_err(|_| Errno::EMFILE)?;
    FIRST_DESCRIPTOR.checked_add(count).ok_or(Errno::EMFILE)
}

/// A duplicate of a descriptor with a number of at least `above`, closed by exec: fcntl(2).
fn raise(descriptor: BorrowedFd<'_>, above: RawFd) -> nix::Result<OwnedFd> {
    fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(above)).map(descriptors::own)
}

/// Gives every descriptor its number in the child. All are first duplicated to higher numbers,
/// so that none is overwritten before it is placed.
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
