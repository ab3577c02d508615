//! The lock that marks a start as incomplete, which the API cannot tell: while images are loaded
//! and post-start hooks run, PID 1 holds a lock on a file, and `dind health` tests it. The kernel
//! releases the lock however PID 1 ends, so it is never stale, as a file alone could be.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;

use crate::sys::lock;
use crate::sys::read::{self, Links};

/// The file that is locked. It is not below `/run/dind`, which pods mount for a socket that their
/// containers share.
const FILE: &str = "/run/dind-provisioning";

/// The held lock: from the start of the daemons until docker is ready.
pub struct Provisioning(Flock<File>);

impl Provisioning {
    /// Makes the file where it is missing, and locks it without blocking. The error is that of a
    /// system call, or that another process has the lock, and names the path.
    pub fn begin() -> Result<Self> {
        Self::begin_with(Path::new(FILE))
    }

    fn begin_with(path: &Path) -> Result<Self> {
        let begin = || -> io::Result<Self> {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            let file = File::options()
                .append(true)
                .create(true)
                // A FIFO in its place must not block PID 1 until it has a reader: open(2).
                .custom_flags(libc::O_NONBLOCK)
                .open(path)?;
            let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
            Ok(Self(locked.map_err(|(_, errno)| errno)?))
        };
        begin().with_context(|| format!("cannot lock {}", path.display()))
    }

    /// Releases the lock. Closing the descriptor is not enough, as children may have copies of
    /// it: flock(2).
    pub fn end(self) {
        // LOCK_UN of a lock that is held does not fail.
        let _ = self.0.unlock();
    }
}

/// Waits at most `patience` until the start is complete, without it not at all. Returns whether
/// the start is complete.
pub fn is_complete(patience: Option<Duration>) -> bool {
    is_complete_with(Path::new(FILE), patience)
}

fn is_complete_with(path: &Path, patience: Option<Duration>) -> bool {
    // Without the file, no start is in progress.
    let Ok((file, _)) = read::open(path, Links::Follow) else {
        return true;
    };
    let locked = match patience.filter(|patience| !patience.is_zero()) {
        Some(patience) => lock::lock(&file, libc::LOCK_SH, patience),
        None => lock::try_lock(&file, libc::LOCK_SH),
    };
    !matches!(locked, Err(Errno::EWOULDBLOCK | Errno::EINTR))
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn a_start_is_complete_when_the_lock_has_gone() -> Result<()> {
        let path = std::env::temp_dir().join(format!("dind-ready-{}", std::process::id()));
        assert!(is_complete_with(&path, None));
        let provisioning = Provisioning::begin_with(&path)?;
        assert!(!is_complete_with(&path, None));
        provisioning.end();
        assert!(is_complete_with(&path, None));
        fs::remove_file(&path)?;
        Ok(())
    }

    #[test]
    fn a_fifo_instead_of_the_file_is_not_waited_for() -> Result<()> {
        let path = std::env::temp_dir().join(format!("dind-fifo-{}", std::process::id()));
        mkfifo(&path, Mode::S_IRWXU)?;
        let (begun, complete) = (
            Provisioning::begin_with(&path).is_ok(),
            is_complete_with(&path, None),
        );
        fs::remove_file(&path)?;
        assert_eq!((begun, complete), (false, true));
        Ok(())
    }
}
