//! What the user puts below a mount point of a start stays in sight: see `dind plan`.

use crate::docker::{dind, line_with};

/// A socket, the data and the pid file below /tmp, which then gets no tmpfs.
#[test]
fn what_is_below_tmp_stays_in_sight() {
    let socket = dind()
        .env("DOCKER_HOST", "unix:///tmp/x/docker.sock")
        .ready(&["sleep", "infinity"]);
    socket.text(&["docker", "-H", "unix:///tmp/x/docker.sock", "version"]);
    socket.exec(&["dind", "health"]).exited(0);
    let data = dind().flags(["-e", "DOCKER_TLS_CERTDIR="]).ready(&[
        "--data-root",
        "/tmp/data",
        "--storage-driver",
        "vfs",
    ]);
    data.load_busybox();
    assert_eq!(data.inner(&[], &["echo", "inside"]), "inside");
    data.docker(&["restart"]).exited(0);
    data.wait_ready_times(2);
    // The data outlives a tmpfs.
    assert_eq!(data.inner(&[], &["echo", "again"]), "again");
    for container in [&socket, &data] {
        let kept = container.sh("awk '$2 == \"/tmp\"' /proc/mounts");
        assert_eq!(kept, "");
    }
    data.logged(&[
        "dind: no tmpfs is mounted on /tmp",
        "the data root /tmp/data",
    ]);
    // The plan says the same, of the socket before it is there, and an ordinary start has its tmpfs.
    let plan = dind().env("DOCKER_HOST", "unix:///tmp/x/docker.sock");
    let plan = plan.run(&["plan"]).text();
    let note = [
        "note: no tmpfs is mounted on /tmp",
        "the socket /tmp/x/docker.sock",
    ];
    assert!(line_with(&plan, &note).is_some(), "{plan}");
    let plan = dind().run(&["plan", "--data-root", "/tmp/data"]).text();
    let note = [
        "note: no tmpfs is mounted on /tmp",
        "the data root /tmp/data",
    ];
    assert!(line_with(&plan, &note).is_some(), "{plan}");
    let plan = dind().run(&["plan"]).text();
    assert!(
        line_with(&plan, &["step: mount -t tmpfs", " /tmp"]).is_some(),
        "{plan}"
    );
}

/// An exec root with the socket in it gets no tmpfs.
#[test]
fn the_socket_in_an_exec_root_stays_in_sight() {
    let socket = "unix:///srv/engine/docker.sock";
    let container = dind()
        .env("DOCKER_HOST", socket)
        .ready(&["--exec-root", "/srv/engine"]);
    container.text(&["docker", "-H", socket, "version"]);
    container.exec(&["dind", "health"]).exited(0);
    // It is there before anything is mounted, and the plan knows of it before it is.
    let kept = container.sh("awk '$2 == \"/srv/engine\"' /proc/mounts");
    assert_eq!(kept, "");
    let plan = dind().env("DOCKER_HOST", socket);
    let plan = plan.run(&["plan", "--exec-root", "/srv/engine"]).text();
    let note = [
        "note: no tmpfs is mounted on /srv/engine",
        "the socket /srv/engine/docker.sock",
    ];
    assert!(line_with(&plan, &note).is_some(), "{plan}");
}

/// A socket in the data root: nothing is mounted there, by itself or where it is asked for.
#[test]
fn the_socket_in_a_data_root_stays_in_sight() {
    let socket = "unix:///var/lib/docker/docker.sock";
    let spec = dind().env("DOCKER_HOST", socket);
    let container = spec.ready(&["sleep", "infinity"]);
    container.text(&["docker", "-H", socket, "version"]);
    for storage in ["tmpfs", "loop"] {
        let output = spec
            .clone()
            .env("DIND_STORAGE", storage)
            .run(&["sleep", "1"]);
        output
            .exited(1)
            .says(&["would hide the socket /var/lib/docker/docker.sock"]);
    }
}
