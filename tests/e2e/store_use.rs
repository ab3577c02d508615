//! What can be done with a store and with a data root that came from one: storage of all kinds,
//! daily commands, other versions of the engine, and life without the store.

use std::path::Path;

use crate::docker::{Container, Spec, Volume, dind, lab, unprivileged};
use crate::warm_starts::{BUILD, FILES, STORE, begins, save, saves, store, stored};

const DATA_ROOT: &str = "/var/lib/docker";

fn on_data(spec: Spec, data: &Volume) -> Spec {
    spec.flags(data.on(DATA_ROOT))
}

/// Everything in a store but for locks: names, attributes and content.
#[track_caller]
fn listed(stores: &Volume) -> String {
    let script = "cd /stores/main; tar --create --xattrs --xattrs-include='*' --sort=name --format=posix \
        --pax-option=delete=atime . | sha256sum; find . -printf '%p %y %m %u:%g %n %s %T@ %C@\\n' | sort";
    saves(stores).shell(script).run(&[]).text()
}

#[test]
fn a_data_root_is_detached_from_its_store() {
    let (stores, files) = stored();
    let data = Volume::new();
    let container = on_data(begins(&stores), &data).ready(&[]);
    container.sh("docker run --detach --name own app sh -c 'echo own >/own; exec sleep 1000000'");
    let detach = |spec: Spec| on_data(spec, &data).run(&["store", "detach"]);
    detach(begins(&stores)).exited(1).says(&[
        "dind: error: ",
        "an engine uses it",
        "stop its container first",
    ]);
    container.docker(&["stop"]).exited(0);
    detach(dind()).exited(1).says(&[
        "/var/lib/docker depends on generation 1 of a store that is not here; mount that store",
    ]);
    let unprivileged = unprivileged()
        .flags(stores.on("/stores:ro"))
        .env("DIND_STORE", STORE);
    detach(unprivileged)
        .exited(1)
        .says(&["without CAP_SYS_ADMIN", "--privileged"]);
    // Nothing has happened until here.
    let container = on_data(begins(&stores), &data).ready(&[]);
    assert_eq!(container.sh(FILES), files);
    container.docker(&["stop"]).exited(0);
    let before = listed(&stores);
    let text = detach(begins(&stores)).text();
    assert!(
        text.starts_with("/var/lib/docker does not depend on the store /stores/main any more: "),
        "{text}"
    );
    assert!(text.contains(" layers are copied, "), "{text}");
    assert_eq!(detach(dind()).text(), "/var/lib/docker depends on no store");
    assert_eq!(listed(&stores), before);
    // A plain dockerd, for which only the container's cgroups are prepared.
    let plain = on_data(dind().flags(["--entrypoint", "hack-dind"]), &data);
    let container = plain.start(&["dockerd"]);
    container.wait_until("docker info >/dev/null 2>&1");
    is_independent(&container, &files);
    drop(container);
    let container = on_data(dind(), &data).ready(&[]);
    is_independent(&container, &files);
    container.no_error_logged();
}

/// Everything of the store is there, and nothing leads to it.
#[track_caller]
fn is_independent(container: &Container, files: &str) {
    let links = format!(
        "find {DATA_ROOT} -lname '/run/dind-store/*'; ls -A {DATA_ROOT} | grep dind-store || true"
    );
    assert_eq!(container.sh(&links), "");
    assert_eq!(container.sh(FILES), files);
    container.sh(BUILD);
    assert_eq!(container.sh(FILES), files);
    container.sh("docker start own");
    assert_eq!(container.sh("docker exec own cat /own"), "own");
    container.sh("docker stop --time 0 own; docker save app | tar -t >/dev/null");
}

