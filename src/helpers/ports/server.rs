//! The server: one epoll(7) loop for the API, the published ports, and what passes through them.
//!
//! epoll and not poll: a host has thousands of connections that are idle, and the cost of the few
//! that are not must not grow with them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::poll::PollFlags;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrStorage, setsockopt, sockopt,
};
use serde_json::{Value, json};
use tracing::{debug, warn};

use super::binder::Asker;
use super::datagrams::{self, Parties};
use super::holder::Holder;
use super::kept::Kept;
use crate::api::ports::{Info, NO_IPV6, Protocol, Spec};
use crate::api::request::{self, Request};
use crate::helpers::flow::Flow;
use crate::messages::fault::Fault;
use crate::messages::remedy::Remedy;
use crate::sys::limits::{self, Limit, Resource};
use crate::sys::nonblocking::is_later;
use crate::sys::{memory, wait};

/// The bytes that are copied at a time.
const BUFFER: usize = 128 << 10;

/// How many bytes may wait for receivers that take none, of all connections together. Beyond that,
/// each reads no more than [`SMALL`] ahead.
const HELD: usize = 64 << 20;
const SMALL: usize = 4 << 10;

/// How many events are taken of one epoll_wait(2).
const EVENTS: usize = 256;

/// How many connections, and how many datagrams, are taken of one socket in one turn, so that a
/// flood of them delays no other.
const TAKEN_A_TURN: usize = 64;

/// The most clients of UDP at a time, where as many files may be open.
const SESSIONS: usize = 4096;

/// The most requests to the API at a time, and how long one may take.
const CLIENTS: usize = 64;
const REQUEST: Duration = Duration::from_secs(10);

/// How long the end of the server before is waited for, which has the ports until then.
const LAST_END: Duration = Duration::from_secs(10);

/// How long nothing is accepted after accept(2) failed, as it does without descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// After how many silent seconds, and how often then, it is found out whether a client still
/// exists, as Go's servers do (`defaultTCPKeepAliveIdle` in its net).
const KEEP_ALIVE: u32 = 15;

/// Whom an event is for, as the number that epoll(7) keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    /// The listening socket of the API.
    Api,
    /// The binder.
    Binder,
    /// A client of the API.
    Client(u64),
    /// A published port.
    Port(u64),
    /// A connection, either end.
    Stream(u64),
    /// A client of UDP.
    Session(u64),
    /// The process that holds a published port.
    Holder(u64),
}

impl Key {
    fn number(self) -> u64 {
        let (kind, id) = match self {
            Self::Api => (0, 0),
            Self::Binder => (1, 0),
            Self::Client(id) => (2, id),
            Self::Port(id) => (3, id),
            Self::Stream(id) => (4, id),
            Self::Session(id) => (5, id),
            Self::Holder(id) => (6, id),
        };
        (id << 3) | kind
    }

    fn from_number(number: u64) -> Self {
        let id = number >> 3;
        match number & 7 {
            0 => Self::Api,
            2 => Self::Client(id),
            3 => Self::Port(id),
            4 => Self::Stream(id),
            5 => Self::Session(id),
            6 => Self::Holder(id),
            _ => Self::Binder,
        }
    }
}

/// What epoll(7) is asked of a descriptor. One without events is taken out: it would report a
/// hang-up again and again.
#[derive(Debug, Default)]
struct Watch(Option<EpollFlags>);

impl Watch {
    fn set(
        &mut self,
        epoll: &Epoll,
        descriptor: impl AsFd,
        key: Key,
        events: EpollFlags,
    ) -> nix::Result<()> {
        let wanted = Some(events).filter(|events| !events.is_empty());
        let mut event = EpollEvent::new(events, key.number());
        match (self.0, wanted) {
            (old, new) if old == new => return Ok(()),
            (None, _) => epoll.add(descriptor, event)?,
            (Some(_), Some(_)) => epoll.modify(descriptor, &mut event)?,
            (Some(_), None) => epoll.delete(descriptor)?,
        }
        self.0 = wanted;
        Ok(())
    }
}

