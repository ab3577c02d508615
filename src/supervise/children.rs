//! The children that the machine knows, by pid.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use nix::unistd::Pid;

use super::machine::Process;
use crate::messages::fault::Fault;
use crate::sys::spawn::{Begun, Launch};

/// The children that run, and those of them that have not executed their program yet.
#[derive(Default)]
pub struct Children {
    known: Vec<(Process, Pid)>,
    begun: Vec<(Process, Begun, PathBuf)>,
}

impl Children {
    /// Records a forked child that executes no program: a helper.
    pub fn add(&mut self, process: Process, pid: Pid) {
        self.known.push((process, pid));
    }

    /// Records a child that is about to execute `program`.
    pub fn begin(&mut self, process: Process, begun: Begun, program: PathBuf) {
        self.add(process, begun.pid);
        self.begun.push((process, begun, program));
    }

    /// The pid of a child; `None` where it does not run.
    pub fn pid(&self, process: Process) -> Option<Pid> {
        let mut children = self.known.iter();
        children.find_map(|(known, pid)| (*known == process).then_some(*pid))
    }

    /// Removes the child with this pid, which the kernel may use again, and returns which child it
    /// was; `None` for an orphan.
    pub fn take(&mut self, pid: Pid) -> Option<Process> {
        let place = self.known.iter().position(|(_, known)| *known == pid)?;
        Some(self.known.swap_remove(place).0)
    }

    /// Removes every child, and returns which they were, in the order of their start.
    pub fn take_all(&mut self) -> Vec<Process> {
        std::mem::take(&mut self.known)
            .into_iter()
            .map(|(process, _)| process)
            .collect()
    }

    /// Descriptors that become readable when a child has executed its program or has failed to.
    pub fn reports(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.begun.iter().map(|(_, begun, _)| begun.as_fd())
    }

    /// Removes the children that could not execute their program, and returns each with the
    /// reason. They are reaped like orphans.
    pub fn failed(&mut self) -> Vec<(Process, Fault)> {
        let mut failed = Vec::new();
        self.begun
            .retain(|(process, begun, program)| match begun.launch() {
                Launch::OnItsWay => true,
                Launch::Executed => false,
                Launch::Failed(error) => {
                    failed.push((*process, begun.pid, error.fault(program.as_os_str())));
                    false
                }
            });
        self.known
            .retain(|(_, pid)| !failed.iter().any(|(_, failed, _)| failed == pid));
        failed
            .into_iter()
            .map(|(process, _, fault)| (process, fault))
            .collect()
    }
}
