//! `GET /_ping` on a socket of the API's (Docker Engine API, Ping): whether the API answers.
//!
//! Nothing here blocks: the caller polls the descriptor and calls [`Ping::advance`] when it is
//! readable.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use crate::sys::nonblocking::connect;

/// With `Connection: close`, the daemon keeps no connection open.
const REQUEST: &[u8] = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n";

/// The beginning of every answer. The status does not matter: a daemon whose authorization
/// plugin refuses the request is ready all the same.
const ANSWER: &[u8] = b"HTTP/1.";

/// A connection to the API.
trait Stream: Read + AsFd + fmt::Debug {}

impl<T: Read + AsFd + fmt::Debug> Stream for T {}

/// A request that was sent.
#[derive(Debug)]
pub struct Ping {
    stream: Box<dyn Stream>,
    answer: Vec<u8>,
}

/// The state of the request.
#[derive(Debug)]
pub enum Progress {
    /// The answer has not come, or only its first bytes have.
    Waiting,
    /// The daemon sent an answer in HTTP.
    Answered,
    /// The daemon closed the connection, sent something else than HTTP, or read(2) failed.
    Refused(io::Error),
}

impl Ping {
    /// Connects to `socket` and sends the request. The socket must be listening already: then
    /// neither connect(2) nor a write(2) of this size blocks. The error is that of one of them.
    pub fn ask(socket: &Path) -> io::Result<Self> {
        Self::send(connect(socket)?)
    }

    /// The same at an address of this machine's without TLS. It waits for the connection, `patience`
    /// at most.
    pub fn ask_tcp(address: &SocketAddr, patience: Duration) -> io::Result<Self> {
        // 0 is an error.
        let patience = patience.max(Duration::from_millis(1));
        let stream = TcpStream::connect_timeout(address, patience)?;
        stream.set_nonblocking(true)?;
        Self::send(stream)
    }

    fn send(mut stream: impl Stream + Write + 'static) -> io::Result<Self> {
        stream.write_all(REQUEST)?;
        Ok(Self {
            stream: Box::new(stream),
            answer: Vec::new(),
        })
    }

    /// The process that listens on the socket, by its number here: `SO_PEERCRED` in unix(7).
    /// `None` where it is not in this pid namespace, and for TCP.
    pub fn listener(&self) -> Option<i32> {
        let listener = getsockopt(&self.stream, PeerCredentials).ok()?.pid();
        (listener > 0).then_some(listener)
    }

    /// Reads what has come of the answer, and returns the state of the request.
    pub fn advance(&mut self) -> Progress {
        let mut buffer = [0_u8; 64];
        match self.stream.read(&mut buffer) {
            Ok(0) => Progress::Refused(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.answer.extend(buffer.iter().take(count));
                if self.answer.starts_with(ANSWER) {
                    Progress::Answered
                } else if ANSWER.starts_with(&self.answer) {
                    Progress::Waiting
                } else {
                    Progress::Refused(io::Error::other("the answer is not HTTP"))
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Progress::Waiting
            }
            Err(error) => Progress::Refused(error),
        }
    }
}

impl AsFd for Ping {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
