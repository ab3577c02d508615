//! What every child of PID 1 that is this program too does first.

use std::fs;
use std::os::fd::BorrowedFd;

use anyhow::Result;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::setsid;

use crate::plan::DOCKERD_OOM_SCORE;
use crate::sys::descriptors;
use crate::sys::signals::Inherited;

/// What a child of this program's own is before anything else: out of reach of the
/// terminal's signals, and never alive without its parent.
pub fn leave_terminal() -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    setsid()?;
    Ok(())
}

/// What a child is that does its own work: signals end it, wherever it waits, and of its
/// parent's descriptors, such as the sockets of the daemons, it has those that are `kept`.
pub fn become_helper(inherited: &Inherited, kept: &[BorrowedFd<'_>]) -> Result<()> {
    inherited.restore()?;
    descriptors::close_other_descriptors(kept)?;
    // Refused without CAP_SYS_RESOURCE, and no reason not to run.
    let _ = fs::write("/proc/self/oom_score_adj", DOCKERD_OOM_SCORE.to_string());
    Ok(())
}
