//! The supervisor's decisions, without a system call: events in, effects out.
//!
//! Time is a [`Duration`] since this program started, so that tests can make it up.

use std::time::Duration;

use nix::libc;

use crate::messages::fault::FAILURE;
use crate::sys::end::End;

/// The children that matter. Every other one is an orphan that was handed to PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// containerd, where it is a child of this process.
    Containerd,
    /// dockerd.
    Dockerd,
    /// The command or the shell.
    Command,
    /// What mounts an image over the data root, before the daemons start.
    Mounter,
    /// What empties the data root at the end.
    Sweeper,
    /// What forwards DNS queries, as long as the daemons run.
    Forwarder,
    /// The hooks before the daemons start.
    PreStart,
    /// What loads images once the API answers.
    Loader,
    /// The hooks after that.
    PostStart,
    /// The hooks before the daemons are stopped.
    PreStop,
}

impl Process {
    /// Its name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Dockerd => "dockerd",
            Self::Command => "the command",
            Self::Mounter => "what mounts the data root's image",
            Self::Sweeper => "what empties the data root",
            Self::Forwarder => "what forwards DNS queries of inner containers",
            Self::PreStart => "what runs the pre-start hooks",
            Self::Loader => "what loads images",
            Self::PostStart => "what runs the post-start hooks",
            Self::PreStop => "what runs the pre-stop hooks",
        }
    }
}

/// What happens to the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The loop begins.
    Begin,
    /// A signal reached this process. A plain number, as everywhere here: nix has no
    /// names for the real-time signals.
    Signal(i32),
    /// A child ended.
    Ended(Process, End),
    /// The API answers.
    Ready,
    /// A child could not be started, and why has been said; the shell's status for that.
    NotStarted(Process, u8),
    /// Something that the daemons need could not be done, and why has been said; the status
    /// to end with.
    Failed(u8),
    /// A deadline may have passed.
    Tick,
}

/// How loud a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Good to know.
    Info,
    /// Something is amiss and goes on.
    Warn,
    /// Something has failed.
    Error,
}

/// What the supervisor is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Say it.
    Say(Level, String),
    /// Show the last lines of the daemons' log.
    ShowLog,
    /// Say what is wrong with this host or this container.
    Diagnose,
    /// Have a part of this program's own run in a child.
    Fork(Process),
    /// Start both daemons.
    StartDaemons,
    /// Start one of them again.
    Restart(Process),
    /// Close the sockets that are kept for a dockerd to come: there will be none.
    CloseSockets,
    /// Say that docker is ready.
    AnnounceReady,
    /// Start the command.
    StartCommand,
    /// Send a signal to a child.
    Send(Process, i32),
    /// Kill what runs in the inner containers, and name it.
    KillContainers,
    /// End with this status: no child that matters is left.
    Exit(u8),
}

/// What the machine is told once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether there is a command; else the container is dockerd's.
    pub command: bool,
    /// Whether the command has a terminal: it is then also told of a stop by SIGHUP,
    /// as an interactive shell ignores SIGTERM, and it is started even when dockerd
    /// is dead, for somebody to look around.
    pub terminal: bool,
    /// Whether containerd is a child of this process.
    pub containerd: bool,
    /// Whether an image is to be mounted over the data root.
    pub image: Need,
    /// Whether images are to be loaded.
    pub loader: Need,
    /// Whether there are pre-start hooks.
    pub pre_start: bool,
    /// Whether there are post-start hooks.
    pub post_start: bool,
    /// Whether there are pre-stop hooks.
    pub pre_stop: bool,
    /// Whether DNS queries are to be forwarded.
    pub forwarder: bool,
    /// How many times in a row a daemon that has failed is started again.
    pub restarts: u32,
    /// How long the API may take to answer, from the start of the daemons on; and before
    /// that the mount of an image.
    pub ready_timeout: Duration,
    /// How long a stop may take.
    pub stop_timeout: Duration,
    /// How much of that the command may take.
    pub command_patience: Duration,
    /// How much of that the command and the pre-stop hooks together may take.
    pub hooks_patience: Duration,
    /// Whether the data root is emptied once everything has ended.
    pub ephemeral: bool,
}

