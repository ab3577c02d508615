//! What holds the data where overlay2 cannot be on the data root.

use crate::docker::{Container, Image, Spec, Volume, dind};

const DATA_ROOT: &str = "/var/lib/docker";
const IMAGE: &str = "/var/lib/dind/data-root.ext4";

/// Without the volume that the image declares: the data root is on the container's overlay.
const NO_VOLUME: &str = "umount /var/lib/docker";

/// Leaves a container with a file.
const KEEP: &str = "docker run --name=kept dind-lab/busybox sh -c 'echo kept >/file; sync'";

fn without_volume() -> Spec {
    dind().prelude(NO_VOLUME)
}

#[track_caller]
fn driver(container: &Container) -> String {
    container.text(&["docker", "info", "--format", "{{.Driver}}"])
}

/// Whether dockerd of this suite uses containerd's image store.
pub fn has_containerds_store(container: &Container) -> bool {
    let status = container.text(&["docker", "info", "--format", "{{.DriverStatus}}"]);
    status.contains("io.containerd.snapshotter")
}

/// Fails unless dockerd uses this graph driver, or what stands for it in containerd's image store:
/// there is nothing between the best and full copies.
#[track_caller]
pub fn uses(container: &Container, graph_driver: &str) {
    let expected = match (has_containerds_store(container), graph_driver) {
        (false, driver) => driver,
        (true, "overlay2") => "overlayfs",
        (true, _) => "native",
    };
    assert_eq!(driver(container), expected);
}

/// An image takes the place of the volume, and what is in it is there again after a
/// restart, also one that nobody was asked about.
#[test]
fn without_a_volume_an_image_holds_the_data() {
    let container = without_volume().ready(&[]);
    container.logged(&[
        "dind: storage: an ext4 image of",
        IMAGE,
        "/var/lib/docker is on overlay, which overlay2 cannot use",
    ]);
    uses(&container, "overlay2");
    container.load_busybox();
    container.sh(KEEP);
    assert_eq!(
        container.text(&["findmnt", "--noheadings", "--output", "FSTYPE", DATA_ROOT]),
        "ext4"
    );
    for (end, starts) in [("restart", 2), ("kill", 3)] {
        container.docker(&[end]).exited(0);
        if end == "kill" {
            container.docker(&["start"]).exited(0);
        }
        container.wait_ready_times(starts);
        let script = "docker cp kept:/file - | tar xO; stat -c %b /var/lib/dind/*";
        let found = container.sh(script);
        assert!(found.starts_with("kept\n"), "{found}");
    }
    container.logged(&["storage: the ext4 image at", "an earlier start made it"]);
}

/// Whether this host lets an image grow, by CAP_SYS_RESOURCE.
#[track_caller]
fn grows(container: &Container) -> bool {
    let script = "capabilities=$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status)
        echo $((0x$capabilities >> 24 & 1))";
    container.sh(script) == "1"
}

/// Sparse: it takes what is used, and gives back what is removed.
#[test]
fn an_image_takes_what_is_used() {
    let container = without_volume().env("DIND_STORAGE_SIZE", "3G").ready(&[]);
    let apparent = format!("stat -c %s {IMAGE}");
    let first: u64 = if grows(&container) {
        184 << 20
    } else {
        3 << 30
    };
    assert_eq!(container.sh(&apparent), first.to_string());
    let used = || -> u64 {
        let mib = container.sh(&format!("sync -f {DATA_ROOT}; du -m {IMAGE} | cut -f1"));
        mib.parse().unwrap_or_else(|_| panic!("du printed {mib:?}"))
    };
    let empty = used();
    assert!(empty < 100, "{empty} MiB");
    container.sh("head -c 300M /dev/zero >/var/lib/docker/large");
    assert!(used() >= empty + 300);
    container.sh("rm /var/lib/docker/large");
    // The kernel discards when it has time.
    container.wait_until(&format!(
        "sync -f {DATA_ROOT}; [ $(du -m {IMAGE} | cut -f1) -lt {} ]",
        empty + 200
    ));
}

