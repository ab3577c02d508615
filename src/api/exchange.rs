//! Requests to the API on its Unix socket, a connection for each, in HTTP/1.1 (RFC 9112).
//! Nothing here waits: the caller polls the descriptor and calls [`Exchange::advance`].

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::poll::PollFlags;

use super::answer::Answer;
use crate::sys::nonblocking::{connect, is_later};

/// How much is read of what is sent at once.
const PIECE: usize = 1 << 18;

/// What is sent behind the head of a request.
pub enum Body {
    /// Nothing.
    None,
    /// So many bytes of it.
    Sized(Box<dyn Read>, u64),
    /// All of it, in chunks.
    Chunked(Box<dyn Read>),
}

/// Why no answer, or not all of one, comes of an exchange.
#[derive(Debug)]
pub enum ExchangeError {
    /// The daemon has closed the connection before its answer was complete. It has ended, or
    /// does not say why; another daemon on the same socket may answer.
    Closed,
    /// What is sent cannot be read, what comes is not HTTP, or a system call has failed.
    Failed(anyhow::Error),
}

impl fmt::Display for ExchangeError {
    /// The whole chain on one line, outermost first.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => formatter.write_str("the daemon has closed the connection"),
            Self::Failed(error) => write!(formatter, "{error:#}"),
        }
    }
}

impl std::error::Error for ExchangeError {}

impl From<anyhow::Error> for ExchangeError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// A request, and what comes back.
pub struct Exchange {
    stream: UnixStream,
    body: Body,
    /// What is to be written next, and how much of it has been.
    piece: Vec<u8>,
    written: usize,
    /// What has come.
    pub answer: Answer,
}

impl Exchange {
    /// Connects to `socket`, on which somebody must listen. `target` is a path with its
    /// query.
    pub fn begin(socket: &Path, method: &str, target: &str, body: Body) -> Result<Self> {
        let stream =
            connect(socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
        // Closing is asked for, so that the daemon keeps nothing for us, and does not read
        // the rest of an archive that it refuses (writeHeader in Go's net/http/server.go).
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

    /// What the descriptor is to be polled for.
    pub fn awaited(&self) -> PollFlags {
        if self.written < self.piece.len() || !matches!(self.body, Body::None) {
            PollFlags::POLLIN | PollFlags::POLLOUT
        } else {
            PollFlags::POLLIN
        }
    }

    /// Writes and reads what can be, and no more than a piece of each. What came of the
    /// answer's content is put behind `content`. Whether anything was moved. The error says
    /// that the answer will never be complete.
    pub fn advance(&mut self, content: &mut Vec<u8>) -> Result<bool, ExchangeError> {
        // The answer first: it may say why the rest is not wanted.
        let read = self.read(content)?;
        let written = !self.answer.is_complete() && self.write()?;
        Ok(read || written)
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

    /// The daemon sends no more.
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
            // The answer says why, or there is none.
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

    /// Reads the next piece of what is sent.
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
                    bail!("it has become shorter while it was read");
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
                // RFC 9112, 7.1: one of no bytes is the last.
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

    /// A daemon's end of a connection, and what of a request it gets.
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
            // As much as is there.
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

    /// What is sent is not missed where the daemon has an answer without it, and has gone.
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
        // Without one, that is said.
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
        let said = short.map_err(|error| error.to_string());
        assert_eq!(said, Err("it has become shorter while it was read".into()));
        Ok(())
    }
}
