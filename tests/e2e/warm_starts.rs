//! Stores of images and build cache, and the engines that begin with them.

use std::path::Path;

use crate::docker::{BUSYBOX, Call, Container, Output, Spec, Volume, dind, lab};

/// The store of these tests, in a volume.
pub const STORE: &str = "/stores/main";

/// Builds an image of three steps. A step that is built again has another time in it.
pub const BUILD: &str = "printf 'FROM dind-lab/busybox\nRUN date +%%s%%N >/when && ln /when /hard\n\
    RUN rm /bin/wget && chown 5:6 /when && chmod 4711 /bin/busybox\nENV A=b\n' \
    | docker build --quiet --tag app -";

/// What tells two builds of that image apart.
pub const FILES: &str = "docker run --rm app sh -c \
    'cat /when; stat -c \"%n %a %u:%g %h %s\" /when /hard /bin/busybox; ls /bin | wc -l'";

pub fn saves(stores: &Volume) -> Spec {
    dind().flags(stores.on("/stores"))
}

/// An engine that begins with the store.
pub fn begins(stores: &Volume) -> Spec {
    begins_in(dind(), stores)
}

/// The same, in this container.
pub fn begins_in(spec: Spec, stores: &Volume) -> Spec {
    spec.flags(stores.on("/stores:ro")).env("DIND_STORE", STORE)
}

/// Saves what a script leaves; its standard input is the archive of busybox.
#[track_caller]
pub fn save(stores: &Volume, flags: &[&str], script: &str) -> Output {
    save_in(saves(stores), flags, script)
}

/// The same, in this container.
#[track_caller]
pub fn save_in(saves: Spec, flags: &[&str], script: &str) -> Output {
    let mut words = vec!["store", "save", STORE];
    words.extend(flags);
    words.extend(["--", "sh", "-ec", script]);
    saves.run_with_stdin(Path::new(&lab("DIND_LAB_BUSYBOX")), &words)
}

/// A volume with a store of busybox and `app`, and what the files of `app` are.
#[track_caller]
pub fn stored() -> (Volume, String) {
    stored_in(dind())
}

/// The same, made in this container.
#[track_caller]
pub fn stored_in(spec: Spec) -> (Volume, String) {
    let stores = Volume::new();
    let script = format!(
        "docker load --quiet >/dev/null; {BUILD} >/dev/null; {FILES}; docker volume create kept >/dev/null; \
         docker run --detach --volume kept:/v --name left {BUSYBOX} sleep 1000000 >/dev/null"
    );
    let output = save_in(spec.flags(stores.on("/stores")), &[], &script).exited(0);
    let output = output.says(&["store /stores/main: generation 1, 2 images, ", " are new"]);
    (stores, output.text())
}

#[track_caller]
pub fn store(stores: &Volume, words: &[&str]) -> Output {
    let words: Vec<&str> = ["store"].iter().chain(words).copied().collect();
    saves(stores).run(&words)
}

/// The identifiers of all images.
fn images(container: &Container) -> String {
    container.sh("docker images --all --quiet --no-trunc | sort -u")
}

#[test]
fn what_a_command_has_made_is_there_at_every_later_start() {
    let (stores, files) = stored();
    let first = begins(&stores).ready(&[]);
    let second = begins(&stores).ready(&[]);
    for container in [&first, &second] {
        container.logged(&[
            "store /stores/main: generation 1, 2 images, ",
            " build steps, in ",
        ]);
        assert_eq!(container.sh(FILES), files);
        assert_eq!(
            container.sh("docker ps --all --quiet; docker volume ls --quiet"),
            ""
        );
        // Every step is in the cache: the time in the image is still that of the save.
        container.sh(BUILD);
        assert_eq!(container.sh(FILES), files);
    }
    // What is changed in one is nothing to the other, nor to the store.
    let before = images(&second);
    first.sh("echo 'FROM app\nRUN rm /hard' | docker build --quiet --tag more -");
    first.sh(
        "docker run --name changed app rm /when; docker commit changed less; docker rm changed",
    );
    first.sh("docker save app more less | tar -t >/dev/null");
    first.sh("docker rmi --force app more less; docker system prune --all --force");
    assert_eq!(first.sh("docker images --quiet"), "");
    assert_eq!(images(&second), before);
    assert_eq!(second.sh(FILES), files);
    assert_eq!(
        store(&stores, &["check", STORE]).text(),
        "generation 1: all is there"
    );
    // It is the engine's own after a restart, too.
    second.docker(&["restart"]).exited(0);
    second.wait_ready_times(2);
    second.logged(&["/var/lib/docker is of generation 1 of the store /stores/main"]);
    assert_eq!(second.sh(FILES), files);
    for container in [first, second] {
        container.no_error_logged();
    }
}

