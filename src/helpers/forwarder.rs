//! The DNS forwarder: a child of PID 1 that forwards queries to resolvers on loopback, where
//! `plan::resolver` asks for it. It copies messages and does not parse them.
//!
//! It answers whoever is on an inner network or in the network namespace of its sockets, which for an
//! engine in a user namespace is that engine's, and nobody outside. One client cannot take what others
//! need: `room` decides who goes for whom.
//!
//! Each UDP query gets a socket of its own, which is closed with the answer or at the query's
//! deadline. So a resolver that has moved is found again: Docker's 127.0.0.11 is a NAT rule, and
//! a socket that stays open keeps its old mapping. Each TCP connection is joined to one of its
//! own. All queues are bounded, and only the one `poll` blocks.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket,
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

use super::flow::{self, Flow};
use super::room::{Most, Room, room};
use crate::facts::interfaces::Inner;
use crate::messages::remedy::Remedy;
use crate::plan::resolver::Forwarder;
use crate::sys::limits::{self, Resource};
use crate::sys::nonblocking::is_later;
use crate::sys::wait;
use crate::sys::{incoming, memory};

/// The port of DNS.
const PORT: u16 = 53;

/// The most queries, and the most connections, at a time, where as many files may be open.
const QUERIES: usize = 512;
const CONNECTIONS: usize = 64;

/// One client has at most one of so many parts of these.
const PARTS: usize = 4;

/// The size of the buffer for queries that are not received yet, in bytes: room for those of others
/// while one client sends as fast as it can.
const WAITING: usize = 1 << 20;

/// How many queries, and how many connections, are taken in one turn, so that a flood of them delays
/// no answer.
const TAKEN_A_TURN: usize = 128;

/// How many more queries are received in one turn, and how many of one client's are taken of those
/// and of the ones before. To drop a query takes a tenth of the time that it takes to ask, so the
/// kernel's queue does not overflow, where it would lose those of others.
const RECEIVED_A_TURN: usize = 2048;
const PART: usize = 16;

/// The size of the largest UDP datagram, in bytes.
const DATAGRAM: usize = 65_535;

/// The largest datagram that is forwarded, in bytes. A query has one question and is small:
/// RFC 1035, 4.1.2. Larger messages must use TCP.
const LARGEST_QUERY: usize = 4_096;

/// How long a resolver may take before the next one is asked, and how long an answer is of use
/// to the client: resolv.conf(5) gives a server 5 s, and asks it twice.
const PATIENCE: Duration = Duration::from_secs(3);
const LIFETIME: Duration = Duration::from_secs(10);

/// How long a connection may be idle: RFC 7766, 6.2.3, recommends the order of seconds.
const IDLE: Duration = Duration::from_secs(20);

/// How long no connection is accepted after accept(2) failed, as it does without descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// A query that waits for its answer.
struct Query {
    /// Connected to the resolver that was asked last, so it receives from that one only.
    socket: UdpSocket,
    /// The address that the query came from.
    client: SocketAddr,
    /// The query as it came.
    packet: Vec<u8>,
    /// The index of the resolver that was asked last.
    asked: usize,
    /// When it came.
    begin: Instant,
    /// When the next resolver is asked.
    next: Instant,
    /// When the query is dropped.
    end: Instant,
}

/// A client's connection and the one to a resolver.
struct Connection {
    client: TcpStream,
    /// The address of the client.
    source: IpAddr,
    upstream: TcpStream,
    /// The index of the resolver.
    asked: usize,
    question: Flow,
    answer: Flow,
    /// When something was copied last.
    moved: Instant,
}

impl Connection {
    /// The descriptors to poll, with their events.
    fn awaited(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let ends = [self.client.as_fd(), self.upstream.as_fd()];
        flow::awaited(ends, &self.question, &self.answer)
    }