fn events(flags: PollFlags) -> EpollFlags {
    let mut events = EpollFlags::empty();
    events.set(EpollFlags::EPOLLIN, flags.contains(PollFlags::POLLIN));
    events.set(EpollFlags::EPOLLOUT, flags.contains(PollFlags::POLLOUT));
    events
}

/// A client of the API.
struct Client {
    stream: UnixStream,
    watch: Watch,
    /// What has come of the request.
    received: Vec<u8>,
    /// What is left to write of the answer.
    answer: Vec<u8>,
    /// When it is dropped.
    until: Instant,
}

/// A published port.
struct Port {
    spec: Spec,
    socket: Bound,
    watch: Watch,
    holder: Holder,
}

enum Bound {
    Listener(TcpListener),
    Datagrams(UdpSocket, BTreeMap<Parties, u64>),
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Listener(listener) => listener.as_fd(),
            Self::Datagrams(socket, _) => socket.as_fd(),
        }
    }
}

/// A client's connection and the one to the container.
struct Stream {
    port: u64,
    client: TcpStream,
    container: TcpStream,
    watches: [Watch; 2],
    /// Whether the container has accepted. Before, shutdown(2) would take the connection back
    /// (`inet_shutdown` in the kernel's net/ipv4/af_inet.c), so the client's end has to wait.
    accepted: bool,
    there: Flow,
    back: Flow,
}

impl Stream {
    /// Copies in both directions. Returns whether it goes on. After an error the other end gets one,
    /// too.
    fn advance(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        if !self.accepted {
            for end in [&self.client, &self.container] {
                if let Some(error) = end.take_error()? {
                    return Err(error);
                }
            }
            match self.container.peer_addr() {
                Ok(_) => self.accepted = true,
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        self.there.copy(&self.client, &self.container, buffer)?;
        self.back.copy(&self.container, &self.client, buffer)?;
        Ok(!(self.there.is_done() && self.back.is_done()))
    }

    fn held(&self) -> usize {
        self.there.held().saturating_add(self.back.held())
    }

    fn watch(&mut self, epoll: &Epoll, id: u64) -> nix::Result<()> {
        let (client, container) = if self.accepted {
            let (client_in, container_out) = self.there.interests();
            let (container_in, client_out) = self.back.interests();
            (
                events(client_in | client_out),
                events(container_in | container_out),
            )
        } else {
            // Of the client only that it has reset the connection.
            (EpollFlags::EPOLLERR, EpollFlags::EPOLLOUT)
        };
        let key = Key::Stream(id);
        let [of_client, of_container] = &mut self.watches;
        of_client.set(epoll, &self.client, key, client)?;
        of_container.set(epoll, &self.container, key, container)
    }

    /// Ends both connections with a reset, as one of them has ended: SO_LINGER in socket(7).
    fn reset(self) {
        reset(&self.client);
        reset(&self.container);
    }
}

fn reset(stream: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let _ = setsockopt(stream, sockopt::Linger, &linger);
}

/// A client of UDP, with a socket of its own to the container, so that answers find it.
struct Session {
    port: u64,
    parties: Parties,
    container: UdpSocket,
    /// When a datagram passed last.
    moved: Instant,
}

/// The server's sockets, and all that is in progress.
pub struct Server<'a> {
    epoll: Epoll,
    api: UnixListener,
    api_watch: Watch,
    binder: Asker<'a>,
    info: Info,
    kept: Kept,
    /// Whether the list could not be written when it was last tried to.
    unkept: bool,
    idle: Duration,
    /// Whether there is IPv6 outside.
    ipv6: bool,
    most_streams: usize,
    most_sessions: usize,
    /// The number of the next client, port, connection or session. None is used twice, so an event
    /// for one that has ended meanwhile finds nothing.
    next: u64,
    clients: BTreeMap<u64, Client>,
    ports: BTreeMap<u64, Port>,
    streams: BTreeMap<u64, Stream>,
    sessions: BTreeMap<u64, Session>,
    /// The bytes that all connections hold.
    held: usize,
    /// When to look who has been silent for too long.
    sweep: Option<Instant>,
    /// When something is accepted again, after a failure.
    accept_from: Option<Instant>,
    /// Whether the user was told of such a failure.
    warned: bool,
    buffer: Vec<u8>,
}

impl<'a> Server<'a> {
    /// A server of this API. `binder` is the server's end. Publishes what a server before it has
    /// published.
    pub fn new(
        api: UnixListener,
        binder: BorrowedFd<'a>,
        info: Info,
        idle: Duration,
    ) -> Result<Self> {
        let files = raise_open_files();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .context("cannot serve published ports")
            .remedy("raise the limit of open files")?;
        let mut binder = Asker::new(binder);
        let mut server = Self {
            epoll,
            api,
            api_watch: Watch::default(),
            ipv6: binder.has_ipv6(),
            binder,
            kept: Kept::in_directory(Path::new(&info.state)),
            unkept: false,
            info,
            idle,
            // A connection takes two files. The rest is for the API and the ports themselves.
            most_streams: (files / 8).saturating_mul(3).max(1),
            most_sessions: SESSIONS.min(files / 8).max(1),
            next: 1,
            clients: BTreeMap::new(),
            ports: BTreeMap::new(),
            streams: BTreeMap::new(),
            sessions: BTreeMap::new(),
            held: 0,
            sweep: None,
            accept_from: None,
            warned: false,
            buffer: vec![0; BUFFER],
        };
        server
            .watch_listeners(true)
            .and_then(|()| {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, Key::Binder.number());
                server.epoll.add(&server.binder, event)
            })
            .context("cannot wait for requests of dockerd")
            .remedy("see epoll_ctl(2)")?;
        server.publish_again();
        Ok(server)
    }

