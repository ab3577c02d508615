//! The progress line: one line on standard error that is overwritten as work goes on and
//! erased at its end. There is none where standard error is not a terminal.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

/// The least time between two updates.
const INTERVAL: Duration = Duration::from_millis(100);

/// The line. It is erased when the value is dropped.
#[derive(Debug, Clone)]
pub struct ProgressLine {
    /// When the line was last written, if it is on the terminal.
    shown: Option<Instant>,
    /// How to write to the terminal; `None` where there is none, or no line is wanted.
    show: Option<Show>,
}

/// Writes text to standard error, and returns whether it did. Where lines wait for their reader, it
/// writes only what it must (the second argument), behind them.
pub type Show = fn(&str, bool) -> bool;

impl ProgressLine {
    /// A line that is not shown yet, and never will be unless it is `wanted` and standard
    /// error is a terminal.
    pub fn new(wanted: bool, show: Show) -> Self {
        Self {
            shown: None,
            show: (wanted && io::stderr().is_terminal()).then_some(show),
        }
    }

    /// Writes the result of `text` over the line, unless the last update was less than 100 ms
    /// ago. The text must be shorter than a terminal is wide and have no control characters:
    /// it is printed as it is.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        if let Some(show) = self.show
            && self.shown.is_none_or(|shown| shown.elapsed() >= INTERVAL)
            && show(&format!("\r{}\x1b[K", text()), false)
        {
            self.shown = Some(Instant::now());
        }
    }

    /// Erases the line, so that a log line can be written in its place.
    pub fn clear(&mut self) {
        if let (Some(show), Some(_)) = (self.show, self.shown.take()) {
            show("\r\x1b[K", true);
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.clear();
    }
}
