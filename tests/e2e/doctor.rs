//! `dind doctor`: what is wrong is said, with what to do; and nothing is changed.

use std::collections::HashSet;
use std::os::unix::net::UnixListener;
use std::process::Command;

use serde_json::Value;

use crate::docker::{Output, Scratch, dind, docker, lab, line_with, unique_name, unprivileged};

/// Fails the test unless standard output has a line of that severity with all of `parts`.
#[track_caller]
fn finds(output: &Output, severity: &str, parts: &[&str]) {
    let lines: Vec<&str> = output.stdout.lines().collect();
    let found = lines.iter().any(|line| {
        line.starts_with(&format!("{severity}: ")) && parts.iter().all(|part| line.contains(part))
    });
    assert!(found, "no {severity} with {parts:?} in {lines:#?}");
    assert_eq!(output.stderr, "", "the report is all there is");
}

/// The findings of `dind doctor --json`, by a real parser, and the errors counted there.
#[track_caller]
fn json(output: &Output) -> (Vec<Value>, u64) {
    let report: Value = serde_json::from_str(&output.stdout)
        .unwrap_or_else(|error| panic!("not JSON: {error}: {}", output.stdout));
    let findings = report["findings"].as_array().expect("findings").clone();
    let count = |severity: &str| {
        let severities = findings.iter().map(|finding| &finding["severity"]);
        severities.filter(|found| *found == severity).count() as u64
    };
    for (severity, plural) in [
        ("error", "errors"),
        ("warning", "warnings"),
        ("note", "notes"),
    ] {
        assert_eq!(report["summary"][plural], count(severity), "{report:#}");
    }
    for finding in &findings {
        for field in ["severity", "code", "seen", "link"] {
            let text = finding[field].as_str();
            assert!(
                text.is_some_and(|text| !text.is_empty()),
                "{field} of {finding:#}"
            );
        }
        assert!(finding["remedy"].is_string() || finding["remedy"].is_null());
        if finding["severity"] == "error" {
            assert!(finding["remedy"].is_string(), "no way out of {finding:#}");
        }
    }
    let errors = count("error");
    (findings, errors)
}

fn codes(findings: &[Value]) -> Vec<&str> {
    let codes = findings.iter().map(|finding| finding["code"].as_str());
    codes.map(|code| code.expect("a code")).collect()
}

/// A privileged container is in order, before the daemon runs and beside it.
#[test]
fn a_privileged_container_is_in_order() {
    let output = dind().run(&["doctor"]).exited(0);
    finds(&output, "note", &["the cgroup layout is "]);
    finds(&output, "note", &["dockerd ", "containerd ", "runc "]);
    let last = output.stdout.lines().last().expect("a summary");
    assert!(
        last.starts_with("0 errors, ") && last.ends_with("nothing keeps dind from working here")
    );
    let container = dind().ready(&[]);
    let beside = container.exec(&["dind", "doctor"]).exited(0);
    finds(
        &beside,
        "note",
        &["a daemon already answers on /var/run/docker.sock"],
    );
    assert!(
        !beside.stdout.contains("files of an earlier start"),
        "{}",
        beside.stdout
    );
    // The engine says the same of itself.
    let version = container.text(&["docker", "version", "--format", "{{.Server.Version}}"]);
    finds(&beside, "note", &[&format!("dockerd {version}")]);
}

/// Everything that a doctor might change: mounts, cgroups, files.
#[test]
fn it_changes_nothing() {
    let state = "cat /proc/self/mountinfo
         find / -xdev -path /proc -prune -o -printf '%p %m %u %g %s %T@ %l\\n' | sort
         find /sys/fs/cgroup /run /tmp /var/lib/docker | sort
         ps -eo pid,comm | grep -vE ' (sh|find|sort|ps|grep|cat)$'";
    for spec in [dind(), unprivileged()] {
        let container = spec
            .flags(["--no-healthcheck", "--cgroupns=private"])
            .shell("exec sleep infinity")
            .start(&[]);
        let before = container.sh(state);
        for words in [&["dind", "doctor"][..], &["dind", "doctor", "--json"]] {
            let output = container.exec(words);
            assert!(!output.stdout.is_empty(), "{output:?}");
            let after = container.sh(state);
            let known: HashSet<&str> = before.lines().collect();
            let changed: Vec<&str> = after.lines().filter(|line| !known.contains(line)).collect();
            assert_eq!(changed, Vec::<&str>::new(), "{words:?}");
            assert_eq!(after.len(), before.len(), "{words:?}: something is gone");
        }
    }
}

