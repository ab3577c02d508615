//! The plan of any role as a value.

use std::ffi::OsString;

use super::action::Step;
use super::engine::Engine;
use crate::input::contract::Contract;
use crate::messages::finding::Finding;

/// What this process does after the steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It starts and supervises the daemons. Boxed, since the variants differ much in size.
    Supervise(Box<Engine>),
    /// It becomes a command: execve(2).
    Become {
        /// The command and its arguments. The command is searched in `PATH`.
        command: Vec<OsString>,
        /// The whole environment, as pairs of name and value.
        environment: Vec<(OsString, OsString)>,
    },
}

/// The plan of any role. Its [`Display`](std::fmt::Display) is the output of `dind plan`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The contract in force.
    pub contract: Contract,
    /// The warnings that a start logs. What will not work is of severity error.
    pub warnings: Vec<Finding>,
    /// The choices and their reasons: findings of severity note.
    pub notes: Vec<Finding>,
    /// The changes to the container, in the order in which they are made.
    pub steps: Vec<Step>,
    /// What this process does after the steps.
    pub outcome: Outcome,
}

impl Plan {
    /// Returns a plan to become `command` with `environment`, without steps, warnings or notes.
    pub fn becoming(
        contract: Contract,
        command: Vec<OsString>,
        environment: Vec<(OsString, OsString)>,
    ) -> Self {
        Self {
            contract,
            warnings: Vec::new(),
            notes: Vec::new(),
            steps: Vec::new(),
            outcome: Outcome::Become {
                command,
                environment,
            },
        }
    }

    /// Returns the name of the interface that a veth pair has here, if the engine has one.
    pub fn veth(&self) -> Option<&str> {
        let Outcome::Supervise(engine) = &self.outcome else {
            return None;
        };
        let veth = engine.namespaces.as_ref()?.veth.as_ref()?;
        Some(&veth.name)
    }

    /// Returns every change to the container, in order: the steps before the daemons start, then
    /// those that are carried out meanwhile.
    pub fn changes(&self) -> impl Iterator<Item = &Step> {
        let meanwhile = match &self.outcome {
            Outcome::Supervise(engine) => engine.meanwhile.as_slice(),
            Outcome::Become { .. } => &[],
        };
        self.steps.iter().chain(meanwhile)
    }
}
