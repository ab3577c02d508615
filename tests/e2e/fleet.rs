//! Many engines at once on one store, and saves whose engine is not idle when its command ends.

use std::thread;
use std::time::Duration;

use crate::docker::{BUSYBOX, Container, Volume, all};
use crate::warm_starts::{STORE, begins, save, saves};

/// How many engines do something at the same time: more than there are processors, and few enough
/// that none of them comes to a deadline for want of one.
const AT_ONCE: usize = 8;

/// 6 engines, by `tests/lab test --all` 64: all alive at the same time, each runs a container and
/// builds a step that is stored, and one on top of it.
#[test]
fn a_fleet_begins_with_one_store() {
    let count = if all() { 64 } else { 6 };
    let stores = Volume::new();
    let build = "printf 'FROM dind-lab/busybox\nRUN date +%%s%%N >/when\n' \
        | DOCKER_BUILDKIT=1 docker build --quiet --tag app - >/dev/null";
    let when = "docker run --rm app cat /when";
    let script = format!("docker load --quiet >/dev/null; {build}; {when}");
    let built = save(&stores, &[], &script).text();
    let mut fleet: Vec<Container> = Vec::new();
    while fleet.len() < count {
        let wave = AT_ONCE.min(count - fleet.len());
        let wave: Vec<Container> = (0..wave).map(|_| begins(&stores).start(&[])).collect();
        wave.iter().for_each(Container::wait_ready);
        fleet.extend(wave);
    }
    let work = format!(
        "{build}; {when}; printf \"FROM app\\nRUN echo $1 >/number\\n\" \
         | DOCKER_BUILDKIT=1 docker build --quiet --tag own - >/dev/null; docker run --rm own cat /number"
    );
    let numbered: Vec<(usize, &Container)> = fleet.iter().enumerate().collect();
    for wave in numbered.chunks(AT_ONCE) {
        thread::scope(|scope| {
            for (number, container) in wave {
                let (work, built) = (&work, &built);
                scope.spawn(move || {
                    let number = number.to_string();
                    let said = container.text(&["sh", "-ec", work, "work", &number]);
                    assert_eq!(said, format!("{built}\n{number}"));
                });
            }
        });
    }
    for container in &fleet {
        assert!(container.runs());
        container.logged(&["store /stores/main: generation 1, 2 images, "]);
        container.no_error_logged();
        for error in ["dind: error", "dind: warning"] {
            container.not_logged(&[error]);
        }
    }
    let checked = saves(&stores).run(&["store", "check", STORE]).text();
    assert_eq!(checked, "generation 1: all is there");
    eprintln!("{} engines at once on one store", fleet.len());
}

/// Containers end by themselves and are removed while the engine is made ready to be published,
/// and new ones are made.
#[test]
fn containers_that_come_and_go_at_the_end_of_a_save_are_not_published() {
    let stores = Volume::new();
    let script = format!(
        "docker load --quiet >/dev/null
         for tenth in $(seq 0 9); do
             docker run --rm --detach {BUSYBOX} sleep 0.$tenth >/dev/null
         done
         docker run --detach --restart=always {BUSYBOX} true >/dev/null
         while docker run --rm {BUSYBOX} true; do :; done >/dev/null 2>&1 &"
    );
    for generation in 1..=3 {
        let said = format!("store /stores/main: generation {generation}, 1 images, ");
        save(&stores, &[], &script).exited(0).says(&[&said]);
    }
    let container = begins(&stores).ready(&[]);
    assert_eq!(container.sh("docker ps --all --quiet"), "");
    assert_eq!(container.inner(&[], &["echo", "inside"]), "inside");
    container.no_error_logged();
}

/// The mount point of stores is taken, so a start is cold.
#[test]
fn a_store_that_cannot_be_mounted_is_named() {
    let stores = Volume::new();
    save(&stores, &[], "docker load --quiet").exited(0);
    let taken = begins(&stores).prelude("echo mine >/run/dind-store");
    let cold = taken.run(&["docker", "images", "--quiet"]).exited(0);
    let said = "the data root begins empty";
    let cold = cold.says(&["dind: warning: cannot ", "/run/dind-store", said]);
    assert_eq!(cold.text(), "");
    taken
        .env("DIND_STORE_STRICT", "1")
        .run(&["true"])
        .exited(1)
        .says(&["dind: error: cannot ", "/run/dind-store"]);
}

/// The saving job of tests/recipes: what a build does no longer use, and no image has, goes with the
/// generations that had it.
#[test]
fn steps_that_no_saving_job_uses_expire() {
    let stores = Volume::new();
    let build = |version: &str| {
        format!(
            "printf 'FROM dind-lab/busybox\nRUN echo {version} >/version && date +%%s%%N >/when\n' \
             | DOCKER_BUILDKIT=1 docker build --quiet --tag app - >/dev/null; \
             docker run --rm app cat /when"
        )
    };
    let load = "docker load --quiet >/dev/null";
    let first = format!("{load}; {}", build("one"));
    let old = save(&stores, &[], &first).text();
    // Time passes, as between two nights.
    thread::sleep(Duration::from_secs(2));
    let expire = "docker image prune --force >/dev/null; \
                  docker builder prune --force --filter until=1s >/dev/null";
    let second = format!("{load}; {}; {expire}", build("two"));
    let new = save(&stores, &[], &second).text();
    let tool = saves(&stores).shell("exec sleep infinity").start(&[]);
    let layers = || tool.sh("ls /stores/main/layers | wc -l");
    let before = layers();
    tool.text(&["dind", "store", "prune", STORE, "--keep", "1"]);
    let [before, after] = [before, layers()].map(|count| count.parse::<u64>().unwrap());
    assert!(after < before, "{before} layers, and {after} afterwards");
    let container = begins(&stores).ready(&[]);
    assert_eq!(container.sh(&build("two")), new);
    assert_ne!(container.sh(&build("one")), old);
}
