//! What ends the program early: one line for the user and an exit status.
//!
//! Everything that fails before the daemons run is turned into a [`Fault`];
//! `main` is the only place that prints one.

use std::fmt;

/// Exit status of a fault that has no better one, and of `dockerd` on errors.
pub const FAILURE: u8 = 1;
/// Exit status for bad input: a variable or a flag that cannot be right.
pub const USAGE: u8 = 2;
/// Exit status when a program is there and cannot be executed, as in POSIX `sh`.
pub const NOT_EXECUTABLE: u8 = 126;
/// Exit status when a program is not there, as in POSIX `sh`.
pub const NOT_FOUND: u8 = 127;

/// One line that says what is wrong and what to do, with an exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The exit status of the process.
    pub status: u8,
    /// The line, without prefix and without a newline at its end.
    pub message: String,
}

impl Fault {
    /// The host or the container cannot do what was asked: status 1.
    pub fn failure(message: impl Into<String>) -> Self {
        Self {
            status: FAILURE,
            message: message.into(),
        }
    }

    /// The input cannot be right, whatever the host: status 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            status: USAGE,
            message: message.into(),
        }
    }

    /// A program that is needed is missing: status 127.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self {
            status: NOT_FOUND,
            message: message.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl From<anyhow::Error> for Fault {
    /// The whole chain of an error on one line, outermost first.
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Fault>() {
            Ok(fault) => fault,
            Err(error) => Self::failure(format!("{error:#}")),
        }
    }
}
