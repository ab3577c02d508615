//! When a child that has ended is started again.

use std::time::Duration;

use crate::sys::end::End;

/// After a failure a daemon waits so long for its next start, and twice as long after each
/// further one, as docker has it for containers with `--restart`.
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A daemon that has run so long has not failed in a row.
const STEADY: Duration = Duration::from_secs(60);

/// A helper that ends sooner than this after its start would do so again at once.
const HELPERS_LIFE: Duration = Duration::from_secs(1);

/// A daemon's life.
#[derive(Debug, Clone, Copy, Default)]
pub struct DaemonLife {
    /// Whether it runs.
    pub runs: bool,
    started: Duration,
    /// How many times it has failed in a row.
    failures: u32,
    /// When it is started again.
    pub due: Option<Duration>,
}

impl DaemonLife {
    /// It starts now.
    pub fn start(&mut self, now: Duration) {
        self.runs = true;
        self.started = now;
        self.due = None;
    }

    /// It has failed. How long it waits for its next start; nothing where it has failed
    /// `restarts` times in a row.
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

/// The log relay's life: whoever ended it, it is started again, for without it the daemons wait
/// at full pipes.
#[derive(Debug, Clone, Copy)]
pub struct RelayLife {
    /// Whether it runs.
    pub runs: bool,
    started: Duration,
    /// When it is started again.
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
    /// It starts now.
    pub fn start(&mut self, now: Duration) {
        self.runs = true;
        self.started = now;
        self.due = None;
    }

    /// It has ended, or could not be started. Whether it starts again at once; else later, at
    /// [`RelayLife::due`], and twice as much later each time that this happens again.
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

/// What becomes of a DNS forwarder that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// It has ended by itself and logged the reason: there is no use in another.
    Over,
    /// It was killed, for its memory or by mistake, and is started again.
    Again,
    /// It was killed at once, and would be again.
    GivenUp,
}

impl Restart {
    /// Decides by how a forwarder ended that was started at `started`.
    pub fn after(end: End, started: Duration, now: Duration) -> Self {
        match end {
            End::Exited(_) => Self::Over,
            End::Signaled(_) if now.saturating_sub(started) > HELPERS_LIFE => Self::Again,
            End::Signaled(_) => Self::GivenUp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_relay_that_ends_at_once_is_started_later_and_later() {
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
        // One that has lived starts again at once, and its next pause is the first.
        relay.start(now);
        now += SECOND * 2;
        assert!(relay.end(now));
        relay.start(now);
        assert!(!relay.end(now));
        assert_eq!(relay.due, Some(now + SECOND));
    }

    #[test]
    fn a_forwarder_is_started_again_only_where_it_was_killed_late() {
        for (end, lived, expected) in [
            (End::Signaled(9), SECOND * 3, Restart::Again),
            (End::Signaled(9), SECOND, Restart::GivenUp),
            (End::Exited(1), SECOND * 3, Restart::Over),
        ] {
            assert_eq!(Restart::after(end, SECOND, SECOND + lived), expected);
        }
    }
}
