//! Asking the API whether it answers: `GET /_ping` on its Unix socket.
//!
//! Docker Engine API, Ping. Nothing here blocks: the caller polls the descriptor and
//! calls [`Ping::advance`] when it is readable.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::sys::nonblocking::connect;

/// Closing is asked for, so that the daemon keeps nothing for us.
const REQUEST: &[u8] = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n";

/// What an answer begins with. Its status does not matter: a daemon whose
/// authorization plugin refuses the question answers all the same.
const ANSWER: &[u8] = b"HTTP/1.";

/// A question that was asked.
#[derive(Debug)]
pub struct Ping {
    stream: UnixStream,
    answer: Vec<u8>,
}

/// Where the question stands.
#[derive(Debug)]
pub enum Progress {
    /// No answer yet.
    Waiting,
    /// The API answers.
    Answered,
    /// The daemon closed the connection, or sent something else.
    Refused(io::Error),
}

impl Ping {
    /// Asks. The socket must be listening already; then neither the connection nor a
    /// request of this size waits for anybody.
    pub fn ask(socket: &Path) -> io::Result<Self> {
        let mut stream = connect(socket)?;
        stream.write_all(REQUEST)?;
        Ok(Self {
            stream,
            answer: Vec::new(),
        })
    }

    /// Reads what has come.
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
