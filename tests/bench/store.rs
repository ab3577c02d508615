//! `tests/lab bench --store [SUITE]`: an engine that begins with a store against one that begins
//! empty, and against `docker load` of the same images.
//!
//! The store is made once: the image of dind's own files, and others with layers of random bytes,
//! which nothing compresses. Both engines of a round are measured one after the other, and then
//! a save of what a command of no work leaves.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::docker::{Result, docker};
use crate::harness::{
    Contestant, Started, engine, median, progress, ratio, rounds, spread, variable,
};

const IMAGES: usize = 10;

/// The layers of an image on top of its base, each by a step of its own.
const LAYERS: usize = 5;
const LAYER_KB: usize = 4000;

/// The image that is run and built: one on top of busybox.
const IMAGE: usize = IMAGES;

const STORE: &str = "/stores/main";

/// A volume with the store, and one with an archive of its images.
struct Stored {
    stores: String,
    archives: String,
}

impl Stored {
    fn new(image: &str) -> Result<Self> {
        let name = |of| format!("dind-bench-{of}-{}", std::process::id());
        let stored = Self {
            stores: name("stores"),
            archives: name("archives"),
        };
        let builds: Vec<String> = (1..=IMAGES)
            .map(|number| format!("{} >/dev/null", build(number)))
            .collect();
        let script = format!(
            "docker load --quiet >/dev/null
             tar -c --one-file-system --exclude=./tmp -C / . | docker import - own >/dev/null
             {}
             docker save -o /archives/all.tar dind-lab/busybox $(for i in $(seq {IMAGES}); do echo image:$i; done)",
            builds.join("\n")
        );
        let archives = format!("--volume={}:/archives", stored.archives);
        stored.dind(image, &[&archives], &save(&["sh", "-ec", &script]))?;
        Ok(stored)
    }

    /// Runs dind with the store writable and busybox's archive as its standard input, and
    /// returns how long that took, in seconds.
    fn dind(&self, image: &str, options: &[&str], words: &[&str]) -> Result<f64> {
        let stores = format!("--volume={}:/stores", self.stores);
        let began = Instant::now();
        let output = Command::new("docker")
            .args(["run", "--rm", "--interactive", "--privileged", &stores])
            .args(["--env=DOCKER_TLS_CERTDIR=", "--entrypoint=dind"])
            .args(options)
            .arg(image)
            .args(words)
            .stdin(File::open(variable("DIND_LAB_BUSYBOX")?)?)
            .stdout(Stdio::null())
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("dind {}: {}\n{said}", words.join(" "), output.status).into());
        }
        Ok(began.elapsed().as_secs_f64())
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        let _ = docker(&["volume", "rm", &self.stores, &self.archives]);
    }
}

fn save<'a>(command: &[&'a str]) -> Vec<&'a str> {
    let words = ["store", "save", STORE, "--"];
    words.into_iter().chain(command.iter().copied()).collect()
}

/// A script that builds an image, from the cache where its steps are there.
fn build(number: usize) -> String {
    let base = if number == 1 {
        "own"
    } else {
        "dind-lab/busybox"
    };
    let steps: String = (1..=LAYERS)
        .map(|step| format!("\\nRUN head -c {LAYER_KB}k /dev/urandom >/{number}-{step}"))
        .collect();
    format!("printf 'FROM {base}{steps}' | docker build --quiet --tag image:{number} -")
}

/// What is measured of an engine, a value a round, in seconds but for the memory.
#[derive(Default)]
struct Figures {
    ready: Vec<f64>,
    /// Until the images are there: nothing but the start where there is a store.
    images: Vec<f64>,
    first_run: Vec<f64>,
    build: Vec<f64>,
    build_again: Vec<f64>,
    /// Of PID 1, in MB.
    memory: Vec<f64>,
    /// Of PID 1.
    processor: Vec<f64>,
}

