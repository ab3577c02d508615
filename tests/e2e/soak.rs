//! Crash consistency: the container is killed at random moments while clients make images,
//! containers and files in it, and started again. The engine comes up by itself, and has
//! everything that it had acknowledged: to a client that saw it, outside.
//!
//! `tests/lab soak` does this for as long as one likes. A SIGKILL takes no page from the
//! kernel's cache, so nothing needs to have reached a disk; but nothing may be held by the
//! processes alone, and whatever they were in the middle of may not be in the way.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::docker::{BUSYBOX, Container, Scratch, Volume, dind};

/// Clients of four kinds beside each other, which print a line for each object that has been
/// acknowledged to them: its kind, its name, what is in it, and `ok`, without which the line
/// is not complete. `dd` fails where fsync(2) does.
const CLIENTS: &str = r#"
round=$1 busybox=$2
imported() {
    mkdir -p "/soak/$1" && echo "$1" >"/soak/$1/kept" && tar -c -C "/soak/$1" kept | docker import -
}
imports() {
    local id token="import-$round-$1"
    id=$(imported "$token") && echo "image $id $token ok"
}
loads() {
    local id token="load-$round-$1"
    id=$(imported "$token") && docker save --output "/soak/$token.tar" "$id" &&
        docker rmi "$id" >/dev/null && docker load --quiet --input "/soak/$token.tar" >/dev/null &&
        echo "image $id $token ok"
}
containers() {
    local id token="container-$round-$1"
    id=$(docker create "$busybox" true) && echo "container $id - ok"
    docker run --name "$token" "$busybox" \
        sh -c "echo $token | dd of=/kept conv=fsync && echo file $token $token ok"
    docker run --rm --volume "$token:/volume" "$busybox" \
        sh -c "echo $token | dd of=/volume/kept conv=fsync && echo volume $token $token ok"
}
lines() {
    local token="lines-$round-$1"
    docker run --name "$token" "$busybox" sh -c "
        for number in \$(seq 1000); do
            echo \$number | dd of=/kept oflag=append conv=notrunc,fsync && echo lines $token \$number ok
        done"
}
for client in imports loads containers lines; do
    (for number in $(seq 20); do $client "$number"; done) &
done
wait
"#;

/// Prints what there is of the objects of standard input, one a line, as it is to be.
const LOOK: &str = r#"
look() {
    local id
    case $1 in
    image)
        # Killed between the rename and the commit of a snapshot, containerd finds its directory in
        # the way, once: it removes it then (createSnapshot in its overlay snapshotter).
        id=$(docker create "$2" true) || id=$(docker create "$2" true) || return
        echo "$1 $2 $(docker cp "$id:/kept" - | tar -xO)"
        docker rm "$id" >/dev/null
        ;;
    container) docker inspect --type container --format "container {{.Id}} -" "$2" ;;
    file) echo "$1 $2 $(docker cp "$2:/kept" - | tar -xO)" ;;
    # As many as are in order from 1 on.
    lines) echo "$1 $2 $(docker cp "$2:/kept" - | tar -xO | awk '$0 != NR { exit } { last = NR } END { print last + 0 }')" ;;
    volume) echo "$1 $2 $(cat "$(docker volume inspect --format '{{.Mountpoint}}' "$2")/kept")" ;;
    esac
}
export -f look
xargs -P 4 -L 1 bash -c 'look "$@"' look
"#;

/// The kinds of objects.
const KINDS: [&str; 5] = ["container", "file", "image", "lines", "volume"];

/// What has been acknowledged: by kind and name, what is in it.
type Objects = BTreeMap<(String, String), String>;

/// Random numbers that a seed determines: splitmix64, by Sebastiano Vigna (public domain).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Up to `most` milliseconds.
    pub fn time(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.next() % most)
    }
}

pub fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is no number")),
    )
}

/// The seed that `tests/lab soak` gives, or another one each time.
pub fn seed() -> u64 {
    setting("DIND_LAB_SOAK_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |now| u64::from(now.subsec_nanos()))
    })
}

/// Waits until the API answers, however long the engine needs to find its way.
#[track_caller]
pub fn wait_healthy(container: &Container) {
    let health = container.exec(&["dind", "health", "--wait", "250"]);
    assert_eq!(
        health.status, 0,
        "the engine does not come up: {}",
        health.stderr
    );
}

#[track_caller]
pub fn kill(container: &Container) {
    container.signal("KILL");
    assert_eq!(container.wait(), 137);
}