/// It begins small, so that an image that `docker commit` makes of the container is small, too. It
/// grows before it is full, also where more is written than it has, and neither SIGKILL nor a
/// commit harms it.
#[test]
#[ignore = "needs CAP_SYS_RESOURCE, which CI may lack; tests/lab vm-test has it"]
fn an_image_grows_as_it_fills() {
    const CHECK: &str = "if [ -e /check ]; then flock $IMAGE e2fsck -fn $IMAGE >&2; fi";
    let check = CHECK.replace("$IMAGE", IMAGE);
    let spec = dind()
        .prelude(&format!("{NO_VOLUME}; {check}"))
        .env("DIND_STORAGE_SIZE", "5G");
    let container = spec.ready(&[]);
    container.logged(&["an ext4 image of 184 MiB", "which grows to 5120 MiB"]);
    let idle = Image::commit(&container);
    let size = idle.layer_size();
    assert!(
        size <= 200_000_000,
        "a commit of an idle engine has {size} bytes"
    );
    container.load_busybox();
    container.sh(KEEP);
    let fill = ["dd", "if=/dev/zero", "of=/file", "bs=1M", "count=1500"];
    container.inner(&[], &fill);
    container.logged(&["dind: /var/lib/dind/data-root.ext4 has grown to"]);
    // In the middle of growing.
    container.sh("docker run -d --name=fills dind-lab/busybox dd if=/dev/zero of=/file bs=1M");
    container.docker(&["kill"]).exited(0);
    container.docker(&["start"]).exited(0);
    container.wait_ready_times(2);
    assert_eq!(container.sh("docker cp kept:/file - | tar xO"), "kept");
    container.sh("docker rm -f fills; touch /check");
    container.docker(&["restart"]).exited(0);
    container.wait_ready_times(3);
    assert_eq!(container.sh("docker cp kept:/file - | tar xO"), "kept");
    let other = spec.image(&idle.0).ready(&[]);
    assert_eq!(driver(&other), "overlay2");
    other.load_busybox();
    other.inner(&[], &fill);
}

/// What is asked for is what holds the data, on a volume too.
#[test]
fn storage_can_be_chosen() {
    let stores = dind().ready(&[]);
    let refused = has_containerds_store(&stores);
    drop(stores);
    for (storage, expected, filesystem) in [
        ("loop", "overlay2", "ext2/ext3"),
        ("tmpfs", "overlay2", "tmpfs"),
        ("vfs", "vfs", ""),
        ("fuse-overlayfs", "fuse-overlayfs", ""),
    ] {
        let spec = dind()
            .env("DIND_STORAGE", storage)
            .env("DIND_STORAGE_SIZE", "512M");
        if refused && storage == "fuse-overlayfs" {
            let words = "DIND_STORAGE=fuse-overlayfs is not possible";
            spec.run(&[]).exited(2).says(&[words]);
            continue;
        }
        let container = spec.ready(&[]);
        uses(&container, expected);
        let asks = format!("since DIND_STORAGE={storage} is set");
        container.logged(&["dind: storage: ", &asks]);
        container.load_busybox();
        assert_eq!(container.inner(&[], &["echo", "it runs"]), "it runs");
        if !filesystem.is_empty() {
            let found = container.sh(&format!("stat -f -c %T {DATA_ROOT}"));
            assert_eq!(found, filesystem);
            let mib = container.sh(&format!("df -m --output=size {DATA_ROOT} | tail -1"));
            let mib: u64 = mib.trim().parse().unwrap_or_default();
            assert!((400..=512).contains(&mib), "{storage}: {mib} MiB");
        }
    }
}

/// Where there are no loop devices the next best takes their place, and it is said.
#[test]
fn without_loop_devices_another_driver_is_taken() {
    for (closed, expected, words) in [
        ("/dev/loop-control", "fuse-overlayfs", "is slower"),
        ("/dev/loop-control /dev/fuse", "vfs", "FULL COPY"),
    ] {
        let container = dind()
            .prelude(&format!("{NO_VOLUME}; rm {closed}; mkdir {closed}"))
            .ready(&[]);
        uses(&container, expected);
        let words = match has_containerds_store(&container) {
            true => "FULL COPY",
            false => words,
        };
        container.logged(&[
            "dind: warning: ",
            "/dev/loop-control cannot be opened",
            words,
            "docker run -v NAME:/var/lib/docker",
        ]);
        container.load_busybox();
        assert_eq!(container.inner(&[], &["echo", "it runs"]), "it runs");
    }
}

