//! `docker pause`, in the middle of a start and of a stop: the time of a pause is nobody's delay.

use std::thread;
use std::time::Duration;

use crate::daemons::{held_dockerd, wait_held};
use crate::docker::{BUSYBOX, Container, dind, rootless};

/// Pauses the container for this long. Nothing else but the time that passes is of interest. The
/// signal afterwards means nothing, and makes PID 1 look at its deadlines: the kernel goes on with
/// a poll(2) that a pause has interrupted, for the rest of its time-out.
#[track_caller]
fn pause(container: &Container, seconds: u64) {
    container.docker(&["pause"]).exited(0);
    thread::sleep(Duration::from_secs(seconds));
    container.docker(&["unpause"]).exited(0);
    container.signal("WINCH");
}

/// A pause that is longer than the whole time of a stop: the stop goes on in order, nothing is
/// killed, and nothing is said to be late.
#[test]
fn a_stop_goes_on_after_a_pause() {
    let container = dind().env("DIND_STOP_TIMEOUT", "30").ready(&[]);
    container.load_busybox();
    container.sh("mkdir -m 1777 /var/lib/docker/files");
    // dockerd's own clock goes on in a pause.
    container.text(&[
        "docker",
        "run",
        "-d",
        "--name",
        "inner",
        "--stop-timeout",
        "600",
        "-v",
        "/var/lib/docker/files:/files",
        BUSYBOX,
        "sh",
        "-c",
        "trap 'touch /files/told; while [ ! -e /files/go ]; do sleep 0.1; done; exit 3' TERM
         touch /files/armed; while :; do sleep 0.1; done",
    ]);
    container.wait_until("[ -e /var/lib/docker/files/armed ]");
    container.signal("TERM");
    container.wait_until("[ -e /var/lib/docker/files/told ]");
    pause(&container, 33);
    container.sh("touch /var/lib/docker/files/go");
    assert_eq!(container.wait(), 0);
    container.not_logged(&["did not end"]);
    container.not_logged(&["killed"]);
    container.logged(&["Daemon shutdown complete"]);
    container.docker(&["start"]).exited(0);
    container.wait_ready_times(2);
    let status = container.text(&["docker", "inspect", "-f", "{{.State.ExitCode}}", "inner"]);
    assert_eq!(status, "3");
}

/// A start that was paused for longer than it may take is not late.
#[test]
fn a_start_goes_on_after_a_pause() {
    let container = held_dockerd(dind())
        .env("DIND_READY_TIMEOUT", "20")
        .env("DIND_LOG", "debug")
        .start(&[]);
    wait_held(&container);
    pause(&container, 23);
    // SIGWINCH. With the second one, what the first has caused is done.
    container.wait_log("Signal(28)", 1);
    container.signal("WINCH");
    container.wait_log("Signal(28)", 2);
    container.not_logged(&["Timed out"]);
    container.sh("echo go >/gate");
    container.wait_ready();
}

/// Nor is a hook.
#[test]
fn a_hook_goes_on_after_a_pause() {
    let container = dind()
        .prelude(
            "mkdir -p /etc/dind/post-start.d
             printf '#!/bin/sh\\ntouch /tmp/runs; while [ ! -e /go ]; do sleep 0.1; done\\n' \
                 >/etc/dind/post-start.d/gate
             chmod +x /etc/dind/post-start.d/gate",
        )
        .env("DIND_HOOK_TIMEOUT", "20")
        .start(&[]);
    container.wait_started();
    container.wait_until("[ -e /tmp/runs ]");
    pause(&container, 23);
    container.sh("touch /go");
    container.wait_ready();
    container.not_logged(&["DIND_HOOK_TIMEOUT"]);
}

/// Everything that ran before a pause runs after it: the daemons, what they answer, and inner
/// containers, with privileges and without.
#[test]
fn what_runs_goes_on_after_a_pause() {
    const COUNT: &str = "i=0; while :; do i=$((i + 1)); echo $i >/count; sleep 0.1; done";
    for spec in [dind(), rootless()] {
        let container = spec.ready(&[]);
        container.load_busybox();
        container.inner(&["-d", "--name=inner"], &["sh", "-c", COUNT]);
        let count = || container.text(&["docker", "exec", "inner", "cat", "/count"]);
        container.wait_until("docker exec inner test -s /count");
        let daemons = container.text(&["pgrep", "dockerd|containerd$"]);
        let before = count();
        container.docker(&["pause"]).exited(0);
        assert_eq!(container.inspect("{{.State.Paused}}"), "true");
        container.docker(&["unpause"]).exited(0);
        container.text(&["dind", "health"]);
        container.wait_until(&format!("! docker exec inner grep -qx {before} /count"));
        assert_eq!(container.inner(&[], &["echo", "new"]), "new");
        assert_eq!(
            container.text(&["pgrep", "dockerd|containerd$"]),
            daemons,
            "none was started again"
        );
        container.docker(&["stop"]).exited(0);
        assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
    }
}

/// A stop time-out that is too short to be divided leaves nothing behind, and says nothing false:
/// what is killed has the time to end.
#[test]
fn the_shortest_stop_kills_what_it_must_and_waits_for_it() {
    let container = dind().env("DIND_STOP_TIMEOUT", "0.2").ready(&[]);
    container.load_busybox();
    container.inner(&["-d"], &["sleep", "100001"]);
    container.docker(&["stop"]).exited(0);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
    container.not_logged(&["after SIGKILL"]);
}
