//! What connects the network of an engine in a user namespace with that of its container.

use std::collections::BTreeSet;

use crate::dns::{Outside, fetches};
use crate::docker::{
    BUSYBOX, Container, Network, ROOTLESS_CAPABILITIES as CAPABILITIES, ROOTLESS_FLAGS as FLAGS,
    Scratch, Spec, Volume, dind, docker, lab, line_with, rootless, rootless_with as with,
    unprivileged,
};
use crate::rootless::child;

const DRIVERS: [&str; 3] = ["veth", "slirp4netns", "pasta"];

/// A container in which a veth pair is possible, and nothing else is.
pub fn with_veth() -> Spec {
    let flags = FLAGS
        .into_iter()
        .filter(|flag| !flag.contains(&"/dev/net/tun"));
    with(flags, CAPABILITIES).flags(["--cap-add=NET_ADMIN"])
}

/// A container with this driver, which for a veth pair nobody asks for.
fn with_driver(driver: &str) -> Spec {
    match driver {
        "veth" => with_veth(),
        _ => rootless().env("DIND_ROOTLESS_NETWORK", driver),
    }
}

/// The name of an interface, and its MTU, in a line of `ip -o link`.
fn mtu(line: &str) -> (&str, &str) {
    let mut words = line.split_whitespace();
    let name = words.nth(1).unwrap_or_default().trim_end_matches(':');
    let name = name.split('@').next().unwrap_or_default();
    (
        name,
        words
            .skip_while(|word| *word != "mtu")
            .nth(1)
            .unwrap_or_default(),
    )
}

/// The MTU of an interface in the output of `ip -o link`.
#[track_caller]
fn mtu_of(text: &str, interface: &str) -> String {
    let found = text
        .lines()
        .map(mtu)
        .find(|(name, _)| name.starts_with(interface));
    let (_, mtu) = found.unwrap_or_else(|| panic!("no {interface} in {text}"));
    mtu.to_owned()
}

/// Names that only this container's resolver knows are found, whatever the network of the inner
/// container, and what is on the way takes packets of one size.
#[test]
fn each_driver_leads_out_by_name_and_with_one_mtu() {
    let outside = Outside::new();
    for driver in DRIVERS {
        let daemon = outside.daemon(with_driver(driver));
        daemon.logged(&["dind: rootless: ", "its network is 10.", driver]);
        daemon.text(&["docker", "network", "create", "made"]);
        for network in ["bridge", "made", "host"] {
            fetches(&daemon, &["--network", network]);
        }
        let inner = daemon.inner(&[], &["ip", "-o", "link"]);
        daemon.text(&["docker", "run", "-d", BUSYBOX, "sleep", "100001"]);
        let engine = daemon.inner(&["--network=host"], &["ip", "-o", "link"]);
        let container = daemon.sh("ip -o link");
        let expected = match driver {
            "veth" => mtu_of(&container, "eth0"),
            "slirp4netns" => "21885".to_owned(),
            _ => "65520".to_owned(),
        };
        assert_eq!(mtu_of(&inner, "eth0"), expected, "{driver}");
        assert_eq!(mtu_of(&engine, "docker0"), expected, "{driver}");
        let (there, here) = match driver {
            "veth" => ("eth0", Some("dind-")),
            _ => ("tap0", None),
        };
        assert_eq!(mtu_of(&engine, there), expected, "{driver}");
        if let Some(here) = here {
            assert_eq!(mtu_of(&container, here), expected, "{driver}");
        }
        // In the name of a stop nothing has to be killed.
        daemon.signal("TERM");
        assert_eq!(daemon.wait(), 0);
        daemon.not_logged(&["did not end in time"]);
    }
}

/// What a user asks for is used at both ends.
#[test]
fn an_mtu_by_hand_is_that_of_both_ends() {
    for driver in DRIVERS {
        let daemon = with_driver(driver).env("DIND_MTU", "1280").ready(&[]);
        daemon.load_busybox();
        let inner = daemon.inner(&[], &["ip", "-o", "link"]);
        assert_eq!(mtu_of(&inner, "eth0"), "1280", "{driver}");
        let engine = daemon.inner(&["--network=host"], &["ip", "-o", "link"]);
        let there = if driver == "veth" { "eth0" } else { "tap0" };
        assert_eq!(mtu_of(&engine, there), "1280", "{driver}");
    }
}

