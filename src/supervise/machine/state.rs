//! The state of the machine.

use std::time::Duration;

use super::event::{Effect, Event, Process};
use super::restart::{DaemonLife, RelayLife};
use super::settings::{Need, Settings};

/// Where in its life the container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The daemons have not been started.
    Preparing,
    /// The API does not answer yet.
    Starting,
    /// It answers; images are loaded and hooks run before docker is announced to be ready.
    Provisioning,
    /// It is ready, or is no longer waited for.
    Running,
    /// The start has failed, and a child shows what may be the reason.
    Failing { until: Duration, then: Then },
    /// Everything ends, in order, by the stage that is being ended.
    Stopping(Stop),
}

/// What follows when the reason of a failed start has been shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The container stops with this status.
    Stop(u8),
    /// The command runs all the same.
    Run,
}

/// A stop under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// What is being ended.
    pub stage: Process,
    /// When the stop began.
    pub began: Duration,
    /// How far the stage has been forced.
    pub forced: Forced,
    /// Whether somebody outside asked for the stop, and waits for it.
    pub asked: bool,
}

/// How far the stage of a stop has been forced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Forced {
    Nothing,
    /// What runs in the stage: dockerd's containers, a hook.
    Inside,
    Stage,
}

/// How far docker has ever come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    Nothing,
    /// The API has answered.
    Answer,
    /// It was announced to be ready.
    Announcement,
}

/// The state.
#[derive(Debug, Clone)]
pub struct Machine {
    pub(super) settings: Settings,
    pub(super) phase: Phase,
    pub(super) containerd: DaemonLife,
    pub(super) dockerd: DaemonLife,
    pub(super) relay: RelayLife,
    /// When the forwarder was started.
    pub(super) forwarded: Duration,
    /// The command and the parts of this program that run in children and are waited for.
    pub(super) running: Vec<Process>,
    /// The parts of this program that have still to run.
    pub(super) due: Vec<Process>,
    /// Until when a start must be prepared, or the API answer.
    pub(super) ready_by: Duration,
    pub(super) reached: Reached,
    /// Whether the API answers, as far as is known.
    pub(super) answers: bool,
    /// Signals for dockerd that came before it can take them.
    pub(super) held: Vec<i32>,
    /// The status to end with, once it is known.
    pub(super) status: Option<u8>,
}

impl Machine {
    /// The state before anything has been started.
    pub fn new(settings: Settings) -> Self {
        let due = [
            (Process::Mounter, settings.data_file != Need::None),
            (Process::Certificates, settings.certificates),
            (Process::Delegation, settings.delegation),
            (Process::PreStart, settings.pre_start),
            (Process::Loader, settings.loader != Need::None),
            (Process::PostStart, settings.post_start),
            (Process::PreStop, settings.pre_stop),
            (Process::Sweeper, settings.ephemeral),
        ];
        let due = due.into_iter().filter(|(_, is_due)| *is_due);
        Self {
            settings,
            phase: Phase::Preparing,
            containerd: DaemonLife::default(),
            dockerd: DaemonLife::default(),
            relay: RelayLife::default(),
            forwarded: Duration::ZERO,
            running: Vec::new(),
            due: due.map(|(process, _)| process).collect(),
            ready_by: Duration::ZERO,
            reached: Reached::Nothing,
            answers: false,
            held: Vec::new(),
            status: None,
        }
    }

    /// Takes one event at `now`, which is the time since this program started, and returns what
    /// is to be done, in order.
    pub fn step(&mut self, event: Event, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Begin => {
                self.ready_by = now.saturating_add(self.settings.ready_timeout);
                self.prepare(now, &mut effects);
            }
            Event::Signal(signal) => self.signal(signal, now, &mut effects),
            Event::Ended(process, end) => self.ended(process, end, now, &mut effects),
            Event::Ready => self.ready(&mut effects),
            Event::NotStarted(process, status) => {
                self.not_started(process, status, now, &mut effects);
            }
            Event::Failed(status) => self.stop(status, now, &mut effects),
            Event::Tick => self.tick(now, &mut effects),
        }
        effects
    }

    /// When [`Event::Tick`] is due next.
    pub fn deadline(&self) -> Option<Duration> {
        let restarts = [self.dockerd.due, self.containerd.due, self.relay.due];
        let all = restarts.into_iter().chain([self.phase_deadline()]);
        all.flatten().min()
    }

    fn phase_deadline(&self) -> Option<Duration> {
        match self.phase {
            // Hooks have a time-out of their own, and so has the image loader.
            Phase::Preparing if self.runs(Process::PreStart) => None,
            Phase::Preparing | Phase::Starting => Some(self.ready_by),
            Phase::Provisioning | Phase::Running => None,
            Phase::Failing { until, .. } => Some(until),
            Phase::Stopping(stop) => Some(stop.deadline(&self.settings.stop)),
        }
    }

    fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let is_due = |due: Option<Duration>| due.is_some_and(|due| due <= now);
        if is_due(self.relay.due) {
            self.start_relay(now, effects);
        }
        for process in [Process::Containerd, Process::Dockerd] {
            let daemon = self.daemon(process);
            if let Some(daemon) = daemon.filter(|daemon| is_due(daemon.due)) {
                daemon.start(now);
                effects.push(Effect::Restart(process));
            }
        }
        if self.phase_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.phase {
            Phase::Preparing => self.preparation_is_late(now, effects),
            Phase::Starting => self.answer_is_late(effects),
            Phase::Provisioning | Phase::Running => {}
            Phase::Failing { then, .. } => self.shown(then, now, effects),
            Phase::Stopping(stop) => self.force(stop, now, effects),
        }
    }

    /// Whether a child runs, as far as that is asked.
    pub(super) fn runs(&self, process: Process) -> bool {
        match process {
            Process::Containerd => self.containerd.runs,
            Process::Dockerd => self.dockerd.runs,
            Process::Relay => self.relay.runs,
            process => self.running.contains(&process),
        }
    }

    pub(super) fn daemon(&mut self, process: Process) -> Option<&mut DaemonLife> {
        match process {
            Process::Containerd => Some(&mut self.containerd),
            Process::Dockerd => Some(&mut self.dockerd),
            _ => None,
        }
    }

    pub(super) fn forget(&mut self, process: Process) {
        if let Some(daemon) = self.daemon(process) {
            daemon.runs = false;
        }
        if process == Process::Dockerd {
            self.answers = false;
        }
        self.running.retain(|running| *running != process);
    }

    /// Starts a part of this program that is due. Whether it was.
    pub(super) fn fork_due(&mut self, process: Process, effects: &mut Vec<Effect>) -> bool {
        let place = self.due.iter().position(|due| *due == process);
        if let Some(place) = place {
            self.due.remove(place);
            self.fork(process, effects);
        }
        place.is_some()
    }

    pub(super) fn fork(&mut self, process: Process, effects: &mut Vec<Effect>) {
        self.running.push(process);
        effects.push(Effect::Fork(process));
    }

    pub(super) fn start_relay(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.settings.relay && !self.relay.runs {
            self.relay.start(now);
            effects.push(Effect::Fork(Process::Relay));
        }
    }
}
