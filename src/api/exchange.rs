//! Requests to the API on its Unix socket, in HTTP/1.1 (RFC 9112), with one connection each.
//! Nothing here blocks: the caller polls the descriptor and calls [`Exchange::advance`].

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use super::answer::Answer;
use crate::messages::fault::Fault;
use crate::sys::nonblocking::{connect, is_later};
use crate::sys::wait;

/// The most bytes of a body that are read at once.
const PIECE: usize = 1 << 18;

/// The body of a request.
pub enum Body {
    /// The request has no body.
    None,
    /// This many bytes of the reader, with a Content-Length.
    Sized(Box<dyn Read>, u64),
    /// All bytes of the reader, in chunks.
    Chunked(Box<dyn Read>),
}

/// Why an exchange has no complete answer.
#[derive(Debug)]
pub enum ExchangeError {
    /// The daemon closed the connection before its answer was complete, without a reason, as it
    /// does when it ends. Another daemon on the same socket may answer.
    Closed,
    /// The body cannot be read, the answer is not HTTP, or a system call failed.
    Failed(anyhow::Error),
}

impl fmt::Display for ExchangeError {
    /// The whole chain on one line, outermost first.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => formatter.write_str("the daemon closed the connection"),
            Self::Failed(error) => write!(formatter, "{}", Fault::from(error)),
        }
    }
}

impl std::error::Error for ExchangeError {}

impl From<anyhow::Error> for ExchangeError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// A request and its answer.
pub struct Exchange {
    stream: UnixStream,
    body: Body,
    /// The bytes to write next, and how many of them have been written.
    piece: Vec<u8>,
    written: usize,
    /// The answer, as far as it has come.
    pub answer: Answer,
}

impl Exchange {
    /// Connects to `socket`, which must be listening, and prepares a request. `target` is a path
    /// with its query. The error is that of connect(2), and names the socket.
    pub fn begin(socket: &Path, method: &str, target: &str, body: Body) -> Result<Self> {
        let stream =
            connect(socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
        // With `Connection: close`, the daemon keeps no connection open, and does not read the
        // rest of an archive that it refuses (writeHeader in Go's net/http/server.go).
        let mut head =
            format!("{method} {target} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n");
        match &body {
            Body::None => {}
            Body::Sized(_, size) => head.push_str(&format!("Content-Length: {size}\r\n")),
            Body::Chunked(_) => head.push_str("Transfer-Encoding: chunked\r\n"),
        }
        head.push_str("\r\n");
        Ok(Self {
            stream,
            body,
            piece: head.into_bytes(),
            written: 0,
            answer: Answer::default(),
        })
    }

    /// The events to poll the descriptor for.
    pub fn awaited(&self) -> PollFlags {
        if self.written < self.piece.len() || !matches!(self.body, Body::None) {
            PollFlags::POLLIN | PollFlags::POLLOUT
        } else {
            PollFlags::POLLIN
        }
    }

    /// Reads and writes without blocking, at most one piece of each. New content of the answer is
    /// appended to `content`. Returns whether anything moved. The error is the reason why the
    /// answer will never be complete.
    pub fn advance(&mut self, content: &mut Vec<u8>) -> Result<bool, ExchangeError> {
        // The answer first: it may be complete before all of the body is sent.
        let read = self.read(content)?;
        let written = !self.answer.is_complete() && self.write()?;
        Ok(read || written)
    }

    /// Blocks until the answer is complete, and returns it with its content. The error is that it
    /// does not go on for `patience`, or that it is longer than `limit` bytes.
    pub fn finish(
        mut self,
        patience: Duration,
        limit: usize,
    ) -> Result<(Answer, Vec<u8>), ExchangeError> {
        let mut content = Vec::new();
        while !self.answer.is_complete() {
            let descriptor = PollFd::new(self.as_fd(), self.awaited());
            match poll(&mut [descriptor], wait::timeout(Some(patience))) {
                Ok(0) => return Err(anyhow!("no answer within {} s", patience.as_secs()).into()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(anyhow::Error::new(errno).context("poll").into()),
            }
            self.advance(&mut content)?;
            if content.len() > limit {
                return Err(anyhow!("the answer is longer than {limit} bytes").into());
            }
        }
        Ok((self.answer, content))
    }

    fn read(&mut self, content: &mut Vec<u8>) -> Result<bool, ExchangeError> {
        let mut buffer = [0; 1 << 14];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.end(),
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                self.answer.take(bytes, content)?;
                Ok(true)
            }
            Err(error) if is_later(&error) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.end(),
            Err(error) => {
                let error = anyhow::Error::new(error);
                Err(error.context("cannot read the daemon's answer").into())
            }
        }
    }

    /// Handles the end of what the daemon sends.
    fn end(&mut self) -> Result<bool, ExchangeError> {
        if self.answer.end() {
            Ok(true)
        } else {
            Err(ExchangeError::Closed)
        }
    }