pub fn bench(_suite: &str) -> Result<()> {
    let image = variable("DIND_LAB_IMAGE")?;
    eprintln!("making a store");
    let stored = Stored::new(&image)?;
    let mut empty = Contestant::new("empty", &image, &["dind"]).env("DOCKER_TLS_CERTDIR=");
    let mut filled = empty.clone().env(&format!("DIND_STORE={STORE}"));
    filled.name = "store".into();
    let read_only = |volume: &str, path: &str| format!("--volume={volume}:{path}:ro");
    empty.options.push(read_only(&stored.archives, "/archives"));
    filled.options.push(read_only(&stored.stores, "/stores"));
    let rounds = rounds()?;
    let [mut ours, mut theirs] = [Figures::default(), Figures::default()];
    let [mut saved, mut alone] = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        progress(round, rounds, "from the store");
        let mut figures = Figures::default();
        measure(&filled, "", &mut figures)?;
        progress(round, rounds, "docker load");
        let mut others = Figures::default();
        measure(&empty, "docker load -qi /archives/all.tar", &mut others)?;
        progress(round, rounds, "store save");
        let saving = stored.dind(&image, &[], &save(&["true"]))?;
        let running = stored.dind(&image, &[], &["true"])?;
        stored.dind(&image, &[], &["store", "prune", STORE, "--keep", "1"])?;
        if round > 0 {
            ours.add(figures);
            theirs.add(others);
            saved.push(saving);
            alone.push(running);
        }
    }
    eprintln!();
    println!("{}, {rounds} interleaved runs", engine(&image)?);
    print!(
        "{}",
        docker(&[
            "run",
            "--rm",
            &read_only(&stored.stores, "/stores"),
            "--entrypoint=dind",
            &image,
            "store",
            "list",
            STORE,
        ])?
    );
    println!("median (min to max), in s; the ratio is the median of those of each round");
    println!(
        "{:<44} {:>24} {:>24} {:>6}",
        "", "from the store", "without", "ratio"
    );
    row("ready", &ours.ready, &theirs.ready);
    row(
        "ready, against docker load of its images",
        &ours.images,
        &theirs.images,
    );
    row(
        "first docker run, against a loaded image",
        &ours.first_run,
        &theirs.first_run,
    );
    // Without a store the first build makes its steps, so that the second one finds them.
    row(
        "first build, against a warm local cache",
        &ours.build,
        &theirs.build_again,
    );
    row(
        "the same build again",
        &ours.build_again,
        &theirs.build_again,
    );
    row("memory of PID 1, MB", &ours.memory, &theirs.memory);
    row(
        "processor time of PID 1 until ready",
        &ours.processor,
        &theirs.processor,
    );
    row("store save -- true, against true", &saved, &alone);
    let more = saved.iter().zip(&alone).map(|(saved, alone)| saved - alone);
    println!(
        "{:<44} {:>24.3}",
        "more than the command alone",
        median(more)
    );
    Ok(())
}

fn row(what: &str, ours: &[f64], theirs: &[f64]) {
    println!(
        "{what:<44} {:>24} {:>24} {:>6.2}",
        spread(ours),
        spread(theirs),
        ratio(ours, theirs)
    );
}

impl Figures {
    fn add(&mut self, one: Self) {
        self.ready.extend(one.ready);
        self.images.extend(one.images);
        self.first_run.extend(one.first_run);
        self.build.extend(one.build);
        self.build_again.extend(one.build_again);
        self.memory.extend(one.memory);
        self.processor.extend(one.processor);
    }
}

/// Starts an engine, which then has all images or gets them by `load`, and uses one.
fn measure(contestant: &Contestant, load: &str, figures: &mut Figures) -> Result<()> {
    let started = contestant.start(&[])?;
    let run = &started.run;
    let ready = started.ready.as_secs_f64();
    figures.ready.push(ready);
    figures.processor.push(
        run.processor()?
            .saturating_sub(started.before)
            .as_secs_f64(),
    );
    figures.memory.push(run.resident()?);
    let loading = match load {
        "" => 0.0,
        load => timed(&started, load)?,
    };
    figures.images.push(ready + loading);
    complete(&started)?;
    let first = format!("docker run --rm image:{IMAGE} true");
    figures.first_run.push(timed(&started, &first)?);
    figures.build.push(timed(&started, &build(IMAGE))?);
    figures.build_again.push(timed(&started, &build(IMAGE))?);
    Ok(())
}

/// How long a script runs, by the clock of the container, in seconds.
fn timed(started: &Started, script: &str) -> Result<f64> {
    let script = format!(
        "set -e; begin=$(date +%s%N); {script} >/dev/null; echo $(($(date +%s%N) - begin))"
    );
    let nanoseconds: f64 = started.run.sh(&script)?.trim().parse()?;
    Ok(nanoseconds / 1e9)
}

fn complete(started: &Started) -> Result<()> {
    let there = started.run.sh("docker images -q image | wc -l")?;
    match there.trim().parse() {
        Ok(IMAGES) => Ok(()),
        _ => Err(format!("{} images are there, not {IMAGES}", there.trim()).into()),
    }
}
