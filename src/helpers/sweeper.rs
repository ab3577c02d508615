//! The sweeper: empties the data root after the daemons have ended, with `DIND_EPHEMERAL`.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use tracing::{info, warn};

use super::data_file;
use crate::facts::proc;
use crate::messages::fault::Fault;
use crate::messages::remedy::Remedy;
use crate::plan::engine::Emptied;

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
    match remove_content(&emptied.path) {
        Ok(left) => match left.first() {
            None => info!(path = %path, "{path} is empty, as DIND_EPHEMERAL asks"),
            Some((name, errno)) => warn!(
                path = %path,
                files = left.len(),
                error = errno.desc(),
                "{path} is empty except for {} files that cannot be removed, among them {}: {}; remove the volume",
                left.len(),
                name.to_string_lossy(),
                errno.desc()
            ),
        },
        Err(error) => cannot_empty(emptied, error),
    }
}

fn cannot_empty(emptied: &Emptied, error: anyhow::Error) {
    let path = emptied.path.display();
    let error = error.context(format!("cannot empty {path}"));
    let fault = Fault::from(error.remedy("remove the volume"));
    warn!(path = %path, "{fault}");
}

/// A directory whose content is being removed, in a depth-first descent.
struct Descent {
    directory: Dir,
    /// The entries that are still to be removed, with their types where readdir(3) has them.
    entries: Vec<(CString, Option<Type>)>,
    /// The directory's name in its parent.
    name: CString,
}

impl Descent {
    fn open(directory: OwnedFd, name: CString) -> nix::Result<Self> {
        let mut directory = Dir::from_fd(directory)?;
        // Read as a whole first: readdir(3) may skip entries while others are removed.
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

/// Removes the content of a directory, and returns the names of what could not be removed, with
/// the reasons. It enters no mount point, bind mounts included: openat2(2), RESOLVE_NO_XDEV. All
/// steps start from open directories, so a concurrent rename cannot lead out of them.
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
    let mut descents = vec![Descent::open(top, CString::default())?];
    while let Some(current) = descents.last_mut() {
        let Some((name, kind)) = current.entries.pop() else {
            let done = descents.pop();
            if let (Some(done), Some(parent)) = (done, descents.last()) {
                remove(
                    &parent.directory,
                    &done.name,
                    UnlinkatFlags::RemoveDir,
                    &mut left,
                );
            }
            continue;
        };
        let opened = match kind {
            Some(Type::Directory) | None => {
                openat2(current.directory.as_fd(), name.as_c_str(), inside)
            }
            Some(_) => Err(Errno::ENOTDIR),
        };
        match opened {
            Ok(directory) => descents.push(Descent::open(directory, name)?),
            Err(Errno::EXDEV) => left.push((name, Errno::EBUSY)),
            // Not a directory; some file systems have no types in readdir(3).
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                remove(
                    &current.directory,
                    &name,
                    UnlinkatFlags::NoRemoveDir,
                    &mut left,
                );
            }
            Err(Errno::ENOSYS) => {
                bail!("this kernel has no openat2(2), which needs Linux 5.6")
            }
            Err(errno) => left.push((name, errno)),
        }
    }
    Ok(left)
}

fn remove(directory: &Dir, name: &CStr, how: UnlinkatFlags, left: &mut Vec<(CString, Errno)>) {
    match unlinkat(directory, name, how) {
        // ENOTEMPTY: something inside could not be removed and is in `left` already.
        Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY) => {}
        Err(errno) => left.push((name.to_owned(), errno)),
    }
}
