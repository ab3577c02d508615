//! What a start asks of the system: no more than its role needs. Seen by strace.

use crate::docker::{Container, dind, lab};

/// A container without daemons, in which dind can be traced.
#[track_caller]
fn container() -> Container {
    let container = dind()
        .image(&lab("DIND_LAB_STRACE"))
        .flags(["--no-healthcheck", "--tmpfs=/var/lib/docker"])
        .shell("exec sleep infinity")
        .start(&[]);
    container.wait_until("pgrep -x sleep >/dev/null");
    container
}

/// The system calls of dind and of its children, a line each without the pid. `status` is the
/// exit status of what they end with.
#[track_caller]
fn calls(container: &Container, variables: &[&str], words: &[&str], status: i32) -> Vec<String> {
    let mut command = vec!["strace", "-f", "-qq", "-s", "256", "-o", "/trace"];
    for variable in variables {
        command.extend(["-E", variable]);
    }
    command.extend(words);
    container.exec(&command).exited(status);
    let trace = container.text(&["cat", "/trace"]);
    let calls: Vec<String> = trace
        .lines()
        .filter_map(|line| Some(line.split_once(' ')?.1.trim_start().to_owned()))
        .collect();
    assert!(calls[0].starts_with("execve("), "{trace}");
    calls[1..].to_vec()
}

/// Those before the program that dind becomes.
#[track_caller]
fn before_exec(mut calls: Vec<String>) -> Vec<String> {
    let is_exec = |line: &String| line.starts_with("execve(") && line.ends_with(" = 0");
    let exec = calls.iter().position(is_exec);
    calls.truncate(exec.expect("dind becomes another program"));
    calls
}

/// Fails the test where a call has all of `parts`.
#[track_caller]
fn has_none(calls: &[String], words: &[&str], parts: &[&str]) {
    let found = calls
        .iter()
        .find(|call| parts.iter().all(|part| call.contains(part)));
    assert_eq!(found, None, "{words:?}");
}

fn mountinfo(calls: &[String]) -> usize {
    let is_reading = |call: &&String| call.contains("open") && call.contains("/mountinfo\"");
    calls.iter().filter(is_reading).count()
}

/// What becomes a command reads what it needs for that, and nothing that only daemons need:
/// it asks netlink for no address, looks for no pid file in /run and for no containerd, and a
/// client not even for dockerd.
#[test]
fn without_daemons_what_only_they_need_is_not_read() {
    let container = container();
    for (variables, words, client) in [
        (
            &["DOCKER_HOST=tcp://127.0.0.1:1"][..],
            &["dind", "echo", "hi"][..],
            true,
        ),
        (&[], &["dind", "docker-entrypoint.sh", "true"], true),
        (&[], &["dind", "dockerd", "--version"], false),
        (&[], &["dind", "hack-dind", "true"], false),
    ] {
        let calls = before_exec(calls(&container, variables, words, 0));
        has_none(&calls, words, &["socket(AF_NETLINK"]);
        has_none(&calls, words, &["open", "\"/run"]);
        has_none(&calls, words, &["open", "\"/var/run"]);
        has_none(&calls, words, &["/containerd\""]);
        has_none(&calls, words, &["resolv.conf"]);
        assert_eq!(mountinfo(&calls), 1, "{words:?}");
        if client {
            has_none(&calls, words, &["/dockerd\""]);
            has_none(&calls, words, &["\"/sys/fs/cgroup"]);
        }
    }
}

/// The mounts are read once, also by a start with daemons and a log file.
#[test]
fn a_start_reads_the_mounts_once() {
    let script = "exec strace -DD -qq -e trace=open,openat -o /trace \
                  dind sh -c 'docker info >/dev/null && cat /trace'";
    let trace = dind()
        .image(&lab("DIND_LAB_STRACE"))
        .env("LOG", "file")
        .shell(script)
        .run(&[])
        .text();
    let calls: Vec<String> = trace.lines().map(str::to_owned).collect();
    let logs = |call: &String| call.contains("/var/log/docker.log");
    assert!(calls.iter().any(logs), "{trace}");
    assert_eq!(mountinfo(&calls), 1, "{trace}");
}
