//! Errors that end the program: what is wrong, what the user can do, and an exit status.
//!
//! Everything that fails before the daemons run is turned into a [`Fault`];
//! `main` is the only place that prints one.

use std::fmt;

/// Exit status of a fault that has no better one, and of `dockerd` on errors.
pub const FAILURE: u8 = 1;
/// Exit status for bad input: a variable or a flag that cannot be right.
pub const USAGE: u8 = 2;
/// Exit status when a program exists and cannot be executed, as in POSIX `sh`.
pub const NOT_EXECUTABLE: u8 = 126;
/// Exit status when a program does not exist, as in POSIX `sh`.
pub const NOT_FOUND: u8 = 127;

/// An error that ends the process. Its [`Display`](fmt::Display) is the whole line: the message,
/// and after `; ` the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The exit status of the process.
    pub status: u8,
    /// What is wrong: without prefix, without remedy, and without a newline at its end.
    pub message: String,
    /// What the user can do. `None` where nothing can be done, and for errors of `anyhow`,
    /// which have it in their text.
    pub remedy: Option<String>,
}

impl Fault {
    /// What is wrong, with the exit status of the process. Without a remedy.
    pub fn new(status: u8, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            remedy: None,
        }
    }

    /// The host or the container cannot do what was asked: status 1.
    pub fn failure(message: impl Into<String>) -> Self {
        Self::new(FAILURE, message)
    }

    /// The input cannot be right, whatever the host: status 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// A program that is needed is missing: status 127.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(NOT_FOUND, message)
    }

    /// The same fault with what the user can do: a clause that stands behind a semicolon.
    #[must_use]
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)?;
        match &self.remedy {
            Some(remedy) => write!(formatter, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

impl From<anyhow::Error> for Fault {
    /// A failure with the whole chain of the error as its message, outermost first. The text of
    /// such a chain is not split: it has no remedy.
    fn from(error: anyhow::Error) -> Self {
        Self::failure(format!("{error:#}"))
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_remedy_stands_behind_a_semicolon() {
        let fault = Fault::not_found("no dockerd in PATH (/bin; /sbin)");
        assert_eq!(fault.to_string(), "no dockerd in PATH (/bin; /sbin)");
        let fault = fault.remedy("use an image with dockerd; or add its directory");
        assert_eq!(
            fault.to_string(),
            "no dockerd in PATH (/bin; /sbin); use an image with dockerd; or add its directory"
        );
        assert_eq!(fault.status, NOT_FOUND);
    }

    #[test]
    fn other_errors_become_failures() {
        let chain = anyhow!("no such file").context("cannot read /a; mount it");
        let message = "cannot read /a; mount it: no such file";
        assert_eq!(Fault::from(chain), Fault::failure(message));
    }
}
