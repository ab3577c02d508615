//! A dockerd that only prints something and ends: `dockerd --version`. The container is left
//! as it is.

use super::daemons;
use super::outcome::Plan;
use crate::facts::programs::InformFacts;
use crate::input::config::Config;
use crate::input::contract::Contract;
use crate::input::dockerd_arguments::DockerdArguments;
use crate::messages::fault::Fault;

/// Makes the plan to become a dockerd with these arguments. Fails where there is none.
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
