//! Containers that cannot react to their stop signal, and those of a dockerd that is dead.

use std::fs;

use serde_json::Value;

use crate::docker::{BUSYBOX, Container, Scratch, Spec, dind};

/// The end of the line that names the containers that were not waited for.
const AT_ONCE: &str = "are ended at once: ";

/// dockerd's word for a container that had to be killed because its own time was over.
const FORCE: &str = "using the force";

/// A script that says that it has its handler, and exits with 3 two seconds after the signal.
fn listens(signal: &str) -> String {
    format!(
        "trap 'sleep 2; echo ended >/files/$(hostname); exit 3' {signal}
        echo armed >/files/$(hostname)
        while :; do sleep 0.1; done"
    )
}

/// An engine that leaves its containers all their time, with a directory for their files.
fn engine() -> Spec {
    dind().env("DIND_STOP_TIMEOUT", "100")
}

#[track_caller]
fn prepare(container: &Container) {
    container.load_busybox();
    container.sh("mkdir -p /var/lib/docker/files");
}

#[track_caller]
fn run(container: &Container, name: &str, flags: &[&str], command: &[&str]) -> String {
    let always = [
        "run",
        "-d",
        "--name",
        name,
        "-v",
        "/var/lib/docker/files:/files",
    ];
    let words = ["docker"].iter().chain(&always).chain(flags);
    let words: Vec<&str> = words.chain(&[BUSYBOX]).chain(command).copied().collect();
    container.text(&words)
}

/// A container without a handler for any signal.
#[track_caller]
fn deaf(container: &Container, name: &str, flags: &[&str]) -> String {
    run(container, name, flags, &["sleep", "100001"])
}

/// One with a handler, that has it when this returns.
#[track_caller]
fn listener(container: &Container, name: &str, flags: &[&str], signal: &str) {
    let script = listens(signal);
    let flags = [&["--hostname", name], flags].concat();
    run(container, name, &flags, &["sh", "-c", &script]);
    container.wait_until(&format!("grep -qs armed /var/lib/docker/files/{name}"));
}

#[track_caller]
fn stop(container: &Container) {
    container.docker(&["stop", "-t", "120"]).exited(0);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
    container.logged(&["Daemon shutdown complete"]);
}

/// The names of the containers that were not waited for, sorted.
#[track_caller]
fn ended_at_once(container: &Container) -> Vec<String> {
    let logs = container.logs();
    let mut lines = logs.lines().filter_map(|line| line.split_once(AT_ONCE));
    let (_, names) = lines.next().unwrap_or_default();
    assert_eq!(lines.next(), None, "one line names all of them");
    let names = names.split(';').next().unwrap_or_default();
    let mut names: Vec<String> = names.split(", ").map(str::to_owned).collect();
    names.sort();
    names
}

/// The exit statuses of containers after the next start.
#[track_caller]
fn statuses(container: &Container, names: &[&str]) -> String {
    container.docker(&["start"]).exited(0);
    container.wait_ready_times(2);
    let words = ["docker", "inspect", "--format={{.State.ExitCode}}"];
    let statuses = container.text(&[&words, names].concat());
    statuses.replace('\n', " ")
}

/// What PID 1 of a namespace has no handler for is dropped by the kernel, so it is not waited for.
#[test]
fn containers_that_cannot_react_are_not_waited_for() {
    let container = engine().ready(&[]);
    prepare(&container);
    for name in ["one", "two"] {
        deaf(&container, name, &[]);
    }
    deaf(&container, "three", &["--stop-signal=SIGRTMIN+3"]);
    stop(&container);
    assert_eq!(ended_at_once(&container), ["one", "three", "two"]);
    container.not_logged(&[FORCE]);
    container.not_logged(&["did not end in time"]);
    assert_eq!(
        statuses(&container, &["one", "two", "three"]),
        "137 137 137"
    );
}

