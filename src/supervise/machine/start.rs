//! The start: its preparation, the daemons, images and hooks, up to the command.

use std::time::Duration;

use super::event::{Effect, Level, Message, Process, log_end};
use super::settings::Need;
use super::state::{Machine, Phase, Reached, Then};
use crate::messages::fault::FAILURE;
use crate::sys::end::End;

/// How long it may take to show why a start has failed. The diagnosis examines the data root, whose
/// file system may not answer.
pub const DIAGNOSIS: Duration = Duration::from_secs(5);

/// The helpers that run before the daemons, one after the other.
const PREPARATION: [Process; 7] = [
    Process::Namespaces,
    Process::Mounter,
    Process::Filler,
    Process::Certificates,
    Process::Joiner,
    Process::Delegation,
    Process::PreStart,
];

impl Machine {
    /// Forks the next helper that is due before the daemons. After the last, starts the daemons.
    pub(super) fn prepare(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        for process in PREPARATION {
            if process == Process::PreStart && self.due.contains(&process) {
                self.start_relay(now, effects);
            }
            if self.fork_due(process, effects) {
                return;
            }
        }
        self.phase = Phase::Starting;
        self.ready_by = now.saturating_add(self.settings.ready_timeout);
        self.dockerd.start(now);
        if self.settings.containerd {
            self.containerd.start(now);
        }
        if self.settings.namespaces {
            self.networked = now;
            effects.push(Effect::StartUserNetwork);
        }
        effects.push(Effect::StartDaemons);
        if self.settings.namespaces {
            self.published = now;
            effects.push(Effect::Fork(Process::Ports));
        }
        self.start_relay(now, effects);
        if self.settings.forwarder {
            self.forwarded = now;
            effects.push(Effect::Fork(Process::Forwarder));
        }
        if self.settings.port_forwarder {
            self.port_forwarded = now;
            effects.push(Effect::Fork(Process::PortForwarder));
        }
        if self.settings.grower {
            self.grown = now;
            effects.push(Effect::Fork(Process::Grower));
        }
    }

    /// Handles the end of a helper that prepares the start. A helper that fails logs the reason.
    pub(super) fn prepared(
        &mut self,
        process: Process,
        end: End,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let failed = end != End::Exited(0);
        match process {
            Process::Mounter if failed && self.settings.data_file == Need::Wanted => {
                self.settings.grower = false;
                let text = "the data root has no ext4 image; going on without it, so dockerd takes a slower storage driver";
                log_end(Level::Warn, process, end, text, effects);
                effects.push(Effect::GoWithoutDataFile);
                self.prepare(now, effects);
            }
            Process::Namespaces
            | Process::Mounter
            | Process::Filler
            | Process::Certificates
            | Process::Joiner
                if failed =>
            {
                log_killed(process, end, effects);
                self.fail(Then::Stop(FAILURE), now, effects);
            }
            // A hook that fails says why itself, and only the user knows what it has to do with
            // this container.
            Process::PreStart if matches!(end, End::Exited(1..)) => match self.settings.log_file {
                true => self.show(Process::LogReader, Then::Stop(end.status()), now, effects),
                false => self.stop(end.status(), now, effects),
            },
            Process::PreStart if failed => {
                log_killed(process, end, effects);
                self.fail(Then::Stop(end.status()), now, effects);
            }
            _ => {
                log_killed(process, end, effects);
                self.prepare(now, effects);
            }
        }
    }

    pub(super) fn preparation_is_late(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if let Some(late) = self.running.first() {
            let text = format!(
                "{} did not end in time; see what it waits for in the log, or raise DIND_READY_TIMEOUT",
                late.name()
            );
            let message = Message::about(Level::Error, *late, None, text);
            effects.push(Effect::Log(message));
        }
        self.stop(FAILURE, now, effects);
    }

    pub(super) fn answer_is_late(&mut self, effects: &mut Vec<Effect>) {
        // wrapdocker's message, which scripts search logs for.
        effects.push(Effect::Log(Message::plain(
            Level::Error,
            "Timed out trying to connect to internal docker host.",
        )));
        self.run(effects);
    }

    pub(super) fn ready(&mut self, effects: &mut Vec<Effect>) {
        if self.answers || matches!(self.phase, Phase::Stopping(_)) {
            return;
        }
        self.answers = true;
        self.reached = self.reached.max(Reached::Answer);
        if self.phase == Phase::Starting {
            self.phase = Phase::Provisioning;
        }
        if self.reached == Reached::Announcement {
            effects.push(Effect::Log(Message::plain(
                Level::Info,
                "docker answers again",
            )));
        } else {
            self.provision(effects);
        }
        effects.extend(
            self.held
                .drain(..)
                .map(|signal| Effect::Send(Process::Dockerd, signal)),
        );
    }

