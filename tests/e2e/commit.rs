//! Images that `docker commit` makes of a container.

use crate::docker::{BUSYBOX, Container, Image, Spec, dind};

/// Without the volume that the image declares: the data is in the container's layer.
fn without_volume() -> Spec {
    dind()
        .prelude("umount /var/lib/docker")
        .env("DIND_STORAGE_SIZE", "512M")
}

const EXEC_ROOT_IS_OURS: &str = "findmnt --noheadings --output FSTYPE,OPTIONS /run/docker";

#[track_caller]
fn always_runs(container: &Container) {
    container.wait_until("docker inspect --format '{{.State.Running}}' always | grep -q true");
    assert_eq!(
        container.text(&["docker", "exec", "always", "echo", "it runs"]),
        "it runs"
    );
}

#[track_caller]
fn with_container_inside(spec: &Spec) -> Container {
    let container = spec.ready(&[]);
    container.load_busybox();
    let run = "docker run -d --name=always --restart=always";
    container.sh(&format!("{run} {BUSYBOX} sleep 1000000; sync"));
    container
}

/// The state of running containers is in no image. Before, containerd found it in a lower layer,
/// where it cannot be renamed: "failed to create task: …/moby/ID: file exists". An engine that is
/// not PID 1 removes it, and so does one whose exec root has a file of the user's.
#[test]
fn an_engine_from_a_commit_runs_its_containers_again() {
    let own_file = "mkdir -p /run/docker/plugins; touch /run/docker/plugins/own.spec";
    for (spec, is_tmpfs) in [
        (without_volume(), true),
        (without_volume().flags(["--init"]), false),
        (
            dind()
                .prelude(&format!("umount /var/lib/docker; {own_file}"))
                .env("DIND_STORAGE_SIZE", "512M"),
            false,
        ),
    ] {
        let first = with_container_inside(&spec);
        let found = first.exec(&["sh", "-c", EXEC_ROOT_IS_OURS]);
        assert_eq!(found.status == 0, is_tmpfs, "{found:?}");
        assert!(!is_tmpfs || found.stdout.starts_with("tmpfs "), "{found:?}");
        let image = Image::commit(&first);
        drop(first);
        let second = spec.clone().image(&image.0).ready(&[]);
        always_runs(&second);
        // It is as good as any other: it restarts.
        second.docker(&["restart"]).exited(0);
        second.wait_ready_times(2);
        always_runs(&second);
    }
}

/// What the user has in the exec root is not hidden, and is not removed.
#[test]
fn what_is_in_the_exec_root_stays() {
    for own in [
        "mkdir -p /run/docker/plugins; touch /run/docker/plugins/own.spec",
        "mkdir -p /run/docker/plugins /own; touch /own/own.spec; mount --bind /own /run/docker/plugins",
    ] {
        let container = dind().prelude(own).ready(&[]);
        container.sh("test -e /run/docker/plugins/own.spec");
    }
    let inside = dind()
        .env("DOCKER_HOST", "unix:///run/docker/own.sock")
        .ready(&[]);
    inside.text(&["docker", "-H", "unix:///run/docker/own.sock", "version"]);
}
