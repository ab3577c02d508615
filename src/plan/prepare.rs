//! `hack/dind`: the container is prepared, and this process becomes the command. The cgroup
//! hierarchies of version 1 are left as they are. No descriptor is closed, since the command may
//! expect inherited ones.

use std::ffi::OsString;

use super::outcome::Plan;
use super::{cgroups, mounts};
use crate::facts::cgroup::Layout;
use crate::facts::container::ContainerFacts;
use crate::input::config::Config;
use crate::input::contract::Contract;

/// Returns the plan to prepare the container and become `command`, with `container=docker` in
/// its environment, as `hack/dind` sets it.
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
