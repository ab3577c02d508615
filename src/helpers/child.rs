//! The first steps of the children that PID 1 forks without exec.

use std::fs;
use std::os::fd::BorrowedFd;

use anyhow::{Context, Result};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::setsid;

use crate::messages::remedy::Remedy;
use crate::plan::DOCKERD_OOM_SCORE;
use crate::sys::descriptors;
use crate::sys::namespaces::Namespaces;
use crate::sys::signals::Inherited;

/// Detaches a forked child from the terminal and ties its life to its parent's: it gets SIGKILL
/// when the parent ends (prctl(2), PR_SET_PDEATHSIG) and a session of its own, which the
/// terminal's signals do not reach (setsid(2)). The errors are those of the two calls.
pub fn leave_terminal() -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)
        .context("a child cannot be tied to PID 1")
        .remedy("check whether a seccomp profile forbids prctl(2)")?;
    setsid()
        .context("a child cannot get a session of its own")
        .remedy("check whether a seccomp profile forbids setsid(2)")?;
    Ok(())
}

/// Enters namespaces as their root, and ties the child's life to its parent's again: the kernel
/// forgets that with a change of rights (prctl(2), PR_SET_PDEATHSIG).
pub fn enter(namespaces: &Namespaces) -> Result<()> {
    namespaces
        .enter()
        .and_then(|()| prctl::set_pdeathsig(Signal::SIGKILL))
        .context("a child cannot enter the engine's namespaces")
        .remedy("check whether a seccomp profile forbids setns(2)")
}

/// Makes a forked child a helper. It gets the inherited signal dispositions back but for SIGPIPE
/// and SIGCHLD, so that a signal ends it wherever it waits, and closes every descriptor of its
/// parent, such as the daemons' sockets, but 0, 1, 2 and `kept`. The errors are those of the
/// system calls.
pub fn become_helper(inherited: &Inherited, kept: &[BorrowedFd<'_>]) -> Result<()> {
    inherited
        .restore_for_helper()
        .context("a child cannot restore its signals")
        .remedy("check whether a seccomp profile forbids sigaction(2) or sigprocmask(2)")?;
    descriptors::close_other_descriptors(kept)
        .context("a child cannot close its parent's descriptors")
        .remedy("mount /proc")?;
    take_daemons_oom_score();
    Ok(())
}

/// Gives this process dockerd's `oom_score_adj`, so that the kernel ends it before PID 1. That may
/// need CAP_SYS_RESOURCE: proc_pid_oom_score_adj(5). A helper runs without it, too.
pub fn take_daemons_oom_score() {
    let _ = fs::write("/proc/self/oom_score_adj", DOCKERD_OOM_SCORE.to_string());
}