    /// Copies in both directions. Returns whether the connection goes on.
    fn advance(&mut self, upstreams: &[SocketAddr], now: Instant, buffer: &mut [u8]) -> bool {
        let Self {
            client, upstream, ..
        } = self;
        let moved = self
            .question
            .copy(client, upstream, buffer)
            .and_then(|asked| Ok(self.answer.copy(upstream, client, buffer)? || asked));
        match moved {
            Ok(true) => self.moved = now,
            Ok(false) => {}
            // The resolver never accepted, so nothing has been written and the next can follow.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let next = connect_from(upstreams, self.asked.saturating_add(1));
                let Some((asked, upstream)) = next else {
                    return false;
                };
                (self.asked, self.upstream) = (asked, upstream);
            }
            Err(error) => {
                debug!(error = %error, "a DNS connection ended: {error}");
                return false;
            }
        }
        !(self.question.is_done() && self.answer.is_done())
    }
}

/// The forwarder's sockets, and the queries and connections in progress.
struct Forwarding {
    upstreams: Vec<SocketAddr>,
    inner: Inner,
    most_queries: Most,
    most_connections: Most,
    datagrams: UdpSocket,
    listener: TcpListener,
    /// The queries that wait for an answer, the oldest first.
    queries: VecDeque<Query>,
    connections: Vec<Connection>,
    /// When connections are accepted again, after a failure.
    accept_from: Option<Instant>,
    buffer: Vec<u8>,
}

/// The sockets on which queries come.
pub struct Sockets {
    datagrams: UdpSocket,
    listener: TcpListener,
}

impl Sockets {
    /// Their descriptors, in the order in which [`run`] takes them.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.datagrams.as_fd(), self.listener.as_fd()]
    }
}

/// Opens the sockets, in the network namespace of this process. The error names the address.
pub fn open(listen: Ipv4Addr) -> Result<Sockets> {
    let address = SocketAddrV4::new(listen, PORT);
    let sockets = || -> nix::Result<Sockets> {
        let datagrams = bind(address, SockType::Datagram)?;
        let stream = bind(address, SockType::Stream)?;
        socket::listen(&stream, Backlog::MAXCONN)?;
        Ok(Sockets {
            datagrams: datagrams.into(),
            listener: stream.into(),
        })
    };
    sockets()
        .with_context(|| format!("cannot answer DNS queries of inner containers on {address}"))
        .remedy("free that address, or set DIND_DNS=off")
}

