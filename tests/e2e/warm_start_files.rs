//! Stores in one file, and the engines that begin with them.

use std::path::Path;

use crate::docker::{
    BUSYBOX, Call, Container, Image, Output, Scratch, Spec, Volume, dind, docker, lab, nestable,
    privileges, unique_name,
};
use crate::storage::NfsServer;

/// Builds an image whose layers have all that overlayfs marks: a whiteout, an opaque directory, a hard
/// link, owners and modes, a hole. A step that is built again has another content.
const BUILD: &str = "printf 'FROM dind-lab/busybox\nRUN cat /proc/sys/kernel/random/uuid >/when && ln /when /hard\n\
    RUN rm /bin/wget && rm -r /var && mkdir /var && chown 70000:6 /when && chmod 4711 /bin/busybox \
    && truncate -s 64M /hole && mknod /null c 1 3\nENV A=b\n' \
    | docker build --quiet --tag app -";

/// What tells two builds of that image apart.
const FILES: &str = "docker run --rm app sh -c \
    'cat /when; stat -c \"%n %a %u:%g %h %s %t %T %y\" /when /hard /hole /null /bin/busybox; \
     stat -c \"%n %a %u:%g %y\" /var; ls /bin /var | wc -l'";

/// A volume with a store in a file of a name that no other test has.
struct Stored {
    volume: Volume,
    name: String,
    /// What [`FILES`] says of its image.
    files: String,
}

impl Stored {
    #[track_caller]
    fn new() -> Self {
        let mut stored = Self {
            volume: Volume::new(),
            name: format!("{}.erofs", unique_name()),
            files: String::new(),
        };
        let script = format!("docker load --quiet >/dev/null; {BUILD} >/dev/null; {FILES}");
        let output = stored.save(&[], &script).exited(0);
        let path = stored.path();
        let output = output.says(&["store ", &path, ": generation 1, 2 images, ", " are new"]);
        stored.files = output.text();
        stored
    }

    fn path(&self) -> String {
        format!("/out/{}", self.name)
    }

    fn writable(&self) -> Spec {
        dind().flags(self.volume.on("/out"))
    }

    /// An engine that begins with the store.
    fn begins(&self) -> Spec {
        dind()
            .flags(self.volume.on("/out:ro"))
            .env("DIND_STORE", &self.path())
    }

    /// Saves what a script leaves; its standard input is the archive of busybox.
    #[track_caller]
    fn save(&self, flags: &[&str], script: &str) -> Output {
        let path = self.path();
        let mut words = vec!["store", "save", &path];
        words.extend(flags);
        words.extend(["--", "sh", "-ec", script]);
        self.writable()
            .run_with_stdin(Path::new(&lab("DIND_LAB_BUSYBOX")), &words)
    }

    #[track_caller]
    fn sh(&self, script: &str) -> String {
        self.writable().shell(script).run(&[]).text()
    }
}

/// The file is on another machine: nothing of it is copied but what dockerd writes.
#[test]
#[ignore = "needs a kernel with NFS, server and client; tests/lab vm-test has one"]
fn a_file_on_nfs_is_used() {
    let stored = Stored {
        volume: Volume::new(),
        name: format!("{}.erofs", unique_name()),
        files: String::new(),
    };
    stored.save(&[], "docker load --quiet >/dev/null").exited(0);
    let server = NfsServer::new(&stored.volume);
    let path = format!("/nfs/{}", stored.name);
    let container = dind()
        .prelude(&format!("mkdir /nfs; {}", server.mount("/nfs")))
        .env("DIND_STORE", &path)
        .ready(&[]);
    container.logged(&[&path, ": generation 1, 1 images, ", " in "]);
    device(&container);
    let found = container.text(&["docker", "run", "--rm", BUSYBOX, "echo", "by NFS"]);
    assert_eq!(found, "by NFS");
    container.signal("TERM");
    assert_eq!(container.wait(), 0);
    is_detached(&stored);
}

/// The device that the store is mounted from, and the number of its file system.
#[track_caller]
fn device(container: &Container) -> String {
    let script = "awk '$5 == \"/run/dind-store\" { print $3, $(NF - 1) }' /proc/self/mountinfo";
    let device = container.sh(script);
    assert!(device.contains(" /dev/loop"), "{device}");
    device
}

/// Waits until no loop device of the machine has the file.
#[track_caller]
fn is_detached(stored: &Stored) {
    let script = format!(
        "while grep -qs {} /sys/block/loop*/loop/backing_file; do sleep 0.1; done",
        stored.name
    );
    stored.sh(&script);
}

#[test]
fn engines_with_one_file_share_one_loop_device_and_leave_none() {
    let stored = Stored::new();
    let first = stored.begins().ready(&[]);
    let second = stored.begins().ready(&[]);
    assert_eq!(device(&first), device(&second));
    for container in [&first, &second] {
        container.logged(&[&stored.path(), ": generation 1, 2 images, ", " in "]);
        assert_eq!(container.sh(FILES), stored.files);
        // Every step is in the cache: what is in the image is still that of the save.
        container.sh(BUILD);
        assert_eq!(container.sh(FILES), stored.files);
    }
    first.sh("docker rmi --force app; docker system prune --all --force");
    assert_eq!(first.sh("docker images --quiet"), "");
    assert_eq!(second.sh(FILES), stored.files);
    // It is the engine's own after a restart, too.
    second.docker(&["restart"]).exited(0);
    second.wait_ready_times(2);
    assert_eq!(second.sh(FILES), stored.files);
    for container in [first, second] {
        container.no_error_logged();
        container.docker(&["kill"]).exited(0);
    }
    is_detached(&stored);
}

