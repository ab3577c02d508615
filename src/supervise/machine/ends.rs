//! What the machine does when a child has ended or could not be started.

use std::time::Duration;

use super::event::{Effect, Level, Process, log_end};
use super::restart::Restart;
use super::start::log_killed;
use super::state::{Forced, Machine, Phase, Reached, Stop, Then};
use crate::messages::fault::FAILURE;
use crate::sys::end::End;

impl Machine {
    pub(super) fn not_started(
        &mut self,
        process: Process,
        status: u8,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        match process {
            // The reason has been logged, and what it has to do with this container has not.
            Process::Containerd | Process::Dockerd if self.phase == Phase::Starting => {
                self.forget(process);
                self.fail(Then::Stop(status), now, effects);
            }
            Process::Containerd | Process::Dockerd
                if matches!(self.phase, Phase::Failing { .. }) =>
            {
                self.forget(process);
            }
            // The reason has been logged.
            Process::Relay => {
                self.relay.end(now);
            }
            process => self.ended(process, End::Exited(status), now, effects),
        }
    }

    pub(super) fn ended(
        &mut self,
        process: Process,
        end: End,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        if process == Process::Relay {
            self.relay_ended(end, now, effects);
            return;
        }
        self.forget(process);
        if self.starts_again(process, end, now, effects) {
            return;
        }
        if process == Process::Dockerd {
            self.leaves_containers(end);
        }
        match (self.phase, process) {
            (Phase::Stopping(stop), _) => self.ended_in_stop(stop, process, end, now, effects),
            (Phase::Failing { then, .. }, Process::LogReader | Process::Diagnosis) => {
                log_killed(process, end, effects);
                self.shown(then, now, effects);
            }
            (
                Phase::Preparing,
                Process::Namespaces
                | Process::Mounter
                | Process::Filler
                | Process::Certificates
                | Process::Joiner
                | Process::Delegation
                | Process::PreStart,
            ) => self.prepared(process, end, now, effects),
            (_, Process::Loader | Process::PostStart) => {
                self.provisioned(process, end, now, effects);
            }
            (_, Process::Command) if self.settings.saves && end == End::Exited(0) => {
                self.fork(Process::Preparer, effects);
            }
            (_, Process::Preparer) => {
                log_killed(process, end, effects);
                match end {
                    End::Exited(0)
                        if !self.dockerd.runs
                            || self.settings.containerd && !self.containerd.runs =>
                    {
                        self.publishes_nothing(process, "a daemon has ended before", effects);
                        self.stop(FAILURE, now, effects);
                    }
                    End::Exited(0) => {
                        self.due.push(Process::Publisher);
                        self.stop(0, now, effects);
                    }
                    _ => self.stop(FAILURE, now, effects),
                }
            }
            (_, Process::Command) => self.stop(end.status(), now, effects),
            (
                _,
                Process::Forwarder
                | Process::PortForwarder
                | Process::Grower
                | Process::UserNetwork
                | Process::Ports,
            ) => {
                self.companion_ended(process, end, now, effects);
            }
            (Phase::Starting | Phase::Provisioning, Process::Dockerd | Process::Containerd) => {
                self.dead_before_ready(process, end, now, effects);
            }
            (Phase::Running, Process::Dockerd) => self.dockerd_ended(end, now, effects),
            (Phase::Running | Phase::Failing { .. }, Process::Containerd) => {
                self.containerd_ended(end, now, effects);
            }
            // These do not run in other phases; the relay is handled above.
            (
                _,
                Process::Namespaces
                | Process::Mounter
                | Process::Filler
                | Process::Certificates
                | Process::Joiner
                | Process::Delegation
                | Process::PreStart
                | Process::PreStop
                | Process::Watcher
                | Process::Ender
                | Process::Publisher
                | Process::Sweeper
                | Process::LogReader
                | Process::Diagnosis
                | Process::Relay,
            ) => {}
            (Phase::Preparing | Phase::Failing { .. }, Process::Dockerd)
            | (Phase::Preparing, Process::Containerd) => {}
        }
    }

    fn dockerd_ended(&mut self, end: End, now: Duration, effects: &mut Vec<Effect>) {
        let text = match self.settings.command {
            true => format!(
                "dockerd {end}: docker no longer works in this container; read its log, and restart the container"
            ),
            false => format!("dockerd {end}; the container ends"),
        };
        log_end(Level::Error, Process::Dockerd, end, text, effects);
        if !self.settings.command {
            self.stop(end.status(), now, effects);
        }
    }