/// Forwards until an error that is not one of a single query, such as an address that cannot be
/// bound. The error names the address or the system call.
///
/// `made` are sockets that were opened in another network namespace: there the queries come from, and
/// here is who is asked.
pub fn run(
    forwarder: &Forwarder,
    made: Option<[BorrowedFd<'_>; 2]>,
) -> Result<std::convert::Infallible> {
    let (sockets, inner) = match made {
        None => (open(forwarder.listen)?, Inner::here()),
        Some(made) => taken(made)
            .context("cannot take the sockets for DNS queries")
            .remedy("raise the limit of open files")?,
    };
    let upstreams = forwarder.upstreams.iter();
    let upstreams = upstreams.map(|upstream| SocketAddr::new(*upstream, PORT));
    let mut forwarding = Forwarding::new(upstreams.collect(), sockets, inner);
    if let Err(errno) = memory::unmap_code() {
        debug!(error = errno.desc(), "madvise: {}, ignoring", errno.desc());
    }
    loop {
        forwarding.turn()?;
    }
}

/// The sockets of another network namespace, and its interfaces.
fn taken([datagrams, listener]: [BorrowedFd<'_>; 2]) -> io::Result<(Sockets, Inner)> {
    let sockets = Sockets {
        datagrams: datagrams.try_clone_to_owned()?.into(),
        listener: listener.try_clone_to_owned()?.into(),
    };
    let inner = Inner::of(datagrams.try_clone_to_owned()?);
    Ok((sockets, inner))
}

/// Opens a socket on an address that no interface needs to have yet: ip(7), IP_FREEBIND.
fn bind(address: SocketAddrV4, kind: SockType) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Inet, kind, flags, None)?;
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    if kind == SockType::Stream {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    // Each datagram, and each connection, tells over which interface it came: ip(7).
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    if kind == SockType::Datagram
        && let Err(errno) = setsockopt(&socket, sockopt::RcvBufForce, &WAITING)
    {
        let error = errno.desc();
        debug!(
            error,
            "cannot enlarge the buffer for queries: {error}, ignoring"
        );
    }
    socket::bind(socket.as_raw_fd(), &SockaddrIn::from(address))?;
    Ok(socket)
}

/// Sends a query to a resolver, and returns the socket for the answer. Where no resolver listens,
/// the error may come at once.
fn ask(upstream: SocketAddr, packet: &[u8]) -> io::Result<UdpSocket> {
    let any: IpAddr = match upstream {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(upstream)?;
    socket.send(packet)?;
    Ok(socket)
}

/// Connects to the first resolver that does not refuse at once, from the index `from` on.
fn connect_from(upstreams: &[SocketAddr], from: usize) -> Option<(usize, TcpStream)> {
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

/// Begins a connection to a resolver, without waiting for it: connect(2), EINPROGRESS.
fn connect(upstream: SocketAddr) -> nix::Result<TcpStream> {
    let family = match upstream {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, SockType::Stream, flags, None)?;
    let address = SockaddrStorage::from(upstream);
    match socket::connect(socket.as_raw_fd(), &address) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(socket)),
        Err(errno) => Err(errno),
    }
}

impl Forwarding {
    fn new(upstreams: Vec<SocketAddr>, sockets: Sockets, inner: Inner) -> Self {
        let Sockets {
            datagrams,
            listener,
        } = sockets;
        let files = limits::read(Resource::OpenFiles);
        let files = files.map_or(1024, |limit| {
            usize::try_from(limit.soft).unwrap_or(usize::MAX)
        });
        Self {
            upstreams,
            inner,
            // A connection takes two files. A quarter of the connections is less than dnsmasq
            // serves at a time, which is 20.
            most_queries: Most::new(QUERIES.min(files / 2), PARTS),
            most_connections: Most::new(CONNECTIONS.min(files / 8), PARTS),
            datagrams,
            listener,
            queries: VecDeque::new(),
            connections: Vec::new(),
            accept_from: None,
            buffer: vec![0; DATAGRAM],
        }
    }

    /// Waits for events, and handles them.
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
            connection.advance(upstreams, now, buffer) && now < connection.moved + IDLE
        });
        if datagrams {
            self.take_queries(now);
        }
        if listener {
            self.take_connections(now);
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<Ready> {
        let now = Instant::now();
        self.accept_from = self.accept_from.filter(|from| now < *from);
        let accepts = self.accept_from.is_none();
        let deadlines = self
            .queries
            .iter()
            .map(|query| query.next.min(query.end))
            .chain(
                self.connections
                    .iter()
                    .map(|connection| connection.moved + IDLE),
            )
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
            Err(errno) => {
                return Err(errno)
                    .context("cannot wait for DNS queries")
                    .remedy("see poll(2)");
            }
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

    /// Sends the answers that have come to their clients, asks the next resolver where one is
    /// silent or refuses, and drops the queries that are past their deadline.
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
                                "cannot send an answer to {client}: {error}"
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
        let mut taken: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for turn in 0..RECEIVED_A_TURN {
            let received = match incoming::receive(&self.datagrams, &mut self.buffer) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return,
                Err(errno) => {
                    let error = errno.desc();
                    debug!(error, "cannot receive a query: {error}");
                    return;
                }
            };
            let Some((count, client, interface)) = received else {
                continue;
            };
            let packet = self.buffer.get(..count).unwrap_or_default();
            if packet.len() > LARGEST_QUERY || !self.inner.has(interface) {
                continue;
            }
            let own = taken.entry(client.ip()).or_default();
            if turn >= TAKEN_A_TURN && *own >= PART {
                continue;
            }
            let held = self.queries.iter();
            let held = held.map(|query| (query.client.ip(), query.begin));
            let leaves = match room(held, client.ip(), self.most_queries, now) {
                Room::Free => None,
                Room::InPlaceOf(index) => Some(index),
                Room::None => continue,
            };
            *own += 1;
            let Some((asked, socket)) = ask_from(&self.upstreams, 0, packet) else {
                continue;
            };
            // Only now, so that nobody goes for one that cannot be asked.
            if let Some(index) = leaves {
                self.queries.remove(index);
            }
            self.queries.push_back(Query {
                socket,
                client,
                packet: packet.to_vec(),
                asked,
                begin: now,
                next: next(&self.upstreams, asked, now),
                end: now + LIFETIME,
            });
        }
    }

    fn take_connections(&mut self, now: Instant) {
        for _ in 0..TAKEN_A_TURN {
            let (client, address) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if is_later(&error) => return,
                Err(error) => {
                    debug!(error = %error, "cannot accept a DNS connection: {error}");
                    self.accept_from = Some(now + PAUSE);
                    return;
                }
            };
            let source = address.ip();
            let came_over = incoming::interface(&client).unwrap_or_default();
            if !came_over.is_some_and(|interface| self.inner.has(interface)) {
                continue;
            }
            let held = self.connections.iter();
            let held = held.map(|connection| (connection.source, connection.moved));
            let leaves = match room(held, source, self.most_connections, now) {
                Room::Free => None,
                Room::InPlaceOf(index) => Some(index),
                Room::None => continue,
            };
            let upstream = connect_from(&self.upstreams, 0);
            if let (Some((asked, upstream)), Ok(())) = (upstream, client.set_nonblocking(true)) {
                if let Some(index) = leaves {
                    self.connections.remove(index);
                }
                self.connections.push(Connection {
                    client,
                    source,
                    upstream,
                    asked,
                    question: Flow::default(),
                    answer: Flow::default(),
                    moved: now,
                });
            }
        }
    }
}