/// How much of a start depends on a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// There is nothing to do.
    None,
    /// The start goes on without.
    Wanted,
    /// Without it the start has failed.
    Required,
}

impl Need {
    /// Of a part that may not be there, by whether it is required.
    pub fn of(required: Option<bool>) -> Self {
        match required {
            None => Self::None,
            Some(false) => Self::Wanted,
            Some(true) => Self::Required,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The daemons have not been started.
    Preparing,
    /// The API does not answer yet.
    Starting,
    /// It answers; images are loaded and hooks run before docker is said to be ready.
    Provisioning,
    /// It is ready, or is no longer waited for.
    Running,
    /// Everything ends, in order, by the stage that is being ended.
    Stopping {
        stage: Process,
        began: Duration,
        killed: Killed,
    },
}

/// How far the stage of a stop has been forced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Killed {
    Nothing,
    /// What runs in the stage: dockerd's containers, a hook.
    Inside,
    Stage,
}

/// When patience ends, in twentieths of the time that is left to the daemons. What comes before
/// them and does not even go by SIGKILL is waited for no longer than a little of it. dockerd gets
/// as much again after its containers: to take down one that was an engine itself takes a
/// second on a busy machine.
const ABANDON_PART: u32 = 1;
const CONTAINERS_PART: u32 = 8;
const DOCKERD_PART: u32 = 16;
const CONTAINERD_PART: u32 = 18;

/// Then this process ends, whatever still lives: a process in an uninterruptible sleep
/// does not even go by SIGKILL. The rest of the time is the kernel's, to tear down
/// the container.
const END_PART: u32 = 19;

/// How long it may take to empty the data root, where nobody waits for the container to
/// end: slow disks remove some hundred files a second.
const SWEEP_PATIENCE: Duration = Duration::from_secs(600);

/// After a failure a daemon waits so long for its next start, and twice as long after each
/// further one, as docker has it for containers with `--restart`.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A daemon that has run so long has not failed in a row.
const STEADY: Duration = Duration::from_secs(60);

/// A forwarder that is killed sooner than this would be again.
const FORWARDER_LIFE: Duration = Duration::from_secs(1);

/// What a stop ends, in this order.
const STAGES: [Process; 9] = [
    Process::Command,
    Process::Mounter,
    Process::PreStart,
    Process::Loader,
    Process::PostStart,
    Process::PreStop,
    Process::Dockerd,
    Process::Containerd,
    Process::Sweeper,
];

/// A daemon's life.
#[derive(Debug, Clone, Copy, Default)]
struct Daemon {
    runs: bool,
    started: Duration,
    /// How many times it has failed in a row.
    failures: u32,
    /// When it is started again.
    due: Option<Duration>,
}

impl Daemon {
    fn start(&mut self, now: Duration) {
        self.runs = true;
        self.started = now;
        self.due = None;
    }
}

/// The state.
#[derive(Debug, Clone)]
pub struct Machine {
    settings: Settings,
    phase: Phase,
    containerd: Daemon,
    dockerd: Daemon,
    command: bool,
    /// The part of this program that runs in a child and is waited for.
    helper: Option<Process>,
    /// When the forwarder was started.
    forwarded: Duration,
    /// The parts of this program that have still to run.
    due: Vec<Process>,
    /// Until when the image must be mounted, or the API answer.
    ready_by: Duration,
    /// Whether somebody outside asked for a stop, and waits for it.
    asked: bool,
    /// Whether the ready line has been said.
    announced: bool,
    /// Whether the API answers, as far as is known.
    answers: bool,
    /// Whether it ever has.
    answered: bool,
    /// Signals for dockerd that came before it can take them.
    held: Vec<i32>,
    /// The status to end with, once it is known.
    status: Option<u8>,
}

impl Machine {
    /// The state before anything has been started.
    pub fn new(settings: Settings) -> Self {
        let due = [
            (Process::Mounter, settings.image != Need::None),
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
            containerd: Daemon::default(),
            dockerd: Daemon::default(),
            command: false,
            helper: None,
            forwarded: Duration::ZERO,
            due: due.map(|(process, _)| process).collect(),
            ready_by: Duration::ZERO,
            asked: false,
            announced: false,
            answers: false,
            answered: false,
            held: Vec::new(),
            status: None,
        }
    }

