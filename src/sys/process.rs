//! Processes: fork(2), kill(2), waitpid(2), _exit(2).
//!
//! This process always has one thread, so a forked child may call every function that its
//! parent may, also before exec: signal-safety(7) restricts processes with several.

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

use std::os::fd::{OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{ForkResult, Pid};

use super::end::End;
use super::{descriptors, log};

/// Forks this process: fork(2). The lines of the log that wait stay the parent's. The error is
/// EAGAIN at a limit on processes, or ENOMEM.
pub fn fork() -> nix::Result<ForkResult> {
    // SAFETY: there is one thread, so no lock can be held by another.
    let forked = unsafe { nix::unistd::fork() }?;
    if forked.is_child() {
        log::forget();
    }
    Ok(forked)
}

/// What waitpid(2) found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaped {
    /// A child that had ended, and how.
    Child(Pid, End),
    /// No child has ended.
    None,
    /// This process has no child.
    Childless,
}

/// Reaps one child that has ended, of any: waitpid(2) with WNOHANG. Decodes the raw status, since
/// nix has no names for the real-time signals that may have ended it.
pub fn reap() -> Reaped {
    let mut status = 0;
    // SAFETY: the kernel writes one integer to `status`.
    match Errno::result(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) }) {
        Err(Errno::ECHILD) => Reaped::Childless,
        Err(_) | Ok(0) => Reaped::None,
        Ok(pid) => {
            let end = if libc::WIFSIGNALED(status) {
                End::Signaled(libc::WTERMSIG(status))
            } else {
                // Eight bits, by wait(2); without WUNTRACED there is no third case.
                End::Exited((libc::WEXITSTATUS(status) & 0xff) as u8)
            };
            Reaped::Child(Pid::from_raw(pid), end)
        }
    }
}

/// Sends a signal by its number, since nix has no names for the real-time signals: kill(2). A
/// process that has ended meanwhile is not an error.
pub fn kill(pid: Pid, signal: i32) -> nix::Result<()> {
    // SAFETY: takes two integers and touches no memory.
    match Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }) {
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A descriptor of a process, which is readable when that has ended: pidfd_open(2), ENOSYS before
/// Linux 5.3.
pub fn descriptor(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: takes two integers and touches no memory.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let number = Errno::result(opened)?;
    Ok(descriptors::own(
        RawFd::try_from(number).map_err(|_| Errno::EBADF)?,
    ))
}

/// Ends a forked child with `status`, without destructors and exit handlers: _exit(2). Its last
/// lines have [`log::LAST_CHANCE`] to be read.
pub fn exit_child(status: i32) -> ! {
    log::finish(Some(log::LAST_CHANCE));
    // SAFETY: takes an integer and does not return.
    unsafe { libc::_exit(status) }
}
