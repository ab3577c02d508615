//! Stores of engines in a user namespace.

use crate::docker::{Container, Spec, Volume, dind, rootless, unprivileged};
use crate::rootless_user::as_user;
use crate::warm_starts::{
    BUILD, FILES, STORE, begins, begins_in, elsewhere, save_in, stored, stored_in,
};

/// An engine without privileges that begins with the store.
fn begins_without(stores: &Volume) -> Spec {
    begins_in(rootless(), stores)
}

/// A volume with a store of busybox and `app`, which an engine without privileges has made, and what
/// the files of `app` are.
#[track_caller]
fn stored_without() -> (Volume, String) {
    stored_in(rootless())
}

/// The text of `dind store` in a container without any flag.
#[track_caller]
fn store(stores: &Volume, words: &[&str]) -> String {
    let words: Vec<&str> = ["store"].iter().chain(words).copied().collect();
    unprivileged()
        .flags(stores.on("/stores"))
        .run(&words)
        .text()
}

/// Images and every step are those of the store.
#[track_caller]
fn has_all(container: &Container, files: &str) {
    container.logged(&["store /stores/main: generation ", " build steps, in "]);
    assert_eq!(container.sh(FILES), files);
    container.sh(BUILD);
    assert_eq!(container.sh(FILES), files);
}

#[test]
fn a_store_is_made_and_used_without_privileges() {
    let (stores, files) = stored_without();
    let first = begins_without(&stores).ready(&[]);
    let second = begins_without(&stores).ready(&[]);
    for container in [&first, &second] {
        has_all(container, &files);
    }
    first.sh(
        "docker run --name changed app rm /when; docker commit changed less; docker rm changed",
    );
    first.sh("docker save app less | tar -t >/dev/null");
    first.sh("docker rmi --force app less; docker system prune --all --force");
    assert_eq!(first.sh("docker images --quiet"), "");
    assert_eq!(second.sh(FILES), files);
    assert_eq!(
        store(&stores, &["check", STORE]),
        "generation 1: all is there"
    );
    second.docker(&["restart"]).exited(0);
    second.wait_ready_times(2);
    second.logged(&["/var/lib/docker is of generation 1 of the store /stores/main"]);
    assert_eq!(second.sh(FILES), files);
    for container in [first, second] {
        container.no_error_logged();
    }
    // The next generation goes on from this one, and the first one is then in nobody's way.
    let more = format!(
        "echo 'FROM app\nRUN echo more >/more' | docker build --quiet --tag more - >/dev/null; {FILES}"
    );
    let output = save_in(rootless().flags(stores.on("/stores")), &[], &more).exited(0);
    let output = output.says(&["store /stores/main: generation 2, 3 images, "]);
    assert_eq!(output.text(), files);
    assert_eq!(
        store(&stores, &["prune", STORE, "--keep", "1"]),
        "removed 1 generations"
    );
    let listed = store(&stores, &["list", STORE]);
    assert!(
        listed.contains(" in a user namespace, 3 images, "),
        "{listed}"
    );
    let container = begins_without(&stores).ready(&[]);
    assert_eq!(container.sh("docker run --rm more cat /more"), "more");
    has_all(&container, &files);
}

/// Files have other owners, and overlayfs its marks elsewhere: neither engine takes the other's.
#[test]
fn a_store_is_of_engines_with_the_same_ids() {
    let ((with, files), (without, _)) = (stored(), stored_without());
    let made = "is not used: it was made by an engine ";
    for (spec, whose) in [
        (
            begins_without(&with),
            "with privileges, and this is an engine in a user namespace (uid_map 0 1000 1, ",
        ),
        (begins(&without), "in a user namespace (uid_map 0 1000 1, "),
    ] {
        let cold = spec.run(&["docker", "images", "--quiet"]).exited(0);
        let cold = cold.says(&["dind: warning: the store /stores/main ", made, whose]);
        assert_eq!(cold.text(), "");
    }
    begins_without(&with)
        .env("DIND_STORE_STRICT", "1")
        .run(&["true"])
        .exited(1)
        .says(&["dind: error: the store /stores/main ", made]);
    // A save goes on from what is there, which it cannot either; and begins no other one in its place.
    save_in(rootless().flags(with.on("/stores")), &[], "true")
        .exited(1)
        .says(&["dind: error: the store /stores/main ", made]);
    let anew = ["store", "save", STORE, "--from-nothing", "--", "true"];
    rootless()
        .flags(with.on("/stores"))
        .run(&anew)
        .exited(1)
        .says(&["dind: error: ", "/stores/main", "belongs to user 0"]);
    assert_eq!(
        store(&with, &["check", STORE]),
        "generation 1: all is there"
    );
    assert_eq!(begins(&with).ready(&[]).sh(FILES), files);
}

