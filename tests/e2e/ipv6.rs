//! Networks with IPv6 inside, where the one outside has none.

use crate::docker::{BUSYBOX, dind};

/// Such a network is made, its containers have addresses in it, and one reaches the other
/// and, over IPv4, the resolver that the network has; with either backend of iptables.
#[test]
fn a_network_with_ipv6_is_made_and_used() {
    for legacy in ["", "1"] {
        let daemon = dind().env("DOCKER_IPTABLES_LEGACY", legacy).ready(&[]);
        daemon.load_busybox();
        daemon.text(&[
            "docker",
            "network",
            "create",
            "--ipv6",
            "--subnet",
            "fd00:d1d::/64",
            "six",
        ]);
        let serve = "mkdir /www; echo a page >/www/index.html; exec httpd -f -h /www";
        daemon.text(&[
            "docker",
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "six",
            BUSYBOX,
            "sh",
            "-c",
            serve,
        ]);
        let address = daemon.text(&[
            "docker",
            "inspect",
            "--format",
            "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}",
            "web",
        ]);
        assert!(address.starts_with("fd00:d1d::"), "{address}");
        // The kernel takes a second to be sure that nobody else has an address.
        let visit = format!(
            r"ip -6 address show dev eth0 | grep -q fd00:d1d: || exit
            until printf 'GET / HTTP/1.0\r\n\r\n' | nc {address} 80; do sleep 0.1; done | tail -n 1"
        );
        let page = daemon.inner(&["--network", "six"], &["sh", "-c", &visit]);
        assert_eq!(page, "a page");
        let found = daemon.inner(&["--network", "six"], &["nslookup", "-type=aaaa", "web"]);
        assert!(found.contains(&address), "{found}");
    }
}

/// It is there again after a restart, and so are its addresses.
#[test]
fn a_network_with_ipv6_outlives_a_restart() {
    let daemon = dind().ready(&[]);
    daemon.load_busybox();
    let create = "docker network create --ipv6 --subnet fd00:d1d::/64 six";
    daemon.sh(create);
    daemon.docker(&["restart"]).exited(0);
    daemon.wait_ready_times(2);
    let subnets =
        daemon.sh("docker network inspect -f '{{range .IPAM.Config}}{{.Subnet}} {{end}}' six");
    assert!(subnets.contains("fd00:d1d::/64"), "{subnets}");
    let addresses = daemon.inner(&["--network", "six"], &["ip", "-6", "address"]);
    assert!(addresses.contains("fd00:d1d::"), "{addresses}");
}