/// The kernel loads its module for who opens the control device, so that this may be
/// missing, and every loop device with it.
#[test]
fn loop_devices_are_made_where_they_are_missing() {
    let container = dind()
        .prelude(&format!("{NO_VOLUME}; rm /dev/loop*"))
        .ready(&[]);
    uses(&container, "overlay2");
    container.logged(&["dind: storage: an ext4 image of"]);
}

/// In the machine of `tests/lab vm-test`: this kernel may not have these.
#[test]
#[ignore = "needs a kernel with the old format of xfs; tests/lab vm-test has one"]
fn xfs_without_types_has_an_image() {
    let prelude = format!(
        "truncate -s 2G /volume.img
         mkfs.xfs -q -m crc=0,finobt=0,rmapbt=0,reflink=0 -n ftype=0 /volume.img >&2
         rm -f /dev/loop*; mknod /dev/loop-control c 10 237
         for number in $(seq 0 15); do mknod /dev/loop$number b 7 $number; done
         {NO_VOLUME}; mount -o loop /volume.img {DATA_ROOT}"
    );
    let container = dind().prelude(&prelude).ready(&[]);
    container.logged(&["dind: storage: an ext4 image", "is on xfs without ftype"]);
    uses(&container, "overlay2");
    container.load_busybox();
    assert_eq!(container.inner(&[], &["echo", "it runs"]), "it runs");
}

/// The kernel's NFS server, with /export as its root, for everybody whose address differs
/// from its own in the last number only. Nobody answers the kernel's questions, so the answers
/// are there before it asks: whose address is which client's, what /export is for them, and
/// which path has number 0 (rpc-cache.rst of the kernel, nfsd(7)). The options are those of
/// linux/nfsd/export.h: async, no_subtree_check, fsid. The threads end with the container,
/// since the last mount of nfsd goes with it (`nfsd_umount` in fs/nfsd/nfsctl.c).
const NFS_SERVER: &str = r#"
    set -e
    mount -t nfsd nfsd /mnt
    # Version 3 would want rpcbind, and opening a file waits for the end of the grace period.
    echo -3 >/mnt/versions
    echo 10 >/mnt/nfsv4gracetime
    own=$(hostname -i)
    cd /proc/net/rpc
    for number in {1..254}; do
        echo "nfsd ${own%.*}.$number 2147483647 all" >auth.unix.ip/channel
    done
    echo "all /export 2147483647 $((0x10 | 0x400 | 0x2000)) 65534 65534 0" >nfsd.export/channel
    echo 'all 1 \x00000000 2147483647 /export' >nfsd.fh/channel
    echo 'tcp 2049' >/mnt/portlist
    echo 2 >/mnt/threads
    echo 'the NFS server is ready'
    exec sleep infinity"#;

/// A container that exports a volume. Clients wait for it at their end, so it is dropped after them.
pub struct NfsServer {
    pub container: Container,
    address: String,
}

impl NfsServer {
    #[track_caller]
    pub fn new(volume: &Volume) -> Self {
        let server = dind().flags(volume.on("/export")).shell(NFS_SERVER);
        let container = server.start(&[]);
        container.wait_log("the NFS server is ready", 1);
        let address = container.text(&["hostname", "-i"]);
        Self { container, address }
    }

    /// A command that mounts it on `target`, without mount.nfs, which would find `addr` out.
    pub fn mount(&self, target: &str) -> String {
        let Self { address, .. } = self;
        format!("mount -i -t nfs4 -o vers=4.2,addr={address} {address}:/ {target}")
    }
}

