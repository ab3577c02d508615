//! `DIND_LOG_FORMAT=json`: the pipes that daemons and hooks write to, and the conversation with
//! the log relay, which makes JSON of what comes out of them. See [`crate::helpers::relay`].

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use super::machine::Process;
use crate::helpers::child::become_helper;
use crate::helpers::relay::{self, Stream};
use crate::sys::signals::Inherited;

/// The request for everything, also the beginnings of lines: there is nothing more to come.
pub const LAST: u8 = 0;

/// The pipes, where the lines go, and the relay that runs.
pub struct Relay {
    dockerd: Pipes,
    containerd: Pipes,
    hooks: Pipes,
    /// One for both streams, or one for each.
    sinks: Vec<OwnedFd>,
    /// This end of the conversation; nothing where no relay runs.
    control: Option<UnixStream>,
    /// The last request.
    request: u8,
    /// The last one, where its answer has not come.
    open: Option<u8>,
}

/// Standard output and error of a daemon, or of hooks.
struct Pipes([Pipe; 2]);

/// A pipe of which no end is ever closed: with no reader a daemon would be ended by SIGPIPE,
/// and a daemon that is started again gets the same one.
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Relay {
    /// Makes the pipes for lines that go to these two, which may be the same.
    pub fn new([stdout, stderr]: [BorrowedFd<'_>; 2]) -> Result<Self> {
        let make = || -> std::io::Result<Self> {
            let mut sinks = vec![stdout.try_clone_to_owned()?];
            if stdout.as_raw_fd() != stderr.as_raw_fd() {
                sinks.push(stderr.try_clone_to_owned()?);
            }
            Ok(Self {
                dockerd: Pipes::new()?,
                containerd: Pipes::new()?,
                hooks: Pipes::new()?,
                sinks,
                control: None,
                request: LAST,
                open: None,
            })
        };
        make().context("cannot make pipes for the daemons' lines; raise the limit of open files")
    }

    /// Standard output and error for a daemon or for hooks.
    pub fn output_for(&self, process: Process) -> [BorrowedFd<'_>; 2] {
        let Pipes(pipes) = match process {
            Process::Containerd => &self.containerd,
            Process::Dockerd => &self.dockerd,
            _ => &self.hooks,
        };
        pipes.each_ref().map(|pipe| pipe.writer.as_fd())
    }

    /// Makes the conversation with a relay that is about to be forked, and returns its end. What
    /// the one before was asked for, and did not do, this one is asked for.
    pub fn connect(&mut self) -> Result<UnixStream> {
        let (control, theirs) = UnixStream::pair().context("socketpair")?;
        control.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        self.control = Some(control);
        if let Some(open) = self.open {
            self.ask(open);
        }
        Ok(theirs)
    }

    /// Nothing is expected of a relay that could not be forked, or has ended.
    pub fn disconnect(&mut self) {
        self.control = None;
    }

    /// Relays lines, in the child.
    pub fn run(&self, inherited: &Inherited, control: UnixStream) -> Result<()> {
        // Both daemons log on standard error, so what is not a line of a log there is what the
        // Go runtime or a library has to complain of. A script's is anything.
        let sources = [
            ("dockerd", "error", &self.dockerd),
            ("containerd", "error", &self.containerd),
            ("hook", "info", &self.hooks),
        ];
        let streams: Vec<Stream<'_>> = sources
            .iter()
            .flat_map(|(source, errors, Pipes([stdout, stderr]))| {
                [(stdout, "info", 0), (stderr, *errors, 1)].map(|(pipe, level, sink)| Stream {
                    source,
                    level,
                    pipe: pipe.reader.as_fd(),
                    sink: self.sinks.len().saturating_sub(1).min(sink),
                })
            })
            .collect();
        let sinks: Vec<BorrowedFd<'_>> = self.sinks.iter().map(AsFd::as_fd).collect();
        let mut kept = sinks.clone();
        kept.extend(streams.iter().map(|stream| stream.pipe));
        kept.push(control.as_fd());
        become_helper(inherited, &kept)?;
        relay::run(&streams, &sinks, control, LAST)
    }

    /// Asks for every line that has been written so far. Returns what the answer will be.
    pub fn flush(&mut self) -> u8 {
        let request = match self.request.wrapping_add(1) {
            LAST => 1,
            request => request,
        };
        self.ask(request);
        request
    }

    /// Asks for everything.
    pub fn end(&mut self) {
        self.ask(LAST);
    }

    fn ask(&mut self, request: u8) {
        self.request = request;
        self.open = Some(request);
        if let Some(control) = &mut self.control {
            // Where it cannot be asked it does not read, or has ended: there is no answer then.
            let _ = control.write(&[request]);
        }
    }

    /// Reads the answers that have come, and returns the last of them. Requests are answered in
    /// their order, so that one is the answer to those before it, too.
    pub fn read_answers(&mut self) -> Option<u8> {
        let mut last = None;
        let mut answers = [0; 16];
        while let Some(control) = &mut self.control {
            match control.read(&mut answers) {
                Ok(0) => self.disconnect(),
                Ok(count) => {
                    last = answers
                        .get(..count)
                        .and_then(<[u8]>::last)
                        .copied()
                        .or(last)
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.disconnect(),
            }
        }
        self.open = self.open.filter(|open| Some(*open) != last);
        last
    }

    /// Whether a relay runs, as far as is known.
    pub fn is_connected(&self) -> bool {
        self.control.is_some()
    }

    /// What is readable when an answer has come.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.control.as_ref().map(AsFd::as_fd)
    }
}

impl Pipes {
    fn new() -> std::io::Result<Self> {
        Ok(Self([Pipe::new()?, Pipe::new()?]))
    }
}

impl Pipe {
    fn new() -> std::io::Result<Self> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        // The daemons wait where it is full; the relay does not where it is empty.
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { reader, writer })
    }
}
