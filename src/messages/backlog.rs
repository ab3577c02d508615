//! Lines that wait for a reader who does not read.

use std::collections::VecDeque;
use std::mem;

/// The most bytes of lines that wait: twice what a pipe holds (pipe(7)), and some 1,000 lines. No
/// memory is used while a reader reads.
const LIMIT: usize = 128 * 1024;

/// The lines, in their order, and the number of those for which there was no room.
#[derive(Debug, Default)]
pub struct Backlog {
    lines: VecDeque<Vec<u8>>,
    /// How much of the first line has been written.
    begun: usize,
    /// The bytes that wait.
    bytes: usize,
    lost: u64,
    /// Whether the last line that was written lacks its end.
    torn: bool,
}

impl Backlog {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether lines wait to be written, or the number of those that were lost waits to be told.
    pub fn waits(&self) -> bool {
        !self.is_empty() || self.lost > 0
    }

    /// Adds a line, with its end, whatever waits already.
    pub fn add(&mut self, line: Vec<u8>) {
        self.bytes = self.bytes.saturating_add(line.len());
        self.lines.push_back(line);
    }

    /// Adds a line, with its end, if there is room. If not, the line is counted, and so are those
    /// after it until [`Backlog::take_lost`] has been told: the count stands where the lines are
    /// missing.
    pub fn offer(&mut self, line: &[u8]) {
        let fits = self.bytes.saturating_add(line.len()) <= LIMIT || self.is_empty();
        match fits && self.lost == 0 {
            true => self.add(line.to_vec()),
            false => self.lost = self.lost.saturating_add(1),
        }
    }

    /// How many lines were lost, once half of the room is free. The next call begins at zero.
    pub fn take_lost(&mut self) -> u64 {
        match self.bytes <= LIMIT / 2 {
            true => mem::take(&mut self.lost),
            false => 0,
        }
    }

    /// The rest of the first line; `None` where nothing waits. After a line that was torn it begins
    /// with the missing end.
    pub fn rest(&mut self) -> Option<&[u8]> {
        let first = self.lines.front_mut()?;
        if mem::take(&mut self.torn) {
            first.insert(0, b'\n');
            self.bytes = self.bytes.saturating_add(1);
        }
        first.get(self.begun..)
    }

    /// Records that `count` bytes of [`Backlog::rest`] have been written.
    pub fn written(&mut self, count: usize) {
        self.begun = self.begun.saturating_add(count);
        self.bytes = self.bytes.saturating_sub(count);
        if self
            .lines
            .front()
            .is_some_and(|first| self.begun >= first.len())
        {
            self.remove();
        }
    }

    /// Gives up the first line, which cannot be written.
    pub fn skip(&mut self) {
        if let Some(first) = self.lines.front() {
            let left = first.len().saturating_sub(self.begun);
            self.bytes = self.bytes.saturating_sub(left);
            // No line begins with an end, but for one to which `rest` has added it.
            self.torn |= self.begun > 0 || first.starts_with(b"\n");
            self.remove();
        }
    }

    fn remove(&mut self) {
        self.lines.pop_front();
        self.begun = 0;
        if self.lines.is_empty() {
            self.lines = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Writes as much as a sink with `room` takes, and returns it.
    fn write(backlog: &mut Backlog, mut room: usize) -> Vec<u8> {
        let mut written = Vec::new();
        while let Some(rest) = backlog.rest() {
            let part = rest
                .get(..room.min(rest.len()))
                .unwrap_or_default()
                .to_vec();
            if part.is_empty() {
                break;
            }
            room -= part.len();
            backlog.written(part.len());
            written.extend(part);
        }
        written
    }

    #[test]
    fn a_full_backlog_counts_lines_until_half_of_it_is_written() {
        let mut backlog = Backlog::default();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let count = LIMIT / line.len();
        for _ in 0..count + 3 {
            backlog.offer(&line);
        }
        assert_eq!(backlog.lines.len(), count);
        // Room for one is not room for the many that may follow.
        write(&mut backlog, line.len());
        backlog.offer(&line);
        assert_eq!((backlog.lost, backlog.take_lost()), (4, 0));
        write(&mut backlog, LIMIT / 2);
        assert_eq!((backlog.take_lost(), backlog.take_lost()), (4, 0));
        backlog.offer(b"more\n");
        let rest = write(&mut backlog, usize::MAX);
        assert!(rest.ends_with(b"x\nmore\n"));
        assert_eq!((backlog.bytes, backlog.waits()), (0, false));
    }

    #[test]
    fn one_line_fits_whatever_its_length() {
        let mut backlog = Backlog::default();
        backlog.offer(&[b'x'; 2 * LIMIT]);
        backlog.offer(b"lost\n");
        assert_eq!(write(&mut backlog, usize::MAX).len(), 2 * LIMIT);
        assert!(backlog.is_empty() && backlog.waits());
        assert_eq!((backlog.take_lost(), backlog.waits()), (1, false));
    }

    #[test]
    fn a_line_after_a_torn_line_is_whole() {
        let mut backlog = Backlog::default();
        for line in ["torn\n", "skipped\n", "whole\n", "next\n"] {
            backlog.offer(line.as_bytes());
        }
        assert_eq!(write(&mut backlog, 2), b"to");
        backlog.skip();
        assert_eq!(backlog.rest(), Some(&b"\nskipped\n"[..]));
        backlog.skip();
        assert_eq!(write(&mut backlog, usize::MAX), b"\nwhole\nnext\n");
        assert_eq!(backlog.bytes, 0);
        // Nothing of it was written, so nothing is torn.
        backlog.offer(b"skipped\n");
        backlog.skip();
        backlog.offer(b"whole\n");
        assert_eq!(write(&mut backlog, usize::MAX), b"whole\n");
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_was_offered(
            lines in proptest::collection::vec("[a-c]{0,9}\n", 0..20),
            rooms in proptest::collection::vec(0..30_usize, 0..20),
        ) {
            let mut backlog = Backlog::default();
            let mut written = Vec::new();
            for place in 0..lines.len().max(rooms.len()) {
                if let Some(line) = lines.get(place) {
                    backlog.offer(line.as_bytes());
                }
                written.extend(write(&mut backlog, rooms.get(place).copied().unwrap_or(0)));
                prop_assert_eq!(
                    backlog.bytes,
                    backlog.lines.iter().map(Vec::len).sum::<usize>() - backlog.begun
                );
            }
            written.extend(write(&mut backlog, usize::MAX));
            prop_assert_eq!(String::from_utf8_lossy(&written), lines.concat());
        }
    }
}
