//! The state of the machine, its one entry for events, and its next deadline.

use std::time::Duration;

use super::event::{Effect, Event, Process};
use super::restart::{DaemonLife, RelayLife};
use super::settings::{Need, Settings};

/// The phase of a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The daemons have not been started. Helpers prepare their start.
    Preparing,
    /// The daemons have been started, and the API does not answer yet.
    Starting,
    /// The API answers. Images are loaded and hooks run before docker is announced as ready.
    Provisioning,
    /// Docker is ready, or is no longer waited for.
    Running,
    /// The start has failed, and a child shows the likely reason, until `until` at most.
    Failing { until: Duration, then: Then },
    /// The container stops, stage by stage.
    Stopping(Stop),
}

/// What follows when the likely reason of a failed start has been shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The container stops with this status.
    Stop(u8),
    /// The command runs all the same.
    Run,
}

/// A stop in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// The child that is being ended.
    pub stage: Process,
    /// When the stop began; when the sweeper did, where nobody waits for the container.
    pub began: Duration,
    /// When the stage got its last signal.
    pub signalled: Duration,
    /// How far the stage has been forced.
    pub forced: Forced,
    /// Whether a signal asked for the stop, so that its sender waits for the container.
    pub asked: bool,
}

/// How far the stage of a stop has been forced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Forced {
    Nothing,
    /// What the stage's child has started has been forced: dockerd's containers, a hook.
    Inside,
    Stage,
}

/// The furthest that docker has come since the start of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    Nothing,
    /// The API has answered.
    Answer,
    /// Docker was announced as ready.
    Announcement,
}

/// The machine: the phase, the children that run, and those that are due.
#[derive(Debug, Clone)]
pub struct Machine {
    pub(super) settings: Settings,
    pub(super) phase: Phase,
    pub(super) containerd: DaemonLife,
    pub(super) dockerd: DaemonLife,
    pub(super) relay: RelayLife,
    /// When the DNS forwarder was last started.
    pub(super) forwarded: Duration,
    /// When the program for the network of the engine's namespaces was last started.
    pub(super) networked: Duration,
    /// When the server of published ports was last started.
    pub(super) published: Duration,
    /// When the grower of the ext4 image was last started.
    pub(super) grown: Duration,
    /// When the port forwarder was last started.
    pub(super) port_forwarded: Duration,
    /// The command and the helpers that run and whose end is waited for.
    pub(super) running: Vec<Process>,
    /// The helpers that have still to run, once each.
    pub(super) due: Vec<Process>,
    /// Until when the preparation must end; in the phase `Starting`, until when the API must
    /// answer.
    pub(super) ready_by: Duration,
    pub(super) reached: Reached,
    /// Whether the API answers, as far as is known.
    pub(super) answers: bool,
    /// Signals for dockerd that arrived before it had handlers for them.
    pub(super) held: Vec<i32>,
    /// The exit status of the container, once it is known.
    pub(super) status: Option<u8>,
}

impl Machine {
    /// The state before anything has been started.
    pub fn new(settings: Settings) -> Self {
        let due = [
            (Process::Namespaces, settings.namespaces),
            (Process::Mounter, settings.data_file != Need::None),
            (Process::Filler, settings.filler),
            (Process::Certificates, settings.certificates),
            (Process::Joiner, settings.joiner),
            (Process::Delegation, settings.delegation),
            (Process::PreStart, settings.pre_start),
            (Process::Loader, settings.loader != Need::None),
            (Process::PostStart, settings.post_start),
            (Process::PreStop, settings.pre_stop),
            (Process::Watcher, settings.ends_deaf),
            (Process::Sweeper, settings.sweeps),
        ];
        let due = due.into_iter().filter(|(_, is_due)| *is_due);
        Self {
            settings,
            phase: Phase::Preparing,
            containerd: DaemonLife::default(),
            dockerd: DaemonLife::default(),
            relay: RelayLife::default(),
            forwarded: Duration::ZERO,
            networked: Duration::ZERO,
            published: Duration::ZERO,
            grown: Duration::ZERO,
            port_forwarded: Duration::ZERO,
            running: Vec::new(),
            due: due.map(|(process, _)| process).collect(),
            ready_by: Duration::ZERO,
            reached: Reached::Nothing,
            answers: false,
            held: Vec::new(),
            status: None,
        }
    }

    /// Takes one event at `now`, the time since this program started, and returns the effects to
    /// carry out, in order.
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

    /// When [`Event::Tick`] is due next, as the time since this program started; `None` where only
    /// other events are waited for.
    pub fn deadline(&self) -> Option<Duration> {
        let restarts = [self.dockerd.due, self.containerd.due, self.relay.due];
        let all = restarts.into_iter().chain([self.phase_deadline()]);
        all.flatten().min()
    }

    fn phase_deadline(&self) -> Option<Duration> {
        match self.phase {
            // The hook runner and the image loader have their own time-outs.
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

    /// Whether a child runs. This is not recorded for the forwarders, the grower and the
    /// network of the engine's namespaces.
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

    /// Forks a helper if it is due. Returns whether it was.
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
