//! `LOG=file`: the file that both daemons write to.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

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
    pub fn open(path: &Path) -> Result<Self> {
        let open = || -> std::io::Result<Self> {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            let file = File::options()
                .append(true)
                .create(true)
                .mode(0o640)
                .open(path)?;
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

    /// The last lines of this start.
    pub fn tail(&self) -> Vec<String> {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(&self.path)?;
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
