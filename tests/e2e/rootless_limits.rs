//! Limits of containers inside, where the engine runs in a user namespace.

use crate::docker::{BUSYBOX, Container, ROOTLESS_CAPABILITIES, Spec, dind, line_with, rootless};
use crate::limits::{a_limit_of_memory_holds, limits_hold};

/// What says that limits are not enforced.
const WARNING: &str = "dind: warning: rootless: limits of inner containers are not enforced";

/// What says so in the words of dockerd's, and what it has chosen.
const INFO: &str = "{{.CgroupDriver}} {{.CgroupVersion}} {{.SecurityOptions}}";

/// A container whose `/sys/fs/cgroup` is writable, in which PID 1 has no more than an engine in a user
/// namespace needs: Docker 28 gives one by `--security-opt writable-cgroups=true`, and this way every
/// engine.
fn with_writable_cgroups() -> Spec {
    let capabilities: String = ROOTLESS_CAPABILITIES
        .map(|name| format!(",+{}", name.to_lowercase()))
        .concat();
    dind().flags(["--security-opt=apparmor=unconfined"]).shell(&format!(
        "exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all{capabilities} dind \"$@\""
    ))
}

fn has_version_2(container: &Container) -> bool {
    container.text(&["stat", "-f", "-c", "%T", "/sys/fs/cgroup"]) == "cgroup2fs"
}

/// One warning says it, before docker is ready, and so does the doctor. Containers with limits run.
#[track_caller]
fn warns_once(spec: &Spec, container: &Container) {
    let logs = container.logs();
    let (before, after) = logs
        .split_once("dind: docker is ready after")
        .expect("a line that docker is ready");
    assert_eq!(before.matches(WARNING).count(), 1, "{logs}");
    assert!(!after.contains(WARNING), "{logs}");
    for flag in ["--memory", "--cpus", "--pids-limit"] {
        assert!(line_with(before, &[WARNING, flag]).is_some(), "{logs}");
    }
    let report = spec.run(&["doctor"]);
    let said = WARNING.trim_start_matches("dind: warning: ");
    assert!(report.stdout.contains(said), "{report:?}");
    let info = container.text(&["docker", "info", "--format", INFO]);
    assert!(info.starts_with("none "), "{info}");
    assert!(info.contains("name=rootless"), "{info}");
    container.load_busybox();
    let flags = ["-m", "64m", "--cpus", "0.5", "--pids-limit", "33"];
    assert_eq!(container.inner(&flags, &["echo", "runs"]), "runs");
}

/// On version 2 limits are enforced where the cgroup of the container is writable, and the container
/// keeps its own; on version 1 they are not, and that is said.
#[test]
fn a_writable_cgroup_is_the_engines() {
    let spec = with_writable_cgroups();
    let container = spec.flags(["--pids-limit=500"]).ready(&[]);
    container.logged(&["rootless: the engine runs in a user namespace"]);
    if !has_version_2(&container) {
        warns_once(&with_writable_cgroups(), &container);
        return;
    }
    container.not_logged(&[WARNING]);
    let info = container.text(&["docker", "info", "--format", INFO]);
    assert!(info.starts_with("cgroupfs 2 "), "{info}");
    assert!(!info.contains("name=rootless"), "{info}");
    limits_hold(&container);
    a_limit_of_memory_holds(&container);
    // What comes from outside is beside PID 1, and an inner container is below this one's limit.
    assert_eq!(container.text(&["cat", "/proc/self/cgroup"]), "0::/init");
    assert_eq!(container.text(&["cat", "/sys/fs/cgroup/pids.max"]), "500");
    let refused = container.inner(
        &[
            "--cap-add=ALL",
            "--security-opt=seccomp=unconfined",
            "-v=/sys/fs/cgroup:/outer",
        ],
        &[
            "sh",
            "-c",
            "(echo max >/outer/pids.max) 2>/dev/null && echo done || echo refused",
        ],
    );
    assert_eq!(refused, "refused");
    let build = "printf 'FROM dind-lab/busybox\\nRUN echo built >/file\\n' >/tmp/Dockerfile
        DOCKER_BUILDKIT=$1 docker build -q -f /tmp/Dockerfile -t built /tmp >/dev/null
        docker run --rm built cat /file";
    for buildkit in ["0", "1"] {
        let built = container.text(&["sh", "-c", build, "sh", buildkit]);
        assert_eq!(built, "built", "DOCKER_BUILDKIT={buildkit}");
    }
    // Ports are published outside of the engine's namespaces, too.
    let serve = "mkdir /www; echo page >/www/index.html; exec httpd -f -h /www";
    let words = [
        "docker",
        "run",
        "-d",
        "--name=web",
        "-p",
        "8080:80",
        BUSYBOX,
        "sh",
        "-c",
        serve,
    ];
    container.text(&words);
    container.wait_until(
        "bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080 && printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3 && grep -q page <&3'",
    );
    container.text(&["docker", "rm", "-f", "web"]);
    container.docker(&["restart"]).exited(0);
    container.wait_ready_times(2);
    limits_hold(&container);
}

/// Where it is read-only, as Docker has it without `--privileged`, limits are not enforced.
#[test]
fn limits_that_are_not_enforced_are_warned_of() {
    let container = rootless().ready(&[]);
    let reason = match has_version_2(&container) {
        true => "/sys/fs/cgroup is not writable",
        false => "the host has cgroup ",
    };
    container.logged(&[WARNING, reason]);
    warns_once(&rootless(), &container);
}
