//! What holds the data of an engine in a user namespace.

use crate::docker::{BUSYBOX, Container, Spec, Volume, docker, lab, rootless, unprivileged};
use crate::storage::{has_containerds_store, uses};

/// The data root of docker:dind-rootless.
const USERS: &str = "/home/rootless/.local/share/docker";

/// A data root on the container's own overlay.
const ON_OVERLAY: &str = "--data-root=/data";

/// An image is used by a container, and a build makes another.
#[track_caller]
fn works(container: &Container) {
    container.load_busybox();
    assert_eq!(container.inner(&[], &["echo", "hi"]), "hi");
    let built = container.sh(
        "printf 'FROM dind-lab/busybox\\nRUN rm /bin/sh && echo built >/file\\n' >/tmp/Dockerfile
         DOCKER_BUILDKIT=0 docker build -q -f /tmp/Dockerfile -t built /tmp >/dev/null
         docker run --rm built cat /file; docker run --rm built ls /bin/sh 2>/dev/null || echo removed",
    );
    assert_eq!(built, "built\nremoved");
}

/// On a volume it is overlay2, whose layers have the attributes that an ordinary user may set.
#[test]
fn a_volume_holds_overlay2() {
    let container = rootless().ready(&[]);
    uses(&container, "overlay2");
    works(&container);
    container.text(&[
        "docker",
        "run",
        "-d",
        "--name=kept",
        BUSYBOX,
        "sleep",
        "1000",
    ]);
    let mounts =
        container.sh("cat /proc/$(pgrep -x dockerd)/mounts | grep '^overlay /var/lib/docker'");
    assert!(mounts.contains("userxattr"), "{mounts}");
}

/// Without a volume it is fuse-overlayfs where there is its device, whatever its mode is.
#[test]
fn an_overlay_holds_fuse_overlayfs() {
    let container = rootless()
        .flags(["--device=/dev/fuse"])
        .ready(&[ON_OVERLAY]);
    // containerd's image store has no such snapshotter.
    let words = match has_containerds_store(&container) {
        true => "IS A FULL COPY",
        false => "slower",
    };
    container.logged(&["dind: warning: ", "/data is on overlay", words]);
    container.logged(&["a user namespace has no loop devices"]);
    uses(&container, "fuse-overlayfs");
    works(&container);
}

/// Else each image is a full copy, and a warning says so.
#[test]
fn an_overlay_without_a_device_holds_full_copies() {
    let container = rootless().ready(&[ON_OVERLAY]);
    container.logged(&["dind: warning: ", "/data is on overlay", "IS A FULL COPY"]);
    uses(&container, "vfs");
    works(&container);
}

/// A new file system has a directory of root's, and Kubernetes' fsGroup a mode that only the owner may
/// change: neither is in the way.
#[test]
fn a_volume_may_be_new_or_writable_by_a_group() {
    for made in [
        "mkdir -m 700 /v/lost+found",
        "chown 1000:2000 /v; chmod 2770 /v",
    ] {
        let volume = Volume::new();
        let spec = unprivileged().flags(volume.on("/v")).shell(made);
        spec.run(&[]).exited(0);
        let container = rootless().flags(volume.on("/var/lib/docker")).ready(&[]);
        works(&container);
    }
}

/// A tmpfs is mounted where the engine is; an ext4 image cannot be, and its request is refused.
#[test]
fn a_tmpfs_can_be_asked_for_and_an_image_cannot() {
    let container = rootless().env("DIND_STORAGE", "tmpfs").ready(&[]);
    uses(&container, "overlay2");
    works(&container);
    let refused = rootless()
        .env("DIND_STORAGE", "loop")
        .run(&["true"])
        .exited(1);
    refused.says(&[
        "dind: error: DIND_STORAGE=loop is not possible: a user namespace has no loop devices",
    ]);
}

/// The owners of all files of the data, but for those that a daemon makes anew.
fn owners(volume: &Volume) -> String {
    let words = ["run", "--rm", "--entrypoint", "sh", "-v"];
    let mount = format!("{}:/data", volume.name());
    let script = "cd /data && find image overlay2 volumes -printf '%U:%G %#m %y %p\\n' | grep -v '/link$' | sort";
    docker(
        words
            .into_iter()
            .chain([mount.as_str(), &lab("DIND_LAB_IMAGE"), "-c", script]),
    )
    .text()
}