#[test]
fn a_pasta_that_is_killed_is_started_again() {
    let outside = Outside::new();
    let daemon = outside.daemon(with_driver("pasta"));
    // passt.avx2, before 2024.
    let network = child(&daemon, "pas.*");
    daemon.wait_until("sleep 1.1; true");
    daemon.text(&["kill", "-KILL", &network]);
    daemon.wait_log(
        "the network of the user namespace was ended by SIGKILL; restarting",
        1,
    );
    daemon.wait_until(&format!(
        "docker run --rm --network host {BUSYBOX} ip route | grep -q default"
    ));
    fetches(&daemon, &[]);
}

/// A receive buffer in which pasta cannot count is warned of, until the flag of the remedy is there.
#[test]
fn a_receive_buffer_in_which_pasta_cannot_count_is_named() {
    for (bytes, expected) in [(33_554_432, true), (16_777_216, false)] {
        let buffer = format!("net.ipv4.tcp_rmem=4096 131072 {bytes}");
        let spec = with_driver("pasta").flags(["--sysctl", &buffer]);
        let output = spec.run(&["docker", "info"]).exited(0);
        let remedy = "--sysctl 'net.ipv4.tcp_rmem=4096 131072 16777216'";
        let warning = line_with(&output.stderr, &["dind: warning: rootless: pasta", remedy]);
        assert_eq!(warning.is_some(), expected, "{output:?}");
    }
}

/// Forwarding is turned on where it is off, and without CAP_NET_ADMIN nothing of this is possible.
#[test]
fn a_veth_pair_needs_what_it_is_made_of() {
    let outside = Outside::new();
    let daemon = outside.daemon(with_veth().flags(["--sysctl", "net.ipv4.ip_forward=0"]));
    fetches(&daemon, &[]);
    drop(daemon);
    let asked = |spec: Spec| {
        spec.env("DIND_ROOTLESS_NETWORK", "veth")
            .run(&["docker", "info"])
    };
    let output = asked(rootless()).exited(1);
    output.says(&[
        "dind: error: ",
        "a veth pair is asked for, and it has no CAP_NET_ADMIN",
        "--cap-add NET_ADMIN",
    ]);
    let output = rootless()
        .env("DIND_ROOTLESS_NETWORK", "vpnkit")
        .run(&["true"]);
    output.exited(2).says(&["auto, veth, slirp4netns, pasta"]);
}

/// A profile by which nothing reaches nf_tables: socket(2) with AF_NETLINK and NETLINK_NETFILTER.
const WITHOUT_NETFILTER: &str = r#"{
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{
        "names": ["socket"],
        "action": "SCMP_ACT_ERRNO",
        "args": [
            { "index": 0, "value": 16, "op": "SCMP_CMP_EQ" },
            { "index": 2, "value": 12, "op": "SCMP_CMP_EQ" }
        ]
    }]
}"#;

