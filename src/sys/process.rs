//! Processes: fork, signals to them, their end.
//!
//! This process has one thread, always: between fork and exec a child may do what its parent
//! may.

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{ForkResult, Pid};

use super::end::End;

/// fork(2).
pub fn fork() -> nix::Result<ForkResult> {
    // SAFETY: there is one thread, so no lock can be held by another.
    unsafe { nix::unistd::fork() }
}

/// Reaps one child that has ended, if there is one: waitpid(2). By its raw status,
/// since nix has no name for the real-time signals that may have ended it.
pub fn reap() -> Option<(Pid, End)> {
    let mut status = 0;
    // SAFETY: the kernel writes one integer to where `status` is.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    if pid <= 0 {
        return None;
    }
    let end = if libc::WIFSIGNALED(status) {
        End::Signaled(libc::WTERMSIG(status))
    } else {
        // Eight bits, by wait(2); without WUNTRACED there is no third case.
        End::Exited((libc::WEXITSTATUS(status) & 0xff) as u8)
    };
    Some((Pid::from_raw(pid), end))
}

/// Sends a signal: kill(2). By its number, since nix has no names for the real-time
/// signals. A process that has ended meanwhile is no error.
pub fn kill(pid: Pid, signal: i32) -> nix::Result<()> {
    // SAFETY: takes two integers and touches no memory.
    match Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }) {
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Ends this process without running anything: _exit(2). For a child that could
/// not exec.
pub fn exit_child(status: i32) -> ! {
    // SAFETY: takes an integer and does not return.
    unsafe { libc::_exit(status) }
}
