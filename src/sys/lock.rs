//! Locks on open files, with a deadline. Those of flock(2) can be taken by whoever can open the file
//! at all. Record locks of fcntl(2) ask for more: one for writing needs a descriptor that is open
//! for writing.

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal};
use nix::sys::signal::{sigaction, sigprocmask};

/// Locks an open file against other processes: flock(2). `operation` is LOCK_EX or LOCK_SH.
/// Waits for at most `patience`, which must not be zero; after that the error is EINTR, by
/// SIGALRM from this process's own timer. The lock is released when `file` is closed.
pub fn lock(file: &File, operation: i32, patience: Duration) -> nix::Result<()> {
    interrupted_after(patience, || {
        // SAFETY: a plain system call on a descriptor that is open.
        Errno::result(unsafe { libc::flock(file.as_raw_fd(), operation) }).map(drop)
    })
}

/// Makes a system call that waits, and interrupts it after `patience`, which must not be zero.
fn interrupted_after(
    patience: Duration,
    call: impl FnOnce() -> nix::Result<()>,
) -> nix::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // Without SA_RESTART, so that the signal interrupts the call.
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
            let done = set_timer(patience).and_then(|()| call());
            // Neither fails where the call that it reverts has succeeded.
            let _ = set_timer(Duration::ZERO);
            let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
            done
        });
    // SAFETY: this restores the action that sigaction(2) returned above.
    let _ = unsafe { sigaction(Signal::SIGALRM, &before) };
    result
}

/// A record lock on a whole file, which belongs to the open file as one of flock(2) does, and not
/// to the process: fcntl(2), open file description locks, Linux 3.15. It is released by
/// [`Record::Free`], or when the last copy of the descriptor is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// Others may read, none may write. The file must be open for reading.
    Read,
    /// No other may do either. The file must be open for writing.
    Write,
    /// No lock.
    Free,
}

impl Record {
    fn lock(self) -> libc::flock {
        let kind = match self {
            Self::Read => libc::F_RDLCK,
            Self::Write => libc::F_WRLCK,
            Self::Free => libc::F_UNLCK,
        };
        // They are 0, 1 and 2, of another type than the fields.
        let (l_type, l_whence) = (kind as libc::c_short, libc::SEEK_SET as libc::c_short);
        // From the beginning to the end, however far that is. The kernel wants no pid.
        libc::flock {
            l_type,
            l_whence,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        }
    }

    /// Takes the lock in place of the one that this open file has, without waiting. The error is
    /// EAGAIN where another one is in the way.
    pub fn set(self, file: &File) -> nix::Result<()> {
        fcntl(file, FcntlArg::F_OFD_SETLK(&self.lock())).map(drop)
    }

    /// Waits for the lock for at most `patience`, which must not be zero; after that the error is
    /// EINTR.
    pub fn wait(self, file: &File, patience: Duration) -> nix::Result<()> {
        interrupted_after(patience, || {
            fcntl(file, FcntlArg::F_OFD_SETLKW(&self.lock())).map(drop)
        })
    }

    /// The lock that is in the way of this one: [`Record::Free`] where there is none.
    pub fn in_the_way(self, file: &File) -> nix::Result<Self> {
        let mut found = self.lock();
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
        let kinds = [Self::Read, Self::Write];
        let kind = kinds
            .into_iter()
            .find(|kind| kind.lock().l_type == found.l_type);
        Ok(kind.unwrap_or(Self::Free))
    }
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