    /// Serves until the binder has ended.
    pub fn run(mut self) -> Result<()> {
        if let Err(errno) = memory::unmap_code() {
            debug!(error = errno.desc(), "madvise: {}, ignoring", errno.desc());
        }
        let mut events = vec![EpollEvent::empty(); EVENTS];
        while self.turn(&mut events)? {}
        Ok(())
    }

    /// Waits for events, and handles them. Returns whether the binder is there.
    fn turn(&mut self, events: &mut [EpollEvent]) -> Result<bool> {
        let now = Instant::now();
        let deadline = self.sweep.into_iter().chain(self.accept_from).min();
        let left = deadline.map(|end| end.saturating_duration_since(now));
        let count = match self.epoll.wait(events, wait::timeout(left)) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => {
                return Err(errno)
                    .context("cannot wait for published ports")
                    .remedy("see epoll_wait(2)");
            }
        };
        let now = Instant::now();
        for event in events.iter().take(count) {
            match Key::from_number(event.data()) {
                Key::Api => self.take_clients(now),
                Key::Binder => {
                    let lives = self.binder.discard_late();
                    let lives = lives
                        .context("cannot wait for the binder of published ports")
                        .remedy("see recvmsg(2)")?;
                    if !lives {
                        return Ok(false);
                    }
                }
                Key::Client(id) => self.advance_client(id, now),
                Key::Port(id) => self.advance_port(id, now),
                Key::Stream(id) => self.advance_stream(id),
                Key::Session(id) => self.advance_session(id, now),
                Key::Holder(id) => self.free(id),
            }
        }
        if self.sweep.is_some_and(|at| at <= now) {
            self.sweep(now);
        }
        if self.accept_from.is_some_and(|from| from <= now) {
            self.accept_from = None;
            if let Err(errno) = self.watch_listeners(true) {
                self.pause(now, errno);
            }
        }
        Ok(true)
    }

    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        number
    }

    /// Sees to it that a sweep is not later than `at`.
    fn remind(&mut self, at: Instant) {
        self.sweep = Some(self.sweep.map_or(at, |sweep| sweep.min(at)));
    }

    /// Drops requests and sessions whose time is over. The next sweep is when one of those that are
    /// left may be, and not before.
    fn sweep(&mut self, now: Instant) {
        self.clients.retain(|_, client| now < client.until);
        let silent = self.sessions.iter();
        let silent = silent.filter(|(_, session)| session.moved + self.idle <= now);
        let silent: Vec<u64> = silent.map(|(id, _)| *id).collect();
        for id in silent {
            self.end_session(id);
        }
        self.sweep = self
            .clients
            .values()
            .map(|client| client.until)
            .chain(
                self.sessions
                    .values()
                    .map(|session| session.moved + self.idle),
            )
            .min();
        // A request that has ended makes room for another.
        if self.accept_from.is_none() {
            self.watch_api(now);
        }
    }

    /// Asks for new clients of the API and of the ports, or for none.
    fn watch_listeners(&mut self, accept: bool) -> nix::Result<()> {
        let wanted = if accept {
            EpollFlags::EPOLLIN
        } else {
            EpollFlags::empty()
        };
        let Self {
            epoll, api, ports, ..
        } = self;
        self.api_watch.set(epoll, &*api, Key::Api, wanted)?;
        for (id, port) in ports {
            if let Bound::Listener(listener) = &port.socket {
                port.watch.set(epoll, listener, Key::Port(*id), wanted)?;
            }
        }
        Ok(())
    }

    /// Accepts nothing for a while. Those that wait stay in the backlog.
    fn pause(&mut self, now: Instant, error: impl Into<io::Error>) {
        let error = error.into();
        self.accept_from = Some(now + PAUSE);
        if let Err(errno) = self.watch_listeners(false) {
            debug!(
                error = errno.desc(),
                "epoll_ctl: {}, ignoring",
                errno.desc()
            );
        }
        let remedy = match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENFILE) => "raise fs.file-max of the host",
            _ => "start the container with a greater --ulimit nofile",
        };
        let what = "clients of published ports have to wait";
        let fault = Fault::from(anyhow::Error::from(error).context(what).remedy(remedy));
        if self.warned {
            debug!("{fault}");
        } else {
            self.warned = true;
            warn!("{fault}");
        }
    }

    // The API.

    /// Asks for new requests where there is room for one.
    fn watch_api(&mut self, now: Instant) {
        let wanted = if self.clients.len() < CLIENTS {
            EpollFlags::EPOLLIN
        } else {
            EpollFlags::empty()
        };
        if let Err(errno) = self.api_watch.set(&self.epoll, &self.api, Key::Api, wanted) {
            self.pause(now, errno);
        }
    }

    fn take_clients(&mut self, now: Instant) {
        for _ in self.clients.len()..CLIENTS {
            let stream = match self.api.accept() {
                Ok((stream, _)) => stream,
                Err(error) if is_later(&error) => return,
                Err(error) => return self.pause(now, error),
            };
            let id = self.number();
            let mut client = Client {
                stream,
                watch: Watch::default(),
                received: Vec::new(),
                answer: Vec::new(),
                until: now + REQUEST,
            };
            let watched = client.stream.set_nonblocking(true).and_then(|()| {
                let Client { stream, watch, .. } = &mut client;
                let wanted = EpollFlags::EPOLLIN;
                Ok(watch.set(&self.epoll, &*stream, Key::Client(id), wanted)?)
            });
            match watched {
                Ok(()) => {
                    self.remind(client.until);
                    self.clients.insert(id, client);
                }
                Err(error) => return self.pause(now, error),
            }
        }
        self.watch_api(now);
    }

    fn advance_client(&mut self, id: u64, now: Instant) {
        if !self.step_client(id) {
            self.end_client(id, now);
        }
    }

    fn end_client(&mut self, id: u64, now: Instant) {
        if self.clients.remove(&id).is_some() && self.accept_from.is_none() {
            self.watch_api(now);
        }
    }

    /// Reads of a request, or writes of its answer. Returns whether the client stays.
    fn step_client(&mut self, id: u64) -> bool {
        let Some(client) = self.clients.get_mut(&id) else {
            return true;
        };
        if client.answer.is_empty() {
            let most = request::LARGEST.saturating_sub(client.received.len());
            let buffer = self.buffer.get_mut(..most).unwrap_or_default();
            match client.stream.read(buffer) {
                Ok(0) => return false,
                Ok(count) => {
                    let read = buffer.get(..count).unwrap_or_default();
                    client.received.extend_from_slice(read);
                }
                Err(error) if is_later(&error) => return true,
                Err(_) => return false,
            }
            let answer = match Request::parse(&client.received) {
                Ok(None) => return true,
                Ok(Some(request)) => self.respond(&request, id),
                Err(error) => refusal(400, &error.to_string()),
            };
            if let Some(client) = self.clients.get_mut(&id) {
                client.received = Vec::new();
                client.answer = answer;
            }
        }
        self.write_answer(id)
    }

    /// Writes of an answer. Returns whether the client stays.
    fn write_answer(&mut self, id: u64) -> bool {
        let Some(client) = self.clients.get_mut(&id) else {
            return true;
        };
        match client.stream.write(&client.answer) {
            Ok(count) => drop(client.answer.drain(..count.min(client.answer.len()))),
            Err(error) if is_later(&error) => {}
            Err(_) => return false,
        }
        if client.answer.is_empty() {
            return false;
        }
        let Client { stream, watch, .. } = client;
        let wanted = EpollFlags::EPOLLOUT;
        let watched = watch.set(&self.epoll, &*stream, Key::Client(id), wanted);
        watched.is_ok()
    }

    /// Does what a request asks for. Returns the answer.
    fn respond(&mut self, request: &Request, client: u64) -> Vec<u8> {
        let method = request.method.as_str();
        let target = request.target.as_str();
        let port = target.strip_prefix("/v1/ports/");
        match (method, target, port) {
            ("GET", "/v1/info", _) => {
                let info = self.info.json(self.ipv6).to_string();
                request::answer(200, &info)
            }
            ("GET", "/v1/ports", _) => {
                let ports = self.ports.iter();
                let ports: Value = ports.map(|(id, port)| port.spec.status(*id)).collect();
                request::answer(200, &ports.to_string())
            }
            ("POST", "/v1/ports", _) => match self.publish(&request.content, client) {
                Ok((id, spec)) => request::answer(201, &spec.status(id).to_string()),
                Err((status, error)) => refusal(status, &error),
            },
            ("DELETE", _, Some(id)) => {
                let found = id.parse().ok().filter(|id| self.ports.contains_key(id));
                match found {
                    Some(port) => {
                        self.free(port);
                        request::answer(200, "")
                    }
                    None => refusal(400, &format!("there is no port {id:?}")),
                }
            }
            (_, "/v1/info" | "/v1/ports", _) | (_, _, Some(_)) => {
                let what = format!("{target} cannot be asked with {method}");
                refusal(405, &what)
            }
            _ => refusal(404, &format!("there is no {target}")),
        }
    }

    /// Publishes a port for a client. The error has an HTTP status and the text that `docker run`
    /// shows.
    fn publish(&mut self, content: &[u8], client: u64) -> Result<(u64, Spec), (u16, String)> {
        let spec = Spec::parse(content).map_err(|error| (400, Fault::from(error).message))?;
        if spec.parent.is_ipv6() && !self.ipv6 {
            return Err((NO_IPV6, "there is no IPv6 outside".to_owned()));
        }
        let client = self.clients.get(&client);
        let holder = client.map_or(Err(Errno::ENOTCONN), |client| Holder::of(&client.stream));
        let holder = holder.map_err(|errno| (500, no_holder(errno)))?;
        let id = self.number();
        self.bind(id, spec, holder)
            .map_err(|errno| (400, refused(&spec, errno)))?;
        self.keep();
        Ok((id, spec))
    }

    /// Publishes what is in the list, as far as it still has a holder.
    fn publish_again(&mut self) {
        let list = self.kept.read();
        // The kernel ends it with its binder, and may not have done so yet.
        let server = list.server;
        if let Some(before) = server.and_then(|(pid, started)| Holder::again(pid, started)) {
            before.wait(LAST_END);
        }
        for entry in list.ports {
            self.next = self.next.max(entry.id.wrapping_add(1));
            let Some(holder) = Holder::again(entry.pid, entry.started) else {
                continue;
            };
            if let Err(errno) = self.bind(entry.id, entry.spec, holder) {
                let why = refused(&entry.spec, errno);
                warn!(
                    error = errno.desc(),
                    "a port is no longer published: {why}; restart its container"
                );
            }
        }
        self.keep();
    }

    fn bind(&mut self, id: u64, spec: Spec, holder: Holder) -> nix::Result<()> {
        let socket = self.binder.ask(spec.protocol, spec.parent)?;
        let mut port = Port {
            spec,
            socket: match spec.protocol {
                Protocol::Tcp => Bound::Listener(socket.into()),
                Protocol::Udp => Bound::Datagrams(socket.into(), BTreeMap::new()),
            },
            watch: Watch::default(),
            holder,
        };
        // A listener has to wait like the others.
        let wanted = match (&port.socket, self.accept_from) {
            (Bound::Listener(_), Some(_)) => EpollFlags::empty(),
            _ => EpollFlags::EPOLLIN,
        };
        let Port {
            socket,
            watch,
            holder,
            ..
        } = &mut port;
        watch.set(&self.epoll, &*socket, Key::Port(id), wanted)?;
        let ended = EpollEvent::new(EpollFlags::EPOLLIN, Key::Holder(id).number());
        self.epoll.add(&*holder, ended)?;
        self.ports.insert(id, port);
        Ok(())
    }

    /// Writes the list of the ports. The user is told of the first failure in a row.
    fn keep(&mut self) {
        let ports = self.ports.iter();
        let ports = ports.map(|(id, port)| (*id, &port.spec, &port.holder));
        let written = self.kept.write(ports);
        let was_told = std::mem::replace(&mut self.unkept, written.is_err());
        if let Err(error) = written
            && !was_told
        {
            not_kept(&self.info, error);
        }
    }

    /// Frees a port, and ends what passes through it, as the end of docker-proxy would.
    ///
    /// The next request for the same port finds it free, since events come in the order in which they
    /// happened (`ep_poll_callback` in the kernel's fs/eventpoll.c).
    fn free(&mut self, port: u64) {
        self.ports.remove(&port);
        self.sessions.retain(|_, session| session.port != port);
        self.streams.retain(|_, stream| {
            let stays = stream.port != port;
            if !stays {
                self.held = self.held.saturating_sub(stream.held());
            }
            stays
        });
        self.keep();
    }

    // The ports.

    fn advance_port(&mut self, id: u64, now: Instant) {
        match self.ports.get(&id).map(|port| &port.socket) {
            Some(Bound::Listener(_)) => self.take_streams(id, now),
            Some(Bound::Datagrams(..)) => self.take_datagrams(id, now),
            None => {}
        }
    }

    fn take_streams(&mut self, port: u64, now: Instant) {
        for _ in 0..TAKEN_A_TURN {
            if self.streams.len() >= self.most_streams {
                return self.pause(now, Errno::EMFILE);
            }
            let Some(Port {
                socket: Bound::Listener(listener),
                spec,
                ..
            }) = self.ports.get(&port)
            else {
                return;
            };
            let client = match listener.accept() {
                Ok((client, _)) => client,
                // The client has gone: accept(2).
                Err(error)
                    if is_later(&error) || error.kind() == io::ErrorKind::ConnectionAborted =>
                {
                    return;
                }
                Err(error) => return self.pause(now, error),
            };
            let container = match connect(spec.child) {
                Ok(container) => container,
                Err(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
                    return self.pause(now, errno);
                }
                Err(errno) => {
                    debug!(error = errno.desc(), "{}: {}", spec.child, errno.desc());
                    reset(&client);
                    continue;
                }
            };
            let id = self.number();
            let mut stream = Stream {
                port,
                client,
                container,
                watches: <[Watch; 2]>::default(),
                accepted: false,
                there: Flow::default(),
                back: Flow::default(),
            };
            let ready = prepare(&stream.client)
                .and_then(|()| prepare(&stream.container))
                .and_then(|()| Ok(stream.watch(&self.epoll, id)?));
            match ready {
                Ok(()) => {
                    self.streams.insert(id, stream);
                    // Inside, the container has mostly accepted by now.
                    self.advance_stream(id);
                }
                Err(error) => debug!(error = %error, "a connection cannot be passed on: {error}"),
            }
        }
    }

    fn advance_stream(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let size = if self.held > HELD { SMALL } else { BUFFER };
        let before = stream.held();
        let buffer = self.buffer.get_mut(..size).unwrap_or_default();
        let done = stream.advance(buffer).and_then(|goes_on| {
            stream.watch(&self.epoll, id)?;
            Ok(!goes_on)
        });
        self.held = self
            .held
            .saturating_sub(before)
            .saturating_add(stream.held());
        if let Ok(false) = done {
            return;
        }
        let Some(stream) = self.streams.remove(&id) else {
            return;
        };
        self.held = self.held.saturating_sub(stream.held());
        if let Err(error) = done {
            debug!(error = %error, "a connection ended: {error}");
            stream.reset();
        }
    }

    fn take_datagrams(&mut self, port: u64, now: Instant) {
        for _ in 0..TAKEN_A_TURN {
            let Some(Port {
                socket: Bound::Datagrams(socket, known),
                spec,
                ..
            }) = self.ports.get(&port)
            else {
                return;
            };
            let (count, parties) = match datagrams::receive(socket, &mut self.buffer) {
                Ok(Some(received)) => received,
                Ok(None) => continue,
                // An error of an answer that was sent before is not one of this datagram: udp(7).
                Err(_) => return,
            };
            let id = match known.get(&parties) {
                Some(id) => Some(*id),
                None => {
                    let child = spec.child;
                    self.open_session(port, child, parties, now)
                }
            };
            let session = id.and_then(|id| self.sessions.get_mut(&id));
            let Some(session) = session else { continue };
            session.moved = now;
            let datagram = self.buffer.get(..count).unwrap_or_default();
            let sent = match session.container.send(datagram) {
                // That of one before, for which nobody listened: the kernel has sent nothing now.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    session.container.send(datagram)
                }
                sent => sent,
            };
            if let Err(error) = sent {
                debug!(error = %error, "a datagram is lost: {error}");
            }
        }
    }

    /// Opens a session. Where there is no room, that which has been silent for longest goes.
    fn open_session(
        &mut self,
        port: u64,
        child: SocketAddr,
        parties: Parties,
        now: Instant,
    ) -> Option<u64> {
        if self.sessions.len() >= self.most_sessions {
            let sessions = self.sessions.iter();
            let silent = sessions.min_by_key(|(_, session)| session.moved);
            if let Some(id) = silent.map(|(id, _)| *id) {
                self.end_session(id);
            }
        }
        let id = self.number();
        let opened = dial(child, SockType::Datagram).and_then(|socket| {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Key::Session(id).number());
            self.epoll.add(&socket, event)?;
            Ok(UdpSocket::from(socket))
        });
        let container = match opened {
            Ok(socket) => socket,
            Err(errno) => {
                debug!(error = errno.desc(), "{child}: {}", errno.desc());
                return None;
            }
        };
        let port_found = self.ports.get_mut(&port)?;
        if let Bound::Datagrams(_, known) = &mut port_found.socket {
            known.insert(parties, id);
        }
        self.sessions.insert(
            id,
            Session {
                port,
                parties,
                container,
                moved: now,
            },
        );
        self.remind(now + self.idle);
        Some(id)
    }

    fn end_session(&mut self, id: u64) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        if let Some(port) = self.ports.get_mut(&session.port)
            && let Bound::Datagrams(_, known) = &mut port.socket
        {
            known.remove(&session.parties);
        }
    }

    fn advance_session(&mut self, id: u64, now: Instant) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let Some(Port {
            socket: Bound::Datagrams(socket, _),
            ..
        }) = self.ports.get(&session.port)
        else {
            return;
        };
        for _ in 0..TAKEN_A_TURN {
            let count = match session.container.recv(&mut self.buffer) {
                Ok(count) => count,
                // Nobody listens in the container, as docker-proxy sees it, too.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(_) => return,
            };
            session.moved = now;
            let datagram = self.buffer.get(..count).unwrap_or_default();
            if let Err(errno) = datagrams::answer(socket, datagram, session.parties) {
                let client = session.parties.client;
                debug!(client = %client, error = errno.desc(), "no answer to {client}: {}", errno.desc());
            }
        }
    }
}

