//! The docker CLI as a child of `dind nest`, one at a time: what it is fed, what it says,
//! how it ends. Signals end it and then this process.

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
use crate::sys::end::End;
use crate::sys::process;
use crate::sys::search;
use crate::sys::signals::Signals;
use crate::sys::spawn::{self, Child, Session};

/// How long docker may do nothing at all: take no byte, say none, not end.
const STALL: Duration = Duration::from_secs(300);

/// The docker CLI, and what it is started with.
pub struct Docker<'a> {
    path: PathBuf,
    environment: &'a [(OsString, OsString)],
    signals: &'a mut Signals,
    progress: ProgressLine,
}

/// A docker that runs.
struct Running<'a> {
    signals: &'a mut Signals,
    pid: Pid,
    end: Option<End>,
    /// What it was told, for messages.
    words: String,
}

impl<'a> Docker<'a> {
    /// The CLI in `PATH`.
    pub fn find(
        config: &Config,
        environment: &'a [(OsString, OsString)],
        signals: &'a mut Signals,
    ) -> Result<Self, Fault> {
        Ok(Self {
            path: search::find(&["docker".into()], &config.search_path)?,
            environment,
            signals,
            progress: ProgressLine::new(config.log_format == LogFormat::Text),
        })
    }

    /// The CLI's file.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// What it prints. A status other than 0 is a fault; its own words are on standard
    /// error by then.
    pub fn output(&mut self, words: &[&str]) -> Result<String, Fault> {
        let (mut running, output) = self.start(words, null()?.as_fd(), io::stderr().as_fd())?;
        let text = running.read(output)?;
        running.ended_well()?;
        Ok(text)
    }

    /// Runs it, for whatever it can do; nobody need hear of what it cannot.
    pub fn attempt(&mut self, words: &[&str]) -> Result<(), Fault> {
        let null = null()?;
        let (mut running, output) = self.start(words, null.as_fd(), null.as_fd())?;
        running.read(output)?;
        running.wait().map(drop)
    }

    /// Runs it with what `write` writes, about `bytes`, as its standard input. `whose` is
    /// for the progress on a terminal.
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
        // Where docker ended early, its end says why, and the broken pipe does not.
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
            inherited: self.signals.inherited(),
            umask: None,
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
    /// Everything that it prints.
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
                        "cannot read what docker {} says: {error}",
                        self.words
                    ))
                    .remedy("try again"));
                }
            }
        }
    }

    /// How it ended.
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
            end => Err(Fault::failure(format!(
                "docker {} {end}: see what it said above, and the daemon's log",
                self.words
            ))),
        }
    }

    fn reap(&mut self) {
        while let Some((pid, end)) = process::reap() {
            if pid == self.pid {
                self.end = Some(end);
            }
        }
    }

    /// Waits until a descriptor is ready, or a child has ended. Every other signal ends
    /// docker, and its number is the fault's.
    fn poll(&mut self, wanted: Option<(BorrowedFd<'_>, PollFlags)>) -> Result<(), Fault> {
        let began = Instant::now();
        let mut descriptors = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        descriptors.extend(wanted.map(|(descriptor, flags)| PollFd::new(descriptor, flags)));
        match self.signals.poll(&mut descriptors, Some(STALL)) {
            Ok(()) if began.elapsed() >= STALL => {
                self.kill(libc::SIGKILL);
                return Err(Fault::failure(format!(
                    "docker {} has done nothing for {} s and was killed",
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
            if matches!(
                signal,
                libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT
            ) {
                self.kill(libc::SIGTERM);
                let end = End::Signaled(signal);
                return Err(Fault::new(
                    end.status(),
                    format!("{end} while the next level was made"),
                ));
            }
        }
        Ok(())
    }

    fn kill(&self, signal: i32) {
        // It has ended then, or is nobody's to end.
        let _ = process::kill(self.pid, signal);
    }
}

/// docker's standard input.
struct Input<'a, 'b> {
    running: &'a mut Running<'b>,
    pipe: File,
    progress: ProgressLine,
    whose: &'a str,
    /// About how many bytes it will be.
    bytes: u64,
    done: u64,
    interrupted: Option<Fault>,
}

impl Input<'_, '_> {
    /// Ends what docker reads; the fault that kept it from being all.
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
    let file = File::options().read(true).write(true).open("/dev/null");
    Ok(file.context("cannot open /dev/null; check /dev")?)
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Fault> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC)
        .context("cannot make a pipe; raise the limit of open files")
        .map_err(Fault::from)
}

fn nonblocking(file: &File) -> Result<(), Fault> {
    use nix::fcntl::{FcntlArg, fcntl};
    fcntl(file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .context("cannot make a pipe that does not block; try again")?;
    Ok(())
}
