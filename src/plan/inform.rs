//! A dockerd that only prints something and exits, as with `dockerd --version`. The container is
//! not changed.

use super::daemons;
use super::outcome::Plan;
use crate::facts::programs::InformFacts;
use crate::input::config::Config;
use crate::input::contract::Contract;
use crate::input::dockerd_arguments::DockerdArguments;
use crate::messages::fault::Fault;

/// Returns the plan to become dockerd with `arguments`. The fault is that there is no dockerd.
pub fn plan(
    contract: Contract,
    arguments: &DockerdArguments,
    config: &Config,
    facts: &InformFacts,
) -> Result<Plan, Fault> {
    let dockerd = daemons::find_dockerd(config, facts.dockerd.as_deref())?;
    let mut command = vec![dockerd.into_os_string()];
    command.extend(arguments.words().cloned());
    let environment = daemons::environment(config, facts.apparmor, None);
    Ok(Plan::becoming(contract, command, environment))
}
