//! Forks the helpers: children that run a part of this program, without execve(2).

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, Result};
use nix::unistd::{ForkResult, Pid, getppid};
use std::os::fd::AsFd;
use tracing::{error, warn};

use super::machine::{Event, Process};
use super::output::output;
use super::relay;
use super::start::null;
use super::supervisor::Supervisor;
use crate::api::ports::Info;
use crate::apply::delegate;
use crate::helpers::child::{self, become_helper, leave_terminal, take_daemons_oom_score};
use crate::helpers::hooks::Runner;
use crate::helpers::ports::{self, Service};
use crate::helpers::{
    certificates, containers, data_file, filler, forwarder, grower, joiner, loader, namespaces,
    port_forwarder, preparer, publisher, sweeper,
};
use crate::input::config::Config;
use crate::messages::fault::{FAILURE, Fault};
use crate::messages::finding::Severity;
use crate::messages::logging::LogFormat;
use crate::messages::progress::ProgressLine;
use crate::messages::remedy::Remedy;
use crate::programs::doctor;
use crate::sys::namespaces::Namespaces;
use crate::sys::spawn::Place;
use crate::sys::{descriptors, log, process};

impl Supervisor<'_> {
    /// Forks a helper, so that the loop goes on with signals and deadlines. Where that fails, the
    /// error is logged and [`Event::NotStarted`] is queued.
    pub(super) fn fork(&mut self, process: Process, events: &mut VecDeque<Event>) {
        let control = match self.connect(process) {
            Ok(control) => control,
            Err(error) => {
                let error = error.context(format!("cannot start {}", process.name()));
                report(process, error);
                events.push_back(Event::NotStarted(process, FAILURE));
                return;
            }
        };
        if process == Process::Filler
            && let Some(filling) = &self.engine.filling
        {
            match filler::hold(filling, self.engine.saving.as_ref()) {
                Ok((generation, lock)) => {
                    self.generation = generation;
                    self.store_lock = lock;
                }
                Err(error) => {
                    error!("{}", Fault::from(error));
                    events.push_back(Event::NotStarted(process, FAILURE));
                    return;
                }
            }
        }
        match process::fork() {
            Ok(ForkResult::Parent { child }) => self.children.add(process, child),
            Ok(ForkResult::Child) => {
                let done = leave_terminal().and_then(|()| self.help(process, control));
                let status = done.unwrap_or_else(|error| {
                    report(process, error);
                    FAILURE
                });
                process::exit_child(status.into())
            }
            Err(errno) => {
                if let (Process::Relay, Some(relay)) = (process, &mut self.relay) {
                    relay.disconnect();
                }
                error!(
                    "cannot fork {}: {}; raise the container's pids limit",
                    process.name(),
                    errno.desc()
                );
                events.push_back(Event::NotStarted(process, FAILURE));
            }
        }
    }

    /// Makes the socket pair for a helper that has one, and returns the helper's end. Fails as
    /// socketpair(2) does.
    fn connect(&mut self, process: Process) -> Result<Option<UnixStream>> {
        match (process, &mut self.relay) {
            (Process::Relay, Some(relay)) => relay.connect().map(Some),
            (Process::Namespaces, _) => {
                let (ours, theirs) = relay::pair()?;
                self.handover = Some(ours);
                Ok(Some(theirs))
            }
            _ => Ok(None),
        }
    }

    /// Does the work of a helper, in the child. Returns its exit status.
    fn help(&mut self, process: Process, control: Option<UnixStream>) -> Result<u8> {
        let engine = self.engine;
        match process {
            Process::PreStart => return self.run_hooks(process, &engine.hooks.pre_start),
            Process::PostStart => return self.run_hooks(process, &engine.hooks.post_start),
            Process::PreStop => return self.run_hooks(process, &engine.hooks.pre_stop),
            Process::Relay => {
                if let (Some(control), Some(relay)) = (control, &self.relay) {
                    relay.run(self.signals.inherited(), control)?;
                }
                return Ok(0);
            }
            _ => {}
        }
        // What they look at is the engine's.
        let inside = matches!(
            process,
            Process::Watcher
                | Process::Ender
                | Process::Sweeper
                | Process::Filler
                | Process::Publisher
        );
        if let Some(namespaces) = self.namespaces.as_ref().filter(|_| inside) {
            child::enter(namespaces)?;
        }
        let inherited = self.signals.inherited();
        let port = self.forwarded.as_ref();
        let port = port.filter(|_| process == Process::PortForwarder);
        let log = self.log.as_ref().map(AsFd::as_fd);
        // A store in a file is mounted from the file that was found to be one.
        let store = self.generation.as_deref();
        let store = store.filter(|_| process == Process::Filler);
        let control = control.as_ref().map(AsFd::as_fd);
        let kept = log.into_iter().chain(port.map(AsFd::as_fd)).chain(control);
        let kept = kept.chain(store.map(|store| store.held.as_fd()));
        let mut kept: Vec<_> = kept.collect();
        let entered = self.namespaces.as_ref();
        let passes_on = matches!(process, Process::Ports | Process::Forwarder);
        if let Some(namespaces) = entered.filter(|_| passes_on) {
            kept.extend(namespaces.descriptors().chain(namespaces.sockets()));
        }
        become_helper(inherited, &kept)?;
        match process {
            Process::Namespaces => {
                if let (Some(wanted), Some(socket)) = (&engine.namespaces, control) {
                    return namespaces::make(wanted, socket, inherited);
                }
            }
            Process::Ports => {
                let wanted = engine.namespaces.as_ref().map(|wanted| &wanted.ports);
                if let (Some(wanted), Some(namespaces)) = (wanted, entered)
                    && let Some(api) = namespaces.sockets().next()
                {
                    let dockerd = self.children.pid(Process::Dockerd);
                    let service = Service {
                        api,
                        info: Info {
                            state: wanted.directory.to_string_lossy().into_owned(),
                            child: dockerd.map_or(1, Pid::as_raw),
                            network: wanted.driver,
                            address: Some(wanted.address.into()),
                        },
                        idle: ports::IDLE,
                    };
                    ports::run(service, || namespaces.enter())?;
                }
            }
            Process::Mounter => engine
                .data_file
                .as_ref()
                .map_or(Ok(()), |file| data_file::put_in_place(file, inherited))?,
            Process::Filler => {
                let generation = self.generation.as_deref();
                if let Some(saving) = &engine.saving {
                    publisher::begin(saving)?;
                }
                if let (None, Some(file)) = (&engine.filling, &engine.data_file) {
                    filler::needs_none(&file.target)?;
                }
                if let (Some(filling), Some(generation)) = (&engine.filling, generation) {
                    filler::run(filling, generation, inherited)?;
                }
            }
            Process::Preparer => engine.saving.as_ref().map_or(Ok(()), preparer::prepare)?,
            Process::Publisher => {
                if let Some(saving) = &engine.saving {
                    publisher::publish(saving, self.generation.as_deref(), inherited)?;
                }
            }
            Process::Certificates => engine.certificates.as_ref().map_or(Ok(()), |wanted| {
                certificates::prepare(wanted, SystemTime::now())
            })?,
            Process::Joiner => engine
                .network
                .as_ref()
                .map_or(Ok(()), |network| joiner::join(network, inherited))?,
            Process::Delegation => self.delegation.as_ref().map_or(Ok(()), |unfinished| {
                delegate::finish(unfinished).map(|done| done.log())
            })?,
            Process::Watcher => containers::watch(engine, getppid())?,
            Process::Ender => containers::end(engine, getppid())?,
            Process::Sweeper => {
                if let Some(network) = &engine.network {
                    joiner::leave(network, inherited);
                }
                if let Some(emptied) = &engine.emptied {
                    sweeper::empty(&emptied.as_found(self.without_data_file));
                }
            }
            Process::Forwarder => {
                if let Some(forwarder) = &engine.forwarder {
                    // The first is that of published ports.
                    let mut made = entered.into_iter().flat_map(Namespaces::sockets).skip(1);
                    let made = made.next().zip(made.next());
                    forwarder::run(forwarder, made.map(<[_; 2]>::from))?;
                }
            }
            Process::Grower => {
                if let Some(file) = &engine.data_file
                    && let Some(growth) = file.growth
                {
                    grower::run(file, growth)?;
                }
            }
            Process::PortForwarder => {
                if let (Some(port), Some(forwarded)) = (port, &engine.forwarded) {
                    port_forwarder::run(port.as_fd(), forwarded)?;
                }
            }
            Process::Loader => {
                if let Some(images) = &engine.images {
                    // A command that runs already has the terminal.
                    let wanted = self.config.log_format == LogFormat::Text
                        && self.children.pid(Process::Command).is_none();
                    loader::load(images, ProgressLine::new(wanted, log::show))?;
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
        let namespaces = self.namespaces.as_ref();
        let mut kept = vec![wait, wake, stdout, stderr];
        kept.extend(namespaces.into_iter().flat_map(Namespaces::descriptors));
        descriptors::close_other_descriptors(&kept)
            .context("the hook runner cannot close its parent's descriptors")
            .remedy("mount /proc")?;
        // Where PID 1 has its own score still, the hooks get it from the runner.
        if self.oom_score_adj.is_some() {
            take_daemons_oom_score();
        }
        let null = null()?;
        let mut runner = Runner {
            timeout: self.engine.hooks.timeout,
            // A stop ends first the hook, then the processes that it has started, then the runner.
            grace: self.engine.stop.hook_grace,
            environment: &self.engine.environment,
            stdio: [null.as_fd(), stdout, stderr],
            signals: &mut self.signals,
            umask: self.umask,
            place: Place::from(self.namespaces.as_ref()),
            oom_score_adj: self.oom_score_adj,
            until_failure: process == Process::PreStart,
            stopped: false,
        };
        Ok(runner.run(hooks))
    }

    /// Logs the last lines of the log file. Without a file, the container's log has them already.
    fn show_log(&self) {
        if let Some(log) = &self.log {
            error!(path = %log.path().display(), "the last lines of {}:", log.path().display());
            for line in log.tail() {
                error!("| {line}");
            }
        }
    }
}

/// Logs why a helper could not do its work: a warning where the daemons go on without it.
fn report(process: Process, error: anyhow::Error) {
    let fault = Fault::from(error);
    match process {
        Process::Forwarder
        | Process::Grower
        | Process::PortForwarder
        | Process::Ports
        | Process::Relay
        | Process::Watcher
        | Process::Delegation => {
            warn!("{fault}");
        }
        _ => error!("{fault}"),
    }
}

/// Logs the findings of `dind doctor`, without its notes.
fn diagnose(config: &Config) {
    for finding in doctor::diagnosis(config) {
        let (code, link) = (finding.code, finding.link);
        match finding.severity {
            Severity::Error => error!(code, link, "{finding} ({link})"),
            Severity::Warning | Severity::Note => warn!(code, link, "{finding} ({link})"),
        }
    }
}
