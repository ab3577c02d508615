//! When a child that has ended is restarted.

use std::time::Duration;

use crate::sys::end::End;

/// The pause between a daemon's first failure and its restart. It doubles with each further
/// failure, up to `LONGEST_PAUSE`, as docker does it for containers with `--restart`.
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long a daemon must run for its next failure to count as the first in a row.
const STEADY: Duration = Duration::from_secs(60);

/// A helper that ends this soon after its start would probably do so again.
const HELPERS_LIFE: Duration = Duration::from_secs(1);

/// Whether a daemon runs, its failures in a row, and its next start.
#[derive(Debug, Clone, Copy, Default)]
pub struct DaemonLife {
    /// Whether the daemon runs.
    pub runs: bool,
    started: Duration,
    /// How many times it has failed in a row.
    failures: u32,
    /// When it is restarted; `None` where it is not to be.
    pub due: Option<Duration>,
}

impl DaemonLife {
    /// Records a start at `now`.
    pub fn start(&mut self, now: Duration) {
        self.runs = true;
        self.started = now;
        self.due = None;
    }

    /// Records a failure at `now`. Returns the pause before the restart; `None` if there is none,
    /// after `restarts` failures in a row.
    pub fn fail(&mut self, restarts: u32, now: Duration) -> Option<Duration> {
        if now.saturating_sub(self.started) >= STEADY {
            self.failures = 0;
        }
        if self.failures >= restarts {
            return None;
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16));
        let pause = doubled.min(LONGEST_PAUSE);
        self.failures += 1;
        self.due = Some(now.saturating_add(pause));
        Some(pause)
    }
}

/// Whether the log relay runs, and its next start. It is always restarted, whatever ended it,
/// because without it the daemons block on full pipes.
#[derive(Debug, Clone, Copy)]
pub struct RelayLife {
    /// Whether the relay runs.
    pub runs: bool,
    started: Duration,
    /// When it is restarted; `None` where it is not to be.
    pub due: Option<Duration>,
    pause: Duration,
}

impl Default for RelayLife {
    fn default() -> Self {
        Self {
            runs: false,
            started: Duration::ZERO,
            due: None,
            pause: HELPERS_LIFE,
        }
    }
}

impl RelayLife {
    /// Records a start at `now`.
    pub fn start(&mut self, now: Duration) {
        self.runs = true;
        self.started = now;
        self.due = None;
    }

    /// Records that it ended, or could not be started. Returns whether it is restarted at once. If
    /// not, it is at [`RelayLife::due`], after a pause that doubles each time in a row.
    pub fn end(&mut self, now: Duration) -> bool {
        self.runs = false;
        if now.saturating_sub(self.started) > HELPERS_LIFE {
            self.pause = HELPERS_LIFE;
            return true;
        }
        self.due = Some(now.saturating_add(self.pause));
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
        false
    }
}

/// Whether a helper that is to run as long as the daemons do, and has ended, is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// No: it exited, and where that was too early, it logged the reason. A restart would not help.
    Over,
    /// Yes: a signal ended it, as for want of memory or by mistake, or nobody knows what.
    Again,
    /// No: a signal ended it right after its start, and would do so again.
    GivenUp,
}

impl Restart {
    /// Takes how and when (`now`) a helper ended that was started at `started`.
    pub fn after(end: End, started: Duration, now: Duration) -> Self {
        match end {
            End::Exited(_) => Self::Over,
            End::Signaled(_) | End::Unseen if now.saturating_sub(started) > HELPERS_LIFE => {
                Self::Again
            }
            End::Signaled(_) | End::Unseen => Self::GivenUp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_relay_that_ends_at_once_is_restarted_after_longer_pauses() {
        let mut relay = RelayLife::default();
        let mut pauses = Vec::new();
        let mut now = SECOND;
        for _ in 0..7 {
            relay.start(now);
            assert!(relay.runs && relay.due.is_none());
            assert!(!relay.end(now));
            let due = relay.due.unwrap_or_default();
            pauses.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        // After a longer life it restarts at once, and the pauses begin anew.
        relay.start(now);
        now += SECOND * 2;
        assert!(relay.end(now));
        relay.start(now);
        assert!(!relay.end(now));
        assert_eq!(relay.due, Some(now + SECOND));
    }

    #[test]
    fn a_forwarder_is_restarted_only_where_a_signal_ended_it_late() {
        for (end, lived, expected) in [
            (End::Signaled(9), SECOND * 3, Restart::Again),
            (End::Signaled(9), SECOND, Restart::GivenUp),
            (End::Exited(1), SECOND * 3, Restart::Over),
            (End::Unseen, SECOND * 3, Restart::Again),
            (End::Unseen, SECOND, Restart::GivenUp),
        ] {
            assert_eq!(Restart::after(end, SECOND, SECOND + lived), expected);
        }
    }
}