#[test]
fn a_save_goes_on_from_the_generation_before() {
    let (stores, files) = stored();
    let more = format!(
        "echo 'FROM app\nRUN echo more >/more' | docker build --quiet --tag more - >/dev/null; {FILES}"
    );
    let output = save(&stores, &[], &more).exited(0);
    let output = output.says(&["store /stores/main: generation 2, 3 images, "]);
    assert_eq!(output.text(), files);
    let container = begins(&stores).ready(&[]);
    assert_eq!(container.sh("docker run --rm more cat /more"), "more");
    assert_eq!(container.sh(FILES), files);
    save(
        &stores,
        &["--from-nothing", "--no-build-cache"],
        "docker load --quiet",
    )
    .exited(0)
    .says(&["generation 3, 1 images, 0 build steps, "]);
    // The second generation is in use, and the first one is not.
    let pruned = store(&stores, &["prune", STORE, "--keep", "1"]).text();
    assert_eq!(pruned, "removed 1 generations, and kept 2 in use");
    let listed = store(&stores, &["list", STORE]).text();
    let lines: Vec<&str> = listed.lines().collect();
    assert!(
        matches!(lines[..], [second, third]
            if second.starts_with("generation 2 (in use): ")
                && third.starts_with("generation 3 (current): ")),
        "{listed}"
    );
    assert_eq!(container.sh(FILES), files);
    drop(container);
    assert_eq!(
        store(&stores, &["prune", STORE, "--keep", "1"]).text(),
        "removed 1 generations"
    );
    let checked = store(&stores, &["check", STORE]).text();
    assert_eq!(checked, "generation 3: all is there");
    let container = begins(&stores).ready(&[]);
    container.inner(&[], &["true"]);
    assert_eq!(container.sh("docker images --quiet | wc -l"), "1");
}

#[test]
fn a_command_that_fails_publishes_nothing() {
    let stores = Volume::new();
    save(&stores, &[], "docker load --quiet; exit 7").exited(7);
    save(&stores, &[], "docker load --quiet; kill -9 $$").exited(137);
    assert_eq!(store(&stores, &["list", STORE]).text(), "");
    begins(&stores).run(&["true"]).exited(0).says(&[
        "dind: warning: the store /stores/main is not used: it has no generation; save one",
    ]);
}

#[test]
fn a_save_that_is_stopped_or_killed_leaves_the_store_as_it_was() {
    let (stores, files) = stored();
    let script = "docker rmi --force app; touch /begun; sleep 1000000";
    for end in [&["stop"][..], &["kill"]] {
        let words = ["store", "save", STORE, "--", "sh", "-ec", script];
        let saving = saves(&stores).start(&words);
        saving.wait_until("test -e /begun");
        // A second one does not destroy what the first one is making.
        let second = save(&stores, &[], "true").exited(1);
        second.says(&["dind: error: ", "/stores/main"]);
        saving.docker(end).exited(0);
        assert_eq!(saving.wait(), if end == ["stop"] { 143 } else { 137 });
        let listed = store(&stores, &["list", STORE]).text();
        assert!(listed.starts_with("generation 1 (current): "), "{listed}");
        assert_eq!(listed.lines().count(), 1, "{listed}");
        assert_eq!(begins(&stores).ready(&[]).sh(FILES), files);
    }
    save(&stores, &[], FILES)
        .exited(0)
        .says(&["generation 2, 2 images, "]);
    assert_eq!(
        saves(&stores)
            .run(&["ls", "-A", "/stores/main/saving"])
            .text(),
        ""
    );
}

