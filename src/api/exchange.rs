//! Requests to the API on its Unix socket, a connection for each: what dockerd speaks of
//! HTTP/1.1 (RFC 9112). Nothing here waits: the caller polls the descriptor and calls
//! [`Exchange::advance`].

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::poll::PollFlags;

use crate::sys::nonblocking::{connect, is_later};

/// How much is read of what is sent at once.
const PIECE: usize = 1 << 18;

/// What a part of an answer that is no content may have: its head, the line before a chunk.
const LONGEST: usize = 1 << 16;

/// Fields of a head. Go sends a dozen.
const FIELDS: usize = 64;

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

/// What comes next in an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Next {
    /// The status line and the fields.
    #[default]
    Head,
    /// So many bytes of content, and then the end: of all, or of a chunk.
    Content { left: u64, chunk: bool },
    /// Content, as long as the connection is open.
    Unsized,
    /// The line with a chunk's size.
    ChunkSize,
    /// The end of the chunk's last line.
    ChunkEnd,
    /// Fields behind the last chunk.
    Trailer,
    /// Nothing.
    End,
}

/// An answer, taken in the parts in which it comes.
#[derive(Debug, Default)]
pub struct Answer {
    next: Next,
    /// What is not yet a whole line or a whole head.
    held: Vec<u8>,
    status: Option<u16>,
    api_version: Option<(u32, u32)>,
}

impl Answer {
    /// The status of a head that has come.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// The version of the API that the daemon has, as in 1.42.
    pub fn api_version(&self) -> Option<(u32, u32)> {
        self.api_version
    }

    /// Whether all has come.
    pub fn is_complete(&self) -> bool {
        self.next == Next::End
    }

    /// Takes what has come, and puts what is content of it behind `content`. What comes after
    /// the end is nobody's.
    pub fn take(&mut self, bytes: &[u8], content: &mut Vec<u8>) -> Result<()> {
        let mut held = std::mem::take(&mut self.held);
        held.extend(bytes);
        let mut rest = held.as_slice();
        while let Some(used) = self.step(rest, content)? {
            rest = rest.get(used..).unwrap_or_default();
        }
        if rest.len() > LONGEST {
            bail!("the daemon's answer has a line or a head of more than {LONGEST} bytes");
        }
        self.held = rest.to_vec();
        Ok(())
    }

    /// The connection has ended. Whether the answer is complete; one without a length is by
    /// that: RFC 9112, 6.3.
    pub fn end(&mut self) -> bool {
        if self.next == Next::Unsized {
            self.next = Next::End;
        }
        self.is_complete()
    }

    /// Takes one part; how many bytes it had, or nothing where it has not come yet.
    fn step(&mut self, rest: &[u8], content: &mut Vec<u8>) -> Result<Option<usize>> {
        if rest.is_empty() {
            return Ok(None);
        }
        let mut copy = |left: u64| {
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            content.extend(rest.get(..count).unwrap_or_default());
            let left = left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
            (count, left)
        };
        match self.next {
            Next::Head => self.head(rest),
            Next::Content { left, chunk } => {
                let (count, left) = copy(left);
                self.next = match left {
                    0 if chunk => Next::ChunkEnd,
                    0 => Next::End,
                    left => Next::Content { left, chunk },
                };
                Ok(Some(count))
            }
            Next::Unsized => Ok(Some(copy(u64::MAX).0)),
            Next::ChunkSize => match httparse::parse_chunk_size(rest) {
                Ok(httparse::Status::Complete((used, size))) => {
                    self.next = if size == 0 {
                        Next::Trailer
                    } else {
                        Next::Content {
                            left: size,
                            chunk: true,
                        }
                    };
                    Ok(Some(used))
                }
                Ok(httparse::Status::Partial) => Ok(None),
                Err(_) => bail!("the daemon's answer has a chunk of no size"),
            },
            Next::ChunkEnd => match rest {
                [b'\r', b'\n', ..] => {
                    self.next = Next::ChunkSize;
                    Ok(Some(2))
                }
                [b'\r'] => Ok(None),
                _ => bail!("the daemon's answer has a chunk of another size than it says"),
            },
            Next::Trailer => {
                let Some(end) = memchr::memchr(b'\n', rest) else {
                    return Ok(None);
                };
                if matches!(rest.get(..end), Some([] | [b'\r'])) {
                    self.next = Next::End;
                }
                Ok(Some(end.saturating_add(1)))
            }
            Next::End => Ok(None),
        }
    }

