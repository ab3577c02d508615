//! The supervisor's loop: it waits in poll(2), gives events to the machine, and carries out the
//! effects that the machine returns.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Stderr, Stdout};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use tracing::{debug, error, info, warn};

use super::children::Children;
use super::log_file::LogFile;
use super::machine::{Effect, Event, Level, Machine, Message, Process};
use super::relay::{self, Relay};
use crate::api::ping::{Ping, Progress};
use crate::api::readiness::Provisioning;
use crate::apply::delegate::Unfinished;
use crate::apply::sockets::Bound;
use crate::facts::memory::{Kills, Memory};
use crate::facts::processes;
use crate::input::config::Config;
use crate::messages::fault::{FAILURE, Fault};
use crate::plan;
use crate::plan::engine::{Engine, Readiness};
use crate::store::disk::Generation;
use crate::sys::clock::Clock;
use crate::sys::end::End;
use crate::sys::namespaces::{self, Namespaces};
use crate::sys::notify::{self, Notify};
use crate::sys::process::{self, Reaped};
use crate::sys::signals::{Signals, asks_to_end};
use crate::sys::terminal::{self, Terminal};
use crate::sys::{log, memory};

/// Children reaped in one turn of the loop, so that a flood of orphans cannot delay signals and
/// deadlines.
const REAPED_A_TURN: usize = 256;

/// How long the end of a child, and the exit of this process, are held back until the last lines are
/// written. Bounded, because the reader of those lines may have stopped reading.
const LINES: Duration = log::LAST_CHANCE;

/// The end of a child, held back until the log relay has written the child's last lines.
pub struct Held {
    /// The answer of the log relay after which the event is released.
    answer: u8,
    /// When the event is released without that answer; time since the start of this program.
    until: Duration,
    event: Event,
}

/// The exit of this process, held back until the last lines are written.
pub struct Leaving {
    status: u8,
    until: Duration,
    /// Whether the log relay still has to write those of the daemons.
    relay: bool,
}

/// What the loop works with: the plan's engine, the machine, the children, and the descriptors that
/// it polls.
pub struct Supervisor<'a> {
    pub(super) engine: &'a Engine,
    pub(super) config: &'a Config,
    /// The addresses of the sockets that were bound, as the ready message names them.
    pub(super) addresses: Vec<String>,
    /// The sockets for dockerd. Closed once it has them, unless it may be restarted.
    pub(super) bound: Vec<Bound>,
    /// The socket for the port forwarder, and for the next one, should it end.
    pub(super) forwarded: Option<Bound>,
    pub(super) delegation: Option<Unfinished>,
    /// The socket over which the maker of namespaces hands them over.
    pub(super) handover: Option<UnixStream>,
    /// The namespaces of the engine, where they are not those of this process.
    pub(super) namespaces: Option<Namespaces>,
    /// The generation of a store that the data root depends on, with the lock on it.
    pub(super) generation: Option<Arc<Generation>>,
    /// The lock on the store that the data root is published in.
    pub(super) store_lock: Option<File>,
    /// Whether the data root has no ext4 image, although the plan has one.
    pub(super) without_data_file: bool,
    pub(super) started: Instant,
    /// The machine's time, and that of every other deadline here.
    pub(super) clock: Clock,
    pub(super) signals: Signals,
    /// Standard output and standard error of this process.
    pub(super) standard: (Stdout, Stderr),
    pub(super) umask: Mode,
    /// The `oom_score_adj` that this process was started with, where it has another one now: for
    /// the command and the hooks.
    pub(super) oom_score_adj: Option<i16>,
    pub(super) notify: Notify,
    pub(super) ping: Option<Ping>,
    /// Whether the API has answered since dockerd was last started.
    pub(super) answered: bool,
    pub(super) children: Children,
    /// The processes that the kernel had killed for want of memory at the last look.
    pub(super) kills: Option<Kills>,
    /// The lock that makes `dind health` wait until images are loaded and post-start hooks have
    /// run.
    pub(super) provisioning: Option<Provisioning>,
    pub(super) machine: Machine,
    pub(super) terminal: Terminal,
    pub(super) log: Option<LogFile>,
    /// The pipes and the socket of the log relay; `None` with `DIND_LOG_FORMAT=text`.
    pub(super) relay: Option<Relay>,
    pub(super) held: VecDeque<Held>,
    /// Whether the log relay's last answer came in time. If not, no end of a child is held back
    /// until the next answer.
    pub(super) prompt: bool,
    pub(super) leaving: Option<Leaving>,
}

