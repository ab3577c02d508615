//! The signals of PID 1 as a descriptor for poll(2).
//!
//! Every signal is blocked except in [`Signals::poll`] and [`Signals::arrived`]. So none arrives
//! before its handler is installed, none interrupts another call, and a forked child does not run
//! its parent's handlers: ppoll(2), signal(7).

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

use crate::messages::remedy::Remedy;

/// The highest signal number of Linux: `_NSIG` in asm/signal.h.
const LAST: i32 = 64;

/// SIGRTMIN+3, by which systemd halts (systemd(1), "Signals") and which images with systemd declare
/// as their stop signal. Docker counts from 34, the first real-time signal of glibc (`sigrtmin` in
/// moby's sys/signal), whatever the C library of the container has.
const HALT: i32 = 34 + 3;

/// Whether a signal asks a container without a command to end. It may be the STOPSIGNAL of a base
/// image, or `docker run --stop-signal`. dockerd itself would dump its stacks at SIGQUIT.
pub fn asks_to_end(signal: i32) -> bool {
    matches!(signal, libc::SIGTERM | libc::SIGINT | libc::SIGQUIT | HALT)
}

/// Signals that a fault of this process itself raises, which keep their default action, and
/// the two that cannot be caught.
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

/// The numbers of the signals to catch. The C library reserves those between the standard and
/// the real-time signals: signal(7), nptl(7).
fn caught() -> impl Iterator<Item = i32> {
    (1..=LAST)
        .filter(|signal| !LEFT_ALONE.contains(signal))
        .filter(|signal| *signal < 32 || *signal >= libc::SIGRTMIN())
}

/// The signal mask and the dispositions that this process was started with. A program that it
/// executes gets them, and a forked child restores them.
#[derive(Debug, Clone)]
pub struct Inherited {
    mask: SigSet,
    ignored: Vec<i32>,
}

impl Inherited {
    /// Reads the current ones, in a process that has not changed them yet. The error is that of
    /// pthread_sigmask(3).
    pub fn read() -> Result<Self> {
        SigSet::thread_get_mask()
            .map(Self::with)
            .context("cannot read the signal mask")
            .remedy("see sigprocmask(2)")
    }

    fn with(mask: SigSet) -> Self {
        // Rust's runtime ignores SIGPIPE, whatever its disposition was before. Programs expect
        // the default.
        let ignored = caught().filter(|signal| *signal != libc::SIGPIPE && is_ignored(*signal));
        Self {
            mask,
            ignored: ignored.collect(),
        }
    }

    /// Restores them in this process, which is about to execute a program or is a forked child.
    /// The dispositions come first, so that no handler of the parent runs for a pending signal.
    /// The error is that of signal(2) or sigprocmask(2).
    pub fn restore(&self) -> nix::Result<()> {
        self.restore_dispositions()?;
        self.unblock()
    }

    /// Restores them in a forked child that goes on as this program, with two exceptions.
    /// SIGPIPE stays ignored, so that a write without a reader is an error and not the end; and
    /// SIGCHLD has its default action, so that the child can wait for children of its own:
    /// waitpid(2). The error is that of signal(2) or sigprocmask(2).
    pub fn restore_for_helper(&self) -> nix::Result<()> {
        self.restore_dispositions()?;
        dispose(libc::SIGPIPE, libc::SIG_IGN)?;
        dispose(libc::SIGCHLD, libc::SIG_DFL)?;
        self.unblock()
    }

    fn restore_dispositions(&self) -> nix::Result<()> {
        caught().try_for_each(|signal| match self.ignored.contains(&signal) {
            true => dispose(signal, libc::SIG_IGN),
            false => dispose(signal, libc::SIG_DFL),
        })
    }

    /// Restores the mask only, for a program that a signal is to end as it ends any other.
    pub fn unblock(&self) -> nix::Result<()> {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None)
    }
}

/// Discards the SIGPIPE of a write(2) that has just failed with EPIPE: it says nothing that the
/// error does not, and PID 1 would pass it on. The write sends it to its own thread, and the kernel
/// gives a thread's signals out before the process's (`dequeue_signal` in its kernel/signal.c), so
/// one that another process has sent stays pending. Where SIGPIPE is ignored and not blocked, there
/// is none.
pub fn forget_broken_pipe() {
    let mut set = SigSet::empty();
    set.add(Signal::SIGPIPE);
    let now = TimeSpec::from_duration(Duration::ZERO);
    // SAFETY: both structures outlive the call, which writes to neither.
    unsafe { libc::sigtimedwait(set.as_ref(), std::ptr::null_mut(), now.as_ref()) };
}