#[test]
fn a_store_and_a_data_root_are_on_any_file_system() {
    let block = |mkfs: &str, name: &str, target: &str, options: &str| {
        format!(
            "[ -e /volume/{name} ] || {{ truncate -s 1G /volume/{name}; {mkfs} /volume/{name} >&2; }}
             mkdir -p {target}; mount -o loop{options} /volume/{name} {target}\n"
        )
    };
    let data = |mkfs: &str| format!("umount {DATA_ROOT}\n{}", block(mkfs, "data", DATA_ROOT, ""));
    for (of_store, of_data) in [
        ("mkfs.ext4 -q", data("mkfs.xfs -q")),
        ("mkfs.xfs -q", data("mkfs.btrfs -q")),
        ("mkfs.btrfs -q", String::new()),
    ] {
        let volume = Volume::new();
        let on = |options: &str| {
            let store = block(of_store, "store", "/stores", options);
            // dockerd 20.10 prefers its own driver for btrfs.
            dind()
                .flags(volume.on("/volume"))
                .env("DOCKER_DRIVER", "overlay2")
                .prelude(&(store + &of_data))
        };
        let script = format!("docker load --quiet >/dev/null; {BUILD} >/dev/null; {FILES}");
        let words = ["store", "save", STORE, "--", "sh", "-ec", &script];
        let files = on("").run_with_stdin(Path::new(&lab("DIND_LAB_BUSYBOX")), &words);
        let files = files.text();
        let container = on(",ro").env("DIND_STORE", STORE).ready(&[]);
        container.logged(&["store /stores/main: generation 1, 2 images, "]);
        assert_eq!(container.sh(FILES), files, "{of_store}");
        container.sh(BUILD);
        assert_eq!(container.sh(FILES), files, "{of_store}");
        container.docker(&["stop"]).exited(0);
        if of_data.is_empty() {
            continue;
        }
        let detached = on(",ro").env("DIND_STORE", STORE).run(&["store", "detach"]);
        detached.exited(0);
        let container = on(",ro").env("DIND_STORE", "/nowhere").ready(&[]);
        assert_eq!(container.sh(FILES), files, "{of_store}");
    }
}

#[test]
fn a_data_root_without_space_begins_empty() {
    let (stores, _) = stored();
    let fill = "head -c 40M /dev/zero >/stores/main/generations/1/data/buildkit/large";
    saves(&stores).shell(fill).run(&[]).exited(0);
    let small = begins(&stores)
        .prelude("umount /var/lib/docker; mount -t tmpfs -o size=32m tmpfs /var/lib/docker");
    let container = small.ready(&[]);
    container.logged(&[
        "dind: warning: ",
        "No space left on device",
        "the data root begins empty; free space in the data root",
    ]);
    assert_eq!(container.sh("docker images --quiet"), "");
    assert_eq!(
        container.sh("ls -A /var/lib/docker | grep dind-store || true"),
        ""
    );
    assert_eq!(container.sh("findmnt /run/dind-store || true"), "");
    small
        .env("DIND_STORE_STRICT", "1")
        .run(&["true"])
        .exited(1)
        .says(&[
            "dind: error: ",
            "No space left on device",
            "free space in the data root",
        ]);
    let data = Volume::new();
    let read_only = begins(&stores).flags(data.on("/var/lib/docker:ro"));
    let output = read_only.run(&["true"]).exited(1);
    output.says(&["dind: error: ", "/var/lib/docker", "read-only"]);
}

#[test]
fn an_image_of_ext4_depends_on_the_store_that_is_in_it() {
    let (stores, files) = stored();
    let data = Volume::new();
    let in_image = |spec: Spec| on_data(spec, &data).env("DIND_STORAGE", "loop");
    let container = in_image(begins(&stores)).ready(&[]);
    assert_eq!(container.sh(FILES), files);
    container.docker(&["restart"]).exited(0);
    container.wait_ready_times(2);
    assert_eq!(container.sh(FILES), files);
    container.docker(&["stop"]).exited(0);
    let without = in_image(dind()).run(&["true"]).exited(1);
    without.says(&["dind: error: ", "depends on generation 1 of a store"]);
    let detach = |prelude: &str| {
        let spec = on_data(begins(&stores), &data).prelude(prelude);
        spec.run(&["store", "detach"])
    };
    let mount = "mount -o loop /var/lib/docker/dind.ext4 /var/lib/docker";
    detach("true").exited(1).says(&[
        "an ext4 image, which is not mounted; mount it first: ",
        mount,
    ]);
    detach(mount).exited(0);
    let container = in_image(dind()).ready(&[]);
    assert_eq!(container.sh(FILES), files);
}

