//! The time that this process had, for deadlines.
//!
//! `docker pause` and a snapshot of the container stop every process in it, and CLOCK_MONOTONIC
//! goes on: cgroups(7), freezer; clock_gettime(2). A deadline that passed meanwhile says nothing
//! about those whom it is for, so the time of a pause does not count.
//!
//! A paused process cannot know it. But it knows how long it asked poll(2) to wait, so what comes
//! much later is taken for a pause.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// The longest wait at a time while a deadline is pending. It bounds the time that a pause may
/// take from a deadline, or add to one. A wait without a deadline is not interrupted.
const BEAT: Duration = Duration::from_millis(250);

/// What is later than this has been paused. A container that is only slow is not: a limit on its
/// processors stops it for less than a period, which is at most 1 s (`max_cfs_quota_period` in the
/// kernel's kernel/sched).
const SLACK: Duration = Duration::from_secs(1);

/// A clock that stands still while this process is paused.
#[derive(Debug)]
pub struct Clock {
    began: Instant,
    reading: Cell<Reading>,
}

impl Clock {
    /// A clock that shows the time since `began`.
    pub fn since(began: Instant) -> Self {
        Self {
            began,
            reading: Cell::default(),
        }
    }

    /// The time since the beginning, without pauses. It never goes back.
    pub fn now(&self) -> Duration {
        let mut reading = self.reading.get();
        let now = reading.look(self.began.elapsed());
        self.reading.set(reading);
        now
    }

    /// The time-out of the poll that the caller makes next, so that it does not last beyond
    /// `deadline` on this clock: `None`, for ever, without one. The poll may end earlier.
    pub fn timeout(&self, deadline: Option<Duration>) -> Option<Duration> {
        let timeout = deadline.map(|deadline| deadline.saturating_sub(self.now()).min(BEAT));
        let mut reading = self.reading.get();
        reading.wait(timeout);
        self.reading.set(reading);
        timeout
    }
}

/// What the clock has shown, and when it is looked at next.
#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    /// The real time of the last look.
    real: Duration,
    /// How much of the real time was paused.
    paused: Duration,
    /// How long the wait may take that began at the last look; `None`: for ever.
    asked: Option<Duration>,
}

impl Reading {
    /// Takes the real time and returns the clock's. Of a wait that was much too long, what was asked
    /// for counts and no more: nobody knows when in it the pause began. So a machine on which each
    /// wait is that long, as for want of memory, comes to its deadlines, too.
    fn look(&mut self, real: Duration) -> Duration {
        let passed = real.saturating_sub(self.real);
        if let Some(asked) = self
            .asked
            .filter(|asked| passed > asked.saturating_add(SLACK))
        {
            self.paused = self.paused.saturating_add(passed.saturating_sub(asked));
        }
        self.real = real;
        self.asked = Some(Duration::ZERO);
        real.saturating_sub(self.paused)
    }

    /// Takes how long the wait may take that begins now.
    fn wait(&mut self, asked: Option<Duration>) {
        self.asked = asked;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_comes_much_later_than_asked_does_not_count() {
        let mut reading = Reading::default();
        // Before the first look nothing is known.
        assert_eq!(reading.look(SECOND * 5), SECOND * 5);
        reading.wait(Some(BEAT));
        assert_eq!(reading.look(SECOND * 5 + BEAT), SECOND * 5 + BEAT);
        reading.wait(Some(BEAT));
        assert_eq!(reading.look(SECOND * 60), SECOND * 5 + BEAT * 2);
        // As late as a limit on processors makes it.
        reading.wait(Some(BEAT));
        let late = BEAT + SLACK;
        let now = reading.look(SECOND * 60 + late);
        assert_eq!(now, SECOND * 5 + BEAT * 2 + late);
    }

    /// As with a process that swaps at each turn: it comes to its deadlines, too.
    #[test]
    fn a_process_that_is_always_late_goes_on() {
        let mut reading = Reading::default();
        for turn in 1..=40 {
            reading.wait(Some(BEAT));
            assert_eq!(reading.look(SECOND * 2 * turn), BEAT * turn);
        }
    }

    #[test]
    fn a_pause_outside_of_a_poll_does_not_count_either() {
        let mut reading = Reading::default();
        reading.look(SECOND);
        assert_eq!(reading.look(SECOND * 30), SECOND);
    }

    #[test]
    fn a_wait_without_a_deadline_may_take_any_time() {
        let mut reading = Reading::default();
        reading.look(SECOND);
        reading.wait(None);
        assert_eq!(reading.look(SECOND * 3600), SECOND * 3600);
    }

    #[test]
    fn nothing_wakes_a_process_that_waits_for_no_deadline() {
        let clock = Clock::since(Instant::now());
        assert_eq!(clock.timeout(None), None);
        assert_eq!(clock.timeout(Some(Duration::ZERO)), Some(Duration::ZERO));
        assert_eq!(clock.timeout(Some(SECOND * 3600)), Some(BEAT));
    }

    proptest! {
        /// Whatever the pauses are: the clock never goes back, and of the time without pauses it
        /// shows all but one wait for each of them.
        #[test]
        fn only_pauses_are_left_out(
            turns in proptest::collection::vec((0_u64..=250, 0_u64..900, 0_u64..100_000), 1..50),
        ) {
            let mut reading = Reading::default();
            let mut real = Duration::ZERO;
            let mut shown = reading.look(real);
            let (mut without_pauses, mut pauses) = (Duration::ZERO, 0);
            for (asked, late, pause) in turns {
                let asked = Duration::from_millis(asked);
                // A pause as short as the scheduler's delays is not one.
                let pause = match pause < 1_250 {
                    true => Duration::ZERO,
                    false => Duration::from_millis(pause),
                };
                let ran = asked + Duration::from_millis(late);
                pauses += u32::from(!pause.is_zero());
                without_pauses += ran;
                real += ran + pause;
                reading.wait(Some(asked));
                let now = reading.look(real);
                prop_assert!(now >= shown);
                shown = now;
            }
            prop_assert!(shown <= without_pauses);
            prop_assert!(shown + pauses * (BEAT + SLACK) >= without_pauses);
        }
    }
}