    /// Forks the image loader, then the post-start hook runner, where they are due. After the last,
    /// announces that docker is ready and starts the command. A dockerd that has ended meanwhile
    /// must answer again first, and a start that has failed goes no further.
    fn provision(&mut self, effects: &mut Vec<Effect>) {
        let stages = [Process::Loader, Process::PostStart];
        let failed = matches!(self.phase, Phase::Failing { .. });
        if failed || !self.answers || stages.into_iter().any(|stage| self.runs(stage)) {
            return;
        }
        for stage in stages {
            if self.fork_due(stage, effects) {
                return;
            }
        }
        self.reached = Reached::Announcement;
        effects.push(Effect::AnnounceReady);
        self.run(effects);
    }

    /// Handles the end of the image loader or of the post-start hook runner. One that fails logs
    /// the reason.
    pub(super) fn provisioned(
        &mut self,
        process: Process,
        end: End,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        log_killed(process, end, effects);
        let required = process == Process::Loader && self.settings.loader == Need::Required;
        if required && end != End::Exited(0) {
            self.fail(Then::Stop(FAILURE), now, effects);
        } else {
            self.provision(effects);
        }
    }

    /// Begins the phase `Running`, and starts the command where there is one.
    fn run(&mut self, effects: &mut Vec<Effect>) {
        if matches!(
            self.phase,
            Phase::Starting | Phase::Provisioning | Phase::Failing { .. }
        ) {
            self.phase = Phase::Running;
            if self.settings.command {
                self.running.push(Process::Command);
                effects.push(Effect::StartCommand);
            }
        }
    }

    /// Handles the end of a daemon before docker was ready. On a terminal the command runs all the
    /// same, so that the user can look for the reason.
    pub(super) fn dead_before_ready(
        &mut self,
        process: Process,
        end: End,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let text = match process {
            Process::Containerd => format!(
                "containerd {end} before docker was ready, and dockerd cannot run without it; see its last lines for the reason, and 'dind plan' for its arguments"
            ),
            _ => format!(
                "dockerd {end} before it was ready; see its last lines for the reason, and 'dind plan' for its arguments"
            ),
        };
        log_end(Level::Error, process, end, text, effects);
        let then = match self.settings.command && self.settings.terminal {
            true => Then::Run,
            false => Then::Stop(end.status().max(FAILURE)),
        };
        self.fail(then, now, effects);
        // It would wait for containerd for a minute, and the command for its end.
        if process == Process::Containerd && then == Then::Run {
            effects.push(Effect::Send(Process::Dockerd, nix::libc::SIGTERM));
        }
    }

    /// Shows why the start has failed, whatever has ended: the last lines of the log, and what
    /// `dind doctor` finds. Docker may have been given up already: then only the stop follows.
    pub(super) fn fail(&mut self, then: Then, now: Duration, effects: &mut Vec<Effect>) {
        match (self.phase, then) {
            (Phase::Preparing | Phase::Starting | Phase::Provisioning, _) => {
                self.show(Process::Diagnosis, then, now, effects);
            }
            (_, Then::Stop(status)) => self.stop(status, now, effects),
            (_, Then::Run) => {}
        }
    }

    /// Forks a helper that shows why the start has failed.
    fn show(&mut self, process: Process, then: Then, now: Duration, effects: &mut Vec<Effect>) {
        if let Then::Stop(status) = then {
            self.status.get_or_insert(status);
        }
        self.phase = Phase::Failing {
            until: now.saturating_add(DIAGNOSIS),
            then,
        };
        self.fork(process, effects);
    }

    /// Continues after the reason has been shown, or has taken too long.
    pub(super) fn shown(&mut self, then: Then, now: Duration, effects: &mut Vec<Effect>) {
        self.stop_showing(effects);
        match then {
            Then::Stop(status) => self.begin(status, false, now, effects),
            Then::Run => self.run(effects),
        }
    }

    /// Kills the helper that shows why the start has failed, and no longer waits for it.
    pub(super) fn stop_showing(&mut self, effects: &mut Vec<Effect>) {
        for process in [Process::LogReader, Process::Diagnosis] {
            if self.runs(process) {
                self.forget(process);
                effects.push(Effect::Send(process, nix::libc::SIGKILL));
            }
        }
    }
}

/// Logs the end of a helper that a signal ended, so that it could not log a reason itself.
pub fn log_killed(process: Process, end: End, effects: &mut Vec<Effect>) {
    if matches!(end, End::Signaled(_) | End::Unseen) {
        let text = format!(
            "{} {end}; check the container's memory limit, and what sends signals in it",
            process.name()
        );
        log_end(Level::Error, process, end, text, effects);
    }
}
