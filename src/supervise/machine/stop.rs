//! The stop: the signals that ask for it, its stages and their deadlines.

use std::time::Duration;

use nix::libc;

use super::event::{Effect, Level, Message, Process};
use super::start::log_killed;
use super::state::{Forced, Machine, Phase, Reached, Stop, Then};
use crate::messages::fault::FAILURE;
use crate::plan::stop_budget::StopBudget;
use crate::sys::end::End;
use crate::sys::signals::asks_to_end;

/// The stages of a stop, in order.
const STAGES: [Process; 18] = [
    Process::Command,
    Process::Namespaces,
    Process::Mounter,
    Process::Filler,
    Process::Certificates,
    Process::Joiner,
    Process::Delegation,
    Process::PreStart,
    Process::Loader,
    Process::PostStart,
    Process::Preparer,
    Process::PreStop,
    Process::Watcher,
    Process::Dockerd,
    Process::Ender,
    Process::Containerd,
    Process::Publisher,
    Process::Sweeper,
];

/// How long a killed sweeper may take to end, where nobody waits for the container.
const SWEEPERS_END: Duration = Duration::from_secs(1);

/// What a stage has at least from its signal on, where the stages before it took longer than their
/// part, or the stop time-out is too short to be divided. What a signal ends at once has ended by
/// then on a busy machine, too.
pub const LEAST: Duration = Duration::from_millis(100);

/// The same from SIGKILL on: a process with much memory takes the kernel some time.
pub const LEAST_KILLED: Duration = Duration::from_millis(500);

impl Stop {
    /// When the stage is forced one step further, or is given up; time since the start of this
    /// program.
    pub(super) fn deadline(&self, budget: &StopBudget) -> Duration {
        let is_killed = self.forced == Forced::Stage;
        let left = match (self.stage, self.forced) {
            (Process::Publisher | Process::Sweeper, _) if !self.asked && is_killed => {
                budget.sweep.saturating_add(SWEEPERS_END)
            }
            (Process::Publisher | Process::Sweeper, _) if !self.asked => budget.sweep,
            (stage, Forced::Stage) if is_before_daemons(stage) => budget.abandoned,
            (_, Forced::Stage) => budget.end,
            (Process::PreStop, Forced::Nothing) => budget.hook,
            (Process::Watcher, Forced::Nothing) => budget.abandoned,
            (Process::Dockerd | Process::Ender, Forced::Nothing) => budget.containers,
            (Process::Dockerd | Process::Ender, Forced::Inside) => budget.dockerd,
            (Process::Containerd | Process::Publisher | Process::Sweeper, _) => budget.containerd,
            (Process::Command, _) => budget.command,
            (_, _) => budget.hooks,
        };
        let least = match self.forced {
            Forced::Stage => LEAST_KILLED,
            Forced::Nothing | Forced::Inside => LEAST,
        };
        let planned = self.began.saturating_add(left);
        planned.max(self.signalled.saturating_add(least))
    }
}

impl Machine {
    pub(super) fn signal(&mut self, signal: i32, now: Duration, effects: &mut Vec<Effect>) {
        let stops = asks_to_end(signal);
        if let Phase::Stopping(stop) = &mut self.phase {
            let is_first = stops && !stop.asked;
            if is_first {
                stop.asked = true;
                if matches!(stop.stage, Process::Publisher | Process::Sweeper) {
                    stop.began = now;
                }
            }
            // dockerd abandons its clean-up at the third signal, so it gets only one. The
            // command gets every signal.
            let stage = stop.stage;
            if stage == Process::Command {
                effects.push(Effect::Send(Process::Command, signal));
            }
            if is_first && self.due.contains(&Process::Publisher) {
                self.publishes_nothing(stage, "the container was told to stop", effects);
                self.status = Some(End::Signaled(signal).status());
            }
            return;
        }
        if self.runs(Process::Command) {
            effects.push(Effect::Send(Process::Command, signal));
            if signal == libc::SIGTERM {
                self.begin_stop(now, true);
                self.close_sockets(effects);
                if self.settings.terminal {
                    effects.push(Effect::Send(Process::Command, libc::SIGHUP));
                }
            }
        } else if self.settings.command {
            // The command has not started, and these signals mean that it is not wanted.
            if stops || signal == libc::SIGHUP {
                self.stop_asked(End::Signaled(signal).status(), now, effects);
            }
        } else if stops {
            self.stop_asked(0, now, effects);
        } else if matches!(signal, libc::SIGHUP | libc::SIGUSR1) {
            // Before its API answers dockerd has no handlers for these, and they would kill it.
            if self.answers {
                effects.push(Effect::Send(Process::Dockerd, signal));
            } else if !self.held.contains(&signal) {
                self.held.push(signal);
            }
        }
    }

