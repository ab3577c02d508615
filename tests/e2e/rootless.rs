//! An engine in a user namespace, in a container without `--privileged`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::daemons::{held_dockerd, wait_held};
use crate::dns::{Outside, fetches};
use crate::docker::{BUSYBOX, Container, Scratch, dind, rootless, unprivileged};

/// The pid of a child of PID 1.
pub fn child(container: &Container, name: &str) -> String {
    container.text(&["pgrep", "-P", "1", "-x", name])
}

/// The major version of the engine.
pub fn major(container: &Container) -> u32 {
    let version = container.text(&["docker", "version", "--format", "{{.Server.Version}}"]);
    let major = version.split('.').next().map(str::parse);
    major.expect("a version").expect("a number")
}

/// The daemons are PID 1's own children, in a user namespace whose root is no root outside. Inner
/// containers run on overlay2, and the stop is in order.
#[test]
fn an_engine_runs_without_privileges() {
    let container = rootless().ready(&[]);
    container.logged(&["rootless: the engine runs in a user namespace"]);
    container.load_busybox();
    assert_eq!(container.inner(&[], &["echo", "hi"]), "hi");
    for daemon in ["dockerd", "containerd"] {
        let pid = child(&container, daemon);
        let map = container.text(&["cat", &format!("/proc/{pid}/uid_map")]);
        let words: Vec<&str> = map.split_whitespace().collect();
        assert_eq!(
            words,
            ["0", "1000", "1", "1", "100000", "65536"],
            "{daemon}"
        );
        let user = container.text(&["stat", "-c", "%u", &format!("/proc/{pid}")]);
        assert_eq!(user, "1000", "{daemon}");
    }
    let format = "{{.Driver}} {{.CgroupDriver}} {{.SecurityOptions}}";
    let info = container.text(&["docker", "info", "--format", format]);
    assert!(info.starts_with("overlay2 none"), "{info}");
    assert!(info.contains("name=rootless"), "{info}");
    container.text(&["dind", "health"]);
    container.text(&["docker", "run", "-d", BUSYBOX, "sleep", "100001"]);
    container.signal("TERM");
    assert_eq!(container.wait(), 0);
    container.not_logged(&["did not end in time"]);
}

#[test]
fn without_any_flag_a_command_is_a_clients() {
    assert_eq!(unprivileged().run(&["echo", "hi"]).text(), "hi");
    let never = rootless().env("DIND_ROOTLESS", "0");
    assert_eq!(never.run(&["echo", "hi"]).text(), "hi");
}

/// By names that only the resolver on loopback of the outer network knows.
#[test]
fn inner_containers_reach_the_outer_network() {
    let outside = Outside::new();
    let daemon = outside.daemon(rootless());
    daemon.text(&["docker", "network", "create", "inside"]);
    fetches(&daemon, &[]);
    fetches(&daemon, &["--network", "inside"]);
    fetches(&daemon, &["--network", "host"]);
    // Before 24.0 dockerd has no default for networks that users make.
    let mtus = if major(&daemon) < 24 { 1 } else { 2 };
    for flags in [&[][..], &["--network", "inside"]].into_iter().take(mtus) {
        let mtu = daemon.inner(flags, &["cat", "/sys/class/net/eth0/mtu"]);
        assert_eq!(mtu, "21885", "{flags:?}");
    }
    // What connects the networks is started again.
    let network = child(&daemon, "slirp4netns");
    daemon.wait_until("sleep 1.1; true");
    daemon.text(&["kill", "-KILL", &network]);
    daemon.wait_log(
        "the network of the user namespace was ended by SIGKILL; restarting",
        1,
    );
    daemon.wait_until(&format!(
        "docker run --rm {BUSYBOX} ping -c 1 -W 1 10.0.2.2"
    ));
    fetches(&daemon, &[]);
}

/// What runs beside the engine is root inside, has the home and the output, and has no rights outside.
#[test]
fn a_command_has_the_rights_of_the_engine() {
    let script = "id -u; docker version --format {{.Server.Os}}; touch /root/file && echo written
        echo shown >/dev/stdout; (echo x >/proc/sys/kernel/core_pattern) 2>/dev/null || echo refused";
    let text = rootless().run(&["sh", "-c", script]).text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines, ["0", "linux", "written", "shown", "refused"]);
}

/// A dockerd that is killed is started again in the same namespaces.
#[test]
fn a_daemon_that_is_killed_is_started_again() {
    let container = rootless().env("DIND_RESTART", "on-failure").ready(&[]);
    container.load_busybox();
    let pid = child(&container, "dockerd");
    container.text(&["kill", "-KILL", &pid]);
    container.wait_log("docker answers again", 1);
    assert_eq!(container.inner(&[], &["echo", "again"]), "again");
}

/// Data of an engine with other rights stays as it is.
#[test]
fn a_volume_of_a_privileged_engine_is_refused() {
    let volume = crate::docker::Volume::new();
    let flags = volume.on("/var/lib/docker");
    let privileged = dind().flags(flags.clone()).ready(&[]);
    privileged.load_busybox();
    drop(privileged);
    let output = rootless().flags(flags.clone()).run(&["true"]).exited(1);
    output.says(&["dind: error: ", "belongs to user 0", "another volume"]);
    let again = dind().flags(flags).ready(&[]);
    assert_eq!(again.inner(&[], &["echo", "hi"]), "hi");
}

/// A dockerd without a Unix socket to ask tells that it is ready out of its network namespace. Then
/// hooks run, signals are passed on, and the stop is in order, as otherwise.
#[test]
fn a_daemon_with_a_tcp_address_alone_is_ready() {
    let container = rootless()
        .prelude(
            "for stage in post-start pre-stop; do
                 mkdir -p /etc/dind/$stage.d
                 printf '#!/bin/sh\\necho this is '$stage' >&2\\n' >/etc/dind/$stage.d/10-hook
                 chmod +x /etc/dind/$stage.d/10-hook
             done",
        )
        .ready(&["dockerd", "-H", "tcp://127.0.0.1:2375"]);
    container.logged(&["docker is ready", " on tcp://127.0.0.1:2375"]);
    container.text(&["docker", "-H", "tcp://127.0.0.1:2375", "version"]);
    container.text(&["dind", "health"]);
    container.signal("HUP");
    container.wait_log("Got signal to reload configuration", 1);
    container.signal("TERM");
    assert_eq!(container.wait(), 0);
    container.logged_in_order(&[
        "this is post-start",
        "dind: docker is ready after",
        "this is pre-stop",
        "Daemon shutdown complete",
    ]);
}

/// Where the API could not be asked when dockerd was started, it is asked when dockerd says that it is
/// ready.
#[test]
fn a_daemon_that_says_that_it_is_ready_is_asked() {
    let hook = "#!/bin/sh\necho >/held\nread -r _ </gate\n";
    let hooks = Scratch::new();
    let path = hooks.file("10-hook", hook);
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("a mode");
    let container = held_dockerd(rootless())
        .flags(hooks.mounted_on("/etc/dind/pre-start.d"))
        .start(&["dockerd"]);
    wait_held(&container);
    container.sh("mv /run/docker.sock /run/away.sock; : >/held; echo go >/gate");
    wait_held(&container);
    container.sh("mv /run/away.sock /run/docker.sock; echo go >/gate");
    container.wait_ready();
}
