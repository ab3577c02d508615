//! Locks on open files, with a deadline: flock(2).

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal};
use nix::sys::signal::{sigaction, sigprocmask};

/// Locks an open file against other processes: flock(2). `operation` is LOCK_EX or LOCK_SH.
/// Waits for at most `patience`, which must not be zero; after that the error is EINTR, by
/// SIGALRM from this process's own timer. The lock is released when `file` is closed.
pub fn lock(file: &File, operation: i32, patience: Duration) -> nix::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // Without SA_RESTART, so that the signal interrupts flock.
    let noted = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing, so it is async-signal-safe.
    let before = unsafe { sigaction(Signal::SIGALRM, &noted) }?;
    let mut mask = SigSet::empty();
    let alarm = SigSet::from(Signal::SIGALRM);
    let result =
        sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&alarm), Some(&mut mask)).and_then(|()| {
            let locked = set_timer(patience).and_then(|()| {
                // SAFETY: a plain system call on a descriptor that is open.
                Errno::result(unsafe { libc::flock(file.as_raw_fd(), operation) }).map(drop)
            });
            // Neither fails where the call that it reverts has succeeded.
            let _ = set_timer(Duration::ZERO);
            let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
            locked
        });
    // SAFETY: this restores the action that sigaction(2) returned above.
    let _ = unsafe { sigaction(Signal::SIGALRM, &before) };
    result
}

/// Locks an open file as [`lock`] does, but without waiting. The error is EWOULDBLOCK where
/// another process holds the lock.
pub fn try_lock(file: &File, operation: i32) -> nix::Result<()> {
    // SAFETY: a plain system call on a descriptor that is open.
    Errno::result(unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) }).map(drop)
}

/// Locks an open file as [`lock`] does. Calls `wait` before it waits, that is where another process
/// holds the lock.
pub fn lock_or_wait(
    file: &File,
    operation: i32,
    patience: Duration,
    wait: impl FnOnce(),
) -> nix::Result<()> {
    match try_lock(file, operation) {
        Err(Errno::EWOULDBLOCK) => {
            wait();
            lock(file, operation, patience)
        }
        done => done,
    }
}

/// Has SIGALRM sent after `first`, and then every second in case the first one arrives before
/// the call that it is to interrupt: setitimer(2). Zero disarms the timer.
fn set_timer(first: Duration) -> nix::Result<()> {
    let every = Duration::from_secs(u64::from(!first.is_zero()));
    let value = |time: Duration| libc::timeval {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_usec: time.subsec_micros().into(),
    };
    let timer = libc::itimerval {
        it_interval: value(every),
        // The kernel counts microseconds, and 0 of them disarm the timer.
        it_value: value(first.max(every / 1_000_000)),
    };
    // SAFETY: the kernel reads the timer, and the pointer for the old value may be null.
    let result = unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
    Errno::result(result).map(drop)
}