    /// Begins a stop with this exit status, unless one is in progress or follows anyway.
    pub(super) fn stop(&mut self, status: u8, now: Duration, effects: &mut Vec<Effect>) {
        // The reason of a failed start is still being shown. A child that ends because dockerd has
        // ended does not hide it.
        let follows = matches!(
            self.phase,
            Phase::Failing {
                then: Then::Stop(_),
                ..
            }
        );
        if !follows {
            self.begin(status, false, now, effects);
        }
    }

    /// The same, where a signal asks for it, whose sender waits for the container.
    fn stop_asked(&mut self, status: u8, now: Duration, effects: &mut Vec<Effect>) {
        self.begin(status, true, now, effects);
    }

    pub(super) fn begin(
        &mut self,
        status: u8,
        asked: bool,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        self.status.get_or_insert(status);
        if matches!(self.phase, Phase::Stopping(_)) {
            return;
        }
        self.stop_showing(effects);
        self.begin_stop(now, asked);
        self.close_sockets(effects);
        self.advance(None, now, effects);
    }

    fn begin_stop(&mut self, now: Duration, asked: bool) {
        // The containers of a dockerd that was to be started again have nobody else.
        if self.dockerd.due.take().is_some() && self.reached != Reached::Nothing {
            self.due.push(Process::Ender);
        }
        self.containerd.due = None;
        let [stage, ..] = STAGES;
        self.phase = Phase::Stopping(Stop {
            stage,
            began: now,
            signalled: now,
            forced: Forced::Nothing,
            asked,
        });
    }

    /// Closes the sockets if no dockerd runs, so that clients are refused: none will be started.
    fn close_sockets(&self, effects: &mut Vec<Effect>) {
        if self.settings.restarts > 0 && !self.dockerd.runs {
            effects.push(Effect::CloseSockets);
        }
    }

    /// Handles the end of a child during the stop.
    pub(super) fn ended_in_stop(
        &mut self,
        stop: Stop,
        process: Process,
        end: End,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        // A stop that a signal asked for has status 0, unless dockerd exits with another. If
        // something had to be killed for it, the log names it.
        if process == Process::Dockerd && !self.settings.command && self.status == Some(0) {
            self.status = Some(match end {
                End::Signaled(libc::SIGTERM | libc::SIGKILL) => 0,
                end => end.status(),
            });
        }
        if process == Process::Command {
            let saved = self.settings.saves && end == End::Exited(0);
            if saved {
                self.publishes_nothing(process, "the container was told to stop", effects);
            }
            self.status.get_or_insert(match saved {
                true => FAILURE,
                false => end.status(),
            });
        }
        // What a daemon leaves that did not end by itself, or not in its turn, may be half written.
        if matches!(process, Process::Dockerd | Process::Containerd)
            && (end != End::Exited(0) || process != stop.stage)
            && self.due.contains(&Process::Publisher)
        {
            self.publishes_nothing(process, &format!("{} {end}", process.name()), effects);
        }
        if let End::Signaled(signal) = end
            && !has_sent(stop, process, signal)
        {
            log_killed(process, end, effects);
        }
        if process == Process::Publisher && end != End::Exited(0) {
            self.status = Some(FAILURE);
        }
        if process == stop.stage {
            self.advance(Some(process), now, effects);
        }
    }

    /// Drops what the command has made, which was to be published.
    pub(super) fn publishes_nothing(
        &mut self,
        process: Process,
        why: &str,
        effects: &mut Vec<Effect>,
    ) {
        self.due.retain(|due| *due != Process::Publisher);
        self.status = Some(FAILURE);
        let text = format!("nothing is published in the store, since {why}; save again");
        effects.push(Effect::Log(Message::about(
            Level::Error,
            process,
            None,
            text,
        )));
    }

