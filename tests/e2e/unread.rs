//! A log that nobody reads: a full pipe, a full socket, a terminal after Ctrl-S. It holds up neither
//! a start nor a stop nor anything in between.
//!
//! The daemons write to a file here, or by the log relay, but where they are what is tested: with
//! `LOG=stdio` and as text they write to standard error themselves, and wait for its reader.

use serde_json::Value;

use crate::docker::{BUSYBOX, Container, Spec, dind};
use crate::pty::Pty;

/// Standard error becomes a FIFO that somebody has open and does not read.
const UNREAD: &str = "[ -e /unread ] || mkfifo /unread
    sleep infinity </unread &
    exec 2>/unread";

/// Fills it, so that not a byte more fits.
const FILL: &str = "dd if=/dev/zero of=/unread bs=4096 oflag=nonblock 2>/dev/null || :";

/// What is full before dind starts.
fn full() -> Spec {
    dind().prelude(&format!("{UNREAD}\n{FILL}"))
}

fn full_with_file() -> Spec {
    full().env("LOG", "file")
}

/// Hooks, so that their runner has something to say, too.
const HOOKS: &str = "for stage in pre-start post-start pre-stop; do
        mkdir -p /etc/dind/$stage.d
        printf '#!/bin/sh\\necho $0 >>/hooks\\n' >/etc/dind/$stage.d/hook
        chmod +x /etc/dind/$stage.d/hook
    done";

/// Makes PID 1 reap this many orphans, of each of which it says something with `DIND_LOG=debug`.
#[track_caller]
fn orphans(container: &Container, count: u32) {
    container.sh(&format!(
        "seq {count} | xargs -P 8 -I NUMBER sh -c 'sleep 0 & :' && sleep 0"
    ));
}

/// A container inside that ends in order, and in no other way, with status 3.
#[track_caller]
fn run_polite(container: &Container) {
    container.load_busybox();
    let script = "trap 'exit 3' TERM; echo armed; while :; do sleep 0.1; done";
    let words = [
        "docker", "run", "-d", "--name", "polite", BUSYBOX, "sh", "-c", script,
    ];
    container.text(&words);
    container.wait_until("docker logs polite | grep -q armed");
}

/// Stops the container by the outer engine, which would kill it after 10 s: that would be 137.
#[track_caller]
fn stops_with(container: &Container, status: &str) {
    container.docker(&["stop"]).exited(0);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), status);
}

#[test]
fn a_pipe_that_is_full_before_the_start_holds_up_nothing() {
    let output = dind()
        .prelude(&format!("{HOOKS}\n{UNREAD}\n{FILL}"))
        .env("LOG", "file")
        .run(&[
            "sh",
            "-c",
            "docker version >/dev/null && cat /hooks; exit 3",
        ])
        .exited(3);
    assert_eq!(
        output.stdout,
        "/etc/dind/pre-start.d/hook\n/etc/dind/post-start.d/hook\n"
    );
}

/// An error of the start, before there is a loop: the reader gets one more chance, and no more.
#[test]
fn a_full_pipe_holds_up_no_error() {
    full().env("DIND_MTU", "abc").run(&[]).exited(2);
}

#[test]
fn a_full_socket_holds_up_nothing() {
    let script = r#"exec perl -MSocket -MFcntl -e '
        socketpair my $ours, my $theirs, AF_UNIX, SOCK_STREAM, 0 or die;
        unless (fork) { close $ours; sleep }
        open STDERR, ">&", $ours;
        fcntl STDERR, F_SETFL, O_RDWR | O_NONBLOCK;
        1 while syswrite STDERR, "x" x 4096;
        fcntl STDERR, F_SETFL, O_RDWR;
        exec "dind", @ARGV
    ' "$@""#;
    let output = dind().shell(script).env("LOG", "file").run(&[
        "sh",
        "-c",
        "docker version >/dev/null && readlink /proc/1/fd/2; exit 3",
    ]);
    let output = output.exited(3);
    assert!(output.stdout.starts_with("socket:"), "{}", output.stdout);
}

/// A pipe that fills later: everything goes on, and the stop is in order. In it the hook runner has
/// something to say, and PID 1 would have of one that does not end.
#[test]
fn a_full_pipe_holds_up_no_stop() {
    for (name, value) in [("LOG", "file"), ("DIND_LOG_FORMAT", "json")] {
        let container = dind()
            .prelude(&format!("{HOOKS}\n{UNREAD}"))
            .env("DIND_STOP_TIMEOUT", "60")
            .env(name, value)
            .start(&[]);
        container.wait_until("docker version >/dev/null 2>&1");
        run_polite(&container);
        container.sh(FILL);
        container.docker(&["stop", "--time", "100"]).exited(0);
        assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
        container.docker(&["start"]).exited(0);
        container.wait_until("docker version >/dev/null 2>&1");
        let status = container.text(&["docker", "inspect", "-f", "{{.State.ExitCode}}", "polite"]);
        assert_eq!(status, "3", "{name}={value}");
        container.sh("grep -q pre-stop /hooks");
    }
}

/// The log relay takes the daemons' lines, so they wait for no reader of these.
#[test]
fn a_pipe_that_is_full_before_the_start_holds_up_no_daemon_of_the_relay() {
    let container = full().env("DIND_LOG_FORMAT", "json").start(&[]);
    container.wait_until("docker version >/dev/null 2>&1");
    stops_with(&container, "0");
}

/// A dockerd that writes to the full pipe itself waits. That is no reason for PID 1 to wait.
#[test]
fn a_daemon_that_waits_for_its_reader_is_stopped_in_time() {
    let container = full().start(&[]);
    container.wait_until("pgrep -x dockerd >/dev/null");
    stops_with(&container, "0");
}

