//! The time of a stop.

use std::time::Duration;

/// How many levels the innermost counts for in the division of the stop timeout: it has a
/// command that may take its time, and the others have daemons without containers.
const INNERMOST: u32 = 8;

/// What a level keeps of its stop timeout for itself, after the one inside it has ended. It
/// is the same for all levels.
fn own_time(stop_timeout: Duration, levels_below: u32) -> Duration {
    stop_timeout / levels_below.saturating_add(INNERMOST)
}

/// The stop timeout of the level inside one with `stop_timeout` and `levels_below`.
pub fn inner_stop_timeout(stop_timeout: Duration, levels_below: u32) -> Duration {
    stop_timeout.saturating_sub(own_time(stop_timeout, levels_below))
}

/// How long a level waits, in a stop, for the one inside it: a little longer than that
/// takes at most, since docker has its container to remove then.
fn nested_patience(stop_timeout: Duration, levels_below: u32) -> Duration {
    inner_stop_timeout(stop_timeout, levels_below)
        .saturating_add(own_time(stop_timeout, levels_below) / 4)
}

/// How much of a stop the command may take, and how much that and the pre-stop hooks. Around
/// further levels the hooks take of this level's own time, for the command is those.
pub fn shares(stop_timeout: Duration, levels_below: u32, hooks: bool) -> (Duration, Duration) {
    let both = match levels_below {
        0 => stop_timeout.saturating_mul(4) / 9,
        _ => nested_patience(stop_timeout, levels_below),
    };
    match (hooks, levels_below) {
        (false, _) => (both, both),
        (true, 0) => (both / 2, both),
        (true, _) => (
            both,
            both.saturating_add(stop_timeout.saturating_sub(both) / 3),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_level_has_time_to_end_in(seconds in 1_u64..100, depth in 1_u32..64) {
            let mut timeout = Duration::from_secs(seconds);
            for below in (1..depth).rev() {
                let inner = inner_stop_timeout(timeout, below);
                let patience = nested_patience(timeout, below);
                prop_assert!(inner < patience && patience < timeout);
                timeout = inner;
            }
            let parts = f64::from(depth - 1 + INNERMOST);
            let innermost = seconds as f64 / parts * f64::from(INNERMOST);
            prop_assert!((timeout.as_secs_f64() - innermost).abs() < 0.001);
        }
    }
}