    /// Begins the next stage that runs or is due, after one that has ended or is given up. Exits
    /// after the last.
    fn advance(&mut self, after: Option<Process>, now: Duration, effects: &mut Vec<Effect>) {
        let Phase::Stopping(stop) = self.phase else {
            return;
        };
        let place = STAGES.iter().position(|stage| Some(*stage) == after);
        let mut left = STAGES.into_iter().skip(place.map_or(0, |place| place + 1));
        let next = left.find(|process| match process {
            // There is no pre-stop without a complete start.
            Process::PreStop => self.reached == Reached::Announcement && self.due.contains(process),
            Process::Watcher => self.due.contains(process) && self.runs(Process::Dockerd),
            Process::Ender | Process::Publisher | Process::Sweeper => self.due.contains(process),
            process => self.runs(*process),
        });
        let Some(next) = next else {
            effects.push(Effect::Exit(self.status.unwrap_or(FAILURE)));
            return;
        };
        let began = match next {
            Process::Publisher | Process::Sweeper if !stop.asked => now,
            _ => stop.began,
        };
        let stop = Stop {
            stage: next,
            began,
            signalled: now,
            forced: Forced::Nothing,
            ..stop
        };
        self.phase = Phase::Stopping(stop);
        if !self.fork_due(next, effects) {
            effects.push(Effect::Send(next, libc::SIGTERM));
        }
        if next == Process::Command && self.settings.terminal {
            effects.push(Effect::Send(next, libc::SIGHUP));
        }
    }

    /// Forces the stage one step further, after its deadline, or gives it up.
    pub(super) fn force(&mut self, stop: Stop, now: Duration, effects: &mut Vec<Effect>) {
        let Stop { stage, forced, .. } = stop;
        let mut log = |level, text: String| {
            effects.push(Effect::Log(Message::about(level, stage, None, text)));
        };
        let forced = match (stage, forced) {
            (_, Forced::Stage) => {
                log(
                    Level::Error,
                    format!(
                        "{} did not end after SIGKILL and is left to the kernel; look for a file system that hangs",
                        stage.name()
                    ),
                );
                if is_before_daemons(stage) {
                    self.advance(Some(stage), now, effects);
                } else {
                    effects.push(Effect::Exit(self.status.unwrap_or(FAILURE)));
                }
                return;
            }
            // Without it all containers are waited for, and nothing waits for its end.
            (Process::Watcher, Forced::Nothing | Forced::Inside) => {
                self.forget(stage);
                effects.push(Effect::Send(stage, libc::SIGKILL));
                self.advance(Some(stage), now, effects);
                return;
            }
            (Process::Dockerd | Process::Ender, Forced::Nothing) => {
                effects.push(Effect::KillContainers);
                Forced::Inside
            }
            (Process::PreStop, Forced::Nothing) => {
                log(Level::Warn, late(stage, "sent SIGTERM"));
                effects.push(Effect::Send(stage, libc::SIGTERM));
                Forced::Inside
            }
            (_, Forced::Nothing | Forced::Inside) => {
                log(Level::Warn, late(stage, "killed"));
                if matches!(stage, Process::Dockerd | Process::Containerd)
                    && self.due.contains(&Process::Publisher)
                {
                    // What a killed daemon leaves may be half written.
                    self.publishes_nothing(stage, "a daemon had to be killed", effects);
                }
                effects.push(Effect::Send(stage, libc::SIGKILL));
                Forced::Stage
            }
        };
        self.phase = Phase::Stopping(Stop {
            forced,
            signalled: now,
            ..stop
        });
    }
}

/// Whether this process may have sent the signal that ended a child in a stop. A command gets every
/// signal, and a stage before the present one was killed if it still ran.
fn has_sent(stop: Stop, process: Process, signal: i32) -> bool {
    let place = |process| STAGES.iter().position(|stage| *stage == process);
    match process {
        Process::Command => true,
        process if place(process) < place(stop.stage) => true,
        process if process != stop.stage => false,
        // It asks the hook runner to end the hook.
        Process::PreStop if stop.forced == Forced::Nothing => false,
        _ => match signal {
            libc::SIGTERM => true,
            libc::SIGKILL => stop.forced == Forced::Stage,
            _ => false,
        },
    }
}

/// Whether this stage comes before the daemons. Those are to end in order even if this one has to
/// be given up.
fn is_before_daemons(stage: Process) -> bool {
    !matches!(
        stage,
        Process::Dockerd
            | Process::Ender
            | Process::Containerd
            | Process::Publisher
            | Process::Sweeper
    )
}

fn late(stage: Process, what: &str) -> String {
    format!(
        "{} did not end in time and is {what}; raise DIND_STOP_TIMEOUT, and 'docker stop -t' above it",
        stage.name()
    )
}