/// The answer to a request that is refused: `ErrorJSON` in rootlesskit's pkg/httputil.
fn refusal(status: u16, message: &str) -> Vec<u8> {
    request::answer(status, &json!({ "message": message }).to_string())
}

/// The warning that the list of the ports cannot be written.
fn not_kept(info: &Info, error: io::Error) {
    let path = info.state.as_str();
    let field = error.to_string();
    let remedy = room_for_list(error.raw_os_error().map(Errno::from_raw));
    let what = format!("cannot keep a list of the published ports in {path}");
    let fault = Fault::from(anyhow::Error::from(error).context(what).remedy(remedy))
        .consequence("if their server is killed, they are no longer published");
    warn!(path, error = field, "{fault}");
}

/// What lets the list be written.
fn room_for_list(errno: Option<Errno>) -> &'static str {
    match errno {
        Some(Errno::ENOSPC | Errno::EDQUOT) => "free space there",
        Some(Errno::EMFILE) => "start the container with a greater --ulimit nofile",
        Some(Errno::ENFILE) => "raise fs.file-max of the host",
        _ => "check that root of the engine can write there",
    }
}

/// Why no process can hold a port.
fn no_holder(errno: Errno) -> String {
    let error = errno.desc().to_lowercase();
    format!(
        "cannot wait for the end of the process that asks for a port: {error}; it needs Linux 5.3, \
         and a seccomp profile that allows pidfd_open(2)"
    )
}

