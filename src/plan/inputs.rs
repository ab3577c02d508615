//! Everything that a plan follows from.

use crate::facts::Facts;
use crate::facts::surroundings::Surroundings;
use crate::input::config::Config;
use crate::input::contract::Contract;
use crate::input::dockerd_arguments::DockerdOptions;

/// Everything that a plan follows from, besides the role.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The contract that is kept.
    pub contract: Contract,
    /// What the user asked for.
    pub config: &'a Config,
    /// What the role was chosen by.
    pub surroundings: &'a Surroundings,
    /// What dockerd's flags and daemon.json say.
    pub options: &'a DockerdOptions,
    /// What the system is like.
    pub facts: &'a Facts,
}
