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
            "another volume",
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

/// What of a volume there is.
fn content(volume: &Volume) -> String {
    dind()
        .flags(["--entrypoint", "find"])
        .flags(volume.on("/volume"))
        .run(&["/volume", "-mindepth", "1"])
        .text()
}

/// `DIND_EPHEMERAL=1` empties the data root at the end, and nothing else: neither what the
/// user has mounted below it nor what a link in it leads to.
#[test]
fn an_ephemeral_data_root_is_empty_at_the_end() {
    let [volume, kept, outside] = [Volume::new(), Volume::new(), Volume::new()];
    let container = dind()
        .env("DIND_EPHEMERAL", "1")
        .flags(volume.on(DATA_ROOT))
        .flags(kept.on("/var/lib/docker/volumes/kept"))
        .flags(outside.on("/outside"))
        .ready(&["sh", "-c", "until [ -e /end ]; do sleep 0.1; done; exit 5"]);
    container.load_busybox();
    container.inner(&["-d", "--init", "-v", "/data"], &["sleep", "1000"]);
    container.sh("touch /outside/file /var/lib/docker/volumes/kept/file");
    container.sh(
        "ln -s /outside /var/lib/docker/link; mkdir \"/var/lib/docker/$(printf 'a\\tb\\377')\"",
    );
    container.sh("mkfifo /var/lib/docker/fifo; mkdir -m 0 /var/lib/docker/closed");
    container.sh("touch /end");
    assert_eq!(container.wait(), 5);
    container.logged(&[
        "/var/lib/docker is empty except for 1 files that cannot be removed, among them kept",
    ]);
    assert_eq!(content(&volume), "/volume/volumes\n/volume/volumes/kept");
    assert_eq!(content(&kept), "/volume/file");
    assert_eq!(content(&outside), "/volume/file");
}

/// So it is after a stop, and when the daemons could not unmount what they had mounted.
#[test]
fn an_ephemeral_data_root_is_empty_however_the_daemons_ended() {
    let volume = Volume::new();
    let ephemeral = dind()
        .env("DIND_EPHEMERAL", "1")
        .flags(volume.on(DATA_ROOT));
    let stopped = ephemeral.ready(&[]);
    stopped.load_busybox();
    stopped.docker(&["stop"]).exited(0);
    stopped.logged(&["/var/lib/docker is empty, as DIND_EPHEMERAL asks"]);
    assert_eq!(content(&volume), "");
    drop(stopped);
    let killed = ephemeral.ready(&["sleep", "1000"]);
    killed.load_busybox();
    killed.inner(&["-d"], &["sleep", "1000"]);
    killed.sh("pkill -KILL -x 'dockerd|containerd'");
    killed.docker(&["stop"]).exited(0);
    killed.logged(&["/var/lib/docker is empty, as DIND_EPHEMERAL asks"]);
    assert_eq!(content(&volume), "");
}

/// However deep the tree is that a container has left, and however few files may be open.
#[test]
fn an_ephemeral_data_root_may_be_deeper_than_the_limit_of_open_files() {
    let volume = Volume::new();
    let container = dind()
        .env("DIND_EPHEMERAL", "1")
        .flags(volume.on(DATA_ROOT))
        .ready(&["sh", "-c", "until [ -e /end ]; do sleep 0.1; done"]);
    container.sh(r#"perl -e '
            chdir "/var/lib/docker" or die $!;
            my $name = "d" x 200;
            for (1 .. 2500) {
                mkdir $name or die $!;
                chdir $name or die $!;
                open my $file, ">", "file" or die $!;
            }'
           prlimit --pid 1 --nofile=64:64"#);
    container.sh("touch /end");
    assert_eq!(container.wait(), 0);
    container.logged(&["/var/lib/docker is empty, as DIND_EPHEMERAL asks"]);
    assert_eq!(content(&volume), "");
}
