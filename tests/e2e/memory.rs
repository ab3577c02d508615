//! When memory runs out: what is said of it, and what is not.

use crate::docker::{BUSYBOX, Container, Spec, dind, line_with};

/// What is said when the kernel has killed.
const SAID: &str = "the kernel has killed";

fn limited(memory: &str) -> Spec {
    // Nothing is swapped, where the kernel can tell.
    dind().flags(["--memory", memory, "--memory-swap", memory])
}

/// Lets the kernel kill dockerd: files of a tmpfs are memory of the container's that it cannot free.
/// The file goes when dockerd has.
#[track_caller]
fn exhaust(container: &Container) {
    container.exec(&[
        "bash",
        "-c",
        "pid=$(pgrep -x dockerd)
         echo 1000 >/proc/$pid/oom_score_adj
         mkdir -p /run/full
         mount -t tmpfs -o size=1g tmpfs /run/full
         dd if=/dev/zero bs=64k count=8k 2>/dev/null |
             while [ -e /proc/$pid ] && head -c 65536 >>/run/full/file; do :; done
         umount /run/full",
    ]);
}

/// A limit that is too low for the daemons is named, with the remedy, when they cannot start.
#[test]
fn a_start_that_the_limit_ends_names_it() {
    let container = limited("20m").start(&[]);
    assert_ne!(container.wait(), 0);
    container.logged(&[
        "dind: error: ",
        SAID,
        "for want of memory",
        "has a limit of 20 MiB",
        "--memory",
    ]);
}

/// So is one that ends a dockerd that was ready, behind the message about its end.
#[test]
fn a_dockerd_that_the_limit_ends_is_followed_by_the_limit() {
    let container = limited("256m").ready(&[]);
    exhaust(&container);
    assert_eq!(container.wait(), 137);
    let logs = container.logs();
    let ended = logs.find("dind: error: dockerd was ended by SIGKILL; the container ends");
    let said = logs.find(SAID);
    assert!(ended.is_some() && ended < said, "{logs}");
    container.logged(&["dind: error: ", SAID, "has a limit of 256 MiB", "--memory"]);
}

/// With `DIND_RESTART` the same is a warning, once for each time; and a dockerd that somebody kills
/// later has nothing to do with it.
#[test]
fn a_kill_for_want_of_memory_is_told_once() {
    let container = limited("256m").env("DIND_RESTART", "on-failure").ready(&[]);
    exhaust(&container);
    container.wait_log("docker answers again", 1);
    container.logged(&["dind: warning: ", SAID, "has a limit of 256 MiB"]);
    container.text(&["pkill", "-KILL", "-x", "dockerd"]);
    container.wait_log("docker answers again", 2);
    let logs = container.logs();
    assert_eq!(logs.matches(SAID).count(), 1, "{logs}");
}

/// What the kernel killed before the start, or by the limit of a container inside, does not explain
/// why somebody kills dockerd.
#[test]
fn what_the_kernel_has_killed_elsewhere_is_not_told() {
    let container = limited("256m")
        // tail(1) keeps a line in memory however long it is.
        .prelude("head -c 1G /dev/zero | tail >/dev/null && exit 3 || echo the first is killed")
        .ready(&[]);
    container.logged(&["the first is killed"]);
    container.load_busybox();
    let words = [
        "docker",
        "run",
        "--memory=32m",
        "--memory-swap=32m",
        BUSYBOX,
    ];
    let allocate = ["dd", "if=/dev/zero", "of=/dev/null", "bs=256M", "count=1"];
    let words: Vec<&str> = words.into_iter().chain(allocate).collect();
    container.exec(&words).exited(137);
    container.text(&["pkill", "-KILL", "-x", "dockerd"]);
    assert_eq!(container.wait(), 137);
    container.not_logged(&[SAID]);
}

/// `dind doctor` knows beforehand.
#[test]
fn a_low_limit_of_memory_is_found() {
    for namespace in ["host", "private"] {
        let output = limited("100m")
            .flags(["--cgroupns", namespace])
            .run(&["doctor"])
            .exited(0);
        let parts = ["warning: ", "has a limit of 100 MiB", "--memory"];
        let line = line_with(&output.stdout, &parts);
        assert!(line.is_some(), "{}", output.stdout);
    }
    let output = limited("1g").run(&["doctor"]).exited(0);
    assert!(!output.stdout.contains("has a limit"), "{}", output.stdout);
}
