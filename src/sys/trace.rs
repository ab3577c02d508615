//! Tracing of other processes, to learn of a signal before it takes effect: ptrace(2).
//!
//! A traced process stops for each signal that it is about to take, also for one that the kernel
//! would drop otherwise (`sig_ignored` in the kernel's kernel/signal.c). A signal that it waits for
//! in sigwait(3), or reads from a signalfd(2), does not stop it. Its pid is not used again before
//! the tracer has waited for its end, and the tracer's own end leaves it as it was.

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

use std::ffi::{c_long, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;

/// What has happened to a traced process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It has ended.
    Gone,
    /// It is stopped before it takes this signal, or where that is 0 in a trap: [`resume`] it.
    Signal(i32),
    /// It is stopped like its whole thread group, as by SIGSTOP: [`listen`] to it.
    GroupStop,
}

/// Traces a process without stopping it: PTRACE_SEIZE. The error is EPERM where another traces it,
/// or where the kernel or a seccomp profile forbids it.
pub fn seize(pid: Pid) -> nix::Result<()> {
    request(i64::from(libc::PTRACE_SEIZE), pid, ptr::null_mut())
}

/// Lets a stopped process go on, and take `signal`; none where that is 0: PTRACE_CONT.
pub fn resume(pid: Pid, signal: i32) -> nix::Result<()> {
    let signal = usize::try_from(signal).unwrap_or_default();
    let data = ptr::without_provenance_mut(signal);
    request(i64::from(libc::PTRACE_CONT), pid, data)
}

/// Leaves a process stopped with its thread group, until SIGCONT: PTRACE_LISTEN.
pub fn listen(pid: Pid) -> nix::Result<()> {
    request(i64::from(libc::PTRACE_LISTEN), pid, ptr::null_mut())
}

/// Whether the signal for which a process is stopped was sent by a process that is not visible in
/// its pid namespace: the kernel then gives 0 as the sender (`send_signal_locked` in
/// kernel/signal.c). The error is that of PTRACE_GETSIGINFO.
pub fn is_from_outside(pid: Pid) -> nix::Result<bool> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let data = info.as_mut_ptr().cast();
    request(i64::from(libc::PTRACE_GETSIGINFO), pid, data)?;
    // SAFETY: the kernel has written it, and every bit pattern is valid.
    let info = unsafe { info.assume_init() };
    // SAFETY: signals of kill(2) have a sender: sigaction(2).
    Ok(info.si_code == libc::SI_USER && unsafe { info.si_pid() } == 0)
}

/// Waits for a change of any traced process: waitpid(2) with `__WALL`. `None` where none is left.
pub fn wait() -> Option<(Pid, Change)> {
    wait_of(-1)
}

fn wait_of(pid: libc::pid_t) -> Option<(Pid, Change)> {
    let mut status = 0;
    let pid = loop {
        // SAFETY: the kernel writes one integer to `status`.
        match Errno::result(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }) {
            Err(Errno::EINTR) => {}
            Err(_) => return None,
            Ok(pid) => break pid,
        }
    };
    let change = if !libc::WIFSTOPPED(status) {
        Change::Gone
    } else if status >> 16 == libc::PTRACE_EVENT_STOP {
        match libc::WSTOPSIG(status) {
            libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => Change::GroupStop,
            // SIGCONT has ended one, and the process waits in a trap for the tracer: ptrace(2).
            _ => Change::Signal(0),
        }
    } else {
        Change::Signal(libc::WSTOPSIG(status))
    };
    Some((Pid::from_raw(pid), change))
}

/// One request of ptrace(2). The call of the C library takes other types in each of them.
fn request(request: i64, pid: Pid, data: *mut c_void) -> nix::Result<()> {
    let pid = c_long::from(pid.as_raw());
    let nothing = ptr::null_mut::<c_void>();
    // SAFETY: no request here reads `data` as an address but PTRACE_GETSIGINFO, whose caller
    // passes a siginfo_t.
    let done = unsafe { libc::syscall(libc::SYS_ptrace, request, pid, nothing, data) };
    Errno::result(done).map(drop)
}

#[cfg(test)]
mod tests {
    use nix::unistd::ForkResult;

    use super::*;
    use crate::sys::process;

    /// A forked child that waits for signals until it is killed.
    fn child() -> nix::Result<Pid> {
        match process::fork()? {
            ForkResult::Parent { child } => Ok(child),
            ForkResult::Child => loop {
                // SAFETY: takes no argument.
                unsafe { libc::pause() };
            },
        }
    }

    #[test]
    fn a_signal_stops_a_traced_process_before_it_takes_it() -> nix::Result<()> {
        let pid = child()?;
        seize(pid)?;
        assert_eq!(seize(pid), Err(Errno::EPERM));
        // Without a handler this one is dropped unless it is traced.
        process::kill(pid, libc::SIGWINCH)?;
        let mut seen = Vec::new();
        // For this one only: other tests have children, too.
        while let Some((changed, change)) = wait_of(pid.as_raw()) {
            seen.push(change);
            match change {
                // SIGCONT has ended the stop.
                Change::Signal(0) => resume(changed, 0)?,
                Change::Signal(signal) => {
                    // The sender is visible.
                    assert!(!is_from_outside(changed)?);
                    resume(changed, signal)?;
                    match signal {
                        libc::SIGWINCH => process::kill(pid, libc::SIGSTOP)?,
                        libc::SIGCONT => process::kill(pid, libc::SIGKILL)?,
                        _ => {}
                    }
                }
                Change::GroupStop => {
                    listen(changed)?;
                    process::kill(pid, libc::SIGCONT)?;
                }
                Change::Gone => break,
            }
        }
        let expected = [
            Change::Signal(libc::SIGWINCH),
            Change::Signal(libc::SIGSTOP),
            Change::GroupStop,
            Change::Signal(0),
            Change::Signal(libc::SIGCONT),
            Change::Gone,
        ];
        assert_eq!(seen, expected);
        Ok(())
    }
}
