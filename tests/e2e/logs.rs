//! What is logged, how much of it, and in which form: `DIND_LOG`, `DIND_LOG_FORMAT`, and the
//! colours of a terminal.

use serde_json::Value;

use crate::docker::{Container, Spec, dind};
use crate::pty::Pty;

/// What makes JSON of the daemons' lines: the only dind that PID 1 starts here.
const RELAY: &str = "pgrep -P 1 -x dind";

fn json() -> Spec {
    dind().env("DIND_LOG_FORMAT", "json")
}

/// The lines of a log, each of which must be an object that begins with the same four
/// members, all of them strings, and be free of what drives a terminal.
#[track_caller]
fn entries(log: &str) -> Vec<Value> {
    let entry = |line: &str| {
        let entry: Value = serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {line:?}"));
        for name in ["time", "level", "source", "msg"] {
            assert!(entry[name].is_string(), "no {name}: {line}");
        }
        let (time, level, source) = (&entry["time"], &entry["level"], &entry["source"]);
        let begin = format!(r#"{{"time":{time},"level":{level},"source":{source},"msg":""#);
        assert!(line.starts_with(&begin), "not {begin} first: {line}");
        assert!(!line.contains(char::is_control), "{line:?}");
        entry
    };
    log.lines().map(entry).collect()
}

/// The place of the first line of `source` at this level with `part` in one of its members:
/// what is in the message of one engine, has a member of its own with the next.
fn place(entries: &[Value], source: &str, level: &str, part: &str) -> Option<usize> {
    entries.iter().position(|entry| {
        let has = entry["source"] == source && entry["level"] == level;
        has && entry.to_string().contains(part)
    })
}

#[track_caller]
fn find(entries: &[Value], source: &str, level: &str, part: &str) -> usize {
    place(entries, source, level, part)
        .unwrap_or_else(|| panic!("{source} does not say {part:?} at level {level}"))
}

#[track_caller]
fn wait_ready(container: &Container) {
    container.wait_log("docker is ready after", 1);
}

/// Has a dockerd with `--debug` write a line with this name in it.
#[track_caller]
fn provoke(container: &Container, name: &str) {
    container.exec(&["docker", "inspect", name]).exited(1);
}

/// Of a daemon in the foreground, with everything that it and containerd have to say, from
/// the first line to the last.
#[test]
fn all_lines_of_a_daemon_are_json() {
    let container = json().start(&["--debug"]);
    wait_ready(&container);
    container.docker(&["stop"]).exited(0);
    assert_eq!(container.wait(), 0);
    let output = container.docker(&["logs"]).exited(0);
    assert_eq!(output.stdout, "", "the daemons log on standard error");
    let entries = entries(&output.stderr);
    find(&entries, "dind", "info", "docker is ready after");
    find(&entries, "dockerd", "debug", "");
    find(&entries, "dockerd", "info", "Daemon shutdown complete");
    let containerd = find(&entries, "containerd", "info", "starting containerd");
    assert!(entries[containerd]["version"].is_string(), "a member of it");
    let note = &entries[find(&entries, "dind", "info", "iptables: ")];
    assert_eq!(note["code"], "iptables", "{note}");
    assert!(note["link"].is_string(), "{note}");
}

/// What a message names is a field too, and a number is one.
#[test]
fn messages_have_fields() {
    let output = json().env("DIND_MTU", "abc").run(&[]).exited(2);
    let entries = entries(&output.stderr);
    let [error] = entries.as_slice() else {
        panic!("{entries:?}");
    };
    assert_eq!(error["status"], 2, "{error}");
}

/// What hooks write is too, from the first, which has no daemon yet, to the last.
#[test]
fn the_lines_of_hooks_are_json() {
    let container = dind()
        .prelude(
            r#"for stage in pre-start post-start pre-stop; do
                mkdir -p /etc/dind/$stage.d
                printf '#!/bin/sh\necho "$0 writes"; echo "$0 complains" >&2' >/etc/dind/$stage.d/hook
                chmod +x /etc/dind/$stage.d/hook
            done"#,
        )
        .env("DIND_LOG_FORMAT", "json")
        .start(&[]);
    wait_ready(&container);
    container.docker(&["stop"]).exited(0);
    let output = container.docker(&["logs"]).exited(0);
    let (written, complained) = (entries(&output.stdout), entries(&output.stderr));
    for stage in ["pre-start", "post-start", "pre-stop"] {
        let hook = format!("/etc/dind/{stage}.d/hook");
        find(&written, "hook", "info", &format!("{hook} writes"));
        find(&complained, "dind", "info", &format!("hook {hook}"));
        find(&complained, "hook", "info", &format!("{hook} complains"));
    }
}

/// Beside a command, whose output is its own, in the daemons' file.
#[test]
fn all_lines_of_the_file_are_json() {
    let output = json()
        .env("LOG", "file")
        .env("DOCKER_DAEMON_ARGS", "--debug")
        .run(&[
            "sh",
            "-c",
            "until grep -q 'API listen on' /var/log/docker.log; do sleep 0.05; done
             cat /var/log/docker.log; echo 'the command: no JSON'; echo 'here neither' >&2",
        ])
        .exited(0);
    let file = output.stdout.strip_suffix("the command: no JSON\n");
    let file = entries(file.expect("the command's line is untouched"));
    find(&file, "dockerd", "info", "API listen on");
    find(&file, "containerd", "debug", "");
    assert_eq!(place(&file, "dind", "info", ""), None);
    let rest = output.stderr.replace("here neither\n", "");
    assert_ne!(rest, output.stderr);
    let rest = entries(&rest);
    find(&rest, "dind", "info", "its log is /var/log/docker.log");
    assert!(rest.iter().all(|entry| entry["source"] == "dind"));
}

/// A dockerd that writes JSON of its own accord. Engines before 25.0 have no such flag, and
/// say so.
#[test]
fn what_is_json_already_stays_it() {
    let help = json().run(&["dockerd", "--help"]).exited(0).stdout;
    let container = json().start(&["--log-format=json", "--debug"]);
    if help.contains("--log-format") {
        wait_ready(&container);
        container.docker(&["stop"]).exited(0);
    } else {
        assert_eq!(container.wait(), 1);
    }
    let entries = entries(&container.logs());
    if help.contains("--log-format") {
        find(&entries, "dockerd", "debug", "");
        let place = find(&entries, "dockerd", "info", "Docker daemon");
        assert!(entries[place]["version"].is_string(), "{}", entries[place]);
        find(&entries, "dockerd", "info", "Daemon shutdown complete");
    } else {
        find(&entries, "dockerd", "error", "unknown flag: --log-format");
    }
}

/// The reason why dockerd ended comes before what is said of its end, in the log, and from
/// the file in the words of both.
#[test]
fn the_last_words_of_dockerd_are_there() {
    let output = json().run(&["--no-such-flag"]).exited(1);
    let lines = entries(&output.stderr);
    let why = find(&lines, "dockerd", "error", "unknown flag: --no-such-flag");
    let end = find(&lines, "dind", "error", "before it was ready");
    assert!(why < end);
    let output = json()
        .env("LOG", "file")
        .env("DOCKER_DAEMON_ARGS", "--no-such-flag")
        .run(&["true"])
        .exited(1);
    let lines = entries(&output.stderr);
    find(
        &lines,
        "dind",
        "error",
        "the last lines of /var/log/docker.log",
    );
    let shown = find(&lines, "dind", "error", "unknown flag: --no-such-flag");
    let message = lines[shown]["msg"].as_str().unwrap_or_default();
    assert!(message.starts_with("| error: "), "{message}");
    assert_eq!(place(&lines, "dind", "error", "Usage:"), None);
}

/// What is wrong with a variable is said in the form that another one asks for; what is
/// wrong with that one, in text.
#[test]
fn a_bad_variable_is_an_entry() {
    for (name, value) in [("DIND_MTU", "abc"), ("DIND_LOG", "loud")] {
        let output = json().env(name, value).run(&[]).exited(2);
        let lines = entries(&output.stderr);
        assert_eq!(lines.len(), 1, "{}", output.stderr);
        find(&lines, "dind", "error", name);
    }
    let output = dind().env("DIND_LOG_FORMAT", "xml").run(&[]).exited(2);
    output.says(&[
        "dind: error: DIND_LOG_FORMAT=\"xml\" is not valid",
        "text, json",
    ]);
}

/// What is asked for is no log: its form is its own.
#[test]
fn answers_are_not_logs() {
    let spec = || json().env("DIND_LOG", "error");
    let output = spec()
        .flags(["--entrypoint", "dind"])
        .run(&["health"])
        .exited(1);
    assert!(
        output.stderr.starts_with("dind: error: not healthy: "),
        "{}",
        output.stderr
    );
    let plan = spec().run(&["plan"]).exited(0);
    assert_eq!(plan.stderr, "");
    assert!(
        plan.stdout.starts_with("contract: dind\n"),
        "{}",
        plan.stdout
    );
}

/// dind's own lines by their level.
#[test]
fn the_level_says_how_much_there_is() {
    let lines = |level: &str| {
        let output = dind()
            .env("DIND_LOG", level)
            .env("LOG", "file")
            .run(&["docker", "version"]);
        let stderr = output.exited(0).stderr;
        assert!(
            stderr.lines().all(|line| line.starts_with("dind: ")),
            "{stderr}"
        );
        stderr
    };
    assert_eq!(lines("error"), "");
    let debug = lines("debug");
    for part in ["dind: debug: ", "dind: docker is ready after "] {
        assert!(debug.contains(part), "{part:?} is not in\n{debug}");
    }
    let usual = lines("info");
    assert!(usual.contains("dind: docker is ready after "), "{usual}");
    assert!(!usual.contains("dind: debug: "), "{usual}");
}

/// On a terminal, where nobody minds, and nowhere else.
#[test]
fn a_terminal_shows_errors_in_red() {
    let bad = || dind().env("DIND_MTU", "abc");
    for (spec, shown) in [
        (bad(), "dind: \x1b[1;31merror\x1b[0m: "),
        (bad().env("NO_COLOR", ""), "dind: \x1b[1;31merror\x1b[0m: "),
        (bad().env("NO_COLOR", "1"), "dind: error: "),
        (bad().env("TERM", "dumb"), "dind: error: "),
    ] {
        let mut pty = Pty::run(&spec, &[]);
        assert_eq!(pty.expect("DIND_MTU="), shown);
        assert_eq!(pty.wait(), 2);
    }
    let output = bad().env("TERM", "xterm").run(&[]).exited(2);
    assert!(
        output.stderr.starts_with("dind: error: "),
        "{}",
        output.stderr
    );
}

/// Whoever kills what makes the lines JSON, they are all there, those too that come when
/// it is not.
#[test]
fn no_line_is_lost_with_the_relay() {
    let container = json().start(&["--debug"]);
    wait_ready(&container);
    for kill in 1..=3 {
        container.sh(&format!("kill -KILL $({RELAY})"));
        provoke(&container, &format!("nobody-{kill}"));
        container.wait_log(&format!("nobody-{kill}"), 1);
        container.wait_until(&format!("[ $({RELAY} | wc -l) = 1 ]"));
    }
    container.docker(&["stop"]).exited(0);
    assert_eq!(container.wait(), 0);
    let entries = entries(&container.logs());
    find(
        &entries,
        "dind",
        "warning",
        "was ended by SIGKILL; restarting it",
    );
    for kill in 1..=3 {
        find(&entries, "dockerd", "debug", &format!("nobody-{kill}"));
    }
    find(&entries, "dockerd", "info", "Daemon shutdown complete");
}

/// What was written while there was no relay is written at the end at the latest.
#[test]
fn the_end_waits_for_the_relay() {
    let script = format!("docker info >/dev/null; kill -KILL $({RELAY}); exit 3");
    let output = json().run(&["sh", "-c", &script]).exited(3);
    let entries = entries(&output.stderr);
    find(&entries, "dockerd", "info", "Daemon shutdown complete");
}

/// A daemon that is started again writes to the same pipes.
#[test]
fn the_next_dockerd_is_heard_too() {
    let container = json().env("DIND_RESTART", "on-failure").start(&[]);
    wait_ready(&container);
    for crash in 1..=2 {
        container.sh("pkill -KILL -x dockerd");
        container.wait_log("docker answers again", crash);
    }
    container.docker(&["stop"]).exited(0);
    let entries = entries(&container.logs());
    let starts = entries.iter().filter(|entry| entry["msg"] == "Starting up");
    assert_eq!(starts.count(), 3);
    find(&entries, "dockerd", "info", "Daemon shutdown complete");
}

/// A file that takes nothing any more is no reason for a daemon to wait.
#[test]
fn a_full_disk_stops_nobody() {
    let container = json()
        .env("LOG", "file")
        .flags(["--tmpfs", "/var/log:size=64k"])
        .prelude("dd if=/dev/zero of=/var/log/full bs=4k 2>/dev/null || :")
        .start(&["--debug"]);
    wait_ready(&container);
    // More lines than fit into a pipe.
    container.sh("for _ in 1 2 3 4 5 6 7 8 9 10; do
             docker version >/dev/null || exit
             docker network create --label $(head -c 9000 /dev/zero | tr '\\0' x) a$_ >/dev/null
         done");
    container.sh("rm /var/log/full");
    provoke(&container, "nobody");
    container.wait_until("grep -q nobody /var/log/docker.log");
    let file = container.text(&["cat", "/var/log/docker.log"]);
    entries(&file);
}

/// Nor does it when it hangs: who waits for it does so for a moment.
#[test]
fn a_relay_that_hangs_keeps_nobody() {
    let container = json().start(&[]);
    wait_ready(&container);
    container.sh(&format!("kill -STOP $({RELAY})"));
    container.docker(&["stop"]).exited(0);
    assert_eq!(container.wait(), 0);
}

/// Where standard error takes nothing, what is said is lost, and no more than that.
#[test]
fn nobody_has_to_listen() {
    for format in ["text", "json"] {
        let output = dind()
            .env("DIND_LOG_FORMAT", format)
            .prelude("exec 2>/dev/full")
            .run(&["sh", "-c", "docker version >/dev/null && echo works"]);
        assert_eq!(output.text(), "works", "{format}");
    }
}