/// Sets SIG_IGN or SIG_DFL for a signal: signal(2).
fn dispose(signal: i32, action: libc::sighandler_t) -> nix::Result<()> {
    // SAFETY: neither action runs code of this process.
    match unsafe { libc::signal(signal, action) } {
        libc::SIG_ERR => Err(Errno::last()),
        _ => Ok(()),
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

/// The signals that have arrived, each at most once: like the standard signals of signal(7)
/// they coalesce.
pub struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
    /// The number of the socket's write end, which `delivery` owns.
    wakes: RawFd,
    /// Signals that [`Signals::keep`] put back.
    kept: Vec<i32>,
    inherited: Inherited,
}

/// Blocks every signal except those of this process's own faults, and returns the mask and the
/// dispositions from before. Call it first: the kernel drops a signal to PID 1 that has its
/// default action and is not blocked, and keeps one that is blocked (pid_namespaces(7)). So the
/// mask is set before anything is read.
///
/// SIGCHLD gets its default action. Where whoever executed this program has set it to SIG_IGN,
/// the kernel reaps children itself, and waitpid(2) learns of none (waitpid(2), NOTES). The flag
/// SA_NOCLDWAIT does the same, but no exec keeps it: `flush_signal_handlers` in the kernel's
/// kernel/signal.c. The error is that of sigprocmask(2) or signal(2).
pub fn block() -> Result<Inherited> {
    let mut blocked = SigSet::all();
    for fault in LEFT_ALONE {
        if let Ok(signal) = Signal::try_from(fault) {
            blocked.remove(signal);
        }
    }
    let mut mask = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), Some(&mut mask))
        .context("cannot block signals")
        .remedy("see sigprocmask(2)")?;
    let inherited = Inherited::with(mask);
    if inherited.ignored.contains(&libc::SIGCHLD) {
        dispose(libc::SIGCHLD, libc::SIG_DFL)
            .context("cannot set the action of SIGCHLD")
            .remedy("check whether a seccomp profile forbids sigaction(2)")?;
    }
    Ok(inherited)
}

impl Signals {
    /// Installs the handlers of the signals, which [`block`] has blocked. A signal that arrives
    /// before is pending until the first [`Signals::poll`]. The error is that of socketpair(2)
    /// or sigaction(2).
    pub fn catch(inherited: Inherited) -> Result<Self> {
        let (delivery, wakes) = deliver()?;
        Ok(Self {
            delivery,
            wakes,
            kept: Vec::new(),
            inherited,
        })
    }

    /// Replaces the handlers that a forked child has from its parent by its own, with a socket
    /// of their own, so that a signal of the child does not wake the parent. The error is that
    /// of socketpair(2) or sigaction(2).
    pub fn renew(&mut self) -> Result<()> {
        // Dropping the old value removes the old handlers.
        (self.delivery, self.wakes) = deliver()?;
        Ok(())
    }

    /// The mask and the dispositions that this process was started with, for its children.
    pub fn inherited(&self) -> &Inherited {
        &self.inherited
    }

    /// Waits until a descriptor is ready, a signal arrives, or `timeout` has passed; for ever
    /// without one: ppoll(2). [`Signals::as_fd`] may be among the descriptors, but need not. The
    /// error is EINTR for a signal; then no descriptor is known to be ready. Where signals were
    /// put back by [`Signals::keep`], it does not wait.
    pub fn poll(
        &self,
        descriptors: &mut [PollFd<'_>],
        timeout: Option<Duration>,
    ) -> nix::Result<()> {
        let timeout = match self.kept.is_empty() {
            true => timeout.map(TimeSpec::from_duration),
            false => Some(TimeSpec::from_duration(Duration::ZERO)),
        };
        ppoll(descriptors, timeout, Some(SigSet::empty())).map(drop)
    }

    /// Both ends of the socket, for a child that closes all other descriptors.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        // SAFETY: `delivery` owns that descriptor, and lives as long as the borrow.
        let wakes = unsafe { BorrowedFd::borrow_raw(self.wakes) };
        [self.as_fd(), wakes]
    }

    /// The numbers of the signals that have arrived since the last call, or were put back.
    pub fn arrived(&mut self) -> impl Iterator<Item = i32> + use<> {
        // Where a descriptor is ready, ppoll returns before it lets a signal in (`do_poll` in
        // the kernel's fs/select.c): whoever writes without end would keep all signals out. An
        // error is EINTR: one has come.
        let now = TimeSpec::from_duration(Duration::ZERO);
        let _ = ppoll(&mut [], Some(now), Some(SigSet::empty()));
        let kept = std::mem::take(&mut self.kept);
        kept.into_iter().chain(self.delivery.pending())
    }

    /// Puts signals back that are not for the caller: [`Signals::arrived`] returns them again.
    pub fn keep(&mut self, signals: Vec<i32>) {
        self.kept.extend(signals);
    }
}

/// Installs handlers that write to a new pair of sockets. Returns the signals that have arrived,
/// which own the pair, and the number of its write end.
fn deliver() -> Result<(SignalDelivery<UnixStream, SignalOnly>, RawFd)> {
    const CANNOT: &str = "cannot catch signals";
    const REMEDY: &str = "check whether a seccomp profile forbids socketpair(2) or sigaction(2)";
    let (read, write) = UnixStream::pair().context(CANNOT).remedy(REMEDY)?;
    let wakes = write.as_raw_fd();
    let delivery = SignalDelivery::with_pipe(read, write, SignalOnly, caught());
    Ok((delivery.context(CANNOT).remedy(REMEDY)?, wakes))
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}