    /// Makes the ender of containers due after an end of dockerd's that left them: it was killed, or
    /// has failed. Before its API has answered it has none, and those that have had their time are
    /// killed before it is.
    fn leaves_containers(&mut self, end: End) {
        let has_killed_them = matches!(
            self.phase,
            Phase::Stopping(Stop { stage: Process::Dockerd, forced, .. }) if forced != Forced::Nothing
        );
        if self.reached != Reached::Nothing && end != End::Exited(0) && !has_killed_them {
            self.due.push(Process::Ender);
        }
    }

    fn containerd_ended(&mut self, end: End, now: Duration, effects: &mut Vec<Effect>) {
        let runs = matches!(
            self.phase,
            Phase::Running
                | Phase::Failing {
                    then: Then::Run,
                    ..
                }
        );
        let goes_on = self.settings.command && runs;
        let text = match goes_on {
            true => format!(
                "containerd {end}: docker can no longer start containers; read its log, and restart the container"
            ),
            false => {
                format!("containerd {end}, and dockerd cannot run without it; the container ends")
            }
        };
        log_end(Level::Error, Process::Containerd, end, text, effects);
        if !goes_on {
            self.stop(FAILURE, now, effects);
        }
    }

    /// Decides whether a daemon that has just ended is restarted, and logs it. A dockerd that exits
    /// before its API has ever answered is not: it would do so again.
    fn starts_again(
        &mut self,
        process: Process,
        end: End,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let restarts = self.settings.restarts;
        let never_answered = process == Process::Dockerd && self.reached == Reached::Nothing;
        let lives = matches!(
            self.phase,
            Phase::Starting | Phase::Provisioning | Phase::Running
        );
        let refuses = never_answered && matches!(end, End::Exited(_));
        let Some(daemon) = self.daemon(process).filter(|_| lives && restarts > 0) else {
            return false;
        };
        let pause = match end == End::Exited(0) || refuses {
            true => None,
            false => daemon.fail(restarts, now),
        };
        let Some(pause) = pause else {
            if process == Process::Dockerd {
                effects.push(Effect::CloseSockets);
            }
            return false;
        };
        if process == Process::Dockerd && self.phase == Phase::Provisioning {
            self.phase = Phase::Starting;
            let due = now.saturating_add(pause);
            self.ready_by = due.saturating_add(self.settings.ready_timeout);
        }
        let text = format!(
            "{} {end}; restarting it in {} s, and clients wait",
            process.name(),
            pause.as_secs_f64()
        );
        log_end(Level::Warn, process, end, text, effects);
        true
    }

    fn relay_ended(&mut self, end: End, now: Duration, effects: &mut Vec<Effect>) {
        let text = format!("{} {end}; restarting it", Process::Relay.name());
        log_end(Level::Warn, Process::Relay, end, text, effects);
        if self.relay.end(now) {
            self.start_relay(now, effects);
        }
    }

    /// Handles the end of a helper that is to run as long as the daemons do.
    fn companion_ended(
        &mut self,
        process: Process,
        end: End,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let (started, lost) = match process {
            Process::Grower => (
                &mut self.grown,
                "the data root gets no more room than it has now",
            ),
            Process::PortForwarder => (&mut self.port_forwarded, "PORT is no longer served"),
            Process::Ports => (&mut self.published, "no more ports are published"),
            Process::UserNetwork => (
                &mut self.networked,
                "dockerd and inner containers reach nothing outside of this container",
            ),
            _ => (
                &mut self.forwarded,
                "inner containers can no longer resolve names",
            ),
        };
        let name = process.name();
        let restart = Restart::after(end, *started, now);
        let log = match restart {
            // It is no helper of this program, which would log the reason.
            Restart::Over if process == Process::UserNetwork => Some((
                Level::Error,
                format!("{name} {end}: {lost}; its last lines have the reason"),
            )),
            Restart::Over => None,
            Restart::Again => Some((Level::Warn, format!("{name} {end}; restarting it"))),
            Restart::GivenUp => Some((
                Level::Error,
                format!("{name} {end}: {lost}; restart the container"),
            )),
        };
        if let Some((level, text)) = log {
            log_end(level, process, end, text, effects);
        }
        if restart == Restart::Again {
            *started = now;
            effects.push(match process {
                Process::UserNetwork => Effect::StartUserNetwork,
                process => Effect::Fork(process),
            });
        } else if process == Process::PortForwarder {
            effects.push(Effect::ClosePort);
        }
    }
}