impl Supervisor<'_> {
    /// Runs the loop until the machine ends it, and returns the exit status. It blocks in its
    /// poll(2) only, until the next deadline at most.
    pub fn supervise(&mut self) -> u8 {
        let mut events = VecDeque::from([Event::Begin]);
        let mut unreaped = false;
        loop {
            while let Some(event) = events.pop_front() {
                if self.leaving.is_some() {
                    events.clear();
                    break;
                }
                debug!("{event:?}");
                for effect in self.machine.step(event, self.now()) {
                    self.perform(effect, &mut events);
                }
            }
            if let Some(status) = self.left() {
                return status;
            }
            self.wait(unreaped);
            log::flush();
            self.take_failed(&mut events);
            self.read_answer(&mut events);
            if self.notify.ready() {
                self.notified(&mut events);
            }
            self.release_held(&mut events);
            let mut children = unreaped;
            for signal in self.signals.arrived() {
                match signal {
                    libc::SIGCHLD => children = true,
                    signal => {
                        // Whoever is to end may have last words, and may wait in them already.
                        if asks_to_end(signal) && self.terminal != Terminal::None {
                            terminal::resume_output();
                        }
                        events.push_back(Event::Signal(signal));
                    }
                }
            }
            unreaped = children && self.reap(&mut events);
            events.push_back(Event::Tick);
        }
    }

    fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Waits until a descriptor is readable, lines that wait can be written, a signal arrives or a
    /// deadline passes. The results of poll(2) are not looked at: every reader afterwards tries
    /// without blocking.
    fn wait(&self, unreaped: bool) {
        let deadlines = match &self.leaving {
            // The machine takes no more events.
            Some(leaving) => [Some(leaving.until), None],
            None => [
                self.machine.deadline(),
                self.held.front().map(|held| held.until),
            ],
        };
        let timeout = self.clock.timeout(match unreaped {
            true => Some(Duration::ZERO),
            false => deadlines.into_iter().flatten().min(),
        });
        let read = |descriptor| PollFd::new(descriptor, PollFlags::POLLIN);
        let mut descriptors = vec![read(self.signals.as_fd()), read(self.notify.as_fd())];
        descriptors.extend(self.ping.as_ref().map(|ping| read(ping.as_fd())));
        let relay = self.relay.as_ref().and_then(Relay::descriptor);
        descriptors.extend(relay.map(read));
        descriptors.extend(self.children.reports().map(read));
        descriptors.extend(log::waiting());
        if let Err(errno) = self.signals.poll(&mut descriptors, timeout) {
            debug!("poll: {}, ignoring", errno.desc());
        }
    }

    /// Reaps children that have ended, adopted orphans too, at most [`REAPED_A_TURN`] of them.
    /// Returns whether more may be left: one SIGCHLD can stand for several children, because
    /// standard signals do not queue (signal(7)).
    fn reap(&mut self, events: &mut VecDeque<Event>) -> bool {
        for _ in 0..REAPED_A_TURN {
            let (pid, end) = match process::reap() {
                Reaped::Child(pid, end) => (pid, end),
                Reaped::None => return false,
                Reaped::Childless => {
                    self.lose_children(events);
                    return false;
                }
            };
            // A child that cannot execute its program reports the error before it exits.
            self.take_failed(events);
            match self.children.take(pid) {
                Some(process) => self.ended(process, end, events),
                None => debug!("reaped {pid}: it {end}"),
            }
        }
        true
    }

    /// Queues the end of every child that is still known, where the kernel has none any more.
    fn lose_children(&mut self, events: &mut VecDeque<Event>) {
        self.take_failed(events);
        for process in self.children.take_all() {
            self.ended(process, End::Unseen, events);
        }
    }

    /// Logs and queues the children that could not execute their program.
    fn take_failed(&mut self, events: &mut VecDeque<Event>) {
        for (process, fault) in self.children.failed() {
            not_started(process, &fault, events);
        }
    }

    /// Queues the end of a child. With a log relay, the end of a child that writes to it is held
    /// back, so that the child's last lines precede the message about its end.
    fn ended(&mut self, process: Process, end: End, events: &mut VecDeque<Event>) {
        let end = match process {
            Process::Namespaces if end == End::Exited(0) => self.take_namespaces(),
            _ => end,
        };
        let event = Event::Ended(process, end);
        let now = self.now();
        let writes = matches!(
            process,
            Process::Dockerd
                | Process::Containerd
                | Process::UserNetwork
                | Process::PreStart
                | Process::PostStart
                | Process::PreStop
        );
        match &mut self.relay {
            Some(relay) if writes => {
                let answer = relay.flush();
                let patience = if self.prompt { LINES } else { Duration::ZERO };
                self.held.push_back(Held {
                    answer,
                    until: now.saturating_add(patience),
                    event,
                });
            }
            Some(relay) if process == Process::Relay => {
                relay.disconnect();
                events.push_back(event);
            }
            Some(_) | None => events.push_back(event),
        }
    }

    /// Takes the namespaces that their maker has sent before its end, and returns that end: a failure
    /// where there are none.
    fn take_namespaces(&mut self) -> End {
        let owner = self.engine.namespaces.as_ref().map(|wanted| wanted.user);
        let received = match (self.handover.take(), owner) {
            (Some(socket), Some(owner)) => namespaces::receive(socket.as_fd(), owner),
            _ => Err(Errno::ENODATA.into()),
        };
        let taken = received.and_then(|mut namespaces| {
            let notify = namespaces.take_socket().ok_or(Errno::ENODATA)?;
            Ok((namespaces, Notify::try_from(notify)?))
        });
        match taken {
            Ok((namespaces, notify)) => {
                self.namespaces = Some(namespaces);
                // The one of this process's network namespace is not found from dockerd's.
                self.notify = notify;
                End::Exited(0)
            }
            Err(error) => {
                error!(
                    "cannot take the namespaces of the engine: {error}; see unix(7), SCM_RIGHTS"
                );
                End::Exited(FAILURE)
            }
        }
    }

    /// Queues the held ends of children whose last lines are written, or whose time is over.
    fn release_held(&mut self, events: &mut VecDeque<Event>) {
        let now = self.now();
        if let Some(answer) = self.relay.as_mut().and_then(Relay::read_answers) {
            self.prompt = true;
            let written = self.held.iter().rposition(|held| held.answer == answer);
            let count = written.map_or(0, |place| place + 1);
            events.extend(self.held.drain(..count).map(|held| held.event));
            if answer == relay::LAST
                && let Some(leaving) = &mut self.leaving
            {
                leaving.relay = false;
            }
        }
        let late = self
            .held
            .iter()
            .take_while(|held| held.until <= now)
            .count();
        self.prompt &= late == 0;
        events.extend(self.held.drain(..late).map(|held| held.event));
    }

    /// The exit status, once this process is to exit and the last lines are written, or their
    /// time is over.
    fn left(&self) -> Option<u8> {
        let now = self.now();
        let leaving = self.leaving.as_ref()?;
        let is_written = !leaving.relay && log::waiting().is_none();
        (is_written || leaving.until <= now).then(|| {
            log::forget();
            leaving.status
        })
    }

    /// Begins the exit of this process with `status`: the log relay is asked for everything.
    fn leave(&mut self, status: u8) {
        self.leaving = Some(Leaving {
            status,
            until: self.now().saturating_add(LINES),
            relay: self.relay.is_some(),
        });
        let runs = self.relay.as_ref().is_some_and(Relay::is_connected);
        if self.relay.is_some() && !runs {
            // A new relay writes what the last one left in the pipes.
            self.fork(Process::Relay, &mut VecDeque::new());
        }
        if let Some(relay) = &mut self.relay {
            relay.end();
        }
    }

    fn perform(&mut self, effect: Effect, events: &mut VecDeque<Event>) {
        match effect {
            Effect::Log(message) => log(&message),
            Effect::ExplainKill(level) => self.explain_kill(level),
            Effect::AnnounceReady => self.announce_ready(),
            Effect::GoWithoutDataFile => self.without_data_file = true,
            Effect::StartDaemons => {
                if let Err(fault) = self.start_daemons() {
                    log_not_started(Process::Dockerd, &fault);
                    let missing = [Process::Dockerd, Process::Containerd]
                        .into_iter()
                        .filter(|process| self.children.pid(*process).is_none())
                        .map(|process| Event::NotStarted(process, fault.status));
                    events.extend(missing);
                    events.push_back(Event::Failed(fault.status));
                }
            }
            Effect::StartUserNetwork => {
                if let Err(fault) = self.start_user_network() {
                    not_started(Process::UserNetwork, &fault, events);
                }
            }
            Effect::Restart(process) => {
                if let Err(fault) = self.restart(process) {
                    not_started(process, &fault, events);
                }
            }
            Effect::CloseSockets => self.bound.clear(),
            Effect::ClosePort => self.forwarded = None,
            Effect::StartCommand => {
                if let Err(fault) = self.start_command() {
                    not_started(Process::Command, &fault, events);
                }
            }
            Effect::Send(process, signal) => self.send(process, signal),
            Effect::KillContainers => kill_containers(),
            Effect::Fork(process) => self.fork(process, events),
            Effect::Exit(status) => self.leave(status),
        }
    }

    /// Logs whether the kernel has killed for want of memory since the last look.
    fn explain_kill(&mut self, level: Level) {
        let memory = match Memory::now() {
            Ok(memory) => memory,
            Err(error) => {
                debug!("{}, ignoring", Fault::from(error).message);
                return;
            }
        };
        if let Some(finding) = plan::memory::killed(self.kills.as_ref(), &memory) {
            let (code, link) = (finding.code, finding.link);
            match level {
                Level::Info => info!(code, link, "{finding}"),
                Level::Warn => warn!(code, link, "{finding}"),
                Level::Error => error!(code, link, "{finding}"),
            }
        }
        self.kills = memory.kills;
    }

    fn send(&self, process: Process, signal: i32) {
        if let Some(pid) = self.children.pid(process)
            && let Err(errno) = process::kill(pid, signal)
        {
            warn!(
                process = process.name(),
                pid = pid.as_raw(),
                signal,
                error = errno.desc(),
                "cannot send signal {signal} to {} ({pid}): {}",
                process.name(),
                errno.desc()
            );
        }
    }

    /// Sends a ping to dockerd's API, where the plan has a socket for it.
    pub(super) fn ask(&mut self) {
        if let Readiness::Ping(socket) = &self.engine.readiness {
            match Ping::ask(socket) {
                Ok(ping) => self.ping = Some(ping),
                Err(error) => debug!(
                    "cannot ping {}: {error}; waiting for READY=1 from dockerd",
                    socket.display()
                ),
            }
        }
    }

    fn read_answer(&mut self, events: &mut VecDeque<Event>) {
        match self.ping.as_mut().map(Ping::advance) {
            Some(Progress::Answered) => {
                self.ping = None;
                self.answered = true;
                events.push_back(Event::Ready);
            }
            Some(Progress::Refused(error)) => {
                debug!("the ping failed: {error}; waiting for READY=1 from dockerd");
                self.ping = None;
            }
            Some(Progress::Waiting) | None => {}
        }
    }

    /// Handles `READY=1` from dockerd. Where the API can be pinged, only its answer counts.
    fn notified(&mut self, events: &mut VecDeque<Event>) {
        match self.engine.readiness {
            Readiness::Notify => events.push_back(Event::Ready),
            Readiness::Ping(_) if self.ping.is_none() && !self.answered => self.ask(),
            Readiness::Ping(_) => {}
        }
    }

    fn announce_ready(&mut self) {
        if let Some(provisioning) = self.provisioning.take() {
            provisioning.end();
        }
        if let Some(address) = &self.engine.notify_socket
            && let Err(errno) = notify::tell_ready(address)
        {
            warn!(
                "cannot send READY=1 to NOTIFY_SOCKET={}: {}; going on without it",
                address.to_string_lossy(),
                errno.desc()
            );
        }
        let mut line = format!(
            "docker is ready after {:.2} s",
            self.started.elapsed().as_secs_f64()
        );
        if !self.addresses.is_empty() {
            line.push_str(&format!(" on {}", self.addresses.join(" and ")));
        }
        if let Some(log) = &self.log {
            line.push_str(&format!("; its log is {}", log.path().display()));
        }
        info!(seconds = self.started.elapsed().as_secs_f64(), "{line}");
        memory::trim_heap();
        if let Err(errno) = memory::unmap_code() {
            debug!("madvise: {}, ignoring", errno.desc());
        }
    }
}

