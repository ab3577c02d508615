//! `LOG=file`: the file that both daemons write to.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

use crate::facts;

/// How much of the log is shown when dockerd dies, and read for that.
const LINES: usize = 12;
const BYTES: u64 = 16 * 1024;

/// The daemons' log file and where this start's part of it begins.
pub struct LogFile {
    path: PathBuf,
    file: File,
    start: u64,
}

impl LogFile {
    /// Opens it for appending, and makes it where it is missing. The error is a warning:
    /// without a file the daemons log to standard error.
    ///
    /// A link is followed where the image has it, as to `/dev/stdout`. In a directory that
    /// is mounted from outside it is not: others write to it, and what the daemons log,
    /// which inner containers have a say in, would be appended to any file of their choice.
    pub fn open(path: &Path) -> Result<Self> {
        let open = || -> std::io::Result<Self> {
            let directory = path.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(directory)?;
            let follow = match facts::is_own(directory) {
                true => 0,
                false => libc::O_NOFOLLOW,
            };
            let file = File::options()
                .append(true)
                .create(true)
                .mode(0o640)
                // A pipe that nobody reads would make PID 1 wait.
                .custom_flags(follow | libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(path)?;
            // And then the daemons wait as they would anywhere else.
            fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
            let start = file.metadata()?.len();
            Ok(Self {
                path: path.to_owned(),
                file,
                start,
            })
        };
        open().with_context(|| {
            format!(
                "cannot write {}; the daemons' log goes to standard error",
                path.display()
            )
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last lines of this start, from the file that was opened, whatever has its name by
    /// now.
    pub fn tail(&self) -> Vec<String> {
        let read = || -> std::io::Result<Vec<u8>> {
            let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            if !self.file.metadata()?.is_file() {
                return Ok(Vec::new());
            }
            let mut file = File::open(path)?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(end.saturating_sub(BYTES).max(self.start)))?;
            let mut bytes = Vec::new();
            file.take(BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines
            .iter()
            .skip(lines.len().saturating_sub(LINES))
            .map(|line| (*line).to_owned())
            .collect()
    }
}

impl AsFd for LogFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
