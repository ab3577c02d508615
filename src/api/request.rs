//! A request that a helper serves, in HTTP/1.1 (RFC 9112): the other side of [`super::answer`].
//!
//! Pure, and no more than the clients of rootlesskit's API need: a request has one head, and a
//! content of the length that the head says.

use anyhow::{Context, Result, bail};

/// The most bytes of a request, head and content. Those that are served have less than 1 KiB.
pub const LARGEST: usize = 16 << 10;

/// The most fields of a head. Go's client sends five.
const FIELDS: usize = 32;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method: `GET`.
    pub method: String,
    /// The target: `/v1/info`.
    pub target: String,
    /// The content.
    pub content: Vec<u8>,
}

impl Request {
    /// Takes a request off the bytes that have come so far; `None` while some of it is missing. The
    /// error is that they are not such a request, and never can be.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let parsed = Self::parse_unbounded(bytes)?;
        if parsed.is_none() && bytes.len() >= LARGEST {
            bail!("the request has more than {LARGEST} bytes");
        }
        Ok(parsed)
    }

    fn parse_unbounded(bytes: &[u8]) -> Result<Option<Self>> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        let head = match request.parse(bytes) {
            Ok(httparse::Status::Complete(head)) => head,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => bail!("the request is not HTTP: {error}"),
        };
        let mut length = None;
        for field in request.headers.iter() {
            if field.name.eq_ignore_ascii_case("Transfer-Encoding") {
                bail!("a request with a Transfer-Encoding is not served");
            }
            if field.name.eq_ignore_ascii_case("Content-Length") {
                let text = std::str::from_utf8(field.value).unwrap_or_default();
                // Digits only: parse() takes a sign, too.
                let digits =
                    Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
                let found: Option<usize> = digits.and_then(|text| text.parse().ok());
                let found = found.context("the request has an invalid Content-Length")?;
                // RFC 9112, 6.3: two that differ are an attempt to be read in two ways.
                if length.is_some_and(|length| length != found) {
                    bail!("the request has more than one Content-Length");
                }
                length = Some(found);
            }
        }
        let length = length.unwrap_or(0);
        if length > LARGEST {
            bail!("the request has more than {LARGEST} bytes");
        }
        let rest = bytes.get(head..).unwrap_or_default();
        let Some(content) = rest.get(..length) else {
            return Ok(None);
        };
        Ok(Some(Self {
            method: request.method.unwrap_or_default().to_owned(),
            target: request.path.unwrap_or_default().to_owned(),
            content: content.to_vec(),
        }))
    }
}

/// An answer with JSON as its content, after which the connection ends: Go's client keeps an idle
/// connection for each client that dockerd makes, and it makes one for every `docker version`
/// (`fillRootlessVersion` in moby's daemon/info_unix.go).
pub fn answer(status: u16, content: &str) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        201 => "Created",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        501 => "Not Implemented",
        _ => "Internal Server Error",
    };
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{content}",
        content.len()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POST: &[u8] = b"POST /v1/ports HTTP/1.1\r\nHost: rootlesskit\r\nUser-Agent: Go\r\n\
        Content-Length: 2\r\nContent-Type: application/json\r\n\r\n{}";

    #[test]
    fn a_request_is_there_with_its_last_byte() -> Result<()> {
        let bare = b"GET /v1/info HTTP/1.1\r\nHost: rootlesskit\r\n\r\n";
        for (bytes, method, target, content) in [
            (POST, "POST", "/v1/ports", &b"{}"[..]),
            (bare, "GET", "/v1/info", b""),
        ] {
            for end in 0..bytes.len() {
                assert_eq!(Request::parse(&bytes[..end])?, None, "after {end} bytes");
            }
            let expected = Request {
                method: method.into(),
                target: target.into(),
                content: content.into(),
            };
            assert_eq!(Request::parse(bytes)?, Some(expected.clone()));
            // What follows is not part of it.
            assert_eq!(Request::parse(&[bytes, b"GET"].concat())?, Some(expected));
        }
        Ok(())
    }

    #[test]
    fn what_is_no_request_is_an_error_at_once() {
        let with = |field: &str| format!("POST / HTTP/1.1\r\n{field}\r\n\r\n").into_bytes();
        let endless = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; LARGEST]].concat();
        for (bytes, expected) in [
            (b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec(), "not HTTP"),
            (with("Content-Length: -1"), "invalid Content-Length"),
            (with("Content-Length: +1"), "invalid Content-Length"),
            (with("Content-Length: "), "invalid Content-Length"),
            (
                with("Content-Length: 99999999999999999999"),
                "invalid Content-Length",
            ),
            (
                with("Content-Length: 1\r\nContent-Length: 2"),
                "more than one Content-Length",
            ),
            (with("Content-Length: 16385"), "more than 16384 bytes"),
            (with("Transfer-Encoding: chunked"), "Transfer-Encoding"),
            (with(&"X: y\r\n".repeat(FIELDS + 1)), "not HTTP"),
            (endless, "more than 16384 bytes"),
        ] {
            let error = Request::parse(&bytes).map_err(|error| error.to_string());
            assert!(
                error.as_ref().is_err_and(|error| error.contains(expected)),
                "{error:?} is not {expected:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let _ = Request::parse(&bytes);
        }

        /// More bytes change nothing of a request that is there.
        #[test]
        fn the_first_request_stays(content: Vec<u8>, after: Vec<u8>) {
            let head = format!("POST /v1/ports HTTP/1.1\r\nContent-Length: {}\r\n\r\n", content.len());
            let bytes = [head.as_bytes(), &content].concat();
            let found = Request::parse(&bytes).ok().flatten().map(|request| request.content);
            prop_assert_eq!(found, Some(content.clone()));
            let found = Request::parse(&[bytes, after].concat()).ok().flatten();
            prop_assert_eq!(found.map(|request| request.content), Some(content));
        }
    }
}