    /// When [`Event::Tick`] is due next.
    pub fn deadline(&self) -> Option<Duration> {
        let restarts = [self.dockerd.due, self.containerd.due];
        let all = restarts.into_iter().chain([self.phase_deadline()]);
        all.flatten().min()
    }

    fn phase_deadline(&self) -> Option<Duration> {
        match self.phase {
            // Hooks have a time-out of their own, and what loads images has one too.
            Phase::Preparing if self.helper == Some(Process::PreStart) => None,
            Phase::Preparing | Phase::Starting => Some(self.ready_by),
            Phase::Provisioning | Phase::Running => None,
            Phase::Stopping {
                stage,
                began,
                killed,
            } => {
                if stage == Process::Sweeper && !self.asked {
                    let more = Duration::from_secs(u64::from(killed == Killed::Stage));
                    return Some(began.saturating_add(SWEEP_PATIENCE).saturating_add(more));
                }
                let patience = match (stage, killed) {
                    (stage, Killed::Stage) if is_before_daemons(stage) => {
                        self.patience(ABANDON_PART)
                    }
                    (_, Killed::Stage) => self.patience(END_PART),
                    // The hook is to end before what runs it does.
                    (Process::PreStop, Killed::Nothing) => self.settings.hooks_patience * 3 / 4,
                    (Process::Dockerd, Killed::Nothing) => self.patience(CONTAINERS_PART),
                    (Process::Dockerd, Killed::Inside) => self.patience(DOCKERD_PART),
                    (Process::Containerd | Process::Sweeper, _) => self.patience(CONTAINERD_PART),
                    (Process::Command, _) => self.settings.command_patience,
                    (_, _) => self.settings.hooks_patience,
                };
                Some(began.saturating_add(patience))
            }
        }
    }

    /// Takes one event at `now` and returns what is to be done, in order.
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

    /// How long after its beginning a stop is at this part of the daemons' time.
    fn patience(&self, part: u32) -> Duration {
        let Settings {
            stop_timeout,
            hooks_patience,
            ..
        } = self.settings;
        let daemons = stop_timeout.saturating_sub(hooks_patience);
        hooks_patience.saturating_add(daemons.saturating_mul(part) / 20)
    }

    fn runs(&self, process: Process) -> bool {
        match process {
            Process::Containerd => self.containerd.runs,
            Process::Dockerd => self.dockerd.runs,
            Process::Command => self.command,
            // Nobody waits for it.
            Process::Forwarder => false,
            helper => self.helper == Some(helper),
        }
    }

    /// Starts a part of this program that is due. Whether it was.
    fn fork(&mut self, process: Process, effects: &mut Vec<Effect>) -> bool {
        let place = self.due.iter().position(|due| *due == process);
        if let Some(place) = place {
            self.due.remove(place);
            self.helper = Some(process);
            effects.push(Effect::Fork(process));
        }
        place.is_some()
    }

    /// What comes before the daemons, one after the other; then the daemons.
    fn prepare(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if !self.fork(Process::Mounter, effects) && !self.fork(Process::PreStart, effects) {
            self.start(now, effects);
        }
    }

    fn start(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.phase = Phase::Starting;
        self.ready_by = now.saturating_add(self.settings.ready_timeout);
        self.dockerd.start(now);
        if self.settings.containerd {
            self.containerd.start(now);
        }
        effects.push(Effect::StartDaemons);
        if self.settings.forwarder {
            self.forward(now, effects);
        }
    }

