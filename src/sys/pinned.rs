//! A file of any kind that stays the same one, whatever others make of its path meanwhile.

use std::fs::{self, File, Metadata, ReadDir};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::unistd::chown;

use super::read;

/// An open file, directory, socket or device, which is no symbolic link: open(2), O_PATH.
pub struct Pinned {
    file: File,
    metadata: Metadata,
}

impl Pinned {
    /// Opens what is at `path`. The error is that of open(2), or that it is a symbolic link: whoever may
    /// write to its directory would choose the file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
            .open(path)?;
        let metadata = file.metadata()?;
        match metadata.is_symlink() {
            true => Err(io::Error::other(read::LINK)),
            false => Ok(Self { file, metadata }),
        }
    }

    /// What it was when it was opened.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// What is in the directory.
    pub fn entries(&self) -> io::Result<ReadDir> {
        fs::read_dir(self.path())
    }

    /// Gives it to a user.
    pub fn give(&self, user: u32) -> io::Result<()> {
        Ok(chown(&self.path(), Some(user.into()), None)?)
    }

    /// Sets its permission bits.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        fs::set_permissions(self.path(), fs::Permissions::from_mode(mode))
    }

    /// The path that leads to the open file: fchmod(2) and fchown(2) take no descriptor of O_PATH, and
    /// proc_pid_fd(5) has links that do.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_path_that_becomes_a_link_changes_nothing_elsewhere() -> io::Result<()> {
        let directory = std::env::temp_dir().join(format!("dind-pinned-{}", std::process::id()));
        let [theirs, moved, other] = ["theirs", "moved", "other"].map(|name| directory.join(name));
        fs::create_dir_all(&theirs)?;
        fs::create_dir_all(&other)?;
        let mode = |path: &Path| Ok::<_, io::Error>(fs::metadata(path)?.mode() & 0o7777);
        let others = mode(&other)?;
        let pinned = Pinned::open(&theirs)?;
        fs::rename(&theirs, &moved)?;
        symlink(&other, &theirs)?;
        pinned.set_mode(0o710)?;
        pinned.give(pinned.metadata().uid())?;
        assert_eq!([mode(&moved)?, mode(&other)?], [0o710, others]);
        assert!(Pinned::open(&theirs).is_err());
        // Nothing opens a socket but connect(2).
        let socket = directory.join("socket");
        let _bound = UnixListener::bind(&socket)?;
        Pinned::open(&socket)?.set_mode(0o600)?;
        assert_eq!(mode(&socket)?, 0o600);
        fs::remove_dir_all(&directory)
    }
}
