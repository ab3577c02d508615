//! The whole plan, as a value.

use std::ffi::OsString;

use super::action::Step;
use super::engine::Engine;
use crate::input::contract::Contract;
use crate::messages::finding::Finding;

/// What becomes of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It supervises an engine. Boxed: it is the large one.
    Supervise(Box<Engine>),
    /// It becomes a command.
    Become {
        /// The command.
        command: Vec<OsString>,
        /// Its environment.
        environment: Vec<(OsString, OsString)>,
    },
}

/// The whole plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The contract that is kept.
    pub contract: Contract,
    /// What the user should know whatever happens: findings of severity warning.
    pub warnings: Vec<Finding>,
    /// What was chosen, and why: findings of severity note.
    pub notes: Vec<Finding>,
    /// What is done to the container, in this order.
    pub steps: Vec<Step>,
    /// What becomes of this process.
    pub outcome: Outcome,
}

impl Plan {
    /// A plan to become a command in a container that is left as it is, without a word.
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

    /// Every change to the container, in order.
    pub fn changes(&self) -> impl Iterator<Item = &Step> {
        let meanwhile = match &self.outcome {
            Outcome::Supervise(engine) => engine.meanwhile.as_slice(),
            Outcome::Become { .. } => &[],
        };
        self.steps.iter().chain(meanwhile)
    }
}