/// Without privileges it works, and says that dind does not.
#[test]
fn without_privileges_the_flag_is_the_remedy() {
    let output = unprivileged().run(&["doctor"]).exited(1);
    finds(
        &output,
        "error",
        &["CAP_SYS_ADMIN", "--privileged", "https://"],
    );
    let last = output.stdout.lines().last().expect("a summary");
    assert!(
        last.starts_with("1 error, ") && last.contains("will not work"),
        "{last}"
    );
    let output = unprivileged().flags(["--user", "1000"]);
    let output = output.run(&["doctor"]).exited(1);
    finds(
        &output,
        "error",
        &["--privileged, and as root", "without --user"],
    );
    // Only the user is in the way.
    let output = dind().flags(["--user", "1000"]).run(&["doctor"]).exited(1);
    finds(
        &output,
        "error",
        &["this process is user 1000", "start it without --user"],
    );
    let output = dind().flags(["--user", "1000"]);
    let output = output.run(&["doctor", "--json"]).exited(1);
    assert!(codes(&json(&output).0).contains(&"not-root"));
    let output = unprivileged().run(&["doctor", "--json"]).exited(1);
    let (findings, errors) = json(&output);
    assert_eq!(errors, 1);
    assert_eq!(codes(&findings)[0], "privileges");
}

/// The capabilities alone leave the filters of an unprivileged container.
#[test]
fn what_is_less_than_privileged_is_told_apart() {
    let output = unprivileged()
        .flags([
            "--cap-add",
            "SYS_ADMIN",
            "--cap-add",
            "NET_ADMIN",
            "--security-opt",
            "no-new-privileges",
        ])
        .run(&["doctor"])
        .exited(0);
    finds(&output, "warning", &["no_new_privs", "no-new-privileges"]);
    let mounted = "/sys/fs/cgroup";
    finds(
        &output,
        "note",
        &["read-only, which a start makes writable", mounted],
    );
    let filtered = docker(["info", "--format", "{{.SecurityOptions}}"]).text();
    let has = line_with(&output.stdout, &["warning: ", "seccomp=unconfined"]).is_some();
    assert_eq!(has, filtered.contains("seccomp"), "{filtered}");
}

/// A CI job's variables in a service: by name only.
#[test]
fn leaked_variables_are_said() {
    let output = dind()
        .env("DOCKER_HOST", "tcp://me:secret@docker:2375")
        .env("DOCKER_TLS_VERIFY", "1")
        .run(&["doctor"])
        .exited(0);
    finds(
        &output,
        "warning",
        &["DOCKER_HOST, DOCKER_TLS_VERIFY", "unset DOCKER_HOST"],
    );
    assert!(!output.stdout.contains("secret"));
}

/// Little room for the data, and none to write.
#[test]
fn a_full_data_root_is_said() {
    let with = |options: &str| {
        let tmpfs = format!("/var/lib/docker:{options}");
        dind().flags(["--tmpfs", &tmpfs]).run(&["doctor"])
    };
    finds(
        &with("size=32m").exited(1),
        "error",
        &["/var/lib/docker has 32 MiB left", "prune"],
    );
    finds(
        &with("size=512m").exited(0),
        "warning",
        &["/var/lib/docker has 512 MiB left"],
    );
    finds(
        &with("size=2g,nr_inodes=500").exited(1),
        "error",
        &["inodes left"],
    );
    finds(
        &with("size=2g,ro").exited(1),
        "error",
        &["mounted read-only", "mount it writable"],
    );
    let container = dind()
        .flags(["--tmpfs", "/var/lib/docker:size=100m"])
        .shell("exec sleep infinity")
        .start(&[]);
    finds(
        &container.exec(&["dind", "doctor"]),
        "warning",
        &["100 MiB left"],
    );
    container.sh("dd if=/dev/zero of=/var/lib/docker/full bs=1M count=90 2>/dev/null");
    finds(
        &container.exec(&["dind", "doctor"]).exited(1),
        "error",
        &["10 MiB left"],
    );
}

/// The limit of processes, of the container's own cgroup.
#[test]
fn a_low_limit_of_processes_is_said() {
    let output = dind()
        .flags(["--pids-limit", "77"])
        .run(&["doctor"])
        .exited(0);
    finds(&output, "warning", &["allows 77 processes", "--pids-limit"]);
    for namespace in ["host", "private"] {
        let output = dind()
            .flags(["--pids-limit", "78", "--cgroupns", namespace])
            .run(&["doctor"]);
        finds(&output, "warning", &["allows 78 processes"]);
    }
}

