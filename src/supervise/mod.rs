//! Starts the daemons and stays with them to the end: one loop, one `poll`, the only
//! `waitpid`. What happens when is decided in [`machine`].
//!
//! PID 1 waits in that `poll` and nowhere else. What may take time is a child with a deadline of
//! the machine's: see [`crate::helpers`]. What PID 1 still does itself is bounded:
//!
//! - reading facts, and the steps of the plan (`apply`): files of /proc, /sys and /run, system
//!   calls for mounts, and of other file systems only what `helpers::probe` has found to answer;
//! - one attempt to delegate cgroup controllers, some 100 µs: the others are a child's;
//! - connecting to dockerd's socket, sending to it and to `NOTIFY_SOCKET`: none of these waits;
//! - fork(2), kill(2), and reading /proc for the processes of inner containers.

mod children;
mod log_file;
pub mod machine;
mod notify;
mod relay;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Stderr, Stdout};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid};
use tracing::{debug, error, info, warn};

use crate::api::ping::{Ping, Progress};
use crate::api::readiness::Provisioning;
use crate::apply::delegate::Unfinished;
use crate::apply::sockets::Bound;
use crate::apply::{self, delegate};
use crate::facts::processes;
use crate::helpers::child::{become_helper, leave_terminal};
use crate::helpers::hooks::Runner;
use crate::helpers::{certificates, data_file, forwarder, loader, sweeper};
use crate::input::config::Config;
use crate::messages::fault::{FAILURE, Fault};
use crate::messages::finding::Severity;
use crate::messages::logging::LogFormat;
use crate::messages::progress::ProgressLine;
use crate::plan::engine::{Engine, Foreground, Program, Readiness};
use crate::programs::doctor;
use crate::sys::end::End;
use crate::sys::signals::{Inherited, Signals};
use crate::sys::spawn::{self, Begun, Child, Session};
use crate::sys::terminal::{self, Terminal};
use crate::sys::{descriptors, memory, process, search};
use children::Children;
use log_file::LogFile;
use machine::{Effect, Event, Level, Machine, Message, Need, Process, Settings};
use notify::Notify;
use relay::Relay;

/// Children reaped in one turn of the loop, so that a flood of orphans cannot keep
/// signals and deadlines waiting.
const REAPED_A_TURN: usize = 256;

/// How long the end of a child, and at last that of this process, waits for lines to be written:
/// somebody outside may not read them.
const LINES: Duration = Duration::from_millis(500);

/// What a start has made before the daemons run.
pub struct Beginning {
    /// The sockets that dockerd gets.
    pub bound: Vec<Bound>,
    /// A delegation of cgroup controllers that processes were in the way of.
    pub delegation: Option<Unfinished>,
    /// The user's file mode creation mask, which the command gets.
    pub umask: Mode,
    /// When this program was started.
    pub started: Instant,
}

/// The end of a child that waits for its last lines to be written.
struct Held {
    /// The log relay's answer.
    answer: u8,
    until: Duration,
    event: Event,
}

/// The end of this process, which waits for the last lines.
struct Leaving {
    status: u8,
    until: Duration,
}

/// The supervisor.
struct Supervisor<'a> {
    engine: &'a Engine,
    config: &'a Config,
    /// What dockerd listens on by our doing.
    addresses: Vec<String>,
    /// The sockets, until dockerd has them; and as long as there may be another dockerd.
    bound: Vec<Bound>,
    delegation: Option<Unfinished>,
    started: Instant,
    signals: Signals,
    /// Descriptors 1 and 2.
    standard: (Stdout, Stderr),
    umask: Mode,
    notify: Notify,
    ping: Option<Ping>,
    /// Whether the API has answered.
    answered: bool,
    children: Children,
    /// What `dind health` waits for, beside the API.
    provisioning: Option<Provisioning>,
    machine: Machine,
    terminal: Terminal,
    log: Option<LogFile>,
    /// The log relay's side of this process, where there is one.
    relay: Option<Relay>,
    held: VecDeque<Held>,
    /// Whether no line was waited for in vain. After one that was, the next is not waited for.
    prompt: bool,
    leaving: Option<Leaving>,
}

