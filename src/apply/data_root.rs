//! Whose the data root is.

use std::path::Path;

use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::Mode;
use tracing::warn;

/// Locks a directory until this process ends, however it ends. One that cannot be opened, or
/// whose file system cannot lock, is no reason not to start.
pub fn lock(path: &Path) -> Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
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
            "{} cannot be locked ({}), so nothing keeps a second daemon from it; give it to no \
             other container",
            path.display(),
            errno.desc()
        ),
    }
    Ok(())
}
