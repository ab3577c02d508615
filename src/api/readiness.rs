//! The lock that marks a start as incomplete, which the API cannot tell: while images are loaded
//! and post-start hooks run, PID 1 holds a lock on a file, and `dind health` tests it. The kernel
//! releases the lock however PID 1 ends, so it is never stale, as a file alone could be.
//!
//! A probe need not be root, so everybody may read the file, and whoever can open a file can hold
//! a lock of flock(2) on it. A record lock for writing can be held only by who may write, which is
//! root; those for reading do not keep a probe from its own.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;

use crate::sys::clock::Clock;
use crate::sys::lock::Record;
use crate::sys::read::{self, Links};

/// The file that is locked. It is not below `/run/dind`, which pods mount for a socket that their
/// containers share.
const FILE: &str = "/run/dind-provisioning";

/// The held lock: from the start of the daemons until docker is ready.
pub struct Provisioning(File);

impl Provisioning {
    /// Makes the file, in place of one that is there, and locks it without blocking. The error is
    /// that of a system call, and names the path.
    pub fn begin() -> Result<Self> {
        Self::begin_with(Path::new(FILE))
    }

    fn begin_with(path: &Path) -> Result<Self> {
        let begin = || -> io::Result<Self> {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            // Nobody else can open it before it is locked. O_EXCL follows no link: open(2).
            let file = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?;
            Record::Write.set(&file)?;
            file.set_permissions(Permissions::from_mode(0o644))?;
            Ok(Self(file))
        };
        begin().with_context(|| format!("cannot lock {}", path.display()))
    }

    /// Releases the lock. Closing the descriptor is not enough, as children may have copies of it.
    pub fn end(self) {
        // The release of a lock that is held does not fail.
        let _ = Record::Free.set(&self.0);
    }
}

/// Waits at most `patience` until the start is complete, without it not at all. Returns whether
/// the start is complete.
pub fn is_complete(patience: Option<Duration>) -> bool {
    is_complete_with(Path::new(FILE), patience)
}

fn is_complete_with(path: &Path, patience: Option<Duration>) -> bool {
    // Without the file, no start is in progress.
    let Ok((file, _)) = read::open(path, Links::Refuse) else {
        return true;
    };
    let clock = Clock::since(Instant::now());
    loop {
        let slice = clock.timeout(patience).filter(|slice| !slice.is_zero());
        let locked = match slice {
            Some(slice) => Record::Read.wait(&file, slice),
            None => Record::Read.set(&file),
        };
        match locked {
            // The slice is over, or another signal arrived.
            Err(Errno::EINTR) => {}
            locked => return !matches!(locked, Err(Errno::EAGAIN | Errno::EACCES)),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::libc;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;
    use crate::sys::lock;

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
    fn what_is_in_the_place_of_the_file_is_not_waited_for() -> Result<()> {
        let path = std::env::temp_dir().join(format!("dind-fifo-{}", std::process::id()));
        mkfifo(&path, Mode::S_IRWXU)?;
        assert!(is_complete_with(&path, None));
        let provisioning = Provisioning::begin_with(&path)?;
        assert!(!is_complete_with(&path, None));
        drop(provisioning);
        fs::remove_file(&path)?;
        Ok(())
    }

    /// What every user can do with a file that every user can read.
    #[test]
    fn whoever_only_reads_the_file_holds_up_nobody() -> Result<()> {
        let path = std::env::temp_dir().join(format!("dind-held-{}", std::process::id()));
        Provisioning::begin_with(&path)?.end();
        let hold = |path: &Path| -> Result<[File; 2]> {
            let files = [File::open(path)?, File::open(path)?];
            Record::Read.set(&files[0])?;
            lock::try_lock(&files[1], libc::LOCK_EX)?;
            Ok(files)
        };
        let _before = hold(&path)?;
        assert!(is_complete_with(&path, None));
        let provisioning = Provisioning::begin_with(&path)?;
        assert!(!is_complete_with(&path, None));
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o644);
        provisioning.end();
        let _after = hold(&path)?;
        assert!(is_complete_with(&path, Some(Duration::from_secs(60))));
        fs::remove_file(&path)?;
        Ok(())
    }
}
