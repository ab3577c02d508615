//! The time of a stop: when each part of it must have ended.
//!
//! Every deadline counts from the beginning of the stop. A part that ends early leaves its time
//! to the later ones. No deadline is passed to dockerd as `--shutdown-timeout`: dockerd takes the
//! largest of that flag (15 s by default) and each container's own stop time-out (10 s) plus 5 s
//! (`ShutdownTimeout` in moby's daemon/daemon.go), so the flag never shortens a container's time.

use std::time::Duration;

/// How many shares of a nest's time the innermost level gets, for its command. Every other level
/// gets one: its command is the next level, and its daemons have no containers after that.
const INNERMOST: u32 = 8;

/// The part of a stop for the command and the pre-stop hooks together, in ninths.
const FOREGROUND_NINTHS: u32 = 4;

/// How long processes that come before the daemons and do not end by SIGKILL are waited for, in
/// twentieths ([`PARTS`]) of the daemons' time. The deadlines of the daemons follow in the same
/// unit. dockerd gets as long after its containers as these get: to remove a container that ran
/// an engine takes it a second on a busy machine.
const ABANDONED_PART: u32 = 1;
const CONTAINERS_PART: u32 = 8;
const DOCKERD_PART: u32 = 16;
const CONTAINERD_PART: u32 = 18;
/// When this process ends, whatever still runs. The kernel has the rest to end the container's
/// remaining processes.
const END_PART: u32 = 19;
const PARTS: u32 = 20;

/// How long the sweeper may take if the container is not ended by a stop: slow disks remove some
/// hundred files a second.
const SWEEP: Duration = Duration::from_secs(600);

/// The deadlines of a stop, counted from its beginning. None is earlier than the one above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopBudget {
    /// The whole stop: `DIND_STOP_TIMEOUT`.
    pub total: Duration,
    /// `DIND_STOP_TIMEOUT` of the level inside this one; `None` without a nest.
    pub inner: Option<Duration>,
    /// When the command must have ended. With a nest the command is the levels inside.
    pub command: Duration,
    /// When a pre-stop hook that still runs gets SIGTERM.
    pub hook: Duration,
    /// When the hooks must have ended, and every other child that is stopped before the daemons.
    pub hooks: Duration,
    /// When the stop continues without children that were killed and have not ended.
    pub abandoned: Duration,
    /// When the inner containers must have ended.
    pub containers: Duration,
    /// When dockerd must have ended.
    pub dockerd: Duration,
    /// When containerd must have ended, and the data root's sweeper if the container was told to
    /// stop.
    pub containerd: Duration,
    /// When this process ends.
    pub end: Duration,
    /// How long the sweeper may take otherwise, counted from its own start.
    pub sweep: Duration,
    /// The time between SIGTERM and SIGKILL for a hook, and between SIGKILL and the end of the
    /// hook runner.
    pub hook_grace: Duration,
}

impl StopBudget {
    /// Divides `total`. `levels_below` is the number of levels that a nest has inside this one,
    /// and 0 without a nest. `hooks` is whether there are pre-stop hooks: they share the
    /// command's time, or, where the command is further levels, take some of this level's own.
    pub fn new(total: Duration, levels_below: u32, hooks: bool) -> Self {
        let own = total / levels_below.saturating_add(INNERMOST);
        let inner = total.saturating_sub(own);
        // A little longer than the inner level's whole stop: docker then removes its container.
        let nested = inner.saturating_add(own / 4);
        let foreground = total.saturating_mul(FOREGROUND_NINTHS) / 9;
        let (command, hooks) = match (hooks, levels_below) {
            (false, 0) => (foreground, foreground),
            (true, 0) => (foreground / 2, foreground),
            (false, _) => (nested, nested),
            (true, _) => (
                nested,
                nested.saturating_add(total.saturating_sub(nested) / 3),
            ),
        };
        // The hook ends first, then the hook runner, both before the deadline of hooks.
        let hook = hooks.saturating_sub(hooks.saturating_sub(command) / 2);
        let hook_grace = match hooks > command {
            true => hooks.saturating_sub(hook) / 2,
            false => hooks / 8,
        };
        let daemons = total.saturating_sub(hooks);
        let at = |part| hooks.saturating_add(daemons.saturating_mul(part) / PARTS);
        Self {
            total,
            inner: (levels_below > 0).then_some(inner),
            command,
            hook,
            hooks,
            abandoned: at(ABANDONED_PART),
            containers: at(CONTAINERS_PART),
            dockerd: at(DOCKERD_PART),
            containerd: at(CONTAINERD_PART),
            end: at(END_PART),
            sweep: SWEEP,
            hook_grace,
        }
    }

