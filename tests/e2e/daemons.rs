//! The daemons themselves: what surrounds them, and what follows when one dies.

use crate::docker::{Container, Spec, dind};
use crate::pty::Pty;

/// A dockerd that does not go on until somebody writes to `/gate`. It is the real
/// one behind a script that is found first.
pub fn held_dockerd(spec: Spec) -> Spec {
    spec.prelude(
        r#"
        real=$(command -v dockerd)
        mkfifo -m 666 /gate
        install -m 666 /dev/null /held
        printf '#!/bin/sh\necho >/held\nread -r _ </gate\nexec %s "$@"\n' "$real" >/usr/local/sbin/dockerd
        chmod 0755 /usr/local/sbin/dockerd
        "#,
    )
}

/// Waits until that dockerd is where it does not go on.
pub fn wait_held(container: &Container) {
    container.wait_started();
    container.wait_until("[ -s /held ]");
}

/// Starts a session whose command ends when somebody removes `/stay`.
fn lasting_session() -> Container {
    let container = dind().start(&[
        "sh",
        "-c",
        "touch /stay; echo session runs; while [ -e /stay ]; do sleep 0.1; done; exit 6",
    ]);
    container.wait_log("session runs", 1);
    container
}

/// dockerd's end is the container's, with its status.
#[test]
fn a_dockerd_that_ends_ends_the_container() {
    for (signal, status) in [("TERM", 0), ("KILL", 137)] {
        let container = dind().ready(&[]);
        container.text(&["pkill", &format!("-{signal}"), "-x", "dockerd"]);
        assert_eq!(container.wait(), status, "SIG{signal}");
        container.logged(&["dind: error: dockerd", "the container ends"]);
    }
}

/// In a session the end of dockerd is said, and the session goes on to its own end.
#[test]
fn a_session_outlives_its_dockerd() {
    let container = lasting_session();
    container.text(&["pkill", "-KILL", "-x", "dockerd"]);
    container.wait_log("dind: error: dockerd was ended by SIGKILL", 1);
    assert!(container.runs());
    container.text(&["rm", "/stay"]);
    assert_eq!(container.wait(), 6);
}

/// Without containerd a server is of no use: said, and an error.
#[test]
fn a_containerd_that_dies_ends_a_server() {
    let container = dind().ready(&[]);
    container.text(&["pkill", "-KILL", "-x", "containerd"]);
    assert_eq!(container.wait(), 1);
    container.logged(&[
        "dind: error: containerd was ended by SIGKILL",
        "the container ends",
    ]);
}

/// In a session the end of containerd is said, and the session goes on.
#[test]
fn a_session_outlives_its_containerd() {
    let container = lasting_session();
    container.text(&["pkill", "-KILL", "-x", "containerd"]);
    container.wait_log("dind: error: containerd was ended by SIGKILL", 1);
    assert!(container.runs());
    container.text(&["rm", "/stay"]);
    assert_eq!(container.wait(), 6);
}

/// A dockerd that cannot start ends the container with its error, whose reason
/// stands in the log.
#[test]
fn a_dockerd_that_cannot_start_is_an_error() {
    let broken = dind().env("DOCKER_DAEMON_ARGS", "--storage-driver=nonsense");
    let container = broken.start(&[]);
    assert_eq!(container.wait(), 1);
    container.logged(&["nonsense"]);
    container.logged(&["dind: error: dockerd exited with status 1 before it was ready"]);

    let output = broken.run(&["echo", "the command"]).exited(1);
    assert_eq!(output.stdout, "", "the command is not run");
    output
        .says(&["nonsense"])
        .says(&["dind: error: dockerd exited with status 1 before it was ready"]);
}

/// With `LOG=file` the reason is in the file, which goes with the container: its
/// last lines are shown.
#[test]
fn the_last_lines_of_the_log_file_are_shown() {
    let container = dind()
        .env("DOCKER_DAEMON_ARGS", "--storage-driver=nonsense")
        .env("LOG", "file")
        .start(&[]);
    assert_eq!(container.wait(), 1);
    container.logged(&["dind: error: the last lines of /var/log/docker.log"]);
    container.logged(&["dind: error: |", "nonsense"]);
}

/// Only this start's lines are shown of a log that earlier starts wrote to.
#[test]
fn the_last_lines_are_this_starts() {
    let container = dind()
        .prelude("echo a line of an earlier start >>/var/log/docker.log")
        .env("DOCKER_DAEMON_ARGS", "--storage-driver=nonsense")
        .env("LOG", "file")
        .start(&[]);
    assert_eq!(container.wait(), 1);
    container.logged(&["dind: error: |", "nonsense"]);
    container.not_logged(&["earlier start"]);
}

/// At a terminal somebody can look around: the shell comes although dockerd is dead,
/// after the last lines of its log.
#[test]
fn a_terminal_gets_its_shell_without_a_daemon() {
    let spec = dind().env("DOCKER_DAEMON_ARGS", "--storage-driver=nonsense");
    let mut pty = Pty::run(&spec, &[]);
    let (_, status) = pty.ask("docker version");
    assert_eq!(status, 1, "there is no daemon");
    let shown = pty.shown();
    assert!(shown.contains("before it was ready"), "{shown}");
    assert!(shown.contains("nonsense"), "{shown}");
    pty.type_line("exit 4");
    assert_eq!(pty.wait(), 4);
}

