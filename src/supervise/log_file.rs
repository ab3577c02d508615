//! `LOG=file`: the file that both daemons write to.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

use crate::messages::json_log;
use crate::plan::engine::LogPath;
use crate::sys::read::{self, Links};

/// Lines of the log that are shown after a failed start.
const LINES: usize = 12;

/// Bytes at the end of the log that are read for them.
const BYTES: u64 = 128 * 1024;

/// The daemons' log file, and the offset in bytes at which this start's part of it begins.
pub struct LogFile {
    path: PathBuf,
    file: File,
    start: u64,
}

impl LogFile {
    /// Opens the log file for appending. Creates it, and its directory, where they are missing.
    /// Callers log the error as a warning: without a file the daemons log to standard error.
    ///
    /// A symbolic link that the image has, as to `/dev/stdout`, is followed. One in a directory
    /// that is mounted from outside is not: others can write there, and inner containers can
    /// influence what the daemons log, so lines of theirs could be appended to any file.
    pub fn open(LogPath { path, follow }: &LogPath) -> Result<Self> {
        let open = || -> std::io::Result<Self> {
            let directory = path.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(directory)?;
            let follow = if *follow { 0 } else { libc::O_NOFOLLOW };
            let file = File::options()
                .append(true)
                .create(true)
                .mode(0o640)
                // Opening a FIFO without a reader blocks: fifo(7).
                .custom_flags(follow | libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(path)?;
            // Writes of the daemons may block, as in any other file.
            fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
            let start = file.metadata()?.len();
            Ok(Self {
                path: path.to_owned(),
                file,
                start,
            })
        };
        open().with_context(|| format!("cannot write {}", path.display()))
    }

    /// The path that the file was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last lines of this start, 12 at most. They are read from the file that was opened, even
    /// if another one has its name now. Empty where it is not a regular file or cannot be read.
    pub fn tail(&self) -> Vec<String> {
        let read = || -> std::io::Result<Vec<u8>> {
            let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            if !self.file.metadata()?.is_file() {
                return Ok(Vec::new());
            }
            let (mut file, metadata) = read::open(Path::new(&path), Links::Follow)?;
            let end = metadata.len();
            file.seek(SeekFrom::Start(end.saturating_sub(BYTES).max(self.start)))?;
            let mut bytes = Vec::new();
            file.take(BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        last_words(&String::from_utf8_lossy(&bytes))
    }
}

/// The last lines, without those that hide the reason: lines of level debug, most of them
/// containerd's, and the 200 lines of usage after "Status: unknown flag: ..." since Docker 28.
/// A line of JSON is reduced to its level and text.
fn last_words(text: &str) -> Vec<String> {
    let mut in_usage = false;
    let telling = text.lines().filter_map(|line| {
        let json = line
            .starts_with('{')
            .then(|| json_log::level_and_text(line));
        let (level, text) = json.flatten().unwrap_or_default();
        let message = if level.is_empty() { line } else { &text };
        // The usage ends with a line that begins with the comma.
        in_usage |= message.starts_with("Usage:");
        let is_usage = in_usage;
        in_usage &= !message.starts_with(", Code: ");
        let is_debug = level == "debug" || message.contains(" level=debug ");
        if is_usage || is_debug || message.is_empty() {
            return None;
        }
        Some(match level.is_empty() {
            true => line.to_owned(),
            false => format!("{level}: {text}"),
        })
    });
    let mut telling: Vec<String> = telling.collect();
    telling.split_off(telling.len().saturating_sub(LINES))
}

impl AsFd for LogFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn the_last_words_say_why() {
        let mut text = "time=\"…\" level=info msg=\"Starting up\"\n\
            Status: unknown flag: --no-such-flag\n\
            See 'dockerd --help'.\n\n\
            Usage:\tdockerd [OPTIONS]\n"
            .to_owned();
        text.extend((0..200).map(|number| format!("      --flag-{number}   is one\n")));
        text.push_str(", Code: 125\n");
        text.extend((0..50).map(|_| "time=\"…\" level=debug msg=\"containerd's\"\n"));
        assert_eq!(
            last_words(&text),
            [
                "time=\"…\" level=info msg=\"Starting up\"",
                "Status: unknown flag: --no-such-flag",
                "See 'dockerd --help'."
            ]
        );
        let defaults = json_log::Defaults {
            time: UNIX_EPOCH,
            level: "error",
        };
        let json: String = text
            .lines()
            .map(|line| json_log::translated("dockerd", line.as_bytes(), defaults) + "\n")
            .collect();
        assert_eq!(
            last_words(&json),
            [
                "info: Starting up",
                "error: Status: unknown flag: --no-such-flag",
                "error: See 'dockerd --help'."
            ]
        );
        let many: String = (0..100).map(|number| format!("{number}\n")).collect();
        let last = last_words(&many);
        assert_eq!(
            (last.len(), last.last().map(String::as_str)),
            (LINES, Some("99"))
        );
    }
}
