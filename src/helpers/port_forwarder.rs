//! The port forwarder: a child of PID 1 that passes connections to a TCP socket without TLS on to
//! dockerd's Unix socket, where `plan::listener` has such a socket. It copies bytes and does not
//! parse them.
//!
//! PID 1 keeps the listening socket, so clients wait while a forwarder that was killed is started
//! again; and the Unix socket, so they wait for a dockerd that starts.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{setsockopt, sockopt};
use tracing::{debug, warn};

use super::flow::{self, Flow};
use crate::messages::fault::Fault;
use crate::messages::remedy::Remedy;
use crate::plan::listener::Forwarded;
use crate::sys::limits::{self, Limit, Resource};
use crate::sys::memory;
use crate::sys::nonblocking::{connect, is_later};
use crate::sys::wait;

/// The bytes that are copied at a time. Layers and archives of images pass here.
const BUFFER: usize = 64 << 10;

/// The most connections that are accepted in one turn, so that a flood of them delays no other.
const TAKEN_A_TURN: usize = 64;

/// How long no connection is accepted after one could not be accepted or passed on: without
/// descriptors, or where dockerd accepts none. Else each one that waits would be accepted only to
/// end.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a client may take to close a connection that dockerd has ended. Until then its bytes
/// are read: closing a socket with unread bytes destroys the answer on its way (RFC 2525, 2.17).
const LINGER: Duration = Duration::from_secs(5);

/// After how many silent seconds, and how often then, it is found out whether a client still
/// exists, as Go's servers do (`defaultTCPKeepAliveIdle` in its net). A connection may be idle
/// without end: `docker events`.
const KEEP_ALIVE: u32 = 15;

/// A client's connection and the one to dockerd.
struct Connection {
    client: TcpStream,
    daemon: UnixStream,
    request: Flow,
    answer: Flow,
    /// When it is dropped, once dockerd has ended it.
    end: Option<Instant>,
}

impl Connection {
    /// The descriptors to poll, with their events.
    fn awaited(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let ends = [self.client.as_fd(), self.daemon.as_fd()];
        flow::awaited(ends, &self.request, &self.answer)
    }

    /// Copies in both directions. Returns whether the connection goes on.
    fn advance(&mut self, now: Instant, buffer: &mut [u8]) -> bool {
        let Self {
            client,
            daemon,
            request,
            answer,
            ..
        } = self;
        // The answer comes first: dockerd may refuse a request before it has read all of it.
        let copied = answer
            .copy(daemon, client, buffer)
            .and_then(|_| request.copy(client, daemon, buffer));
        if let Err(error) = copied {
            debug!(error = %error, "a connection ended: {error}");
            return false;
        }
        if self.answer.is_done() && self.end.is_none() {
            self.end = Some(now + LINGER);
        }
        !(self.request.is_done() && self.answer.is_done())
    }
}

/// The listening socket and the connections in progress.
struct Forwarding<'a> {
    socket: &'a Path,
    listener: TcpListener,
    connections: Vec<Connection>,
    /// When connections are accepted again, after a failure.
    accept_from: Option<Instant>,
    /// Whether the user was told of such a failure: under a load there is one each second.
    warned: bool,
    buffer: Vec<u8>,
}

/// Forwards connections of `listener` until an error that is not one of a single connection.
pub fn run(listener: BorrowedFd<'_>, forwarded: &Forwarded) -> Result<std::convert::Infallible> {
    raise_open_files();
    let listener = listener.try_clone_to_owned().map(TcpListener::from);
    let listener = listener
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .with_context(|| format!("cannot serve tcp://{}", forwarded.from))
        .remedy("raise the limit of open files")?;
    let mut forwarding = Forwarding {
        socket: &forwarded.to,
        listener,
        connections: Vec::new(),
        accept_from: None,
        warned: false,
        buffer: vec![0; BUFFER],
    };
    if let Err(errno) = memory::unmap_code() {
        debug!(error = errno.desc(), "madvise: {}, ignoring", errno.desc());
    }
    loop {
        forwarding.turn()?;
    }
}

/// Raises the soft limit of open files to the hard one: a connection takes two, and the usual soft
/// limit is 1024, for programs that use select(2).
fn raise_open_files() {
    let Some(limit) = limits::read(Resource::OpenFiles) else {
        debug!("cannot read the limit of open files, ignoring");
        return;
    };
    let soft = limit.hard;
    if let Err(errno) = limits::raise(Resource::OpenFiles, Limit { soft, ..limit }) {
        let error = errno.desc();
        debug!(
            error,
            "cannot raise the limit of open files: {error}, ignoring"
        );
    }
}