#[test]
fn a_dockerd_that_dies_unread_is_restarted() {
    let container = full_with_file()
        .env("DIND_RESTART", "on-failure")
        .start(&[]);
    for _ in 0..2 {
        container.wait_until("docker version >/dev/null 2>&1");
        container.sh("pkill -KILL -x dockerd; docker version >/dev/null");
    }
    stops_with(&container, "0");
}

#[test]
fn a_dockerd_that_dies_unread_ends_the_container() {
    let container = full_with_file().start(&[]);
    container.wait_until("docker version >/dev/null 2>&1");
    container.sh("pkill -KILL -x dockerd");
    assert_eq!(container.wait(), 137);
}

#[test]
fn orphans_are_reaped_unread() {
    let container = full_with_file().env("DIND_LOG", "debug").start(&[]);
    container.wait_until("docker version >/dev/null 2>&1");
    orphans(&container, 100);
    container.wait_until("! ps -o stat= --ppid 1 | grep -q Z");
}

/// Reads on, up to the line about those that are lost. What was filled in is left out.
#[track_caller]
fn read_to_the_lost(container: &Container) -> Vec<String> {
    let text =
        container.sh(r"sed '/lost, since nobody read standard error/q' </unread | tr -d '\0'");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert!(lines.len() > 100, "{} lines waited", lines.len());
    lines
}

/// What does not fit any more is counted, and no line is lost in part.
#[test]
fn lost_lines_are_counted() {
    for format in ["text", "json"] {
        let container = full_with_file()
            .env("DIND_LOG", "debug")
            .env("DIND_LOG_FORMAT", format)
            .start(&[]);
        container.wait_until("docker version >/dev/null 2>&1");
        orphans(&container, 2000);
        container.wait_until("! ps -o stat= --ppid 1 | grep -q Z");
        let lines = read_to_the_lost(&container);
        let last = lines.last().expect("a line");
        if format == "json" {
            for line in &lines {
                let entry: Value = serde_json::from_str(line)
                    .unwrap_or_else(|error| panic!("no JSON ({error}): {line:?}"));
                assert_eq!(entry["source"], "dind", "{line}");
            }
            let last: Value = serde_json::from_str(last).expect("JSON");
            assert!(last["lines"].as_u64() > Some(0), "{last}");
        } else {
            for line in &lines {
                assert!(line.starts_with("dind: "), "{line:?}");
            }
            assert!(last.starts_with("dind: warning: "), "{last:?}");
        }
        // The line comes once, and others follow.
        container.docker(&["stop"]).exited(0);
    }
}

/// Ctrl-S.
const STOP_OUTPUT: &str = "\x13";

/// Waits until the terminal takes nothing more.
#[track_caller]
fn wait_stopped(pty: &Pty) {
    pty.container.wait_until(
        r#"perl -e 'open my $terminal, ">", "/proc/1/fd/2" or die; my $set = "";
            vec($set, fileno $terminal, 1) = 1; exit(select(undef, $set, undef, 0) != 0)'"#,
    );
}

/// The stop of a shell, and of a server whose terminal it is, is in order and in time.
#[test]
fn a_terminal_after_ctrl_s_holds_up_no_stop() {
    // 129 is 128 + SIGHUP, which the shell gets.
    for (spec, command, status) in [
        (dind(), &[][..], 129),
        (dind().env("LOG", "file"), &["dockerd"][..], 0),
        (dind().env("DIND_LOG_FORMAT", "json"), &["dockerd"][..], 0),
        (dind(), &["dockerd"][..], 0),
    ] {
        let mut pty = Pty::run(&spec, command);
        pty.expect("docker is ready after");
        run_polite(&pty.container);
        pty.press(STOP_OUTPUT);
        wait_stopped(&pty);
        pty.container.docker(&["stop"]).exited(0);
        assert_eq!(pty.wait(), status, "{command:?}");
        let container = &pty.container;
        container.docker(&["start"]).exited(0);
        container.wait_until("docker version >/dev/null 2>&1");
        let inner = container.text(&["docker", "inspect", "-f", "{{.State.ExitCode}}", "polite"]);
        assert_eq!(inner, "3", "{command:?}");
    }
}

/// Standard error becomes a pipe whose reader has ended.
const BROKEN: &str = "exec 2> >(exec sleep infinity)
    kill $!
    while kill -0 $! 2>/dev/null; do sleep 0.01; done";

/// PID 1's own SIGPIPE is not passed on to the command, whose end it would be.
#[test]
fn a_pipe_without_a_reader_is_no_signal_for_the_command() {
    let output = dind()
        .prelude(BROKEN)
        .env("LOG", "file")
        .env("DIND_LOG", "debug")
        .run(&[
            "sh",
            "-c",
            "docker version >/dev/null && seq 20 | xargs -I N sh -c 'sleep 0 & :'
             docker version >/dev/null && echo lives; exit 3",
        ])
        .exited(3);
    assert_eq!(output.stdout, "lives\n");
}

/// One that somebody sends is.
#[test]
fn a_sigpipe_from_outside_is_for_the_command() {
    let container = dind()
        .prelude(BROKEN)
        .env("LOG", "file")
        .env("DIND_LOG", "debug")
        .start(&[
            "bash",
            "-c",
            "trap 'exit 4' PIPE; touch /armed; while :; do sleep 0.1; done",
        ]);
    container.wait_until("[ -e /armed ]");
    container.signal("PIPE");
    assert_eq!(container.wait(), 4);
}