    fn write(&mut self) -> Result<bool> {
        if self.written == self.piece.len() {
            self.refill()?;
        }
        let rest = self.piece.get(self.written..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(false);
        }
        match self.stream.write(rest) {
            Ok(count) => {
                self.written = self.written.saturating_add(count);
                Ok(true)
            }
            Err(error) if is_later(&error) => Ok(false),
            // The daemon reads no more. Its answer has the reason, if it sends one.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                self.body = Body::None;
                self.piece.clear();
                self.written = 0;
                Ok(true)
            }
            Err(error) => Err(error).context("cannot write to the daemon"),
        }
    }

    /// Reads the next piece of the body.
    fn refill(&mut self) -> Result<()> {
        self.piece.clear();
        self.written = 0;
        match &mut self.body {
            Body::None => {}
            Body::Sized(_, 0) => self.body = Body::None,
            Body::Sized(source, left) => {
                let piece = u64::try_from(PIECE).unwrap_or(u64::MAX).min(*left);
                let count = source
                    .take(piece)
                    .read_to_end(&mut self.piece)
                    .context("it cannot be read")?;
                if count == 0 {
                    bail!("it became shorter while it was read");
                }
                *left = left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
            }
            Body::Chunked(source) => {
                let mut part = Vec::new();
                let piece = u64::try_from(PIECE).unwrap_or(u64::MAX);
                source
                    .take(piece)
                    .read_to_end(&mut part)
                    .context("it cannot be read")?;
                // RFC 9112, 7.1: a chunk without bytes is the last.
                write!(self.piece, "{:x}\r\n", part.len())?;
                self.piece.extend(&part);
                self.piece.extend(b"\r\n");
                if part.is_empty() {
                    self.body = Body::None;
                }
            }
        }
        Ok(())
    }
}

impl AsFd for Exchange {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use super::*;

    /// The listening socket of a daemon.
    struct Daemon {
        listener: UnixListener,
        path: PathBuf,
    }

    impl Daemon {
        fn new(name: &str) -> Result<Self> {
            let name = format!("dind-api-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = std::fs::remove_file(&path);
            let listener = UnixListener::bind(&path)?;
            Ok(Self { listener, path })
        }

        fn begin(&self, body: Body) -> Result<(Exchange, UnixStream)> {
            let exchange = Exchange::begin(&self.path, "POST", "/x?y=1", body)?;
            let (stream, _) = self.listener.accept()?;
            stream.set_nonblocking(true)?;
            Ok((exchange, stream))
        }
    }

    impl Drop for Daemon {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Everything that an exchange sends.
    fn sent(body: Body, name: &str) -> Result<Vec<u8>> {
        let daemon = Daemon::new(name)?;
        let (mut exchange, mut stream) = daemon.begin(body)?;
        let mut request = Vec::new();
        while exchange.awaited().contains(PollFlags::POLLOUT) {
            exchange.advance(&mut Vec::new())?;
            // It ends with WouldBlock and keeps what it has read.
            let _ = stream.read_to_end(&mut request);
        }
        Ok(request)
    }

    #[test]
    fn a_body_is_sent_with_its_size_or_in_chunks() -> Result<()> {
        let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let size = u64::try_from(content.len())?;
        let source = || Box::new(io::Cursor::new(content.clone()));
        let head = "POST /x?y=1 HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n";
        let sized = sent(Body::Sized(source(), size), "sized")?;
        let expected = format!("{head}Content-Length: {size}\r\n\r\n");
        assert_eq!(sized, [expected.as_bytes(), &content].concat());

        let chunked = sent(Body::Chunked(source()), "chunked")?;
        let expected = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
        let mut rest = chunked
            .strip_prefix(expected.as_bytes())
            .context("a head")?;
        let mut received: Vec<u8> = Vec::new();
        loop {
            let parsed = httparse::parse_chunk_size(rest).ok().context("a chunk")?;
            let (start, size) = parsed.unwrap();
            let end = start + usize::try_from(size)?;
            received.extend(&rest[start..end]);
            assert_eq!(&rest[end..end + 2], b"\r\n");
            rest = &rest[end + 2..];
            if size == 0 {
                break;
            }
        }
        assert_eq!(rest, b"");
        assert!(received == content);
        Ok(())
    }

    /// A daemon may answer before it has read the whole body, and close the connection.
    #[test]
    fn an_early_answer_is_read_though_the_rest_cannot_be_sent() -> Result<()> {
        let daemon = Daemon::new("early")?;
        let endless = Body::Chunked(Box::new(io::repeat(0)));
        let (mut exchange, mut stream) = daemon.begin(endless)?;
        exchange.advance(&mut Vec::new())?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")?;
        drop(stream);
        let mut content = Vec::new();
        while !exchange.answer.is_complete() {
            exchange.advance(&mut content)?;
        }
        assert_eq!(content, b"no");
        // Without an answer, that is an error.
        let (mut exchange, stream) = daemon.begin(Body::Chunked(Box::new(io::repeat(0))))?;
        drop(stream);
        let failed = loop {
            if let Err(error) = exchange.advance(&mut content) {
                break error;
            }
        };
        assert!(matches!(failed, ExchangeError::Closed), "{failed}");
        Ok(())
    }

    #[test]
    fn a_file_that_becomes_shorter_is_an_error() -> Result<()> {
        let short = sent(Body::Sized(Box::new(io::Cursor::new(b"short")), 9), "short");
        let found = short.map_err(|error| error.to_string());
        assert_eq!(found, Err("it became shorter while it was read".into()));
        Ok(())
    }
}