    fn head(&mut self, rest: &[u8]) -> Result<Option<usize>> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let used = match response.parse(rest) {
            Ok(httparse::Status::Complete(used)) => used,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => bail!("the daemon's answer is not HTTP: {error}"),
        };
        let status = response.code.unwrap_or_default();
        if status < 200 {
            // RFC 9110, 15.2: the answer comes after it.
            return Ok(Some(used));
        }
        let field = |name: &str| {
            let mut fields = response.headers.iter();
            let found = fields.find(|field| field.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(found.value).ok()
        };
        self.status = Some(status);
        self.api_version = field("Api-Version").and_then(version);
        let chunked = field("Transfer-Encoding")
            .is_some_and(|coding| coding.trim().eq_ignore_ascii_case("chunked"));
        // RFC 9112, 6.3.
        self.next = match field("Content-Length") {
            _ if matches!(status, 204 | 304) => Next::End,
            _ if chunked => Next::ChunkSize,
            None => Next::Unsized,
            Some(length) => match length.trim().parse() {
                Ok(0) => Next::End,
                Ok(left) => Next::Content { left, chunk: false },
                Err(_) => bail!("the daemon's answer has no length that is one"),
            },
        };
        Ok(Some(used))
    }
}

/// `1.42` as two numbers.
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use super::*;
    use proptest::prelude::*;

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

    const CHUNKED: &[u8] =
        b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nTransfer-Encoding: chunked\r\n\r\n\
        5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: 1\r\n\r\n";

    /// The content of an answer that comes in parts of `size` bytes.
    fn taken(bytes: &[u8], size: usize) -> Result<(Answer, String)> {
        let (mut answer, mut content) = (Answer::default(), Vec::new());
        for part in bytes.chunks(size) {
            answer.take(part, &mut content)?;
        }
        Ok((answer, String::from_utf8(content)?))
    }

    #[test]
    fn content_is_the_same_in_whatever_parts_it_comes() -> Result<()> {
        let sized = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello";
        let continued =
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        let whole: [(&[u8], u16, &str); 4] = [
            (CHUNKED, 200, "hello world"),
            (sized, 404, "hello"),
            (continued, 200, "hi"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, ""),
        ];
        for (bytes, status, expected) in whole {
            for size in 1..=bytes.len() {
                let (answer, content) = taken(bytes, size)?;
                assert_eq!(
                    (answer.status(), content.as_str()),
                    (Some(status), expected)
                );
                assert!(answer.is_complete(), "{expected:?} in parts of {size}");
            }
        }
        assert_eq!(taken(CHUNKED, 7)?.0.api_version(), Some((1, 41)));
        Ok(())
    }

    #[test]
    fn an_answer_without_a_size_ends_with_the_connection() -> Result<()> {
        let (mut answer, content) = taken(b"HTTP/1.1 200 OK\r\n\r\nhello", 3)?;
        assert!(!answer.is_complete());
        assert!(answer.end());
        assert!(answer.is_complete());
        assert_eq!(content, "hello");
        Ok(())
    }

    #[test]
    fn an_answer_that_breaks_off_is_an_error() -> Result<()> {
        for end in 0..CHUNKED.len() {
            let (mut answer, _) = taken(CHUNKED.get(..end).unwrap_or_default(), 9)?;
            assert!(!answer.end(), "after {end} bytes");
        }
        Ok(())
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for bytes in [
            &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
            &[b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; 2 * LONGEST]].concat(),
        ] {
            assert!(taken(bytes, 100).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, size in 1_usize..64) {
            let _ = taken(&bytes, size);
        }
    }
}
