//! The progress line: one line on standard error that is overwritten as work goes on and
//! erased at its end. There is none where standard error is not a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// The least time between two updates.
const INTERVAL: Duration = Duration::from_millis(100);

/// The line. It is erased when the value is dropped.
#[derive(Debug, Clone)]
pub struct ProgressLine {
    /// When the line was last written, if it is on the terminal.
    shown: Option<Instant>,
    /// Whether there is a terminal to write to, and a line is wanted.
    terminal: bool,
}

impl ProgressLine {
    /// A line that is not shown yet, and never will be unless it is `wanted` and standard
    /// error is a terminal.
    pub fn new(wanted: bool) -> Self {
        Self {
            shown: None,
            terminal: wanted && io::stderr().is_terminal(),
        }
    }

    /// Writes the result of `text` over the line, unless the last update was less than 100 ms
    /// ago. The text must be shorter than a terminal is wide and have no control characters:
    /// it is printed as it is. Errors of writing are ignored.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        if self.terminal && self.shown.is_none_or(|shown| shown.elapsed() >= INTERVAL) {
            self.shown = Some(Instant::now());
            let _ = write!(io::stderr(), "\r{}\x1b[K", text());
        }
    }

    /// Erases the line, so that a log line can be written in its place.
    pub fn clear(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.clear();
    }
}
