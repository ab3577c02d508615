//! The user's hooks: `/etc/dind/{pre-start,post-start,pre-stop}.d`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::docker::{Scratch, Spec, dind, lab, line_with, nestable};

/// A container that has these hooks: a stage, a name, a shell script.
fn with(hooks: &[(&str, &str, &str)]) -> Spec {
    let mut script = String::from(
        "hook() { mkdir -p /etc/dind/$1.d; f=/etc/dind/$1.d/$2; { echo '#!/bin/sh'; cat; } >$f; chmod +x $f; }\n",
    );
    for (stage, name, hook) in hooks {
        script.push_str(&format!("hook {stage} {name} <<'END'\n{hook}\nEND\n"));
    }
    dind().prelude(&script)
}

/// Each has its time: before there is a daemon, when docker works and is not yet said to be
/// ready, and before it goes. In order, with their output in the log.
#[test]
fn hooks_run_at_their_times_in_order() {
    let container = with(&[
        (
            "pre-start",
            "20-second",
            "echo first was here: $(cat /tmp/order) >&2",
        ),
        (
            "pre-start",
            "10-first",
            "echo first >>/tmp/order; pgrep -x dockerd || echo no dockerd yet >&2",
        ),
        (
            "post-start",
            "10-docker",
            "docker version -f 'server answers: {{.Server.Version}}' >&2; dind health || echo not yet healthy >&2",
        ),
        (
            "pre-stop",
            "10-docker",
            "docker info >/dev/null && echo docker still works >&2",
        ),
    ])
    // Not for the hooks, nor for the daemon.
    .env("DOCKER_HOST", "tcp://127.0.0.1:1")
    .ready(&["dockerd"]);
    container.exec(&["dind", "health"]).exited(0);
    container.docker(&["stop"]).exited(0);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
    container.logged_in_order(&[
        "dind: hook /etc/dind/pre-start.d/10-first",
        "no dockerd yet",
        "dind: hook /etc/dind/pre-start.d/20-second",
        "first was here: first",
        "dind: hook /etc/dind/post-start.d/10-docker",
        "server answers: ",
        "not healthy: images are being loaded, or post-start hooks are running",
        "not yet healthy",
        "dind: docker is ready after",
        "dind: hook /etc/dind/pre-stop.d/10-docker",
        "docker still works",
        "Daemon shutdown complete",
    ]);
}

/// Whoever waits for docker waits for them too.
#[test]
fn health_waits_for_post_start_hooks() {
    let container = with(&[(
        "post-start",
        "gate",
        "echo waiting; while ! [ -e /tmp/go ]; do sleep 0.1; done; touch /tmp/gone",
    )])
    .start(&[]);
    container.wait_log("waiting", 1);
    container.exec(&["docker", "info"]).exited(0);
    container
        .exec(&["dind", "health", "--wait", "1"])
        .exited(1)
        .says(&["not healthy", "post-start hooks"]);
    container.sh(
        "dind health --wait 120 & waiting=$!; touch /tmp/go; wait $waiting && [ -e /tmp/gone ]",
    );
    container.wait_ready();
}

/// What one before the start has fetched is loaded, before those after the start.
#[test]
fn a_hook_may_fetch_images() {
    let container = with(&[
        (
            "pre-start",
            "fetch",
            "mkdir -p /var/lib/dind/images && cp /busybox.tar /var/lib/dind/images",
        ),
        (
            "post-start",
            "use",
            "docker run --rm dind-lab/busybox echo it is there",
        ),
    ])
    .flags([
        "-v".to_owned(),
        format!("{}:/busybox.tar:ro", lab("DIND_LAB_BUSYBOX")),
    ])
    .ready(&[]);
    container.logged(&["dind: loaded dind-lab/busybox", "busybox.tar"]);
    container.logged(&["it is there"]);
}

/// A pre-start hook that fails ends the container with its name and its status; no other
/// hook runs, and no daemon.
#[test]
fn a_pre_start_hook_that_fails_stops() {
    let hooks = [
        ("pre-start", "10-fails", "echo the reason; exit 7"),
        ("pre-start", "20-next", "echo another"),
        ("pre-stop", "10-leave", "echo leave"),
    ];
    let container = with(&hooks).start(&[]);
    assert_eq!(container.wait(), 7);
    container.logged(&["the reason"]);
    container.logged(&["dind: error: hook /etc/dind/pre-start.d/10-fails exited with status 7"]);
    for never in ["20-next", "10-leave", "docker is ready"] {
        container.not_logged(&[never]);
    }
    // Also where its output is in a file, of which the end is shown.
    let output = with(&hooks).env("LOG", "file").run(&["true"]).exited(7);
    output.says(&["| the reason"]);
    // And one that cannot even begin, with a shell's status for that.
    dind()
        .prelude(
            "mkdir -p /etc/dind/pre-start.d; f=/etc/dind/pre-start.d/odd; \
             echo '#!/no/such/shell' >$f; chmod +x $f",
        )
        .run(&["true"])
        .exited(127)
        .says(&["cannot run /etc/dind/pre-start.d/odd", "interpreter"]);
}

/// One that fails later is named, and the others run.
#[test]
fn later_hooks_that_fail_are_named() {
    let output = with(&[
        ("post-start", "10-fails", "exit 3"),
        ("post-start", "20-next", "echo next"),
        ("pre-stop", "10-killed", "kill -9 $$"),
        ("pre-stop", "20-last", "echo last"),
    ])
    .run(&["sh", "-c", "exit 5"])
    .exited(5);
    for parts in [
        &["error: hook /etc/dind/post-start.d/10-fails exited with status 3"][..],
        &["next"],
        &["docker is ready"],
        &["error: hook /etc/dind/pre-stop.d/10-killed was ended by SIGKILL"],
        &["last"],
    ] {
        assert!(line_with(&output.stderr, parts).is_some(), "{output:?}");
    }
    // Standard output is the command's alone.
    assert_eq!(output.stdout, "");
}