    fn forward(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.forwarded = now;
        effects.push(Effect::Fork(Process::Forwarder));
    }

    fn not_started(
        &mut self,
        process: Process,
        status: u8,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let end = End::Exited(status);
        match process {
            Process::Containerd | Process::Dockerd if self.phase == Phase::Starting => {
                self.forget(process);
                self.stop(status, now, effects);
            }
            process => self.ended(process, end, now, effects),
        }
    }

    fn daemon(&mut self, process: Process) -> Option<&mut Daemon> {
        match process {
            Process::Containerd => Some(&mut self.containerd),
            Process::Dockerd => Some(&mut self.dockerd),
            _ => None,
        }
    }

    fn forget(&mut self, process: Process) {
        match process {
            Process::Containerd => self.containerd.runs = false,
            Process::Dockerd => {
                self.dockerd.runs = false;
                self.answers = false;
            }
            Process::Command => self.command = false,
            Process::Forwarder => {}
            _ => self.helper = None,
        }
    }

    fn ready(&mut self, effects: &mut Vec<Effect>) {
        if self.answers || matches!(self.phase, Phase::Stopping { .. }) {
            return;
        }
        self.answers = true;
        self.answered = true;
        if self.phase == Phase::Starting {
            self.phase = Phase::Provisioning;
        }
        if self.announced {
            effects.push(Effect::Say(Level::Info, "docker answers again".into()));
        } else {
            self.provision(effects);
        }
        effects.extend(
            self.held
                .drain(..)
                .map(|signal| Effect::Send(Process::Dockerd, signal)),
        );
    }

    /// What comes between the API's answer and the word that docker is ready, one after the
    /// other; then that word, and the command. A dockerd that has gone meanwhile has to
    /// answer again first.
    fn provision(&mut self, effects: &mut Vec<Effect>) {
        if !self.answers || self.helper.is_some() {
            return;
        }
        if !self.fork(Process::Loader, effects) && !self.fork(Process::PostStart, effects) {
            self.announced = true;
            effects.push(Effect::AnnounceReady);
            self.run(effects);
        }
    }

    /// Begins the running phase: the command's turn.
    fn run(&mut self, effects: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Starting | Phase::Provisioning) {
            self.phase = Phase::Running;
            if self.settings.command {
                self.command = true;
                effects.push(Effect::StartCommand);
            }
        }
    }

    fn signal(&mut self, signal: i32, now: Duration, effects: &mut Vec<Effect>) {
        let stops = matches!(signal, libc::SIGTERM | libc::SIGINT);
        if let Phase::Stopping { stage, .. } = self.phase {
            if stops && !self.asked {
                self.asked = true;
                if stage == Process::Sweeper {
                    self.begin(stage, now);
                }
            }
            // dockerd gives up its clean-up at the third signal, so it gets one. The
            // command is its own master.
            if stage == Process::Command {
                effects.push(Effect::Send(Process::Command, signal));
            }
            return;
        }
        if self.command {
            effects.push(Effect::Send(Process::Command, signal));
            if signal == libc::SIGTERM {
                self.asked = true;
                self.begin(Process::Command, now);
                self.close_sockets(effects);
                if self.settings.terminal {
                    effects.push(Effect::Send(Process::Command, libc::SIGHUP));
                }
            }
        } else if self.settings.command {
            // The command is still to come; whoever signals does not want it any more.
            if stops || matches!(signal, libc::SIGHUP | libc::SIGQUIT) {
                self.asked = true;
                self.stop(End::Signaled(signal).status(), now, effects);
            }
        } else if stops {
            self.asked = true;
            self.stop(0, now, effects);
        } else if matches!(signal, libc::SIGHUP | libc::SIGUSR1) {
            // Before the API answers dockerd has no handlers, and would die of these.
            if self.answers {
                effects.push(Effect::Send(Process::Dockerd, signal));
            } else if !self.held.contains(&signal) {
                self.held.push(signal);
            }
        }
    }

