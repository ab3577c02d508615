//! The signals of PID 1, as something to poll.
//!
//! Every signal is blocked but while [`Signals::poll`] waits. So none comes before its handler
//! is there, none interrupts another call, and a forked child runs no handler of its parent's:
//! ppoll(2), signal(7).

#![expect(unsafe_code, reason = "nix has no names for the real-time signals")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, ppoll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::time::TimeSpec;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

/// The last signal of Linux: `_NSIG` in asm/signal.h.
const LAST: i32 = 64;

/// Signals of this process's own faults, which keep their default, and the two that nobody
/// can catch.
const LEFT_ALONE: [i32; 9] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGKILL,
    libc::SIGSTOP,
];

/// The signals that are caught. The C library keeps those between the standard and the
/// real-time ones for itself: signal(7), nptl(7).
fn caught() -> impl Iterator<Item = i32> {
    (1..=LAST)
        .filter(|signal| !LEFT_ALONE.contains(signal))
        .filter(|signal| *signal < 32 || *signal >= libc::SIGRTMIN())
}

/// The mask and the dispositions that this process was started with. What it executes gets
/// them, and what it forks gives itself them.
#[derive(Debug, Clone)]
pub struct Inherited {
    mask: SigSet,
    ignored: Vec<i32>,
}

impl Inherited {
    /// Those of this moment, for a process that has not changed them.
    pub fn read() -> Result<Self> {
        let mask = SigSet::thread_get_mask().context("cannot read the signal mask")?;
        // SIGPIPE is ignored by Rust's runtime, whatever it was before. Programs expect its
        // default.
        let ignored = caught().filter(|signal| *signal != libc::SIGPIPE && is_ignored(*signal));
        Ok(Self {
            mask,
            ignored: ignored.collect(),
        })
    }

    /// Gives them back to this process, which is about to execute a program or is a forked
    /// child with work of its own. The dispositions first: a signal that is pending then finds
    /// no handler of the parent's.
    pub fn restore(&self) -> nix::Result<()> {
        for signal in caught() {
            let action = match self.ignored.contains(&signal) {
                true => libc::SIG_IGN,
                false => libc::SIG_DFL,
            };
            // SAFETY: neither action runs code of this process.
            if unsafe { libc::signal(signal, action) } == libc::SIG_ERR {
                return Err(Errno::last());
            }
        }
        self.unblock()
    }

    /// Gives this process its mask back, for one that is to end by a signal as others do.
    pub fn unblock(&self) -> nix::Result<()> {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None)
    }
}

/// Whether a signal is ignored: sigaction(2).
fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the kernel writes the structure where the call succeeds, and only then is it read.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// The signals that have come, each at most once: like the kernel's own standard signals they
/// coalesce.
pub struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
    /// The number of the socket's other end, which `delivery` owns.
    wakes: RawFd,
    /// Signals that have come and were for somebody else.
    kept: Vec<i32>,
    inherited: Inherited,
}

/// Blocks every signal that can be, and returns what this process was started with. To be
/// called first: the kernel drops a signal to PID 1 that has its default action and is not
/// blocked (pid_namespaces(7)), and keeps one that is blocked until it is asked for.
pub fn block() -> Result<Inherited> {
    let inherited = Inherited::read()?;
    let mut blocked = SigSet::all();
    for fault in LEFT_ALONE {
        if let Ok(signal) = Signal::try_from(fault) {
            blocked.remove(signal);
        }
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None)
        .context("cannot block signals; see sigprocmask(2)")?;
    Ok(inherited)
}

impl Signals {
    /// Catches the signals, which [`block`] has blocked. One that has come by then waits for
    /// the first [`Signals::poll`].
    pub fn catch(inherited: Inherited) -> Result<Self> {
        let (delivery, wakes) = deliver()?;
        Ok(Self {
            delivery,
            wakes,
            kept: Vec::new(),
            inherited,
        })
    }

    /// Makes a forked child, which has its parent's handlers, catch signals for itself: with a
    /// socket of its own, so that it does not wake its parent.
    pub fn renew(&mut self) -> Result<()> {
        // The old handlers go with the old value.
        (self.delivery, self.wakes) = deliver()?;
        Ok(())
    }

    /// What this process was started with, for its children.
    pub fn inherited(&self) -> &Inherited {
        &self.inherited
    }

    /// Waits until a descriptor is ready, a signal comes, or `timeout` is over; for ever
    /// without one. [`Signals::as_fd`] need not be among the descriptors, and may be. A signal
    /// is EINTR: none of the descriptors is known to be ready then.
    pub fn poll(
        &self,
        descriptors: &mut [PollFd<'_>],
        timeout: Option<Duration>,
    ) -> nix::Result<()> {
        let timeout = timeout.map(TimeSpec::from_duration);
        ppoll(descriptors, timeout, Some(SigSet::empty())).map(drop)
    }

    /// Both ends of the socket, for a child that closes all others.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        // SAFETY: `delivery` owns that descriptor, and lives as long.
        let wakes = unsafe { BorrowedFd::borrow_raw(self.wakes) };
        [self.as_fd(), wakes]
    }

    /// The numbers of the signals that have come since the last call.
    pub fn arrived(&mut self) -> impl Iterator<Item = i32> + use<> {
        let kept = std::mem::take(&mut self.kept);
        kept.into_iter().chain(self.delivery.pending())
    }

    /// Has these be among those that have come, once more: for the caller they were not.
    pub fn keep(&mut self, signals: Vec<i32>) {
        self.kept.extend(signals);
    }
}

/// Catches every signal, and wakes a socket.
fn deliver() -> Result<(SignalDelivery<UnixStream, SignalOnly>, RawFd)> {
    const CANNOT: &str =
        "cannot catch signals; see whether a seccomp profile forbids socketpair(2) or sigaction(2)";
    let (read, write) = UnixStream::pair().context(CANNOT)?;
    let wakes = write.as_raw_fd();
    let delivery = SignalDelivery::with_pipe(read, write, SignalOnly, caught());
    Ok((delivery.context(CANNOT)?, wakes))
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}
