//! What the plan of a start with daemons is computed from.

use super::mode::{self, Maps, Mode};
use super::rootless_driver::Choice;
use crate::facts::Facts;
use crate::facts::rootless::Rootless;
use crate::facts::surroundings::Surroundings;
use crate::input::config::Config;
use crate::input::contract::Contract;
use crate::input::dockerd_arguments::DockerdOptions;
use crate::input::store::Save;

/// What the plan of a start with daemons is computed from, besides the role.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The contract in force: whose command line and variables are understood.
    pub contract: Contract,
    /// The environment's variables and the command line, parsed.
    pub config: &'a Config,
    /// The store that the command's images are published to, if any.
    pub save: Option<&'a Save>,
    /// The facts that the role was decided by.
    pub surroundings: &'a Surroundings,
    /// dockerd's options from its flags and from daemon.json.
    pub options: &'a DockerdOptions,
    /// What was read of the container and its host.
    pub facts: &'a Facts,
}

/// What the sockets of a start depend on: what the user wrote, the facts that the role was decided by,
/// and the group in `/etc/group`. They are bound before the rest of the facts is read.
#[derive(Debug, Clone, Copy)]
pub struct Addresses<'a> {
    /// The contract in force.
    pub contract: Contract,
    /// The environment's variables and the command line, parsed.
    pub config: &'a Config,
    /// The store that the command's images are published to, if any.
    pub save: Option<&'a Save>,
    /// dockerd's options from its flags and from daemon.json.
    pub options: &'a DockerdOptions,
    /// The facts that the role was decided by.
    pub surroundings: &'a Surroundings,
    /// The gid of the Unix socket's group; `None` where there is no such group.
    pub group: Option<u32>,
}

impl<'a> Addresses<'a> {
    /// Returns all that the plan is computed from, with the facts, which are read afterwards.
    pub fn with(self, facts: &'a Facts) -> Inputs<'a> {
        Inputs {
            contract: self.contract,
            config: self.config,
            save: self.save,
            surroundings: self.surroundings,
            options: self.options,
            facts,
        }
    }

    /// Whether the engine runs in a user namespace.
    pub fn is_rootless(self) -> bool {
        mode::is_rootless(self.surroundings, self.config)
    }
}

impl<'a> Inputs<'a> {
    /// Returns the facts of an engine in a user namespace, and the maps of that; `None` where it runs
    /// with the rights of this process.
    pub fn rootless(self) -> Option<(&'a Rootless, Maps)> {
        match mode::decide(self.surroundings, self.config) {
            Mode::Rootless(facts, maps, _) => Some((facts, maps)),
            Mode::Privileged | Mode::Impossible { .. } => None,
        }
    }

    /// Returns what connects the network of such an engine.
    pub fn rootless_network(self) -> Option<Choice> {
        match mode::decide(self.surroundings, self.config) {
            Mode::Rootless(_, _, network) => Some(network),
            Mode::Privileged | Mode::Impossible { .. } => None,
        }
    }

    /// Returns the part of them that the sockets depend on.
    pub fn addresses(self) -> Addresses<'a> {
        Addresses {
            contract: self.contract,
            config: self.config,
            save: self.save,
            options: self.options,
            surroundings: self.surroundings,
            group: self.facts.socket_group,
        }
    }
}
