//! Names that only a resolver on loopback knows, looked up by inner containers: Docker's own
//! 127.0.0.11 of a network outside, and a dnsmasq beside dind.

use crate::docker::{
    BUSYBOX, Container, Network, Scratch, Spec, dind, lab, privileges, rootless, unprivileged,
};
use crate::nesting::Images;

/// Prints the page of the server `web`. A static busybox finds names by `nslookup` alone. nc closes its
/// side when it has sent, and passt of 2023 then does not say that the other side has, too.
const FETCH: &str = r#"address=$(nslookup web | awk '/^Name/ {named = 1} named && /^Address/ {print $NF; exit}')
wget -q -O - http://$address/"#;

/// What forwards queries: the only dind that PID 1 starts.
const FORWARDER: &str = "pgrep -P 1 -x dind";

/// A network outside with a web server in it.
pub struct Outside {
    _web: Container,
    network: Network,
}

impl Outside {
    pub fn new() -> Self {
        let network = Network::new();
        let web = unprivileged()
            .image(BUSYBOX)
            .flags(["--network", &network.name, "--network-alias", "web"])
            .start(&[
                "sh",
                "-c",
                "mkdir /www; echo a page outside >/www/index.html; exec httpd -f -h /www",
            ]);
        Self { _web: web, network }
    }

    /// The name of that network.
    pub fn name(&self) -> &str {
        &self.network.name
    }

    /// The daemon under test in that network, with the small image.
    pub fn daemon(&self, spec: Spec) -> Container {
        let daemon = spec.flags(["--network", &self.network.name]).ready(&[]);
        daemon.load_busybox();
        daemon
    }
}

#[track_caller]
pub fn fetches(daemon: &Container, flags: &[&str]) {
    let page = daemon.inner(flags, &["sh", "-c", FETCH]);
    assert_eq!(page, "a page outside", "{flags:?}");
}

/// On the default bridge and on a network of its own, by name and without asking anybody
/// else; with either backend of iptables.
#[test]
fn services_outside_are_found_by_containers_inside() {
    let outside = Outside::new();
    for legacy in ["", "1"] {
        let daemon = outside.daemon(dind().env("DOCKER_IPTABLES_LEGACY", legacy));
        daemon.logged(&["dind: dns: inner containers query", "127.0.0.11"]);
        daemon.text(&["docker", "network", "create", "inside"]);
        fetches(&daemon, &[]);
        fetches(&daemon, &["--network", "inside"]);
        fetches(&daemon, &["--network", "host"]);
        let text = daemon.inner(&[], &["cat", "/etc/resolv.conf"]);
        let servers = text.lines().filter(|line| line.starts_with("nameserver"));
        assert_eq!(servers.count(), 1, "{text}");
        let unknown = daemon.exec(&["docker", "run", "--rm", BUSYBOX, "nslookup", "no.such.web"]);
        assert_ne!(unknown.status, 0, "{unknown:?}");
    }
}

/// A container that comes back with the daemon finds them again.
#[test]
fn services_outside_are_found_after_a_restart() {
    let outside = Outside::new();
    let daemon = outside.daemon(dind());
    let forever = ["sleep", "100001"];
    let run = ["docker", "run", "-d", "--restart=always", "--name=inside"];
    daemon.text(&[&run[..], &[BUSYBOX], &forever].concat());
    daemon.docker(&["restart"]).exited(0);
    daemon.wait_ready_times(2);
    daemon.wait_until("docker exec inside true");
    let page = daemon.text(&["docker", "exec", "inside", "sh", "-c", FETCH]);
    assert_eq!(page, "a page outside");
}

/// In a build, by either builder.
#[test]
fn services_outside_are_found_by_builds_inside() {
    let outside = Outside::new();
    let daemon = outside.daemon(dind());
    let scratch = Scratch::new();
    daemon.sh("mkdir /build");
    daemon.copy_in(&scratch.file("fetch", FETCH), "/build/fetch");
    daemon.copy_in(
        &scratch.file(
            "Dockerfile",
            &format!(
                "FROM {BUSYBOX}\nCOPY fetch /fetch\nRUN test \"$(sh /fetch)\" = 'a page outside'"
            ),
        ),
        "/build/Dockerfile",
    );
    for builder in ["0", "1"] {
        daemon
            .exec_call(
                &["-e", &format!("DOCKER_BUILDKIT={builder}")],
                &["docker", "build", "--no-cache", "/build"],
            )
            .finish()
            .exited(0);
    }
}