/// Where the kernel makes no table of rules that ends with its process, slirp4netns is in the place of the
/// veth pair, and its answer is in the reason. Here it denies that by a profile, and for a table of that name
/// that is there already.
#[test]
fn where_the_kernel_makes_no_rules_there_is_no_veth_pair() {
    let outside = Outside::new();
    let scratch = Scratch::new();
    let profile = scratch.file("profile.json", WITHOUT_NETFILTER);
    let denied = format!("--security-opt=seccomp={}", profile.display());
    let without = |names: &[&str]| {
        let flags = FLAGS
            .into_iter()
            .filter(|flag| !names.iter().any(|name| flag.join(" ").contains(name)));
        with(flags, CAPABILITIES).flags(["--cap-add=NET_ADMIN"])
    };
    let says = |reason| ["behind slirp4netns, and no veth pair, since ", reason];
    // iptables needs nf_tables, too.
    let arguments = "--iptables=false --ip6tables=false";
    let spec = without(&["seccomp="]).flags([denied.as_str()]);
    let daemon = outside.daemon(spec.env("DOCKER_DAEMON_ARGS", arguments));
    daemon.logged(&says(
        "nf_tables makes no rules here (Operation not permitted)",
    ));
    fetches(&daemon, &["--network", "host"]);
    drop(daemon);
    // The plan shows the name.
    let script = "name=$(dind plan | sed -n 's/.*ip link add \\(dind-[0-9a-f]*\\) .*/\\1/p')
        nft add table inet \"${name:?}\"";
    let daemon = outside.daemon(without(&[]).prelude(script));
    daemon.logged(&says("an engine that uses it (File exists)"));
    fetches(&daemon, &[]);
    drop(daemon);
    let spec = without(&["seccomp=", "/dev/net/tun"]).flags([denied.as_str()]);
    spec.run(&["docker", "info"]).exited(1).says(&[
        "dind: error: ",
        "there is no /dev/net/tun, and no veth pair is possible, for nf_tables makes no rules here",
        "--device /dev/net/tun",
    ]);
    let asked = without(&["seccomp="])
        .flags([denied.as_str()])
        .env("DIND_ROOTLESS_NETWORK", "veth");
    asked.run(&["docker", "info"]).exited(1).says(&[
        "dind: error: ",
        "a veth pair is asked for, and nf_tables makes no rules here",
    ]);
}

/// A second engine with the data root of one in its network namespace is told of that, and not of the
/// kernel, whatever else could connect its network.
#[test]
fn beside_an_engine_with_the_same_data_root_that_is_the_reason() {
    let volume = Volume::new();
    let first = with_veth().flags(volume.on("/var/lib/docker")).ready(&[]);
    let beside = |spec: Spec| {
        let flag = format!("--network=container:{}", first.name);
        let spec = spec.flags([flag]).flags(volume.on("/var/lib/docker"));
        spec.env("DOCKER_TLS_CERTDIR", "").run(&[]).exited(1)
    };
    let output = beside(with_veth());
    output.says(&[
        "dind: error: ",
        "as beside an engine that uses it (Operation not permitted)",
        "stop the other container, or use another volume",
    ]);
    let output = beside(rootless().flags(["--cap-add=NET_ADMIN"]));
    output.says(&["dind: error: the data root is in use", "is locked"]);
}

/// Nobody outside gets to the engine's network by a route through the container, while answers come
/// back: what is behind NAT stays there.
#[test]
fn a_veth_pair_is_not_a_way_in() {
    let outside = Outside::new();
    let daemon = outside.daemon(with_veth());
    let serve = "mkdir /www; echo inside >/www/index.html; exec httpd -f -h /www";
    let run = [
        "docker",
        "run",
        "-d",
        "--network=host",
        "--name=web",
        BUSYBOX,
        "sh",
        "-c",
        serve,
    ];
    daemon.text(&run);
    daemon.wait_until("docker exec web wget -qO- http://10.0.2.100/");
    let address = daemon.text(&["hostname", "-i"]);
    let neighbour = unprivileged()
        .image(BUSYBOX)
        .flags(["--cap-add=NET_ADMIN"])
        .flags(["--network".to_owned(), outside.name().to_owned()])
        .start(&["sleep", "100001"]);
    neighbour.sh(&format!("ip route add 10.0.2.0/24 via {address}"));
    let got = neighbour.exec(&["wget", "-T", "2", "-qO-", "http://10.0.2.100/"]);
    assert_ne!(got.status, 0, "{got:?}");
    fetches(&daemon, &[]);
}

