//! The sweeper: empties the data root after the daemons have ended, with `DIND_EPHEMERAL`.

use anyhow::anyhow;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use tracing::{info, warn};

use super::data_file;
use crate::facts::proc;
use crate::messages::fault::Fault;
use crate::messages::remedy::Remedy;
use crate::plan::engine::Emptied;
use crate::sys::tree::{self, Mounts};

/// Empties the data root as far as possible, and logs the result. The user's mounts below it
/// stay, and no symbolic link is followed. Mounts that a killed engine left behind are unmounted
/// first.
pub fn empty(emptied: &Emptied) {
    let path = emptied.path.display();
    if let Some(data_file) = &emptied.data_file
        && let Err(error) = data_file::remove(data_file, &emptied.path)
    {
        cannot_empty(emptied, error);
        return;
    }
    match proc::mounts() {
        Ok(mounts) => {
            // The innermost first.
            for mount in mounts.below(&emptied.path).iter().rev() {
                if !emptied.mounts.contains(mount)
                    && let Err(errno) = umount2(mount, MntFlags::MNT_DETACH)
                {
                    warn!(
                        path = %mount.display(),
                        error = errno.desc(),
                        "cannot unmount {}: {}; what is in it stays, so remove the volume",
                        mount.display(),
                        errno.desc()
                    );
                }
            }
        }
        Err(error) => return cannot_empty(emptied, error),
    }
    match tree::empty(&emptied.path, Mounts::Keep) {
        Ok(left) => match left.first {
            None => info!(path = %path, "{path} is empty, as DIND_EPHEMERAL asks"),
            Some((name, errno)) => warn!(
                path = %path,
                files = left.count,
                error = errno.desc(),
                "{path} is empty except for {} files that cannot be removed, among them {}: {}; remove the volume",
                left.count,
                name.to_string_lossy(),
                errno.desc()
            ),
        },
        Err(Errno::ENOSYS) => {
            let error = anyhow!("this kernel has no openat2(2), which needs Linux 5.6");
            cannot_empty(emptied, error);
        }
        Err(errno) => cannot_empty(emptied, anyhow!(errno.desc())),
    }
}

fn cannot_empty(emptied: &Emptied, error: anyhow::Error) {
    let path = emptied.path.display();
    let error = error.context(format!("cannot empty {path}"));
    let fault = Fault::from(error.remedy("remove the volume"));
    warn!(path = %path, "{fault}");
}
