//! An incremental parser of the answer to a request: the part of HTTP/1.1 (RFC 9112) that
//! dockerd sends.

use anyhow::{Result, bail};

/// The largest head, and the longest line before a chunk, in bytes.
const LONGEST: usize = 1 << 16;

/// The most fields in a head. Go sends a dozen.
const FIELDS: usize = 64;

/// The next element of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Next {
    /// The status line and the fields.
    #[default]
    Head,
    /// This many bytes of content, and then the end of a chunk or of the answer.
    Content { left: u64, chunk: bool },
    /// Content up to the end of the connection.
    Unsized,
    /// The line with a chunk's size.
    ChunkSize,
    /// The line end after a chunk.
    ChunkEnd,
    /// The fields after the last chunk.
    Trailer,
    /// Nothing: the answer is complete.
    End,
}

/// An answer that comes in parts.
#[derive(Debug, Default)]
pub struct Answer {
    next: Next,
    /// The beginning of a line or a head whose end has not come.
    held: Vec<u8>,
    status: Option<u16>,
    api_version: Option<(u32, u32)>,
}

impl Answer {
    /// The HTTP status; `None` until the head has come.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// The version of the daemon's API, as in 1.42, from the field Api-Version; `None` until the
    /// head has come, and where it has no such field.
    pub fn api_version(&self) -> Option<(u32, u32)> {
        self.api_version
    }

    /// Whether all of the answer has come.
    pub fn is_complete(&self) -> bool {
        self.next == Next::End
    }

    /// Takes the next bytes, and appends their content to `content`. Bytes after the end of the
    /// answer are ignored. The error is that they are not HTTP, or that a line or the head is
    /// larger than 64 KiB.
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

    /// Takes the end of the connection, and returns whether the answer is complete. It completes
    /// an answer without a length: RFC 9112, 6.3.
    pub fn end(&mut self) -> bool {
        if self.next == Next::Unsized {
            self.next = Next::End;
        }
        self.is_complete()
    }

    /// Takes one element, and returns its size in bytes; `None` while it is incomplete.
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
                Err(_) => bail!("the daemon's answer has a chunk with an invalid size"),
            },
            Next::ChunkEnd => match rest {
                [b'\r', b'\n', ..] => {
                    self.next = Next::ChunkSize;
                    Ok(Some(2))
                }
                [b'\r'] => Ok(None),
                _ => bail!("the daemon's answer has a chunk that is longer than its size"),
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
            // RFC 9110, 15.2: the final answer comes after an interim one.
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
                Err(_) => bail!("the daemon's answer has an invalid Content-Length"),
            },
        };
        Ok(Some(used))
    }
}

/// Parses `1.42` into its two numbers.
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
    fn content_does_not_depend_on_how_the_answer_is_split() -> Result<()> {
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
    fn an_invalid_answer_is_an_error() {
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
