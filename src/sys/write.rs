//! Writing a file so that nobody reads half of it, and so that whoever else can write to
//! its directory cannot send the content elsewhere by a symbolic link.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Opens a directory, which must not be a symbolic link itself. What is done below the
/// open directory stays there, whatever its path leads to later.
pub fn open_directory(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path);
    // The kernel says ENOTDIR, which is true and helps nobody.
    opened.map_err(|error| match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => {
            io::Error::other("a symbolic link, through which nothing is written")
        }
        _ => error,
    })
}

/// Writes a file beside and moves it into place: a link of that name is replaced, not
/// followed. What a killed start has left is overwritten.
pub fn replace(directory: &File, name: &OsStr, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut beside = OsStr::new(".dind-").to_owned();
    beside.push(name);
    remove(directory, &beside)?;
    // With O_EXCL no link is followed: open(2).
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
        // The first error is the one to tell.
        let _ = remove(directory, &beside);
    }
    written
}

/// Removes a file, or a link itself. One that is not there is no error.
pub fn remove(directory: &File, name: &OsStr) -> io::Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
