//! Daemons that are killed, and started again: `DIND_RESTART`.

use crate::docker::{BUSYBOX, Container, Spec, dind};

fn restarting() -> Spec {
    dind().env("DIND_RESTART", "on-failure")
}

/// Kills a daemon, and asks the API at once.
const CRASH: &str = "pkill -KILL -x dockerd; docker version --format '{{.Server.Version}}'";

/// Whoever connects while there is no dockerd is answered by the next one.
#[test]
fn clients_wait_for_the_next_dockerd() {
    let container = restarting().ready(&[]);
    let version = container.text(&["docker", "version", "--format", "{{.Server.Version}}"]);
    for crash in 1..=3 {
        assert_eq!(container.sh(CRASH), version);
        container.wait_log("dind: docker answers again", crash);
    }
    container.logged(&["dind: warning: dockerd was ended by SIGKILL; restarting it in 0.1 s"]);
    container.logged(&["dind: warning: dockerd was ended by SIGKILL; restarting it in 0.4 s"]);
    // Over TCP, too.
    container.sh(
        "pkill -KILL -x dockerd; DOCKER_HOST=tcp://localhost:2376 DOCKER_TLS_VERIFY=1 \
        DOCKER_CERT_PATH=/certs/client docker version",
    );
    container.docker(&["stop"]).exited(0);
    assert_eq!(container.wait(), 0);
}

/// Beside a command it is the same, and the command lives on.
#[test]
fn a_command_keeps_its_daemon() {
    let output = restarting().run(&["sh", "-c", &format!("{CRASH} && exit 7")]);
    output.exited(7);
}

/// Without containerd nothing can be run, with the next one it can.
#[test]
fn containers_can_be_run_with_the_next_containerd() {
    let container = restarting().ready(&[]);
    container.load_busybox();
    for crash in 1..=2 {
        container.sh("pkill -KILL -x containerd");
        container.wait_log("dind: warning: containerd was ended by SIGKILL", crash);
        container.wait_until(&format!("docker run --rm {BUSYBOX} true"));
    }
    container.sh("pkill -KILL -x 'containerd|dockerd'");
    container.wait_log("dind: docker answers again", 1);
    container.wait_until(&format!("docker run --rm {BUSYBOX} true"));
}

/// When the API answers again, what a container was before it is still.
#[track_caller]
fn pid_after_crashes(container: &Container) -> (String, String) {
    let pid = || container.text(&["docker", "inspect", "--format={{.State.Pid}}", "inner"]);
    let before = pid();
    container.sh("pkill -KILL -x dockerd");
    container.wait_log("dind: docker answers again", 1);
    container.sh("pkill -KILL -x 'containerd|dockerd'");
    container.wait_log("dind: docker answers again", 2);
    (before, pid())
}

/// With `--live-restore` inner containers do not notice.
#[test]
fn inner_containers_live_on_with_live_restore() {
    let run = [
        "docker",
        "run",
        "-d",
        "--name=inner",
        BUSYBOX,
        "sleep",
        "1000",
    ];
    let container = restarting().ready(&["--live-restore"]);
    container.load_busybox();
    container.text(&run);
    let (before, after) = pid_after_crashes(&container);
    assert_eq!(before, after);
    assert_eq!(
        container.text(&["docker", "exec", "inner", "echo", "alive"]),
        "alive"
    );
    container.docker(&["stop"]).exited(0);
    // Without, dockerd ends what it finds.
    let container = restarting().ready(&[]);
    container.load_busybox();
    container.text(&run);
    let (before, after) = pid_after_crashes(&container);
    assert!(before != after && after == "0", "{before}, {after}");
}

/// After so many failures in a row the container ends with dockerd's status; beside a
/// command clients are then refused, not kept waiting.
#[test]
fn the_number_of_restarts_in_a_row_is_limited() {
    let limited = || dind().env("DIND_RESTART", "on-failure:2");
    let crash = |container: &Container| {
        for crash in 1..=2 {
            container.sh("pkill -KILL -x dockerd");
            container.wait_log("dind: docker answers again", crash);
        }
        container.sh("pkill -KILL -x dockerd");
    };
    let container = limited().ready(&[]);
    crash(&container);
    assert_eq!(container.wait(), 137);
    container.logged(&["dind: error: dockerd was ended by SIGKILL; the container ends"]);
    let container = limited().ready(&["sleep", "1000"]);
    crash(&container);
    container.wait_log(
        "dind: error: dockerd was ended by SIGKILL: docker no longer works",
        1,
    );
    container
        .exec(&["docker", "version"])
        .exited(1)
        .says(&["Cannot connect to the Docker daemon"]);
}

/// What dockerd refuses it refuses once, and a stop while it is waited for is a stop.
#[test]
fn there_is_no_restart_where_it_is_of_no_use() {
    restarting()
        .run(&["--no-such-flag"])
        .exited(1)
        .says(&["before it was ready"]);
    let container = restarting().ready(&[]);
    // Five failures are a pause of 1.6 s.
    for crash in 1..=4 {
        container.sh("pkill -KILL -x dockerd");
        container.wait_log("dind: docker answers again", crash);
    }
    container.sh("pkill -KILL -x dockerd");
    container.wait_log("restarting it in 1.6 s", 1);
    container.docker(&["stop"]).exited(0);
    assert_eq!(container.wait(), 0);
}

/// Off by default: the container ends with the daemon's status.
#[test]
fn a_crash_is_the_containers_end_where_nothing_is_said() {
    for variables in [&[][..], &[("DIND_RESTART", "no")]] {
        let spec = variables
            .iter()
            .fold(dind(), |spec, (name, value)| spec.env(name, value));
        let container = spec.ready(&[]);
        container.sh("pkill -KILL -x dockerd");
        assert_eq!(container.wait(), 137);
    }
}
