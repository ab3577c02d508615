//! Time-outs of poll(2), which takes whole milliseconds and at most 24 days.

use std::time::{Duration, Instant};

use nix::poll::PollTimeout;

/// Nanoseconds in a millisecond.
const NANOSECONDS: u128 = 1_000_000;

/// The time-out, in milliseconds, of a poll that is to end after `left`; `None` is a poll
/// without a time-out. It is rounded up, because a caller whose poll ends before its deadline
/// spins. It is at most 2^31 - 1 ms, the maximum of poll(2), after which the caller checks its
/// deadline again.
pub fn timeout(left: Option<Duration>) -> PollTimeout {
    left.map_or(PollTimeout::NONE, |left| {
        PollTimeout::try_from(left.as_nanos().div_ceil(NANOSECONDS)).unwrap_or(PollTimeout::MAX)
    })
}

/// The time-out of a poll that is to end at `deadline` and not before; zero where `deadline`
/// has passed.
pub fn until(deadline: Instant) -> PollTimeout {
    timeout(Some(deadline.saturating_duration_since(Instant::now())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_time_out_is_rounded_up_and_has_limits() {
        const MOST: u32 = i32::MAX.unsigned_abs();
        assert_eq!(timeout(None), PollTimeout::NONE);
        for (left, expected) in [
            (Duration::ZERO, 0),
            (Duration::from_nanos(1), 1),
            (Duration::from_nanos(999_999), 1),
            (Duration::from_millis(1), 1),
            (Duration::from_nanos(1_000_001), 2),
            (Duration::from_secs(600), 600_000),
            (Duration::from_millis(MOST.into()), MOST),
            (Duration::from_millis(u64::from(MOST) + 1), MOST),
            (Duration::MAX, MOST),
        ] {
            assert_eq!(timeout(Some(left)).as_millis(), Some(expected), "{left:?}");
        }
    }

    #[test]
    fn a_deadline_that_has_passed_is_not_waited_for() {
        let now = Instant::now();
        assert_eq!(until(now), PollTimeout::ZERO);
        // Some of it passes meanwhile, but not all.
        let hour = until(now + Duration::from_secs(3600));
        assert_ne!(hour, PollTimeout::ZERO);
        assert!(hour.as_millis() <= Some(3_600_000), "{hour:?}");
    }

    proptest! {
        #[test]
        fn a_poll_is_less_than_a_millisecond_too_long(left in 0..u64::from(u32::MAX)) {
            let left = Duration::from_nanos(left);
            let waited = timeout(Some(left)).duration().unwrap_or_default();
            prop_assert!(waited >= left);
            prop_assert!(waited - left < Duration::from_millis(1));
        }
    }
}