/// On NFS the image is on the server. It outlives the client, and the next one waits until
/// this one is gone.
#[test]
#[ignore = "needs a kernel with NFS, server and client; tests/lab vm-test has one"]
fn nfs_has_an_image() {
    let volume = Volume::new();
    let server = NfsServer::new(&volume);
    let spec = dind().prelude(&format!("{NO_VOLUME}; {}", server.mount(DATA_ROOT)));
    let first = spec.ready(&[]);
    first.logged(&[
        "dind: storage: an ext4 image of",
        "/var/lib/docker/dind.ext4, since /var/lib/docker is on nfs, which overlay2 cannot use",
    ]);
    assert_eq!(driver(&first), "overlay2");
    first.load_busybox();
    assert_eq!(first.inner(&[], &["echo", "it runs"]), "it runs");
    assert_eq!(server.container.sh("ls -A /export"), "dind.ext4");
    first.sh(KEEP);
    let second = spec.start(&[]);
    second.wait_log(
        "waiting for /var/lib/docker/dind.ext4, which another container has mounted",
        1,
    );
    first.docker(&["kill"]).exited(0);
    second.wait_ready();
    second.logged(&["storage: the ext4 image at", "an earlier start made it"]);
    assert_eq!(second.sh("docker cp kept:/file - | tar xO"), "kept");
}

/// An image that cannot be made is no reason to have no daemon.
#[test]
fn an_image_that_fails_is_gone_without() {
    let broken = "printf '#!/bin/sh\\necho no room >&2; exit 9\\n' >/usr/local/sbin/mkfs.ext4; \
                  chmod +x /usr/local/sbin/mkfs.ext4";
    let container = dind().prelude(&format!("{NO_VOLUME}; {broken}")).ready(&[]);
    container.logged(&["dind: warning: /usr/local/sbin/mkfs.ext4: no room"]);
    container.logged(&["dind: error: /usr/local/sbin/mkfs.ext4", "failed"]);
    container.logged(&["dind: warning: the data root has no ext4 image; going on without"]);
    let driver = driver(&container);
    assert!(!driver.starts_with("overlay"), "{driver}");
    container.load_busybox();
    assert_eq!(container.inner(&[], &["echo", "it runs"]), "it runs");
    // Whoever asked for it wants no other.
    dind()
        .prelude(broken)
        .env("DIND_STORAGE", "loop")
        .run(&[])
        .exited(1)
        .says(&["dind: error: /usr/local/sbin/mkfs.ext4", "failed"]);
}

/// Data that is there is never hidden, and an image is never made anew.
#[test]
fn data_that_is_there_stays() {
    let container = dind()
        .prelude(&format!(
            "{NO_VOLUME}; if [ -e /vfs ]; then unset DIND_STORAGE; fi; touch /vfs"
        ))
        .env("DIND_STORAGE", "vfs")
        .ready(&[]);
    container.load_busybox();
    container.docker(&["restart"]).exited(0);
    container.wait_ready_times(2);
    let words = match has_containerds_store(&container) {
        true => "WITH NATIVE EVERY IMAGE",
        false => "dockerd keeps the storage driver of that data",
    };
    container.logged(&["dind: warning: ", "and it has data", words]);
    uses(&container, "vfs");
    assert_eq!(
        container.inner(&[], &["echo", "still there"]),
        "still there"
    );
    let volume = Volume::new();
    let vfs = dind()
        .env("DIND_STORAGE", "vfs")
        .flags(volume.on(DATA_ROOT))
        .ready(&[]);
    vfs.load_busybox();
    drop(vfs);
    for storage in ["loop", "tmpfs"] {
        dind()
            .env("DIND_STORAGE", storage)
            .flags(volume.on(DATA_ROOT))
            .run(&[])
            .exited(1)
            .says(&["would hide the data in /var/lib/docker"]);
    }
    let garbage = Volume::new();
    let spec = dind().flags(garbage.on(DATA_ROOT));
    spec.clone()
        .prelude("echo precious >/var/lib/docker/dind.ext4")
        .run(&[])
        .exited(1)
        .says(&["cannot mount /var/lib/docker/dind.ext4", "fsck.ext4"]);
    let kept = spec.shell("cat /var/lib/docker/dind.ext4").run(&[]);
    assert_eq!(kept.text(), "precious");
}