/// Why a port cannot be published, as Go's net.Listen says it: what looks for docker's message
/// finds it.
fn refused(spec: &Spec, errno: Errno) -> String {
    let Spec { parent, .. } = spec;
    let network = spec.network();
    let error = errno.desc().to_lowercase();
    let text = format!("listen {network} {parent}: bind: {error}");
    match errno {
        Errno::EACCES => format!(
            "{text}; a port this low needs --sysctl net.ipv4.ip_unprivileged_port_start=0, or \
             --cap-add NET_BIND_SERVICE, of the container that dind runs in"
        ),
        _ => text,
    }
}

/// Begins a connection, or makes a socket for datagrams that has one peer, without waiting:
/// connect(2), EINPROGRESS.
fn dial(to: SocketAddr, kind: SockType) -> nix::Result<OwnedFd> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, kind, flags, None)?;
    match socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

fn connect(to: SocketAddr) -> nix::Result<TcpStream> {
    dial(to, SockType::Stream).map(TcpStream::from)
}

/// What docker-proxy's sockets have, by Go's net: no delay, and a search for peers that have gone.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEP_ALIVE)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEP_ALIVE)?;
    Ok(())
}

/// Raises the soft limit of open files to the hard one, and returns what it is then.
fn raise_open_files() -> usize {
    let Some(limit) = limits::read(Resource::OpenFiles) else {
        return 1024;
    };
    let soft = match limits::raise(
        Resource::OpenFiles,
        Limit {
            soft: limit.hard,
            ..limit
        },
    ) {
        Ok(_) => limit.hard,
        Err(errno) => {
            let error = errno.desc();
            debug!(
                error,
                "cannot raise the limit of open files: {error}, ignoring"
            );
            limit.soft
        }
    };
    usize::try_from(soft).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_list_wants_is_what_there_is_none_of() {
        for (errno, expected) in [
            (Some(Errno::ENOSPC), "free space"),
            (Some(Errno::EDQUOT), "free space"),
            (Some(Errno::EMFILE), "--ulimit nofile"),
            (Some(Errno::ENFILE), "fs.file-max"),
            (Some(Errno::EROFS), "can write"),
            (None, "can write"),
        ] {
            let remedy = room_for_list(errno);
            assert!(remedy.contains(expected), "{errno:?}: {remedy}");
        }
    }
}
