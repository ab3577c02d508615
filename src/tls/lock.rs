//! The lock among daemons that make certificates below one directory at the same time.
//!
//! Whoever can open a file can hold a lock of flock(2) on it, and neither a mode nor a read-only
//! mount keeps root in a client's container from opening one. So this is a record lock for
//! writing, which needs a descriptor that is open for writing, on a file that is there as long as
//! it is needed. A lock for reading is in its way, too; no daemon takes such a one, so a file
//! with it is replaced. While a daemon does that another one may just have got the lock, so
//! `tls::prepare` does not rely on it: it looks again at what it has made.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use tracing::info;

use crate::sys::lock::Record;
use crate::sys::write;

/// The file that is locked.
const FILE: &str = ".dind-lock";

/// How long another daemon may hold the lock. Certificates are made in milliseconds, unless the
/// disk hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long is waited in silence, and then again before the next look.
const SHORT: Duration = Duration::from_secs(1);

/// How often another process may be faster between two system calls.
const ATTEMPTS: u32 = 1000;

/// The lock, until this value is dropped.
#[derive(Debug)]
pub struct Lock<'a> {
    directory: &'a File,
    // Its lock ends with it.
    _file: File,
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // Whoever waits for it makes a new one. It stays where the process is killed.
        let _ = write::remove(self.directory, FILE.as_ref());
    }
}

/// What came of the attempt to lock a directory.
#[derive(Debug)]
pub enum Locking<'a> {
    /// It is locked.
    Locked(Lock<'a>),
    /// Nothing can be written in it.
    ReadOnly,
    /// Another one has the lock, or there are no locks: a warning.
    Without(String),
}

/// Locks a directory, which is at `path`. Where another daemon has the lock, this logs it after a
/// second and waits for 10 s at most.
pub fn lock<'a>(directory: &'a File, path: &Path) -> Locking<'a> {
    let shown = path.join(FILE);
    let shown = shown.display();
    let begun = Instant::now();
    let mut said = false;
    let failed = |errno: Errno| {
        Locking::Without(format!(
            "cannot lock {shown}: {}; start only one daemon at a time with this directory",
            errno.desc()
        ))
    };
    for _ in 0..ATTEMPTS {
        let file = match open(directory) {
            Ok(file) => file,
            Err(Errno::EROFS | Errno::EACCES | Errno::EPERM) => return Locking::ReadOnly,
            Err(errno) => return failed(errno),
        };
        let locked = match Record::Write.set(&file) {
            Err(Errno::EAGAIN | Errno::EACCES) => match Record::Write.in_the_way(&file) {
                Ok(Record::Write) => Record::Write.wait(&file, SHORT),
                Ok(Record::Read) => {
                    let _ = write::remove(directory, FILE.as_ref());
                    continue;
                }
                Ok(Record::Free) => continue,
                Err(errno) => Err(errno),
            },
            locked => locked,
        };
        match locked {
            Ok(()) if is_current(directory, &file) => {
                return Locking::Locked(Lock {
                    directory,
                    _file: file,
                });
            }
            // Another daemon had it, and has removed it.
            Ok(()) => {}
            Err(Errno::EINTR) if begun.elapsed() >= PATIENCE => break,
            Err(Errno::EINTR) => {
                if !said {
                    info!(path = %shown, "waiting for {shown}, which another daemon has locked");
                }
                said = true;
            }
            Err(errno) => return failed(errno),
        }
    }
    Locking::Without(format!(
        "{shown} is locked by another daemon that does not finish; stop that daemon"
    ))
}

fn open(directory: &File) -> nix::Result<File> {
    let flags = OFlag::O_RDWR
        | OFlag::O_CREAT
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC;
    let opened = openat(directory, FILE, flags, Mode::S_IRUSR | Mode::S_IWUSR);
    opened.map(File::from)
}

/// Whether the open file is the one that has the name now.
fn is_current(directory: &File, file: &File) -> bool {
    let named = fstatat(directory, FILE, AtFlags::AT_SYMLINK_NOFOLLOW);
    let (Ok(named), Ok(found)) = (named, file.metadata()) else {
        return false;
    };
    (named.st_ino, named.st_dev) == (found.ino(), found.dev())
}
