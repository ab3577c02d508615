//! Whether docker is ready, as far as it is not for the API to say: while images are loaded
//! and post-start hooks run, PID 1 has a file locked, and `dind health` looks at the lock. It
//! goes with PID 1 however that ends, so that none is left behind as a file would be.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;

use crate::sys::lock;

/// Not below `/run/dind`, which pods mount for a socket that their containers share.
const FILE: &str = "/run/dind-provisioning";

/// The time between the start of the daemons and the word that docker is ready.
pub struct Provisioning(Flock<File>);

impl Provisioning {
    /// Begins it.
    pub fn begin() -> Result<Self> {
        let begin = || -> io::Result<Self> {
            Path::new(FILE)
                .parent()
                .map_or(Ok(()), fs::create_dir_all)?;
            let file = File::options().append(true).create(true).open(FILE)?;
            let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
            Ok(Self(locked.map_err(|(_, errno)| errno)?))
        };
        begin().with_context(|| format!("cannot lock {FILE}"))
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
    // Where there is no such file, there is nothing to wait for.
    let Ok(file) = File::open(FILE) else {
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
