//! dockerd's two image stores: that of graph drivers, and containerd's. Docker 20.10 has only the
//! first, and ignores the feature that asks for the other.

use crate::docker::{Container, Spec, Volume, dind};

const DATA_ROOT: &str = "/var/lib/docker";
const NO_VOLUME: &str = "umount /var/lib/docker";

/// Neither a volume nor an ext4 image, nor fuse-overlayfs.
const OVERLAY_ONLY: &str =
    "umount /var/lib/docker; cd /dev; rm loop-control fuse; mkdir loop-control";

const FEATURE: &str = r#"{"features": {"containerd-snapshotter": true}}"#;

/// dockerd with this daemon.json, after a script.
fn with(json: &str, prelude: &str) -> Spec {
    dind().prelude(&format!(
        "mkdir -p /etc/docker; echo '{json}' >/etc/docker/daemon.json; {prelude}"
    ))
}

/// dockerd with containerd's image store, after a script.
fn with_feature(prelude: &str) -> Spec {
    with(FEATURE, prelude)
}

/// dockerd with graph drivers.
fn with_graph_drivers() -> Spec {
    with(&FEATURE.replace("true", "false"), "true")
}

#[track_caller]
fn driver(container: &Container) -> String {
    container.text(&["docker", "info", "--format", "{{.Driver}}"])
}

/// Whether this dockerd has containerd's image store.
fn has_containerds_store(container: &Container) -> bool {
    container.sh("grep -c containerd-snapshotter $(command -v dockerd) || true") != "0"
}

/// The driver with which every image is a full copy.
fn full_copies(container: &Container) -> &'static str {
    match has_containerds_store(container) {
        true => "native",
        false => "vfs",
    }
}

#[track_caller]
fn runs(container: &Container) {
    container.load_busybox();
    assert_eq!(container.inner(&[], &["echo", "it runs"]), "it runs");
}

#[test]
fn containers_run_where_overlayfs_cannot_be() {
    let container = with_feature(OVERLAY_ONLY).ready(&[]);
    let expected = full_copies(&container);
    assert_eq!(driver(&container), expected);
    container.logged(&[
        "dind: warning: ",
        "/dev/loop-control cannot be opened",
        &format!("WITH {} EVERY IMAGE", expected.to_uppercase()),
    ]);
    runs(&container);
    // What is there is used again.
    container.docker(&["restart"]).exited(0);
    container.wait_ready_times(2);
    assert_eq!(container.inner(&[], &["echo", "again"]), "again");
}

#[test]
fn an_image_that_fails_leaves_a_store_in_which_containers_run() {
    let broken = "printf '#!/bin/sh\\nexit 9\\n' >/usr/local/sbin/mkfs.ext4; \
                  chmod +x /usr/local/sbin/mkfs.ext4";
    let container = with_feature(&format!("{NO_VOLUME}; {broken}")).ready(&[]);
    container.logged(&["dind: warning: the data root has no ext4 image; going on without"]);
    assert_eq!(driver(&container), full_copies(&container));
    runs(&container);
}

#[test]
fn a_chosen_storage_has_its_name_in_containerds_store() {
    let container = with_feature("true").env("DIND_STORAGE", "vfs").ready(&[]);
    let expected = full_copies(&container);
    assert_eq!(driver(&container), expected);
    container.logged(&[&format!(
        "dind: storage: {expected}, since DIND_STORAGE=vfs is set"
    )]);
    runs(&container);
    if has_containerds_store(&container) {
        with_feature("true")
            .env("DIND_STORAGE", "fuse-overlayfs")
            .run(&[])
            .exited(2)
            .says(&["DIND_STORAGE=fuse-overlayfs is not possible"]);
    }
    let none = with_feature(NO_VOLUME).env("DIND_STORAGE", "none");
    let follows = match has_containerds_store(&container) {
        true => "NO CONTAINER CAN RUN",
        false => "slower storage driver",
    };
    none.ready(&[])
        .logged(&["dind: warning: ", "is on overlay", follows]);
}

/// GitLab's documents set the variable for every job, and so for every service.
#[test]
fn a_graph_driver_does_not_reach_containerds_store() {
    let container = with_feature("true")
        .env("DOCKER_DRIVER", "overlay2")
        .ready(&[]);
    if has_containerds_store(&container) {
        assert_eq!(driver(&container), "overlayfs");
        container.logged(&[
            "dind: warning: DOCKER_DRIVER=overlay2 names a graph driver",
            "dockerd does not get the variable",
        ]);
        with_feature("true")
            .env("DOCKER_DAEMON_ARGS", "--storage-driver=overlay2")
            .run(&[])
            .exited(2)
            .says(&[
                "\"overlay2\" is a graph driver",
                "so no container could run",
            ]);
    } else {
        assert_eq!(driver(&container), "overlay2");
        container.not_logged(&["dockerd does not get the variable"]);
    }
    runs(&container);
    let usual = with_graph_drivers()
        .env("DOCKER_DRIVER", "overlay2")
        .ready(&[]);
    assert_eq!(driver(&usual), "overlay2");
    usual.not_logged(&["dockerd does not get the variable"]);
}

/// A volume that goes from one store to the other and back.
#[test]
fn images_in_the_other_store_are_named() {
    let volume = Volume::new();
    let graph = with_graph_drivers().flags(volume.on(DATA_ROOT)).ready(&[]);
    graph.load_busybox();
    graph.not_logged(&["does not show them"]);
    let switches = has_containerds_store(&graph);
    drop(graph);
    let containerd = with_feature("true").flags(volume.on(DATA_ROOT)).ready(&[]);
    if !switches {
        containerd.not_logged(&["does not show them"]);
        return stays_with_graph_drivers(&containerd);
    }
    let hidden = "images and containers of the graph driver overlay2";
    containerd.logged(&["dind: warning: ", hidden, "uses containerd's image store"]);
    assert_eq!(containerd.text(&["docker", "images", "-q"]), "");
    runs(&containerd);
    let found = containerd.exec(&["dind", "doctor"]);
    assert!(found.stdout.contains(hidden), "{}", found.stdout);
    drop(containerd);
    let graph = with_graph_drivers().flags(volume.on(DATA_ROOT)).ready(&[]);
    stays_with_graph_drivers(&graph);
    graph.logged(&[
        "dind: warning: ",
        "images and containers of containerd's image store (snapshotter overlayfs)",
        "uses graph drivers",
    ]);
}

#[track_caller]
fn stays_with_graph_drivers(container: &Container) {
    assert_eq!(driver(container), "overlay2");
    assert_eq!(container.inner(&[], &["echo", "there"]), "there");
}

/// In the version that this containerd wants, and without the plugin for Kubernetes.
#[test]
fn containerd_has_nothing_against_its_configuration() {
    let container = dind().ready(&[]);
    for words in [
        "migrated from version",
        "config version",
        "configuration version",
    ] {
        container.not_logged(&[words]);
    }
    let plugins =
        container.sh("ctr --address /var/run/docker/containerd/containerd.sock plugins ls");
    let works = |name: &str| {
        plugins
            .lines()
            .any(|line| line.contains(name) && line.trim_end().ends_with("ok"))
    };
    assert!(works("overlayfs"), "{plugins}");
    assert!(!works("cri"), "{plugins}");
}