#[test]
fn a_data_root_that_came_from_a_store_is_not_used_without_it() {
    let (stores, files) = stored();
    let data = Volume::new();
    let on_data = |spec: Spec| spec.flags(data.on("/var/lib/docker"));
    drop(on_data(begins(&stores)).ready(&[]));
    on_data(dind()).run(&["true"]).exited(1).says(&[
        "dind: error: ",
        "depends on generation 1 of a store, and DIND_STORE names none",
    ]);
    // It is found again wherever it is mounted, also when there is a newer generation.
    save(&stores, &[], "docker rmi --force app").exited(0);
    let moved =
        on_data(dind().flags(stores.on("/elsewhere:ro"))).env("DIND_STORE", "/elsewhere/main");
    let container = moved.ready(&[]);
    container.logged(&["/var/lib/docker is of generation 1 of the store /elsewhere/main"]);
    assert_eq!(container.sh(FILES), files);
    drop(container);
    store(&stores, &["prune", STORE, "--keep", "1"]).exited(0);
    on_data(begins(&stores)).run(&["true"]).exited(1).says(&[
        "dind: error: ",
        "depends on generation 1 of a store, and /stores/main has it no more",
    ]);
}

#[test]
fn a_data_root_with_data_stays_as_it_is() {
    let (stores, _) = stored();
    let data = Volume::new();
    let container = dind().flags(data.on("/var/lib/docker")).ready(&[]);
    container.load_busybox();
    let before = images(&container);
    drop(container);
    let container = begins(&stores).flags(data.on("/var/lib/docker")).ready(&[]);
    container.logged(&["the store /stores/main is not used, since /var/lib/docker has data"]);
    assert_eq!(images(&container), before);
}

#[test]
fn a_store_that_cannot_be_used_is_named_and_the_start_is_cold() {
    let (stores, _) = stored();
    let manifest = "/stores/main/generations/1/manifest.json";
    for (change, reason) in [
        (
            format!("sed -i 's/\"machine\": .*/\"machine\": \"sparc\",/' {manifest}"),
            "is not used: it is of sparc and not of ",
        ),
        (
            format!(
                "sed -i 's/\"engine\": .*/\"engine\": \"99.0.0\",/; s/\"build\": .*/\"build\": \"x\",/' {manifest}"
            ),
            "is not used: it was made by dockerd 99.0.0, and this one is ",
        ),
        (
            format!("sed -i 's/\"format\": 1/\"format\": 2/' {manifest}"),
            "another version of dind has made it",
        ),
        (
            format!("head -c 100 {manifest} >/m; cat /m >{manifest}"),
            "it is not JSON",
        ),
        (
            "ln -s /etc/passwd /stores/main/generations/1/data/engine".into(),
            "engine is a symbolic link to /etc/passwd",
        ),
        (
            "ln -s /run/dind-store/layers/../../../../etc /stores/main/generations/1/data/buildkit/x"
                .into(),
            "/data",
        ),
        (
            "mkfifo /stores/main/generations/1/data/fifo".into(),
            "is a device, a FIFO or a socket",
        ),
        (
            "echo something >/stores/main/format".into(),
            "is not a store of dind's",
        ),
    ] {
        let copied = format!(
            "rm -rf /stores/x; mv /stores/main /stores/x; cp -a /stores/x /stores/main; {change}"
        );
        let changed = saves(&stores).shell(&copied).run(&[]);
        changed.exited(0);
        let cold = begins(&stores).run(&["docker", "images", "--quiet"]);
        let cold = cold.says(&["dind: warning: ", "/stores/main", reason]);
        assert_eq!(cold.text(), "", "{change}");
        begins(&stores)
            .env("DIND_STORE_STRICT", "1")
            .run(&["true"])
            .exited(1)
            .says(&["dind: error: ", "/stores/main", reason]);
        let restored = "rm -rf /stores/main; mv /stores/x /stores/main";
        saves(&stores).shell(restored).run(&[]).exited(0);
    }
    let remapped = begins(&stores).env("DOCKER_DAEMON_ARGS", "--userns-remap=default");
    let plan = remapped.run(&["plan", "true"]).text();
    assert!(plan.contains("dockerd has userns-remap"), "{plan}");
    let other = begins(&stores).env("DIND_STORAGE", "vfs");
    let plan = other.run(&["plan", "true"]).text();
    assert!(
        plan.contains("it is of the storage driver overlay"),
        "{plan}"
    );
}

#[test]
fn a_store_is_in_no_layer_of_an_image() {
    let output = dind().run(&["store", "save", "/here/main", "--", "true"]);
    output.exited(1).says(&[
        "dind: error: the store /here/main is on overlay, which cannot hold layers of images",
    ]);
}

