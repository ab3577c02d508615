//! `tests/lab bench --scale [SUITE]`: what PID 1 does once for each of something, as that grows:
//! orphans to reap, inherited descriptors to close, lines of mountinfo to read.

use crate::docker::Result;
use crate::harness::{Contestant, Started, engine, median, progress, rounds, variable};

const ORPHANS: [usize; 3] = [10, 300, 3_000];
const DESCRIPTORS: [usize; 3] = [10, 1_000, 10_000];
/// Each is a line of mountinfo, beside those that a container has.
const MOUNTS: [usize; 3] = [10, 300, 1_000];

/// Figures of one number of things, a value a round.
#[derive(Default)]
struct Figures {
    /// Processor time of PID 1, in ms.
    processor: Vec<f64>,
    /// Until the API answers, in ms; nothing where that is not what grows.
    ready: Vec<f64>,
}

pub fn bench(_suite: &str) -> Result<()> {
    let image = variable("DIND_LAB_IMAGE")?;
    let dind = Contestant::new("dind", &image, &["dind"]).env("DOCKER_TLS_CERTDIR=");
    let dockerd = Contestant::new(
        "dockerd",
        &image,
        &["dockerd", "--host=unix:///bench/docker.sock"],
    );
    println!("{}, medians of {} rounds", engine(&image)?, rounds()?);
    println!(
        "\n{:<28} {:>7} {:>22} {:>12}",
        "", "number", "PID 1's processor, ms", "ready, ms"
    );
    rows("orphans, reaped", ORPHANS, |number| {
        orphans(&dind.start(&[])?, number)
    })?;
    let bash = Contestant {
        shell: "bash",
        ..dind.clone()
    };
    rows("descriptors, inherited", DESCRIPTORS, |number| {
        start(&bash, &descriptors(number))
    })?;
    rows("mounts", MOUNTS, |number| start(&dind, &mounts(number)))?;
    rows("mounts, dockerd alone", MOUNTS, |number| {
        start(&dockerd, &mounts(number))
    })
}

fn rows(
    what: &str,
    numbers: [usize; 3],
    run: impl Fn(usize) -> Result<(f64, Option<f64>)>,
) -> Result<()> {
    let rounds = rounds()?;
    let mut figures: [Figures; 3] = Default::default();
    for round in 0..=rounds {
        for (number, figures) in numbers.into_iter().zip(&mut figures) {
            progress(round, rounds, &format!("{what}, {number}"));
            let (processor, ready) = run(number)?;
            if round > 0 {
                figures.processor.push(processor);
                figures.ready.extend(ready);
            }
        }
    }
    eprintln!();
    for (number, figures) in numbers.into_iter().zip(figures) {
        let ready = match figures.ready.is_empty() {
            true => String::new(),
            false => format!("{:.0}", median(figures.ready)),
        };
        println!(
            "{what:<28} {number:>7} {:>22.2} {ready:>12}",
            median(figures.processor)
        );
    }
    Ok(())
}

/// Processor time of a start after `before`, and how long it took.
fn start(contestant: &Contestant, before: &str) -> Result<(f64, Option<f64>)> {
    let started = contestant.clone().before(before).start(&[])?;
    let processor = started.run.processor()?.saturating_sub(started.before);
    Ok((
        processor.as_secs_f64() * 1e3,
        Some(started.ready.as_secs_f64() * 1e3),
    ))
}

/// Processor time for orphans that all end at once, while nothing else happens.
fn orphans(started: &Started, number: usize) -> Result<(f64, Option<f64>)> {
    let run = &started.run;
    // Each is the child of a shell that has ended. All are in one session, which is printed.
    let script = format!(
        "for ((i = 0; i < {number}; i++)); do (sleep infinity & exec true) >/dev/null; done; echo $$"
    );
    let session = run.exec(&["setsid", "--wait", "bash", "-c", &script])?;
    let session = session.trim();
    let before = run.processor()?;
    run.sh(&format!(
        "pkill -KILL -s {session}; while ps -s {session} >/dev/null; do sleep 0.05; done"
    ))?;
    let processor = run.processor()?.saturating_sub(before);
    Ok((processor.as_secs_f64() * 1e3, None))
}

fn descriptors(number: usize) -> String {
    format!(
        "ulimit -n $(({number} + 100)); for ((i = 0; i < {number}; i++)); do exec {{fd}}</dev/null; done"
    )
}

fn mounts(number: usize) -> String {
    format!(
        "mkdir /many; for i in $(seq {number}); do mkdir /many/$i; mount --bind /many/$i /many/$i || exit; done"
    )
}