/// Fails if a file has gone or has another owner or mode; there may be more.
#[track_caller]
fn all_are_in(before: &str, after: &str) {
    let after: std::collections::HashSet<&str> = after.lines().collect();
    let lost: Vec<&str> = before
        .lines()
        .filter(|line| !after.contains(line))
        .collect();
    assert!(lost.is_empty(), "{lost:#?}");
}

/// An engine that has a container with files of two users, in its layer and in a volume.
const MAKE: &str = "docker run --name=$1 -v $1:/volume dind-lab/busybox sh -c '
    echo root >/mine; echo user >/theirs; chown 1234:2345 /theirs
    echo volume >/volume/file; chown 4321 /volume/file; chmod 640 /volume/file'";

/// What is in the containers of these names.
const SHOW: &str = "for name; do docker start -a $name
    docker cp $name:/theirs - | tar -tv --numeric-owner | cut -d' ' -f2
    docker run --rm -v $name:/volume dind-lab/busybox stat -c '%u:%g %a' /volume/file; done";

/// As user 1000: a device of the host's mode is opened first, as hosts with udev have it.
fn as_the_user(image: &str, volume: &Volume, entrypoint: &str) -> Spec {
    unprivileged()
        .image(image)
        .flags(["--privileged", "--user=0"])
        .flags(volume.on(USERS))
        .env("HOME", "/home/rootless")
        .shell(&format!(
            "chmod 666 /dev/net/tun
             chown rootless /home/rootless/.local/share/docker
             cd; exec setpriv --reuid=rootless --regid=rootless --clear-groups {entrypoint} \"$@\""
        ))
}

/// The recipe of docker:dind-rootless, this program as that user, and this program as root with few
/// capabilities use one volume in turn. No file changes its owner.
#[test]
fn a_volume_goes_back_and_forth_between_this_and_docker_dind_rootless() {
    let volume = Volume::new();
    let peer = || as_the_user(&lab("DIND_LAB_ROOTLESS_PEER"), &volume, "peer-entrypoint");
    let socket = ["-e", "DOCKER_HOST=unix:///run/user/1000/docker.sock"];
    let user = || {
        let own = as_the_user(&lab("DIND_LAB_ROOTLESS"), &volume, "dind");
        own.flags(socket)
    };
    // A container of 20.10 keeps the path of its volumes.
    let version = unprivileged().run(&["dockerd", "--version"]).text();
    let is_old = version.contains(" 20.10.");
    let root = || match is_old {
        true => rootless()
            .flags(volume.on(USERS))
            .env("DOCKER_DAEMON_ARGS", &format!("--data-root={USERS}")),
        false => rootless().flags(volume.on("/var/lib/docker")),
    };
    let expected = |names: &[&str]| {
        names
            .iter()
            .map(|_| "1234/2345\n4321:0 640\n")
            .collect::<String>()
    };
    let mut names = Vec::new();
    let mut before = String::new();
    let engines: [(&str, &dyn Fn() -> Spec); 5] = [
        ("peer", &peer),
        ("user", &user),
        ("peer-again", &peer),
        ("root", &root),
        ("peer-at-last", &peer),
    ];
    for (name, engine) in engines {
        let spec = engine();
        let spec = match name.starts_with("peer") {
            true => spec.flags(socket),
            false => spec,
        };
        let container = spec.start(&[]);
        container.wait_until("docker version >/dev/null 2>&1");
        uses(&container, "overlay2");
        if before.is_empty() {
            container.load_busybox();
        }
        container.text(&[&["sh", "-c", SHOW, "show"], &names[..]].concat());
        let shown = container.text(&[&["sh", "-c", SHOW, "show"], &names[..]].concat());
        assert_eq!(shown, expected(&names).trim_end(), "{name}");
        container.text(&["sh", "-c", MAKE, "make", name]);
        names.push(name);
        container.docker(&["stop"]).exited(0);
        drop(container);
        let after = owners(&volume);
        all_are_in(&before, &after);
        before = after;
    }
}
