//! `DIND_LOG_FORMAT=json`: the pipes that daemons and hooks write to, and the child that makes JSON of
//! what comes out of them. See [`crate::helpers::relay`].

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{ForkResult, Pid, pipe2};
use tracing::warn;

use super::machine::Process;
use crate::helpers::child::{become_helper, leave_terminal};
use crate::helpers::relay::{self, Stream};
use crate::sys::end::End;
use crate::sys::process;
use crate::sys::signals::Signals;

/// One that ends sooner than this after its start waits so long for the next, and twice as
/// long each time that this happens again.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The request for everything, also the beginnings of lines.
const LAST: u8 = 0;

/// How long PID 1 waits for lines to be written: somebody outside may not read them.
const PATIENCE: Duration = Duration::from_millis(500);

/// What it is called in messages.
const NAME: &str = "what makes JSON of the daemons' lines";

/// The child, the pipes, and where the lines go.
pub struct Relay {
    dockerd: Pipes,
    containerd: Pipes,
    hooks: Pipes,
    /// One for both streams, or one for each.
    sinks: Vec<OwnedFd>,
    child: Option<Child>,
    /// When it is started again.
    due: Option<Duration>,
    /// How long after that it is the next time.
    pause: Duration,
    /// The last request.
    request: u8,
    /// Whether no request has been answered late. After one that was, the next is not waited
    /// for.
    prompt: bool,
}

struct Child {
    pid: Pid,
    control: UnixStream,
    started: Duration,
}

/// Standard output and error of a daemon, or of hooks.
struct Pipes([Pipe; 2]);

/// A pipe of which no end is ever closed: with no reader a daemon would be ended by SIGPIPE,
/// and a daemon that is started again gets the same one.
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// Whether the lines that were waited for are written.
enum Flushed {
    Yes,
    /// Nobody takes them, and they are not waited for any more.
    Late,
    /// There is no child.
    Gone,
}

impl Relay {
    /// Makes the pipes for lines that go to these two, which may be the same.
    pub fn new([stdout, stderr]: [BorrowedFd<'_>; 2]) -> Result<Self> {
        let make = || -> std::io::Result<Self> {
            let mut sinks = vec![stdout.try_clone_to_owned()?];
            if !is_same(stdout, stderr) {
                sinks.push(stderr.try_clone_to_owned()?);
            }
            Ok(Self {
                dockerd: Pipes::new()?,
                containerd: Pipes::new()?,
                hooks: Pipes::new()?,
                sinks,
                child: None,
                due: None,
                pause: PAUSE,
                request: LAST,
                prompt: true,
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

    /// Starts the child where there is none. Where that fails, the lines wait in the pipes.
    pub fn start(&mut self, signals: &Signals, now: Duration) {
        if self.child.is_some() {
            return;
        }
        self.due = None;
        match self.fork(signals, now) {
            Ok(child) => self.child = Some(child),
            Err(error) => {
                warn!("{NAME} cannot run: {error:#}; raise the container's pids limit");
                self.start_later(now);
            }
        }
    }

    fn start_later(&mut self, now: Duration) {
        self.due = Some(now.saturating_add(self.pause));
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
    }

    fn fork(&self, signals: &Signals, now: Duration) -> Result<Child> {
        let (control, theirs) = UnixStream::pair().context("socketpair")?;
        control.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        match process::fork().context("fork")? {
            ForkResult::Parent { child } => Ok(Child {
                pid: child,
                control,
                started: now,
            }),
            ForkResult::Child => {
                let done = self.run(signals, theirs);
                let done = done.inspect_err(|error| warn!("{NAME}: {error:#}"));
                process::exit_child(i32::from(done.is_err()))
            }
        }
    }

    fn run(&self, signals: &Signals, control: UnixStream) -> Result<()> {
        // Both daemons log on standard error, so what is no line of a log there is what the
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
        leave_terminal()?;
        become_helper(signals, &kept)?;
        relay::run(&streams, &sinks, control, LAST)
    }

    /// Has it write every line that the daemons have written so far.
    pub fn flush(&mut self, signals: &Signals, now: Duration) {
        self.request = match self.request.wrapping_add(1) {
            LAST => 1,
            request => request,
        };
        self.finish(signals, now);
    }

    /// Has it write everything; there is nothing more to come.
    pub fn end(&mut self, signals: &Signals, now: Duration) {
        self.request = LAST;
        self.finish(signals, now);
    }

    fn finish(&mut self, signals: &Signals, now: Duration) {
        let mut flushed = self.ask();
        let is_last = self.request == LAST;
        if matches!(flushed, Flushed::Gone) && (is_last || self.due.is_none()) {
            // Two of them would tear each other's lines.
            if let Some(child) = self.child.take() {
                let _ = process::kill(child.pid, libc::SIGKILL);
            }
            self.start(signals, now);
            self.prompt = true;
            flushed = self.ask();
        }
        self.prompt = !matches!(flushed, Flushed::Late);
    }

    fn ask(&mut self) -> Flushed {
        let request = [self.request];
        let Some(Child { control, .. }) = &mut self.child else {
            return Flushed::Gone;
        };
        match control.write_all(&request) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Flushed::Late,
            Err(_) => return Flushed::Gone,
        }
        let patience = if self.prompt {
            PATIENCE
        } else {
            Duration::ZERO
        };
        let mut deadline = Instant::now() + patience;
        let mut answers = [0; 16];
        loop {
            match control.read(&mut answers) {
                Ok(0) => return Flushed::Gone,
                // Those to earlier ones, which came late, are before it.
                Ok(count) => {
                    if answers
                        .iter()
                        .take(count)
                        .any(|answer| [*answer] == request)
                    {
                        return Flushed::Yes;
                    }
                    if !self.prompt {
                        // It goes on again.
                        self.prompt = true;
                        deadline = Instant::now() + PATIENCE;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Flushed::Gone,
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Flushed::Late;
            }
            let mut ready = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
            // An error means that nothing has come; the deadline is looked at anyway.
            let _ = poll(
                &mut ready,
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
            );
        }
    }

    /// Takes the end of a child, which may be this one: whoever ended it, it starts again.
    /// Whether it was.
    pub fn ended(&mut self, pid: Pid, end: End, signals: &Signals, now: Duration) -> bool {
        let Some(child) = self.child.take_if(|child| child.pid == pid) else {
            return false;
        };
        warn!("{NAME} {end}, and is started again");
        if now.saturating_sub(child.started) > PAUSE {
            self.pause = PAUSE;
            self.start(signals, now);
        } else {
            self.start_later(now);
        }
        true
    }

    /// When [`Self::tick`] is due.
    pub fn due(&self) -> Option<Duration> {
        self.due
    }

    /// Starts the child where it is due.
    pub fn tick(&mut self, signals: &Signals, now: Duration) {
        if self.due.is_some_and(|due| due <= now) {
            self.start(signals, now);
        }
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
        // The daemons wait where it is full; who reads does not where it is empty.
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { reader, writer })
    }
}

fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    use std::os::fd::AsRawFd;
    one.as_raw_fd() == other.as_raw_fd()
}
