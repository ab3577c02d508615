//! The log relay: a child of PID 1 that turns the daemons' lines into JSON, with
//! `DIND_LOG_FORMAT=json`. PID 1 keeps both ends of every pipe, so no daemon gets SIGPIPE, and
//! the content of a pipe is not lost with this child.
//!
//! A sink with write errors loses lines. From a sink that nobody reads this child waits, and answers
//! PID 1 meanwhile; the daemons wait, too, as if they wrote to it themselves, when their pipes are
//! full.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::SystemTime;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd;

use crate::messages::backlog::Backlog;
use crate::messages::json_log::{self, Defaults};
use crate::messages::remedy::Remedy;
use crate::sys::outlet::Outlet;

/// The most bytes of one read. Short lines become many times as long, and may have to wait.
const READ: usize = 16 * 1024;

/// The longest line, in bytes. A longer one is split.
const LONGEST: usize = 64 * 1024;

/// The most bytes in a pipe: sixteen pages, where these have the largest size, 64 KiB.
const MOST_IN_A_PIPE: usize = 1024 * 1024;

/// The output of a daemon or of hooks, and its destination.
pub struct Stream<'a> {
    /// The `source` of its lines in JSON.
    pub source: &'static str,
    /// The level of lines that have none.
    pub level: &'static str,
    /// The read end of its pipe, which does not block.
    pub pipe: BorrowedFd<'a>,
    /// The index of its sink.
    pub sink: usize,
}

