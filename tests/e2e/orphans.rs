//! Orphans: whoever their parents were, they are reaped.

use crate::docker::{BUSYBOX, dind};

/// 2,000 orphans that die at once are all reaped, and the engine works as before.
#[test]
fn two_thousand_zombies_at_once_are_reaped() {
    let container = dind().ready(&[]);
    // All in one session, whose number the script prints. Each is the child of a
    // shell that has ended, so the kernel gives it to PID 1.
    let session = container.text(&[
        "setsid",
        "--wait",
        "bash",
        "-c",
        "for number in {1..2000}; do (sleep infinity & exec true) >/dev/null; done; echo $$",
    ]);
    container.sh(&format!(
        "[ $(ps -o ppid= -s {session} | grep -c '^ *1$') = 2000 ]"
    ));
    container.text(&["pkill", "-KILL", "-s", &session]);
    // ps shows zombies too: the session is empty when the last one is reaped.
    container.wait_until(&format!("! ps -s {session} >/dev/null"));
    assert_eq!(container.sh("ps -eo stat= | grep -c Z || :"), "0");
    container.load_busybox();
    assert_eq!(container.inner(&[], &["echo", "inside"]), "inside");
}

/// Not as PID 1 it works too, says so, and reaps what is left of its descendants.
#[test]
fn it_works_without_being_pid_1() {
    let container = dind().flags(["--init"]).start(&[
        "sh", "-c",
        "(sleep infinity & echo $! >/tmp/orphan); echo session runs; while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 7",
    ]);
    container.wait_log("session runs", 1);
    container.logged(&["dind: warning: not PID 1"]);
    let orphan = container.text(&["cat", "/tmp/orphan"]);
    let dind_pid = container.text(&["pgrep", "-x", "dind"]);
    assert_ne!(dind_pid, "1");
    assert_eq!(
        container.sh(&format!("ps -o ppid= -p {orphan} | tr -d ' '")),
        dind_pid,
        "the orphan is ours and not PID 1's"
    );
    container.sh(&format!("kill -KILL {orphan}"));
    container.wait_until(&format!("[ ! -e /proc/{orphan} ]"));
    container.load_busybox();
    assert_eq!(container.inner(&[], &["echo", "inside"]), "inside");
    container.text(&["touch", "/tmp/end"]);
    assert_eq!(container.wait(), 7);
}

/// A stop of a server that is not PID 1 is as clean.
#[test]
fn a_stop_without_being_pid_1_is_clean() {
    let container = dind().flags(["--init"]).ready(&[]);
    container.load_busybox();
    container.text(&[
        "docker",
        "run",
        "-d",
        BUSYBOX,
        "sh",
        "-c",
        "trap 'exit 0' TERM; while :; do sleep 0.1; done",
    ]);
    container.docker(&["stop"]).exited(0);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
    container.logged(&["Daemon shutdown complete"]);
}