/// Engines that begin with the store in an ephemeral data root, after a restart, and in a tmpfs.
#[track_caller]
pub fn elsewhere(begins: impl Fn() -> Spec, files: &str) -> [Container; 2] {
    let ephemeral = begins().env("DIND_EPHEMERAL", "1").ready(&[]);
    assert_eq!(ephemeral.sh(FILES), files);
    ephemeral.docker(&["restart"]).exited(0);
    ephemeral.wait_ready_times(2);
    assert_eq!(ephemeral.sh(FILES), files);
    let tmpfs = begins().env("DIND_STORAGE", "tmpfs").ready(&[]);
    assert_eq!(tmpfs.sh(FILES), files);
    [ephemeral, tmpfs]
}

#[test]
fn a_store_is_used_with_an_ephemeral_data_root_and_a_tmpfs() {
    let (stores, files) = stored();
    let [_, tmpfs] = elsewhere(|| begins(&stores), &files);
    assert_eq!(tmpfs.sh("stat -f -c %T /var/lib/docker"), "tmpfs");
}

#[test]
fn what_is_wrong_with_the_words_is_named() {
    for (words, reason) in [
        (&["save", STORE][..], "store save has no command"),
        (
            &["save", "relative", "--", "true"],
            "STORE is not an absolute path",
        ),
        (&["list"], "STORE is missing"),
        (&["check", STORE, "--keep", "1"], "only prune has --keep"),
        (&["prune", STORE, "--keep", "0"], "\"0\" is not valid"),
        (&["list", "/missing"], "/missing is not a store; make one"),
    ] {
        let words: Vec<&str> = ["store"].iter().chain(words).copied().collect();
        let output = dind().run(&words);
        assert_ne!(output.status, 0, "{words:?}");
        output.says(&["dind: error: ", reason]);
    }
    let (_container, words) = dind()
        .env("PORT", "2375")
        .attached(&[], &["store", "save", STORE, "--", "true"]);
    Call::new(words)
        .finish()
        .exited(2)
        .says(&["PORT=2375", "store save"]);
}

#[test]
fn what_a_build_has_only_copied_from_and_its_cache_mounts_are_published_too() {
    let stores = Volume::new();
    // BuildKit leaves the last step of the first stage uncommitted: whiteouts, and a link.
    let stages = "printf 'FROM dind-lab/busybox AS b\nRUN rm /bin/wget && mkdir -p /d && ln -s x /d/link && date +%%s%%N >/d/when\n\
        FROM dind-lab/busybox\nCOPY --from=b /d /d\n' \
        | DOCKER_BUILDKIT=1 docker build --quiet --tag stages -";
    let cached = "printf 'FROM dind-lab/busybox\nRUN --mount=type=cache,target=/c ln -sf /nowhere /c/link; date +%%s%%N >/when\n' \
        | DOCKER_BUILDKIT=1 docker build --quiet --tag cached -";
    let seen = "docker run --rm stages sh -c 'readlink /d/link; cat /d/when'; docker run --rm cached cat /when";
    let script =
        format!("docker load --quiet >/dev/null; {stages} >/dev/null; {cached} >/dev/null; {seen}");
    let files = save(&stores, &[], &script).exited(0).text();
    let container = begins(&stores).ready(&[]);
    container.logged(&["generation 1, 3 images, "]);
    assert_eq!(container.sh(seen), files);
    // Nothing is built again.
    container.sh(&format!("{stages}; {cached}"));
    assert_eq!(container.sh(seen), files);
    // The stage is still what it was, and the next step is built on it.
    let more = "printf 'FROM dind-lab/busybox AS b\nRUN rm /bin/wget && mkdir -p /d && ln -s x /d/link && date +%%s%%N >/d/when\n\
        RUN test ! -e /bin/wget && readlink /d/link >/l\n' | DOCKER_BUILDKIT=1 docker build --quiet --tag more -";
    container.sh(more);
    assert_eq!(container.sh("docker run --rm more cat /l"), "x");
    assert_eq!(
        store(&stores, &["check", STORE]).text(),
        "generation 1: all is there"
    );
}

#[test]
fn nothing_is_saved_that_is_not_in_the_store() {
    let stores = Volume::new();
    for (spec, reason) in [
        (
            saves(&stores).env("DIND_STORAGE", "tmpfs"),
            "is in an ext4 image or on a tmpfs, and not in the store",
        ),
        (
            saves(&stores).env("DOCKER_DAEMON_ARGS", "--userns-remap=default"),
            "a dockerd with userns-remap has made",
        ),
        (
            saves(&stores).env("DOCKER_DAEMON_ARGS", "--containerd=/run/other.sock"),
            "a containerd of its own keeps",
        ),
    ] {
        let output = spec.run(&["store", "save", STORE, "--", "true"]);
        output
            .exited(2)
            .says(&["dind: error: store save cannot publish what ", reason]);
    }
}

