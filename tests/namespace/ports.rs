//! Published ports, between two network namespaces: the server's API by a raw client, and real
//! clients and servers of TCP and UDP, of IPv4 and IPv6.

#![allow(clippy::indexing_slicing, reason = "tests: a failure is to end them")]

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dind::api::ports::Info;
use dind::helpers::ports::{self, IDLE, Service};
use dind::sys::process;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};
use serde_json::{Value, json};

use super::{inside, scratch};

/// Against hanging.
const DEADLINE: Duration = Duration::from_secs(60);

/// The address of a container, and a second one of this container.
const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

/// A service, and its two network namespaces. This thread is in the outer one.
struct Ports {
    api: PathBuf,
    outer: File,
    inner: File,
    listener: UnixListener,
    /// The binder.
    pid: Pid,
}

impl Ports {
    fn new(idle: Duration) -> Self {
        Self::limited(idle, None)
    }

    /// With a limit of open files.
    fn limited(idle: Duration, files: Option<u64>) -> Self {
        let inner = network(&format!("{CONTAINER}/24"));
        let outer = network(&format!("{SECOND}/24"));
        setns(outer.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
        let target = inner.try_clone().unwrap();
        let enter = move || setns(target, CloneFlags::CLONE_NEWNET);
        Self::serving(idle, files, (outer, inner), enter)
    }

    fn serving(
        idle: Duration,
        files: Option<u64>,
        (outer, inner): (File, File),
        enter: impl FnOnce() -> nix::Result<()>,
    ) -> Self {
        let api = scratch().join("api.sock");
        let listener = UnixListener::bind(&api).unwrap();
        let pid = serve(&listener, idle, files, enter);
        Self {
            api,
            outer,
            inner,
            listener,
            pid,
        }
    }

    /// Kills one of the two processes, and waits for the end of both.
    fn kill(&self, killed: Pid) {
        kill(killed, Signal::SIGKILL).unwrap();
        waitpid(self.pid, None).unwrap();
    }

    /// Another service in the place of one that has ended.
    fn serve_again(&mut self) {
        let target = self.inner.try_clone().unwrap();
        let enter = move || setns(target, CloneFlags::CLONE_NEWNET);
        self.pid = serve(&self.listener, IDLE, None, enter);
        // Its first answer comes after that.
        self.ask("GET", "/v1/info", "");
    }

    /// The file with the list of the ports.
    fn list(&self) -> PathBuf {
        self.api.with_file_name("ports.json")
    }

    /// Does something inside.
    fn inside<T>(&self, act: impl FnOnce() -> T) -> T {
        setns(self.inner.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
        let done = act();
        setns(self.outer.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
        done
    }

    /// The process inside.
    fn server(&self) -> Pid {
        let children = format!("/proc/{0}/task/{0}/children", self.pid);
        let text = std::fs::read_to_string(children).unwrap();
        Pid::from_raw(text.trim().parse().unwrap())
    }

    /// A request as it is, and all of its answer.
    fn raw(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.api).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The status and the content of the answer to a request.
    fn ask(&self, method: &str, target: &str, content: &str) -> (u16, Value) {
        parsed(&self.raw(&request(method, target, content)))
    }

    /// Publishes a port, and returns its id.
    fn publish(&self, proto: &str, parent: SocketAddr, child: SocketAddr) -> u64 {
        let (status, answer) = self.ask("POST", "/v1/ports", &spec(proto, parent, child));
        assert_eq!(status, 201, "{answer}");
        answer["id"].as_u64().unwrap()
    }

    fn refused(&self, proto: &str, parent: SocketAddr, child: SocketAddr) -> String {
        let (status, answer) = self.ask("POST", "/v1/ports", &spec(proto, parent, child));
        assert_eq!(status, 400, "{answer}");
        answer["message"].as_str().unwrap().to_owned()
    }

    fn delete(&self, id: u64) {
        let (status, answer) = self.ask("DELETE", &format!("/v1/ports/{id}"), "");
        assert_eq!(status, 200, "{answer}");
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// Forks a service of this API. Returns its pid.
fn serve(
    listener: &UnixListener,
    idle: Duration,
    files: Option<u64>,
    enter: impl FnOnce() -> nix::Result<()>,
) -> Pid {
    let info = Info {
        state: "/mnt".into(),
        child: 1,
        network: "slirp4netns",
        address: None,
    };
    match process::fork().unwrap() {
        ForkResult::Child => {
            prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
            if let Some(files) = files {
                setrlimit(Resource::RLIMIT_NOFILE, files, files).unwrap();
            }
            let service = Service {
                api: listener.as_fd(),
                info,
                idle,
            };
            let error = ports::run(service, enter).unwrap_err();
            eprintln!("{error:?}");
            process::exit_child(7)
        }
        ForkResult::Parent { child } => child,
    }
}

/// A new network namespace, in which this thread is then, with an address on its loopback.
fn network(address: &str) -> File {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    for words in [
        &["link", "set", "lo", "up"][..],
        &["address", "add", address, "dev", "lo"],
    ] {
        let status = Command::new("ip").args(words).status();
        assert!(status.expect("iproute2 is needed").success(), "{words:?}");
    }
    File::open("/proc/thread-self/ns/net").unwrap()
}

fn request(method: &str, target: &str, content: &str) -> Vec<u8> {
    let length = content.len();
    format!(
        "{method} {target} HTTP/1.1\r\nHost: rootlesskit\r\nUser-Agent: Go-http-client/1.1\r\n\
         Content-Length: {length}\r\nContent-Type: application/json\r\n\r\n{content}"
    )
    .into_bytes()
}

fn parsed(answer: &str) -> (u16, Value) {
    let (head, content) = answer.split_once("\r\n\r\n").expect(answer);
    let status = head.split(' ').nth(1).expect(answer).parse().unwrap();
    let content = match content {
        "" => Value::Null,
        content => serde_json::from_str(content).expect(answer),
    };
    (status, content)
}

fn spec(proto: &str, parent: SocketAddr, child: SocketAddr) -> String {
    json!({
        "proto": proto,
        "parentIP": parent.ip().to_string(),
        "parentPort": parent.port(),
        "childIP": child.ip().to_string(),
        "childPort": child.port(),
    })
    .to_string()
}

fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn accept(listener: &TcpListener) -> TcpStream {
    // It is that of accept(2), too: socket(7), SO_RCVTIMEO.
    let most = TimeVal::new(60, 0);
    setsockopt(listener, sockopt::ReceiveTimeout, &most).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Waits for what happens elsewhere.
fn until(mut happened: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !happened() {
        assert!(Instant::now() < end, "it has not happened");
        thread::yield_now();
    }
}

/// Sends an end with a reset: SO_LINGER in socket(7).
fn reset(stream: TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &linger).unwrap();
}

/// Bytes that differ from place to place.
fn bytes(count: usize, seed: usize) -> Vec<u8> {
    (0..count)
        .map(|place| (place.wrapping_mul(31) ^ (place >> 11) ^ seed) as u8)
        .collect()
}

/// Answers each client with what it has sent, after its end.
fn echo_after_end(listener: TcpListener) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut stream = accept(&listener);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    })
}

fn any(version: u8) -> IpAddr {
    match version {
        4 => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn loopback(version: u8) -> IpAddr {
    match version {
        4 => Ipv4Addr::LOCALHOST.into(),
        _ => Ipv6Addr::LOCALHOST.into(),
    }
}

#[test]
fn connections_pass_whole_and_half_closed() {
    inside("ports::connections_pass_whole_and_half_closed", || {
        let ports = Ports::new(IDLE);
        for (version, child) in [
            (4, at(loopback(4), 80)),
            (4, at(CONTAINER, 8080)),
            (6, at(loopback(6), 80)),
            // A container that has no IPv6.
            (6, at(CONTAINER, 80)),
        ] {
            let listener = ports.inside(|| TcpListener::bind(child).unwrap());
            let echo = echo_after_end(listener);
            let proto = format!("tcp{version}");
            let id = ports.publish(&proto, at(any(version), 8000), child);
            let sent = bytes(48 << 20, usize::from(version));
            let mut client = connect(at(loopback(version), 8000));
            let mut reading = client.try_clone().unwrap();
            let expected = sent.clone();
            // The server keeps all of it until the end, so both sides hold back for a while.
            client.write_all(&sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut received = Vec::new();
            reading.read_to_end(&mut received).unwrap();
            assert!(received == expected, "{} bytes", received.len());
            echo.join().unwrap();
            ports.delete(id);
        }
    });
}

/// Both directions at the same time, and a receiver that takes nothing for long.
#[test]
fn a_slow_receiver_loses_nothing() {
    inside("ports::a_slow_receiver_loses_nothing", || {
        let ports = Ports::new(IDLE);
        let child = at(loopback(4), 80);
        let listener = ports.inside(|| TcpListener::bind(child).unwrap());
        ports.publish("tcp4", at(any(4), 8000), child);
        let mut client = connect(at(SECOND, 8000));
        let mut server = accept(&listener);
        let (up, down) = (bytes(24 << 20, 1), bytes(24 << 20, 2));
        let mut writers = Vec::new();
        for (end, data) in [(&client, up.clone()), (&server, down.clone())] {
            let mut end = end.try_clone().unwrap();
            writers.push(thread::spawn(move || {
                end.write_all(&data).unwrap();
                end.shutdown(Shutdown::Write).unwrap();
            }));
        }
        // Nobody reads until another connection has come and gone, which the full one does not hold
        // up.
        let mut other = connect(at(SECOND, 8000));
        let mut peer = accept(&listener);
        other.write_all(b"ping").unwrap();
        let mut four = [0; 4];
        peer.read_exact(&mut four).unwrap();
        assert_eq!(&four, b"ping");
        for (end, expected) in [(&mut client, down), (&mut server, up)] {
            let mut received = Vec::new();
            end.read_to_end(&mut received).unwrap();
            assert!(received == expected, "{} bytes", received.len());
        }
        for writer in writers {
            writer.join().unwrap();
        }
    });
}

#[test]
fn a_reset_is_passed_on() {
    inside("ports::a_reset_is_passed_on", || {
        let ports = Ports::new(IDLE);
        let child = at(loopback(4), 80);
        let listener = ports.inside(|| TcpListener::bind(child).unwrap());
        ports.publish("tcp4", at(any(4), 8000), child);
        let ended = |mut stream: TcpStream| stream.read(&mut [0]).map_err(|error| error.kind());

        let client = connect(at(loopback(4), 8000));
        reset(accept(&listener));
        assert_eq!(ended(client), Err(ErrorKind::ConnectionReset));

        let client = connect(at(loopback(4), 8000));
        let server = accept(&listener);
        reset(client);
        assert_eq!(ended(server), Err(ErrorKind::ConnectionReset));

        // An end is one, and no reset.
        let client = connect(at(loopback(4), 8000));
        drop(accept(&listener));
        assert_eq!(ended(client), Ok(0));

        // Nobody listens.
        drop(listener);
        let client = connect(at(loopback(4), 8000));
        assert_eq!(ended(client), Err(ErrorKind::ConnectionReset));
    });
}

/// A client that ends before the container has accepted is passed on all the same.
#[test]
fn an_early_end_waits_for_the_container() {
    inside("ports::an_early_end_waits_for_the_container", || {
        let ports = Ports::new(IDLE);
        let child = at(loopback(4), 80);
        // Its backlog is full, so the kernel drops the next SYN and sends it again after 1 s:
        // `tcp_conn_request` in net/ipv4/tcp_input.c.
        let listener = ports.inside(|| TcpListener::bind(child).unwrap());
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let full = ports.inside(|| connect(child));
        ports.publish("tcp4", at(any(4), 8000), child);
        let mut client = connect(at(loopback(4), 8000));
        client.shutdown(Shutdown::Write).unwrap();
        // It is passed on, and the container has not accepted: another request is answered.
        assert_eq!(ports.ask("GET", "/v1/ports", "").0, 200);
        drop((accept(&listener), full));
        let mut server = accept(&listener);
        let mut received = Vec::new();
        server.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"");
        server.write_all(b"late").unwrap();
        drop(server);
        received.clear();
        client.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"late");
    });
}

#[test]
fn many_connections_are_served_at_the_same_time() {
    inside(
        "ports::many_connections_are_served_at_the_same_time",
        || {
            const COUNT: usize = 1500;
            // Both ends of both connections.
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
            let ports = Ports::new(IDLE);
            let child = at(loopback(4), 80);
            let listener = ports.inside(|| TcpListener::bind(child).unwrap());
            ports.publish("tcp4", at(any(4), 8000), child);
            let mut pairs: Vec<(TcpStream, TcpStream)> = (0..COUNT)
                .map(|_| (connect(at(loopback(4), 8000)), accept(&listener)))
                .collect();
            for (number, (client, server)) in pairs.iter_mut().enumerate().rev() {
                let sent = number.to_be_bytes();
                client.write_all(&sent).unwrap();
                let mut received = [0; 8];
                server.read_exact(&mut received).unwrap();
                assert_eq!(received, sent);
                server.write_all(&sent).unwrap();
                client.read_exact(&mut received).unwrap();
                assert_eq!(received, sent);
            }
            // With the connections the descriptors go.
            let open = format!("/proc/{}/fd", ports.server());
            let count = || std::fs::read_dir(&open).unwrap().count();
            assert!(count() > 2 * COUNT);
            drop(pairs);
            while count() > 20 {
                thread::yield_now();
            }
        },
    );
}

/// Those that come while no descriptor is left wait, and are served when there is one.
#[test]
fn without_descriptors_clients_wait() {
    inside("ports::without_descriptors_clients_wait", || {
        let ports = Ports::limited(IDLE, Some(64));
        let child = at(loopback(4), 80);
        let listener = ports.inside(|| TcpListener::bind(child).unwrap());
        ports.publish("tcp4", at(any(4), 8000), child);
        let clients: Vec<_> = (0..60).map(|_| connect(at(loopback(4), 8000))).collect();
        let mut first = Vec::new();
        for _ in 0..20 {
            first.push(accept(&listener));
        }
        // There is room for the API.
        assert_eq!(ports.ask("GET", "/v1/info", "").0, 200);
        drop(first);
        let mut clients = clients.into_iter();
        clients.by_ref().take(20).for_each(drop);
        for mut client in clients {
            let mut server = accept(&listener);
            client.write_all(b"x").unwrap();
            server.read_exact(&mut [0]).unwrap();
        }
    });
}

#[test]
fn a_port_in_use_is_refused_in_dockers_words() {
    inside("ports::a_port_in_use_is_refused_in_dockers_words", || {
        let ports = Ports::new(IDLE);
        let child = at(loopback(4), 80);
        for (proto, address, shown) in [
            ("tcp4", at(any(4), 8000), "0.0.0.0:8000"),
            ("udp4", at(any(4), 8000), "0.0.0.0:8000"),
            ("tcp6", at(any(6), 8000), "[::]:8000"),
            ("udp6", at(any(6), 8000), "[::]:8000"),
        ] {
            let in_use = format!("listen {proto} {shown}: bind: address already in use");
            // By another program of this container, and by another container of the engine.
            let taken: Box<dyn std::any::Any> = match proto.starts_with("tcp") {
                true => Box::new(TcpListener::bind(address).unwrap()),
                false => Box::new(UdpSocket::bind(address).unwrap()),
            };
            assert_eq!(ports.refused(proto, address, child), in_use);
            drop(taken);
            let id = ports.publish(proto, address, child);
            assert_eq!(ports.refused(proto, address, child), in_use);
            // Freed, with the next request.
            ports.delete(id);
            let id = ports.publish(proto, address, child);
            let (_, listed) = ports.ask("GET", "/v1/ports", "");
            assert_eq!(listed[0]["id"], id, "{listed}");
            assert_eq!(listed[0]["spec"]["proto"], proto, "{listed}");
            ports.delete(id);
            assert_eq!(ports.ask("GET", "/v1/ports", ""), (200, json!([])));
        }
        // v4 and v6 do not get in each other's way, as with -p 8000:80.
        ports.publish("tcp6", at(any(6), 8000), child);
        ports.publish("tcp4", at(any(4), 8000), child);
        let elsewhere = ports.refused("tcp4", at(Ipv4Addr::new(192, 0, 2, 1), 1), child);
        assert_eq!(
            elsewhere,
            "listen tcp4 192.0.2.1:1: bind: cannot assign requested address"
        );
    });
}

#[test]
fn a_deleted_port_ends_its_connections() {
    inside("ports::a_deleted_port_ends_its_connections", || {
        let ports = Ports::new(IDLE);
        let child = at(loopback(4), 80);
        let listener = ports.inside(|| TcpListener::bind(child).unwrap());
        let id = ports.publish("tcp4", at(any(4), 8000), child);
        let kept = ports.publish("tcp4", at(any(4), 8001), child);
        let mut ended = connect(at(loopback(4), 8000));
        let mut peer = accept(&listener);
        let mut stays = connect(at(loopback(4), 8001));
        let mut server = accept(&listener);
        ports.delete(id);
        assert_eq!(ended.read(&mut [0]).unwrap(), 0);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        refuses(at(loopback(4), 8000));
        stays.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
        ports.delete(kept);
        let (status, answer) = ports.ask("DELETE", &format!("/v1/ports/{kept}"), "");
        assert_eq!(status, 400, "{answer}");
    });
}

/// A process that has published a port, and lives until this value ends.
struct Asker(Pid);

impl Drop for Asker {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGKILL).unwrap();
        waitpid(self.0, None).unwrap();
    }
}

/// Has a process of its own publish a port.
fn ask_as_another(ports: &Ports, content: &str) -> Asker {
    let (mut told, tell) = UnixStream::pair().unwrap();
    match process::fork().unwrap() {
        ForkResult::Child => {
            prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
            drop(told);
            let (status, answer) = ports.ask("POST", "/v1/ports", content);
            assert_eq!(status, 201, "{answer}");
            (&tell).write_all(b"1").unwrap();
            loop {
                nix::unistd::pause();
            }
        }
        ForkResult::Parent { child } => {
            drop(tell);
            told.read_exact(&mut [0]).unwrap();
            Asker(child)
        }
    }
}

/// However the process ends that has asked for it, and as soon as its parent knows.
#[test]
fn a_port_is_free_with_the_end_of_who_asked_for_it() {
    inside(
        "ports::a_port_is_free_with_the_end_of_who_asked_for_it",
        || {
            let ports = Ports::new(IDLE);
            let child = at(loopback(4), 80);
            let content = spec("tcp4", at(any(4), 8000), child);
            for _ in 0..200 {
                drop(ask_as_another(&ports, &content));
            }
            let other = ask_as_another(&ports, &content);
            let own = ports.publish("udp4", at(any(4), 8000), child);
            connect(at(loopback(4), 8000));
            drop(other);
            let (_, listed) = ports.ask("GET", "/v1/ports", "");
            assert_eq!(listed[0]["id"].as_u64(), Some(own), "{listed}");
            assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
        },
    );
}

/// Another server in the place of one that was killed publishes what it had, under the same ids, but for
/// the ports of who has ended meanwhile.
#[test]
fn another_server_has_the_ports_of_the_one_before() {
    inside(
        "ports::another_server_has_the_ports_of_the_one_before",
        || {
            let mut ports = Ports::new(IDLE);
            let child = at(CONTAINER, 80);
            let listener = ports.inside(|| TcpListener::bind(child).unwrap());
            mirror(ports.inside(|| UdpSocket::bind(child).unwrap()));
            let removed = ports.publish("tcp4", at(any(4), 7999), child);
            let connections = ports.publish("tcp4", at(any(4), 8000), child);
            ports.publish("udp6", at(any(6), 8000), child);
            ports.delete(removed);
            let gone = ask_as_another(&ports, &spec("tcp4", at(any(4), 8001), child));
            for of_server in [true, false] {
                let killed = if of_server { ports.server() } else { ports.pid };
                ports.kill(killed);
                ports.serve_again();
                connect(at(SECOND, 8000));
                drop(accept(&listener));
                session(&datagrams(loopback(6), at(loopback(6), 8000)), b"query");
            }
            connect(at(SECOND, 8001));
            ports.kill(ports.server());
            drop(gone);
            ports.serve_again();
            let (_, listed) = ports.ask("GET", "/v1/ports", "");
            assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
            assert_eq!(listed[0]["id"].as_u64(), Some(connections), "{listed}");
            ports.delete(connections);
            // A number that was used is not used again.
            let next = ports.publish("tcp4", at(any(4), 8000), child);
            assert!(next > connections + 1, "{next}");
        },
    );
}

/// Fails unless nobody listens there.
#[track_caller]
fn refuses(address: SocketAddr) {
    let error = TcpStream::connect(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

/// Takes all that is left of the file system that the list of the ports is on.
fn fill() {
    let mut options = File::options();
    let mut file = options
        .create(true)
        .append(true)
        .open("/mnt/filler")
        .unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
}

/// Without room for the list, another server does not have the ports that have gone meanwhile; and the
/// list is there again when there is room.
#[test]
fn a_list_that_cannot_be_written_is_not_believed() {
    inside(
        "ports::a_list_that_cannot_be_written_is_not_believed",
        || {
            let mut ports = Ports::new(IDLE);
            let small = MsFlags::MS_REMOUNT;
            mount(None::<&str>, "/mnt", None::<&str>, small, Some("size=64k")).unwrap();
            let child = at(CONTAINER, 80);
            let _listener = ports.inside(|| TcpListener::bind(child).unwrap());
            let removed = ports.publish("tcp4", at(any(4), 8000), child);
            fill();
            ports.delete(removed);
            ports.kill(ports.server());
            ports.serve_again();
            refuses(at(SECOND, 8000));
            fill();
            ports.publish("tcp4", at(any(4), 8001), child);
            assert!(!ports.list().exists());
            std::fs::remove_file("/mnt/filler").unwrap();
            ports.publish("tcp4", at(any(4), 8002), child);
            ports.kill(ports.server());
            ports.serve_again();
            for port in [8001, 8002] {
                connect(at(SECOND, port));
            }
        },
    );
}

/// Stops a process, and waits until it has.
fn stop(pid: Pid) {
    kill(pid, Signal::SIGSTOP).unwrap();
    let stopped = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.contains(") T ")
    };
    until(stopped);
}

/// Whether a process sleeps in this system call: proc_pid_syscall(5).
fn sleeps_in(pid: Pid, call: libc::c_long) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
    text.split(' ').next() == Some(&call.to_string())
}

/// A service with the port 8000 published, whose binder is stopped since; and the listener behind it.
fn with_a_stopped_binder() -> (Ports, TcpListener) {
    let ports = Ports::new(IDLE);
    let child = at(CONTAINER, 80);
    let listener = ports.inside(|| TcpListener::bind(child).unwrap());
    ports.publish("tcp4", at(any(4), 8000), child);
    stop(ports.pid);
    (ports, listener)
}

/// As by `docker pause`, a freezer or a debugger, while a port is being published.
#[test]
fn a_stop_in_the_middle_of_a_request_loses_nothing() {
    inside(
        "ports::a_stop_in_the_middle_of_a_request_loses_nothing",
        || {
            let (ports, _listener) = with_a_stopped_binder();
            let (binder, server, child) = (ports.pid, ports.server(), at(CONTAINER, 80));
            thread::scope(|scope| {
                let asked = scope.spawn(|| ports.publish("tcp4", at(any(4), 8001), child));
                until(|| sleeps_in(server, libc::SYS_recvmsg));
                stop(server);
                kill(server, Signal::SIGCONT).unwrap();
                kill(binder, Signal::SIGCONT).unwrap();
                asked.join().unwrap();
            });
            ports.publish("tcp4", at(any(4), 8002), child);
            for port in 8000..8003 {
                connect(at(SECOND, port));
            }
            assert_eq!(ports.server(), server);
        },
    );
}

/// It is not the end of the binder, and its port is free.
#[test]
fn an_answer_of_the_binder_that_comes_late_changes_nothing() {
    inside(
        "ports::an_answer_of_the_binder_that_comes_late_changes_nothing",
        || {
            let (ports, _listener) = with_a_stopped_binder();
            let (binder, server, child) = (ports.pid, ports.server(), at(CONTAINER, 80));
            let refused = ports.refused("tcp4", at(any(4), 8001), child);
            assert!(refused.contains("timed out"), "{refused}");
            // The answer lies at the server's end before the next request does.
            stop(server);
            kill(binder, Signal::SIGCONT).unwrap();
            until(|| TcpStream::connect(at(SECOND, 8001)).is_ok());
            until(|| sleeps_in(binder, libc::SYS_recvfrom));
            kill(server, Signal::SIGCONT).unwrap();
            let (_, listed) = ports.ask("GET", "/v1/ports", "");
            assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
            refuses(at(SECOND, 8001));
            ports.publish("tcp4", at(any(4), 8001), child);
            for port in [8000, 8001] {
                connect(at(SECOND, port));
            }
            assert_eq!(ports.server(), server);
        },
    );
}

/// A server of UDP that answers with the address that it sees, and what it got.
fn mirror(socket: UdpSocket) {
    thread::spawn(move || {
        let mut buffer = vec![0; 65_535];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            let answer = [from.port().to_be_bytes().as_slice(), &buffer[..count]].concat();
            let most = answer.len().min(65_507);
            let _ = socket.send_to(&answer[..most], from);
        }
    });
}

