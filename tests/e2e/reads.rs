//! What a start asks of the system: no more than its role needs. And what only tells asks for
//! nothing that changes something. Seen by strace.

use std::collections::BTreeSet;

use crate::docker::{Container, dind, lab};

/// What hides whether the kernel has loaded nf_tables, as it is where that is built in.
const HIDE_MODULES: &str = "mount -t tmpfs tmpfs /sys/module";

/// A container without daemons, in which dind can be traced.
#[track_caller]
fn container() -> Container {
    let container = dind()
        .image(&lab("DIND_LAB_STRACE"))
        .flags(["--no-healthcheck", "--tmpfs=/var/lib/docker"])
        .shell(&format!("{HIDE_MODULES} && exec sleep infinity"))
        .start(&[]);
    container.wait_until("pgrep -x sleep >/dev/null");
    container
}

/// A system call, and the process that made it.
#[derive(Debug, Clone, PartialEq)]
struct Call {
    pid: String,
    text: String,
}

impl Call {
    fn name(&self) -> &str {
        self.text.split('(').next().unwrap_or_default()
    }

    fn has(&self, parts: &[&str]) -> bool {
        parts.iter().all(|part| self.text.contains(part))
    }
}

/// The system calls of dind and of its children after the one that dind is executed by.
/// `status` is the exit status of what they end with.
#[track_caller]
fn calls(container: &Container, variables: &[&str], words: &[&str], status: i32) -> Vec<Call> {
    let mut command = vec!["strace", "-f", "-qq", "-s", "256", "-o", "/trace"];
    for variable in variables {
        command.extend(["-E", variable]);
    }
    command.extend(words);
    container.exec(&command).exited(status);
    let trace = container.text(&["cat", "/trace"]);
    let calls = trace.lines().filter_map(|line| {
        let (pid, text) = line.split_once(' ')?;
        let text = text.trim_start().to_owned();
        Some(Call {
            pid: pid.to_owned(),
            text,
        })
    });
    let calls: Vec<Call> = calls.collect();
    assert_eq!(calls[0].name(), "execve", "{trace}");
    calls[1..].to_vec()
}

/// Those before the program that dind becomes.
#[track_caller]
fn before_exec(mut calls: Vec<Call>) -> Vec<Call> {
    let is_exec = |call: &Call| call.name() == "execve" && call.text.ends_with(" = 0");
    let exec = calls.iter().position(is_exec);
    calls.truncate(exec.expect("dind becomes another program"));
    calls
}

/// Fails the test where a call has all of `parts`.
#[track_caller]
fn has_none(calls: &[Call], words: &[&str], parts: &[&str]) {
    let found = calls.iter().find(|call| call.has(parts));
    assert_eq!(found, None, "{words:?}");
}

fn mountinfo(calls: &[Call]) -> usize {
    let is_reading = |call: &&Call| call.has(&["open", "/mountinfo\""]);
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
    assert!(trace.contains("/var/log/docker.log\", O_WRONLY"), "{trace}");
    assert_eq!(trace.matches("/mountinfo\"").count(), 1, "{trace}");
}

/// The sockets listen before the facts are read: a client of the first millisecond waits for the
/// daemon, however long the rest of the start takes.
#[test]
fn the_sockets_listen_before_the_facts_are_read() {
    let script = "exec strace -DD -qq -o /trace dind sh -c 'docker info >/dev/null && cat /trace'";
    let trace = dind()
        .image(&lab("DIND_LAB_STRACE"))
        .flags(["-v", "/etc/docker"])
        .shell(script)
        .run(&[])
        .text();
    let first = |part: &str| trace.lines().position(|line| line.contains(part));
    let listening = trace.lines().enumerate();
    let listening: Vec<usize> = listening
        .filter(|(_, line)| line.starts_with("listen("))
        .map(|(number, _)| number)
        .collect();
    let [_unix, tcp] = listening[..] else {
        panic!("two sockets are wanted: {trace}");
    };
    // What they depend on.
    assert!(first("/etc/docker/daemon.json\"") < Some(tcp), "{trace}");
    for fact in [
        "/containerd\"",
        "/dockerd\"",
        "\"/proc/net/",
        "\"/proc/self/cgroup\"",
        "\"/etc/resolv.conf\"",
        "\"/var/lib/docker",
        "socket(AF_NETLINK",
    ] {
        let read = first(fact).unwrap_or_else(|| panic!("{fact} is not read: {trace}"));
        assert!(tcp < read, "{fact} is read first: {trace}");
    }
}

