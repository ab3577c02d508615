//! Networks outside that take less than Ethernet's 1500 bytes, as those of clouds and VPNs do,
//! where nobody is told of a packet that was too large: an ICMP filter is in the way.

use crate::docker::{BUSYBOX, Container, Network, Scratch, Spec, dind, unprivileged};

/// What is sent: 10 MB, in segments as large as the connection takes.
const SIZE: &str = "10485760";

/// The rule that drops "fragmentation needed", which this network namespace would send to
/// the container inside: RFC 1191.
const RULE: &str = "OUTPUT -p icmp --icmp-type fragmentation-needed -j DROP";

/// A network outside, and in it somebody who counts what is sent to port 9000 and says how
/// much it was. They would take packets of the usual size: that the way has less, only the
/// network in between knows.
struct Outside {
    counter: Container,
    network: Network,
}

impl Outside {
    fn new(mtu: &str) -> Self {
        let option = format!("com.docker.network.driver.mtu={mtu}");
        let network = Network::with(&["-o", &option]);
        let counter = unprivileged()
            .image(BUSYBOX)
            .flags(["--network", &network.name, "--cap-add", "NET_ADMIN"])
            .start(&[
                "sh",
                "-c",
                "ip link set eth0 mtu 1500 && exec nc -ll -p 9000 -e wc -c",
            ]);
        Self { counter, network }
    }

    /// The daemon under test in that network, with the small image and the filter.
    fn daemon(&self, spec: Spec) -> Container {
        let daemon = spec.flags(["--network", &self.network.name]).ready(&[]);
        daemon.load_busybox();
        daemon.sh(&format!("iptables -I {RULE}"));
        daemon
    }

    /// The script that sends, and prints how much arrived.
    fn send(&self) -> String {
        let address = self
            .counter
            .inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}");
        format!("dd if=/dev/zero bs=1048576 count=10 2>/dev/null | nc {address} 9000")
    }
}

/// How many packets the rule has dropped.
fn dropped(daemon: &Container) -> String {
    daemon.sh("iptables -nvxL OUTPUT | awk '/icmp/ {print $1}'")
}

/// The MTU of a container on a network inside.
fn mtu(daemon: &Container, network: &str) -> String {
    let flags = ["--network", network];
    daemon.inner(&flags, &["cat", "/sys/class/net/eth0/mtu"])
}

/// Before 24.0 dockerd has no `--default-network-opt`, and `--mtu` is for the default bridge
/// and builds alone.
fn gives_networks_an_mtu(daemon: &Container) -> bool {
    daemon
        .sh("dockerd --help")
        .contains("--default-network-opt")
}

/// Everything inside sends in packets that the network takes, and nobody has to be told.
#[test]
fn large_transfers_get_through() {
    for size in ["1400", "1280"] {
        let outside = Outside::new(size);
        let daemon = outside.daemon(dind());
        let send = outside.send();
        assert_eq!(mtu(&daemon, "bridge"), size);
        assert_eq!(daemon.inner(&[], &["sh", "-c", &send]), SIZE);
        builds(&daemon, &send);
        daemon.text(&["docker", "network", "create", "inside"]);
        if gives_networks_an_mtu(&daemon) {
            assert_eq!(mtu(&daemon, "inside"), size);
            let sent = daemon.inner(&["--network", "inside"], &["sh", "-c", &send]);
            assert_eq!(sent, SIZE);
            composes(&daemon, &send);
        } else {
            assert_eq!(mtu(&daemon, "inside"), "1500");
        }
        assert_eq!(dropped(&daemon), "0");
    }
}

/// In a build, by either builder.
fn builds(daemon: &Container, send: &str) {
    let scratch = Scratch::new();
    daemon.sh("mkdir /build");
    daemon.copy_in(&scratch.file("send", send), "/build/send");
    let recipe = format!("FROM {BUSYBOX}\nCOPY send /send\nRUN test $(sh /send) = {SIZE}");
    daemon.copy_in(&scratch.file("Dockerfile", &recipe), "/build/Dockerfile");
    for builder in ["0", "1"] {
        let variable = format!("DOCKER_BUILDKIT={builder}");
        let build = ["docker", "build", "--no-cache", "/build"];
        daemon
            .exec_call(&["-e", &variable], &build)
            .finish()
            .exited(0);
    }
}

/// In a project of docker-compose's.
fn composes(daemon: &Container, send: &str) {
    let scratch = Scratch::new();
    let project = format!(
        "services:\n  sender:\n    image: {BUSYBOX}\n    command: ['sh', '-c', '{send}']\n"
    );
    daemon.copy_in(&scratch.file("compose.yaml", &project), "/compose.yaml");
    daemon.sh("docker-compose --file /compose.yaml --project-name p up");
    assert_eq!(daemon.text(&["docker", "logs", "p-sender-1"]), SIZE);
}

/// Turned off, packets are too large, and who sent them would have to be told: what the
/// filter drops. With a size of the user's they are not.
#[test]
fn the_size_is_the_users_where_they_say_so() {
    let outside = Outside::new("1400");
    let send = outside.send();
    let daemon = outside.daemon(dind().env("DIND_MTU", "off"));
    assert_eq!(mtu(&daemon, "bridge"), "1500");
    daemon.text(&["docker", "run", "-d", BUSYBOX, "sh", "-c", &send]);
    daemon.wait_until("iptables -nvxL OUTPUT | awk '/icmp/ {exit $1 == 0}'");
    let daemon = outside.daemon(dind().env("DIND_MTU", "1300"));
    assert_eq!(mtu(&daemon, "bridge"), "1300");
    assert_eq!(daemon.inner(&[], &["sh", "-c", &send]), SIZE);
    assert_eq!(dropped(&daemon), "0");
}
