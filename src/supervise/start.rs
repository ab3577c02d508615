//! Starts the daemons and the command.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use tracing::warn;

use super::machine::Process;
use super::output::output;
use super::supervisor::Supervisor;
use crate::api::readiness::Provisioning;
use crate::apply;
use crate::messages::fault::Fault;
use crate::messages::remedy::Remedy;
use crate::plan::engine::{Engine, Foreground, Program};
use crate::sys::credentials;
use crate::sys::read;
use crate::sys::search;
use crate::sys::signals::Inherited;
use crate::sys::spawn::{self, Begun, Child, Place, Session};

impl Supervisor<'_> {
    /// Starts dockerd and containerd without waiting for either. dockerd is first, because clients
    /// wait for it; it connects to containerd much later.
    pub(super) fn start_daemons(&mut self) -> Result<(), Fault> {
        let engine = self.engine;
        if engine.images.is_some() || !engine.hooks.post_start.is_empty() {
            self.provisioning = Provisioning::begin()
                .map_err(|error| {
                    let fault = Fault::from(error);
                    warn!(
                        "{}",
                        fault.consequence("'dind health' waits only for the API")
                    );
                })
                .ok();
        }
        self.begin_daemon(
            Process::Dockerd,
            &Self::dockerd(engine, self.without_data_file),
        )?;
        if let Some(program) = &engine.containerd {
            self.begin_daemon(Process::Containerd, program)?;
        }
        if engine.restarts == 0 {
            // Then the sockets close with dockerd, and clients are refused instead of waiting.
            self.bound.clear();
        }
        if let Some(program) = &engine.dmsetup {
            // Neither its output nor its exit status is used.
            let null = null()?;
            let silent = [null.as_fd(); 3];
            if let Err(fault) = begin(&child(program, silent, self.signals.inherited())) {
                warn!("{fault}; going on without it");
            }
        }
        apply::apply(&engine.meanwhile)?;
        self.ask();
        Ok(())
    }

    /// Restarts containerd, or dockerd with the sockets that its predecessor had.
    pub(super) fn restart(&mut self, process: Process) -> Result<(), Fault> {
        let engine = self.engine;
        let program = match process {
            Process::Containerd => engine.containerd.as_ref().map(Cow::Borrowed),
            _ => Some(Self::dockerd(engine, self.without_data_file)),
        };
        if let Some(program) = program {
            self.begin_daemon(process, &program)?;
        }
        if process == Process::Dockerd {
            self.answered = false;
            self.ask();
        }
        Ok(())
    }

    /// dockerd, with the storage driver for the data root's own file system where that has no ext4
    /// image. The user's arguments come after it.
    fn dockerd(engine: &Engine, without_data_file: bool) -> Cow<'_, Program> {
        let file = engine.data_file.as_ref().filter(|_| without_data_file);
        match file.and_then(|file| file.otherwise.clone()) {
            None => Cow::Borrowed(&engine.dockerd),
            Some(driver) => {
                let mut program = engine.dockerd.clone();
                program.arguments.insert(0, driver);
                Cow::Owned(program)
            }
        }
    }

    /// Starts the program for the network of the engine's namespaces, as the engine's user and in the
    /// namespaces of this process.
    pub(super) fn start_user_network(&mut self) -> Result<(), Fault> {
        let engine = self.engine;
        let (Some(connector), Some(wanted), Some(namespaces)) =
            (&engine.user_network, &engine.namespaces, &self.namespaces)
        else {
            return Ok(());
        };
        let program = &connector.program;
        let null = null()?;
        let [stdout, stderr] = output(
            self.relay.as_ref(),
            self.log.as_ref(),
            engine,
            &self.standard,
            Process::UserNetwork,
        );
        let place = match nix::unistd::geteuid().is_root() {
            true => Place::As {
                user: wanted.user,
                group: wanted.group,
            },
            false => Place::Here,
        };
        let both = namespaces.for_network();
        let (stdio, descriptors) = match (connector.on_standard, both) {
            (true, [user, network]) => ([user, network, stderr], Vec::new()),
            (false, both) => ([null.as_fd(), stdout, stderr], both.to_vec()),
        };
        let begun = begin(&Child {
            descriptors,
            dies_with_parent: true,
            place,
            ..child(program, stdio, self.signals.inherited())
        })?;
        self.children
            .begin(Process::UserNetwork, begun, program.path.clone());
        Ok(())
    }

    fn begin_daemon(&mut self, process: Process, program: &Program) -> Result<(), Fault> {
        let null = null()?;
        let [stdout, stderr] = output(
            self.relay.as_ref(),
            self.log.as_ref(),
            self.engine,
            &self.standard,
            process,
        );
        let mut environment = program.environment.clone();
        let mut sockets = Vec::new();
        if process == Process::Dockerd {
            let address = self.notify.address.clone();
            environment.push(("NOTIFY_SOCKET".into(), address));
            sockets.extend(self.bound.iter().map(AsFd::as_fd));
        }
        let stdio = [null.as_fd(), stdout, stderr];
        let begun = begin(&Child {
            environment: &environment,
            descriptors: sockets,
            limits: &self.engine.limits,
            place: Place::from(self.namespaces.as_ref()),
            ..child(program, stdio, self.signals.inherited())
        })?;
        self.children.begin(process, begun, program.path.clone());
        Ok(())
    }

    pub(super) fn start_command(&mut self) -> Result<(), Fault> {
        let words: &[OsString] = match &self.engine.foreground {
            Foreground::Command(words) => words,
            Foreground::Daemon => &[],
        };
        let path = search::find(words, &self.engine.search_path)?;
        if let Some(wanted) = &self.engine.namespaces {
            credentials::give_standard(wanted.user);
        }
        let begun = begin(&Child {
            path: &path,
            arguments: words.iter().map(OsString::as_os_str).collect(),
            environment: &self.engine.environment,
            stdio: None,
            descriptors: Vec::new(),
            session: Session::Foreground(self.terminal),
            dies_with_parent: false,
            oom_score_adj: self.oom_score_adj,
            limits: &[],
            inherited: self.signals.inherited(),
            umask: Some(self.umask),
            place: Place::from(self.namespaces.as_ref()),
        })?;
        self.children.begin(Process::Command, begun, path);
        Ok(())
    }
}

/// Opens `/dev/null`: the standard input of daemons and hooks.
pub fn null() -> Result<File> {
    read::null()
        .context("cannot open /dev/null")
        .remedy("check the container's /dev")
}

/// `program` as a child of this process in a session of its own, with `stdio` as descriptors 0 to 2.
fn child<'a>(
    program: &'a Program,
    stdio: [BorrowedFd<'a>; 3],
    inherited: &'a Inherited,
) -> Child<'a> {
    let words = program.arguments.iter().map(OsString::as_os_str);
    Child {
        path: &program.path,
        arguments: std::iter::once(program.path.as_os_str())
            .chain(words)
            .collect(),
        environment: &program.environment,
        stdio: Some(stdio),
        descriptors: Vec::new(),
        session: Session::Own,
        dies_with_parent: false,
        oom_score_adj: Some(program.oom_score_adj),
        limits: &[],
        inherited,
        umask: None,
        place: Place::Here,
    }
}

/// Starts a child, and does not wait for its exec. The fault names its program.
fn begin(child: &Child<'_>) -> Result<Begun, Fault> {
    spawn::begin(child).map_err(|error| error.fault(child.path.as_os_str()))
}