#[test]
fn archives_are_loaded_beside_a_store() {
    let stores = Volume::new();
    let script =
        "mkdir /own; echo own >/own/file; tar -c -C /own . | docker import - own >/dev/null";
    save(&stores, &[], script).exited(0);
    let archive = |spec: Spec| {
        let from = Path::new(&lab("DIND_LAB_BUSYBOX")).display().to_string();
        spec.flags([
            "-v".to_owned(),
            format!("{from}:/var/lib/dind/images/busybox.tar:ro"),
        ])
    };
    let container = archive(begins(&stores)).ready(&[]);
    let names = container.sh("docker images --format '{{.Repository}}' | sort");
    assert_eq!(names, "dind-lab/busybox\nown");
    assert_eq!(container.inner(&[], &["echo", "it runs"]), "it runs");
    container.docker(&["restart"]).exited(0);
    container.wait_ready_times(2);
    assert_eq!(
        container.sh("docker images --format '{{.Repository}}' | sort"),
        names
    );
}

#[test]
fn the_generation_of_a_data_root_is_found_by_its_name() {
    let (stores, files) = stored();
    let data = Volume::new();
    drop(on_data(begins(&stores), &data).ready(&[]));
    // DIND_STORE has another store now, and the own one is at the default path.
    saves(&stores)
        .run(&["store", "save", "/stores/other", "--", "true"])
        .exited(0);
    let other =
        on_data(dind().flags(stores.on("/stores")), &data).env("DIND_STORE", "/stores/other");
    other.run(&["true"]).exited(1).says(&[
        "dind: error: /var/lib/docker depends on generation 1 of a store, and /stores/other is another one",
    ]);
    let plan = other.run(&["plan"]).text();
    assert!(
        plan.contains("would stop: /var/lib/docker depends on generation 1"),
        "{plan}"
    );
    let link = "mkdir -p /var/lib/dind/store; mount --bind /stores/main /var/lib/dind/store";
    let both = other.prelude(link).ready(&[]);
    both.logged(&["/var/lib/docker is of generation 1 of the store /var/lib/dind/store"]);
    assert_eq!(both.sh(FILES), files);
}

#[test]
fn plan_and_doctor_know_the_store() {
    let (stores, _) = stored();
    let doctor = |spec: &Spec| {
        let output = spec.run(&["doctor"]);
        (output.status, output.stdout)
    };
    let (_, found) = doctor(&begins(&stores));
    let note = "note: the store /stores/main has generation 1: 2 images, ";
    assert!(found.contains(note), "{found}");
    let (_, found) = doctor(&dind());
    assert!(!found.contains("store /"), "{found}");
    let remapped = begins(&stores).env("DOCKER_DAEMON_ARGS", "--userns-remap=default");
    let (status, found) = doctor(&remapped);
    let reason = "the store /stores/main is not used: dockerd has userns-remap";
    assert!(found.contains(&format!("warning: {reason}")), "{found}");
    assert_eq!(status, 0, "{found}");
    let (status, found) = doctor(&remapped.env("DIND_STORE_STRICT", "1"));
    assert!(found.contains(&format!("error: {reason}")), "{found}");
    assert_eq!(status, 1, "{found}");
    let newer = "sed -i 's/\"engine\": .*/\"engine\": \"99.0.0\",/; s/\"build\": .*/\"build\": \"x\",/' \
        /stores/main/generations/1/manifest.json";
    saves(&stores).shell(newer).run(&[]).exited(0);
    let (_, found) = doctor(&begins(&stores));
    let reason = "warning: the store /stores/main is not used: it was made by dockerd 99.0.0, and this one is ";
    assert!(found.contains(reason), "{found}");
    let before = listed(&stores);
    let plan = saves(&stores)
        .run(&["plan", "store", "save", STORE, "--", "true"])
        .text();
    assert!(
        plan.contains("publish images and build cache in the store /stores/main"),
        "{plan}"
    );
    assert!(
        plan.contains("fill /stores/main/saving from the store /stores/main"),
        "{plan}"
    );
    assert_eq!(listed(&stores), before);
}