    fn ended(&mut self, process: Process, end: End, now: Duration, effects: &mut Vec<Effect>) {
        self.forget(process);
        if self.starts_again(process, end, now, effects) {
            return;
        }
        match (self.phase, process) {
            (Phase::Stopping { stage, .. }, _) => {
                // A stop that was asked for ends well unless dockerd says otherwise. What
                // had to be killed for it is in the log.
                if process == Process::Dockerd && !self.settings.command && self.status == Some(0) {
                    self.status = Some(match end {
                        End::Signaled(libc::SIGTERM | libc::SIGKILL) => 0,
                        end => end.status(),
                    });
                }
                if process == Process::Command {
                    self.status.get_or_insert(end.status());
                }
                if process == stage {
                    self.advance(Some(stage), now, effects);
                }
            }
            (Phase::Preparing, Process::Mounter) => self.mounted(end, now, effects),
            (Phase::Preparing, Process::PreStart) => match end {
                End::Exited(0) => self.prepare(now, effects),
                end => {
                    say_killed(process, end, effects);
                    effects.push(Effect::ShowLog);
                    self.stop(end.status(), now, effects);
                }
            },
            (_, Process::Loader | Process::PostStart) => {
                say_killed(process, end, effects);
                let required = process == Process::Loader && self.settings.loader == Need::Required;
                if required && end != End::Exited(0) {
                    self.stop(FAILURE, now, effects);
                } else {
                    self.provision(effects);
                }
            }
            (_, Process::Command) => self.stop(end.status(), now, effects),
            (_, Process::Forwarder) => self.forwarder_ended(end, now, effects),
            // Never outside of their own phases.
            (_, Process::Mounter | Process::PreStart | Process::PreStop | Process::Sweeper) => {}
            (Phase::Preparing, Process::Dockerd | Process::Containerd) => {}
            (Phase::Starting | Phase::Provisioning, Process::Dockerd) => {
                self.dead_before_ready(end, now, effects)
            }
            (Phase::Running, Process::Dockerd) if self.settings.command => {
                effects.push(Effect::Say(
                    Level::Error,
                    format!(
                        "dockerd {end}: docker does not work here any more; read its log, and start the container again"
                    ),
                ));
            }
            (Phase::Running, Process::Dockerd) => {
                effects.push(Effect::Say(
                    Level::Error,
                    format!("dockerd {end}; the container ends"),
                ));
                self.stop(end.status(), now, effects);
            }
            (Phase::Running, Process::Containerd) if self.settings.command => {
                effects.push(Effect::Say(
                    Level::Error,
                    format!(
                        "containerd {end}: no container can be started here any more; read its log, and start the container again"
                    ),
                ));
            }
            (Phase::Starting | Phase::Provisioning | Phase::Running, Process::Containerd) => {
                effects.push(Effect::Say(
                    Level::Error,
                    format!(
                        "containerd {end}, and dockerd cannot go on without; the container ends"
                    ),
                ));
                self.stop(FAILURE, now, effects);
            }
        }
    }

    /// Whether a daemon that has just ended gets another life. A dockerd that has never been
    /// ready and says no itself says it again, so it gets none.
    fn starts_again(
        &mut self,
        process: Process,
        end: End,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Settings { restarts, .. } = self.settings;
        let refuses = process == Process::Dockerd && !self.answered;
        let lives = matches!(
            self.phase,
            Phase::Starting | Phase::Provisioning | Phase::Running
        );
        let Some(daemon) = self.daemon(process).filter(|_| lives && restarts > 0) else {
            return false;
        };
        if now.saturating_sub(daemon.started) >= STEADY {
            daemon.failures = 0;
        }
        let is_over = end == End::Exited(0) || daemon.failures >= restarts;
        if is_over || (refuses && matches!(end, End::Exited(_))) {
            if process == Process::Dockerd {
                effects.push(Effect::CloseSockets);
            }
            return false;
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << daemon.failures.min(16));
        let pause = doubled.min(LONGEST_PAUSE);
        daemon.failures += 1;
        let due = now.saturating_add(pause);
        daemon.due = Some(due);
        if process == Process::Dockerd && self.phase == Phase::Provisioning {
            self.phase = Phase::Starting;
            self.ready_by = due.saturating_add(self.settings.ready_timeout);
        }
        effects.push(Effect::Say(
            Level::Warn,
            format!(
                "{} {end}; it is started again in {} s, and clients wait",
                process.name(),
                pause.as_secs_f64()
            ),
        ));
        true
    }

