//! Atomic writes: no reader sees half of a file, and other users who can write to its
//! directory cannot redirect the content with a symbolic link.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::libc;
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{Uid, UnlinkatFlags, fchownat, unlinkat};

use super::read;

/// Opens a directory, for [`replace`] and [`remove`]: they stay in that directory, whatever its
/// path leads to later. The error is that of open(2), or that `path` itself is a symbolic link.
pub fn open_directory(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path);
    // For a link the kernel's error is ENOTDIR, which would mislead.
    opened.map_err(|error| match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => io::Error::other(read::LINK),
        _ => error,
    })
}

/// Writes `content` to a temporary file in `directory` and renames it to `name`, with the
/// permission bits `mode`. A symbolic link of that name is replaced, not followed; a temporary
/// file that a killed start has left is removed. The error is that of the system call that
/// failed: openat(2), write(2), fchmod(2), renameat(2) or unlinkat(2).
pub fn replace(directory: &File, name: &OsStr, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut beside = OsStr::new(".dind-").to_owned();
    beside.push(name);
    remove(directory, &beside)?;
    // O_EXCL does not follow a link: open(2).
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let opened = openat(
        directory,
        beside.as_os_str(),
        flags,
        Mode::S_IRUSR | Mode::S_IWUSR,
    )?;
    let mut file = File::from(opened);
    let written = file
        .write_all(content)
        .and_then(|()| file.set_permissions(fs::Permissions::from_mode(mode)))
        .and_then(|()| Ok(renameat(directory, beside.as_os_str(), directory, name)?));
    if written.is_err() {
        // The first error is the one to report.
        let _ = remove(directory, &beside);
    }
    written
}

/// Does the same, and gives the file to the user who has the directory. The error is that of either.
pub fn replace_for_owner(
    directory: &File,
    name: &OsStr,
    mode: u32,
    content: &[u8],
) -> io::Result<()> {
    replace(directory, name, mode, content)?;
    give_to_owner(directory, name)
}

/// Gives the file `name` in `directory` to the user who has the directory: an engine in a user namespace
/// reads and replaces it as that user. The error is that of fstat(2) or fchownat(2).
pub fn give_to_owner(directory: &File, name: &OsStr) -> io::Result<()> {
    let owner = directory.metadata()?.uid();
    let nofollow = AtFlags::AT_SYMLINK_NOFOLLOW;
    if fstatat(directory, name, nofollow)?.st_uid != owner {
        fchownat(directory, name, Some(Uid::from_raw(owner)), None, nofollow)?;
    }
    Ok(())
}

/// Removes the file `name` in `directory`, or the symbolic link itself. A missing file is not
/// an error; others are those of unlinkat(2).
pub fn remove(directory: &File, name: &OsStr) -> io::Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
