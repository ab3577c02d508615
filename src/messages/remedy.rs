//! What the user can do about an error of `anyhow`, apart from its text, so that a message has it
//! behind the cause: what, cause, remedy. [`Fault`](super::fault::Fault) puts them together.

use std::error::Error;
use std::fmt;

/// An error with a remedy. In a chain it has the text and the source of the error that it wraps.
#[derive(Debug)]
pub struct Remedied {
    error: anyhow::Error,
    remedy: String,
}

impl Remedied {
    /// What the user can do.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }

    /// The error itself, which is not among its own sources.
    pub fn wrapped(&self) -> &(dyn Error + 'static) {
        self.error.as_ref()
    }
}

impl fmt::Display for Remedied {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without its causes, which follow as the sources of this one.
        write!(formatter, "{}", self.error)
    }
}

impl Error for Remedied {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// Adds what the user can do to an error, or to that of a result.
pub trait Remedy {
    /// What it is with a remedy.
    type Remedied;

    /// The same with a remedy: a clause that stands behind a semicolon. Where several errors of a
    /// chain have one, the message has that of the innermost, which is the nearest to the cause.
    fn remedy(self, remedy: impl Into<String>) -> Self::Remedied;
}

impl Remedy for anyhow::Error {
    type Remedied = Self;

    fn remedy(self, remedy: impl Into<String>) -> Self {
        Self::new(Remedied {
            error: self,
            remedy: remedy.into(),
        })
    }
}

impl<T, E: Into<anyhow::Error>> Remedy for Result<T, E> {
    type Remedied = anyhow::Result<T>;

    fn remedy(self, remedy: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| error.into().remedy(remedy))
    }
}
