//! Whether docker is ready, as far as it is not for the API to say: while images are loaded
//! and post-start hooks run, PID 1 has a file locked, and `dind health` looks at the lock. It
//! goes with PID 1 however that ends, so that none is left behind as a file would be.

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

/// Not below `/run/dind`, which pods mount for a socket that their containers share.
const FILE: &str = "/run/dind-provisioning";

/// The time between the start of the daemons and the word that docker is ready.
pub struct Provisioning(Flock<File>);

impl Provisioning {
    /// Begins it: the file is made where it is missing, and locked. The error is that this
    /// cannot be done, or not without waiting.
    pub fn begin() -> Result<Self> {
        Self::begin_with(Path::new(FILE))
    }

    fn begin_with(path: &Path) -> Result<Self> {
        let begin = || -> io::Result<Self> {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            let file = File::options()
                .append(true)
                .create(true)
                // With a FIFO in its place PID 1 would wait for a reader: open(2).
                .custom_flags(libc::O_NONBLOCK)
                .open(path)?;
            let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
            Ok(Self(locked.map_err(|(_, errno)| errno)?))
        };
        begin().with_context(|| format!("cannot lock {}", path.display()))
    }

    /// Ends it. Children may have copies of the descriptor, so closing would not do:
    /// flock(2).
    pub fn end(self) {
        // What is locked can be unlocked.
        let _ = self.0.unlock();
    }
}

/// Waits until it has ended, for `patience` at most, or not at all. Whether it has.
pub fn is_complete(patience: Option<Duration>) -> bool {
    is_complete_with(Path::new(FILE), patience)
}

fn is_complete_with(path: &Path, patience: Option<Duration>) -> bool {
    // Where there is no such file, there is nothing to wait for.
    let Ok((file, _)) = read::open(path, Links::Follow) else {
        return true;
    };
    let locked = match patience.filter(|patience| !patience.is_zero()) {
        Some(patience) => lock::lock(&file, libc::LOCK_SH, patience),
        None => Flock::lock(file, FlockArg::LockSharedNonblock)
            .map(drop)
            .map_err(|(_, errno)| errno),
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
