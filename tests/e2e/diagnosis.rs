//! A start that fails, whatever it is that ended: what is wrong with the container follows.

use crate::docker::{Container, Spec, dind, docker, line_with, unique_name};

/// A start that is to fail, with a volume for the data.
fn failing(spec: Spec, command: &[&str]) -> Container {
    let container = spec.flags(["-v", "/var/lib/docker"]).start(command);
    assert_ne!(container.wait(), 0, "{}", container.logs());
    container
}

/// Fails unless the lines with these parts follow one another in the log.
#[track_caller]
fn in_order(logs: &str, lines: &[&[&str]]) {
    let mut rest = logs;
    for parts in lines {
        let line = line_with(rest, parts);
        let line = line.unwrap_or_else(|| panic!("no line with {parts:?} in the rest of {logs}"));
        let (_, after) = rest.split_once(line).expect("the line is there");
        rest = after;
    }
}

/// A containerd that ends is followed by the same as a dockerd: its last lines where they are in a
/// file, and the findings.
#[test]
fn a_containerd_that_fails_is_followed_by_the_findings() {
    let broken = || {
        dind()
            .prelude(
                "printf '#!/bin/sh\necho the reason of containerd >&2\nexit 3\n' >/usr/local/sbin/containerd
                 chmod 0755 /usr/local/sbin/containerd",
            )
            .flags(["--pids-limit", "200"])
            .env("DOCKER_TLS_CERTDIR", "")
    };
    let ended = &[
        "dind: error: containerd exited with status 3 before docker was ready",
        "dind plan",
    ][..];
    let finding = &["dind: warning: ", "allows 200 processes", "https://"][..];
    for command in [&[][..], &["sleep", "infinity"]] {
        let container = failing(broken(), command);
        assert_eq!(container.wait(), 3);
        in_order(
            &container.logs(),
            &[&["the reason of containerd"], ended, finding],
        );
    }
    let container = failing(broken().env("LOG", "file"), &["sleep", "infinity"]);
    let shown = &["dind: error: | the reason of containerd"][..];
    in_order(&container.logs(), &[ended, shown, finding]);
}

/// So is one that cannot be executed, and helpers that cannot do their part.
#[test]
fn whatever_ends_a_start_is_followed_by_the_findings() {
    let finding = &["dind: warning: ", "allows 200 processes"][..];
    let few = || dind().flags(["--pids-limit", "200"]);
    let not_executable = few().prelude(
        "printf 'no program' >/usr/local/sbin/containerd; chmod 0755 /usr/local/sbin/containerd",
    );
    let not_an_image = few()
        .prelude("mkdir /images; echo no archive >/images/broken.tar")
        .env("DIND_IMAGES", "/images")
        .env("DIND_IMAGES_STRICT", "1");
    let no_certificate = few().prelude("touch /certs/server");
    let killed_hook = few().prelude(
        "mkdir -p /etc/dind/pre-start.d
         printf '#!/bin/sh\nkill -9 $PPID\n' >/etc/dind/pre-start.d/10-kill
         chmod 0755 /etc/dind/pre-start.d/10-kill",
    );
    for (spec, reason) in [
        (
            not_executable,
            &["dind: error: ", "/usr/local/sbin/containerd"][..],
        ),
        (not_an_image, &["dind: error: ", "/images/broken.tar"]),
        (no_certificate, &["dind: error: ", "/certs/server"]),
        (
            killed_hook,
            &["dind: error: the pre-start hook runner was ended by SIGKILL"],
        ),
    ] {
        let logs = failing(spec, &[]).logs();
        in_order(&logs, &[reason, finding]);
        assert_eq!(logs.matches("allows 200 processes").count(), 1, "{logs}");
    }
}

/// A shell on a terminal opens all the same, and does not wait for a dockerd that waits for
/// containerd.
#[test]
fn a_shell_opens_where_containerd_has_failed() {
    let spec = dind()
        .prelude("printf '#!/bin/sh\nexit 3\n' >/usr/local/sbin/containerd; chmod 0755 /usr/local/sbin/containerd")
        .flags(["--tty"])
        .env("DOCKER_TLS_CERTDIR", "");
    let container = spec.start(&[
        "sh",
        "-c",
        "while pgrep -x dockerd; do sleep 0.1; done; echo alone",
    ]);
    assert_eq!(container.wait(), 0);
    let logs = container.logs();
    in_order(
        &logs,
        &[
            &["containerd exited with status 3 before docker was ready"],
            &["alone"],
        ],
    );
}

/// Too few processes for the daemons: the limit is named, by the doctor before and by the start.
#[test]
fn too_low_a_limit_of_processes_is_named() {
    let limited = |limit: &str| dind().flags(["--pids-limit", limit]);
    let doctor = limited("40").run(&["doctor"]).exited(1);
    let seen = &["error: ", "allows 40 processes and threads", "--pids-limit"][..];
    assert!(line_with(&doctor.stdout, seen).is_some(), "{doctor:?}");
    // With so few one of the daemons ends, or cannot be forked.
    let container = failing(limited("9"), &[]);
    let logs = container.logs();
    let named = [
        &[
            "dind: error: ",
            "allows 9 processes and threads",
            "were refused",
            "--pids-limit",
        ][..],
        &["dind: error: cannot fork ", "pids limit"],
    ];
    assert!(
        named.iter().any(|parts| line_with(&logs, parts).is_some()),
        "{logs}"
    );
}

/// A full /run, of bytes or of inodes.
#[test]
fn a_full_run_is_named() {
    let with = |options: &str| dind().flags(["--tmpfs".to_owned(), format!("/run:{options}")]);
    let bytes = ["/run", " KiB left", "--tmpfs /run:size="];
    let inodes = ["/run", " inodes left", "--tmpfs /run:size="];
    for (options, parts) in [("size=64k", &bytes), ("size=1m,nr_inodes=40", &inodes)] {
        let doctor = with(options).run(&["doctor"]).exited(1);
        let parts = [&["error: "][..], parts].concat();
        assert!(line_with(&doctor.stdout, &parts).is_some(), "{doctor:?}");
    }
    for (options, parts) in [("size=4k", &bytes), ("size=1m,nr_inodes=12", &inodes)] {
        let container = failing(with(options).env("DOCKER_TLS_CERTDIR", ""), &[]);
        container.logged(&[&["dind: error: "][..], parts].concat());
    }
    let plenty = with("size=64m").run(&["doctor"]).exited(0);
    assert!(
        line_with(&plenty.stdout, &["/run", " left"]).is_none(),
        "{plenty:?}"
    );
}

/// A volume that is mounted read-only: nothing is started.
#[test]
fn a_read_only_data_root_is_named() {
    let volume = unique_name();
    docker(["volume", "create", &volume]).exited(0);
    let spec = dind().flags(["-v".to_owned(), format!("{volume}:/var/lib/docker:ro")]);
    let (start, doctor) = (spec.run(&[]), spec.run(&["doctor"]));
    docker(["volume", "rm", &volume]).exited(0);
    let seen = ["error: /var/lib/docker is on a file system that is mounted read-only"];
    start.exited(1).says(&seen);
    let doctor = doctor.exited(1);
    assert!(line_with(&doctor.stdout, &seen).is_some(), "{doctor:?}");
}
