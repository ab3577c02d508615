//! Locks on open files, with a deadline.

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal};
use nix::sys::signal::{sigaction, sigprocmask};

/// Locks an open file against other processes, by LOCK_EX or LOCK_SH of flock(2). Waits for
/// `patience` at most, which is more than nothing; the error is then EINTR, from a signal of this process's own timer. The lock goes with
/// the file.
pub fn lock(file: &File, operation: i32, patience: Duration) -> nix::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // Without SA_RESTART, so that flock ends.
    let noted = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing, which it may do at any time.
    let before = unsafe { sigaction(Signal::SIGALRM, &noted) }?;
    let mut mask = SigSet::empty();
    let alarm = SigSet::from(Signal::SIGALRM);
    let result =
        sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&alarm), Some(&mut mask)).and_then(|()| {
            let locked = set_timer(patience).and_then(|()| {
                // SAFETY: a plain system call on a descriptor that is open.
                Errno::result(unsafe { libc::flock(file.as_raw_fd(), operation) }).map(drop)
            });
            // These cannot fail after what they undo has not.
            let _ = set_timer(Duration::ZERO);
            let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
            locked
        });
    // SAFETY: the action that was there before.
    let _ = unsafe { sigaction(Signal::SIGALRM, &before) };
    result
}

/// The same without waiting: EWOULDBLOCK where somebody else has it.
pub fn try_lock(file: &File, operation: i32) -> nix::Result<()> {
    // SAFETY: a plain system call on a descriptor that is open.
    Errno::result(unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) }).map(drop)
}

/// SIGALRM after `first`, and then every second, in case that the first comes before the
/// call that it is to end: setitimer(2). Never, where `first` is zero.
fn set_timer(first: Duration) -> nix::Result<()> {
    let every = Duration::from_secs(u64::from(!first.is_zero()));
    let value = |time: Duration| libc::timeval {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_usec: time.subsec_micros().into(),
    };
    let timer = libc::itimerval {
        it_interval: value(every),
        // Less than a microsecond would be never, too.
        it_value: value(first.max(every / 1_000_000)),
    };
    // SAFETY: reads the timer, and there is nobody to be told of the one before.
    let result = unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
    Errno::result(result).map(drop)
}