/// Those that listen have all their time, however many do not.
#[test]
fn half_of_twenty_listen_and_have_their_time() {
    let container = engine().ready(&[]);
    prepare(&container);
    let (mut silent, mut listening) = (Vec::new(), Vec::new());
    for number in 10..20 {
        silent.push(format!("deaf-{number}"));
        listening.push(format!("listener-{number}"));
    }
    for (silent, listening) in silent.iter().zip(&listening) {
        deaf(&container, silent, &["--network=none"]);
        listener(&container, listening, &["--network=none"], "TERM");
    }
    stop(&container);
    assert_eq!(ended_at_once(&container), silent);
    container.not_logged(&[FORCE]);
    let names: Vec<&str> = listening.iter().map(String::as_str).collect();
    assert_eq!(statuses(&container, &names), ["3"; 10].join(" "));
    let files = container.sh("cat /var/lib/docker/files/* | uniq -c");
    assert_eq!(files.trim(), "10 ended");
}

/// Nothing of a stop is different for a container but its time: neither what dockerd has written
/// about it, nor what the next start makes of it.
#[test]
fn a_container_that_is_not_waited_for_is_as_after_any_stop() {
    let policies = [
        "no",
        "always",
        "unless-stopped",
        "on-failure",
        "on-failure:3",
    ];
    // dockerd's own patience is what ends them in any stop.
    let after = |mode: &str, patience: &str| {
        let container = engine().env("DIND_STOP_DEAF", mode).ready(&[]);
        prepare(&container);
        let mut ids = Vec::new();
        for (number, policy) in policies.iter().enumerate() {
            let restart = format!("--restart={policy}");
            let flags = [restart.as_str(), patience];
            ids.push(deaf(&container, &format!("deaf-{number}"), &flags));
        }
        stop(&container);
        if mode == "kill" {
            assert_eq!(ended_at_once(&container).len(), policies.len());
            container.not_logged(&[FORCE]);
        } else {
            container.not_logged(&[AT_ONCE]);
            container.logged(&[FORCE]);
        }
        let scratch = Scratch::new();
        container.copy_out("/var/lib/docker/containers", &scratch.path);
        let written = ids.iter().map(|id| {
            let path = scratch
                .path
                .join("containers")
                .join(id)
                .join("config.v2.json");
            let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{error}"));
            let value: Value = serde_json::from_str(&text).unwrap_or_default();
            let state = [
                "Running",
                "Restarting",
                "Pid",
                "ExitCode",
                "Error",
                "OOMKilled",
                "Dead",
            ];
            let state = state.map(|name| value["State"][name].to_string());
            let own = [
                "RestartCount",
                "HasBeenManuallyStopped",
                "HasBeenStartedBefore",
            ];
            let own = own.map(|name| value[name].to_string());
            [state.join(" "), own.join(" ")].join(" ")
        });
        let written: Vec<String> = written.collect();
        container.docker(&["start"]).exited(0);
        container.wait_ready_times(2);
        let shown = container.sh("docker ps -aq | xargs docker inspect --format \
            '{{.Name}} {{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}' | sort");
        (written, shown)
    };
    let (written, shown) = after("kill", "--stop-timeout=100");
    let any_stop = after("wait", "--stop-timeout=1");
    assert_eq!(any_stop, (written.clone(), shown.clone()));
    assert_eq!(
        written[1],
        r#"false false 0 137 "" false false 0 false true"#
    );
    for line in [
        "/deaf-0 exited 137 0",
        "/deaf-1 running 0 0",
        "/deaf-2 running 0 0",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
}

/// A signal can be heard in more ways than by a handler, and by others than PID 1.
#[test]
fn whoever_can_react_is_waited_for() {
    let container = engine().ready(&[]);
    prepare(&container);
    let script = listens("TERM");
    // docker-init waits in sigtimedwait(2), for a child that has the handler.
    listener(&container, "init", &["--init"], "TERM");
    listener(&container, "interrupt", &["--stop-signal=SIGINT"], "INT");
    // PID 1 of no namespace: the default action of the signal ends it.
    deaf(&container, "host", &["--pid=host"]);
    // The signal is blocked, and looked for now and then.
    let perl = "use POSIX; $set = POSIX::SigSet->new(SIGTERM); sigprocmask(SIG_BLOCK, $set);
        open $file, '>', '/var/lib/docker/files/blocked'; print $file 'armed'; close $file;
        do { select undef, undef, undef, 0.1; sigpending($set) } until $set->ismember(SIGTERM);
        sleep 2; exit 3";
    let flags = ["--volume=/:/engine"];
    run(
        &container,
        "blocked",
        &flags,
        &["chroot", "/engine", "perl", "-e", perl],
    );
    container.wait_until("grep -qs armed /var/lib/docker/files/blocked");
    // A handler for another signal is none.
    let other = listens("USR1");
    run(
        &container,
        "other",
        &["--hostname=other"],
        &["sh", "-c", &other],
    );
    deaf(&container, "asked", &["--stop-timeout=4"]);
    // These share a namespace with one that listens.
    for (guest, host, share) in [("pids", "has-pids", "pid"), ("net", "has-net", "network")] {
        deaf(&container, host, &["--stop-timeout=20"]);
        let share = format!("--{share}=container:{host}");
        let flags = [share.as_str()];
        let script = script.replace("$(hostname)", guest);
        run(&container, guest, &flags, &["sh", "-c", &script]);
        container.wait_until(&format!("grep -qs armed /var/lib/docker/files/{guest}"));
    }
    stop(&container);
    assert_eq!(ended_at_once(&container), ["asked", "other"]);
    let names = [
        "init",
        "interrupt",
        "host",
        "blocked",
        "other",
        "asked",
        "pids",
        "net",
    ];
    assert_eq!(statuses(&container, &names), "3 3 143 3 137 137 3 3");
    let ended = container.sh("cd /var/lib/docker/files; grep -l ended * | xargs");
    assert_eq!(ended.trim(), "init interrupt net pids");
}

/// Who has asked for more time than there is gets all there is.
#[test]
fn a_longer_stop_time_out_is_respected() {
    let container = dind().env("DIND_STOP_TIMEOUT", "6").ready(&[]);
    prepare(&container);
    deaf(&container, "long", &["--stop-timeout=7"]);
    deaf(&container, "ever", &["--stop-timeout=-1"]);
    deaf(&container, "short", &["--stop-timeout=6"]);
    stop(&container);
    assert_eq!(ended_at_once(&container), ["short"]);
    container.logged(&["inner containers did not end in time"]);
}

/// dockerd sends no stop signal then, so nothing ends for want of a handler.
#[test]
fn live_restore_is_left_alone() {
    let container = engine().ready(&["dockerd", "--live-restore"]);
    prepare(&container);
    deaf(&container, "inner", &[]);
    container.docker(&["stop", "-t", "120"]).exited(0);
    container.not_logged(&[AT_ONCE]);
}

/// Nobody else sends the stop signals of a dockerd that was killed.
#[test]
fn containers_of_a_dead_dockerd_get_their_stop_signal() {
    let container = engine().ready(&[]);
    prepare(&container);
    listener(&container, "term", &[], "TERM");
    listener(&container, "int", &["--stop-signal=INT"], "INT");
    deaf(&container, "deaf", &[]);
    container.sh("pkill -KILL -x dockerd");
    assert_eq!(container.wait(), 137);
    container.logged(&["dockerd has left inner containers", "term", "int", "deaf"]);
    assert_eq!(ended_at_once(&container), ["deaf"]);
    container.not_logged(&["did not end in time"]);
    container.docker(&["start"]).exited(0);
    container.wait_ready_times(2);
    let ended = container.sh("cd /var/lib/docker/files; grep -l ended * | xargs");
    assert_eq!(ended.trim(), "int term");
}

/// Nor of one that is killed in the middle of a stop.
#[test]
fn containers_of_a_dockerd_that_dies_in_a_stop_have_their_time() {
    let container = engine().ready(&[]);
    prepare(&container);
    listener(&container, "inner", &[], "TERM");
    // It gets no signal that it could pass on.
    container.sh("pkill -STOP -x dockerd");
    container.signal("TERM");
    container.sh("pkill -KILL -x dockerd");
    assert_eq!(container.wait(), 0);
    container.logged(&["dockerd has left inner containers", "inner"]);
    container.not_logged(&["did not end in time"]);
    container.docker(&["start"]).exited(0);
    container.wait_ready_times(2);
    assert_eq!(
        container.sh("cat /var/lib/docker/files/inner").trim(),
        "ended"
    );
}