/// In an engine inside, wherever that is: its own resolver is this level's forwarder, or
/// this level's 127.0.0.11, which asks that.
#[test]
fn services_outside_are_found_two_levels_down() {
    let outside = Outside::new();
    let images = Images::new();
    let daemon = outside.daemon(dind().flags(images.mounted()));
    daemon.text(&["docker", "load", "-qi", "/images/dind.tar"]);
    daemon.text(&["docker", "network", "create", "inside"]);
    for network in ["bridge", "inside"] {
        let image = lab("DIND_LAB_IMAGE");
        daemon.sh(&format!(
            "docker run -d --name {network} --network {network} {} -v /images:/images {image}",
            privileges()
        ));
        daemon.wait_until(&format!(
            "docker logs {network} 2>&1 | grep -q 'docker is ready after'"
        ));
        let inside = ["docker", "exec", network, "docker"];
        let run = |words: &[&str]| daemon.text(&[&inside, words].concat());
        run(&["load", "-qi", "/images/busybox.tar"]);
        run(&["network", "create", "deep"]);
        for deep in ["bridge", "deep"] {
            let page = run(&["run", "--rm", "--network", deep, BUSYBOX, "sh", "-c", FETCH]);
            assert_eq!(page, "a page outside", "{network}, {deep}");
        }
    }
}

/// Turned off, named by the user, or not on loopback: dockerd does what it always did.
#[test]
fn nothing_is_done_where_nothing_is_to_be_done() {
    let network = Network::new();
    let named = ["--network", &network.name];
    let off = dind().flags(named).env("DIND_DNS", "off");
    let theirs = dind()
        .flags(named)
        .env("DOCKER_DAEMON_ARGS", "--dns 192.0.2.53");
    let elsewhere = dind().flags(["--dns", "192.0.2.53"]);
    for (spec, expected) in [
        (off, "nameserver 8.8.8.8"),
        (theirs, "nameserver 192.0.2.53"),
        (elsewhere, "nameserver 192.0.2.53"),
    ] {
        let plan = spec.run(&["plan"]).text();
        assert!(!plan.contains("forward:"), "{plan}");
        assert!(!plan.contains("note: dns"), "{plan}");
        let daemon = spec.ready(&[]);
        daemon.load_busybox();
        let text = daemon.inner(&[], &["cat", "/etc/resolv.conf"]);
        assert!(text.contains(expected), "{text}");
        assert_eq!(daemon.exec(&["sh", "-c", FORWARDER]).stdout, "");
        daemon.not_logged(&["dind: dns:"]);
    }
}

/// A dnsmasq on loopback in the daemon's network namespace, as systemd's is on a host. It
/// knows `name.here`, and `large.here` with more text than a datagram of 512 bytes takes.
fn dnsmasq(daemon: &Container, address: &str) -> Container {
    let network = format!("container:{}", daemon.name);
    let listen = format!("--listen-address={address}");
    start_dnsmasq(&["--network", &network], &["--bind-interfaces", &listen])
}

fn start_dnsmasq(flags: &[&str], arguments: &[&str]) -> Container {
    let text = vec!["x".repeat(200); 20].join(",");
    let container = unprivileged()
        .image(&lab("DIND_LAB_CLIENTS"))
        .flags(["--cap-add", "NET_ADMIN"])
        .flags(flags.iter().copied())
        .start(
            &[
                &[
                    "dnsmasq",
                    "--keep-in-foreground",
                    "--log-facility=-",
                    "--no-resolv",
                    "--no-hosts",
                    "--local=/here/",
                    "--host-record=name.here,192.0.2.7",
                    &format!("--txt-record=large.here,{text}"),
                ],
                arguments,
            ]
            .concat(),
        );
    container.wait_log("started, version", 1);
    container
}

/// The daemon under test with these lines in its `/etc/resolv.conf`.
fn resolving(lines: &str) -> Container {
    resolving_by(dind(), lines)
}

fn resolving_by(spec: Spec, lines: &str) -> Container {
    let write = format!("printf '{lines}' >/etc/resolv.conf");
    // An outer engine before 26.0 turns IPv6 off where its network has none, on loopback too.
    let daemon = spec
        .flags(["--sysctl", "net.ipv6.conf.all.disable_ipv6=0"])
        .prelude(&write)
        .ready(&[]);
    daemon.load_busybox();
    daemon
}

#[track_caller]
fn finds(daemon: &Container) {
    let found = daemon.inner(&[], &["nslookup", "name.here"]);
    assert!(found.contains("192.0.2.7"), "{found}");
}

/// A query for the text of `large.here`, in the escapes of printf: RFC 1035, 4.1.
const QUERY: &str =
    r"\022\064\001\000\000\001\000\000\000\000\000\000\005large\004here\000\000\020\000\001";

/// Systemd's address; the second of two, of which the first refuses; and one of IPv6.
/// Answers of every size come back, and what else resolv.conf says is kept.
#[test]
fn a_resolver_on_loopback_is_asked() {
    is_asked_by(&dind());
}

