//! Forwards DNS queries to resolvers on loopback: what a start does where `plan::resolver`
//! says so, in a child of PID 1's own. It copies and reads nothing of what it copies.
//!
//! A UDP query gets a socket of its own, and is forgotten with its answer or its time, so
//! that a resolver which has moved is found again (Docker's 127.0.0.11 is a NAT rule, and a
//! socket that is kept has its old mapping). TCP connections are joined to one of their own
//! each. Everything is bounded, nothing waits but the one `poll`.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream,
    UdpSocket,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrStorage, setsockopt,
    sockopt,
};
use tracing::debug;

use crate::plan::resolver::Forwarder;
use crate::sys::memory;
use crate::sys::nonblocking::is_later;
use crate::sys::wait;

/// The port of DNS.
const PORT: u16 = 53;

/// Queries that wait at once, and connections. A process may have 1024 descriptors; where
/// there are more queries, the oldest has waited longest and is forgotten.
const MOST_QUERIES: usize = 512;
const MOST_CONNECTIONS: usize = 64;

/// Queries that are taken in one turn, so that a flood of them keeps no answer waiting.
const TAKEN_A_TURN: usize = 64;

/// The largest UDP datagram.
const DATAGRAM: usize = 65_535;

/// A query asks one thing and is small: RFC 1035, 4.1.2. A larger one is another's business,
/// and TCP's.
const LARGEST_QUERY: usize = 4_096;

/// How long a resolver may be silent before the next is asked, and how long an answer is of
/// use: resolv.conf(5) gives a server 5 s, and asks it twice.
const PATIENCE: Duration = Duration::from_secs(3);
const LIFETIME: Duration = Duration::from_secs(10);

/// How long a connection may be idle: RFC 7766, 6.2.3, wants seconds.
const IDLE: Duration = Duration::from_secs(20);

/// How long no connection is taken after one could not be: there are no descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// A query that waits for its answer.
struct Query {
    /// Connected to the resolver that was asked last: it takes answers from there only.
    socket: UdpSocket,
    /// Who asked.
    client: SocketAddr,
    /// What.
    packet: Vec<u8>,
    /// The resolver that was asked last, by its place.
    asked: usize,
    /// When the next resolver is asked.
    next: Instant,
    /// When it is forgotten.
    end: Instant,
}

/// One direction of a connection.
#[derive(Default)]
struct Flow {
    /// What was read and is not yet written.
    held: Vec<u8>,
    /// Whether the sender has ended, and the receiver has been told.
    ended: bool,
}

impl Flow {
    /// What is awaited of the sender and of the receiver.
    fn interests(&self) -> (PollFlags, PollFlags) {
        match (self.held.is_empty(), self.ended) {
            (false, _) => (PollFlags::empty(), PollFlags::POLLOUT),
            (true, false) => (PollFlags::POLLIN, PollFlags::empty()),
            (true, true) => (PollFlags::empty(), PollFlags::empty()),
        }
    }