#[test]
fn a_save_on_top_of_a_file_replaces_it_and_who_uses_it_keeps_it() {
    let stored = Stored::new();
    let before = stored.begins().ready(&[]);
    let more = format!(
        "echo 'FROM app\nRUN echo more >/more' | docker build --quiet --tag more - >/dev/null; {FILES}"
    );
    let output = stored.save(&[], &more).exited(0);
    let output = output.says(&[&stored.path(), ": generation 2, 3 images, "]);
    assert_eq!(output.text(), stored.files);
    let after = stored.begins().ready(&[]);
    assert_ne!(device(&before), device(&after));
    assert_eq!(after.sh("docker run --rm more cat /more"), "more");
    for container in [&before, &after] {
        assert_eq!(container.sh(FILES), stored.files);
        container.sh(BUILD);
        assert_eq!(container.sh(FILES), stored.files);
    }
    let path = stored.path();
    let store = |action| stored.begins().run(&["store", action, &path]);
    let listed = store("list").text();
    assert!(
        listed.starts_with("generation 2: ") && listed.contains("3 images"),
        "{listed}"
    );
    assert_eq!(store("check").text(), "generation 2: all is there");
    store("prune").exited(1).says(&[
        "is one file with generation 2 alone, so there is nothing to prune; save to it again",
    ]);
    // Nothing else is beside it.
    assert_eq!(stored.sh("ls -A /out"), stored.name);
    let output = stored.save(&["--from-nothing"], "docker load --quiet");
    output
        .exited(0)
        .says(&["generation 3, 1 images, 0 build steps, "]);
}

#[test]
fn a_save_that_fails_or_is_killed_leaves_the_file_as_it_was() {
    let stored = Stored::new();
    let sum = format!("sha256sum {}", stored.path());
    let before = stored.sh(&sum);
    stored.save(&[], "docker rmi --force app; exit 7").exited(7);
    assert_eq!(stored.sh("ls -A /out"), stored.name);
    let path = stored.path();
    let script = "docker rmi --force app; touch /begun; sleep 1000000";
    let words = ["store", "save", &path, "--", "sh", "-ec", script];
    let saving = stored.writable().start(&words);
    saving.wait_until("test -e /begun");
    // A second one would not know what the first one saves.
    stored
        .save(&[], "true")
        .exited(1)
        .says(&["dind: error: another container saves to the store ", &path]);
    saving.docker(&["kill"]).exited(0);
    saving.wait();
    assert_eq!(stored.sh(&sum), before);
    assert_eq!(stored.begins().ready(&[]).sh(FILES), stored.files);
    stored
        .save(&[], FILES)
        .exited(0)
        .says(&["generation 2, 2 images, "]);
    assert_eq!(stored.sh("ls -A /out"), stored.name);
}

#[test]
fn a_file_that_is_cut_off_damaged_or_something_else_is_named_and_the_start_is_cold() {
    let stored = Stored::new();
    let path = stored.path();
    let half = format!("truncate -s $(($(stat -c %s {path}) / 2)) {path}");
    let zeros = format!("dd if=/dev/zero of={path} bs=4096 count=1 conv=notrunc");
    let garbage = format!("head -c 9000 /dev/urandom >{path}");
    let end =
        format!("printf x | dd of={path} bs=1 seek=$(($(stat -c %s {path}) - 99)) conv=notrunc");
    for (change, reason) in [
        (&half, "is cut off: its end is missing"),
        (&garbage, "is not a store of dind's"),
        (&end, "is damaged at its end"),
        (&zeros, "is not used: cannot mount it from /dev/loop"),
    ] {
        stored.sh(&format!("cp {path} /out/kept; {change} 2>/dev/null"));
        let cold = stored.begins().run(&["docker", "images", "--quiet"]);
        let cold = cold.says(&["dind: warning: ", &path, reason]);
        assert_eq!(cold.text(), "", "{change}");
        let strict = stored.begins().env("DIND_STORE_STRICT", "1").run(&["true"]);
        strict.exited(1).says(&["dind: error: ", &path, reason]);
        let checked = stored.begins().run(&["store", "check", &path]);
        assert_eq!(checked.status, 1, "{change}: {checked:?}");
        stored.sh(&format!("mv /out/kept {path}"));
    }
    assert_eq!(stored.begins().ready(&[]).sh(FILES), stored.files);
    is_detached(&stored);
}