/// Relays lines until PID 1 closes its end of `control`. Each byte that PID 1 sends there is sent
/// back when every line that was written before it is in its sink, unless another byte comes first;
/// with the byte `last`, unfinished lines, too. The error is that of poll(2).
pub fn run(
    streams: &[Stream<'_>],
    sinks: &[BorrowedFd<'_>],
    mut control: UnixStream,
    last: u8,
) -> Result<()> {
    let mut buffer = vec![0; READ];
    let mut sources: Vec<Source<'_>> = streams.iter().map(Source::new).collect();
    let mut sinks: Vec<Sink<'_>> = sinks.iter().copied().map(Sink::new).collect();
    let mut request = None;
    loop {
        let ready = wait(&sources, &sinks, &control)?;
        let mut byte = [0];
        match ready.control.then(|| control.read(&mut byte)) {
            Some(Ok(0)) => return Ok(()),
            Some(Ok(_)) => {
                request = Some(byte);
                for source in &mut sources {
                    source.owed = MOST_IN_A_PIPE;
                }
                for sink in &mut sinks {
                    sink.owes = true;
                }
            }
            Some(Err(_)) | None => {}
        }
        sinks.iter_mut().for_each(Sink::drain);
        settle(&sources, &mut sinks);
        for (source, ready) in sources.iter_mut().zip(ready.sources) {
            if let Some(sink) = sinks.get_mut(source.stream.sink) {
                source.read(&mut buffer, sink, ready, request == Some([last]));
            }
        }
        settle(&sources, &mut sinks);
        if let Some(answer) = request
            && !sinks.iter().any(|sink| sink.owes)
        {
            request = None;
            // It fails only where PID 1 no longer waits for the byte.
            let _ = control.write_all(&answer);
        }
    }
}

/// Notes which sinks have taken all that was written before the request. Later lines do not count:
/// a daemon that writes without end does not hold up the answer.
fn settle(sources: &[Source<'_>], sinks: &mut [Sink<'_>]) {
    for (place, sink) in sinks.iter_mut().enumerate() {
        let mut own = sources.iter().filter(|source| source.stream.sink == place);
        sink.owes &= !sink.backlog.is_empty() || own.any(|source| source.owed > 0);
    }
}

/// The results of one poll(2). `sources` has the order of the sources.
struct Ready {
    control: bool,
    sources: Vec<bool>,
}

/// Waits for a request, for a sink that takes more of the lines that wait for it, and for lines
/// whose sink has none that wait.
fn wait(sources: &[Source<'_>], sinks: &[Sink<'_>], control: &UnixStream) -> Result<Ready> {
    let mut descriptors = vec![PollFd::new(control.as_fd(), PollFlags::POLLIN)];
    descriptors.extend(sources.iter().map(|source| {
        let sink = sinks.get(source.stream.sink);
        let wanted = match sink.is_some_and(|sink| sink.backlog.is_empty()) {
            true => PollFlags::POLLIN,
            false => PollFlags::empty(),
        };
        PollFd::new(source.stream.pipe, wanted)
    }));
    let full = sinks.iter().filter(|sink| !sink.backlog.is_empty());
    descriptors.extend(full.map(|sink| PollFd::new(sink.outlet.as_fd(), PollFlags::POLLOUT)));
    match poll(&mut descriptors, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => {
            return Err(errno)
                .context("cannot wait for the daemons' lines")
                .remedy("see poll(2)");
        }
    }
    let mut happened = descriptors
        .iter()
        .map(|descriptor| descriptor.any().unwrap_or(true));
    Ok(Ready {
        control: happened.next().unwrap_or(false),
        sources: happened.take(sources.len()).collect(),
    })
}

/// A stream that is read.
struct Source<'a> {
    stream: &'a Stream<'a>,
    lines: Lines,
    /// How many bytes are still to be read, if there are so many, before a request is answered.
    owed: usize,
}

impl<'a> Source<'a> {
    fn new(stream: &'a Stream<'a>) -> Self {
        Self {
            stream,
            lines: Lines::default(),
            owed: 0,
        }
    }

    /// Reads what a request waits for, or else what one turn allows where the pipe is `ready`, so
    /// that a daemon that writes without end does not hold up the others. Where lines wait for the
    /// sink, the daemon waits, too, once its pipe is full. With `to_the_end`, the beginning of a
    /// line is a line.
    fn read(&mut self, buffer: &mut [u8], sink: &mut Sink<'_>, ready: bool, to_the_end: bool) {
        let mut turn = match ready {
            true => READ.max(self.owed),
            false => self.owed,
        };
        while turn > 0 && sink.backlog.is_empty() {
            match unistd::read(self.stream.pipe, &mut *buffer) {
                Ok(count @ 1..) => {
                    turn = turn.saturating_sub(count);
                    self.owed = self.owed.saturating_sub(count);
                    let bytes = buffer.get(..count).unwrap_or_default();
                    self.lines.take(bytes, |line| sink.print(self.stream, line));
                }
                Err(Errno::EINTR) => {}
                Ok(0) | Err(_) => (turn, self.owed) = (0, 0),
            }
        }
        if self.owed == 0 && to_the_end {
            self.lines.end(|line| sink.print(self.stream, line));
        }
    }
}

/// Splits a stream of bytes into lines.
#[derive(Default)]
struct Lines {
    /// The beginning of a line whose end has not come.
    held: Vec<u8>,
}

impl Lines {
    /// Calls `line` with each line that `bytes` complete, without its end. Blank lines, as in
    /// usage texts, are dropped.
    fn take(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        self.held.extend_from_slice(bytes);
        let mut rest = self.held.as_slice();
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (whole, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();
            if !whole.trim_ascii().is_empty() {
                line(whole);
            }
        }
        while rest.len() >= LONGEST {
            let (part, after) = rest.split_at(cut(rest));
            rest = after;
            line(part);
        }
        self.held = rest.to_vec();
    }

    /// Calls `line` with the beginning of a line whose end may never come.
    fn end(&mut self, mut line: impl FnMut(&[u8])) {
        let rest = std::mem::take(&mut self.held);
        if !rest.trim_ascii().is_empty() {
            line(&rest);
        }
    }
}

/// Where to cut a line that is too long: not within a character of UTF-8.
fn cut(line: &[u8]) -> usize {
    let is_boundary = |place: &usize| {
        let byte = line.get(*place);
        byte.is_none_or(|byte| byte & 0b1100_0000 != 0b1000_0000)
    };
    let places = (LONGEST.saturating_sub(3)..=LONGEST).rev();
    places.into_iter().find(is_boundary).unwrap_or(LONGEST)
}

/// A destination of lines.
struct Sink<'a> {
    outlet: Outlet<BorrowedFd<'a>>,
    /// The lines of one read that its reader has not taken.
    backlog: Backlog,
    /// Whether it has not taken all that was written before a request.
    owes: bool,
}

impl<'a> Sink<'a> {
    fn new(descriptor: BorrowedFd<'a>) -> Self {
        Self {
            outlet: Outlet::new(descriptor),
            backlog: Backlog::default(),
            owes: false,
        }
    }

    /// Writes a line with a single write(2) where the sink takes all of it, so that lines of
    /// other processes do not mix with it.
    fn print(&mut self, stream: &Stream<'_>, line: &[u8]) {
        let defaults = Defaults {
            time: SystemTime::now(),
            level: stream.level,
        };
        let line = json_log::translated(stream.source, line, defaults);
        self.backlog.add((line + "\n").into_bytes());
        self.drain();
    }

