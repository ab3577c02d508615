//! Removal of directories with all that is in them, however deep, with a bounded number of
//! descriptors: a container may have a tree that is deeper than any limit of open files.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// How many directories are open at a time. Those above are opened again on the way back, by `..`.
const OPEN: usize = 8;

const FLAGS: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// What happens at a mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounts {
    /// What is mounted stays, bind mounts included: openat2(2), RESOLVE_NO_XDEV, Linux 5.6.
    Keep,
    /// It is emptied, too. The mount point stays.
    Empty,
}

/// What could not be removed.
#[derive(Debug, Default)]
pub struct Left {
    /// How many files.
    pub count: usize,
    /// The name of the first one, and the reason.
    pub first: Option<(CString, Errno)>,
}

impl Left {
    fn add(&mut self, name: &CStr, errno: Errno) {
        self.count = self.count.saturating_add(1);
        self.first.get_or_insert_with(|| (name.to_owned(), errno));
    }
}

/// A directory whose content is being removed, in a depth-first descent.
struct Level {
    /// `None` while more than [`OPEN`] are below it.
    directory: Option<Dir>,
    /// The device and the inode of the directory.
    identity: (u64, u64),
    /// The entries that are still to be removed, with their types where readdir(3) has them.
    entries: Vec<(CString, Option<Type>)>,
    /// The directory's name in its parent.
    name: CString,
    /// How much was left when its removal began.
    left: usize,
}

impl Level {
    fn open(directory: OwnedFd, name: &CStr, left: &Left) -> nix::Result<Self> {
        let found = fstat(&directory)?;
        let mut directory = Dir::from_fd(directory)?;
        // Read as a whole first: readdir(3) may skip entries while others are removed.
        let entries = directory
            .iter()
            .filter(|entry| {
                !entry
                    .as_ref()
                    .is_ok_and(|entry| entry.file_name() == c"." || entry.file_name() == c"..")
            })
            .map(|entry| entry.map(|entry| (entry.file_name().to_owned(), entry.file_type())))
            .collect::<nix::Result<_>>()?;
        Ok(Self {
            directory: Some(directory),
            identity: (found.st_dev, found.st_ino),
            entries,
            name: name.to_owned(),
            left: left.count,
        })
    }

    /// The open directory. Where it was closed, it is the parent of `below`; the error is ESTALE
    /// where that has got another one meanwhile, so that the removal stays in its tree.
    fn reopen(&mut self, below: Option<&Dir>) -> nix::Result<&Dir> {
        let opened = match (self.directory.take(), below) {
            (Some(directory), _) => directory,
            (None, None) => return Err(Errno::ESTALE),
            (None, Some(below)) => {
                let opened = openat(below, "..", FLAGS, Mode::empty())?;
                let found = fstat(&opened)?;
                if (found.st_dev, found.st_ino) != self.identity {
                    return Err(Errno::ESTALE);
                }
                Dir::from_fd(opened)?
            }
        };
        Ok(self.directory.insert(opened))
    }
}

/// Removes the content of a directory as far as possible, and returns what could not be removed.
/// No symbolic link is followed. All steps start from open directories, so a concurrent rename
/// cannot lead out of them. The error is that of a directory that cannot be opened or read, ENOSYS
/// where the kernel has no openat2(2), or ESTALE where a directory was moved meanwhile.
pub fn empty(path: &Path, mounts: Mounts) -> nix::Result<Left> {
    let top = nix::fcntl::open(path, FLAGS, Mode::empty())?;
    let inside = OpenHow::new().flags(FLAGS).resolve(
        ResolveFlag::RESOLVE_NO_XDEV
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_BENEATH,
    );
    let mut left = Left::default();
    let mut levels = vec![Level::open(top, c"", &left)?];
    while let Some(level) = levels.last_mut() {
        let Some((name, kind)) = level.entries.pop() else {
            if let (Some(done), Some(above)) = (levels.pop(), levels.last_mut()) {
                let above = above.reopen(done.directory.as_ref())?;
                match unlinkat(above, done.name.as_c_str(), UnlinkatFlags::RemoveDir) {
                    Ok(()) | Err(Errno::ENOENT) => {}
                    // What is in it is in `left` already.
                    Err(Errno::ENOTEMPTY) if left.count > done.left => {}
                    Err(errno) => left.add(&done.name, errno),
                }
            }
            continue;
        };
        let directory = level.reopen(None)?;
        let opened = match (kind, mounts) {
            (Some(Type::Directory) | None, Mounts::Keep) => {
                openat2(directory, name.as_c_str(), inside)
            }
            (Some(Type::Directory) | None, Mounts::Empty) => {
                openat(directory, name.as_c_str(), FLAGS, Mode::empty())
            }
            (Some(_), _) => Err(Errno::ENOTDIR),
        };
        match opened {
            Ok(directory) => match Level::open(directory, &name, &left) {
                Ok(below) => {
                    levels.push(below);
                    let far = levels.len().checked_sub(OPEN + 1);
                    if let Some(far) = far.and_then(|far| levels.get_mut(far)) {
                        far.directory = None;
                    }
                }
                Err(errno) => left.add(&name, errno),
            },
            Err(Errno::EXDEV) => left.add(&name, Errno::EBUSY),
            // Not a directory; some file systems have no types in readdir(3).
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                match unlinkat(directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
                    Ok(()) | Err(Errno::ENOENT) => {}
                    Err(errno) => left.add(&name, errno),
                }
            }
            Err(Errno::ENOSYS) => return Err(Errno::ENOSYS),
            Err(errno) => left.add(&name, errno),
        }
    }
    Ok(left)
}