fn datagrams(from: IpAddr, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    // Connected: an answer of another address does not arrive.
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// The port of the session, by what the server saw.
fn session(socket: &UdpSocket, text: &[u8]) -> u16 {
    socket.send(text).unwrap();
    let mut buffer = vec![0; 65_535];
    let count = socket.recv(&mut buffer).unwrap();
    assert!(&buffer[2..count] == text, "{count} bytes");
    u16::from_be_bytes([buffer[0], buffer[1]])
}

#[test]
fn datagrams_pass_and_answers_come_from_the_address_that_was_asked() {
    inside(
        "ports::datagrams_pass_and_answers_come_from_the_address_that_was_asked",
        || {
            let ports = Ports::new(IDLE);
            for (version, child) in [
                (4, at(loopback(4), 53)),
                (4, at(CONTAINER, 5300)),
                (6, at(loopback(6), 53)),
                (6, at(CONTAINER, 53)),
            ] {
                let server = ports.inside(|| UdpSocket::bind(child).unwrap());
                mirror(server);
                let proto = format!("udp{version}");
                let id = ports.publish(&proto, at(any(version), 5353), child);
                let to = at(loopback(version), 5353);
                let clients = [
                    datagrams(loopback(version), to),
                    datagrams(loopback(version), to),
                ];
                let sessions = clients.each_ref().map(|client| session(client, b"query"));
                assert_ne!(sessions[0], sessions[1]);
                for _ in 0..3 {
                    let again = clients.each_ref().map(|client| session(client, b"again"));
                    assert_eq!(again, sessions);
                }
                session(&clients[0], b"");
                session(&clients[0], &bytes(60_000, 3));
                if version == 4 {
                    // From an address of this container that is not the first.
                    session(&datagrams(loopback(4), at(SECOND, 5353)), b"query");
                }
                ports.delete(id);
            }
        },
    );
}

#[test]
fn a_silent_session_is_forgotten() {
    inside("ports::a_silent_session_is_forgotten", || {
        let ports = Ports::new(Duration::from_millis(20));
        let child = at(loopback(4), 53);
        // Nobody listens at first: the sender learns nothing, and the session goes on.
        ports.publish("udp4", at(any(4), 5353), child);
        let client = datagrams(loopback(4), at(loopback(4), 5353));
        for _ in 0..5 {
            client.send(b"nobody").unwrap();
        }
        assert_eq!(ports.ask("GET", "/v1/ports", "").0, 200);
        mirror(ports.inside(|| UdpSocket::bind(child).unwrap()));
        let first = session(&client, b"query");
        // The server's descriptors show when it is gone.
        let open = format!("/proc/{}/fd", ports.server());
        let count = || std::fs::read_dir(&open).unwrap().count();
        let many: Vec<_> = (0..50)
            .map(|_| datagrams(loopback(4), at(loopback(4), 5353)))
            .collect();
        many.iter().for_each(|client| {
            session(client, b"query");
        });
        until(|| count() <= 20);
        assert_ne!(session(&client, b"query"), first);
    });
}

/// One client more than there is room for takes the place of the one that was silent for longest.
#[test]
fn a_flood_of_senders_leaves_room_for_others() {
    inside("ports::a_flood_of_senders_leaves_room_for_others", || {
        let ports = Ports::limited(IDLE, Some(80));
        let child = at(loopback(4), 53);
        mirror(ports.inside(|| UdpSocket::bind(child).unwrap()));
        ports.publish("udp4", at(any(4), 5353), child);
        let clients: Vec<_> = (0..40)
            .map(|_| datagrams(loopback(4), at(loopback(4), 5353)))
            .collect();
        for client in &clients {
            session(client, b"query");
        }
        let last = session(&clients[39], b"query");
        assert_eq!(session(&clients[39], b"query"), last);
        session(&clients[0], b"query");
        assert_eq!(ports.ask("GET", "/v1/info", "").0, 200);
    });
}

#[test]
fn the_api_answers_whoever_else_is_there() {
    inside("ports::the_api_answers_whoever_else_is_there", || {
        let ports = Ports::new(IDLE);
        // Some that say nothing, and some that stop in the middle of a word.
        let mut silent = Vec::new();
        for number in 0..60 {
            let mut stream = UnixStream::connect(&ports.api).unwrap();
            if number % 2 == 0 {
                stream.write_all(b"POST /v1/po").unwrap();
            }
            silent.push(stream);
        }
        let (status, info) = ports.ask("GET", "/v1/info", "");
        assert_eq!(status, 200);
        assert_eq!(info["portDriver"]["driver"], "builtin");
        assert_eq!(info["networkDriver"]["driver"], "slirp4netns");
        let protos = json!(["tcp", "tcp4", "udp", "udp4", "tcp6", "udp6"]);
        assert_eq!(info["portDriver"]["protos"], protos);
        for (request, status) in [
            (request("GET", "/v1/nothing", ""), 404),
            (request("PUT", "/v1/ports", ""), 405),
            (request("GET", "/v1/ports/1", ""), 405),
            (request("DELETE", "/v1/ports/1", ""), 400),
            (request("DELETE", "/v1/ports/x", ""), 400),
            (request("POST", "/v1/ports", "nonsense"), 400),
            (request("POST", "/v1/ports", r#"{"proto":"sctp4"}"#), 400),
            (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), 400),
            (
                b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
                400,
            ),
        ] {
            let (found, answer) = parsed(&ports.raw(&request));
            assert_eq!(found, status, "{answer}");
            assert!(answer["message"].is_string(), "{answer}");
        }
        // One byte at a time.
        let mut slow = silent.pop().unwrap();
        slow.set_read_timeout(Some(DEADLINE)).unwrap();
        for byte in request("GET", "/v1/ports", "") {
            slow.write_all(&[byte]).unwrap();
        }
        let mut answer = String::new();
        slow.read_to_string(&mut answer).unwrap();
        assert_eq!(parsed(&answer), (200, json!([])));
        // More than there is room for: they wait until the others have had their time.
        for _ in 0..10 {
            silent.push(UnixStream::connect(&ports.api).unwrap());
        }
        assert_eq!(ports.ask("GET", "/v1/info", "").0, 200);
    });
}

#[test]
fn the_two_processes_end_with_each_other() {
    inside("ports::the_two_processes_end_with_each_other", || {
        let ports = Ports::new(IDLE);
        ports.ask("GET", "/v1/info", "");
        kill(ports.server(), Signal::SIGKILL).unwrap();
        assert_eq!(
            waitpid(ports.pid, None).unwrap(),
            // As the server has ended, so that it is known what to do about it.
            WaitStatus::Signaled(ports.pid, Signal::SIGKILL, false)
        );

        let ports = Ports::new(IDLE);
        let parent = at(loopback(4), 8000);
        ports.publish("tcp4", parent, parent);
        kill(ports.pid, Signal::SIGKILL).unwrap();
        until(|| TcpStream::connect(parent).is_err());
    });
}

/// The server is in a user namespace that owns the inner network namespace, from which it has no
/// right to anything outside; and a port below 1024 is bound all the same.
#[test]
fn it_serves_from_a_user_namespace() {
    inside("ports::it_serves_from_a_user_namespace", || {
        let outer = network(&format!("{SECOND}/24"));
        let mut child = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "sh", "-c"])
            .arg("ip link set lo up && echo ready && exec sleep 1000")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        child.stdout.take().unwrap().read_exact(&mut ready).unwrap();
        let open = |name: &str| File::open(format!("/proc/{}/ns/{name}", child.id())).unwrap();
        let (user, inner) = (open("user"), open("net"));
        let target = inner.try_clone().unwrap();
        let enter = move || {
            setns(user, CloneFlags::CLONE_NEWUSER)?;
            setns(target, CloneFlags::CLONE_NEWNET)
        };
        let ports = Ports::serving(IDLE, None, (outer, inner), enter);
        let child_address = at(loopback(4), 80);
        let listener = ports.inside(|| TcpListener::bind(child_address).unwrap());
        let echo = echo_after_end(listener);
        ports.publish("tcp4", at(any(4), 80), child_address);
        let mut client = connect(at(SECOND, 80));
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"hello");
        echo.join().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

/// What dockerd 26.1 sees of `rootlesskit-docker-proxy`: the process, and what it said on descriptor
/// 3.
fn proxy(ports: &Ports, flags: &str) -> (std::process::Child, String) {
    let directory = ports.api.parent().unwrap();
    let program = directory.join("rootlesskit-docker-proxy");
    let _ = std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_dind"), &program);
    // It stands where docker-proxy would, tells what it was asked for, and lives.
    let real = directory.join("docker-proxy");
    std::fs::write(
        &real,
        "#!/bin/sh\nprintf '0\\n' >&3\nexec 3>&-\necho \"$@\"\nexec sleep 1000\n",
    )
    .unwrap();
    std::fs::set_permissions(&real, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let line = format!("exec 3>&1 >/mnt/asked; exec \"$0\" {flags}");
    let mut child = Command::new("sh")
        .args(["-c", &line])
        .arg(&program)
        .env("PATH", format!("{}:/usr/bin:/bin", directory.display()))
        .env("ROOTLESSKIT_STATE_DIR", directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    (child, said)
}

#[test]
fn the_proxy_of_older_engines_publishes_a_port_as_long_as_it_lives() {
    inside(
        "ports::the_proxy_of_older_engines_publishes_a_port_as_long_as_it_lives",
        || {
            let ports = Ports::new(IDLE);
            let child = at(CONTAINER, 80);
            let listener = ports.inside(|| TcpListener::bind(child).unwrap());
            let flags = format!(
                "-proto tcp -host-ip 0.0.0.0 -host-port 8000 -container-ip {CONTAINER} \
                 -container-port 80"
            );
            for _ in 0..2 {
                let (mut process, said) = proxy(&ports, &flags);
                assert_eq!(said, "0\n");
                connect(at(SECOND, 8000));
                drop(accept(&listener));
                // As for a port that is in use without it.
                let (mut second, said) = proxy(&ports, &flags);
                assert_eq!(
                    said,
                    "1\nlisten tcp4 0.0.0.0:8000: bind: address already in use"
                );
                assert_eq!(second.wait().unwrap().code(), Some(1));
                // However it ends.
                process.kill().unwrap();
                process.wait().unwrap();
            }
            let (mut process, _) = proxy(&ports, &flags);
            let asked = || std::fs::read_to_string("/mnt/asked").unwrap();
            until(|| asked().ends_with('\n'));
            assert_eq!(asked().trim(), flags.replace("0.0.0.0", "127.0.0.1"));
            process.kill().unwrap();
            process.wait().unwrap();
            // What cannot be published is left out, as 28 does it.
            let (mut process, said) = proxy(&ports, &flags.replace("tcp", "sctp"));
            assert_eq!(said, "0\n");
            assert_eq!(process.wait().unwrap().code(), Some(0));
        },
    );
}