/// A daemon without TLS and without a command reads no addresses, which are for certificates, and
/// looks for no docker CLI, which is for a command.
#[test]
fn a_daemon_alone_reads_no_addresses_and_no_docker() {
    let container = dind()
        .image(&lab("DIND_LAB_STRACE"))
        .env("DOCKER_TLS_CERTDIR", "")
        .shell("exec strace -DD -qq -o /trace dind")
        .ready(&[]);
    let trace = container.text(&["cat", "/trace"]);
    assert!(trace.contains("listen("), "{trace}");
    for part in [
        "NETLINK_ROUTE",
        "bin/docker\"",
        "cli-plugins",
        "\"/etc/hostname\"",
    ] {
        assert!(!trace.contains(part), "{part}: {trace}");
    }
}

/// What changes something: in files, mounts, namespaces, or in the settings of others.
const CHANGES: &[&str] = &[
    "chmod",
    "chown",
    "fchmod",
    "fchmodat",
    "fchown",
    "fchownat",
    "link",
    "linkat",
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "mount",
    "move_mount",
    "pivot_root",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "sethostname",
    "setns",
    "setxattr",
    "symlink",
    "symlinkat",
    "truncate",
    "ftruncate",
    "umount2",
    "unlink",
    "unlinkat",
    "unshare",
    "utimensat",
];

/// What makes a process.
const FORKS: &[&str] = &["clone", "clone3", "fork", "vfork"];

/// Who asks for a plan, a diagnosis or the health of a container gets an answer, and the
/// kernel has loaded no module, made no namespace and run no program for it but those that
/// the doctor asks for their versions.
#[test]
fn what_only_tells_changes_nothing() {
    let container = container();
    for (words, status) in [
        (&["dind", "plan"][..], 0),
        (&["dind", "plan", "nest", "3"], 0),
        (&["dind", "plan", "hack-dind", "true"], 0),
        (&["dind", "doctor"], 0),
        (&["dind", "doctor", "--json"], 0),
        (&["dind", "health"], 1),
    ] {
        let calls = calls(&container, &[], words, status);
        let own = calls[0].pid.clone();
        let (own, children): (Vec<Call>, Vec<Call>) =
            calls.into_iter().partition(|call| call.pid == own);
        has_none(&own, words, &["socket(AF_NETLINK", "NETLINK_NETFILTER"]);
        has_none(&own, words, &["SIOCGIFINDEX"]);
        has_none(&own, words, &["bind(", "AF_UNIX"]);
        for call in &own {
            assert!(!CHANGES.contains(&call.name()), "{words:?}: {call:?}");
            let writes = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"];
            let opens = call.has(&["open"]) && !call.has(&["\"/dev/null\""]);
            // Standard error, by a description that does not block.
            let opens = opens && !call.has(&["\"/proc/self/fd/2\""]);
            let writes = writes.iter().any(|flag| call.has(&[flag]));
            assert!(!(opens && writes), "{words:?}: {call:?}");
            assert!(!call.has(&["CLONE_NEW"]), "{words:?}: {call:?}");
        }
        let forks = own.iter().filter(|call| FORKS.contains(&call.name()));
        let forks = forks.count();
        let programs = children
            .iter()
            .filter(|call| call.has(&["execve(", "\"--version\"]"]));
        let asked: BTreeSet<&str> = programs.map(|call| call.pid.as_str()).collect();
        assert_eq!(forks, asked.len(), "{words:?}: {own:#?}");
        let asks = words[1] == "doctor";
        assert_eq!(forks, if asks { 3 } else { 0 }, "{words:?}");
    }
}

/// What cannot be read is said by a plan and by the doctor, in the same words.
#[test]
fn what_a_start_will_ask_is_said() {
    let container = container();
    let note = "iptables: nft if the kernel has nf_tables, else legacy; a start loads the module and checks";
    let plan = container.text(&["dind", "plan"]);
    let step = plan.lines().find(|line| line.starts_with("step: "));
    assert_eq!(step, Some("step: load module nf_tables"), "{plan}");
    assert!(plan.contains(&format!("note: {note}\n")), "{plan}");
    let doctor = container.text(&["dind", "doctor"]);
    assert!(doctor.contains(&format!("note: {note} (")), "{doctor}");
    for value in ["", "1"] {
        let variable = format!("DOCKER_IPTABLES_LEGACY={value}");
        let chosen = container.text(&["env", &variable, "dind", "plan"]);
        assert!(!chosen.contains("load module nf_tables"), "{chosen}");
    }
    let nest = container.text(&["dind", "plan", "nest", "3"]);
    assert!(
        nest.contains("note: nest: pid namespaces are probed when nest runs\n"),
        "{nest}"
    );
}

/// And a start asks: the answer is that of a start that could read it.
#[test]
fn a_start_asks_what_it_cannot_read() {
    let container = dind().prelude(HIDE_MODULES).ready(&[]);
    container.logged(&["dind: iptables: nft, since the kernel has nf_tables"]);
}