/// Docker's resolver of user networks is on loopback: something is to be said only where
/// nothing is done about it.
#[test]
fn a_resolver_on_loopback_is_said() {
    let network = unique_name();
    docker(["network", "create", &network]).exited(0);
    let run = |switch: &str, arguments: &str| {
        let spec = dind().flags(["--network", &network]);
        let spec = spec.env("DIND_DNS", switch);
        spec.env("DOCKER_DAEMON_ARGS", arguments).run(&["doctor"])
    };
    let without = run("off", "");
    let with = [run("on", ""), run("off", "--dns 192.0.2.53")];
    docker(["network", "rm", &network]).exited(0);
    finds(&without, "warning", &["127.0.0.11", "--dns"]);
    for output in with {
        assert!(!output.exited(0).stdout.contains("127.0.0.11"));
    }
}

/// No engine, a broken configuration, a socket of somebody else's.
#[test]
fn what_stops_a_start_is_said_in_its_words() {
    let output = dind()
        .env("PATH", "/nowhere")
        .flags(["--entrypoint", "/usr/local/bin/dind"])
        .run(&["doctor"])
        .exited(1);
    finds(
        &output,
        "error",
        &["no dockerd in PATH (/nowhere)", "use an image"],
    );
    let broken = dind()
        .shell("mkdir -p /etc/docker; echo '{ oops' >/etc/docker/daemon.json; dind doctor")
        .run(&[])
        .exited(1);
    finds(
        &broken,
        "error",
        &["/etc/docker/daemon.json: line 1", "correct the file"],
    );
    let scratch = Scratch::new();
    let socket = scratch.path.join("outer.sock");
    let _listener = UnixListener::bind(&socket).expect("a socket in /tmp");
    let mount = format!("{}:/var/run/docker.sock", socket.display());
    let output = dind().flags(["-v", &mount]).run(&["doctor"]).exited(0);
    finds(
        &output,
        "warning",
        &["/var/run/docker.sock is mounted from outside"],
    );
}

/// What a killed start leaves is known as such, and the next start removes it.
#[test]
fn stale_files_are_named() {
    let container = dind()
        .shell("echo 999999 >/run/docker.pid; dind doctor")
        .start(&[]);
    assert_eq!(container.wait(), 0);
    container.logged(&["note: files of an earlier start", "/run/docker.pid"]);
}

/// Outside of any container only the host is judged.
#[test]
fn outside_of_a_container_the_host_is_judged() {
    let output = Command::new(lab("DIND_LAB_BINARY"))
        .args(["doctor", "--json"])
        .env_remove("DOCKER_HOST")
        .output()
        .expect("the binary runs on this machine");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("findings");
    let codes = codes(findings);
    assert!(codes.contains(&"cgroup-layout"), "{codes:?}");
    // The first pid namespace has this number on every machine: linux/proc_ns.h.
    let pids = std::fs::read_link("/proc/self/ns/pid").expect("/proc");
    let root = std::fs::read_to_string("/proc/self/mounts").expect("/proc");
    let layer = root.lines().any(|line| line.starts_with("overlay / "));
    let is_host = pids.as_os_str() == "pid:[4026531836]" && !layer;
    assert_eq!(codes.contains(&"outside"), is_host, "{report:#}");
    for code in [
        "no-dockerd",
        "no-iptables",
        "socket-group",
        "data-root-volume",
    ] {
        assert!(!(is_host && codes.contains(&code)), "{code}: {report:#}");
    }
}

/// Words that are none of its own are bad input.
#[test]
fn other_arguments_are_refused() {
    let output = dind().run(&["doctor", "--jsn"]).exited(2);
    output.says(&["dind: error: doctor:", "--jsn", "--json"]);
    let help = unprivileged().run(&["--help"]).text();
    assert!(
        line_with(&help, &["doctor", "what is wrong"]).is_some(),
        "{help}"
    );
}

/// When dockerd does not start, what is wrong is said after its own last words, once and
/// without notes.
#[test]
fn a_dockerd_that_fails_is_followed_by_the_findings() {
    for arguments in [&["--no-such-flag"][..], &["--storage-driver", "zfs"]] {
        let container = dind()
            .flags(["--pids-limit", "200", "--tmpfs", "/var/lib/docker:size=40m"])
            .start(arguments);
        assert_ne!(container.wait(), 0, "{arguments:?}");
        let logs = container.logs();
        let at = |part: &str| {
            let places: Vec<usize> = logs.match_indices(part).map(|(at, _)| at).collect();
            assert_eq!(places.len(), 1, "{part:?} once in {logs}");
            places[0]
        };
        let failed = at("before it was ready");
        assert!(failed < at("allows 200 processes"), "{logs}");
        container.logged(&["dind: error: /var/lib/docker has ", " MiB left", "https://"]);
        container.logged(&["dind: warning: ", "allows 200 processes", "--pids-limit"]);
        container.not_logged(&["the cgroup layout"]);
    }
}
