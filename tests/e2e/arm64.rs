//! The binary for arm64, run by qemu's user emulation in the image under test: what it
//! starts is the machine's own, so a real dockerd has it as its PID 1.

use crate::docker::{Spec, dind, lab, line_with, unprivileged};

/// A dind that need not find out which iptables the kernel has: qemu opens no socket of
/// netfilter's, which is how it is asked, so the machine's own binary does that. And one without
/// the program before iptables: dockerd could not execute that for arm64.
fn told_iptables(spec: Spec) -> Spec {
    let plan = dind().run(&["plan"]).text();
    let legacy = line_with(&plan, &["iptables: legacy"]).map_or("", |_| "1");
    spec.env("DOCKER_IPTABLES_LEGACY", legacy)
        .env("DIND_IPTABLES_SHORTCUT", "off")
}

/// `spec` with the binary for arm64, and with what runs it as its entrypoint.
fn arm64(spec: Spec) -> Spec {
    spec.flags([
        "-v".to_owned(),
        format!("{}:/qemu:ro", lab("DIND_LAB_QEMU")),
        "-v".to_owned(),
        format!("{}:/arm64/dind:ro", lab("DIND_LAB_ARM64")),
        "--entrypoint=/qemu".to_owned(),
    ])
}

const ARM64: &str = "/arm64/dind";

/// What it says is what this machine's own says in the same place: a plan and a doctor's
/// findings follow from some forty files of /proc and /sys, read and decided upon.
#[test]
fn it_sees_and_says_what_the_machines_own_does() {
    let [privileged, plain] = [dind(), unprivileged()].map(told_iptables);
    for arguments in [&["--version"][..], &["help"], &["plan"], &["doctor"]] {
        for spec in [&privileged, &plain] {
            // In no network, where each container would have an address of its own.
            let spec = spec.clone().flags(["--hostname=same", "--network=none"]);
            let own = spec.run(arguments);
            let words = [&[ARM64], arguments].concat();
            let other = arm64(spec).run(&words);
            assert_ne!(own.stdout, "", "{own:?}");
            assert_eq!(
                (own.status, own.stdout, own.stderr),
                (other.status, other.stdout, other.stderr)
            );
        }
    }
}

/// It is a whole PID 1: certificates, sockets that were bound first, both daemons, a
/// container, a health check, an orderly end.
#[test]
fn it_is_pid_1_of_a_docker_host() {
    let container = arm64(told_iptables(dind())).ready(&[ARM64]);
    assert_eq!(
        container.sh("tr '\\0' ' ' </proc/1/cmdline"),
        "/qemu /arm64/dind"
    );
    container.load_busybox();
    assert_eq!(
        container.inner(&[], &["echo", "from inside"]),
        "from inside"
    );
    container.text(&["/qemu", ARM64, "health"]);
    container.logged(&["tcp://0.0.0.0:2376 (TLS)"]);
    container.docker(&["stop"]).exited(0);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
}

/// A command's status comes through, and so does a signal's.
#[test]
fn it_runs_a_command_beside_the_daemon() {
    let output = arm64(dind()).run(&[ARM64, "sh", "-c", "docker info >/dev/null && exit 7"]);
    output.exited(7);
    arm64(dind())
        .run(&[ARM64, "sh", "-c", "kill -TERM $$"])
        .exited(143);
}