/// Whatever is done inside of an engine, its store stays as it was.
#[test]
fn the_commands_of_every_day_work_with_stored_images() {
    let (stores, files) = stored();
    let before = listed(&stores);
    // Writable, so that nothing but dind keeps the engine from it.
    let container = saves(&stores).env("DIND_STORE", STORE).ready(&[]);
    let sh = |script: &str| container.sh(script);
    assert_eq!(
        sh("docker info --format '{{.Images}} {{.Containers}}'")
            .split(' ')
            .next_back(),
        Some("0")
    );
    assert_eq!(sh("docker images --quiet app | wc -l"), "1");
    assert!(sh("docker history --no-trunc --format '{{.CreatedBy}}' app").contains("rm /bin/wget"));
    assert_ne!(
        sh("docker system df --format '{{.Type}} {{.TotalCount}}' | grep '^Images'"),
        "Images 0"
    );
    // Every file of the image is changed, removed, moved or covered.
    sh(
        "docker run --name changed app sh -c 'rm /hard; echo more >>/when; mv /bin /bin2; mkdir /bin; chmod 600 /etc/passwd'",
    );
    assert!(sh("docker diff changed").contains("D /hard"));
    sh("docker commit changed committed; docker rm changed");
    sh(
        "docker create --name copied app true; docker cp copied:/when /w1; echo x >/w2; docker cp /w2 copied:/when; \
        docker cp copied:/when /w3; cmp /w2 /w3; docker rm copied",
    );
    sh(
        "printf 'FROM app\\nRUN rm /hard && echo x >>/when\\n' | docker build --quiet --tag built -",
    );
    sh("docker save --output /all.tar app committed built; docker rmi --force app committed built");
    sh("docker load --quiet --input /all.tar; docker tag app again");
    assert_eq!(sh(FILES), files);
    sh("docker rmi app; docker rmi --force again");
    sh(
        "docker builder prune --all --force; docker image prune --all --force; docker system prune --all --volumes --force",
    );
    assert_eq!(sh("docker images --all --quiet"), "");
    // What is gone can be loaded and built again.
    container.load_busybox();
    sh(BUILD);
    assert_ne!(sh(FILES), files);
    container.docker(&["stop"]).exited(0);
    container.no_error_logged();
    drop(container);
    assert_eq!(listed(&stores), before);
    assert_eq!(begins(&stores).ready(&[]).sh(FILES), files);
}

/// A tree with all that an image can have, in layers that remove, replace and change.
const TREE: &str = r#"
mkdir -p /t/base/gone /t/base/replaced/old /t/base/kept && cd /t/base
echo one >file; chown 1:2 file; chmod 6711 file; ln file linked; ln -s file soft; chown -h 3:4 soft
cp /bin/true capable; setcap cap_net_raw+ep capable; chown 9 linked
mknod null c 1 3; mknod disk b 7 300; mkfifo -m 640 fifo; mkdir -m 3750 sticky; chown 70000:70000 sticky
truncate -s 8M sparse; printf middle | dd of=sparse conv=notrunc oflag=seek_bytes seek=5M status=none
echo a >gone/a; echo b >replaced/old/b; echo c >kept/c; echo d >kept/d; : >empty; chmod 0 empty
find . -depth -exec touch -h -d '2001-02-03 04:05:06.123456789Z' {} +
cd /t
tar -c --xattrs --xattrs-include='*' --format=posix --numeric-owner -C base . | docker import - base >/dev/null
docker load --quiet >/dev/null
printf '%s\n' 'FROM dind-lab/busybox AS busy' 'FROM base' 'COPY --from=busy /bin /bin' \
    'RUN rm -r /gone /kept/c && rm -r /replaced && mkdir /replaced && echo new >/replaced/new' \
    'RUN chown -R 11:12 /kept && ln /kept/d /kept/e && ln /bin/busybox /hard && chmod 4755 /kept/d' \
    'RUN mkdir /made && mknod /made/zero c 1 5 && truncate -s 4M /made/hole && rm /linked' \
    | DOCKER_BUILDKIT=1 docker build --quiet --tag tree - >/dev/null
