//! A store in one file is mounted: loop(4), erofs.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::mount::{self, MsFlags};

use super::loops::{self, Access};
use crate::messages::remedy::Remedy;
use crate::store::disk::MOUNT_POINT;
use crate::sys::lock;
use crate::sys::read::{self, Links};

/// What the user can do where there is no loop device.
const NO_LOOP_DEVICE: &str =
    "start the container with --privileged, or use a store that is a directory";

/// How long others may take to mount a file.
const PATIENCE: Duration = Duration::from_secs(1);

/// Mounts the store in this file, whose path is for messages, where the links of a data root lead to: from
/// the loop device that shows it already where there is one, so that all containers with this file share
/// its pages.
pub fn mount(path: &Path, file: &File) -> Result<()> {
    let shown = path.display();
    fs::create_dir_all(MOUNT_POINT)
        .with_context(|| format!("cannot make {MOUNT_POINT}"))
        .remedy("make /run writable")?;
    // Who cannot lock the file, as over NFS, goes on without: then two that start at the same moment
    // may share nothing.
    let locked = lock_a_moment(path, file);
    if let Some(shared) = loops::showing(file)
        && mount_image(&shared.path).is_ok()
    {
        return Ok(());
    }
    let device = loops::attach(file, Access::Read, NO_LOOP_DEVICE)
        .with_context(|| format!("the store {shown} is not used"))?;
    let mounted = mount_image(&device.path).with_context(|| {
        format!(
            "the store {shown} is not used: cannot mount it from {}",
            device.path
        )
    });
    drop(locked);
    let errno = mounted.as_ref().err();
    let errno = errno.and_then(|error| error.root_cause().downcast_ref().copied());
    mounted.remedy(remedy(errno))
}

/// What the user can do where mount(2) has failed with this error.
fn remedy(errno: Option<Errno>) -> &'static str {
    match errno {
        // The kernel has no erofs, or has it without what the image is made with.
        Some(Errno::ENODEV | Errno::EOPNOTSUPP) => {
            "load the module erofs on the host, or use a store that is a directory"
        }
        Some(Errno::EPERM | Errno::EACCES) => NO_LOOP_DEVICE,
        _ => "copy the file again, or save it again",
    }
}

fn mount_image(device: &str) -> nix::Result<()> {
    const NOTHING: Option<&str> = None;
    // Set-user-ID bits and devices work in what overlayfs mounts, which has flags of its own.
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount::mount(Some(device), MOUNT_POINT, Some("erofs"), flags, NOTHING)
}

/// Locks a file by another description than the one that the loop device gets, which would keep the
/// lock. Whoever can read the file can lock it, so it is waited for only as long as others take to mount
/// it.
fn lock_a_moment(path: &Path, file: &File) -> Option<File> {
    let (own, found) = read::open(path, Links::Follow).ok()?;
    let held = file.metadata().ok()?;
    if (held.dev(), held.ino()) != (found.dev(), found.ino()) {
        return None;
    }
    lock::lock(&own, libc::LOCK_EX, PATIENCE).ok()?;
    Some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_is_the_kernel_the_container_or_another_file() {
        for (errno, expected) in [
            (Errno::ENODEV, "load the module erofs"),
            (Errno::EOPNOTSUPP, "load the module erofs"),
            (Errno::EPERM, "--privileged"),
            (Errno::EINVAL, "copy the file again"),
            // EFSCORRUPTED of the kernel's fs/erofs/internal.h.
            (Errno::EUCLEAN, "copy the file again"),
        ] {
            assert!(remedy(Some(errno)).contains(expected), "{errno}");
        }
    }
}
