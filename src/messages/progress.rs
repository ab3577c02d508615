//! How far something is, for who sits at a terminal: one line on standard error that is
//! written over and over, and at the end not there.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often a terminal is told.
const INTERVAL: Duration = Duration::from_millis(100);

/// The line. It is only there where standard error is a terminal.
#[derive(Debug, Clone)]
pub struct ProgressLine {
    shown: Option<Instant>,
    terminal: bool,
}

impl ProgressLine {
    /// Nothing is shown yet, and never where it is not `wanted`.
    pub fn new(wanted: bool) -> Self {
        Self {
            shown: None,
            terminal: wanted && io::stderr().is_terminal(),
        }
    }

    /// Shows what `text` says, if it is time to. What it says must be short, and must not
    /// drive a terminal.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        if self.terminal && self.shown.is_none_or(|shown| shown.elapsed() >= INTERVAL) {
            self.shown = Some(Instant::now());
            let _ = write!(io::stderr(), "\r{}\x1b[K", text());
        }
    }

    /// Takes the line away, so that another can be written.
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