/// The same where loopback, and all of IPv6, is out of the engine's reach; and the engine itself asks
/// as its containers do.
#[test]
fn a_resolver_out_of_reach_is_asked_for_an_engine_in_a_user_namespace() {
    is_asked_by(&rootless());
    let network = Network::with(&["--ipv6", "--subnet", "fd00:d1d:53::/64"]);
    let own = ["--network", &network.name, "--ip6", "fd00:d1d:53::53"];
    let _dnsmasq = start_dnsmasq(&own, &[]);
    let spec = rootless().flags(["--network", &network.name]);
    let daemon = resolving_by(spec, "nameserver fd00:d1d:53::53\\n");
    daemon.text(&["docker", "network", "create", "inside"]);
    for network in ["bridge", "inside", "host"] {
        let found = daemon.inner(&["--network", network], &["nslookup", "name.here"]);
        assert!(found.contains("192.0.2.7"), "{network}: {found}");
    }
    // Queries wait for the next forwarder.
    let forwarder =
        "for pid in $(pgrep -P 1 -x dind); do pgrep -P $pid >/dev/null || echo $pid; done";
    daemon.wait_until("sleep 1.1; true");
    daemon.sh(&format!("kill -KILL $({forwarder})"));
    daemon.wait_log("the DNS forwarder was ended by SIGKILL; restarting it", 1);
    finds(&daemon);
}

/// What is turned off, and what is within reach, is left alone.
#[test]
fn nothing_is_done_for_an_engine_in_a_user_namespace_where_nothing_is_to_be_done() {
    let network = Network::new();
    let off = rootless()
        .flags(["--network", &network.name])
        .env("DIND_DNS", "off");
    let elsewhere = rootless().flags(["--dns", "192.0.2.53"]);
    for (spec, expected) in [
        (off, "nameserver 127.0.0.11"),
        (elsewhere, "nameserver 192.0.2.53"),
    ] {
        let daemon = spec.ready(&[]);
        daemon.load_busybox();
        let text = daemon.inner(&["--network=host"], &["cat", "/etc/resolv.conf"]);
        assert!(text.contains(expected), "{text}");
        daemon.not_logged(&["dind: dns:"]);
    }
}

#[track_caller]
fn is_asked_by(spec: &Spec) {
    for (lines, address) in [
        ("nameserver 127.0.0.53\\n", "127.0.0.53"),
        (
            "nameserver 127.0.0.7\\nnameserver 127.0.0.53\\n",
            "127.0.0.53",
        ),
        ("nameserver ::1\\n", "::1"),
    ] {
        let daemon = resolving_by(
            spec.clone(),
            &format!("search here\\noptions edns0\\n{lines}"),
        );
        let _dnsmasq = dnsmasq(&daemon, address);
        finds(&daemon);
        let text = daemon.inner(&[], &["cat", "/etc/resolv.conf"]);
        for line in ["search here", "options edns0", "nameserver "] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("8.8.8.8"), "{text}");
        let ask = format!(
            "server=$(sed -n 's/^nameserver //p' /etc/resolv.conf); {}",
            over_tcp("$server")
        );
        let length: usize = daemon
            .inner(&[], &["sh", "-c", &ask])
            .parse()
            .expect("wc prints a number");
        assert!(length > 20 * 200, "{address}: {length} bytes");
    }
}

/// A resolver that has port 53 of every address, in the network namespace that the daemon
/// shares with it, is asked there itself. That nothing is forwarded is said.
#[test]
fn a_resolver_on_every_address_is_asked_itself() {
    let dnsmasq = start_dnsmasq(&[], &[]);
    let daemon = dind()
        .flags(["--network", &format!("container:{}", dnsmasq.name)])
        .prelude("echo nameserver 127.0.0.1 >/etc/resolv.conf")
        .ready(&[]);
    daemon.load_busybox();
    daemon.wait_log("cannot answer DNS queries of inner containers on", 1);
    finds(&daemon);
    assert_eq!(daemon.exec(&["sh", "-c", FORWARDER]).stdout, "");
}

/// The length of what comes back over TCP for `large.here`. The length comes first: RFC 1035, 4.2.2.
fn over_tcp(server: &str) -> String {
    format!("printf '\\000\\034{QUERY}' | nc -w 60 {server} 53 | wc -c")
}

/// A container that sends queries as fast as it can, and has all the connections that it gets, none
/// of them idle.
const HOSTILE: &str = r#"
    use IO::Socket::INET;
    my ($server) = grep { s/^nameserver (\S+)\n/$1/ } do { open my $f, "<", "/etc/resolv.conf"; <$f> };
    my @to = (PeerAddr => $server, PeerPort => 53);
    my $query = pack "nnnnnn", 7, 256, 1, 0, 0, 0;
    $query .= "\4name\4here\0" . pack "nn", 1, 1;
    if (!fork) {
        my $socket = IO::Socket::INET->new(@to, Proto => "udp") or die $!;
        while (1) { $socket->send($query) }
    }
    $SIG{PIPE} = "IGNORE";
    $| = 1;
    while (1) {
        for (@held .. 200) {
            my $connection = IO::Socket::INET->new(@to, Proto => "tcp", Timeout => 1) or next;
            push @held, $connection;
        }
        @held = grep { defined syswrite $_, "\1" } @held;
        print "held\n";
        select undef, undef, undef, 1;
    }"#;

