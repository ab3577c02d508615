//! The ids of an engine in a user namespace: what it makes of those that there are.

use crate::docker::{
    BUSYBOX, Container, ROOTLESS_CAPABILITIES, ROOTLESS_FLAGS, Spec, dind, lab, rootless,
    unprivileged,
};
use crate::nesting::Images;
use crate::rootless::child;

/// The map of dockerd's user ids, in words.
fn map(container: &Container) -> Vec<String> {
    let pid = child(container, "dockerd");
    let map = container.text(&["cat", &format!("/proc/{pid}/uid_map")]);
    map.split_whitespace().map(str::to_owned).collect()
}

/// The account's range is the one that `/etc/subuid` gives it, and may be small. A user beyond it is
/// refused in docker's words.
#[test]
fn a_range_may_be_small() {
    let spec = rootless().prelude(
        "echo rootless:x:1234:1234::/:/bin/sh >>/etc/passwd
         echo rootless:300000:5000 | tee -a /etc/subuid >>/etc/subgid",
    );
    let container = spec.ready(&[]);
    container.logged(&["the engine runs in a user namespace of rootless with 5001 ids"]);
    assert_eq!(map(&container), ["0", "1234", "1", "1", "300000", "5000"]);
    container.load_busybox();
    assert_eq!(container.inner(&["--user=5000"], &["id", "-u"]), "5000");
    let beyond = container.exec(&["docker", "run", "--rm", "--user=5001", BUSYBOX, "true"]);
    assert_ne!(beyond.status, 0, "{beyond:?}");
    container.text(&["docker", "ps"]);
}

/// An engine in a container of the engine of `outer`, which has the image of [`Images`].
#[track_caller]
fn inside(outer: &Container) {
    outer.text(&["docker", "load", "--quiet", "-i", "/images/dind.tar"]);
    // The profile of the flags, where docker exec is.
    outer.sh("dind seccomp >dind.json");
    let flags = ROOTLESS_FLAGS.concat();
    let capabilities = ROOTLESS_CAPABILITIES.map(|name| format!("--cap-add={name}"));
    let image = lab("DIND_LAB_IMAGE");
    let words = [
        "docker",
        "run",
        "-d",
        "--name=inner",
        "-v=/images:/images",
        "--cap-drop=ALL",
    ];
    let words = words.into_iter().chain(flags);
    let words = words.chain(capabilities.iter().map(String::as_str));
    let words = words.chain(["--security-opt=apparmor=unconfined", &image]);
    outer.text(&words.collect::<Vec<_>>());
    outer.wait_until("docker logs inner 2>&1 | grep -q 'docker is ready after' || [ $(docker inspect -f '{{.State.Running}}' inner) = false ]");
    let logs = outer.sh("docker logs inner 2>&1");
    assert!(logs.contains("docker is ready after"), "{logs}");
}

/// Runs a script in it.
#[track_caller]
fn script(outer: &Container, script: &str) -> String {
    outer.text(&["docker", "exec", "inner", "sh", "-c", script])
}

const RUNS: &str = "docker load -qi /images/busybox.tar >/dev/null
    docker run --rm dind-lab/busybox sh -c 'touch /file; chown 1234 /file; stat -c %u /file'
    docker info -f {{.Driver}}
    cat /proc/$(pgrep -x dockerd)/uid_map | xargs";

/// An engine in a user namespace, in a container of an engine in a user namespace: all ids of that
/// but root's are used.
#[test]
fn an_engine_runs_in_an_engine_without_privileges() {
    let images = Images::new();
    let outer = rootless().flags(images.mounted()).ready(&[]);
    inside(&outer);
    let lines = script(&outer, RUNS);
    assert_eq!(lines, "1234\noverlay2\n0 1000 1 1 1 999 1000 1001 64536");
    // For the kernel it is neither root nor the outer engine's user.
    let pid = outer.sh("pgrep -x dockerd | tail -n 1");
    assert_eq!(
        outer.text(&["stat", "-c", "%u", &format!("/proc/{pid}")]),
        "100999"
    );
    outer.docker(&["stop"]).exited(0);
    assert_eq!(outer.inspect("{{.State.ExitCode}}"), "0");
}

/// The same in a container of an engine with `--userns-remap`.
#[test]
fn an_engine_runs_in_a_remapped_container() {
    let images = Images::new();
    let outer: Spec = dind().flags(images.mounted());
    let outer = outer
        .prelude("chmod 666 /dev/net/tun")
        .ready(&["--userns-remap=default"]);
    inside(&outer);
    let lines = script(&outer, RUNS);
    assert_eq!(lines, "1234\noverlay2\n0 1000 1 1 1 999 1000 1001 64535");
}

/// A user whom the platform has chosen, and whom nobody has given anything: what an administrator must
/// do is said, and by the doctor.
#[test]
fn an_arbitrary_user_with_nothing_is_told_what_an_administrator_must_do() {
    let spec = unprivileged()
        .flags(ROOTLESS_FLAGS.into_iter().flatten())
        .flags(["--user", "1000660000:0", "--security-opt=no-new-privileges"])
        .env("DIND_ROOTLESS", "1");
    let parts = [
        "user 1000660000 is not in /etc/passwd, and /etc/subuid gives it no range of ids",
        "an administrator must let it run as root",
        "1000660000:100000:65536 into /etc/subuid and /etc/subgid",
    ];
    let refused = spec.run(&[]).exited(1);
    refused
        .says(&parts)
        .says(&["dind: error: no engine can run in a user namespace here"]);
    let report = spec.run(&["doctor"]).exited(1);
    assert!(
        parts.iter().all(|part| report.stdout.contains(part)),
        "{report:?}"
    );
}

/// With fewer ids than that there is no engine: root of a container that has but one.
#[test]
fn too_few_ids_are_refused() {
    let spec = dind().shell(
        "unshare --user --map-root-user --mount-proc --pid --fork true
         exec unshare --user --map-root-user --keep-caps setpriv --bounding-set=-sys_admin --inh-caps=-all dind \"$@\"",
    );
    let refused = spec.env("DIND_ROOTLESS", "1").run(&[]).exited(1);
    refused.says(&[
        "/proc/self/uid_map has too few ids for another user namespace",
        "give it 65536 ids: a larger range for the engine outside",
    ]);
}
