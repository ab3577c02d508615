//! What is said when the kernel has killed for want of memory.

use crate::facts::memory::{Kills, Memory};
use crate::messages::finding::Finding;

/// Returns the explanation of a SIGKILL that this process did not send; `None` where the kernel
/// has killed nothing in the daemons' own cgroup since `before`. Inner containers that were killed
/// by limits of their own are in other cgroups and do not count.
pub fn killed(before: Option<&Kills>, now: &Memory) -> Option<Finding> {
    const LINK: &str = "https://docs.docker.com/engine/containers/resource_constraints/";
    let kills = now.kills.as_ref()?;
    let earlier = before.filter(|before| before.cgroup == kills.cgroup);
    let count = kills
        .count
        .saturating_sub(earlier.map_or(0, |earlier| earlier.count));
    let processes = match count {
        0 => return None,
        1 => "a process of this container".to_owned(),
        count => format!("{count} processes of this container"),
    };
    let (limit, remedy) = match &now.limit {
        Some(limit) => (
            format!(
                "{} has a limit of {}",
                limit.cgroup.display(),
                size(limit.bytes)
            ),
            "start the container with more memory (docker run --memory), or limit that of inner \
             containers",
        ),
        None => (
            "no limit is visible here, so the host ran out, or a cgroup above this container"
                .to_owned(),
            "give the host or the pod more memory, or limit that of inner containers",
        ),
    };
    let seen = format!("the kernel has killed {processes} for want of memory, and {limit}");
    Some(Finding::error("out-of-memory", seen, LINK).remedy(remedy))
}

/// A number of bytes in the largest unit that it has at least one of, rounded down.
pub fn size(bytes: u64) -> String {
    match bytes {
        0x10_0000.. => format!("{} MiB", bytes >> 20),
        0x400.. => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::memory::Limit;

    fn kills(cgroup: &str, count: u64) -> Kills {
        Kills {
            cgroup: cgroup.into(),
            count,
        }
    }

    #[test]
    fn only_kills_since_the_last_look_and_in_the_same_cgroup_count() {
        for (before, now, expected) in [
            (None, None, None),
            (None, Some(kills("/a", 0)), None),
            (None, Some(kills("/a", 1)), Some("a process")),
            (Some(kills("/a", 1)), Some(kills("/a", 1)), None),
            (Some(kills("/a", 9)), Some(kills("/a", 1)), None),
            (
                Some(kills("/a", 1)),
                Some(kills("/a", 4)),
                Some("3 processes"),
            ),
            // The leaf that a start has made.
            (
                Some(kills("/a", 9)),
                Some(kills("/a/init", 2)),
                Some("2 processes"),
            ),
            (Some(kills("/a", 9)), None, None),
        ] {
            let memory = Memory {
                kills: now,
                limit: None,
            };
            let said = killed(before.as_ref(), &memory).map(|finding| finding.to_string());
            let has = said
                .as_deref()
                .zip(expected)
                .map(|(said, part)| said.contains(part));
            assert_eq!(
                has,
                expected.map(|_| true),
                "{before:?} {memory:?}: {said:?}"
            );
            assert_eq!(said.is_some(), expected.is_some(), "{before:?} {memory:?}");
        }
    }

    #[test]
    fn the_limit_is_named_with_its_cgroup() {
        let with = |limit| Memory {
            kills: Some(kills("/a/init", 1)),
            limit,
        };
        let limit = Limit {
            bytes: 40 << 20,
            cgroup: "/a".into(),
        };
        let said = killed(None, &with(Some(limit))).map(|finding| finding.to_string());
        let said = said.unwrap_or_default();
        assert!(said.contains("/a has a limit of 40 MiB; "), "{said}");
        let said = killed(None, &with(None)).map(|finding| finding.to_string());
        assert!(said.is_some_and(|said| said.contains("the host ran out")));
    }

    #[test]
    fn sizes_are_in_a_unit_that_shows_them() {
        for (bytes, expected) in [
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            ((1 << 20) - 1, "1023 KiB"),
            (41_943_040, "40 MiB"),
            (1 << 40, "1048576 MiB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }
}
