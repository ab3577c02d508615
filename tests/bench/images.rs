//! `tests/lab bench --images [SUITE]`: archives that are loaded at the start, against a loop of
//! `docker load` in a container that is ready.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::docker::{Result, docker};
use crate::harness::{Contestant, Started, engine, median, progress, rounds, spread, variable};

const ARCHIVES: usize = 6;

/// What an archive is made of: files of random bytes, which nothing compresses.
const FILES: usize = 200;
const FILE_KB: usize = 100;

/// The archives, in a volume of the engine's.
struct Archives {
    volume: String,
}

impl Archives {
    /// Each is an image of one layer that no other has.
    fn new(image: &str) -> Result<Self> {
        let archives = Self {
            volume: format!("dind-bench-images-{}", std::process::id()),
        };
        let script = format!(
            "dind sh -c 'set -e; cd /archives; for i in $(seq {ARCHIVES}); do
                 mkdir /tmp/$i; for j in $(seq {FILES}); do head -c {FILE_KB}k /dev/urandom >/tmp/$i/$j; done
                 tar -c -C /tmp/$i . | docker import - image:$i; docker save -o $i.tar image:$i
             done'"
        );
        let volume = format!("{}:/archives", archives.volume);
        docker(&[
            "run",
            "--rm",
            "--privileged",
            "-v",
            &volume,
            "--entrypoint",
            "sh",
            image,
            "-c",
            &script,
        ])?;
        Ok(archives)
    }
}

impl Drop for Archives {
    fn drop(&mut self) {
        let _ = docker(&["volume", "rm", &self.volume]);
    }
}

pub fn bench(_suite: &str) -> Result<()> {
    let image = variable("DIND_LAB_IMAGE")?;
    let archives = Archives::new(&image)?;
    let mut base = Contestant::new("", &image, &["dind"]).env("DOCKER_TLS_CERTDIR=");
    base.options
        .push(format!("--volume={}:/archives:ro", archives.volume));
    let at_start = base.clone().env("DIND_IMAGES=/archives");
    let rounds = rounds()?;
    let [mut loader, mut looped] = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        progress(round, rounds, "dind");
        let started = at_start.start(&[])?;
        let seconds = until_ready(&started)?;
        complete(&started)?;
        drop(started);
        progress(round, rounds, "docker load");
        let started = base.start(&[])?;
        let began = Instant::now();
        started
            .run
            .sh("for file in /archives/*.tar; do docker load -qi $file || exit; done")?;
        let by_hand = started.ready.as_secs_f64() + began.elapsed().as_secs_f64();
        complete(&started)?;
        if round > 0 {
            loader.push(seconds);
            looped.push(by_hand);
        }
    }
    eprintln!();
    println!("{}, {rounds} interleaved runs", engine(&image)?);
    println!(
        "{ARCHIVES} archives of {} MB, from the start of PID 1 until all are loaded, median (min to max)",
        FILES * FILE_KB / 1000
    );
    println!("{:<28} {:>26} s", "at the start, by dind", spread(&loader));
    println!(
        "{:<28} {:>26} s",
        "docker load, one by one",
        spread(&looped)
    );
    let ratios = loader
        .iter()
        .zip(&looped)
        .map(|(ours, theirs)| ours / theirs);
    println!("ratio {:.2}", median(ratios));
    Ok(())
}

/// Seconds from the start of PID 1 until `dind health` says that the images are loaded, too.
fn until_ready(started: &Started) -> Result<f64> {
    let waited = Command::new("docker")
        .args(["exec", &started.run.name, "dind", "health", "--wait", "60"])
        .stdout(Stdio::null())
        .status()?;
    if !waited.success() {
        return Err(format!("dind health --wait 60: {waited}").into());
    }
    Ok(crate::harness::now()?
        .saturating_sub(started.began)
        .as_secs_f64())
}

fn complete(started: &Started) -> Result<()> {
    let loaded = started.run.sh("docker images -q | wc -l")?;
    match loaded.trim().parse() {
        Ok(ARCHIVES) => Ok(()),
        _ => Err(format!("{} images are loaded, not {ARCHIVES}", loaded.trim()).into()),
    }
}
