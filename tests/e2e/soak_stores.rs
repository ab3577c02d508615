//! Crash consistency of stores: a save, a start from the store or a prune is killed at random
//! moments. The store is as it was, or has the whole of what was saved; every start has one
//! generation, and not parts of two.
//!
//! `tests/lab soak` does this for as long as one likes. `tests/namespace/kills.rs` kills the parts
//! that need no engine before each of their system calls.

use std::collections::BTreeMap;
use std::thread;

use crate::docker::{Container, Volume};
use crate::soak::{Random, kill, seed, setting, wait_healthy};
use crate::warm_starts::{STORE, begins, save, saves};

/// Leaves images of one layer each, in the place of those of the session before, and a build. All
/// of them have its token.
const SESSION: &str = r#"
docker rmi --force $(docker images --quiet kept) >/dev/null 2>&1 || :
for number in 1 2 3 4 5 6; do
    mkdir -p "/soak/$number"
    echo "$1" >"/soak/$number/kept"
    tar -c -C "/soak/$number" kept | docker import - "kept:$number" >/dev/null
done
printf "FROM dind-lab/busybox\nRUN echo $1 >/kept\nRUN rm /bin/wget\n" |
    DOCKER_BUILDKIT=1 docker build --quiet --tag built - >/dev/null
echo made
"#;

/// Prints the token of each image: one line where all are of one session.
const LOOK: &str = r#"
for number in 1 2 3 4 5 6; do
    id=$(docker create "kept:$number" true)
    docker cp "$id:/kept" - | tar -xO
    docker rm "$id" >/dev/null
done >/tokens
docker run --rm built cat /kept >>/tokens
sort -u /tokens
"#;