/// An image on a volume is one container's at a time, and the next one has it as soon as
/// the kernel has let go of it, however the first one ended.
#[test]
fn an_image_on_a_volume_goes_from_container_to_container() {
    let volume = Volume::new();
    let spec = dind()
        .env("DIND_STORAGE", "loop")
        .env("DIND_STORAGE_SIZE", "1G")
        .flags(volume.on(DATA_ROOT));
    let first = spec.ready(&[]);
    first.load_busybox();
    first.inner(&["-d"], &["sleep", "1000"]);
    first.sh(KEEP);
    spec.run(&[]).exited(1).says(&["the data root is in use"]);
    first.docker(&["kill"]).exited(0);
    // The variable is not needed again.
    let second = dind().flags(volume.on(DATA_ROOT)).ready(&[]);
    assert_eq!(second.sh("docker cp kept:/file - | tar xO"), "kept");
}

/// `DIND_EPHEMERAL=1` leaves no image.
#[test]
fn an_ephemeral_image_goes() {
    let volume = Volume::new();
    let container = dind()
        .env("DIND_EPHEMERAL", "1")
        .env("DIND_STORAGE", "loop")
        .flags(volume.on(DATA_ROOT))
        .ready(&[]);
    container.load_busybox();
    container.docker(&["stop"]).exited(0);
    container.logged(&["/var/lib/docker is empty, as DIND_EPHEMERAL asks"]);
    let left = dind().flags(volume.on("/volume")).shell("ls -A /volume");
    assert_eq!(left.run(&[]).text(), "");
}

/// The file systems of the table in the README that can be had here, as a volume.
#[test]
fn every_file_system_has_a_driver() {
    let block = |mkfs: &str| {
        format!(
            "truncate -s 2G /volume.img; {mkfs} /volume.img >&2
             {NO_VOLUME}; mount -o loop /volume.img {DATA_ROOT}"
        )
    };
    let fuse = format!(
        "{NO_VOLUME}; mkdir -p /l /u /w
         mount -t tmpfs tmpfs /u; mkdir /u/u /u/w
         fuse-overlayfs -o lowerdir=/l,upperdir=/u/u,workdir=/u/w {DATA_ROOT}"
    );
    let tmpfs = format!("{NO_VOLUME}; mount -t tmpfs tmpfs {DATA_ROOT}");
    for (prelude, image) in [
        (block("mkfs.ext4 -q"), false),
        (block("mkfs.xfs -q"), false),
        (block("mkfs.btrfs -q"), false),
        (tmpfs, false),
        (fuse, true),
    ] {
        let container = dind().prelude(&prelude).ready(&[]);
        let has_image = container.sh(&format!(
            "findmnt -n -o SOURCE,FSTYPE {DATA_ROOT} | tail -1"
        ));
        let plan = container.logs();
        assert_eq!(
            plan.contains("dind: storage: an ext4 image"),
            image,
            "{has_image}"
        );
        // dockerd 20.10 prefers its own driver for btrfs.
        let driver = driver(&container);
        assert!(
            matches!(driver.as_str(), "overlay2" | "overlayfs" | "btrfs"),
            "{prelude}: {driver}"
        );
        container.load_busybox();
        assert_eq!(container.inner(&[], &["echo", "it runs"]), "it runs");
    }
}

/// The plan shows it, and does nothing.
#[test]
fn the_plan_shows_the_image() {
    let output = without_volume().run(&["plan"]);
    let text = output.text();
    assert!(text.contains("\nnote: storage: an ext4 image of"), "{text}");
    assert!(text.contains("\nprepare: truncate -s"), "{text}");
    let left = dind().shell(&format!(
        "{NO_VOLUME}; dind plan >/dev/null; ls -A /var/lib/docker; ls -d /var/lib/dind || echo nothing"
    ));
    assert_eq!(left.run(&[]).text(), "nothing");
}