"#;

/// Every entry of the tree that a container of the image sees, with all attributes and content.
const SEEN: &str = r#"
docker run --detach --name seen tree sleep 1000000 >/dev/null
cd /proc/$(docker inspect --format '{{.State.Pid}}' seen)/root
# What docker mounts or makes in a container, and the top, whose time is that of the container.
names() { ls -A | grep -vx 'dev\|etc\|proc\|sys\|.dockerenv'; }
names | tar -c --xattrs --xattrs-include='*' --sort=name --format=posix --numeric-owner -T - |
    tar -t -vvv --xattrs --xattrs-include='*' --full-time --numeric-owner
names | xargs -d '\n' -I {} find {} -type f -exec sha256sum {} + | sort -k 2
docker export seen | tar -t -vvv --xattrs --xattrs-include='*' --numeric-owner | grep -v ' \(dev\|proc\|sys\|etc\)/\| .dockerenv' | sort
cd /; docker rm --force seen >/dev/null
"#;

/// The blocks of its files with holes.
const HOLES: &str = "docker run --rm tree stat -c '%n %s %b' /sparse /made/hole";

#[test]
fn a_container_of_a_stored_image_has_the_tree_of_the_image() {
    let stores = Volume::new();
    let archive = Volume::new();
    let script = format!("{TREE}\n({SEEN})\n{HOLES}\ndocker save --output /archive/tree.tar tree");
    let words = ["store", "save", STORE, "--", "bash", "-ec", &script];
    let saving = saves(&stores).flags(archive.on("/archive"));
    let built = saving
        .run_with_stdin(Path::new(&lab("DIND_LAB_BUSYBOX")), &words)
        .text();
    let warm = begins(&stores).ready(&[]);
    let seen = |container: &Container| container.text(&["bash", "-ec", SEEN]);
    let found = seen(&warm);
    assert_eq!(format!("{found}\n{}", warm.sh(HOLES)), built);
    for part in [
        " security.capability",
        " made/zero",
        " kept/e link to kept/d",
    ] {
        assert!(found.contains(part), "{part}: {found}");
    }
    for part in [" gone", " kept/c", " replaced/old", " linked"] {
        assert!(!found.contains(part), "{part}: {found}");
    }
    let cold = dind().flags(archive.on("/archive:ro")).ready(&[]);
    cold.sh("docker load --quiet --input /archive/tree.tar");
    // An archive of docker save has times in whole seconds, and no holes.
    let whole = |text: &str| -> String {
        let lines = text.lines().map(|line| match line.split_once('.') {
            Some((before, after)) if before.ends_with(|last: char| last.is_ascii_digit()) => {
                let rest = after.trim_start_matches(|digit: char| digit.is_ascii_digit());
                format!("{before}{rest}\n")
            }
            _ => format!("{line}\n"),
        });
        lines
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n")
            .collect()
    };
    assert_eq!(whole(&found), whole(&seen(&cold)));
}