/// Prints what is in the store and nobody needs.
const LEFT: &str = r#"
cd /stores/main
ls -A saving
ls -A generations | grep '^\.'
ls -A | grep '^\.'
sed -n 's/^    "\([0-9]*-[0-9]*\)": .*/\1/p' generations/*/manifest.json | sort -u >/needed
ls layers | sort | comm -3 - /needed
true
"#;

/// A store that is saved to, begun with and pruned, and what is known of it.
struct Soak {
    /// A container that looks into the store, without an engine. It goes before the volume.
    tool: Container,
    stores: Volume,
    random: Random,
    /// The tokens of the generations that were published.
    tokens: BTreeMap<u64, String>,
    session: u64,
    killed: u64,
}

impl Soak {
    fn new(random: Random) -> Self {
        let stores = Volume::new();
        save(&stores, &[], "docker load --quiet").exited(0);
        let tool = saves(&stores).shell("exec sleep infinity").start(&[]);
        let soak = Self {
            stores,
            tool,
            random,
            tokens: BTreeMap::new(),
            session: 0,
            killed: 0,
        };
        soak.is_whole();
        soak
    }

    /// The numbers of the generations in sight, and which is the current one.
    #[track_caller]
    fn list(&self) -> (Vec<u64>, u64) {
        let text = self.tool.text(&["dind", "store", "list", STORE]);
        let (mut numbers, mut current) = (Vec::new(), None);
        for line in text.lines() {
            let number = line.strip_prefix("generation ");
            let number = number.and_then(|rest| rest.split([' ', ':']).next()?.parse().ok());
            let number = number.unwrap_or_else(|| panic!("{line}"));
            numbers.push(number);
            let marks = line.split(": ").next().unwrap_or_default();
            if marks.contains("current") {
                current = Some(number);
            }
        }
        (
            numbers,
            current.unwrap_or_else(|| panic!("none is current: {text}")),
        )
    }

    /// All that the generations in sight need is there.
    #[track_caller]
    fn is_whole(&self) {
        self.tool.exec(&["dind", "store", "check", STORE]).exited(0);
    }

    #[track_caller]
    fn is_clean(&self) {
        assert_eq!(self.tool.sh(LEFT), "", "kill {}", self.killed);
    }

    /// Saves a session, and kills that where `kills`: at any time, or when its command has ended and
    /// what it has left is being published.
    #[track_caller]
    fn save(&mut self, kills: bool) {
        self.session += 1;
        let token = format!("session-{}", self.session);
        let before = self.list();
        let words = [
            "store", "save", STORE, "--", "bash", "-ec", SESSION, "session", &token,
        ];
        let saving = saves(&self.stores).start(&words);
        if kills && self.random.next().is_multiple_of(2) {
            thread::sleep(self.random.time(4000));
        } else {
            saving.wait_log("made", 1);
            thread::sleep(self.random.time(1500));
        }
        if kills {
            // It may have ended before.
            saving.docker(&["kill", "--signal", "KILL"]);
        }
        let status = saving.wait();
        self.killed += u64::from(kills && status == 137);
        let (numbers, current) = self.list();
        self.is_whole();
        assert!(
            numbers
                .iter()
                .filter(|number| !before.0.contains(number))
                .count()
                <= 1,
            "{before:?}, and then {numbers:?}"
        );
        match status {
            0 => {
                assert!(!before.0.contains(&current), "{before:?} and {current}");
                self.is_clean();
            }
            137 => assert!(current == before.1 || !before.0.contains(&current)),
            status => panic!("the save ended with {status}"),
        }
        if current != before.1 {
            self.tokens.insert(current, token);
        }
    }

    /// The generation of an engine, which has all of it and nothing of another one.
    #[track_caller]
    fn has_one_generation(&self, container: &Container) -> u64 {
        let origin = container.sh(
            "sed -n 's/.*\"generation\": \\([0-9]*\\).*/\\1/p' /var/lib/docker/dind-store.json",
        );
        let number: u64 = origin.parse().unwrap_or_else(|_| panic!("{origin:?}"));
        if let Some(token) = self.tokens.get(&number) {
            assert_eq!(&container.sh(LOOK), token, "generation {number}");
        }
        number
    }

    /// Kills a start from the store, and starts the same container again.
    #[track_caller]
    fn begin(&mut self) {
        let container = begins(&self.stores).start(&[]);
        for _ in 0..1 + self.random.next() % 3 {
            thread::sleep(self.random.time(700));
            kill(&container);
            self.killed += 1;
            container.docker(&["start"]).exited(0);
        }
        wait_healthy(&container);
        self.has_one_generation(&container);
        container.not_logged(&["dind: error"]);
        container.not_logged(&["dind: warning"]);
    }

    /// Kills a prune, and then lets one come to its end; a generation is in use.
    #[track_caller]
    fn prune(&mut self) {
        let reader = begins(&self.stores).ready(&[]);
        let held = self.has_one_generation(&reader);
        self.save(false);
        let script = format!(
            "dind store prune {STORE} --keep 1 & sleep 0.{:03}; kill -9 $! || :; wait",
            self.random.next() % 40
        );
        self.tool.text(&["bash", "-c", &script]);
        self.killed += 1;
        self.is_whole();
        assert!(self.list().0.contains(&held), "{held} is in use");
        let prune = ["dind", "store", "prune", STORE, "--keep", "1"];
        self.tool.text(&prune);
        assert_eq!(self.list().0.len(), 2, "{held} is in use");
        self.is_whole();
        self.is_clean();
        assert_eq!(self.has_one_generation(&reader), held);
    }
}

/// See above. By how many kills, and with what seed, says `tests/lab soak`.
#[test]
fn a_kill_leaves_a_store_as_it_was() {
    let kills = setting("DIND_LAB_SOAK_KILLS").unwrap_or(6);
    let seed = seed();
    eprintln!("soak of a store: {kills} kills, seed {seed}");
    let mut soak = Soak::new(Random(seed));
    soak.save(false);
    while soak.killed < kills {
        match soak.random.next() % 5 {
            0..=2 => soak.save(true),
            3 => soak.begin(),
            _ => soak.prune(),
        }
        let (numbers, current) = soak.list();
        eprintln!(
            "soak of a store: {} kills, {} sessions, {} published; generations {numbers:?}, {current} is current",
            soak.killed,
            soak.session,
            soak.tokens.len()
        );
    }
    // Once more, whatever came before it.
    soak.save(false);
    let container = begins(&soak.stores).ready(&[]);
    assert_eq!(soak.has_one_generation(&container), soak.list().1);
    soak.is_clean();
}