    fn drain(&mut self) {
        self.outlet.drain(&mut self.backlog);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io;
    use std::os::fd::OwnedFd;

    use nix::fcntl::OFlag;
    use proptest::prelude::*;

    use super::*;

    fn lines(parts: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = Lines::default();
        let mut given = Vec::new();
        for part in parts {
            lines.take(part, |line| given.push(line.to_vec()));
            assert!(lines.held.len() < LONGEST);
        }
        lines.end(|line| given.push(line.to_vec()));
        given
    }

    #[test]
    fn a_line_without_an_end_is_split() {
        let long = "é".repeat(LONGEST);
        let parts: Vec<&[u8]> = long.as_bytes().chunks(1001).collect();
        let given = lines(&[&[b"a".as_slice()], parts.as_slice()].concat());
        assert_eq!(given.concat(), ["a", &long].concat().as_bytes());
        assert!(given.len() > 1);
        for line in given {
            assert!(line.len() <= LONGEST);
            assert!(std::str::from_utf8(&line).is_ok());
        }
        let bytes = vec![0x80; 3 * LONGEST];
        assert_eq!(lines(&[&bytes]).concat(), bytes);
    }

    /// A pipe to read from, and its other end.
    fn pipe() -> io::Result<(File, OwnedFd)> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok((File::from(reader), writer))
    }

    /// Writes to a pipe until it is full.
    fn fill(pipe: &OwnedFd, text: &[u8]) {
        while unistd::write(pipe, text).is_ok() {}
    }

    /// Reads until `text` has come; the deadline is against hanging only.
    fn read_until(reader: &mut (impl Read + AsFd), text: &str) -> io::Result<()> {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(text) {
            let mut ready = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
            assert_ne!(poll(&mut ready, 60_000_u16)?, 0, "{text} does not come");
            let mut buffer = [0; 4096];
            let count = reader.read(&mut buffer)?;
            seen.extend_from_slice(&buffer[..count]);
        }
        Ok(())
    }

    #[test]
    fn a_sink_that_nobody_reads_keeps_only_its_own_writers_waiting() -> io::Result<()> {
        let (mut free, stdout) = pipe()?;
        let (mut full, stderr) = pipe()?;
        fill(&stderr, b"x");
        let ((one, ours), (other, errors)) = (pipe()?, pipe()?);
        let (mut control, theirs) = UnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        let stream = |pipe, sink| Stream {
            source: "dockerd",
            level: "info",
            pipe,
            sink,
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let streams = [stream(other.as_fd(), 1), stream(one.as_fd(), 0)];
                run(&streams, &[stdout.as_fd(), stderr.as_fd()], theirs, 0)
            });
            // More than the relay takes, and a request for all of it.
            for _ in 0..2 {
                fill(&errors, &[b"x".repeat(99), b"\n".to_vec()].concat());
            }
            control.write_all(&[1])?;
            // With the third line at the latest, the request has been read before.
            for line in ["one line\n", "another line\n", "the third line\n"] {
                unistd::write(&ours, line.as_bytes())?;
                read_until(&mut free, line.trim_end())?;
            }
            // Nothing has been answered yet, since nothing has been written.
            control.set_nonblocking(true)?;
            let early = control.read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(early, Err(io::ErrorKind::WouldBlock));
            read_until(&mut full, r#""msg":"xxx"#)?;
            drop(full);
            read_until(&mut control, "\u{1}")?;
            // It ends with its parent's end of the socket.
            drop(control);
            Ok(())
        })
    }

    #[test]
    fn a_sink_without_a_reader_loses_lines() -> io::Result<()> {
        let (reader, writer) = UnixStream::pair()?;
        let stream = Stream {
            source: "dockerd",
            level: "error",
            pipe: writer.as_fd(),
            sink: 0,
        };
        let mut sink = Sink::new(writer.as_fd());
        drop(reader);
        sink.print(&stream, b"a");
        assert!(sink.backlog.is_empty());
        Ok(())
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_bytes_are_split(
            parts in proptest::collection::vec("[a \n]{0,6}", 0..20)
        ) {
            let whole = parts.concat();
            let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
            let wanted: Vec<&[u8]> = whole
                .split('\n')
                .filter(|line| !line.trim().is_empty())
                .map(str::as_bytes)
                .collect();
            prop_assert_eq!(lines(&parts), wanted);
        }
    }
}
