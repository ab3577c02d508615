//! What is logged, how much of it, and in which form: `DIND_LOG`, `DIND_LOG_FORMAT`, and the
//! colours of a terminal.

use serde_json::Value;

use crate::docker::{Spec, dind};
use crate::pty::Pty;

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

/// What is wrong with a variable is said in the form that another one asks for; what is
/// wrong with that one, in text.
#[test]
fn a_bad_variable_is_an_entry() {
    for (name, value) in [("PORT", "abc"), ("DIND_LOG", "loud")] {
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
    let bad = || dind().env("PORT", "abc");
    for (spec, shown) in [
        (bad(), "dind: \x1b[1;31merror\x1b[0m: "),
        (bad().env("NO_COLOR", ""), "dind: \x1b[1;31merror\x1b[0m: "),
        (bad().env("NO_COLOR", "1"), "dind: error: "),
        (bad().env("TERM", "dumb"), "dind: error: "),
    ] {
        let mut pty = Pty::run(&spec, &[]);
        assert_eq!(pty.expect("PORT="), shown);
        assert_eq!(pty.wait(), 2);
    }
    let output = bad().env("TERM", "xterm").run(&[]).exited(2);
    assert!(
        output.stderr.starts_with("dind: error: "),
        "{}",
        output.stderr
    );
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
