//! The docker CLI as a child of `dind nest`, one at a time: its input, its output, its exit
//! status. A signal ends it and then this process.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::Pid;

use crate::input::config::Config;
use crate::messages::fault::Fault;
use crate::messages::logging::LogFormat;
use crate::messages::progress::ProgressLine;
use crate::messages::remedy::Remedy;
use crate::sys::clock::Clock;
use crate::sys::end::End;
use crate::sys::log;
use crate::sys::process::{self, Reaped};
use crate::sys::read;
use crate::sys::search;
use crate::sys::signals::{Signals, asks_to_end};
use crate::sys::spawn::{self, Child, Place, Session};

/// How long docker may make no progress: neither read its input, nor write output, nor exit.
const STALL: Duration = Duration::from_secs(300);

/// The docker CLI, with its environment and the signals that end it.
pub struct Docker<'a> {
    path: PathBuf,
    environment: &'a [(OsString, OsString)],
    signals: &'a mut Signals,
    progress: ProgressLine,
}

/// A docker CLI that has been started.
struct Running<'a> {
    signals: &'a mut Signals,
    pid: Pid,
    end: Option<End>,
    /// Its subcommand, for messages.
    words: String,
}

impl<'a> Docker<'a> {
    /// Finds the CLI in `PATH`. The fault is that it is not there.
    pub fn find(
        config: &Config,
        environment: &'a [(OsString, OsString)],
        signals: &'a mut Signals,
    ) -> Result<Self, Fault> {
        Ok(Self {
            path: search::find(&["docker".into()], &config.search_path)?,
            environment,
            signals,
            progress: ProgressLine::new(config.log_format == LogFormat::Text, log::show),
        })
    }

    /// The path of the CLI.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Runs the CLI with the arguments `words`, and returns its standard output. The fault is an
    /// exit status other than 0 (docker has written its message to standard error by then), no
    /// progress for 300 s, or a signal.
    pub fn output(&mut self, words: &[&str]) -> Result<String, Fault> {
        let (mut running, output) = self.start(words, null()?.as_fd(), io::stderr().as_fd())?;
        let text = running.read(output)?;
        running.ended_well()?;
        Ok(text)
    }

    /// Runs the CLI as [`Docker::output`] does, but without its messages and whatever its exit
    /// status.
    pub fn attempt(&mut self, words: &[&str]) -> Result<(), Fault> {
        let null = null()?;
        let (mut running, output) = self.start(words, null.as_fd(), null.as_fd())?;
        running.read(output)?;
        running.wait().map(drop)
    }

    /// Runs the CLI as [`Docker::output`] does, with what `write` writes, about `bytes` bytes, as
    /// its standard input. `whose` starts the progress line on a terminal.
    pub fn feed(
        &mut self,
        words: &[&str],
        whose: &str,
        bytes: u64,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<(), Fault> {
        let (reader, writer) = pipe()?;
        let progress = self.progress.clone();
        let (mut running, output) = self.start(words, reader.as_fd(), io::stderr().as_fd())?;
        drop(reader);
        let mut input = Input {
            running: &mut running,
            pipe: File::from(writer),
            progress,
            whose,
            bytes,
            done: 0,
            interrupted: None,
        };
        nonblocking(&input.pipe)?;
        let written = write(&mut input);
        let interrupted = input.end();
        if let Some(fault) = interrupted {
            return Err(fault);
        }
        running.read(output)?;
        // Where docker ended early, its exit status tells more than the broken pipe.
        running.ended_well()?;
        Ok(written?)
    }

    fn start(
        &mut self,
        words: &[&str],
        input: BorrowedFd<'_>,
        errors: BorrowedFd<'_>,
    ) -> Result<(Running<'_>, OwnedFd), Fault> {
        let (reader, writer) = pipe()?;
        let mut arguments = vec![OsStr::new("docker")];
        arguments.extend(words.iter().map(OsStr::new));
        let pid = spawn::spawn(&Child {
            path: &self.path,
            arguments,
            environment: self.environment,
            stdio: Some([input, writer.as_fd(), errors]),
            descriptors: Vec::new(),
            session: Session::Own,
            dies_with_parent: false,
            oom_score_adj: None,
            limits: &[],
            inherited: self.signals.inherited(),
            umask: None,
            place: Place::Here,
        })
        .map_err(|error| error.fault(self.path.as_os_str()))?;
        let running = Running {
            signals: &mut *self.signals,
            pid,
            end: None,
            words: words
                .first()
                .map(|word| (*word).to_owned())
                .unwrap_or_default(),
        };
        Ok((running, reader))
    }
}

impl Running<'_> {
    /// Its output up to the end of file.
    fn read(&mut self, output: OwnedFd) -> Result<String, Fault> {
        let mut output = File::from(output);
        nonblocking(&output)?;
        let mut text = Vec::new();
        let mut part = [0; 4096];
        loop {
            match output.read(&mut part) {
                Ok(0) => return Ok(String::from_utf8_lossy(&text).into_owned()),
                Ok(count) => text.extend(part.iter().take(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.poll(Some((output.as_fd(), PollFlags::POLLIN)))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Fault::failure(format!(
                        "cannot read the output of docker {}: {error}",
                        self.words
                    ))
                    .remedy("try again"));
                }
            }
        }
    }

