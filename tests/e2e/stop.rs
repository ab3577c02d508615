//! Signals to a server: the ones that end it, and the ones that are dockerd's.

use crate::daemons::{held_dockerd, wait_held};
use crate::docker::{BUSYBOX, dind};

/// SIGTERM and SIGINT stop a server in order, with status 0.
#[test]
fn a_server_ends_well_by_sigterm_and_by_sigint() {
    for signal in ["TERM", "INT"] {
        let container = dind().ready(&[]);
        container.signal(signal);
        assert_eq!(container.wait(), 0, "SIG{signal}");
        container.logged(&["Daemon shutdown complete"]);
        container.not_logged(&["killed"]);
    }
}

/// So do the stop signals that base images declare: systemd's SIGRTMIN+3, and SIGQUIT. `docker
/// stop` sends the signal by the engine's number for it, and kills after 10 s.
#[test]
fn a_server_ends_well_by_the_stop_signal_of_its_base_image() {
    for signal in ["SIGRTMIN+3", "SIGQUIT"] {
        let container = dind().flags(["--stop-signal", signal]).ready(&[]);
        container.docker(&["stop"]).exited(0);
        assert_eq!(container.inspect("{{.State.ExitCode}}"), "0", "{signal}");
        container.logged(&["Daemon shutdown complete"]);
        container.not_logged(&["killed"]);
    }
}

/// A stop before the daemon is ready is a stop all the same.
#[test]
fn a_server_can_be_stopped_before_it_is_ready() {
    let container = held_dockerd(dind()).start(&[]);
    wait_held(&container);
    container.docker(&["stop"]).exited(0);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
}

/// `docker stop` with containers inside, of which two do not care for SIGTERM, is
/// over before the grace is, with status 0. What had to be killed is named; what
/// could end by itself did.
#[test]
fn a_stop_with_containers_inside_is_in_time_and_clean() {
    let container = dind().env("DIND_STOP_DEAF", "wait").ready(&[]);
    container.load_busybox();
    let run = |name: &str, script: &str| {
        container.text(&[
            "docker", "run", "-d", "--name", name, BUSYBOX, "sh", "-c", script,
        ]);
    };
    run(
        "polite",
        "trap 'exit 3' TERM; echo armed; while :; do sleep 0.1; done",
    );
    run("deaf-one", "exec sleep 100001");
    run("deaf-two", "exec sleep 100002");
    container.wait_until("docker logs polite | grep -q armed");
    container.docker(&["stop"]).exited(0);
    container.not_logged(&["are ended at once"]);
    // 137 is what the outer engine's SIGKILL would leave.
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
    container.logged(&[
        "dind: warning: inner containers did not end in time",
        "(sleep)",
        "DIND_STOP_TIMEOUT",
    ]);
    container.logged(&["Daemon shutdown complete"]);

    container.docker(&["start"]).exited(0);
    container.wait_ready_times(2);
    let statuses = container.text(&[
        "docker",
        "inspect",
        "--format",
        "{{.State.ExitCode}}",
        "polite",
        "deaf-one",
        "deaf-two",
    ]);
    assert_eq!(statuses, "3\n137\n137");
}

/// Fifty containers get their stop signal in time, and each has the time that it needs.
#[test]
fn every_container_of_fifty_gets_its_stop_signal() {
    let container = dind().env("DIND_STOP_TIMEOUT", "200").ready(&[]);
    container.load_busybox();
    let script = "trap 'sleep 1; echo ended >/files/$(hostname); exit 3' TERM
                  echo armed >/files/$(hostname)
                  while :; do sleep 0.2; done";
    container.sh("mkdir -m 1777 /var/lib/docker/files");
    let run = format!(
        r#"seq 50 | xargs -P 4 -I NUMBER docker run --detach --name inner-NUMBER \
               --hostname inner-NUMBER --network none --stop-timeout 200 -v /var/lib/docker/files:/files \
               {BUSYBOX} sh -c "$1""#
    );
    container.text(&["sh", "-c", &run, "run", script]);
    container.wait_until("[ $(cat /var/lib/docker/files/* | grep -c armed) = 50 ]");
    container.docker(&["stop", "-t", "250"]).exited(0);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
    container.not_logged(&["did not end in time"]);
    container.not_logged(&["killed"]);
    container.logged(&["Daemon shutdown complete"]);

    container.docker(&["start"]).exited(0);
    container.wait_ready_times(2);
    let files = container.sh("cat /var/lib/docker/files/* | uniq -c");
    assert_eq!(files.trim(), "50 ended");
    let statuses =
        container.sh("docker ps -aq | xargs docker inspect -f '{{.State.ExitCode}}' | uniq -c");
    assert_eq!(statuses.trim(), "50 3");
}

/// `DIND_STOP_TIMEOUT` is how long a stop may take, and no more of dockerd's own
/// patience is left than fits in it.
#[test]
fn the_stop_timeout_is_the_users() {
    let container = dind().env("DIND_STOP_TIMEOUT", "3").ready(&[]);
    container.load_busybox();
    container.inner(&["-d", "--stop-timeout=100"], &["sleep", "100001"]);
    // Its own patience would be forever: only dind's can end this.
    container.docker(&["stop", "-t", "-1"]).exited(0);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
    container.logged(&[
        "dind: warning: inner containers did not end in time",
        "(sleep)",
    ]);
}

