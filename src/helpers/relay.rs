//! The log relay: a child of PID 1 that turns the daemons' lines into JSON, with
//! `DIND_LOG_FORMAT=json`. PID 1 keeps both ends of every pipe, so no daemon gets SIGPIPE, and
//! the content of a pipe is not lost with this child.
//!
//! A sink with write errors loses lines. A sink that blocks makes this child wait, and then the
//! daemons, as if they wrote to it themselves.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::SystemTime;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd;

use crate::messages::json_log::{self, Defaults};
use crate::messages::remedy::Remedy;

/// The most bytes of one read: a pipe's capacity with pages of 4 KiB, pipe(7).
const READ: usize = 64 * 1024;

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
/// back when every line that was written before it is in its sink; with the byte `last`,
/// unfinished lines, too. The error is that of poll(2).
pub fn run(
    streams: &[Stream<'_>],
    sinks: &[BorrowedFd<'_>],
    mut control: UnixStream,
    last: u8,
) -> Result<()> {
    let mut buffer = vec![0; READ];
    let mut lines: Vec<Lines> = streams.iter().map(|_| Lines::default()).collect();
    let mut sinks: Vec<Sink<'_>> = sinks.iter().copied().map(Sink::new).collect();
    loop {
        let ready = wait(streams, &control)?;
        let mut request = [0];
        let asked = match ready.control.then(|| control.read(&mut request)) {
            Some(Ok(0)) => return Ok(()),
            Some(Ok(_)) => true,
            Some(Err(_)) | None => false,
        };
        for ((stream, lines), ready) in streams.iter().zip(&mut lines).zip(ready.streams) {
            let mut print = |line: &[u8]| {
                if let Some(sink) = sinks.get_mut(stream.sink) {
                    sink.print(stream, line);
                }
            };
            // Bounded, so that a daemon that writes without end does not hold up the others.
            let most = match asked {
                true => MOST_IN_A_PIPE,
                false => READ,
            };
            let mut count = 0;
            while (ready || asked) && count < most {
                match unistd::read(stream.pipe, &mut buffer) {
                    Ok(read @ 1..) => {
                        count = count.saturating_add(read);
                        lines.take(buffer.get(..read).unwrap_or_default(), &mut print);
                    }
                    Err(Errno::EINTR) => {}
                    Ok(0) | Err(_) => break,
                }
            }
            if asked && request == [last] {
                lines.end(&mut print);
            }
        }
        if asked {
            // It fails only where PID 1 no longer waits for the byte.
            let _ = control.write_all(&request);
        }
    }
}

/// The results of one poll(2). `streams` has the order of the streams.
struct Ready {
    control: bool,
    streams: Vec<bool>,
}

fn wait(streams: &[Stream<'_>], control: &UnixStream) -> Result<Ready> {
    let read = |descriptor| PollFd::new(descriptor, PollFlags::POLLIN);
    let mut descriptors = vec![read(control.as_fd())];
    descriptors.extend(streams.iter().map(|stream| read(stream.pipe)));
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
        streams: happened.collect(),
    })
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
    descriptor: BorrowedFd<'a>,
    /// Whether only a part of the last line was written.
    torn: bool,
}

impl<'a> Sink<'a> {
    fn new(descriptor: BorrowedFd<'a>) -> Self {
        Self {
            descriptor,
            torn: false,
        }
    }

    /// Writes a line with a single write(2) where the sink takes all of it, so that lines of
    /// other processes do not mix with it. After an error the rest of the line is lost.
    fn print(&mut self, stream: &Stream<'_>, line: &[u8]) {
        let defaults = Defaults {
            time: SystemTime::now(),
            level: stream.level,
        };
        let begin = if self.torn { "\n" } else { "" };
        let line = json_log::translated(stream.source, line, defaults);
        let text = format!("{begin}{line}\n");
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match unistd::write(self.descriptor, rest) {
                Ok(count @ 1..) => rest = rest.get(count..).unwrap_or_default(),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if self.wait().is_ok() => {}
                Ok(0) | Err(_) => break,
            }
        }
        self.torn = match rest.len() {
            0 => false,
            left => self.torn || left < text.len(),
        };
    }

    /// Waits until the sink is writable. It does not block where another process that shares it
    /// has set O_NONBLOCK.
    fn wait(&self) -> io::Result<()> {
        let mut ready = [PollFd::new(self.descriptor, PollFlags::POLLOUT)];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    #[test]
    fn a_line_after_a_torn_line_is_whole() -> io::Result<()> {
        let (mut reader, writer) = UnixStream::pair()?;
        let stream = Stream {
            source: "dockerd",
            level: "error",
            pipe: reader.as_fd(),
            sink: 0,
        };
        let mut sink = Sink {
            descriptor: writer.as_fd(),
            torn: true,
        };
        sink.print(&stream, b"a");
        assert!(!sink.torn);
        sink.print(&stream, b"b");
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text)?;
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            matches!(lines[..], ["", a, b] if a.ends_with(r#""msg":"a"}"#) && b.ends_with(r#""msg":"b"}"#)),
            "{text}"
        );
        Ok(())
    }

    #[test]
    fn a_sink_that_nobody_reads_loses_lines() -> io::Result<()> {
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
        assert!(!sink.torn, "no part of the line was written");
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