/// By tests/recipes/store.Dockerfile.
#[test]
fn a_file_in_a_layer_of_an_image_serves_at_every_depth() {
    let stored = Stored::new();
    let scratch = Scratch::new();
    let maker = stored.writable().create(&[]);
    let from = format!("{}:{}", maker.name, stored.path());
    let to = scratch.path.join("main.erofs").display().to_string();
    docker(["cp", &from, &to]).exited(0);
    let base = format!("FROM {}\n", lab("DIND_LAB_IMAGE"));
    let recipe = include_str!("../recipes/store.Dockerfile").replace("FROM dind\n", &base);
    assert!(recipe.contains(&base), "{recipe}");
    let recipe = scratch.file("Dockerfile", &recipe).display().to_string();
    let image = Image(unique_name());
    let context = scratch.path.display().to_string();
    let words = ["build", "--tag", &image.0, "--file", &recipe, &context];
    Call::new(words)
        .env("DOCKER_BUILDKIT", "0")
        .finish_build()
        .exited(0);
    let container = dind().image(&image.0).ready(&[]);
    container.logged(&["store /var/lib/dind/store: generation 1, 2 images, "]);
    assert_eq!(container.sh(FILES), stored.files);
    container.sh(BUILD);
    assert_eq!(container.sh(FILES), stored.files);
    drop(container);
    let inside = format!("{BUILD} >/dev/null; {FILES}");
    let nested = nestable().image(&image.0);
    let output = nested.run(&["nest", "2", "--", "sh", "-ec", &inside]);
    assert_eq!(output.text(), stored.files);
}

#[test]
fn a_container_in_a_container_shares_the_loop_device_of_the_outer_one() {
    let stored = Stored::new();
    let outer = stored.begins().ready(&[]);
    outer.sh("tar -c --one-file-system --exclude='./tmp/*' -C / . | docker import - own");
    let inner = format!(
        "docker run --rm {} -v /out:/out:ro -v /var/lib/docker -e DIND_STORE own dind sh -ec",
        privileges()
    );
    let seen =
        "awk '\\''$5 == \"/run/dind-store\" { print $3, $(NF - 1) }'\\'' /proc/self/mountinfo";
    assert_eq!(outer.sh(&format!("{inner} '{seen}'")), device(&outer));
    let files = FILES.replace('\'', "'\\''");
    assert_eq!(outer.sh(&format!("{inner} '{files}'")), stored.files);
}

#[test]
fn what_a_file_cannot_be_made_of_is_named() {
    let volume = Volume::new();
    let out = dind().flags(volume.on("/out"));
    let words = ["store", "save", "/out/main.erofs", "--", "true"];
    let without = out.clone().prelude("rm $(command -v mkfs.erofs)");
    without.run(&words).exited(1).says(&[
        "dind: error: nothing can be saved to /out/main.erofs: there is no mkfs.erofs in PATH; install erofs-utils",
    ]);
    let garbage = out.clone().prelude("echo x >/out/main.erofs");
    garbage.run(&words).exited(1).says(&[
        "dind: error: nothing can be saved to /out/main.erofs: /out/main.erofs is not a store of dind's",
    ]);
    let tmpfs = out
        .clone()
        .flags(["--tmpfs", "/var/lib/docker"])
        .prelude("rm -f /out/main.erofs");
    let output = tmpfs.run(&words);
    assert_eq!(output.status, 0, "{output:?}");
    assert_eq!(
        out.run(&["store", "list", "/missing.erofs"])
            .exited(1)
            .stdout,
        ""
    );
}

#[test]
fn a_data_root_is_detached_from_a_file() {
    let stored = Stored::new();
    let data = Volume::new();
    let on_data = |spec: Spec| spec.flags(data.on("/var/lib/docker"));
    let container = on_data(stored.begins()).ready(&[]);
    container.docker(&["stop"]).exited(0);
    drop(container);
    let detached = on_data(stored.begins()).run(&["store", "detach"]).text();
    let path = stored.path();
    let expected = format!("/var/lib/docker does not depend on the store {path} any more: ");
    assert!(detached.starts_with(&expected), "{detached}");
    is_detached(&stored);
    let container = on_data(dind()).ready(&[]);
    let links = "find /var/lib/docker -lname '/run/dind-store/*'; ls -A /var/lib/docker | grep dind-store || true";
    assert_eq!(container.sh(links), "");
    assert_eq!(container.sh(FILES), stored.files);
    container.sh(BUILD);
    assert_eq!(container.sh(FILES), stored.files);
    container.no_error_logged();
}

#[test]
fn without_a_loop_device_a_file_is_named_and_the_start_is_cold() {
    let stored = Stored::new();
    let none = stored
        .begins()
        .prelude("cd /dev; rm -f loop-control loop[0-9]*; mkdir loop-control");
    let cold = none.run(&["docker", "images", "--quiet"]);
    let cold = cold.says(&[
        "dind: warning: the store ",
        &stored.path(),
        " is not used: ",
        "/dev/loop-control",
        "the data root begins empty; start the container with --privileged, or use a store that is a directory",
    ]);
    assert_eq!(cold.text(), "");
    let strict = none.env("DIND_STORE_STRICT", "1").run(&["true"]);
    strict
        .exited(1)
        .says(&["dind: error: the store ", &stored.path()]);
}
