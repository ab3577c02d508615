//! moby's `hack/dind`: prepare the container, and become the command.

use crate::docker::{Spec, dind};

/// By each of its names the command becomes PID 1, in an environment that makes
/// containerd and dockerd look for AppArmor, below a shared root, with no daemon.
#[test]
fn the_command_becomes_pid_1_in_a_prepared_container() {
    let script = "
        echo container=$container
        echo pid=$$
        grep -q ' / / .* shared:' /proc/self/mountinfo && echo shared
        grep -q ' /tmp .* - tmpfs ' /proc/self/mountinfo && echo tmp
        [ -e /var/run/docker.sock ] || pgrep 'dockerd|containerd' || echo no daemon
        exit 7";
    let named = |name: &'static str| vec![name, "bash", "-c", script];
    let cases: [(Spec, Vec<&str>); 4] = [
        (dind(), named("hack-dind")),
        (dind(), named("/usr/local/bin/hack-dind")),
        (
            dind().env("DIND_CONTRACT", "hack-dind"),
            vec!["bash", "-c", script],
        ),
        (
            dind().flags(["--entrypoint", "hack-dind"]),
            vec!["bash", "-c", script],
        ),
    ];
    for (spec, words) in cases {
        let output = spec.run(&words).exited(7);
        assert_eq!(
            output.stdout, "container=docker\npid=1\nshared\ntmp\nno daemon\n",
            "{words:?}\n{}",
            output.stderr
        );
    }
}

/// `DIND_TMPFS=off` leaves /tmp alone.
#[test]
fn the_tmpfs_can_be_refused() {
    dind()
        .env("DIND_TMPFS", "off")
        .run(&["hack-dind", "grep", " /tmp ", "/proc/self/mountinfo"])
        .exited(1);
}

/// A /tmp with something in it is left alone, too.
#[test]
fn a_tmp_that_is_in_use_is_left_alone() {
    let output = dind()
        .prelude("echo precious >/tmp/file")
        .run(&["hack-dind", "cat", "/tmp/file"]);
    assert_eq!(output.text(), "precious");
}

/// What it is for: the command is a dockerd of one's own build.
#[test]
fn the_command_may_be_dockerd() {
    let container = dind().start(&["hack-dind", "dockerd", "-H", "unix:///var/run/docker.sock"]);
    container.wait_log("API listen on", 1);
    assert_eq!(container.text(&["cat", "/proc/1/comm"]), "dockerd");
    container.load_busybox();
    assert_eq!(
        container.inner(&["-m", "64m"], &["echo", "inside"]),
        "inside"
    );
}

/// Without a command it says how it is to be used.
#[test]
fn a_command_is_needed() {
    dind()
        .run(&["hack-dind"])
        .exited(2)
        .says(&["dind: error:", "hack-dind COMMAND"]);
}

/// A command that is not there, and one that cannot run.
#[test]
fn a_command_that_fails_has_a_shells_status() {
    dind()
        .run(&["hack-dind", "no-such-command"])
        .exited(127)
        .says(&["dind: error:", "no-such-command"]);
    dind()
        .run(&["hack-dind", "/etc/os-release"])
        .exited(126)
        .says(&["dind: error:", "/etc/os-release"]);
}