/// One that does not end is ended, with what it has started.
#[test]
fn a_hook_has_its_time() {
    let container = with(&[
        (
            "post-start",
            "endless",
            "trap '' TERM; sleep 100003 & echo begun; wait; wait; while :; do sleep 1; done",
        ),
        (
            "post-start",
            "polite",
            "(trap '' TERM; exec sleep 100003) & trap 'exit 0' TERM; wait",
        ),
    ])
    .env("DIND_HOOK_TIMEOUT", "1")
    .ready(&[]);
    container.logged(&[
        "dind: error: hook /etc/dind/post-start.d/endless did not end within 1 s and was killed",
        "DIND_HOOK_TIMEOUT",
    ]);
    container.logged(&["hook /etc/dind/post-start.d/polite did not end within"]);
    container.wait_until("! pgrep -f '[e]ndless|sleep 10000[3]'");
}

/// What a hook leaves running lives on, and can still write to the log.
#[test]
fn a_hook_may_leave_something_running() {
    let container = with(&[(
        "post-start",
        "leaves",
        "{ while ! [ -e /tmp/go ]; do sleep 0.1; done; echo still here; } & exit 0",
    )])
    .ready(&[]);
    container.sh("touch /tmp/go");
    container.wait_log("still here", 1);
}

/// A stop does not wait for a start.
#[test]
fn a_stop_ends_the_hook_that_runs() {
    for stage in ["pre-start", "post-start"] {
        let container = with(&[(
            stage,
            "endless",
            "trap 'echo told; exit 0' TERM; echo begun; while :; do sleep 0.1; done",
        )])
        .start(&[]);
        container.wait_log("begun", 1);
        container.docker(&["stop"]).exited(0);
        assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
        container.logged(&["told"]);
        container.logged(&["endless was terminated because the container stops"]);
    }
}

/// In a stop they have a part of its time, and no more.
#[test]
fn a_pre_stop_hook_does_not_hold_up_a_stop() {
    let container = with(&[(
        "pre-stop",
        "endless",
        "trap '' TERM; echo begun; while :; do sleep 0.1; done",
    )])
    .ready(&[]);
    container.docker(&["stop"]).exited(0);
    // 137 is what the outer engine's SIGKILL would leave.
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
    container.logged(&["the pre-stop hook runner did not end in time and is sent SIGTERM"]);
    container
        .logged(&["hook /etc/dind/pre-stop.d/endless was terminated because the container stops"]);
    container.not_logged(&["is killed"]);
    container.logged(&["Daemon shutdown complete"]);
}

/// A hook runner that somebody kills is named, and the stop goes on.
#[test]
fn a_pre_stop_hook_runner_that_is_killed_is_named() {
    let container =
        with(&[("pre-stop", "endless", "echo $PPID >/runner; sleep infinity")]).ready(&[]);
    container.signal("TERM");
    container.wait_until("[ -s /runner ]");
    container.sh("kill -KILL $(cat /runner)");
    assert_eq!(container.wait(), 0);
    container.logged(&[
        "dind: error: the pre-stop hook runner was ended by SIGKILL",
        "memory limit",
    ]);
    container.not_logged(&["did not end in time"]);
    container.logged(&["Daemon shutdown complete"]);
}

/// In a nest they are part of each level's root file system.
#[test]
fn every_level_of_a_nest_has_its_hooks() {
    let scratch = Scratch::new();
    for stage in ["post-start", "pre-stop"] {
        let directory = scratch.path.join(format!("dind/{stage}.d"));
        fs::create_dir_all(&directory).expect("a directory in /tmp");
        let hook = directory.join("says");
        fs::write(&hook, format!("#!/bin/sh\necho {stage} on $(hostname)\n")).expect("a hook");
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    let container = nestable().create(&["nest", "2", "--", "sh", "-c", "exit 6"]);
    container.copy_in(&scratch.path.join("dind"), "/etc/dind");
    container.docker(&["start"]).exited(0);
    assert_eq!(container.wait(), 6);
    for stage in ["post-start", "pre-stop"] {
        container.wait_log(&format!("{stage} on "), 2);
        container.logged(&[&format!("{stage} on dind-2")]);
    }
}

/// The plan has them; what lies there and is no hook is said; and a directory that cannot be
/// read is no start without.
#[test]
fn hooks_are_in_the_plan() {
    let hooks = [("pre-start", "10-a", "true"), ("pre-stop", "10-b", "true")];
    let plan = with(&hooks).run(&["plan"]).exited(0).stdout;
    for line in [
        "hook: pre-start /etc/dind/pre-start.d/10-a, within 60 s",
        "hook: pre-stop /etc/dind/pre-stop.d/10-b, within 60 s",
    ] {
        assert!(plan.lines().any(|known| known == line), "{plan}");
    }
    dind()
        .prelude("mkdir -p /etc/dind/post-start.d; touch /etc/dind/post-start.d/forgotten")
        .run(&["true"])
        .exited(0)
        .says(&[
            "warning: /etc/dind/post-start.d/forgotten is not executable",
            "chmod +x",
        ]);
    dind()
        .prelude("mkdir -p /etc/dind; touch /etc/dind/pre-start.d")
        .run(&["true"])
        .exited(1)
        .says(&[
            "cannot read the hooks in /etc/dind/pre-start.d",
            "Not a directory",
        ]);
}