/// Runs the clients until the container is killed, after `time`, and in the first round not
/// before there is something of each kind. What they were told.
#[track_caller]
fn work(container: &Container, round: u64, time: Duration) -> Objects {
    let number = round.to_string();
    let clients = container
        .exec_call(&[], &["bash", "-c", CLIENTS, "clients", &number, BUSYBOX])
        .stream();
    let mut objects = Objects::new();
    let mut next = || {
        let line = clients.next_line()?;
        let words: Vec<&str> = line.split(' ').collect();
        if let [kind, name, content, "ok"] = words[..] {
            // Of lines the last one counts.
            objects.insert((kind.into(), name.into()), content.into());
        }
        let kinds: BTreeSet<&String> = objects.keys().map(|(kind, _)| kind).collect();
        Some(kinds.len())
    };
    if round == 0 {
        while next().expect("the clients do their work") < KINDS.len() {}
    }
    thread::sleep(time);
    kill(container);
    while next().is_some() {}
    objects
}

/// Which of these objects are not there, or not as they were. By a few hundred at a time:
/// the deadline is one command's.
#[track_caller]
fn lost(container: &Container, objects: &Objects) -> Vec<(String, String)> {
    let objects: Vec<_> = objects.iter().collect();
    let mut lost = Vec::new();
    for some in objects.chunks(200) {
        let found = look(container, some);
        let is_there = |object: &(String, String), content: &str| match found.get(object) {
            Some(found) if object.0 == "lines" => {
                let number = |text: &str| text.parse::<u64>().expect("a number of lines");
                number(found) >= number(content)
            }
            Some(found) => found == content,
            None => false,
        };
        let missing = some
            .iter()
            .filter(|(object, content)| !is_there(object, content));
        lost.extend(missing.map(|(object, _)| (*object).clone()));
    }
    lost
}

/// What there is of these objects.
#[track_caller]
fn look(container: &Container, objects: &[(&(String, String), &String)]) -> Objects {
    let list: String = objects
        .iter()
        .map(|((kind, name), _)| format!("{kind} {name}\n"))
        .collect();
    let scratch = Scratch::new();
    container
        .exec_call(&["--interactive"], &["bash", "-c", LOOK])
        .stdin(&scratch.file("objects", &list))
        .finish()
        .stdout
        .lines()
        .filter_map(|line| {
            let (kind, rest) = line.split_once(' ')?;
            let (name, content) = rest.split_once(' ')?;
            Some(((kind.to_owned(), name.to_owned()), content.to_owned()))
        })
        .collect()
}

/// See above. By how many kills, and with what seed, says `tests/lab soak`.
#[test]
fn a_kill_loses_nothing_that_was_acknowledged() {
    let kills = setting("DIND_LAB_SOAK_KILLS").unwrap_or(5);
    let seed = seed();
    eprintln!("soak: {kills} kills, seed {seed}");
    let mut random = Random(seed);
    let volume = Volume::new();
    let container = dind().flags(volume.on("/var/lib/docker")).ready(&[]);
    container.load_busybox();
    let mut starts = 1;
    let mut acknowledged = Objects::new();
    let mut gone = BTreeSet::new();
    let mut killed = 0;
    while killed < kills {
        let new = work(&container, killed, random.time(4000));
        killed += 1;
        // One in four starts does not get far.
        while killed < kills && random.next().is_multiple_of(4) {
            container.docker(&["start"]).exited(0);
            starts += 1;
            thread::sleep(random.time(600));
            kill(&container);
            killed += 1;
        }
        container.docker(&["start"]).exited(0);
        starts += 1;
        wait_healthy(&container);
        for object in lost(&container, &new) {
            eprintln!("soak: kill {killed}: lost: {object:?}");
            gone.insert(object);
        }
        acknowledged.extend(new);
        eprintln!(
            "soak: {killed} kills, {starts} starts, {} objects acknowledged, {} lost",
            acknowledged.len(),
            gone.len()
        );
    }
    // Once more, whatever came after it.
    gone.extend(lost(&container, &acknowledged));
    let of = |kind: &str| {
        acknowledged
            .keys()
            .filter(|object| object.0 == kind)
            .count()
    };
    eprintln!(
        "soak: {killed} kills, {starts} starts, acknowledged {} images, {} containers, {} files, \
         {} files in volumes, {} files of lines; lost {}",
        of("image"),
        of("container"),
        of("file"),
        of("volume"),
        of("lines"),
        gone.len()
    );
    assert!(gone.is_empty(), "seed {seed}: lost {gone:?}");
}