/// Forwarding that a start turns on is the engine's: who is in one network of its container does not get
/// through it to another one, while inner containers reach both. Where forwarding was on, it is its
/// owner's, which shows that nothing else is in the way.
#[test]
fn a_veth_pair_is_not_a_way_through() {
    // Nobody else's, whoever tests on this engine, too.
    let prefix = |number: u32| format!("fd00:d1d:{:x}:{number}::", std::process::id() & 0xffff);
    let networks = [1, 2].map(|number| {
        let subnet = format!("{}/64", prefix(number));
        Network::with(&["--ipv6", "--subnet", &subnet])
    });
    let [near, far] = &networks;
    let beside = |network: &Network| {
        let serve = "mkdir /www; echo a page beyond >/www/index.html; exec httpd -f -h /www";
        unprivileged()
            .image(BUSYBOX)
            .flags(["--cap-add=NET_ADMIN", "--network", &network.name])
            .start(&["sh", "-c", serve])
    };
    let (neighbour, server) = (beside(near), beside(far));
    let address = |container: &Container, network: &Network, field: &str| {
        let networks = format!("(index .NetworkSettings.Networks \"{}\")", network.name);
        container.inspect(&format!("{{{{{networks}.{field}}}}}"))
    };
    let get = |address: &str| {
        format!(r"printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 2 {address} 80 | grep 'a page beyond'")
    };
    for (field, setting) in [
        ("IPAddress", "net.ipv4.ip_forward"),
        ("GlobalIPv6Address", "net.ipv6.conf.all.forwarding"),
    ] {
        let wanted = address(&server, far, field);
        for forwards in [1, 0] {
            let setting = format!("{setting}={forwards}");
            let flags = ["--network", &near.name, "--sysctl", &setting];
            let daemon = with_veth().flags(flags).ready(&[]);
            daemon.load_busybox();
            far.connect(&daemon, "engine");
            for (container, own, other, peer) in [
                (&neighbour, near, far, &server),
                (&server, far, near, &neighbour),
            ] {
                let gateway = address(&daemon, own, field);
                let peer = address(peer, other, field);
                container.sh(&format!("ip route replace {peer} via {gateway}"));
                // Whoever is new in a network is found there after a moment.
                container.wait_until(&format!("ping -c 1 -w 2 {gateway}"));
            }
            for reached in [&wanted, &address(&neighbour, near, field)] {
                let run = format!("docker run --rm --network host {BUSYBOX} sh -c");
                daemon.wait_until(&format!("{run} \"{}\"", get(reached)));
            }
            match forwards {
                1 => neighbour.wait_until(&get(&wanted)),
                _ => {
                    let got = neighbour.exec(&["sh", "-c", &get(&wanted)]);
                    assert_ne!(got.status, 0, "{setting}: {got:?}");
                }
            }
        }
    }
}

/// What a start has made in a network namespace: interfaces and tables of nf_tables.
#[track_caller]
pub fn made(namespace: &Container) -> BTreeSet<String> {
    let network = format!("container:{}", namespace.name);
    let script = "ip -o link | sed -n 's/.*\\(dind-[0-9a-f]*\\)@.*/link \\1/p'
        nft list tables | sed -n 's/^table inet \\(dind-[0-9a-f]*\\).*/table \\1/p'
        ss -Hltn | awk '{print \"port\", $4}'";
    let image = lab("DIND_LAB_IMAGE");
    let words = [
        "run",
        "--rm",
        "--cap-add=NET_ADMIN",
        "--entrypoint=sh",
        "--network",
        &network,
    ];
    let text = docker([&words[..], &[&image, "-c", script]].concat()).text();
    // The resolver of a network outside has ports of its own.
    let lines = text.lines().filter(|line| !line.contains("127.0.0.11"));
    lines.map(str::to_owned).collect()
}

