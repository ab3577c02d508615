//! `DIND_LOG_FORMAT=json`: the pipes that daemons and hooks write to, and the socket to the log
//! relay, which converts their lines to JSON. See [`crate::helpers::relay`].

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use super::machine::Process;
use crate::helpers::child::become_helper;
use crate::helpers::relay::{self, Stream};
use crate::messages::remedy::Remedy;
use crate::sys::signals::Inherited;

/// The last request: the relay is to write everything in the pipes, incomplete lines too, because
/// no more will come.
pub const LAST: u8 = 0;

/// The pipes, the descriptors that the JSON lines go to, and the socket to the relay.
pub struct Relay {
    dockerd: Pipes,
    containerd: Pipes,
    hooks: Pipes,
    /// Where JSON lines are written: one descriptor for both streams, or one for each.
    sinks: Vec<OwnedFd>,
    /// This end of the socket; `None` where no relay runs.
    control: Option<UnixStream>,
    /// The last request that was sent.
    request: u8,
    /// The same, until it is answered.
    open: Option<u8>,
}

/// Standard output and error of a daemon, or of hooks.
struct Pipes([Pipe; 2]);

/// A pipe. This process never closes an end of it: without a reader SIGPIPE would kill the daemon
/// (pipe(7)), and a restarted daemon gets the same pipe.
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// Makes a socket pair for this process and a helper.
pub fn pair() -> Result<(UnixStream, UnixStream)> {
    UnixStream::pair()
        .context("socketpair")
        .remedy("raise the limit of open files")
}

impl Relay {
    /// Makes the pipes. Takes the descriptors that JSON lines are written to, which may be the
    /// same. Fails where the limit of open files is reached.
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
        make()
            .context("cannot make the log relay's pipes")
            .remedy("raise the limit of open files")
    }

    /// The write ends of the pipes for standard output and standard error of a daemon, or of hooks.
    pub fn output_for(&self, process: Process) -> [BorrowedFd<'_>; 2] {
        let Pipes(pipes) = match process {
            Process::Containerd => &self.containerd,
            Process::Dockerd => &self.dockerd,
            _ => &self.hooks,
        };
        pipes.each_ref().map(|pipe| pipe.writer.as_fd())
    }

    /// Makes the socket pair for a relay that is about to be forked, and returns the relay's end. A
    /// request that its predecessor has not answered is repeated. Fails as socketpair(2) does.
    pub fn connect(&mut self) -> Result<UnixStream> {
        let (control, theirs) = pair()?;
        control.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        self.control = Some(control);
        if let Some(open) = self.open {
            self.ask(open);
        }
        Ok(theirs)
    }

    /// Closes the socket to a relay that has ended or could not be forked.
    pub fn disconnect(&mut self) {
        self.control = None;
    }

    /// Runs the log relay, in the child, with the descriptors that it needs and no others. Takes
    /// the relay's end of the socket.
    pub fn run(&self, inherited: &Inherited, control: UnixStream) -> Result<()> {
        // Both daemons log to standard error. A line there that is in no log format comes from the
        // Go runtime or a library, and is an error. A hook may write anything there.
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

    /// Requests that all lines in the pipes be written. Returns the answer that will confirm it.
    pub fn flush(&mut self) -> u8 {
        let request = match self.request.wrapping_add(1) {
            LAST => 1,
            request => request,
        };
        self.ask(request);
        request
    }

    /// Sends the last request, [`LAST`].
    pub fn end(&mut self) {
        self.ask(LAST);
    }

    fn ask(&mut self, request: u8) {
        self.request = request;
        self.open = Some(request);
        if let Some(control) = &mut self.control {
            // This fails where the relay does not read or has ended. Then no answer comes.
            let _ = control.write(&[request]);
        }
    }

    /// Reads the answers that have come, and returns the last one. Requests are answered in order,
    /// so the last answer confirms all earlier requests too. Never blocks.
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

    /// Whether a relay runs, as far as this process knows.
    pub fn is_connected(&self) -> bool {
        self.control.is_some()
    }

    /// The socket, readable when an answer has come or the relay has ended; `None` where no relay
    /// runs.
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
        // A daemon blocks on a full pipe. The relay must not block on an empty one.
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { reader, writer })
    }
}