/// The results of one poll(2). `queries` has the order of [`Forwarding::queries`].
struct Ready {
    datagrams: bool,
    listener: bool,
    queries: Vec<bool>,
}

impl Query {
    /// Asks the next resolver. Returns whether there was one.
    fn ask_next(&mut self, upstreams: &[SocketAddr], now: Instant) -> bool {
        // Without another resolver, the answer of this one may still come.
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

/// When the resolver after the one with the index `asked` is to be asked; after the last one,
/// the query's deadline.
fn next(upstreams: &[SocketAddr], asked: usize, now: Instant) -> Instant {
    let is_last = asked.saturating_add(1) >= upstreams.len();
    now + if is_last { LIFETIME } else { PATIENCE }
}

/// Asks the first resolver that does not refuse at once, from the index `from` on.
fn ask_from(upstreams: &[SocketAddr], from: usize, packet: &[u8]) -> Option<(usize, UdpSocket)> {
    let mut rest = upstreams.iter().enumerate().skip(from);
    rest.find_map(|(index, upstream)| {
        let asked = ask(*upstream, packet);
        let asked = asked.inspect_err(|error| {
            debug!(
                resolver = %upstream,
                error = %error,
                "cannot ask the resolver {upstream}: {error}"
            );
        });
        Some((index, asked.ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against hanging.
    const DEADLINE: Duration = Duration::from_secs(60);

    /// A forwarder on ports of its own, with the addresses for datagrams and for connections.
    fn forwarding(resolver: SocketAddr) -> Result<(Forwarding, SocketAddr, SocketAddr)> {
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let datagrams = UdpSocket::from(bind(any, SockType::Datagram)?);
        let stream = bind(any, SockType::Stream)?;
        socket::listen(&stream, Backlog::MAXCONN)?;
        let listener = TcpListener::from(stream);
        let addresses = (datagrams.local_addr()?, listener.local_addr()?);
        let sockets = Sockets {
            datagrams,
            listener,
        };
        let forwarding = Forwarding::new(vec![resolver], sockets, Inner::here());
        Ok((forwarding, addresses.0, addresses.1))
    }

    fn client(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, 0, number)
    }

    /// A client's socket, from an address of its own.
    fn datagrams(number: u8, forwarder: SocketAddr) -> Result<UdpSocket> {
        let socket = UdpSocket::bind((client(number), 0))?;
        socket.connect(forwarder)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        Ok(socket)
    }

    fn stream(number: u8, forwarder: SocketAddr) -> Result<OwnedFd> {
        let kind = SockType::Stream;
        let stream = socket::socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?;
        let own = SockaddrIn::from(SocketAddrV4::new(client(number), 0));
        socket::bind(stream.as_raw_fd(), &own)?;
        socket::connect(stream.as_raw_fd(), &SockaddrStorage::from(forwarder))?;
        Ok(stream)
    }

    fn counts(sources: impl Iterator<Item = IpAddr>) -> BTreeMap<IpAddr, usize> {
        let mut counts = BTreeMap::new();
        for source in sources {
            *counts.entry(source).or_default() += 1;
        }
        counts
    }

    #[test]
    fn a_flood_loses_no_query_of_another_client() -> Result<()> {
        let resolver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        resolver.set_read_timeout(Some(DEADLINE))?;
        let (mut forwarding, address, _) = forwarding(resolver.local_addr()?)?;
        let other = datagrams(3, address)?;
        other.send(b"question")?;
        forwarding.turn()?;
        let flooding = datagrams(2, address)?;
        for count in 0..2000 {
            flooding.send(b"flood")?;
            if count % 50 == 0 {
                forwarding.turn()?;
            }
        }
        while !forwarding
            .queries
            .iter()
            .any(|query| query.client.ip() == client(2))
        {
            forwarding.turn()?;
        }
        let held = counts(forwarding.queries.iter().map(|query| query.client.ip()));
        assert_eq!(held.get(&client(3).into()), Some(&1), "{held:?}");
        assert!(
            held.get(&client(2).into())
                .is_some_and(|count| *count <= 128),
            "{held:?}"
        );
        let mut buffer = [0; 64];
        let (count, asked_by) = resolver.recv_from(&mut buffer)?;
        assert_eq!(&buffer[..count], b"question");
        resolver.send_to(b"answer", asked_by)?;
        other.set_nonblocking(true)?;
        let answered = loop {
            match other.recv(&mut buffer) {
                Ok(count) => break count,
                Err(error) if is_later(&error) => forwarding.turn()?,
                Err(error) => return Err(error.into()),
            }
        };
        assert_eq!(&buffer[..answered], b"answer");
        Ok(())
    }

    #[test]
    fn idle_connections_keep_no_other_client_out() -> Result<()> {
        let resolver = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (mut forwarding, _, address) = forwarding(resolver.local_addr()?)?;
        let mut idle = Vec::new();
        for _ in 0..100 {
            idle.push(stream(2, address)?);
        }
        let _other = stream(3, address)?;
        let has = |forwarding: &Forwarding| {
            counts(
                forwarding
                    .connections
                    .iter()
                    .map(|connection| connection.source),
            )
        };
        while !has(&forwarding).contains_key(&client(3).into()) {
            forwarding.turn()?;
        }
        assert_eq!(has(&forwarding).get(&client(2).into()), Some(&16));
        Ok(())
    }

    #[test]
    fn nobody_goes_for_a_newcomer_that_no_resolver_takes() -> Result<()> {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let tcp = TcpListener::bind(udp.local_addr()?)?;
        let (mut forwarding, datagram, connection) = forwarding(tcp.local_addr()?)?;
        forwarding.most_queries = Most::new(1, 1);
        forwarding.most_connections = Most::new(1, 1);
        let first = (datagrams(2, datagram)?, stream(2, connection)?);
        first.0.send(b"question")?;
        while forwarding.queries.is_empty() || forwarding.connections.is_empty() {
            forwarding.turn()?;
        }
        // Long enough ago that a newcomer of the same client may take their places.
        let ago = Instant::now() - Duration::from_secs(2);
        forwarding.queries[0].begin = ago;
        forwarding.connections[0].moved = ago;
        // No socket connects to a broadcast address without SO_BROADCAST: connect(2), EACCES.
        forwarding.upstreams = vec![(Ipv4Addr::BROADCAST, 53).into()];
        let second = (datagrams(2, datagram)?, stream(2, connection)?);
        second.0.send(b"another")?;
        forwarding.take_queries(Instant::now());
        forwarding.take_connections(Instant::now());
        assert_eq!(forwarding.queries[0].packet, b"question");
        assert_eq!(forwarding.queries[0].begin, ago);
        assert_eq!(forwarding.connections[0].moved, ago);
        Ok(())
    }
}
