//! Resource limits of the daemons. Inner containers inherit them, unless the user gives them others
//! (`--ulimit`, `default-ulimits`).
//!
//! Only low limits are raised, and to a number: without a limit of open files, programs in
//! containers that close every possible descriptor take minutes (moby#38814).

use super::inputs::Inputs;
use crate::facts::capabilities::Capability;
use crate::messages::finding::Finding;
use crate::sys::limits::{Limit, Resource};

const LINK: &str = "https://docs.docker.com/reference/cli/docker/container/run/#ulimit";

/// A limit, and when it is low.
struct Row {
    resource: Resource,
    /// Its name in messages.
    name: &'static str,
    /// A soft limit below this is raised, and a hard limit below this that stays is warned of.
    least: u64,
    /// A hard limit below this is raised.
    few: u64,
    /// What a low limit is raised to.
    enough: u64,
    /// What follows from a low limit.
    follows: &'static str,
    /// The flag that raises it: docker run(1).
    flag: &'static str,
}

const TABLE: &[Row] = &[
    Row {
        resource: Resource::OpenFiles,
        name: "open files",
        // The kernel's own soft limit (`INR_OPEN_CUR` in linux/fs.h), which programs expect. Go
        // programs such as the daemons raise their own to the hard limit, and start others with
        // what they had (Go's syscall/rlimit.go, since 1.19).
        least: 1024,
        few: 1 << 16,
        // The default of fs.nr_open, above which no limit can be.
        enough: 1 << 20,
        follows: "of which dockerd takes about six for each inner container",
        flag: "--ulimit nofile=1048576",
    },
    Row {
        resource: Resource::Processes,
        name: "processes of a user",
        least: 1024,
        few: 1024,
        enough: u64::MAX,
        follows: "which a user other than root has on the whole host, inner containers included",
        flag: "--ulimit nproc=-1",
    },
];

/// Returns the limits that the daemons get instead of those of this process.
pub fn plan(inputs: Inputs<'_>) -> Vec<(Resource, Limit)> {
    let rows = changes(inputs).filter(|(_, now, then)| now != then);
    rows.map(|(row, _, then)| (row.resource, then)).collect()
}

/// Returns the notes about the limits that the daemons get.
pub fn notes(inputs: Inputs<'_>) -> impl Iterator<Item = Finding> {
    let raised = changes(inputs).filter(|(_, now, then)| now != then);
    raised.map(|(row, now, then)| {
        let seen = format!(
            "limits: {} {} for the daemons and inner containers, instead of {}",
            row.name,
            pair(then),
            pair(now)
        );
        Finding::note("limit-raised", seen, LINK)
    })
}

/// Returns the warnings about hard limits that stay low.
pub fn warnings(inputs: Inputs<'_>) -> impl Iterator<Item = Finding> {
    let low = changes(inputs).filter(|(row, _, then)| then.hard < row.least);
    low.map(|(row, _, then)| {
        let (name, follows) = (row.name, row.follows);
        let seen = format!("the limit of {name} is {}, {follows}", shown(then.hard));
        let remedy = format!("start the container with {}", row.flag);
        Finding::warning("limit-low", seen, LINK).remedy(remedy)
    })
}

/// The limits that are known, each as it is and as the daemons get it.
fn changes(inputs: Inputs<'_>) -> impl Iterator<Item = (&'static Row, Limit, Limit)> {
    let limits = &inputs.facts.limits;
    let effective = inputs.surroundings.capabilities.effective;
    let may_raise = effective.has(Capability::SYS_RESOURCE) && !limits.user_namespace;
    TABLE.iter().filter_map(move |row| {
        let now = match row.resource {
            Resource::OpenFiles => limits.open_files,
            Resource::Processes => limits.processes,
        }?;
        Some((row, now, row.raised(now, may_raise)))
    })
}

impl Row {
    fn raised(&self, now: Limit, may_raise: bool) -> Limit {
        let hard = match may_raise && now.hard < self.few {
            true => self.enough,
            false => now.hard,
        };
        let soft = match now.soft < self.least {
            true => hard.min(self.enough),
            false => now.soft,
        };
        Limit { soft, hard }
    }
}

/// Soft and hard limit as `--ulimit` takes them.
fn pair(limit: Limit) -> String {
    format!("{}:{}", shown(limit.soft), shown(limit.hard))
}

fn shown(limit: u64) -> String {
    match limit {
        u64::MAX => "-1".to_owned(),
        limit => limit.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raised(resource: Resource, soft: u64, hard: u64, may_raise: bool) -> Option<(u64, u64)> {
        let row = TABLE.iter().find(|row| row.resource == resource)?;
        let now = Limit { soft, hard };
        let then = row.raised(now, may_raise);
        (then != now).then_some((then.soft, then.hard))
    }

    #[test]
    fn low_limits_are_raised_as_far_as_that_is_allowed() {
        const MILLION: u64 = 1 << 20;
        const NONE: u64 = u64::MAX;
        for (soft, hard, alone, with_capability) in [
            // The usual limits: of hosts, of systemd, of docker.service then and now.
            (1024, 4096, None, Some((1024, MILLION))),
            (1024, 524_288, None, None),
            (MILLION, MILLION, None, None),
            (NONE, NONE, None, None),
            // Low ones.
            (256, 256, None, Some((MILLION, MILLION))),
            (256, 4096, Some((4096, 4096)), Some((MILLION, MILLION))),
            (256, NONE, Some((MILLION, NONE)), Some((MILLION, NONE))),
            (1000, 1000, None, Some((MILLION, MILLION))),
            (0, 0, None, Some((MILLION, MILLION))),
        ] {
            let files = |may_raise| raised(Resource::OpenFiles, soft, hard, may_raise);
            assert_eq!(files(false), alone, "{soft}:{hard}");
            assert_eq!(files(true), with_capability, "{soft}:{hard}");
        }
        for (soft, hard, alone, with_capability) in [
            (30_000, 30_000, None, None),
            (64, 64, None, Some((NONE, NONE))),
            (64, 4096, Some((4096, 4096)), Some((4096, 4096))),
            (64, NONE, Some((NONE, NONE)), Some((NONE, NONE))),
        ] {
            let processes = |may_raise| raised(Resource::Processes, soft, hard, may_raise);
            assert_eq!(processes(false), alone, "{soft}:{hard}");
            assert_eq!(processes(true), with_capability, "{soft}:{hard}");
        }
    }

    proptest! {
        #[test]
        fn no_limit_is_lowered_and_none_is_above_its_ceiling(
            soft: u64, above: u64, row in 0..TABLE.len(), may_raise: bool,
        ) {
            let now = Limit { soft, hard: soft.saturating_add(above) };
            let then = TABLE[row].raised(now, may_raise);
            prop_assert!(then.soft >= now.soft && then.hard >= now.hard);
            prop_assert!(then.soft <= then.hard);
            prop_assert!(may_raise || then.hard == now.hard);
        }
    }
}
