//! The second start of a container, and the twentieth, and the one after a crash.

use std::path::Path;

use crate::docker::{BUSYBOX, Container, Scratch, all, dind};

/// Every mount but those that the engine inside makes for itself.
fn mounts(container: &Container) -> Vec<String> {
    let table = container.text(&["cat", "/proc/self/mountinfo"]);
    let mut mounts: Vec<String> = table
        .lines()
        .map(|line| {
            let (mount, filesystem) = line.split_once(" - ").expect("a mountinfo line");
            let target = mount.split(' ').nth(4).expect("a mount point");
            let kind = filesystem.split(' ').next().expect("a type");
            format!("{target} {kind}")
        })
        .filter(|mount| {
            !mount.starts_with("/run/docker/") && !mount.starts_with("/var/lib/docker/")
        })
        .collect();
    mounts.sort();
    mounts
}

/// A container with one inside that is stopped, and one that always runs.
fn with_containers_inside() -> Container {
    let container = dind().ready(&[]);
    container.load_busybox();
    container.text(&[
        "docker",
        "run",
        "--name",
        "kept",
        BUSYBOX,
        "sh",
        "-c",
        "echo written >>/file",
    ]);
    container.text(&[
        "docker",
        "run",
        "-d",
        "--name",
        "always",
        "--restart=always",
        BUSYBOX,
        "sh",
        "-c",
        "trap 'exit 0' TERM; while :; do sleep 0.1; done",
    ]);
    container
}

#[track_caller]
fn everything_is_still_there(container: &Container) {
    let listed = container.text(&["docker", "ps", "-a", "--format", "{{.Names}}"]);
    let mut listed: Vec<&str> = listed.lines().collect();
    listed.sort_unstable();
    assert_eq!(listed, ["always", "kept"]);
    container.wait_until("docker inspect --format '{{.State.Running}}' always | grep -q true");
    container.text(&["docker", "image", "inspect", BUSYBOX]);
}

/// Restarts change nothing, twenty by `tests/lab test --all`: no mount is added or lost, containers
/// and images are still there, and no file of an earlier start is in the way.
#[test]
fn restarts_change_nothing() {
    let container = with_containers_inside();
    let first = mounts(&container);
    assert!(
        first
            .iter()
            .any(|mount| mount.starts_with("/sys/fs/cgroup ")),
        "{first:?}"
    );
    assert!(first.contains(&"/tmp tmpfs".to_owned()), "{first:?}");
    let restarts = if all() { 20 } else { 5 };
    for times in 2..=1 + restarts {
        container.docker(&["restart"]).exited(0);
        container.wait_ready_times(times);
        assert_eq!(mounts(&container), first, "after restart {}", times - 1);
        everything_is_still_there(&container);
    }
    container.text(&["docker", "start", "kept"]);
    container.text(&["docker", "wait", "kept"]);
    container.text(&["docker", "cp", "kept:/file", "/file"]);
    assert_eq!(container.text(&["cat", "/file"]), "written\nwritten");
}

/// After a kill -9 the pid files and sockets of the dead daemons do not stop the new
/// ones, even where the numbers in them are those of living processes.
#[test]
fn a_start_after_a_crash_is_as_any_other() {
    let container = with_containers_inside();
    let first = mounts(&container);
    let scratch = Scratch::new();
    // There is always a process 1.
    let pid_file = scratch.file("docker.pid", "1");
    for times in 2..=4 {
        container.signal("KILL");
        assert_eq!(container.wait(), 137);
        for path in [
            "/run/docker.pid",
            "/run/containerd.pid",
            "/run/DOCKER-old.pid",
        ] {
            container.copy_in(&pid_file, path);
        }
        container.docker(&["start"]).exited(0);
        container.wait_ready_times(times);
        assert_eq!(mounts(&container), first);
        everything_is_still_there(&container);
        let pid = container.text(&["cat", "/run/docker.pid"]);
        assert_eq!(
            pid,
            container.text(&["pgrep", "-x", "dockerd"]),
            "a new pid file"
        );
        container
            .exec(&["test", "-e", "/run/DOCKER-old.pid"])
            .exited(1);
    }
}

/// A socket that a dead daemon left behind is replaced.
#[test]
fn a_stale_socket_is_replaced() {
    let container = dind()
        .prelude("if [ -S /var/run/docker.sock ]; then echo a socket was there; fi")
        .ready(&[]);
    container.not_logged(&["a socket was there"]);
    container.signal("KILL");
    assert_eq!(container.wait(), 137);
    container.docker(&["start"]).exited(0);
    container.wait_ready_times(2);
    container.logged(&["a socket was there"]);
    container.text(&["docker", "version"]);
    assert_eq!(
        container.text(&["stat", "-c", "%a %U:%G", "/var/run/docker.sock"]),
        "660 root:docker"
    );
}

/// What is in the place of the socket and is no socket is the user's, and stays.
#[test]
fn a_file_in_the_place_of_the_socket_stays() {
    let scratch = Scratch::new();
    let file = scratch.file("docker.sock", "precious");
    let container = dind().create(&[]);
    container.copy_in(Path::new(&file), "/run/docker.sock");
    container.docker(&["start"]).exited(0);
    assert_eq!(container.wait(), 1);
    container.logged(&["dind: error:", "/var/run/docker.sock", "not a socket"]);
    let back = scratch.path.join("back");
    container.copy_out("/run/docker.sock", &back);
    assert!(std::fs::read_to_string(back).is_ok_and(|text| text == "precious"));
}