/// Starts the daemons of `engine` and returns the exit status of the container once everything
/// has ended. By `config` the reasons of a failed start are looked for.
pub fn run(
    engine: &Engine,
    config: &Config,
    signals: Signals,
    beginning: Beginning,
) -> Result<u8, Fault> {
    let Beginning {
        bound,
        delegation,
        umask,
        started,
    } = beginning;
    if std::process::id() != 1
        && let Err(errno) = nix::sys::prctl::set_child_subreaper(true)
    {
        warn!(
            "cannot become a subreaper: {}; orphans go to PID 1",
            errno.desc()
        );
    }
    let log = engine.log_file.as_deref().and_then(|path| {
        LogFile::open(path)
            .inspect_err(|error| warn!("{error:#}"))
            .ok()
    });
    let standard = (io::stdout(), io::stderr());
    let relay = match config.log_format {
        LogFormat::Text => None,
        LogFormat::Json => Some(Relay::new(sinks(log.as_ref(), engine, &standard))?),
    };
    let terminal = terminal::detect();
    let machine = Machine::new(Settings {
        command: matches!(engine.foreground, Foreground::Command(_)),
        terminal: terminal != Terminal::None,
        containerd: engine.containerd.is_some(),
        data_file: Need::of(engine.data_file.as_ref().map(|file| file.required)),
        certificates: engine.certificates.is_some(),
        delegation: delegation.is_some(),
        loader: Need::of(engine.images.as_ref().map(|images| images.strict)),
        pre_start: !engine.hooks.pre_start.is_empty(),
        post_start: !engine.hooks.post_start.is_empty(),
        pre_stop: !engine.hooks.pre_stop.is_empty(),
        forwarder: engine.forwarder.is_some(),
        relay: relay.is_some(),
        log_file: log.is_some(),
        ready_timeout: engine.ready_timeout,
        stop: engine.stop,
        restarts: engine.restarts,
        ephemeral: engine.emptied.is_some(),
    });
    let sockets: Vec<PathBuf> = bound
        .iter()
        .filter_map(|bound| bound.path.clone())
        .collect();
    let mut supervisor = Supervisor {
        engine,
        config,
        addresses: bound.iter().map(|bound| bound.address.clone()).collect(),
        bound,
        delegation,
        started,
        signals,
        standard,
        umask,
        notify: Notify::bind()?,
        ping: None,
        answered: false,
        children: Children::default(),
        provisioning: None,
        machine,
        terminal,
        log,
        relay,
        held: VecDeque::new(),
        prompt: true,
        leaving: None,
    };
    let status = supervisor.supervise();
    for path in sockets {
        if let Err(error) = fs::remove_file(&path) {
            debug!("cannot remove {}: {error}, ignoring", path.display());
        }
    }
    Ok(status)
}

