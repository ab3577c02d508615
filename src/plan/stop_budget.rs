//! The time of a stop: when each part of it must have ended.
//!
//! Every deadline counts from the beginning of the stop. What ends early leaves its time to
//! those after it. dockerd gets none of them as `--shutdown-timeout`: it takes the largest of that
//! flag (15 s by default) and of each container's own stop time-out (10 s) and 5 s more
//! (`ShutdownTimeout` in moby's daemon/daemon.go), and gives no container less time for it.

use std::time::Duration;

/// How many levels the innermost counts for in the division of a nest's time: it has a
/// command that may take its time, and the others have daemons without containers.
const INNERMOST: u32 = 8;

/// How much of a stop the command and the pre-stop hooks may take together, in ninths.
const FOREGROUND_NINTHS: u32 = 4;

/// What comes before the daemons and does not end by SIGKILL is waited for no longer than this
/// part of the daemons' time, in twentieths. Then each of them has its deadline, dockerd as long
/// after its containers as these have: to take down one that was an engine itself takes a second
/// on a busy machine.
const ABANDONED_PART: u32 = 1;
const CONTAINERS_PART: u32 = 8;
const DOCKERD_PART: u32 = 16;
const CONTAINERD_PART: u32 = 18;
/// Then this process ends, whatever still lives. The rest of the time is the kernel's, to take
/// down the container.
const END_PART: u32 = 19;
const PARTS: u32 = 20;

/// How long it may take to empty the data root, where nobody waits for the container to
/// end: slow disks remove some hundred files a second.
const SWEEP: Duration = Duration::from_secs(600);

/// The deadlines of a stop, each from its beginning on and none before the one above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopBudget {
    /// `DIND_STOP_TIMEOUT`: all of it.
    pub total: Duration,
    /// `DIND_STOP_TIMEOUT` of the level inside this one, where there is one.
    pub inner: Option<Duration>,
    /// The command, or the levels inside this one, which are its command.
    pub command: Duration,
    /// A pre-stop hook gets SIGTERM.
    pub hook: Duration,
    /// The hooks, and every other child that comes before the daemons.
    pub hooks: Duration,
    /// What comes before the daemons is abandoned, though it was killed and still lives.
    pub abandoned: Duration,
    /// The inner containers.
    pub containers: Duration,
    /// dockerd.
    pub dockerd: Duration,
    /// containerd, and the data root's sweeper where somebody waits for the container.
    pub containerd: Duration,
    /// This process ends.
    pub end: Duration,
    /// The sweeper, where nobody does: from its own beginning on.
    pub sweep: Duration,
    /// Between SIGTERM and SIGKILL of a hook, and between that and the end of its runner.
    pub hook_grace: Duration,
}

impl StopBudget {
    /// Divides `total`. `levels_below` of a nest are inside of this one; `hooks` is whether
    /// there are pre-stop hooks, which share the command's time, and around further levels
    /// take of this level's own, for the command is those.
    pub fn new(total: Duration, levels_below: u32, hooks: bool) -> Self {
        let own = total / levels_below.saturating_add(INNERMOST);
        let inner = total.saturating_sub(own);
        // A little longer than the inner level takes at most: docker then removes its container.
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
        // The hook, then its runner, end before the time of both does.
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

    /// The deadlines for people, of what is there: a command, pre-stop hooks, containerd.
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
            // Every part has a share: that of the hooks only where there are some.
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