#[test]
fn one_client_takes_nothing_from_the_others() {
    let daemon = resolving("nameserver 127.0.0.53\\n");
    let _dnsmasq = dnsmasq(&daemon, "127.0.0.53");
    daemon.sh(&format!("cat >/hostile <<'END'\n{HOSTILE}\nEND"));
    // It has the programs of this image.
    daemon.sh(&format!(
        "docker run -d --name hostile -v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro \
         -v /hostile:/hostile:ro {BUSYBOX} /usr/bin/perl /hostile"
    ));
    daemon.wait_until("docker logs hostile 2>&1 | grep -q held");
    for _ in 0..3 {
        // As a resolver does: on a busy machine the kernel drops what is not read in time.
        let asked = ["nslookup name.here"; 3].join(" || ");
        let found = daemon.inner(&[], &["sh", "-c", &asked]);
        assert!(found.contains("192.0.2.7"), "{found}");
        let ask = format!(
            "server=$(sed -n 's/^nameserver //p' /etc/resolv.conf); {}",
            over_tcp("$server")
        );
        let length = daemon.inner(&[], &["sh", "-c", &ask]);
        let length: usize = length.parse().expect("wc prints a number");
        assert!(length > 20 * 200, "{length} bytes");
    }
    let state = daemon.text(&["docker", "inspect", "-f", "{{.State.Running}}", "hostile"]);
    assert_eq!(state, "true");
}

/// The bridge's address is this container's, which answers whoever has a route to it, but no query.
#[test]
fn who_is_outside_is_not_answered() {
    let daemon = resolving("nameserver 127.0.0.53\\n");
    let _dnsmasq = dnsmasq(&daemon, "127.0.0.53");
    finds(&daemon);
    let inside = daemon.sh("docker network inspect -f '{{(index .IPAM.Config 0).Gateway}}' bridge");
    let outside = daemon.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}");
    let script = format!(
        "ip route add {inside} via {outside} && ping -c 3 {inside} >/dev/null || exit 7
         ! nslookup name.here {inside} || exit 8
         {}",
        over_tcp(&inside)
    );
    let neighbour = unprivileged()
        .image(BUSYBOX)
        .flags(["--cap-add", "NET_ADMIN"])
        .run(&["sh", "-c", &script])
        .exited(0);
    assert_eq!(neighbour.stdout.lines().last(), Some("0"), "{neighbour:?}");
    // From every network inside, and from this container.
    daemon.sh("docker network create other");
    for network in ["bridge", "other", "host"] {
        let flags = ["--network", network];
        let found = daemon.inner(&flags, &["nslookup", "name.here", &inside]);
        assert!(found.contains("192.0.2.7"), "{network}: {found}");
    }
}

/// Thousands of queries without an answer take no more than there is for them, and when
/// the resolver is back so are the names. One that was killed is replaced.
#[test]
fn the_forwarder_lives_through_floods_and_is_replaced() {
    let daemon = resolving("nameserver 127.0.0.53\\n");
    let dnsmasq = dnsmasq(&daemon, "127.0.0.53");
    finds(&daemon);
    let first = daemon.sh(FORWARDER);
    dnsmasq.docker(&["pause"]).exited(0);
    daemon.text(&[
        "bash",
        "-c",
        &format!(
            "server=$(docker run --rm {BUSYBOX} sed -n 's/^nameserver //p' /etc/resolv.conf)
             for count in {{1..3000}}; do printf '{QUERY}' >/dev/udp/$server/53; done
             for count in {{1..200}}; do exec {{held}}<>/dev/tcp/$server/53; done"
        ),
    ]);
    let open = daemon.sh(&format!("ls /proc/{first}/fd | wc -l"));
    let open: usize = open.parse().expect("wc prints a number");
    assert!((100..1000).contains(&open), "{open} descriptors");
    dnsmasq.docker(&["unpause"]).exited(0);
    finds(&daemon);
    assert_eq!(daemon.sh(FORWARDER), first);
    daemon.sh(&format!("kill -KILL {first}"));
    daemon.wait_log("the DNS forwarder was ended by SIGKILL", 1);
    daemon.wait_until(&format!("test -n \"$({FORWARDER})\""));
    finds(&daemon);
    daemon.docker(&["stop"]).exited(0);
    assert_eq!(daemon.inspect("{{.State.ExitCode}}"), "0");
}
