//! One direction of a connection that a helper passes on, without blocking.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use nix::poll::PollFlags;

use crate::sys::nonblocking::is_later;

/// A stream socket that can be closed in one direction: shutdown(2).
pub trait Stream {
    /// Sends the end of what is written. The error is that of shutdown(2).
    fn end(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Stream for UnixStream {
    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Flow {
    /// Bytes that were read and are not yet written.
    held: Vec<u8>,
    /// Whether the sender has sent its end, and the receiver's socket is shut down for writing.
    ended: bool,
}

impl Flow {
    /// The events to poll for on the sender's socket and on the receiver's.
    pub fn interests(&self) -> (PollFlags, PollFlags) {
        match (self.held.is_empty(), self.ended) {
            (false, _) => (PollFlags::empty(), PollFlags::POLLOUT),
            (true, false) => (PollFlags::POLLIN, PollFlags::empty()),
            (true, true) => (PollFlags::empty(), PollFlags::empty()),
        }
    }

    /// Whether everything up to the sender's end has been passed on.
    pub fn is_done(&self) -> bool {
        self.ended && self.held.is_empty()
    }

    /// How many bytes were read and are not yet written.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Copies at most one buffer, without blocking. Returns whether anything moved.
    pub fn copy<'a, From, To>(
        &mut self,
        mut from: &'a From,
        to: &'a To,
        buffer: &mut [u8],
    ) -> io::Result<bool>
    where
        &'a From: Read,
        &'a To: Write,
        To: Stream,
    {
        if !self.held.is_empty() {
            let written = write(to, &self.held)?;
            if written == self.held.len() {
                // Most connections never hold anything again.
                self.held = Vec::new();
            } else {
                self.held.drain(..written.min(self.held.len()));
            }
            return Ok(written > 0);
        }
        if self.ended {
            return Ok(false);
        }
        match from.read(buffer) {
            Ok(0) => {
                self.ended = true;
                to.end()?;
                Ok(true)
            }
            Ok(count) => {
                let read = buffer.get(..count).unwrap_or_default();
                let written = write(to, read);
                // Also after an error: the caller may go on with another receiver.
                let count = written.as_ref().map_or(0, |count| *count);
                let rest = read.get(count..).unwrap_or_default();
                self.held.extend_from_slice(rest);
                written.map(|_| true)
            }
            Err(error) if is_later(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Writes without blocking. Returns how many bytes were written.
fn write<'a, To>(mut to: &'a To, bytes: &[u8]) -> io::Result<usize>
where
    &'a To: Write,
{
    match to.write(bytes) {
        Err(error) if is_later(&error) => Ok(0),
        written => written,
    }
}

/// The descriptors of a connection's two ends to poll, with their events: `there` is the flow from
/// the first end to the second, `back` the other. One without events is left out, as poll(2) would
/// return at once where the peer has closed it.
pub fn awaited<'a>(
    [first, second]: [BorrowedFd<'a>; 2],
    there: &Flow,
    back: &Flow,
) -> impl Iterator<Item = (BorrowedFd<'a>, PollFlags)> + use<'a> {
    let (first_in, second_out) = there.interests();
    let (second_in, first_out) = back.interests();
    [
        (first, first_in | first_out),
        (second, second_in | second_out),
    ]
    .into_iter()
    .filter(|(_, flags)| !flags.is_empty())
}

#[cfg(test)]
mod tests {
    use anyhow::Result;

    use super::*;

    #[test]
    fn what_a_receiver_refused_goes_to_the_next_one() -> Result<()> {
        let (mut client, from) = UnixStream::pair()?;
        let (refuses, peer) = UnixStream::pair()?;
        let (takes, mut end) = UnixStream::pair()?;
        drop(peer);
        client.write_all(b"question")?;
        let mut flow = Flow::default();
        let mut buffer = [0; 64];
        assert!(flow.copy(&from, &refuses, &mut buffer).is_err());
        assert!(flow.copy(&from, &takes, &mut buffer)?);
        let mut taken = [0; 8];
        end.read_exact(&mut taken)?;
        assert_eq!(&taken, b"question");
        Ok(())
    }
}