impl Forwarding<'_> {
    /// Waits for events, and handles them.
    fn turn(&mut self) -> Result<()> {
        let (ready, accepts) = self.wait()?;
        let now = Instant::now();
        let mut ready = ready.into_iter();
        let buffer = &mut self.buffer;
        self.connections.retain_mut(|connection| {
            let is_ready = ready.next().unwrap_or(false);
            (!is_ready || connection.advance(now, buffer))
                && connection.end.is_none_or(|end| now < end)
        });
        if accepts {
            self.take_connections(now);
        }
        Ok(())
    }

    /// Returns which connections have something to copy, and whether there are new ones.
    fn wait(&mut self) -> Result<(Vec<bool>, bool)> {
        let now = Instant::now();
        self.accept_from = self.accept_from.filter(|from| now < *from);
        let ends = self.connections.iter().filter_map(|found| found.end);
        let left = ends
            .chain(self.accept_from)
            .min()
            .map(|end| end.saturating_duration_since(now));
        let mut owners = Vec::new();
        let mut descriptors = Vec::new();
        for (owner, connection) in self.connections.iter().enumerate() {
            for (descriptor, flags) in connection.awaited() {
                owners.push(owner);
                descriptors.push(PollFd::new(descriptor, flags));
            }
        }
        if self.accept_from.is_none() {
            descriptors.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut descriptors, wait::timeout(left)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => {
                return Err(errno)
                    .context("cannot wait for connections")
                    .remedy("see poll(2)");
            }
        }
        let mut happened = descriptors
            .iter()
            .map(|descriptor| descriptor.any().unwrap_or(true));
        let mut ready = vec![false; self.connections.len()];
        for owner in owners {
            if let (Some(ready), Some(true)) = (ready.get_mut(owner), happened.next()) {
                *ready = true;
            }
        }
        Ok((ready, happened.next().unwrap_or(false)))
    }

    fn take_connections(&mut self, now: Instant) {
        for _ in 0..TAKEN_A_TURN {
            let client = match self.listener.accept() {
                Ok((client, _)) => client,
                Err(error) if is_later(&error) => return,
                Err(error) => return self.pause(now, error),
            };
            match open(client, self.socket) {
                Ok(connection) => self.connections.push(connection),
                // The client sees that its connection ends.
                Err(error) => return self.pause(now, error),
            }
        }
    }

    /// Accepts no connection for a while. Those that wait stay in the backlog.
    fn pause(&mut self, now: Instant, error: io::Error) {
        self.accept_from = Some(now + PAUSE);
        let path = self.socket.display();
        let remedy = match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EMFILE) => "start the container with a greater --ulimit nofile",
            Some(Errno::ENFILE) => "raise fs.file-max of the host",
            _ => "see in dockerd's log why it accepts none",
        };
        let what = format!("cannot pass a connection on to {path}");
        let fault = Fault::from(anyhow::Error::from(error).context(what).remedy(remedy));
        if self.warned {
            debug!(path = %path, "{fault}");
        } else {
            self.warned = true;
            warn!(path = %path, "{fault}");
        }
    }
}

/// Joins a client's connection to a new one to dockerd.
fn open(client: TcpStream, socket: &Path) -> io::Result<Connection> {
    client.set_nonblocking(true)?;
    client.set_nodelay(true)?;
    setsockopt(&client, sockopt::KeepAlive, &true)?;
    setsockopt(&client, sockopt::TcpKeepIdle, &KEEP_ALIVE)?;
    setsockopt(&client, sockopt::TcpKeepInterval, &KEEP_ALIVE)?;
    Ok(Connection {
        client,
        daemon: connect(socket)?,
        request: Flow::default(),
        answer: Flow::default(),
        end: None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::sys::socket::{Backlog, listen};

    use super::*;

    #[test]
    fn clients_wait_while_dockerd_accepts_none() -> Result<()> {
        let socket = std::env::temp_dir().join(format!("dind-port-{}", std::process::id()));
        let daemon = UnixListener::bind(&socket)?;
        listen(&daemon, Backlog::new(1)?)?;
        let mut waiting = Vec::new();
        let full = loop {
            match connect(&socket) {
                Ok(stream) => waiting.push(stream),
                Err(errno) => break errno,
            }
        };
        assert_eq!(full, Errno::EAGAIN);
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let mut forwarding = Forwarding {
            socket: &socket,
            listener,
            connections: Vec::new(),
            accept_from: None,
            warned: false,
            buffer: vec![0; BUFFER],
        };
        let _first = TcpStream::connect(address)?;
        let second = TcpStream::connect(address)?;
        let (_, accepts) = forwarding.wait()?;
        assert!(accepts);
        let now = Instant::now();
        forwarding.take_connections(now);
        assert_eq!(forwarding.accept_from, Some(now + PAUSE));
        assert!(forwarding.warned && forwarding.connections.is_empty());
        // dockerd accepts again, and after the pause so does the forwarder.
        for _ in &waiting {
            daemon.accept()?;
        }
        while forwarding.connections.is_empty() {
            forwarding.turn()?;
        }
        let peers: io::Result<Vec<_>> = forwarding
            .connections
            .iter()
            .map(|connection| connection.client.peer_addr())
            .collect();
        assert_eq!(peers?, [second.local_addr()?]);
        std::fs::remove_file(&socket)?;
        Ok(())
    }
}