/// The images of the engine from the oldest to the newest that is tested: overlay2 in each.
#[test]
fn a_newer_engine_uses_the_store_of_an_older_one() {
    let engines = lab("DIND_LAB_ENGINES");
    let engines: Vec<&str> = engines.split(' ').collect();
    assert_eq!(engines.len(), 3, "{engines:?}");
    let stores = Volume::new();
    // The image as it was stored, and as it is after it was built again. 20.10 builds without BuildKit
    // where it is not asked.
    let script = |name: &str| {
        format!(
            "export DOCKER_BUILDKIT=1; docker load --quiet >/dev/null
             if docker image inspect app >/dev/null 2>&1; then {FILES}; fi; echo; {BUILD} >/dev/null; {FILES}
             printf 'FROM app\nRUN echo {name} >/{name}\n' | docker build --quiet --tag {name} - >/dev/null"
        )
    };
    let mut last = String::new();
    for (engine, name) in engines.iter().zip(["first", "second", "third"]) {
        let words = ["store", "save", STORE, "--", "sh", "-ec", &script(name)];
        let saving = saves(&stores).image(engine);
        let output = saving.run_with_stdin(Path::new(&lab("DIND_LAB_BUSYBOX")), &words);
        let output = output.exited(0).stdout;
        let (stored, built) = output.split_once("\n\n").unwrap_or(("", output.trim()));
        let built = built.trim();
        assert_eq!(stored, last, "{engine}");
        // 26.1 builds again what 20.10 has built, without a store, too.
        if name == "third" {
            assert_eq!(built, stored, "{engine}");
        }
        built.clone_into(&mut last);
        let container = begins(&stores).image(engine).ready(&[]);
        assert_eq!(container.sh(FILES), built, "{engine}");
        assert_eq!(
            container.sh(&format!("docker run --rm {name} cat /{name}")),
            name
        );
        container.sh(&format!("export DOCKER_BUILDKIT=1; {BUILD}"));
        assert_eq!(container.sh(FILES), built, "{engine}");
        container.no_error_logged();
        container.not_logged(&["is not used"]);
    }
    for engine in engines.iter().take(2) {
        let older = begins(&stores).image(engine);
        let cold = older.run(&["docker", "images", "--quiet"]).exited(0);
        let reason = "the store /stores/main is not used: it was made by dockerd ";
        let cold = cold.says(&["dind: warning: ", reason, "the data root begins empty"]);
        assert_eq!(cold.stderr.matches(reason).count(), 1, "{}", cold.stderr);
        assert_eq!(cold.text(), "");
        older
            .env("DIND_STORE_STRICT", "1")
            .run(&["true"])
            .exited(1)
            .says(&["dind: error: ", reason]);
        // Nor does it save on top of it.
        let save = ["store", "save", STORE, "--", "true"];
        saves(&stores)
            .image(engine)
            .run(&save)
            .exited(1)
            .says(&["dind: error: ", reason]);
    }
    assert_eq!(
        store(&stores, &["check", STORE])
            .exited(0)
            .stdout
            .lines()
            .count(),
        3
    );
}

/// A power failure soon after a start leaves names whose content was not written yet.
#[test]
fn a_data_root_is_whole_after_a_power_failure() {
    let (stores, files) = stored();
    let data = Volume::new();
    let container = on_data(begins(&stores), &data).ready(&[]);
    container.docker(&["kill"]).exited(0);
    drop(container);
    // The machine goes on, so that the data root was made in another boot is said by hand.
    let cut = format!(
        "cd {DATA_ROOT}; find engine-id image overlay2 -type f -exec truncate -s 0 {{}} + || true; \
         cat /proc/sys/kernel/random/uuid >dind-store.boot"
    );
    on_data(dind(), &data).shell(&cut).run(&[]).exited(0);
    let container = on_data(begins(&stores), &data).ready(&[]);
    container.logged(&["dind: warning: a power failure had cut ", DATA_ROOT]);
    container.logged(&["/var/lib/docker is of generation 1 of the store /stores/main"]);
    assert_eq!(container.sh(FILES), files);
    container.sh(BUILD);
    assert_eq!(container.sh(FILES), files);
    container.sh("docker save app | tar -t >/dev/null; ! ls /var/lib/docker/dind-store.boot");
    container.no_error_logged();
    container.docker(&["restart"]).exited(0);
    container.wait_ready_times(2);
    assert_eq!(container.sh(FILES), files);
}