    /// What mounts the image has ended, and has said why where it failed.
    fn mounted(&mut self, end: End, now: Duration, effects: &mut Vec<Effect>) {
        match (end, self.settings.image) {
            (End::Exited(0), _) => self.prepare(now, effects),
            (_, Need::Required) => self.stop(FAILURE, now, effects),
            (_, _) => {
                effects.push(Effect::Say(
                    Level::Warn,
                    "the data root has no image; going on without, so dockerd takes a slower storage driver".into(),
                ));
                self.prepare(now, effects);
            }
        }
    }

    /// Who killed it wanted the memory, or did not know what it is: it starts again. What it
    /// ended by itself for, it has said.
    fn forwarder_ended(&mut self, end: End, now: Duration, effects: &mut Vec<Effect>) {
        let End::Signaled(_) = end else {
            return;
        };
        let name = Process::Forwarder.name();
        if now.saturating_sub(self.forwarded) > FORWARDER_LIFE {
            let message = format!("{name} {end}, and is started again");
            effects.push(Effect::Say(Level::Warn, message));
            self.forward(now, effects);
        } else {
            let message =
                format!("{name} {end}: they find no names any more; start the container again");
            effects.push(Effect::Say(Level::Error, message));
        }
    }

    fn dead_before_ready(&mut self, end: End, now: Duration, effects: &mut Vec<Effect>) {
        effects.push(Effect::ShowLog);
        effects.push(Effect::Say(
            Level::Error,
            format!(
                "dockerd {end} before it was ready; its last lines say why, and 'dind plan' shows what was prepared for it"
            ),
        ));
        effects.push(Effect::Diagnose);
        if self.settings.command && self.settings.terminal {
            self.run(effects);
        } else {
            self.stop(end.status().max(FAILURE), now, effects);
        }
    }

    /// Begins a stop whose exit status is known, unless one is under way.
    fn stop(&mut self, status: u8, now: Duration, effects: &mut Vec<Effect>) {
        self.status.get_or_insert(status);
        if matches!(self.phase, Phase::Stopping { .. }) {
            return;
        }
        let [first, ..] = STAGES;
        self.begin(first, now);
        self.close_sockets(effects);
        self.advance(None, now, effects);
    }

    /// Where there is no dockerd, and there will be none, whoever asks it is to be refused.
    fn close_sockets(&self, effects: &mut Vec<Effect>) {
        if self.settings.restarts > 0 && !self.dockerd.runs {
            effects.push(Effect::CloseSockets);
        }
    }

    fn begin(&mut self, stage: Process, now: Duration) {
        self.dockerd.due = None;
        self.containerd.due = None;
        self.phase = Phase::Stopping {
            stage,
            began: now,
            killed: Killed::Nothing,
        };
    }

    /// Goes on to the next stage that runs or is due, after one that has ended or is given up.
    fn advance(&mut self, after: Option<Process>, now: Duration, effects: &mut Vec<Effect>) {
        let Phase::Stopping { began, .. } = self.phase else {
            return;
        };
        let place = STAGES.iter().position(|stage| Some(*stage) == after);
        let mut left = STAGES.into_iter().skip(place.map_or(0, |place| place + 1));
        let next = left.find(|process| match process {
            // What has never been ready has nothing to take leave of.
            Process::PreStop => self.announced && self.due.contains(process),
            Process::Sweeper => self.due.contains(process),
            process => self.runs(*process),
        });
        match next {
            Some(Process::Sweeper) => {
                let began = if self.asked { began } else { now };
                self.begin(Process::Sweeper, began);
                self.fork(Process::Sweeper, effects);
            }
            Some(next) => {
                self.phase = Phase::Stopping {
                    stage: next,
                    began,
                    killed: Killed::Nothing,
                };
                if !self.fork(next, effects) {
                    effects.push(Effect::Send(next, libc::SIGTERM));
                }
                if next == Process::Command && self.settings.terminal {
                    effects.push(Effect::Send(next, libc::SIGHUP));
                }
                self.tick(now, effects);
            }
            None => effects.push(Effect::Exit(self.status.unwrap_or(FAILURE))),
        }
    }

    fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        for process in [Process::Containerd, Process::Dockerd] {
            let daemon = self.daemon(process);
            let due = daemon.filter(|daemon| daemon.due.is_some_and(|due| due <= now));
            if let Some(daemon) = due {
                daemon.start(now);
                effects.push(Effect::Restart(process));
            }
        }
        if self.phase_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.phase {
            Phase::Preparing => {
                effects.push(Effect::Say(
                    Level::Error,
                    format!(
                        "{} has not ended in time; a longer DIND_READY_TIMEOUT gives it more",
                        Process::Mounter.name()
                    ),
                ));
                self.stop(FAILURE, now, effects);
            }
            Phase::Starting => {
                // wrapdocker's words, which others search logs for.
                effects.push(Effect::Say(
                    Level::Error,
                    "Timed out trying to connect to internal docker host.".into(),
                ));
                self.run(effects);
            }
            Phase::Provisioning | Phase::Running => {}
            Phase::Stopping {
                stage: Process::Dockerd,
                began,
                killed: Killed::Nothing,
            } => {
                effects.push(Effect::KillContainers);
                self.phase = Phase::Stopping {
                    stage: Process::Dockerd,
                    began,
                    killed: Killed::Inside,
                };
                self.tick(now, effects);
            }
            Phase::Stopping {
                stage: Process::PreStop,
                began,
                killed: Killed::Nothing,
            } => {
                effects.push(Effect::Say(Level::Warn, late(Process::PreStop, "ended")));
                effects.push(Effect::Send(Process::PreStop, libc::SIGTERM));
                self.phase = Phase::Stopping {
                    stage: Process::PreStop,
                    began,
                    killed: Killed::Inside,
                };
            }
            Phase::Stopping {
                stage,
                killed: Killed::Stage,
                ..
            } => {
                effects.push(Effect::Say(
                    Level::Error,
                    format!(
                        "{} does not even go by SIGKILL and is left to the kernel; a disk that hangs does this",
                        stage.name()
                    ),
                ));
                if is_before_daemons(stage) {
                    self.advance(Some(stage), now, effects);
                } else {
                    effects.push(Effect::Exit(self.status.unwrap_or(FAILURE)));
                }
            }
            Phase::Stopping { stage, began, .. } => {
                effects.push(Effect::Say(Level::Warn, late(stage, "killed")));
                effects.push(Effect::Send(stage, libc::SIGKILL));
                self.phase = Phase::Stopping {
                    stage,
                    began,
                    killed: Killed::Stage,
                };
            }
        }
    }
}

/// Whether a stop comes to this one before the daemons, which are to end in order whatever
/// becomes of it.
fn is_before_daemons(stage: Process) -> bool {
    !matches!(
        stage,
        Process::Dockerd | Process::Containerd | Process::Sweeper
    )
}

fn late(stage: Process, what: &str) -> String {
    format!(
        "{} did not end in time and is {what}; a longer DIND_STOP_TIMEOUT gives it more, within the grace of 'docker stop -t'",
        stage.name()
    )
}

/// Says it of a part of this program that could not say itself why it ended.
fn say_killed(process: Process, end: End, effects: &mut Vec<Effect>) {
    if let End::Signaled(_) = end {
        let message = format!(
            "{} {end}; a memory limit does this, or somebody inside",
            process.name()
        );
        effects.push(Effect::Say(Level::Error, message));
    }
}

#[cfg(test)]
mod tests;
