//! Turns the lines of the daemons into JSON: what a start does with `DIND_LOG_FORMAT=json`, in
//! a child of PID 1's own. PID 1 keeps both ends of every pipe, so that no daemon is ever told
//! that nobody reads, and what is in a pipe is not lost with this child.
//!
//! A sink that cannot be written loses lines; one that blocks makes this child wait, and then
//! the daemons, as they would wait if they had it themselves.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::SystemTime;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd;

use crate::messages::json_log::{self, Defaults};

/// What is read at once: a pipe's capacity with the usual pages, pipe(7).
const READ: usize = 64 * 1024;

/// How much of a line is kept until its end comes. What is longer is several lines.
const LONGEST: usize = 64 * 1024;

/// What a pipe can have in it: its sixteen pages where they are the largest.
const MOST_IN_A_PIPE: usize = 1024 * 1024;

/// What a daemon or hooks write, and where it goes.
pub struct Stream<'a> {
    /// The name of the source.
    pub source: &'static str,
    /// The level of lines that do not say theirs.
    pub level: &'static str,
    /// The reading end of its pipe, which does not block.
    pub pipe: BorrowedFd<'a>,
    /// The place of its sink.
    pub sink: usize,
}

/// Goes on until PID 1 has closed its end of `control`, each byte from which is answered with
/// itself once every line that was written before it is in its sink; with the byte `last`,
/// beginnings of lines too.
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
            // In one turn a daemon that writes without end keeps no other waiting.
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
            // Nobody waits for it if this fails.
            let _ = control.write_all(&request);
        }
    }
}

/// What a wait found.
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
        Err(errno) => return Err(errno).context("cannot wait for the daemons' lines; see poll(2)"),
    }
    let mut happened = descriptors
        .iter()
        .map(|descriptor| descriptor.any().unwrap_or(true));
    Ok(Ready {
        control: happened.next().unwrap_or(false),
        streams: happened.collect(),
    })
}

/// Lines out of bytes that come as they like.
#[derive(Default)]
struct Lines {
    /// The beginning of one.
    held: Vec<u8>,
}

impl Lines {
    /// Gives out, without their ends, the lines that these bytes complete. A blank one, as
    /// usage texts have them, says nothing.
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

    /// Gives out the beginning of a line whose end may never come.
    fn end(&mut self, mut line: impl FnMut(&[u8])) {
        let rest = std::mem::take(&mut self.held);
        if !rest.trim_ascii().is_empty() {
            line(&rest);
        }
    }
}

/// Where a line that is too long is cut: before a character of UTF-8 that would be cut too.
fn cut(line: &[u8]) -> usize {
    let is_boundary = |place: &usize| {
        let byte = line.get(*place);
        byte.is_none_or(|byte| byte & 0b1100_0000 != 0b1000_0000)
    };
    let places = (LONGEST.saturating_sub(3)..=LONGEST).rev();
    places.into_iter().find(is_boundary).unwrap_or(LONGEST)
}

/// Where lines go.
struct Sink<'a> {
    descriptor: BorrowedFd<'a>,
    /// Whether the last line is there in part.
    torn: bool,
}

impl<'a> Sink<'a> {
    fn new(descriptor: BorrowedFd<'a>) -> Self {
        Self {
            descriptor,
            torn: false,
        }
    }

    /// Writes a line of a daemon's at once, so that lines of others do not come into it, or
    /// loses it.
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

    /// Waits until it can be written: somebody outside has made it one that does not block.
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
    fn a_line_without_an_end_is_given_out_in_parts() {
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
    fn a_line_that_is_torn_does_not_tear_the_next() -> io::Result<()> {
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
        assert!(!sink.torn, "nothing of it is there");
        Ok(())
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_they_come(
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
