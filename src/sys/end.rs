//! The ways in which a process ends: wait(2).

use std::fmt;

use nix::sys::signal::Signal;

use crate::messages::fault::FAILURE;

/// How a child process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It exited with this status, 0 to 255.
    Exited(u8),
    /// The signal with this number ended it.
    Signaled(i32),
    /// It is gone, and waitpid(2) did not tell how.
    Unseen,
}

impl End {
    /// The exit status that a shell reports for it: the status itself, or 128 + n for signal n. 1
    /// where it is not known.
    pub fn status(self) -> u8 {
        match self {
            Self::Exited(status) => status,
            Self::Signaled(signal) => u8::try_from(signal).unwrap_or(127).saturating_add(128),
            Self::Unseen => FAILURE,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(formatter, "exited with status {status}"),
            Self::Signaled(signal) => match Signal::try_from(*signal) {
                Ok(signal) => write!(formatter, "was ended by {signal}"),
                Err(_) => write!(formatter, "was ended by signal {signal}"),
            },
            Self::Unseen => formatter.write_str("ended unseen"),
        }
    }
}
