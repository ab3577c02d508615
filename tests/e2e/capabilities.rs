//! A container that is privileged but for one capability: what cannot be is said before, and is
//! what happens.

use crate::docker::{BUSYBOX, Spec, all, line_with, unprivileged};

/// The image under test with all that `--privileged` gives, without these capabilities.
fn without(capabilities: &[&str]) -> Spec {
    let dropped = capabilities.iter().map(|name| format!("--cap-drop={name}"));
    unprivileged()
        .flags([
            "--cap-add=ALL",
            "--security-opt=seccomp=unconfined",
            "--security-opt=apparmor=unconfined",
            "--security-opt=systempaths=unconfined",
            "--device-cgroup-rule=a *:* rwm",
        ])
        .flags(dropped)
        .env("DOCKER_TLS_CERTDIR", "")
}

/// dockerd would end, and its reason would not name the capability: nothing is started.
#[test]
fn without_what_dockerd_needs_there_is_one_line() {
    for name in ["NET_ADMIN", "DAC_OVERRIDE", "CHOWN"] {
        let flag = format!("--cap-add {name}");
        let seen = format!("this container has no CAP_{name}, so no daemon can run in it");
        let output = without(&[name]).run(&[]).exited(1);
        let lines: Vec<&str> = output.stderr.lines().collect();
        let [line] = lines[..] else {
            panic!("one line is wanted without {name}: {lines:?}");
        };
        assert!(line.starts_with("dind: error: "), "{line}");
        assert!(line.contains(&seen) && line.contains(&flag), "{line}");
        let doctor = without(&[name]).run(&["doctor"]).exited(1);
        assert!(
            line_with(&doctor.stdout, &["error: ", &seen, &flag]).is_some(),
            "{doctor:?}"
        );
    }
}

/// So it is: as the command of `hack-dind`, which is not judged, dockerd ends.
#[test]
fn dockerd_does_not_start_without_them() {
    for name in ["NET_ADMIN", "DAC_OVERRIDE"] {
        // As PID 1, timeout of coreutils 9.7 starts nothing.
        let output = without(&[name])
            .shell("timeout 60 dind hack-dind dockerd; exit $?")
            .run(&[]);
        assert_ne!(output.status, 0, "{name}");
        assert_ne!(output.status, 124, "{name}: dockerd runs");
        let reason = line_with(&output.stderr, &["failed to start daemon"]);
        let reason = reason.map(str::to_lowercase).unwrap_or_default();
        assert!(reason.contains("permission denied"), "{name}: {output:?}");
    }
}

/// Docker is ready, and containers do not start: that is said by the start, by the doctor and by
/// the health check, and so it is.
#[test]
fn without_what_containers_get_docker_is_not_healthy() {
    let defaults = [
        "NET_RAW",
        "MKNOD",
        "SETUID",
        "SETGID",
        "FSETID",
        "FOWNER",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ];
    // Each takes a start; `--all` has the time.
    let tried = match all() {
        true => &defaults[..],
        false => &defaults[..4],
    };
    for name in tried {
        let container = without(&[name]).ready(&[]);
        let seen = format!("this container has no CAP_{name}, so no inner container starts");
        let flag = format!("--cap-add {name}");
        container.logged(&["dind: error: ", &seen, &flag]);
        container.exec(&["dind", "health"]).exited(1).says(&[
            "dind: error: not healthy: ",
            &seen,
            &flag,
        ]);
        // Whoever may ask.
        container
            .exec_call(
                &["--user", "1000:docker"],
                &["dind", "health", "--wait", "1"],
            )
            .finish()
            .exited(1)
            .says(&[&seen]);
        let doctor = container.exec(&["dind", "doctor"]).exited(1);
        assert!(
            line_with(&doctor.stdout, &["error: ", &seen, &flag]).is_some(),
            "{doctor:?}"
        );
        container.load_busybox();
        let run = |flags: &[&str]| {
            let words = ["docker", "run", "--rm"].iter().chain(flags).copied();
            let words: Vec<&str> = words.chain([BUSYBOX, "true"]).collect();
            container.exec(&words)
        };
        let output = run(&[]).says(&["operation not permitted"]);
        assert_ne!(output.status, 0, "{name}");
        // Without SETGID runc cannot even start one that has no capability.
        let alone = run(&["--cap-drop=ALL"]);
        assert_eq!(alone.status == 0, *name != "SETGID", "{name}: {alone:?}");
    }
}

/// With all of them nothing is said; nor of a container with few that looks at another's socket.
#[test]
fn with_all_of_them_docker_is_healthy() {
    let container = without(&[]).ready(&[]);
    container.load_busybox();
    container.inner(&[], &["true"]);
    container.exec(&["dind", "health"]).exited(0);
    container.not_logged(&["no CAP_"]);
    let sharing = without(&[]).flags(["-v", "/var/run"]).ready(&[]);
    let from = format!("--volumes-from={}", sharing.name);
    unprivileged()
        .flags([from.as_str(), "--cap-drop=ALL"])
        .run(&["health"])
        .exited(0);
}
