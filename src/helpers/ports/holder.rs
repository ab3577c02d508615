//! Who holds a published port: the process that has asked for it. From 28.0 on that is dockerd, and
//! before it is docker-proxy, which `rootlesskit-docker-proxy` becomes. However that process ends, the
//! port is free then.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Pid;

use crate::facts::processes;
use crate::sys::{process, wait};

/// A process that lives, or has not been waited for.
#[derive(Debug)]
pub struct Holder {
    /// The process and its beginning, which together no other process has.
    pub pid: i32,
    /// See [`processes::started`].
    pub started: u64,
    end: OwnedFd,
}

impl Holder {
    /// The process at the other end of a connection: unix(7), SO_PEERCRED.
    pub fn of(client: &UnixStream) -> nix::Result<Self> {
        let pid = getsockopt(client, sockopt::PeerCredentials)?.pid();
        let end = process::descriptor(Pid::from_raw(pid))?;
        let started = processes::started(pid).ok_or(Errno::ESRCH)?;
        Ok(Self { pid, started, end })
    }

    /// The same process again, if it lives.
    pub fn again(pid: i32, started: u64) -> Option<Self> {
        let end = process::descriptor(Pid::from_raw(pid)).ok()?;
        let is_same = processes::started(pid) == Some(started);
        is_same.then_some(Self { pid, started, end })
    }

    /// Waits for its end, for so long at most.
    pub fn wait(&self, most: Duration) {
        let mut ended = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        // Without a result, what was to wait for it fails, and says so.
        let _ = poll(&mut ended, wait::timeout(Some(most)));
    }
}

/// Readable when the process has ended.
impl AsFd for Holder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}
