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

/// How much of the log is shown when dockerd dies, and read for that.
const LINES: usize = 12;
const BYTES: u64 = 128 * 1024;

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
    pub fn open(LogPath { path, follow }: &LogPath) -> Result<Self> {
        let open = || -> std::io::Result<Self> {
            let directory = path.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(directory)?;
            let follow = if *follow { 0 } else { libc::O_NOFOLLOW };
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
        last_words(&String::from_utf8_lossy(&bytes))
    }
}

/// The last lines, without those that hide the reason: what `--debug` adds, most of it
/// containerd's, and the 200 lines of usage after "Status: unknown flag: ..." since Docker 28.
/// Lines of JSON are shown by level and text.
fn last_words(text: &str) -> Vec<String> {
    let mut in_usage = false;
    let telling = text.lines().filter_map(|line| {
        let json = line
            .starts_with('{')
            .then(|| json_log::level_and_text(line));
        let (level, text) = json.flatten().unwrap_or_default();
        let message = if level.is_empty() { line } else { &text };
        // Between these two, with the colon at the beginning of a line.
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
