//! `dind health`, the image's HEALTHCHECK, and READY=1 for whoever started the container.

use std::os::unix::net::UnixDatagram;

use crate::daemons::{held_dockerd, wait_held};
use crate::docker::{Scratch, deadline, dind, unprivileged};

/// 0 where the daemon answers, wherever it listens.
#[test]
fn a_daemon_that_answers_is_healthy() {
    let container = dind().ready(&[]);
    let output = container.exec(&["dind", "health"]).exited(0);
    assert_eq!(
        (output.stdout, output.stderr),
        (String::new(), String::new())
    );
    let elsewhere = dind().ready(&["dockerd", "-H", "unix:///run/own.sock"]);
    elsewhere.exec(&["dind", "health"]).exited(0);
    let contract = dind()
        .env("DIND_CONTRACT", "dockerd-entrypoint.sh")
        .ready(&[]);
    contract.exec(&["dind", "health"]).exited(0);
    let host = dind().env("DOCKER_HOST", "unix:///run/x.sock").ready(&[]);
    host.exec(&["dind", "health"]).exited(0);
}

/// Where it has no Unix socket it is asked on its TCP address, as soon as there is one.
#[test]
fn a_daemon_with_a_tcp_address_alone_is_asked_there() {
    let container = dind().start(&["dockerd", "-H", "tcp://127.0.0.1:2375", "--tls=false"]);
    container
        .exec(&["dind", "health", "--wait", "120"])
        .exited(0);
    container.exec(&["dind", "health"]).exited(0);
    container
        .exec(&["test", "-e", "/run/docker.sock"])
        .exited(1);
    container.text(&["pkill", "-STOP", "-x", "dockerd"]);
    container
        .exec(&["dind", "health", "--wait", "1"])
        .exited(1)
        .says(&["not healthy: tcp://127.0.0.1:2375: no answer in time"]);
    container.text(&["pkill", "-CONT", "-x", "dockerd"]);
}

/// 1 with the reason where there is none, and where it does not answer.
#[test]
fn a_daemon_that_does_not_answer_is_not() {
    unprivileged().run(&["health"]).exited(1).says(&[
        "dind: error: not healthy: /var/run/docker.sock:",
        "No such file",
    ]);
    let stopped = dind().ready(&[]);
    stopped.text(&["pkill", "-STOP", "-x", "dockerd"]);
    stopped
        .exec(&["dind", "health", "--wait", "1"])
        .exited(1)
        .says(&["not healthy", "no answer in time"]);
    stopped.text(&["pkill", "-CONT", "-x", "dockerd"]);
    stopped.exec(&["dind", "health", "--wait=60"]).exited(0);
}

/// 1 where containerd is dead, although dockerd answers; and 0 when there is one again.
#[test]
fn a_daemon_without_its_containerd_is_not_healthy() {
    let container = dind().ready(&["sleep", "infinity"]);
    container.exec(&["dind", "health"]).exited(0);
    container.sh("pkill -KILL -x containerd");
    container.wait_log("containerd was ended by SIGKILL", 1);
    container.exec(&["docker", "version"]).exited(0);
    container
        .exec(&["dind", "health"])
        .exited(1)
        .says(&["dind: error: not healthy: containerd has ended"]);
    // Who may not see containerd's socket learns of dockerd.
    container
        .exec_call(&["--user", "65534:docker"], &["dind", "health"])
        .finish()
        .exited(0);

    let restarted = dind()
        .env("DIND_RESTART", "on-failure")
        .ready(&["sleep", "infinity"]);
    restarted.sh("pkill -KILL -x containerd; dind health --wait 120");
    restarted.wait_log("containerd was ended by SIGKILL; restarting it", 1);
}

/// `--wait` waits for a daemon that is still to come: for its answer, and for its socket.
#[test]
fn waiting_ends_when_the_daemon_answers() {
    let container = held_dockerd(dind()).start(&[]);
    wait_held(&container);
    container.exec(&["dind", "health", "--wait", "1"]).exited(1);
    container.sh("dind health --wait 120 & waiting=$!; echo go >/gate; wait $waiting");

    let later = dind()
        .prelude(
            "dind health --wait 120 && touch /healthy & while ! [ -e /go ]; do sleep 0.1; done",
        )
        .start(&[]);
    later.sh("while ! pgrep -f 'dind health' >/dev/null; do sleep 0.1; done; touch /go");
    later.wait_ready();
    later.wait_until("[ -e /healthy ]");
}

/// What is wrong on its command line is bad input.
#[test]
fn bad_arguments_are_named() {
    for arguments in [&["health", "--wait", "soon"][..], &["health", "now"]] {
        unprivileged()
            .run(arguments)
            .exited(2)
            .says(&["health", "allowed"]);
    }
}

/// Docker itself finds the container healthy.
#[test]
fn the_healthcheck_of_the_image_works() {
    let container = dind().flags(["--health-interval", "1s"]).ready(&[]);
    let word = "{{.State.Health.Status}}";
    let by = std::time::Instant::now() + deadline();
    while container.inspect(word) != "healthy" {
        assert!(
            std::time::Instant::now() < by,
            "{}",
            container.inspect("{{json .State.Health}}")
        );
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

/// podman and systemd wait for READY=1 on a socket of theirs. Nobody inside gets it.
#[test]
fn whoever_waits_is_told() {
    let scratch = Scratch::new();
    let socket = UnixDatagram::bind(scratch.path.join("notify")).expect("a socket in /tmp");
    socket
        .set_read_timeout(Some(deadline()))
        .expect("a deadline");
    let container = dind()
        .flags(scratch.mounted_on("/notify"))
        .env("NOTIFY_SOCKET", "/notify/notify")
        .start(&["sh", "-c", "echo got ${NOTIFY_SOCKET-none}; sleep infinity"]);
    let mut message = [0; 64];
    let length = socket
        .recv(&mut message)
        .expect("a message before the deadline");
    assert_eq!(&message[..length], b"READY=1\n");
    container.wait_log("got none", 1);
}
