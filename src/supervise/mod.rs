//! Starts the daemons and stays with them to the end: one loop, one `poll`, the only
//! `waitpid`. What happens when is decided in [`machine`].

mod log_file;
pub mod machine;
mod notify;
mod relay;

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Stderr, Stdout};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid};
use tracing::{debug, error, info, warn};

use crate::api::ping::{Ping, Progress};
use crate::api::readiness::Provisioning;
use crate::apply;
use crate::apply::sockets::Bound;
use crate::facts::processes;
use crate::helpers::child::{become_helper, leave_terminal};
use crate::helpers::forwarder;
use crate::helpers::hooks::Runner;
use crate::helpers::{data_image, loader, sweeper};
use crate::input::config::Config;
use crate::messages::fault::{FAILURE, Fault};
use crate::messages::finding::Severity;
use crate::messages::logging::LogFormat;
use crate::messages::progress::ProgressLine;
use crate::plan::engine::{Engine, Foreground, Program, Readiness};
use crate::programs::doctor;
use crate::sys::end::End;
use crate::sys::search;
use crate::sys::signals::Signals;
use crate::sys::spawn::{self, Begun, Child, Session};
use crate::sys::terminal::{self, Terminal};
use crate::sys::{descriptors, memory, process};
use log_file::LogFile;
use machine::{Effect, Event, Level, Machine, Need, Process, Settings};
use notify::Notify;
use relay::Relay;

/// Children reaped in one turn of the loop, so that a flood of orphans cannot keep
/// signals and deadlines waiting.
const REAPED_A_TURN: usize = 256;

/// The pids of the children that matter.
#[derive(Default)]
struct Children(Vec<(Process, Pid)>);

impl Children {
    fn add(&mut self, process: Process, pid: Pid) {
        self.0.push((process, pid));
    }

    fn pid(&self, process: Process) -> Option<Pid> {
        let mut children = self.0.iter();
        children.find_map(|(known, pid)| (*known == process).then_some(*pid))
    }

    /// Which child a pid is; it is forgotten by that, for the pid may come again.
    fn take(&mut self, pid: Pid) -> Option<Process> {
        let place = self.0.iter().position(|(_, known)| *known == pid)?;
        Some(self.0.swap_remove(place).0)
    }
}

/// The supervisor.
struct Supervisor<'a> {
    engine: &'a Engine,
    config: &'a Config,
    /// What dockerd listens on by our doing.
    addresses: Vec<String>,
    /// The sockets, until dockerd has them; and as long as there may be another dockerd.
    bound: Vec<Bound>,
    started: Instant,
    signals: Signals,
    /// Descriptors 1 and 2.
    standard: (Stdout, Stderr),
    /// The user's file mode creation mask.
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
    /// What makes JSON of the daemons' lines, where that is wanted.
    relay: Option<Relay>,
    exit: Option<u8>,
}