#[test]
fn nothing_of_a_store_leads_out_of_it() {
    let (stores, _) = stored();
    let layer = "/stores/main/layers/1-1";
    for (change, reason) in [
        (
            "mv /stores/main/layers /stores/l; ln -s ../l /stores/main/layers".to_owned(),
            "cannot open /stores/main/layers",
        ),
        (
            "mv /stores/main/generations/1 /stores/g; ln -s ../../g /stores/main/generations/1"
                .to_owned(),
            "cannot open /stores/main/generations/1",
        ),
        (
            format!("rm -rf {layer}; ln -s /etc {layer}"),
            "layer 1-1 of the store is neither a directory nor a file",
        ),
        (
            format!("rm -rf {layer}"),
            "cannot read layer 1-1 of the store",
        ),
    ] {
        let copied = format!(
            "rm -rf /stores/x /stores/l /stores/g; mv /stores/main /stores/x; cp -a /stores/x /stores/main; {change}"
        );
        saves(&stores).shell(&copied).run(&[]).exited(0);
        let cold = begins(&stores).run(&["docker", "images", "--quiet"]);
        assert_eq!(
            cold.says(&["dind: warning: ", reason]).text(),
            "",
            "{change}"
        );
        let restored = "rm -rf /stores/main; mv /stores/x /stores/main";
        saves(&stores).shell(restored).run(&[]).exited(0);
    }
    let modes =
        "stat -c %a /stores/main/layers /stores/main/generations /stores/main/generations/1";
    assert_eq!(saves(&stores).shell(modes).run(&[]).text(), "700\n700\n700");
}

#[test]
fn a_reader_locks_nothing_that_a_start_or_a_prune_needs() {
    let (stores, files) = stored();
    // The whole store is locked as who has it read-only can lock it.
    let locks =
        "exec 9</stores/main/generations/1/manifest.json; flock -x 9; touch /locked; sleep 1000000";
    let job = dind()
        .flags(stores.on("/stores:ro"))
        .start(&["sh", "-ec", locks]);
    job.wait_until("test -e /locked");
    assert_eq!(begins(&stores).ready(&[]).sh(FILES), files);
    let listed = store(&stores, &["list", STORE]).text();
    assert!(listed.starts_with("generation 1 (current): "), "{listed}");
}

#[test]
fn a_generation_that_cannot_be_read_blocks_neither_a_save_nor_a_prune() {
    let (stores, files) = stored();
    save(&stores, &[], "true").exited(0);
    let damage = "echo x >/stores/main/generations/1/manifest.json";
    saves(&stores).shell(damage).run(&[]).exited(0);
    save(&stores, &[], "true").exited(0);
    assert_eq!(
        store(&stores, &["prune", STORE, "--keep", "1"]).text(),
        "removed 2 generations"
    );
    assert_eq!(begins(&stores).ready(&[]).sh(FILES), files);
}

#[test]
fn a_current_generation_that_cannot_be_read_is_replaced_by_a_save_from_nothing() {
    let (stores, _) = stored();
    for (damage, reason) in [
        (
            "echo x >/stores/main/generations/1/manifest.json",
            "it is not JSON",
        ),
        (
            "mv /stores/main/generations/2 /stores/gone",
            "/stores/main/current leads to nothing",
        ),
    ] {
        saves(&stores).shell(damage).run(&[]).exited(0);
        let cold = begins(&stores).run(&["true"]).exited(0);
        cold.says(&["dind: warning: ", reason, "--from-nothing"]);
        let refused = save(&stores, &[], "true").exited(1);
        refused.says(&["dind: error: ", reason, "save with --from-nothing"]);
        save(&stores, &["--from-nothing"], "docker load --quiet").exited(0);
        let container = begins(&stores).ready(&[]);
        assert_eq!(container.sh("docker images --quiet | wc -l"), "1");
    }
}

#[test]
fn a_data_root_with_a_damaged_origin_is_not_used() {
    let data = Volume::new();
    let on_data = || dind().flags(data.on("/var/lib/docker"));
    let damage = "echo x >/var/lib/docker/dind-store.json";
    on_data().shell(damage).run(&[]).exited(0);
    on_data().run(&["true"]).exited(1).says(&[
        "dind: error: ",
        "/var/lib/docker/dind-store.json is damaged",
    ]);
}