/// A dockerd that does nothing any more is killed and named, and its containers with it;
/// the next start finds everything in place.
#[test]
fn a_dockerd_that_hangs_does_not_hold_up_a_stop() {
    let container = dind().ready(&[]);
    container.load_busybox();
    container.inner(&["-d", "--name", "inner"], &["sleep", "100001"]);
    container.sh("pkill -STOP -x dockerd");
    container.docker(&["stop"]).exited(0);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
    container.logged(&["dind: warning: dockerd did not end in time and is killed"]);
    container.docker(&["start"]).exited(0);
    container.wait_ready_times(2);
    assert_eq!(container.inner(&[], &["echo", "well"]), "well");
}

/// A stop while an image is being written is as any other, and leaves nothing that keeps
/// the next daemon from its work.
#[test]
fn a_stop_in_the_middle_of_an_image_is_clean() {
    let container = dind().ready(&[]);
    // The header of a file of 8 GB, then bytes that no store can compress.
    container.sh("truncate -s 8G /endless");
    container.sh(
        "setsid sh -c '{ tar -c /endless | head -c 512; cat /dev/urandom; } | docker import - endless' >/dev/null 2>&1 &",
    );
    container.wait_until("[ $(du -sm /var/lib/docker | cut -f 1) -ge 50 ]");
    container.docker(&["stop"]).exited(0);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
    container.logged(&["Daemon shutdown complete"]);
    container.docker(&["start"]).exited(0);
    container.wait_ready_times(2);
    container.load_busybox();
    assert_eq!(container.inner(&[], &["echo", "well"]), "well");
}

/// Nor is a disk without room in the way.
#[test]
fn a_stop_with_a_full_disk_is_clean() {
    let container = dind()
        .flags(["--tmpfs=/var/lib/docker:size=100m"])
        .ready(&[]);
    container.load_busybox();
    container.inner(&["-d"], &["sleep", "100001"]);
    container.sh("! cat /dev/zero >/var/lib/docker/full 2>/dev/null");
    container.docker(&["stop"]).exited(0);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
    container.logged(&["Daemon shutdown complete"]);
}

/// dockerd gives up its clean-up at the third signal, so it gets one, however often
/// the container is told.
#[test]
fn impatience_does_not_spoil_a_stop() {
    let container = dind().ready(&[]);
    container.load_busybox();
    container.text(&[
        "docker",
        "run",
        "-d",
        "--name",
        "slow",
        BUSYBOX,
        "sh",
        "-c",
        "trap 'sleep 2; exit 3' TERM; echo armed; while :; do sleep 0.1; done",
    ]);
    container.wait_until("docker logs slow | grep -q armed");
    for signal in ["TERM", "TERM", "INT", "TERM", "INT"] {
        container.signal(signal);
    }
    assert_eq!(container.wait(), 0);
    container.logged(&["Daemon shutdown complete"]);
    container.docker(&["start"]).exited(0);
    container.wait_ready_times(2);
    assert_eq!(
        container.text(&[
            "docker",
            "inspect",
            "--format",
            "{{.State.ExitCode}}",
            "slow"
        ]),
        "3"
    );
}

/// SIGHUP is dockerd's: it reads daemon.json anew.
#[test]
fn sighup_reloads_the_configuration() {
    let container = dind().ready(&[]);
    container.sh(
        r#"mkdir -p /etc/docker && echo '{"debug": true, "labels": ["reloaded=yes"]}' >/etc/docker/daemon.json"#,
    );
    container.signal("HUP");
    container.wait_until(
        "docker info --format '{{.Debug}} {{.Labels}}' | grep -qFx 'true [reloaded=yes]'",
    );
}

/// SIGUSR1 is dockerd's: it writes down what it is doing.
#[test]
fn sigusr1_dumps_the_daemons_stacks() {
    let container = dind().ready(&[]);
    container.signal("USR1");
    container.wait_log("goroutine stacks written to", 1);
    container.sh("grep -q goroutine /var/run/docker/goroutine-stacks-*.log");
    assert!(container.runs());
}

/// These two would kill a dockerd that has no handlers yet; they wait until it has.
#[test]
fn signals_before_the_daemon_is_ready_are_kept_for_it() {
    let container = held_dockerd(dind()).start(&[]);
    wait_held(&container);
    container.signal("HUP");
    container.signal("USR1");
    container.sh("echo go >/gate");
    container.wait_ready();
    container.wait_log("Got signal to reload configuration", 1);
    container.wait_log("goroutine stacks written to", 1);
    container.text(&["docker", "version"]);
}

/// Signals that mean nothing to a server do it no harm.
#[test]
fn other_signals_do_a_server_no_harm() {
    let container = dind().ready(&[]);
    for signal in [
        "USR2", "PIPE", "ALRM", "WINCH", "CHLD", "CONT", "34", "38", "64",
    ] {
        container.signal(signal);
    }
    container.text(&["docker", "version"]);
    container.docker(&["stop"]).exited(0);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
}