    /// Returns the deadlines as text for `dind plan`, in seconds. The arguments are whether
    /// there is a command, a pre-stop hook and a containerd; those that are not are left out.
    pub fn shown(&self, command: bool, hooks: bool, containerd: bool) -> String {
        let seconds = |time: Duration| (time.as_secs_f64() * 100.0).round() / 100.0;
        let parts = [
            ("the command", self.command, command),
            ("hooks", self.hooks, hooks),
            ("inner containers", self.containers, true),
            ("dockerd", self.dockerd, true),
            ("containerd", self.containerd, containerd),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(_, _, is_there)| *is_there)
            .map(|(name, by, _)| format!("{name} by {} s", seconds(by)))
            .collect();
        format!("within {} s: {}", seconds(self.total), parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl StopBudget {
        /// The deadlines in the order in which they come.
        fn deadlines(self) -> [Duration; 9] {
            [
                self.command,
                self.hook,
                self.hooks,
                self.abandoned,
                self.containers,
                self.dockerd,
                self.containerd,
                self.end,
                self.total,
            ]
        }
    }

    #[test]
    fn nine_seconds_are_divided() {
        let shown = |levels, hooks| {
            StopBudget::new(Duration::from_secs(9), levels, hooks).shown(true, hooks, true)
        };
        assert_eq!(
            shown(0, false),
            "within 9 s: the command by 4 s, inner containers by 6 s, dockerd by 8 s, containerd by 8.5 s"
        );
        assert_eq!(
            shown(0, true),
            "within 9 s: the command by 2 s, hooks by 4 s, inner containers by 6 s, dockerd by 8 s, containerd by 8.5 s"
        );
        assert_eq!(
            shown(4, true),
            "within 9 s: the command by 8.44 s, hooks by 8.63 s, inner containers by 8.78 s, dockerd by 8.93 s, containerd by 8.96 s"
        );
        let serve = StopBudget::new(Duration::from_secs(9), 0, false);
        assert_eq!(
            serve.shown(false, false, false),
            "within 9 s: inner containers by 6 s, dockerd by 8 s"
        );
    }

    proptest! {
        #[test]
        fn deadlines_are_ordered_and_never_exceed_the_total(
            milliseconds in 100_u64..86_400_000,
            levels in 0_u32..1000,
            hooks in any::<bool>(),
        ) {
            let total = Duration::from_millis(milliseconds);
            let budget = StopBudget::new(total, levels, hooks);
            let deadlines = budget.deadlines();
            prop_assert!(deadlines.is_sorted(), "{:?}", budget);
            // Every part has a share; without hooks theirs is empty.
            let mut parts = vec![
                Duration::ZERO,
                budget.command,
                budget.abandoned,
                budget.containers,
                budget.dockerd,
                budget.containerd,
                budget.end,
                total,
            ];
            if hooks {
                parts.insert(2, budget.hooks);
                prop_assert!(budget.command < budget.hook && budget.hook < budget.hooks);
            }
            let is_share = |pair: &[Duration]| matches!(pair, [before, after] if before < after);
            prop_assert!(parts.windows(2).all(is_share), "{:?}", budget);
            prop_assert!(budget.hook_grace > Duration::ZERO);
            prop_assert!(!hooks || budget.hook + budget.hook_grace * 2 <= budget.hooks);
        }

        #[test]
        fn a_shorter_time_gives_the_same_proportions(
            milliseconds in 1_000_u64..86_400_000,
            levels in 0_u32..40,
            hooks in any::<bool>(),
        ) {
            let total = Duration::from_millis(milliseconds);
            let whole = StopBudget::new(total, levels, hooks).deadlines();
            let half = StopBudget::new(total / 2, levels, hooks).deadlines();
            for (whole, half) in whole.into_iter().zip(half) {
                prop_assert!((whole / 2).abs_diff(half) < Duration::from_micros(1));
            }
        }

        #[test]
        fn every_level_has_time_to_end_in(seconds in 1_u64..100, depth in 1_u32..64) {
            let mut timeout = Duration::from_secs(seconds);
            for below in (1..depth).rev() {
                let budget = StopBudget::new(timeout, below, false);
                let inner = budget.inner.unwrap_or_default();
                prop_assert!(inner < budget.command && budget.command < timeout);
                timeout = inner;
            }
            let parts = f64::from(depth - 1 + INNERMOST);
            let innermost = seconds as f64 / parts * f64::from(INNERMOST);
            prop_assert!((timeout.as_secs_f64() - innermost).abs() < 0.001);
        }
    }
}