    /// Copies what can be, and no more than one buffer. Whether something was.
    fn copy(
        &mut self,
        mut from: &TcpStream,
        mut to: &TcpStream,
        buffer: &mut [u8],
    ) -> io::Result<bool> {
        let mut moved = false;
        if self.held.is_empty() && !self.ended {
            match from.read(buffer) {
                Ok(0) => {
                    self.ended = true;
                    moved = true;
                    to.shutdown(Shutdown::Write)?;
                }
                Ok(count) => {
                    self.held
                        .extend_from_slice(buffer.get(..count).unwrap_or_default());
                    moved = true;
                }
                Err(error) if is_later(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if !self.held.is_empty() {
            match to.write(&self.held) {
                Ok(count) => {
                    self.held.drain(..count.min(self.held.len()));
                    moved = true;
                }
                Err(error) if is_later(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(moved)
    }
}

/// A client's connection and the one to a resolver.
struct Connection {
    client: TcpStream,
    upstream: TcpStream,
    /// The resolver, by its place.
    asked: usize,
    question: Flow,
    answer: Flow,
    end: Instant,
}

impl Connection {
    /// The descriptors that are waited for, and what for. None without: a closed one would
    /// end every wait.
    fn awaited(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let (client_in, upstream_out) = self.question.interests();
        let (upstream_in, client_out) = self.answer.interests();
        [
            (self.client.as_fd(), client_in | client_out),
            (self.upstream.as_fd(), upstream_in | upstream_out),
        ]
        .into_iter()
        .filter(|(_, flags)| !flags.is_empty())
    }

    /// Copies in both directions. Whether it goes on.
    fn advance(&mut self, upstreams: &[IpAddr], now: Instant, buffer: &mut [u8]) -> bool {
        let Self {
            client, upstream, ..
        } = self;
        let moved = self
            .question
            .copy(client, upstream, buffer)
            .and_then(|asked| Ok(self.answer.copy(upstream, client, buffer)? || asked));
        match moved {
            Ok(true) => self.end = now + IDLE,
            Ok(false) => {}
            // It was never there, so nothing has been written to it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let next = connect_from(upstreams, self.asked.saturating_add(1));
                let Some((asked, upstream)) = next else {
                    return false;
                };
                (self.asked, self.upstream) = (asked, upstream);
            }
            Err(error) => {
                debug!(error = %error, "a connection for DNS ends: {error}");
                return false;
            }
        }
        let is_done = |flow: &Flow| flow.ended && flow.held.is_empty();
        !(is_done(&self.question) && is_done(&self.answer))
    }
}

/// The sockets and what is under way.
struct Forwarding<'a> {
    upstreams: &'a [IpAddr],
    datagrams: UdpSocket,
    listener: TcpListener,
    /// The oldest first.
    queries: VecDeque<Query>,
    connections: Vec<Connection>,
    /// When connections are taken again.
    accept_from: Option<Instant>,
    buffer: Vec<u8>,
}

/// Forwards until something is wrong that no query is to blame for. The error then says what.
pub fn run(forwarder: &Forwarder) -> Result<std::convert::Infallible> {
    let address = SocketAddrV4::new(forwarder.listen, PORT);
    let sockets = || -> nix::Result<(UdpSocket, TcpListener)> {
        let datagrams = bind(address, SockType::Datagram)?;
        let stream = bind(address, SockType::Stream)?;
        socket::listen(&stream, Backlog::MAXCONN)?;
        Ok((datagrams.into(), stream.into()))
    };
    let (datagrams, listener) = sockets().with_context(|| {
        format!(
            "cannot answer DNS queries of inner containers on {address}; free that address, or set DIND_DNS=off"
        )
    })?;
    let mut forwarding = Forwarding {
        upstreams: &forwarder.upstreams,
        datagrams,
        listener,
        queries: VecDeque::new(),
        connections: Vec::new(),
        accept_from: None,
        buffer: vec![0; DATAGRAM],
    };
    if let Err(errno) = memory::unmap_code() {
        debug!(error = errno.desc(), "madvise: {}, ignoring", errno.desc());
    }
    loop {
        forwarding.turn()?;
    }
}

/// A socket on an address that may come later: ip(7), IP_FREEBIND.
fn bind(address: SocketAddrV4, kind: SockType) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Inet, kind, flags, None)?;
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    if kind == SockType::Stream {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    socket::bind(socket.as_raw_fd(), &SockaddrIn::from(address))?;
    Ok(socket)
}

/// A query on its way to a resolver. A resolver that is not there may refuse at once.
fn ask(upstream: IpAddr, packet: &[u8]) -> io::Result<UdpSocket> {
    let any: IpAddr = match upstream {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect((upstream, PORT))?;
    socket.send(packet)?;
    Ok(socket)
}

/// A connection to the first resolver that does not refuse at once, from the one at `from`
/// on.
fn connect_from(upstreams: &[IpAddr], from: usize) -> Option<(usize, TcpStream)> {
    let mut rest = upstreams.iter().enumerate().skip(from);
    rest.find_map(|(index, upstream)| {
        let connected = connect(*upstream);
        let connected = connected.inspect_err(|errno| {
            let error = errno.desc();
            debug!(resolver = %upstream, error, "{upstream}: {error}");
        });
        Some((index, connected.ok()?))
    })
}

/// A connection to a resolver, on its way: connect(2), EINPROGRESS.
fn connect(upstream: IpAddr) -> nix::Result<TcpStream> {
    let family = match upstream {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, SockType::Stream, flags, None)?;
    let address = SockaddrStorage::from(SocketAddr::new(upstream, PORT));
    match socket::connect(socket.as_raw_fd(), &address) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(socket)),
        Err(errno) => Err(errno),
    }
}

impl Forwarding<'_> {
    /// Waits until something happens, and does what is to be done.
    fn turn(&mut self) -> Result<()> {
        let Ready {
            datagrams,
            listener,
            queries,
        } = self.wait()?;
        let now = Instant::now();
        self.answer(&queries, now);
        let Self {
            upstreams,
            connections,
            buffer,
            ..
        } = self;
        connections.retain_mut(|connection| {
            connection.advance(upstreams, now, buffer) && now < connection.end
        });
        if datagrams {
            self.take_queries(now);
        }
        if listener {
            self.take_connection(now);
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<Ready> {
        let now = Instant::now();
        self.accept_from = self.accept_from.filter(|from| now < *from);
        let accepts = self.accept_from.is_none() && self.connections.len() < MOST_CONNECTIONS;
        let deadlines = self
            .queries
            .iter()
            .map(|query| query.next.min(query.end))
            .chain(self.connections.iter().map(|connection| connection.end))
            .chain(self.accept_from);
        let left = deadlines
            .min()
            .map(|end| end.saturating_duration_since(now));
        let read = |descriptor| PollFd::new(descriptor, PollFlags::POLLIN);
        let mut descriptors = vec![read(self.datagrams.as_fd())];
        descriptors.extend(self.queries.iter().map(|query| read(query.socket.as_fd())));
        descriptors.extend(accepts.then(|| read(self.listener.as_fd())));
        let connections = self.connections.iter().flat_map(Connection::awaited);
        descriptors.extend(connections.map(|(descriptor, flags)| PollFd::new(descriptor, flags)));
        match poll(&mut descriptors, wait::timeout(left)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for DNS queries; see poll(2)"),
        }
        let mut happened = descriptors
            .iter()
            .map(|descriptor| descriptor.any().unwrap_or(true));
        let datagrams = happened.next().unwrap_or(false);
        let queries = happened.by_ref().take(self.queries.len()).collect();
        Ok(Ready {
            datagrams,
            queries,
            listener: accepts && happened.next().unwrap_or(false),
        })
    }

    /// Hands on the answers that have come, asks the next resolver where one is silent or
    /// refuses, and forgets what is of no use any more.
    fn answer(&mut self, ready: &[bool], now: Instant) {
        let Self {
            upstreams,
            datagrams,
            queries,
            buffer,
            ..
        } = self;
        let mut ready = ready.iter();
        queries.retain_mut(|query| {
            let refused = if ready.next().is_some_and(|ready| *ready) {
                match query.socket.recv(buffer) {
                    Ok(count) => {
                        let answer = buffer.get(..count).unwrap_or_default();
                        if let Err(error) = datagrams.send_to(answer, query.client) {
                            let client = query.client;
                            debug!(
                                client = %client,
                                error = %error,
                                "an answer to {client} is lost: {error}"
                            );
                        }
                        return false;
                    }
                    Err(error) => !is_later(&error),
                }
            } else {
                false
            };
            if now >= query.end {
                return false;
            }
            let asked = (refused || now >= query.next) && query.ask_next(upstreams, now);
            asked || !refused
        });
    }

    fn take_queries(&mut self, now: Instant) {
        for _ in 0..TAKEN_A_TURN {
            let (count, client) = match self.datagrams.recv_from(&mut self.buffer) {
                Ok(received) => received,
                Err(error) if is_later(&error) => return,
                Err(error) => {
                    debug!(error = %error, "a query is lost: {error}");
                    return;
                }
            };
            let packet = self.buffer.get(..count).unwrap_or_default();
            if packet.len() > LARGEST_QUERY {
                continue;
            }
            let Some((asked, socket)) = ask_from(self.upstreams, 0, packet) else {
                continue;
            };
            if self.queries.len() >= MOST_QUERIES {
                self.queries.pop_front();
            }
            self.queries.push_back(Query {
                socket,
                client,
                packet: packet.to_vec(),
                asked,
                next: next(self.upstreams, asked, now),
                end: now + LIFETIME,
            });
        }
    }

    fn take_connection(&mut self, now: Instant) {
        let client = match self.listener.accept() {
            Ok((client, _)) => client,
            Err(error) if is_later(&error) => return,
            Err(error) => {
                debug!(error = %error, "a connection is not taken: {error}");
                self.accept_from = Some(now + PAUSE);
                return;
            }
        };
        let upstream = connect_from(self.upstreams, 0);
        if let (Some((asked, upstream)), Ok(())) = (upstream, client.set_nonblocking(true)) {
            self.connections.push(Connection {
                client,
                upstream,
                asked,
                question: Flow::default(),
                answer: Flow::default(),
                end: now + IDLE,
            });
        }
    }
}

/// What a wait found.
struct Ready {
    datagrams: bool,
    listener: bool,
    queries: Vec<bool>,
}

impl Query {
    /// Asks the next resolver. Whether there was one.
    fn ask_next(&mut self, upstreams: &[IpAddr], now: Instant) -> bool {
        // Without a next one, the answer may still come.
        self.next = self.end;
        let from = self.asked.saturating_add(1);
        let Some((asked, socket)) = ask_from(upstreams, from, &self.packet) else {
            return false;
        };
        (self.asked, self.socket) = (asked, socket);
        self.next = next(upstreams, asked, now);
        true
    }
}

/// When the resolver after this one is to be asked, if there is one.
fn next(upstreams: &[IpAddr], asked: usize, now: Instant) -> Instant {
    let is_last = asked.saturating_add(1) >= upstreams.len();
    now + if is_last { LIFETIME } else { PATIENCE }
}

/// Asks the first resolver that does not refuse at once, from the one at `from` on.
fn ask_from(upstreams: &[IpAddr], from: usize, packet: &[u8]) -> Option<(usize, UdpSocket)> {
    let mut rest = upstreams.iter().enumerate().skip(from);
    rest.find_map(|(index, upstream)| {
        let asked = ask(*upstream, packet);
        let asked = asked.inspect_err(|error| {
            debug!(
                resolver = %upstream,
                error = %error,
                "{upstream} is not asked: {error}"
            );
        });
        Some((index, asked.ok()?))
    })
}