/// A store belongs to the engine's user, whom any inner container can be: root follows no link in it.
#[test]
fn root_follows_no_link_in_a_store() {
    let (stores, other) = (Volume::new(), Volume::new());
    let both = |spec: Spec| spec.flags(stores.on("/stores")).flags(other.on("/other"));
    for link in ["generations", "layers", "saving"] {
        let planted = format!(
            "rm -rf /stores/main; mkdir /stores/main; ln -s /other /stores/main/{link}; \
             chown -h 100000 /stores/main/{link}; chown 1000 /stores/main; chmod 755 /other"
        );
        both(unprivileged()).shell(&planted).run(&[]).exited(0);
        let save = ["store", "save", STORE, "--from-nothing", "--", "true"];
        let named = format!("cannot open /stores/main/{link}: a symbolic link");
        both(rootless())
            .run(&save)
            .exited(1)
            .says(&["dind: error: ", &named]);
        let found = both(unprivileged()).run(&["stat", "-c", "%u %a", "/other"]);
        assert_eq!(found.text(), "0 755", "{link}");
    }
}

/// What needs a loop device is refused.
#[test]
fn one_file_is_refused_without_privileges() {
    let volume = Volume::new();
    let saves = rootless().flags(volume.on("/stores"));
    let words = ["store", "save", "/stores/main.erofs", "--", "true"];
    saves.run(&words).exited(1).says(&[
        "dind: error: nothing can be saved to /stores/main.erofs: ",
        "a user namespace, which has none; save it to a directory",
    ]);
}

/// No capability is needed but those of a container without flags.
#[test]
fn a_data_root_is_detached_without_privileges() {
    let (stores, files) = stored_without();
    let data = Volume::new();
    let on_data = |spec: Spec| spec.flags(data.on("/var/lib/docker"));
    let container = on_data(begins_without(&stores)).ready(&[]);
    container.sh("docker run --name own app sh -c 'echo own >/own'");
    container.docker(&["stop"]).exited(0);
    let detaches = begins_in(unprivileged(), &stores);
    let text = on_data(detaches).run(&["store", "detach"]).text();
    assert!(
        text.starts_with("/var/lib/docker does not depend on the store /stores/main any more: "),
        "{text}"
    );
    let container = on_data(rootless()).ready(&[]);
    assert_eq!(container.sh(FILES), files);
    container.sh(BUILD);
    assert_eq!(container.sh(FILES), files);
    assert_eq!(container.sh("docker diff own"), "A /own");
    container.no_error_logged();
}

/// The image's user, and root with few capabilities, have the same ids: each goes on from what the other
/// has saved.
#[test]
fn an_ordinary_user_and_root_share_a_store() {
    let (stores, files) = stored_without();
    let user = || begins_in(as_user(dind()), &stores);
    has_all(&user().ready(&[]), &files);
    for (saves, generation) in [(as_user(dind()), 2), (rootless(), 3)] {
        let more = format!(
            "echo 'FROM app\nRUN echo {generation} >/more' | docker build --quiet --tag more{generation} -"
        );
        let output = save_in(saves.flags(stores.on("/stores")), &[], &more).exited(0);
        output.says(&[&format!(
            "generation {generation}, {} images, ",
            generation + 1
        )]);
    }
    for spec in [user(), begins_without(&stores)] {
        let container = spec.ready(&[]);
        assert_eq!(container.sh("docker run --rm more2 cat /more"), "2");
        assert_eq!(container.sh("docker run --rm more3 cat /more"), "3");
        has_all(&container, &files);
    }
    // It makes one, too, where it may.
    let others = Volume::new();
    let given = dind()
        .flags(others.on("/stores"))
        .shell("chown 1000 /stores");
    given.run(&[]).exited(0);
    let output = save_in(
        as_user(dind()).flags(others.on("/stores")),
        &[],
        "docker load --quiet",
    );
    output.exited(0).says(&["generation 1, 1 images, "]);
    let container = begins_without(&others).ready(&[]);
    assert_eq!(container.sh("docker images --quiet | wc -l"), "1");
}

#[test]
fn a_store_is_used_with_an_ephemeral_data_root_and_a_tmpfs() {
    let (stores, files) = stored_without();
    for container in elsewhere(|| begins_without(&stores), &files) {
        has_all(&container, &files);
    }
}