/// Starts the daemons of `engine`, which get the `bound` sockets, and returns the
/// exit status of the container once everything has ended. The command has `umask`.
/// `started` is when this program was; by `config` it is looked for what is wrong where
/// dockerd does not start.
pub fn run(
    engine: &Engine,
    config: &Config,
    bound: Vec<Bound>,
    signals: Signals,
    umask: Mode,
    started: Instant,
) -> Result<u8, Fault> {
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
    let has_command = matches!(engine.foreground, Foreground::Command(_));
    let machine = Machine::new(Settings {
        command: has_command,
        terminal: terminal != Terminal::None,
        containerd: engine.containerd.is_some(),
        image: Need::of(engine.image.as_ref().map(|image| image.required)),
        loader: Need::of(engine.images.as_ref().map(|images| images.strict)),
        pre_start: !engine.hooks.pre_start.is_empty(),
        post_start: !engine.hooks.post_start.is_empty(),
        pre_stop: !engine.hooks.pre_stop.is_empty(),
        forwarder: engine.forwarder.is_some(),
        ready_timeout: engine.ready_timeout,
        stop_timeout: engine.stop_timeout,
        command_patience: engine.command_patience,
        hooks_patience: engine.hooks_patience,
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
        exit: None,
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
        let dockerd = self.begin_daemon(Process::Dockerd, &engine.dockerd)?;
        let containerd = engine.containerd.as_ref().map(|program| {
            let begun = self.begin_daemon(Process::Containerd, program);
            begun.map(|begun| (program, begun))
        });
        self.start_relay();
        // Where one has failed the other runs, and is to be known for that.
        let dockerd = finish_daemon(&engine.dockerd, dockerd)
            .map(|pid| self.children.add(Process::Dockerd, pid));
        let containerd = containerd.transpose().and_then(|begun| {
            let Some((program, begun)) = begun else {
                return Ok(());
            };
            self.children
                .add(Process::Containerd, finish_daemon(program, begun)?);
            Ok(())
        });
        dockerd.and(containerd)?;
        if engine.restarts == 0 {
            // When dockerd is gone, clients are refused and not kept waiting.
            self.bound.clear();
        }
        if let Some(program) = &engine.dmsetup {
            // Nobody waits for what it has to say.
            let null = null()?;
            let silent = [null.as_fd(); 3];
            if let Err(fault) = begin_daemon(program, silent, &[], None, self.signals.original()) {
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
        let Some(program) = program else {
            return Ok(());
        };
        let begun = self.begin_daemon(process, program)?;
        self.children.add(process, finish_daemon(program, begun)?);
        if process == Process::Dockerd {
            self.answered = false;
            self.ask();
        }
        Ok(())
    }

    /// Standard output and error for a daemon or for hooks.
    fn output(&self, process: Process) -> [BorrowedFd<'_>; 2] {
        match &self.relay {
            Some(relay) => relay.output_for(process),
            None => sinks(self.log.as_ref(), self.engine, &self.standard),
        }
    }

    fn begin_daemon(&self, process: Process, program: &Program) -> Result<Begun, Fault> {
        let null = null()?;
        let [stdout, stderr] = self.output(process);
        let stdio = [null.as_fd(), stdout, stderr];
        let mask = self.signals.original();
        if process != Process::Dockerd {
            return begin_daemon(program, stdio, &[], None, mask);
        }
        let descriptors: Vec<BorrowedFd<'_>> = self.bound.iter().map(AsFd::as_fd).collect();
        begin_daemon(program, stdio, &descriptors, Some(&self.notify), mask)
    }

    /// The loop. Every wait is in its `poll`, which ends at the machine's deadline.
    fn supervise(&mut self) -> u8 {
        let mut events = VecDeque::from([Event::Begin]);
        let mut unreaped = false;
        loop {
            while let Some(event) = events.pop_front() {
                debug!("{event:?}");
                for effect in self.machine.step(event, self.started.elapsed()) {
                    self.perform(effect, &mut events);
                }
                if let Some(status) = self.exit {
                    if let Some(relay) = &mut self.relay {
                        relay.end(&self.signals, self.started.elapsed());
                    }
                    return status;
                }
            }
            if let Some(relay) = &mut self.relay {
                relay.tick(&self.signals, self.started.elapsed());
            }
            let readable = self.wait(unreaped);
            if readable.ping {
                self.read_answer(&mut events);
            }
            if readable.notify && self.notify.ready() {
                self.notified(&mut events);
            }
            let mut children = unreaped;
            while let Some(signal) = self.signals.next() {
                match signal {
                    libc::SIGCHLD => children = true,
                    signal => events.push_back(Event::Signal(signal)),
                }
            }
            unreaped = children && self.reap(&mut events);
            events.push_back(Event::Tick);
        }
    }

    fn wait(&self, unreaped: bool) -> Readable {
        let relay = self.relay.as_ref().and_then(Relay::due);
        let deadlines = self.machine.deadline().into_iter().chain(relay);
        let timeout = match deadlines.min() {
            _ if unreaped => PollTimeout::ZERO,
            None => PollTimeout::NONE,
            Some(deadline) => {
                // Rounded up: a tick before the deadline would only spin.
                let left = deadline.saturating_sub(self.started.elapsed());
                let left = left.saturating_add(Duration::from_millis(1));
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut descriptors = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.notify.as_fd(), PollFlags::POLLIN),
        ];
        descriptors.extend(
            self.ping
                .as_ref()
                .map(|ping| PollFd::new(ping.as_fd(), PollFlags::POLLIN)),
        );
        // An error here means nothing is readable; the deadlines are looked at anyway.
        if let Err(errno) = poll(&mut descriptors, timeout) {
            debug!("poll: {}, ignoring", errno.desc());
        }
        let any = |index: usize| {
            descriptors
                .get(index)
                .and_then(PollFd::revents)
                .is_some_and(|events| !events.is_empty())
        };
        Readable {
            notify: any(1),
            ping: any(2),
        }
    }

    /// Reaps the children that have ended, whoever their parents were. Whether there
    /// may be more: signals coalesce, so this goes on until none is left.
    fn reap(&mut self, events: &mut VecDeque<Event>) -> bool {
        for _ in 0..REAPED_A_TURN {
            let Some((pid, end)) = process::reap() else {
                return false;
            };
            match self.children.take(pid) {
                Some(process) => {
                    if !matches!(process, Process::Command) {
                        // Its last lines come before what is said of its end.
                        self.flush();
                    }
                    events.push_back(Event::Ended(process, end));
                }
                None if self.relay_ended(pid, end) => {}
                None => debug!("reaped {pid}: it {end}"),
            }
        }
        true
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

    /// dockerd says that it is ready. Where the API can be asked, its answer counts.
    fn notified(&mut self, events: &mut VecDeque<Event>) {
        match self.engine.readiness {
            Readiness::Notify => events.push_back(Event::Ready),
            Readiness::Ping(_) if self.ping.is_none() && !self.answered => self.ask(),
            Readiness::Ping(_) => {}
        }
    }

    fn perform(&mut self, effect: Effect, events: &mut VecDeque<Event>) {
        match effect {
            Effect::Say(Level::Info, message) => info!("{message}"),
            Effect::Say(Level::Warn, message) => warn!("{message}"),
            Effect::Say(Level::Error, message) => error!("{message}"),
            Effect::ShowLog => self.show_log(),
            Effect::Diagnose => diagnose(self.config),
            Effect::AnnounceReady => self.announce_ready(),
            Effect::StartDaemons => {
                if let Err(fault) = self.start_daemons() {
                    error!("{fault}");
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
                    error!("{fault}");
                    events.push_back(Event::NotStarted(process, fault.status));
                }
            }
            Effect::CloseSockets => self.bound.clear(),
            Effect::StartCommand => match self.command() {
                Ok(pid) => self.children.add(Process::Command, pid),
                Err(fault) => {
                    error!("{fault}");
                    events.push_back(Event::NotStarted(Process::Command, fault.status));
                }
            },
            Effect::Send(process, signal) => self.send(process, signal),
            Effect::KillContainers => kill_containers(),
            Effect::Fork(process) => self.fork(process, events),
            Effect::Exit(status) => self.exit = Some(status),
        }
    }

    fn send(&self, process: Process, signal: i32) {
        if let Some(pid) = self.children.pid(process)
            && let Err(errno) = process::kill(pid, signal)
        {
            warn!(
                "cannot send signal {signal} to {} ({pid}): {}",
                process.name(),
                errno.desc()
            );
        }
    }

    fn command(&self) -> Result<Pid, Fault> {
        let words: &[OsString] = match &self.engine.foreground {
            Foreground::Command(words) => words,
            Foreground::Daemon => &[],
        };
        let path = search::find(words, &self.engine.search_path)?;
        spawn::spawn(&Child {
            path: &path,
            arguments: words.iter().map(OsString::as_os_str).collect(),
            environment: &self.engine.environment,
            stdio: None,
            descriptors: Vec::new(),
            session: Session::Foreground(self.terminal),
            dies_with_parent: false,
            oom_score_adj: None,
            mask: self.signals.original(),
            umask: Some(self.umask),
        })
        .map_err(|error| error.fault(path.as_os_str()))
    }

    /// Has a part of this program run in a child, so that signals and deadlines are looked
    /// at meanwhile.
    fn fork(&mut self, process: Process, events: &mut VecDeque<Event>) {
        if process == Process::PreStart {
            self.start_relay();
        }
        match process::fork() {
            Ok(ForkResult::Parent { child }) => self.children.add(process, child),
            Ok(ForkResult::Child) => {
                let done = leave_terminal().and_then(|()| self.help(process));
                let status = done.unwrap_or_else(|error| {
                    match process {
                        Process::Forwarder => warn!("{error:#}"),
                        _ => error!("{error:#}"),
                    }
                    FAILURE
                });
                process::exit_child(status.into())
            }
            Err(errno) => {
                error!(
                    "{} cannot run: fork: {}; raise the container's pids limit",
                    process.name(),
                    errno.desc()
                );
                events.push_back(Event::Ended(process, End::Exited(FAILURE)));
            }
        }
    }

    /// What a child of this program's own is for. Its exit status.
    fn help(&self, process: Process) -> Result<u8> {
        let engine = self.engine;
        match process {
            Process::PreStart => return self.run_hooks(process, &engine.hooks.pre_start),
            Process::PostStart => return self.run_hooks(process, &engine.hooks.post_start),
            Process::PreStop => return self.run_hooks(process, &engine.hooks.pre_stop),
            _ => become_helper(&self.signals, &[])?,
        }
        match process {
            Process::Mounter => engine.image.as_ref().map_or(Ok(()), |image| {
                data_image::put_in_place(image, self.signals.original())
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
            _ => {}
        }
        Ok(0)
    }

    fn run_hooks(&self, process: Process, hooks: &[PathBuf]) -> Result<u8> {
        let [stdout, stderr] = self.output(process);
        descriptors::close_other_descriptors(&[self.signals.as_fd(), stdout, stderr])?;
        let null = null()?;
        let runner = Runner {
            timeout: self.engine.hooks.timeout,
            // In a stop a hook, what it has started, and its runner are to end one after the
            // other.
            grace: self.engine.hooks_patience / 8,
            environment: &self.engine.environment,
            stdio: [null.as_fd(), stdout, stderr],
            signals: &self.signals,
            umask: self.umask,
            until_failure: process == Process::PreStart,
            stopped: Cell::new(false),
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
                "cannot say READY=1 to NOTIFY_SOCKET={}: {}; going on without",
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
        info!("{line}");
        if let Err(errno) = memory::unmap_code() {
            debug!("madvise: {}, ignoring", errno.desc());
        }
    }

    fn start_relay(&mut self) {
        if let Some(relay) = &mut self.relay {
            relay.start(&self.signals, self.started.elapsed());
        }
    }

    fn relay_ended(&mut self, pid: Pid, end: End) -> bool {
        let now = self.started.elapsed();
        let relay = self.relay.as_mut();
        relay.is_some_and(|relay| relay.ended(pid, end, &self.signals, now))
    }

    /// Has what the daemons have written so far be where it goes.
    fn flush(&mut self) {
        if let Some(relay) = &mut self.relay {
            relay.flush(&self.signals, self.started.elapsed());
        }
    }

    /// With no file, the lines stand above already.
    fn show_log(&self) {
        if let Some(log) = &self.log {
            error!("the last lines of {}:", log.path().display());
            for line in log.tail() {
                error!("| {line}");
            }
        }
    }
}

/// Says what `dind doctor` would, but for its notes.
fn diagnose(config: &Config) {
    for finding in doctor::diagnosis(config) {
        match finding.severity {
            Severity::Error => error!("{finding} ({})", finding.link),
            Severity::Warning | Severity::Note => warn!("{finding} ({})", finding.link),
        }
    }
}

fn null() -> Result<File> {
    File::open("/dev/null").context("cannot open /dev/null; the container needs a /dev")
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
    mask: &SigSet,
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
        mask,
        umask: None,
    })
    .map_err(|error| error.fault(program.path.as_os_str()))
}

fn finish_daemon(program: &Program, begun: Begun) -> Result<Pid, Fault> {
    begun
        .finish()
        .map_err(|error| error.fault(program.path.as_os_str()))
}

/// What a wait found.
struct Readable {
    notify: bool,
    ping: bool,
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
            warn!("cannot kill {pid}: {}", errno.desc());
        }
    }
}