    /// Waits for its end.
    fn wait(&mut self) -> Result<End, Fault> {
        loop {
            self.reap();
            match self.end {
                Some(end) => return Ok(end),
                None => self.poll(None)?,
            }
        }
    }

    fn ended_well(&mut self) -> Result<(), Fault> {
        match self.wait()? {
            End::Exited(0) => Ok(()),
            end => Err(Fault::failure(format!("docker {} {end}", self.words))
                .remedy("see its message above, and the daemon's log")),
        }
    }

    fn reap(&mut self) {
        loop {
            match process::reap() {
                Reaped::Child(pid, end) if pid == self.pid => self.end = Some(end),
                Reaped::Child(..) => {}
                Reaped::Childless => {
                    self.end.get_or_insert(End::Unseen);
                    return;
                }
                Reaped::None => return,
            }
        }
    }

    /// Waits until a descriptor is ready, or a signal such as SIGCHLD arrives. A signal that asks
    /// for an end ends docker; the fault then has the status 128 + its number.
    fn poll(&mut self, wanted: Option<(BorrowedFd<'_>, PollFlags)>) -> Result<(), Fault> {
        let clock = Clock::since(Instant::now());
        let mut descriptors = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        descriptors.extend(wanted.map(|(descriptor, flags)| PollFd::new(descriptor, flags)));
        descriptors.extend(log::waiting());
        let polled = loop {
            let timeout = clock.timeout(Some(STALL));
            let polled = self.signals.poll(&mut descriptors, timeout);
            log::flush();
            let is_ready = |descriptor: &PollFd<'_>| descriptor.any().unwrap_or(true);
            if polled.is_err() || descriptors.iter().any(is_ready) || clock.now() >= STALL {
                break polled;
            }
        };
        match polled {
            Ok(()) if clock.now() >= STALL => {
                self.kill(libc::SIGKILL);
                return Err(Fault::failure(format!(
                    "docker {} made no progress for {} s and was killed",
                    self.words,
                    STALL.as_secs()
                ))
                .remedy("see the daemon's log"));
            }
            Ok(()) | Err(Errno::EINTR) => {}
            Err(errno) => {
                return Err(Fault::failure(format!(
                    "cannot wait for docker {}: {}",
                    self.words,
                    errno.desc()
                ))
                .remedy("try again"));
            }
        }
        for signal in self.signals.arrived() {
            if asks_to_end(signal) || signal == libc::SIGHUP {
                self.kill(libc::SIGTERM);
                let end = End::Signaled(signal);
                return Err(Fault::new(
                    end.status(),
                    format!("nest {end} while it made the next level"),
                )
                .remedy("start it again"));
            }
        }
        Ok(())
    }

    fn kill(&self, signal: i32) {
        // An error leaves nothing to do: this process ends in any case.
        let _ = process::kill(self.pid, signal);
    }
}

/// The pipe to docker's standard input.
struct Input<'a, 'b> {
    running: &'a mut Running<'b>,
    pipe: File,
    progress: ProgressLine,
    whose: &'a str,
    /// About how many bytes will be written.
    bytes: u64,
    done: u64,
    interrupted: Option<Fault>,
}

impl Input<'_, '_> {
    /// Closes the pipe. Returns the fault that interrupted the writing, if there was one.
    fn end(self) -> Option<Fault> {
        self.interrupted
    }

    fn advance(&mut self, count: usize) {
        const MB: u64 = 1_000_000;
        self.done = self.done.saturating_add(u64::try_from(count).unwrap_or(0));
        let (whose, bytes, done) = (self.whose, self.bytes, self.done);
        self.progress
            .show(|| format!("{whose}: {} of {} MB", done.min(bytes) / MB, bytes / MB));
    }
}

impl Write for Input<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.pipe.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let wanted = Some((self.pipe.as_fd(), PollFlags::POLLOUT));
                    if let Err(fault) = self.running.poll(wanted) {
                        self.interrupted = Some(fault);
                        return Err(io::Error::other("interrupted"));
                    }
                }
                Ok(count) => {
                    self.advance(count);
                    return Ok(count);
                }
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn null() -> Result<File, Fault> {
    Ok(read::null()
        .context("cannot open /dev/null")
        .remedy("check /dev")?)
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Fault> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC)
        .context("cannot make a pipe")
        .remedy("raise the limit of open files")
        .map_err(Fault::from)
}

fn nonblocking(file: &File) -> Result<(), Fault> {
    use nix::fcntl::{FcntlArg, fcntl};
    fcntl(file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .context("cannot make a pipe non-blocking")
        .remedy("try again")?;
    Ok(())
}
