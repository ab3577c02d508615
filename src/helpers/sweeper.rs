//! Empties the data root after the daemons have ended: `DIND_EPHEMERAL`.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use tracing::{info, warn};

use super::data_file;
use crate::facts::proc;
use crate::plan::engine::Emptied;

/// Empties a data root whose daemons have ended, as far as it can, and says so. What the
/// user has mounted below it stays, and no symbolic link is followed. What an engine that was
/// killed left mounted is unmounted first.
pub fn empty(emptied: &Emptied) {
    let path = emptied.path.display();
    if let Some(data_file) = &emptied.data_file
        && let Err(error) = data_file::remove(data_file, &emptied.path)
    {
        warn!(path = %path, "{path} is not emptied: {error:#}; remove it");
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
                        "cannot unmount {}: {}",
                        mount.display(),
                        errno.desc()
                    );
                }
            }
        }
        Err(error) => {
            warn!(path = %path, "{path} is not emptied: {error:#}");
            return;
        }
    }
    match remove_content(&emptied.path) {
        Ok(left) => match left.first() {
            None => info!(path = %path, "{path} is empty, as DIND_EPHEMERAL asks"),
            Some((name, errno)) => warn!(
                path = %path,
                files = left.len(),
                error = errno.desc(),
                "{path} is empty but for {} files that stay, among them {}: {}",
                left.len(),
                name.to_string_lossy(),
                errno.desc()
            ),
        },
        Err(error) => warn!(path = %path, "{path} is not emptied: {error:#}; remove the volume"),
    }
}

/// A directory on the way down, and its own name in the one before it.
struct Level {
    directory: Dir,
    entries: Vec<(CString, Option<Type>)>,
    name: CString,
}

impl Level {
    fn open(directory: OwnedFd, name: CString) -> nix::Result<Self> {
        let mut directory = Dir::from_fd(directory)?;
        // All at once: what is removed meanwhile could make the listing skip some.
        let entries = directory
            .iter()
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name() != c"." && entry.file_name() != c"..")
            .map(|entry| (entry.file_name().to_owned(), entry.file_type()))
            .collect();
        Ok(Self {
            directory,
            entries,
            name,
        })
    }
}

/// Removes what is in a directory and returns what could not be, with the reason. No mount
/// point is gone into, a bind mount no more than another file system: openat2(2),
/// RESOLVE_NO_XDEV. By descriptors, so that nothing that is renamed meanwhile leads out.
fn remove_content(path: &Path) -> Result<Vec<(CString, Errno)>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let top = nix::fcntl::open(path, flags, Mode::empty())
        .with_context(|| format!("cannot open {} as a directory", path.display()))?;
    let inside = OpenHow::new().flags(flags).resolve(
        ResolveFlag::RESOLVE_NO_XDEV
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_BENEATH,
    );
    let mut left = Vec::new();
    let mut levels = vec![Level::open(top, CString::default())?];
    while let Some(level) = levels.last_mut() {
        let Some((name, kind)) = level.entries.pop() else {
            let done = levels.pop();
            if let (Some(done), Some(above)) = (done, levels.last()) {
                remove(
                    &above.directory,
                    &done.name,
                    UnlinkatFlags::RemoveDir,
                    &mut left,
                );
            }
            continue;
        };
        let opened = match kind {
            Some(Type::Directory) | None => {
                openat2(level.directory.as_fd(), name.as_c_str(), inside)
            }
            Some(_) => Err(Errno::ENOTDIR),
        };
        match opened {
            Ok(directory) => levels.push(Level::open(directory, name)?),
            Err(Errno::EXDEV) => left.push((name, Errno::EBUSY)),
            // No directory, which some file systems do not tell beforehand.
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                remove(
                    &level.directory,
                    &name,
                    UnlinkatFlags::NoRemoveDir,
                    &mut left,
                );
            }
            Err(Errno::ENOSYS) => anyhow::bail!("this kernel has no openat2, it needs 5.6"),
            Err(errno) => left.push((name, errno)),
        }
    }
    Ok(left)
}

fn remove(directory: &Dir, name: &CStr, how: UnlinkatFlags, left: &mut Vec<(CString, Errno)>) {
    match unlinkat(directory, name, how) {
        // Directories above of what stays, which has been counted.
        Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY) => {}
        Err(errno) => left.push((name.to_owned(), errno)),
    }
}