/// A daemon that is not ready in time is said in wrapdocker's words, and the command
/// is run nevertheless; the daemon may still come.
#[test]
fn a_late_daemon_is_said_and_not_waited_for() {
    let output = held_dockerd(dind())
        .env("DIND_READY_TIMEOUT", "1")
        .run(&[
            "sh",
            "-c",
            // The client is held by the socket until dockerd serves it.
            "echo command runs; echo go >/gate; docker version >/dev/null && exit 5",
        ])
        .exited(5);
    assert_eq!(output.stdout, "command runs\n");
    let told = output
        .stderr
        .find("Timed out trying to connect to internal docker host.");
    let ready = output.stderr.find("dind: docker is ready after");
    assert!(told.is_some() && told < ready, "{}", output.stderr);
}

/// A server that is not ready in time is said too, and goes on.
#[test]
fn a_late_server_is_said_and_goes_on() {
    let container = held_dockerd(dind())
        .env("DIND_READY_TIMEOUT", "1")
        .start(&[]);
    container.wait_log("Timed out trying to connect to internal docker host.", 1);
    container.sh("echo go >/gate");
    container.wait_ready();
    container.text(&["docker", "version"]);
}

/// Each daemon has a session of its own, so that no key of a terminal reaches it.
#[test]
fn the_daemons_have_sessions_of_their_own() {
    let output = dind().run(&[
        "sh",
        "-c",
        "for process in dockerd containerd; do
             pid=$(pgrep -x $process) && [ $(ps -o sid= -p $pid) = $pid ] && echo $process
         done
         [ $(ps -o sid= -p $$) = 1 ] && echo command",
    ]);
    assert_eq!(output.text(), "dockerd\ncontainerd\ncommand");
}

/// When memory runs out, a container goes before dockerd, and dockerd before
/// containerd and PID 1; where the kernel does not allow that, all are as the container is. So
/// are the command and the hooks in any case.
#[test]
fn the_daemons_are_spared_when_memory_runs_out() {
    let output = dind()
        .flags(["--oom-score-adj=100"])
        .prelude(
            "mkdir -p /etc/dind/post-start.d
             printf '#!/bin/sh\ncat /proc/self/oom_score_adj /proc/$PPID/oom_score_adj >/hook\n' \
                 >/etc/dind/post-start.d/score
             chmod +x /etc/dind/post-start.d/score",
        )
        .run(&[
            "sh",
            "-c",
            "cat /hook
             for process in 1 self $(pgrep -x dockerd) $(pgrep -x containerd); do
                 cat /proc/$process/oom_score_adj
             done
             sh -c 'echo -600 >/proc/self/oom_score_adj' && echo allowed || echo refused",
        ])
        .text();
    let lines: Vec<&str> = output.lines().collect();
    let [hook, runner, first, command, dockerd, containerd, allowed] = lines[..] else {
        panic!("{output}");
    };
    assert_eq!((hook, command), ("100", "100"));
    let expected = match allowed {
        "allowed" => ("-500", "-999", "-500", "-999"),
        _ => ("100", "100", "100", "100"),
    };
    assert_eq!((runner, first, dockerd, containerd), expected);
}

/// A containerd of the user's is used, and no other one is started.
#[test]
fn a_containerd_of_the_users_is_left_alone() {
    let container = dind()
        .prelude(
            "containerd >/dev/null 2>&1 &
             until [ -S /run/containerd/containerd.sock ]; do sleep 0.05; done",
        )
        .ready(&["--containerd=/run/containerd/containerd.sock"]);
    assert_eq!(container.text(&["pgrep", "-c", "-x", "containerd"]), "1");
    container.load_busybox();
    assert_eq!(container.inner(&[], &["echo", "inside"]), "inside");
}

/// What containerd is told not to load is missed by nothing that it does load.
#[test]
fn every_plugin_of_containerd_loads() {
    let container = dind().ready(&[]);
    container.not_logged(&["failed to load plugin"]);
}

/// With a data root that is no volume, one warning names the flag that makes it one.
#[test]
fn a_data_root_without_a_volume_is_warned_of() {
    let container = dind().ready(&["--data-root=/somewhere"]);
    container.logged(&[
        "dind: warning:",
        "/somewhere",
        "docker run -v NAME:/somewhere",
    ]);
    let warnings = container.logs().matches("NAME:/somewhere").count();
    assert_eq!(warnings, 1, "one warning");
    container.load_busybox();
    assert_eq!(container.inner(&[], &["echo", "inside"]), "inside");
}

/// With a volume there is nothing to warn of: the image's own, and one elsewhere.
#[test]
fn a_data_root_on_a_volume_is_not_warned_of() {
    let container = dind().ready(&[]);
    container.not_logged(&["docker run -v"]);
    let container = dind()
        .flags(["-v", "/somewhere"])
        .ready(&["--data-root", "/somewhere"]);
    container.not_logged(&["docker run -v"]);
    assert_eq!(
        container.text(&["docker", "info", "--format", "{{.DockerRootDir}}"]),
        "/somewhere"
    );
}

/// daemon.json says where the data root is, if no flag does.
#[test]
fn daemon_json_may_name_the_data_root() {
    let container = dind()
        .prelude(
            r#"mkdir -p /etc/docker; echo '{"data-root": "/elsewhere"}' >/etc/docker/daemon.json"#,
        )
        .ready(&[]);
    container.logged(&["dind: warning:", "docker run -v NAME:/elsewhere"]);
    container.text(&["test", "-d", "/elsewhere/containerd/daemon"]);
}

/// A daemon that cannot be executed is named, and the one that runs is ended first.
#[test]
fn a_daemon_that_cannot_be_executed_is_named() {
    for daemon in ["dockerd", "containerd"] {
        let file = format!("/usr/local/sbin/{daemon}");
        let container = dind()
            .prelude(&format!("echo '#!/no/such' >{file}; chmod 0755 {file}"))
            .start(&[]);
        assert_eq!(container.wait(), 127, "{daemon}");
        container.logged(&["dind: error: cannot run", &file, "check its spelling"]);
        container.not_logged(&["is killed"]);
    }
}
