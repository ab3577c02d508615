//! One thing that the user should know of this host: what was seen and what to do. The
//! planner's warnings are these, and so is everything that `dind doctor` says.

use std::fmt;

use serde_json::{Value, json};

use crate::messages::fault::Fault;

/// How much of dind depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something will not work.
    Error,
    /// Something will be other than the user may think.
    Warning,
    /// Good to know.
    Note,
}

impl Severity {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much depends on it.
    pub severity: Severity,
    /// What kind of finding it is, for programs: it stays the same from release to
    /// release.
    pub code: &'static str,
    /// What was seen.
    pub seen: String,
    /// What to do, where there is something to be done.
    pub remedy: Option<String>,
    /// Where to read more: a public page.
    pub link: &'static str,
}

impl Finding {
    /// Something will not work.
    pub fn error(code: &'static str, seen: impl Into<String>, link: &'static str) -> Self {
        Self {
            severity: Severity::Error,
            code,
            seen: seen.into(),
            remedy: None,
            link,
        }
    }

    /// Something will be other than the user may think.
    pub fn warning(code: &'static str, seen: impl Into<String>, link: &'static str) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, seen, link)
        }
    }

    /// Good to know.
    pub fn note(code: &'static str, seen: impl Into<String>, link: &'static str) -> Self {
        Self {
            severity: Severity::Note,
            ..Self::error(code, seen, link)
        }
    }

    /// An error that would end a start: its message is what was seen, and its remedy is taken
    /// over.
    pub fn fault(code: &'static str, fault: Fault, link: &'static str) -> Self {
        Self {
            remedy: fault.remedy,
            ..Self::error(code, fault.message, link)
        }
    }

    /// With what to do.
    #[must_use]
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }

    /// With another severity.
    #[must_use]
    pub fn severity(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }

    /// As an object with its five fields; the remedy may be null.
    pub fn json(&self) -> Value {
        json!({
            "severity": self.severity.name(),
            "code": self.code,
            "seen": self.seen,
            "remedy": self.remedy,
            "link": self.link,
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.seen)?;
        match &self.remedy {
            Some(remedy) => write!(formatter, "; {remedy}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: &str = "README.md#doctor";

    #[test]
    fn a_fault_is_not_split_at_a_semicolon_of_its_message() {
        let fault = Fault::failure("nest 9: too little is left: disk; memory");
        let finding = Finding::fault("nest", fault.clone(), LINK);
        assert_eq!(finding.seen, fault.message);
        assert_eq!(finding.remedy, None);
        let fault = fault.remedy("add some; or nest less");
        let finding = Finding::fault("nest", fault.clone(), LINK);
        assert_eq!(finding.remedy, fault.remedy);
        assert_eq!(finding.to_string(), fault.to_string());
        let json = finding.json();
        assert_eq!(json["seen"], "nest 9: too little is left: disk; memory");
        assert_eq!(json["remedy"], "add some; or nest less");
    }
}