/// Logs why a child could not be started, and queues the event.
fn not_started(process: Process, fault: &Fault, events: &mut VecDeque<Event>) {
    log_not_started(process, fault);
    events.push_back(Event::NotStarted(process, fault.status));
}

fn log_not_started(process: Process, fault: &Fault) {
    error!(process = process.name(), status = fault.status, "{fault}");
}

fn log(message: &Message) {
    let process = message.process.map(Process::name);
    let (status, signal) = match message.end {
        Some(End::Exited(status)) => (Some(status), None),
        Some(End::Signaled(signal)) => (None, Some(signal)),
        Some(End::Unseen) | None => (None, None),
    };
    match message.level {
        Level::Info => info!(process, status, signal, "{}", message.text),
        Level::Warn => warn!(process, status, signal, "{}", message.text),
        Level::Error => error!(process, status, signal, "{}", message.text),
    }
}

fn kill_containers() {
    let processes = processes::of_containers(Pid::this());
    if processes.is_empty() {
        return;
    }
    let names: Vec<String> = processes
        .iter()
        .map(|pid| format!("{pid} ({})", processes::name(*pid)))
        .collect();
    warn!(
        "inner containers did not end in time and are killed: {}; raise DIND_STOP_TIMEOUT, and 'docker stop -t' above it",
        names.join(", ")
    );
    for pid in processes {
        if let Err(errno) = process::kill(Pid::from_raw(pid), libc::SIGKILL) {
            warn!(
                pid,
                error = errno.desc(),
                "cannot kill {pid}: {}",
                errno.desc()
            );
        }
    }
}
