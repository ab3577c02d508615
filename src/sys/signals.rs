//! The signals of PID 1, as something to poll.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals of this process, taken by a descriptor instead of by handlers: none
/// is lost, and none interrupts. signalfd(2).
pub struct Signals {
    descriptor: SignalFd,
    original: SigSet,
}

impl Signals {
    /// Blocks every signal that can be, and opens the descriptor. Called first of
    /// all, so that a signal that comes early waits for the loop. The signals of
    /// this process's own faults keep their default.
    pub fn block() -> Result<Self> {
        let mut blocked = SigSet::all();
        for fault in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGILL,
            Signal::SIGFPE,
            Signal::SIGABRT,
            Signal::SIGTRAP,
            Signal::SIGSYS,
        ] {
            blocked.remove(fault);
        }
        let mut original = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), Some(&mut original))
            .context("cannot block signals; see sigprocmask(2)")?;
        let descriptor =
            SignalFd::with_flags(&blocked, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
                .context("cannot open a signalfd; this kernel is too old")?;
        Ok(Self {
            descriptor,
            original,
        })
    }

    /// The mask that this process was started with, for its children.
    pub fn original(&self) -> &SigSet {
        &self.original
    }

    /// Gives this process the mask back that it was started with, for what it becomes.
    pub fn restore(&self) -> Result<()> {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.original), None)
            .context("cannot unblock signals; see sigprocmask(2)")
    }

    /// The number of the next signal that has come.
    pub fn next(&self) -> Option<i32> {
        let information = self.descriptor.read_signal().ok()??;
        i32::try_from(information.ssi_signo).ok()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
