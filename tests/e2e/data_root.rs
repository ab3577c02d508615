//! The data root: one daemon's, and nobody else's.

use crate::docker::{Volume, dind};

const DATA_ROOT: &str = "/var/lib/docker";

/// Two daemons on one data root destroy it. The second one stops before its dockerd has
/// touched anything, and the first goes on; once that is gone, however it went, the data
/// root is free.
#[test]
fn a_data_root_is_never_shared() {
    let volume = Volume::new();
    let first = dind().flags(volume.on(DATA_ROOT)).ready(&[]);
    first.load_busybox();
    let second = dind()
        .flags(volume.on(DATA_ROOT))
        .run(&[])
        .exited(1)
        .says(&[
            "dind: error: ",
            "stop the other container",
            "volume of its own",
            DATA_ROOT,
        ]);
    assert!(!second.stderr.contains("Starting up"), "{}", second.stderr);
    assert_eq!(first.inner(&[], &["echo", "unharmed"]), "unharmed");
    first.docker(&["kill"]).exited(0);
    let third = dind().flags(volume.on(DATA_ROOT)).ready(&[]);
    assert_eq!(third.inner(&[], &["echo", "still there"]), "still there");
}

/// A command's daemon has its data root for itself, too, and a restart gets its own back.
#[test]
fn a_restart_finds_its_data_root_free() {
    let container = dind().ready(&["sleep", "1000"]);
    let other = container.exec(&["flock", "--nonblock", DATA_ROOT, "true"]);
    assert_eq!(other.status, 1, "{other:?}");
    container.docker(&["restart", "--time=1"]).exited(0);
    container.wait_ready_times(2);
}
