//! What the plan of a start with daemons is computed from.

use crate::facts::Facts;
use crate::facts::surroundings::Surroundings;
use crate::input::config::Config;
use crate::input::contract::Contract;
use crate::input::dockerd_arguments::DockerdOptions;

/// What the plan of a start with daemons is computed from, besides the role.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The contract in force: whose command line and variables are understood.
    pub contract: Contract,
    /// The environment's variables and the command line, parsed.
    pub config: &'a Config,
    /// The facts that the role was decided by.
    pub surroundings: &'a Surroundings,
    /// dockerd's options from its flags and from daemon.json.
    pub options: &'a DockerdOptions,
    /// What was read of the container and its host.
    pub facts: &'a Facts,
}
