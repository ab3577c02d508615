//! The image for an ordinary user, as users of docker:dind-rootless start it.

use crate::docker::{BUSYBOX, Network, ROOTLESS_FLAGS, Spec, Volume, dind, lab, unprivileged};

/// The image, with `--privileged` as docker:dind-rootless' own recipe has it. On a host where only
/// root may open `/dev/net/tun` that recipe fails, and so does this one, so the node in the container
/// gets the mode that udev gives it.
fn recipe() -> Spec {
    as_user(dind())
}

/// The container begins as root, sets the mode, and goes on as the image's user.
pub fn as_user(spec: Spec) -> Spec {
    let script = "set -e
        chmod 0666 /dev/net/tun
        export HOME=/home/rootless
        exec setpriv --reuid rootless --regid rootless --init-groups dind \"$@\"";
    let spec = spec.image(&lab("DIND_LAB_ROOTLESS")).shell(script);
    spec.flags(["--user", "0"])
}

/// Clients find the engine without a variable, at the place of docker:dind-rootless, and by TLS.
#[test]
fn clients_find_the_engine() {
    let network = Network::new();
    let certificates = Volume::new();
    let container = recipe().flags(certificates.on("/certs")).ready(&[]);
    network.connect(&container, "docker");
    let user = container.text(&["stat", "-c", "%u", "/proc/1"]);
    assert_eq!(user, "1000");
    let info = "{{.SecurityOptions}} {{.DockerRootDir}}";
    let rootless = |info: &str| info.contains("name=rootless");
    for script in [
        "docker info --format \"$1\"",
        "DOCKER_HOST=unix:///run/user/1000/docker.sock docker info --format \"$1\"",
        "docker-entrypoint.sh docker info --format \"$1\"",
    ] {
        let call = container.exec_call(&["--user=1000"], &["sh", "-ec", script, "sh", info]);
        let said = call.finish().text();
        assert!(rootless(&said), "{script}: {said}");
        assert!(
            said.ends_with("/home/rootless/.local/share/docker"),
            "{script}: {said}"
        );
    }
    let client = unprivileged()
        .flags(certificates.on("/certs"))
        .flags(["--network", &network.name])
        .env("DOCKER_HOST", "tcp://docker:2376")
        .env("DOCKER_TLS_VERIFY", "1")
        .env("DOCKER_CERT_PATH", "/certs/client");
    let said = client.run(&["docker", "info", "--format", info]).text();
    assert!(rootless(&said), "{said}");
}

/// Images, containers and volumes are there after a restart, and in another container with the volume.
#[test]
fn data_is_kept() {
    let volume = Volume::new();
    let spec = recipe().flags(volume.on("/home/rootless/.local/share/docker"));
    let container = spec.ready(&[]);
    container.load_busybox();
    let kept = format!("docker run -v kept:/kept {BUSYBOX} sh -c 'echo kept >/kept/file'");
    container.sh(&kept);
    container.docker(&["restart"]).exited(0);
    container.wait_ready_times(2);
    let read = [
        "run",
        "--rm",
        "-v",
        "kept:/kept",
        BUSYBOX,
        "cat",
        "/kept/file",
    ];
    let read: Vec<&str> = std::iter::once("docker").chain(read).collect();
    assert_eq!(container.text(&read), "kept");
    container.signal("TERM");
    assert_eq!(container.wait(), 0);
    drop(container);
    assert_eq!(spec.ready(&[]).text(&read), "kept");
}

/// With the flags of README in the place of `--privileged`.
#[test]
fn the_flags_of_an_engine_without_privileges_do() {
    let spec = unprivileged()
        .flags(ROOTLESS_FLAGS.concat())
        .flags(["--security-opt=apparmor=unconfined"]);
    let container = as_user(spec).ready(&[]);
    container.load_busybox();
    assert_eq!(container.inner(&[], &["echo", "hi"]), "hi");
}

/// A host with another mode of the device is named, and `--privileged` alone is no remedy.
#[test]
fn a_device_that_only_root_may_open_is_named() {
    let closed = recipe().shell(
        "chmod 0600 /dev/net/tun; export HOME=/home/rootless
         exec setpriv --reuid rootless --regid rootless --init-groups dind \"$@\"",
    );
    closed.run(&["docker", "info"]).exited(1).says(&[
        "dind: error: ",
        "/dev/net/tun has the mode 0600, and user 1000 may not open it",
        "--privileged --user 0",
    ]);
}