impl Supervisor<'_> {
    /// The loop. Every wait is in its `poll`, which ends at the next deadline.
    fn supervise(&mut self) -> u8 {
        let mut events = VecDeque::from([Event::Begin]);
        let mut unreaped = false;
        loop {
            while let Some(event) = events.pop_front() {
                if self.leaving.is_some() {
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
            for (process, fault) in self.children.failed() {
                not_started(process, &fault);
                events.push_back(Event::NotStarted(process, fault.status));
            }
            self.read_answer(&mut events);
            if self.notify.ready() {
                self.notified(&mut events);
            }
            self.release_held(&mut events);
            let mut children = unreaped;
            for signal in self.signals.arrived() {
                match signal {
                    libc::SIGCHLD => children = true,
                    signal => events.push_back(Event::Signal(signal)),
                }
            }
            unreaped = children && self.reap(&mut events);
            events.push_back(Event::Tick);
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits until something may have happened. What has, is looked at by who can tell without
    /// waiting.
    fn wait(&self, unreaped: bool) {
        let deadlines = [
            self.machine.deadline(),
            self.held.front().map(|held| held.until),
            self.leaving.as_ref().map(|leaving| leaving.until),
        ];
        let timeout = match deadlines.into_iter().flatten().min() {
            _ if unreaped => Some(Duration::ZERO),
            deadline => deadline.map(|deadline| deadline.saturating_sub(self.now())),
        };
        let read = |descriptor| PollFd::new(descriptor, PollFlags::POLLIN);
        let mut descriptors = vec![read(self.signals.as_fd()), read(self.notify.as_fd())];
        descriptors.extend(self.ping.as_ref().map(|ping| read(ping.as_fd())));
        let relay = self.relay.as_ref().and_then(Relay::descriptor);
        descriptors.extend(relay.map(read));
        descriptors.extend(self.children.reports().map(read));
        if let Err(errno) = self.signals.poll(&mut descriptors, timeout) {
            debug!("poll: {}, ignoring", errno.desc());
        }
    }

    /// Reaps the children that have ended, whoever their parents were. Whether there
    /// may be more: signals coalesce, so this goes on until none is left.
    fn reap(&mut self, events: &mut VecDeque<Event>) -> bool {
        for _ in 0..REAPED_A_TURN {
            let Some((pid, end)) = process::reap() else {
                return false;
            };
            // Why it did not start it has reported before it ended.
            for (process, fault) in self.children.failed() {
                not_started(process, &fault);
                events.push_back(Event::NotStarted(process, fault.status));
            }
            match self.children.take(pid) {
                Some(process) => self.ended(process, end, events),
                None => debug!("reaped {pid}: it {end}"),
            }
        }
        true
    }

    /// Takes the end of a child. Its last lines come before what is logged of its end.
    fn ended(&mut self, process: Process, end: End, events: &mut VecDeque<Event>) {
        let event = Event::Ended(process, end);
        let now = self.now();
        let writes = matches!(
            process,
            Process::Dockerd
                | Process::Containerd
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

    /// Hands on the ends of children whose last lines are written, or waited for too long.
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
                leaving.until = now;
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

    /// The exit status, when this process is to end and the last lines are written, or waited
    /// for too long.
    fn left(&mut self) -> Option<u8> {
        let now = self.now();
        let leaving = self.leaving.as_ref()?;
        (self.relay.is_none() || leaving.until <= now).then_some(leaving.status)
    }

    /// Begins the end of this process.
    fn leave(&mut self, status: u8) {
        self.leaving = Some(Leaving {
            status,
            until: self.now().saturating_add(LINES),
        });
        let runs = self.relay.as_ref().is_some_and(Relay::is_connected);
        if self.relay.is_some() && !runs {
            // What the last one has left in the pipes.
            self.fork(Process::Relay, &mut VecDeque::new());
        }
        if let Some(relay) = &mut self.relay {
            relay.end();
        }
    }

    fn perform(&mut self, effect: Effect, events: &mut VecDeque<Event>) {
        match effect {
            Effect::Log(message) => log(&message),
            Effect::AnnounceReady => self.announce_ready(),
            Effect::StartDaemons => {
                if let Err(fault) = self.start_daemons() {
                    not_started(Process::Dockerd, &fault);
                    let missing = [Process::Dockerd, Process::Containerd]
                        .into_iter()
                        .filter(|process| self.children.pid(*process).is_none())
                        .map(|process| Event::NotStarted(process, fault.status));
                    events.extend(missing);
                    events.push_back(Event::Failed(fault.status));
                }
            }
            Effect::Restart(process) => {
                if let Err(fault) = self.restart(process) {
                    not_started(process, &fault);
                    events.push_back(Event::NotStarted(process, fault.status));
                }
            }
            Effect::CloseSockets => self.bound.clear(),
            Effect::StartCommand => {
                if let Err(fault) = self.start_command() {
                    not_started(Process::Command, &fault);
                    events.push_back(Event::NotStarted(Process::Command, fault.status));
                }
            }
            Effect::Send(process, signal) => self.send(process, signal),
            Effect::KillContainers => kill_containers(),
            Effect::Fork(process) => self.fork(process, events),
            Effect::Exit(status) => self.leave(status),
        }
    }

    /// Starts dockerd and containerd at once. dockerd is first, because everybody waits for
    /// it; it looks for containerd much later.
    fn start_daemons(&mut self) -> Result<(), Fault> {
        let engine = self.engine;
        if engine.images.is_some() || !engine.hooks.post_start.is_empty() {
            self.provisioning = Provisioning::begin()
                .inspect_err(|error| {
                    warn!("{error:#}; 'dind health' waits for the API alone");
                })
                .ok();
        }
        self.begin_daemon(Process::Dockerd, &engine.dockerd)?;
        if let Some(program) = &engine.containerd {
            self.begin_daemon(Process::Containerd, program)?;
        }
        if engine.restarts == 0 {
            // When dockerd is gone, clients are refused and not kept waiting.
            self.bound.clear();
        }
        if let Some(program) = &engine.dmsetup {
            // Nobody waits for what it prints, nor for its end.
            let null = null()?;
            let silent = [null.as_fd(); 3];
            let inherited = self.signals.inherited();
            if let Err(fault) = begin_daemon(program, silent, &[], None, inherited) {
                warn!("{fault}; going on without");
            }
        }
        apply::apply(&engine.meanwhile)?;
        self.ask();
        Ok(())
    }

    /// Starts one of them again, with the sockets that the one before had.
    fn restart(&mut self, process: Process) -> Result<(), Fault> {
        let engine = self.engine;
        let program = match process {
            Process::Containerd => engine.containerd.as_ref(),
            _ => Some(&engine.dockerd),
        };
        if let Some(program) = program {
            self.begin_daemon(process, program)?;
        }
        if process == Process::Dockerd {
            self.answered = false;
            self.ask();
        }
        Ok(())
    }

    fn begin_daemon(&mut self, process: Process, program: &Program) -> Result<(), Fault> {
        let null = null()?;
        let [stdout, stderr] = self.output(process);
        let stdio = [null.as_fd(), stdout, stderr];
        let inherited = self.signals.inherited();
        let begun = match process {
            Process::Dockerd => {
                let sockets: Vec<BorrowedFd<'_>> = self.bound.iter().map(AsFd::as_fd).collect();
                begin_daemon(program, stdio, &sockets, Some(&self.notify), inherited)
            }
            _ => begin_daemon(program, stdio, &[], None, inherited),
        }?;
        self.children.begin(process, begun, program.path.clone());
        Ok(())
    }

    fn start_command(&mut self) -> Result<(), Fault> {
        let words: &[OsString] = match &self.engine.foreground {
            Foreground::Command(words) => words,
            Foreground::Daemon => &[],
        };
        let path = search::find(words, &self.engine.search_path)?;
        let begun = spawn::begin(&Child {
            path: &path,
            arguments: words.iter().map(OsString::as_os_str).collect(),
            environment: &self.engine.environment,
            stdio: None,
            descriptors: Vec::new(),
            session: Session::Foreground(self.terminal),
            dies_with_parent: false,
            oom_score_adj: None,
            inherited: self.signals.inherited(),
            umask: Some(self.umask),
        })
        .map_err(|error| error.fault(path.as_os_str()))?;
        self.children.begin(Process::Command, begun, path);
        Ok(())
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

    /// Standard output and error for a daemon or for hooks.
    fn output(&self, process: Process) -> [BorrowedFd<'_>; 2] {
        output(
            self.relay.as_ref(),
            self.log.as_ref(),
            self.engine,
            &self.standard,
            process,
        )
    }

    /// Asks the API whether it answers, where that can be asked.
    fn ask(&mut self) {
        if let Readiness::Ping(socket) = &self.engine.readiness {
            match Ping::ask(socket) {
                Ok(ping) => self.ping = Some(ping),
                Err(error) => debug!(
                    "cannot ask {}: {error}; dockerd will say when it is ready",
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
                debug!("no answer: {error}; dockerd will say when it is ready");
                self.ping = None;
            }
            Some(Progress::Waiting) | None => {}
        }
    }

    /// dockerd has sent `READY=1`. Where the API can be asked, its answer counts.
    fn notified(&mut self, events: &mut VecDeque<Event>) {
        match self.engine.readiness {
            Readiness::Notify => events.push_back(Event::Ready),
            Readiness::Ping(_) if self.ping.is_none() && !self.answered => self.ask(),
            Readiness::Ping(_) => {}
        }
    }

    /// Has a part of this program run in a child, so that signals and deadlines are looked
    /// at meanwhile.
    fn fork(&mut self, process: Process, events: &mut VecDeque<Event>) {
        let control = match (process, &mut self.relay) {
            (Process::Relay, Some(relay)) => relay.connect(),
            _ => Err(anyhow::anyhow!("no relay")),
        };
        let control = match (process, control) {
            (Process::Relay, Err(error)) => {
                warn!("{} cannot run: {error:#}", process.name());
                events.push_back(Event::NotStarted(process, FAILURE));
                return;
            }
            (_, control) => control.ok(),
        };
        match process::fork() {
            Ok(ForkResult::Parent { child }) => self.children.add(process, child),
            Ok(ForkResult::Child) => {
                let done = leave_terminal().and_then(|()| self.help(process, control));
                let status = done.unwrap_or_else(|error| {
                    match process {
                        Process::Forwarder | Process::Relay | Process::Delegation => {
                            warn!("{error:#}");
                        }
                        _ => error!("{error:#}"),
                    }
                    FAILURE
                });
                process::exit_child(status.into())
            }
            Err(errno) => {
                if let (Process::Relay, Some(relay)) = (process, &mut self.relay) {
                    relay.disconnect();
                }
                error!(
                    "{} cannot run: fork: {}; raise the container's pids limit",
                    process.name(),
                    errno.desc()
                );
                events.push_back(Event::NotStarted(process, FAILURE));
            }
        }
    }

    /// The work of a child. Returns its exit status.
    fn help(&mut self, process: Process, control: Option<UnixStream>) -> Result<u8> {
        let engine = self.engine;
        match (process, control, &self.relay) {
            (Process::PreStart, ..) => return self.run_hooks(process, &engine.hooks.pre_start),
            (Process::PostStart, ..) => return self.run_hooks(process, &engine.hooks.post_start),
            (Process::PreStop, ..) => return self.run_hooks(process, &engine.hooks.pre_stop),
            (Process::Relay, Some(control), Some(relay)) => {
                relay.run(self.signals.inherited(), control)?;
                return Ok(0);
            }
            _ => {}
        }
        let inherited = self.signals.inherited();
        match &self.log {
            Some(log) => become_helper(inherited, &[log.as_fd()])?,
            None => become_helper(inherited, &[])?,
        }
        match process {
            Process::Mounter => engine
                .data_file
                .as_ref()
                .map_or(Ok(()), |file| data_file::put_in_place(file, inherited))?,
            Process::Certificates => engine.certificates.as_ref().map_or(Ok(()), |wanted| {
                certificates::prepare(wanted, SystemTime::now())
            })?,
            Process::Delegation => self.delegation.as_ref().map_or(Ok(()), |unfinished| {
                delegate::finish(unfinished).map(|done| done.log())
            })?,
            Process::Sweeper => {
                engine.emptied.as_ref().map(sweeper::empty);
            }
            Process::Forwarder => {
                if let Some(forwarder) = &engine.forwarder {
                    forwarder::run(forwarder)?;
                }
            }
            Process::Loader => {
                if let Some(images) = &engine.images {
                    // A command that runs already has the terminal.
                    let wanted = self.config.log_format == LogFormat::Text
                        && self.children.pid(Process::Command).is_none();
                    loader::load(images, ProgressLine::new(wanted))?;
                }
            }
            Process::LogReader => self.show_log(),
            Process::Diagnosis => {
                self.show_log();
                diagnose(self.config);
            }
            _ => {}
        }
        Ok(0)
    }

    fn run_hooks(&mut self, process: Process, hooks: &[PathBuf]) -> Result<u8> {
        self.signals.renew()?;
        let [stdout, stderr] = output(
            self.relay.as_ref(),
            self.log.as_ref(),
            self.engine,
            &self.standard,
            process,
        );
        let [wait, wake] = self.signals.descriptors();
        descriptors::close_other_descriptors(&[wait, wake, stdout, stderr])?;
        let null = null()?;
        let mut runner = Runner {
            timeout: self.engine.hooks.timeout,
            // In a stop a hook, what it has started, and its runner are to end one after the
            // other.
            grace: self.engine.stop.hook_grace,
            environment: &self.engine.environment,
            stdio: [null.as_fd(), stdout, stderr],
            signals: &mut self.signals,
            umask: self.umask,
            until_failure: process == Process::PreStart,
            stopped: false,
        };
        Ok(runner.run(hooks))
    }

    fn announce_ready(&mut self) {
        if let Some(provisioning) = self.provisioning.take() {
            provisioning.end();
        }
        if let Some(address) = &self.engine.notify_socket
            && let Err(errno) = notify::tell_ready(address)
        {
            warn!(
                "cannot send READY=1 to NOTIFY_SOCKET={}: {}; going on without",
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
        if let Err(errno) = memory::unmap_code() {
            debug!("madvise: {}, ignoring", errno.desc());
        }
    }

    /// With no file, the lines stand above already.
    fn show_log(&self) {
        if let Some(log) = &self.log {
            error!(path = %log.path().display(), "the last lines of {}:", log.path().display());
            for line in log.tail() {
                error!("| {line}");
            }
        }
    }
}

/// Logs why a child could not be started.
fn not_started(process: Process, fault: &Fault) {
    error!(process = process.name(), status = fault.status, "{fault}");
}

fn log(message: &Message) {
    let process = message.process.map(Process::name);
    let (status, signal) = match message.end {
        Some(End::Exited(status)) => (Some(status), None),
        Some(End::Signaled(signal)) => (None, Some(signal)),
        None => (None, None),
    };
    match message.level {
        Level::Info => info!(process, status, signal, "{}", message.text),
        Level::Warn => warn!(process, status, signal, "{}", message.text),
        Level::Error => error!(process, status, signal, "{}", message.text),
    }
}

/// Logs what `dind doctor` would print, but for its notes.
fn diagnose(config: &Config) {
    for finding in doctor::diagnosis(config) {
        let (code, link) = (finding.code, finding.link);
        match finding.severity {
            Severity::Error => error!(code, link, "{finding} ({link})"),
            Severity::Warning | Severity::Note => warn!(code, link, "{finding} ({link})"),
        }
    }
}

fn null() -> Result<File> {
    File::open("/dev/null").context("cannot open /dev/null; the container needs a /dev")
}

fn output<'a>(
    relay: Option<&'a Relay>,
    log: Option<&'a LogFile>,
    engine: &Engine,
    standard: &'a (Stdout, Stderr),
    process: Process,
) -> [BorrowedFd<'a>; 2] {
    match relay {
        Some(relay) => relay.output_for(process),
        None => sinks(log, engine, standard),
    }
}

/// Where the standard output and error of daemons and hooks go.
fn sinks<'a>(
    log: Option<&'a LogFile>,
    engine: &Engine,
    (stdout, stderr): &'a (Stdout, Stderr),
) -> [BorrowedFd<'a>; 2] {
    match (log, &engine.foreground) {
        (Some(log), _) => [log.as_fd(); 2],
        // Beside a command, standard output is the command's alone.
        (None, Foreground::Command(_)) => [stderr.as_fd(); 2],
        (None, Foreground::Daemon) => [stdout.as_fd(), stderr.as_fd()],
    }
}

/// Starts a daemon in a session of its own.
fn begin_daemon(
    program: &Program,
    stdio: [BorrowedFd<'_>; 3],
    descriptors: &[BorrowedFd<'_>],
    notify: Option<&Notify>,
    inherited: &Inherited,
) -> Result<Begun, Fault> {
    let mut environment = program.environment.clone();
    environment.extend(notify.map(|notify| ("NOTIFY_SOCKET".into(), notify.address.clone())));
    let mut arguments = vec![program.path.as_os_str()];
    arguments.extend(program.arguments.iter().map(OsString::as_os_str));
    spawn::begin(&Child {
        path: &program.path,
        arguments,
        environment: &environment,
        stdio: Some(stdio),
        descriptors: descriptors.to_vec(),
        session: Session::Own,
        dies_with_parent: false,
        oom_score_adj: Some(program.oom_score_adj),
        inherited,
        umask: None,
    })
    .map_err(|error| error.fault(program.path.as_os_str()))
}

fn kill_containers() {
    let processes = processes::of_containers();
    if processes.is_empty() {
        return;
    }
    let names: Vec<String> = processes
        .iter()
        .map(|pid| format!("{pid} ({})", processes::name(*pid)))
        .collect();
    warn!(
        "inner containers did not end in time and are killed: {}; a longer DIND_STOP_TIMEOUT gives them more, within the grace of 'docker stop -t'",
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
