//! Published ports of an engine in a user namespace: what docker promises of them, from outside, on each
//! engine; and that nothing of such an engine stays in the network namespace that it was in.

use crate::docker::{BUSYBOX, Container, Network, Output, Spec, dind, rootless, unprivileged};
use crate::rootless_user::as_user;

/// Answers over TCP and UDP, on these ports of a container, with the address that it sees.
const SERVER: &str = r#"
    use IO::Socket::INET;
    use IO::Select;
    $| = 1;
    my $all = IO::Select->new;
    for my $port (@ARGV) {
        $all->add(IO::Socket::INET->new(LocalPort => $port, Listen => 99, ReuseAddr => 1) // die $!);
        $all->add(IO::Socket::INET->new(LocalPort => $port, Proto => "udp") // die $!);
    }
    while (my @ready = $all->can_read) {
        for my $socket (@ready) {
            if ($socket->socktype == SOCK_DGRAM) {
                $socket->recv(my $text, 99);
                $socket->send($socket->peerhost . " " . $socket->sockport . "\n");
            } elsif (my $client = $socket->accept) {
                print $client $client->peerhost, " ", $client->sockport, "\n";
            }
        }
    }"#;

/// Prints what the server at `$1:$2` answers over `$3`, and fails where there is none.
const ASK: &str = r#"
    use IO::Socket::IP;
    my ($host, $port, $protocol) = @ARGV;
    my $socket = IO::Socket::IP->new(PeerHost => $host, PeerPort => $port, Proto => $protocol) // die $@;
    $socket->send("x") if $protocol eq "udp";
    alarm 10;
    my $text;
    $socket->sysread($text, 99) or die "no answer: $!";
    print $text;"#;

/// An engine that has what its containers need, and IPv6 on loopback at least: an outer engine before
/// 26.0 turns IPv6 off where its network has none.
fn engine(spec: Spec) -> Container {
    start(spec.flags(["--sysctl", "net.ipv6.conf.all.disable_ipv6=0"]))
}

fn start(spec: Spec) -> Container {
    let container = spec
        .env("DOCKER_TLS_CERTDIR", "")
        .ready(&["sleep", "infinity"]);
    container.load_busybox();
    container.sh(&format!("cat >/server <<'END'\n{SERVER}\nEND"));
    container.sh(&format!("cat >/ask <<'END'\n{ASK}\nEND"));
    container
}

/// Runs the server inside, on the ports 80 to 82, with flags for `docker run`. It has the programs of
/// the image under test.
fn serve(engine: &Container, name: &str, flags: &[&str]) -> Output {
    let mut words = vec!["docker", "run", "-d", "--name", name];
    words.extend(["-v/usr:/usr:ro", "-v/lib:/lib:ro", "-v/lib64:/lib64:ro"]);
    words.push("-v/server:/server:ro");
    words.extend(flags);
    words.extend([BUSYBOX, "/usr/bin/perl", "/server", "80", "81", "82"]);
    engine.exec(&words)
}

/// What the server answers a client outside.
fn ask(engine: &Container, host: &str, port: u16, protocol: &str) -> Output {
    engine.exec(&["perl", "/ask", host, &port.to_string(), protocol])
}

/// Waits until the server answers a client outside.
#[track_caller]
fn answers(engine: &Container, host: &str, port: u16) -> String {
    engine.wait_until(&format!("perl /ask {host} {port} tcp 2>/dev/null"));
    ask(engine, host, port, "tcp").text()
}

#[track_caller]
fn is_free(engine: &Container, port: u16) {
    let listening = engine.sh(&format!("ss -Hlntu 'sport = :{port}'"));
    assert_eq!(listening, "");
}

/// The pid of the child of PID 1 that binds ports: it has a child of its own.
fn binder(engine: &Container) -> String {
    engine.sh("for pid in $(pgrep -P 1 -x dind); do pgrep -P $pid >/dev/null && echo $pid; done")
}

/// TCP and UDP, IPv4 and IPv6, one address and all, and ranges; from this container and from beside it.
/// A container sees the gateway of its network in the place of the client.
#[test]
fn they_are_reached_from_outside() {
    let network = Network::with(&["--ipv6", "--subnet", "fd00:d1d:16::/64"]);
    let engine = engine(rootless().flags(["--network", &network.name]));
    let address = |field: &str| {
        engine.inspect(&format!(
            "{{{{range .NetworkSettings.Networks}}}}{{{{.{field}}}}}{{{{end}}}}"
        ))
    };
    let (four, six) = (address("IPAddress"), address("GlobalIPv6Address"));
    let flags = [
        "-p8080:80",
        "-p8080:80/udp",
        "-p127.0.0.1:8081:80",
        "-p[::1]:8082:80",
        "-p[::1]:8082:80/udp",
        "-p8090-8092:80-82",
    ];
    serve(&engine, "web", &flags).exited(0);
    answers(&engine, "127.0.0.1", 8080);
    let gateway = "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}";
    let gateway = engine.text(&["docker", "inspect", "--format", gateway, "web"]);
    for (host, port, protocol, inside) in [
        ("127.0.0.1", 8080, "tcp", 80),
        ("127.0.0.1", 8080, "udp", 80),
        (&four, 8080, "tcp", 80),
        (&four, 8080, "udp", 80),
        ("::1", 8080, "tcp", 80),
        (&six, 8080, "tcp", 80),
        (&six, 8080, "udp", 80),
        ("127.0.0.1", 8081, "tcp", 80),
        ("::1", 8082, "tcp", 80),
        ("::1", 8082, "udp", 80),
        ("127.0.0.1", 8090, "tcp", 80),
        ("127.0.0.1", 8091, "tcp", 81),
        (&four, 8092, "tcp", 82),
    ] {
        let answer = ask(&engine, host, port, protocol).text();
        assert_eq!(
            answer,
            format!("{gateway} {inside}"),
            "{host} {port} {protocol}"
        );
    }
    for (host, port, protocol) in [
        (four.as_str(), 8081, "tcp"),
        (&six, 8082, "tcp"),
        ("127.0.0.1", 8081, "udp"),
    ] {
        let answer = ask(&engine, host, port, protocol);
        assert_ne!(answer.status, 0, "{host} {port} {protocol}: {answer:?}");
    }
    let beside = unprivileged()
        .flags(["--network", &network.name, "--entrypoint", "perl"])
        .flags(["-e", &format!("ASK={ASK}")]);
    for host in [&four, &six] {
        for protocol in ["tcp", "udp"] {
            let script = "my $script = $ENV{ASK}; eval $script; die $@ if $@";
            let output = beside.run(&["-e", script, host, "8080", protocol]);
            assert_eq!(output.text(), format!("{gateway} 80"), "{host} {protocol}");
        }
    }
    // From inside by loopback, as the command and containers with --network host do it.
    let fetch = ["nc", "127.0.0.1", "8080"];
    assert!(engine.inner(&["--network=host"], &fetch).ends_with(" 80"));
}

/// A port that something outside has is docker's own error, and one of a container that is gone is free,
/// whatever its end was.
#[test]
fn one_in_use_is_refused_and_one_that_was_is_free() {
    let engine = engine(rootless());
    let outside = unprivileged()
        .image(BUSYBOX)
        .flags(["--network", &format!("container:{}", engine.name)])
        .start(&["nc", "-ll", "-p", "8080", "-e", "true"]);
    engine.wait_until("ss -Hlnt 'sport = :8080' | grep -q .");
    serve(&engine, "web", &["-p8080:80"])
        .exited(125)
        .says(&["address already in use"]);
    // It is no container's, so the next one may have another of the same name.
    engine.text(&["docker", "rm", "-f", "web"]);
    drop(outside);
    serve(&engine, "web", &["-p8080:80", "-p8080:80/udp"]).exited(0);
    answers(&engine, "127.0.0.1", 8080);
    serve(&engine, "second", &["-p8080:80"])
        .exited(125)
        .says(&["port is already allocated"]);
    engine.text(&["docker", "rm", "-f", "second"]);
    for end in [
        &["docker", "rm", "-f", "web"][..],
        &["docker", "kill", "web"],
        &["docker", "stop", "-t0", "web"],
    ] {
        engine.text(end);
        is_free(&engine, 8080);
        let _ = engine.exec(&["docker", "rm", "-f", "web"]);
        serve(&engine, "web", &["-p8080:80", "-p8080:80/udp"]).exited(0);
        answers(&engine, "127.0.0.1", 8080);
    }
}

/// Ports are reached again where the server of them was killed, and with those of a dockerd that was
/// killed it is that which has them.
#[test]
fn they_outlive_their_server_and_not_their_dockerd() {
    let engine = engine(rootless().env("DIND_RESTART", "on-failure"));
    serve(&engine, "web", &["-p8080:80", "--restart=always"]).exited(0);
    answers(&engine, "127.0.0.1", 8080);
    for (count, of_server) in [(1, true), (2, false)] {
        engine.wait_until("sleep 1.1; true");
        let binder = binder(&engine);
        let killed = match of_server {
            true => engine.text(&["pgrep", "-P", &binder]),
            false => binder,
        };
        engine.text(&["kill", "-KILL", &killed]);
        engine.wait_log("restarting it", count);
        answers(&engine, "127.0.0.1", 8080);
    }
    engine.text(&["docker", "rm", "-f", "web"]);
    is_free(&engine, 8080);
    serve(&engine, "web", &["-p8080:80", "--restart=always"]).exited(0);
    answers(&engine, "127.0.0.1", 8080);
    engine.text(&["pkill", "-KILL", "-x", "dockerd"]);
    engine.wait_log("docker answers again", 1);
    answers(&engine, "127.0.0.1", 8080);
    engine.text(&["docker", "rm", "-f", "web"]);
    is_free(&engine, 8080);
}

/// With an ordinary user in the place of root: docker:dind-rootless' way, whose recipe has `--privileged`.
#[test]
fn those_of_an_ordinary_users_engine_are_reached_too() {
    let engine = engine(as_user(dind()));
    let flags = ["-p80:80", "-p8080:80/udp", "-p[::1]:8081:81"];
    serve(&engine, "web", &flags).exited(0);
    answers(&engine, "127.0.0.1", 80);
    for (host, port, protocol, inside) in [
        ("::1", 80, "tcp", " 80"),
        ("127.0.0.1", 8080, "udp", " 80"),
        ("::1", 8081, "tcp", " 81"),
    ] {
        let answer = ask(&engine, host, port, protocol).text();
        assert!(answer.ends_with(inside), "{host} {port}: {answer}");
    }
    serve(&engine, "second", &["-p8080:80/udp"]).exited(125);
    engine.text(&["docker", "rm", "-f", "web"]);
    is_free(&engine, 8080);
}

/// Shows what there is in the network namespace of another container: sockets that listen, interfaces,
/// addresses, routes and rules.
const SHOW: &str =
    "ss -Hlntup; ip -o link; ip -o address; ip rule; ip route; ip -6 route; nft list ruleset
    for tables in iptables-legacy-save ip6tables-legacy-save; do $tables 2>/dev/null; done; true";

#[track_caller]
fn show(container: &Container) -> String {
    let network = format!("container:{}", container.name);
    let spec = unprivileged().flags([
        "--network",
        &network,
        "--cap-add=NET_ADMIN",
        "--entrypoint=sh",
    ]);
    spec.run(&["-c", SHOW]).text()
}

/// A container whose network namespace others share.
fn sandbox() -> Container {
    unprivileged().image(BUSYBOX).start(&["sleep", "100001"])
}

/// An engine in the network namespace of a container.
fn in_its_network(container: &Container) -> Spec {
    rootless().flags(["--network", &format!("container:{}", container.name)])
}

/// After a stop and after a SIGKILL, in a network namespace that goes on.
#[test]
fn nothing_stays_in_a_network_namespace_that_goes_on() {
    let sandbox = sandbox();
    let before = show(&sandbox);
    for signal in ["TERM", "KILL"] {
        let engine = start(in_its_network(&sandbox));
        serve(&engine, "web", &["-p8080:80", "-p8080:80/udp"]).exited(0);
        answers(&engine, "127.0.0.1", 8080);
        assert!(show(&sandbox).contains(":8080"));
        engine.signal(signal);
        let status = engine.wait();
        assert_eq!(status, if signal == "TERM" { 143 } else { 137 });
        assert_eq!(show(&sandbox), before, "{signal}");
    }
}

/// Two engines in one network namespace: each has its ports, what one has the other is refused, and the
/// end of one is nothing to the other.
#[test]
fn two_share_a_network_namespace() {
    let sandbox = sandbox();
    let [first, second] = [(); 2].map(|()| start(in_its_network(&sandbox)));
    for engine in [&first, &second] {
        engine.not_logged(&["another Docker engine"]);
    }
    serve(&first, "web", &["-p8081:81"]).exited(0);
    serve(&second, "web", &["-p8082:82"]).exited(0);
    for (port, inside) in [(8081, " 81"), (8082, " 82")] {
        assert!(answers(&first, "127.0.0.1", port).ends_with(inside));
    }
    serve(&second, "taken", &["-p8081:80"])
        .exited(125)
        .says(&["address already in use"]);
    second.text(&["docker", "rm", "-f", "taken"]);
    first.signal("KILL");
    first.wait();
    serve(&second, "taken", &["-p8081:80"]).exited(0);
    assert!(answers(&second, "127.0.0.1", 8081).ends_with(" 80"));
    assert!(answers(&second, "127.0.0.1", 8082).ends_with(" 82"));
}