/// Two engines in one network namespace have a pair each. Whoever ends, by whatever, takes away all
/// that is its own and nothing else.
#[test]
fn what_a_start_makes_in_a_shared_network_namespace_goes_with_it() {
    let outside = Outside::new();
    let namespace = unprivileged()
        .image(BUSYBOX)
        .flags(["--network", outside.name()])
        .start(&["sleep", "100001"]);
    let before = made(&namespace);
    let network = format!("container:{}", namespace.name);
    let start = |directory: &str| {
        let spec = with_veth().flags(["--network", &network]);
        let engine = spec.env("DOCKER_TLS_CERTDIR", directory).ready(&[]);
        engine.load_busybox();
        engine
    };
    let of_first = start("/certs");
    let first = made(&namespace);
    assert!(first.len() >= before.len() + 3, "{first:?}");
    let second = start("");
    let both = made(&namespace);
    assert!(
        both.is_superset(&first) && both.len() > first.len(),
        "{both:?}"
    );
    for engine in [&of_first, &second] {
        fetches(engine, &[]);
    }
    let until = |expected: &BTreeSet<String>| {
        // The kernel removes a network namespace when it has the time.
        let by = std::time::Instant::now() + crate::docker::deadline();
        while made(&namespace) != *expected {
            let left = made(&namespace);
            assert!(std::time::Instant::now() < by, "{left:?}, not {expected:?}");
        }
    };
    second.signal("KILL");
    second.wait();
    until(&first);
    fetches(&of_first, &[]);
    second.docker(&["start"]).exited(0);
    second.wait_ready_times(2);
    for engine in [&second, &of_first] {
        fetches(engine, &[]);
    }
    second.docker(&["stop"]).exited(0);
    until(&first);
    of_first.signal("KILL");
    of_first.wait();
    until(&before);
}

/// No engine takes a network that another one here has claimed, also where no route shows it, as between
/// the other's plan and its interface: here that is turned off.
#[test]
fn engines_that_start_together_take_networks_of_their_own() {
    let outside = Outside::new();
    let first = outside.daemon(with_veth());
    first.logged(&["dind: rootless: ", "its network is 10.0.2.0/24"]);
    let set = |state: &str| {
        let network = format!("container:{}", first.name);
        let script =
            format!("ls /sys/class/net | grep ^dind- | xargs -I{{}} ip link set {{}} {state}");
        let image = lab("DIND_LAB_IMAGE");
        let flags = ["run", "--rm", "--cap-add=NET_ADMIN", "--entrypoint=sh"];
        let words = ["--network", &network, &image, "-c", &script];
        docker([&flags[..], &words].concat()).exited(0);
    };
    set("down");
    assert!(!first.sh("ip route").contains("10.0.2.0/24"));
    let flag = format!("--network=container:{}", first.name);
    let spec = with_veth().flags([flag]).env("DOCKER_TLS_CERTDIR", "");
    let second = spec.ready(&[]);
    second.load_busybox();
    second.logged(&["dind: rootless: ", "its network is 10.0.3.0/24"]);
    set("up");
    for engine in [&first, &second] {
        fetches(engine, &[]);
    }
}

/// A dockerd with privileges may drop what is forwarded, so there is no veth pair beside it.
#[test]
fn beside_an_engine_that_filters_there_is_no_veth_pair() {
    let outside = Outside::new();
    let privileged = outside.daemon(dind());
    let flags = [
        "--cap-add=NET_ADMIN".to_owned(),
        format!("--network=container:{}", privileged.name),
    ];
    let engine = rootless()
        .flags(flags)
        .env("DOCKER_TLS_CERTDIR", "")
        .ready(&[]);
    engine.load_busybox();
    engine.logged(&["behind slirp4netns, and no veth pair, since another Docker engine filters"]);
    for engine in [&engine, &privileged] {
        fetches(engine, &[]);
    }
}

/// Where this container has a way out by IPv6, so has the engine.
#[test]
fn each_driver_has_ipv6_where_the_container_has_it() {
    // Nobody else's, whoever tests on this engine, too.
    let prefix = format!("fd00:d1d:{:x}::", std::process::id() & 0xffff);
    let network = Network::with(&["--ipv6", "--subnet", &format!("{prefix}/64")]);
    let serve = "mkdir /www; echo by six >/www/index.html; exec httpd -f -h /www";
    let web = unprivileged()
        .image(BUSYBOX)
        .flags(["--network", &network.name])
        .start(&["sh", "-c", serve]);
    let address = web.inspect("{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}");
    assert!(address.starts_with(&prefix), "{address}");
    for driver in DRIVERS {
        let spec = with_driver(driver).flags(["--network", &network.name]);
        let daemon = spec.ready(&[]);
        daemon.load_busybox();
        // slirp4netns announces itself as a router, which takes the kernel a moment to believe.
        daemon.wait_until(&format!(
            "docker run --rm --network host {BUSYBOX} wget -q -O - http://[{address}]/ | grep -q 'by six'"
        ));
    }
}
