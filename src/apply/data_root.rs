//! The lock on the data root.

use std::path::Path;

use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::Mode;
use tracing::warn;

/// Locks a directory with flock(2) until this process ends. Fails where another process holds the
/// lock. Where the directory cannot be opened, or its file system does not support locks, warns
/// and succeeds.
pub fn lock(path: &Path) -> Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let locked = nix::fcntl::open(path, flags, Mode::empty()).and_then(|directory| {
        let locked = Flock::lock(directory, FlockArg::LockExclusiveNonblock);
        locked.map_err(|(_, errno)| errno)
    });
    match locked {
        Ok(held) => std::mem::forget(held),
        Err(Errno::EWOULDBLOCK) => anyhow::bail!("{} is locked", path.display()),
        Err(errno) => warn!(
            path = %path.display(),
            error = errno.desc(),
            "cannot lock {} ({}), so a second daemon could use it at the same time; do not share \
             it with another container",
            path.display(),
            errno.desc()
        ),
    }
    Ok(())
}
