//! Images to and from a registry, which is Debian's in a second container.

use crate::docker::{BUSYBOX, Network, dind, lab, unprivileged};

/// Debian's own configuration asks for a password.
const SERVE: &str = "
    printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: /registry}}\nhttp: {addr: \":5000\"}\n' >/config.yml
    exec docker-registry serve /config.yml";

/// `--insecure-registry` reaches dockerd, and what is pushed can be pulled again.
#[test]
fn what_is_pushed_can_be_pulled() {
    let network = Network::new();
    let flags = ["--network", network.name.as_str()];
    let registry = unprivileged()
        .image(&lab("DIND_LAB_CLIENTS"))
        .flags(flags)
        .flags(["--network-alias", "registry"])
        .start(&["sh", "-c", SERVE]);
    let daemon = dind()
        .flags(flags)
        .ready(&["--insecure-registry=registry:5000"]);
    registry.wait_log("listening on", 1);
    daemon.load_busybox();
    let name = "registry:5000/small:1";
    daemon.text(&["docker", "tag", BUSYBOX, name]);
    daemon.text(&["docker", "push", name]);
    daemon.text(&["docker", "rmi", name, BUSYBOX]);
    assert_eq!(daemon.text(&["docker", "images", "--quiet"]), "");
    daemon.text(&["docker", "pull", name]);
    assert_eq!(
        daemon.text(&["docker", "run", "--rm", name, "echo", "pulled"]),
        "pulled"
    );
}
