//! Errors that end the program: what is wrong, what the user can do, and an exit status.
//!
//! Everything that fails before the daemons run is turned into a [`Fault`];
//! `main` is the only place that prints one.

use std::fmt;

use super::remedy::Remedied;

/// Exit status of a fault that has no better one, and of `dockerd` on errors.
pub const FAILURE: u8 = 1;
/// Exit status for bad input: a variable or a flag that cannot be right.
pub const USAGE: u8 = 2;
/// Exit status when a program exists and cannot be executed, as in POSIX `sh`.
pub const NOT_EXECUTABLE: u8 = 126;
/// Exit status when a program does not exist, as in POSIX `sh`.
pub const NOT_FOUND: u8 = 127;

/// An error that ends the process, or the message of one that does not. Its [`Display`](fmt::Display) is the whole line: the message,
/// and after `; ` the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The exit status of the process.
    pub status: u8,
    /// What is wrong: without prefix, without remedy, and without a newline at its end.
    pub message: String,
    /// What the user can do. `None` where nothing can be done.
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

    /// The same fault with what follows from it, as a clause before the remedy.
    #[must_use]
    pub fn consequence(self, consequence: &str) -> Self {
        Self {
            message: format!("{}; {consequence}", self.message),
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

impl From<&anyhow::Error> for Fault {
    /// A failure with the whole chain of the error as its message, outermost first, and the remedy
    /// of the innermost error that has one.
    fn from(error: &anyhow::Error) -> Self {
        let mut remedy = None;
        let texts: Vec<String> = error
            .chain()
            .map(|mut cause| {
                while let Some(remedied) = cause.downcast_ref::<Remedied>() {
                    remedy = Some(remedied.remedy().to_owned());
                    cause = remedied.wrapped();
                }
                match cause.downcast_ref::<Self>() {
                    Some(fault) => {
                        remedy = fault.remedy.clone().or(remedy.take());
                        fault.message.clone()
                    }
                    None => cause.to_string(),
                }
            })
            .collect();
        Self {
            remedy,
            ..Self::failure(texts.join(": "))
        }
    }
}

impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Self {
        Self::from(&error)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};
    use nix::errno::Errno;

    use super::*;
    use crate::messages::remedy::Remedy;

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
    fn a_consequence_stands_before_the_remedy() {
        let fault = Fault::failure("no port").remedy("free it");
        let fault = fault.consequence("going on without it");
        assert_eq!(fault.to_string(), "no port; going on without it; free it");
    }

    #[test]
    fn errors_are_what_then_cause_then_remedy() {
        type Failed = anyhow::Result<()>;
        let read = || -> Failed { Err(Errno::ENOENT).context("cannot read /a") };
        let empty = || -> Failed { Err(anyhow!("it is empty").remedy("fill it")) };
        let started =
            |result: Failed| -> Failed { result.context("cannot start").remedy("see the log") };
        let fault = || Fault::not_found("no dockerd");
        let chains: [(Failed, &str); 10] = [
            (Err(anyhow!("it failed")), "it failed"),
            (
                Err(Errno::ENOENT).remedy("mount it"),
                "ENOENT: No such file or directory; mount it",
            ),
            (
                read().remedy("mount it"),
                "cannot read /a: ENOENT: No such file or directory; mount it",
            ),
            (
                started(read()),
                "cannot start: cannot read /a: ENOENT: No such file or directory; see the log",
            ),
            (
                empty().context("cannot read /a"),
                "cannot read /a: it is empty; fill it",
            ),
            // Of two the inner one stands.
            (
                started(read().remedy("mount it")),
                "cannot start: cannot read /a: ENOENT: No such file or directory; mount it",
            ),
            (
                empty().remedy("remove it").context("cannot read /a"),
                "cannot read /a: it is empty; fill it",
            ),
            (
                started(Err(fault().remedy("install it").into())),
                "cannot start: no dockerd; install it",
            ),
            (
                Err(fault().remedy("install it")).remedy("see the log"),
                "no dockerd; install it",
            ),
            (
                started(Err(fault().into())),
                "cannot start: no dockerd; see the log",
            ),
        ];
        for (failed, expected) in chains {
            let failed = failed
                .map_err(Fault::from)
                .map_err(|fault| fault.to_string());
            assert_eq!(failed, Err(expected.to_owned()));
        }
    }

    #[test]
    fn a_chain_is_a_failure_with_its_remedy_apart() {
        let chain = anyhow!("no such file").context("cannot read /a");
        let expected = Fault::failure("cannot read /a: no such file").remedy("mount it");
        assert_eq!(Fault::from(chain.remedy("mount it")), expected);
    }
}
