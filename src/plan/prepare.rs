//! `hack/dind`: the container is prepared, the cgroup hierarchies of version 1 are left as
//! they are, and no descriptor is closed, since the command may be waiting for some.

use std::ffi::OsString;

use super::outcome::Plan;
use super::{cgroups, mounts};
use crate::facts::cgroup::Layout;
use crate::facts::container::ContainerFacts;
use crate::input::config::Config;
use crate::input::contract::Contract;

/// Makes the plan to prepare the container and become `command`.
pub fn plan(
    contract: Contract,
    command: &[OsString],
    config: &Config,
    facts: &ContainerFacts,
) -> Plan {
    let mut steps = mounts::plan(facts);
    if facts.cgroup.layout() == Layout::Unified {
        steps.extend(cgroups::plan(facts));
    }
    steps.extend(mounts::last(config, facts));
    let mut environment = config.environment.clone();
    environment.retain(|(name, _)| name != "container");
    environment.push(("container".into(), "docker".into()));
    Plan {
        steps,
        ..Plan::becoming(contract, command.to_vec(), environment)
    }
}
