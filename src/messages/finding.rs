//! Findings: what is wrong or worth knowing about this host or container, with a code, a
//! remedy and a link. The warnings and notes of a plan and the report of `dind doctor` consist
//! of them.

use std::fmt;

use serde_json::{Value, json};

use crate::messages::fault::Fault;

/// How serious a finding is, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something will not work.
    Error,
    /// Something works, in another way than the user may expect.
    Warning,
    /// A fact or a choice, with nothing wrong about it.
    Note,
}

impl Severity {
    /// The name in text and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One finding. Its [`Display`](fmt::Display) is what was seen, and behind `; ` the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How serious it is.
    pub severity: Severity,
    /// The kind of finding, for programs, in kebab-case. It stays the same from release to
    /// release.
    pub code: &'static str,
    /// What was seen, as a clause without the remedy.
    pub seen: String,
    /// What the user can do, if anything.
    pub remedy: Option<String>,
    /// Where to read more: the URL of a public page, or a section of README.md.
    pub link: &'static str,
}

impl Finding {
    /// The same, as something that works in another way.
    #[must_use]
    pub fn as_warning(self) -> Self {
        Self {
            severity: Severity::Warning,
            ..self
        }
    }

    /// A finding of severity error, without a remedy: see the fields.
    pub fn error(code: &'static str, seen: impl Into<String>, link: &'static str) -> Self {
        Self {
            severity: Severity::Error,
            code,
            seen: seen.into(),
            remedy: None,
            link,
        }
    }

    /// A finding of severity warning, without a remedy.
    pub fn warning(code: &'static str, seen: impl Into<String>, link: &'static str) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, seen, link)
        }
    }

    /// A finding of severity note, without a remedy.
    pub fn note(code: &'static str, seen: impl Into<String>, link: &'static str) -> Self {
        Self {
            severity: Severity::Note,
            ..Self::error(code, seen, link)
        }
    }

    /// The finding that a fault would end a start, of severity error: the fault's message is
    /// what was seen, and its remedy is taken over.
    pub fn fault(code: &'static str, fault: Fault, link: &'static str) -> Self {
        Self {
            remedy: fault.remedy,
            ..Self::error(code, fault.message, link)
        }
    }

    /// The same finding with what the user can do.
    #[must_use]
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }

    /// The same finding with another severity.
    #[must_use]
    pub fn severity(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }

    /// An object with the five fields under their names; the remedy may be null.
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
