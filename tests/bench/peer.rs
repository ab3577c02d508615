//! `tests/lab bench --peer IMAGE`: another Docker in Docker beside this one, turn by turn, each by
//! its own entrypoint and as a user starts it: `docker run --privileged -d IMAGE`.
//!
//! The other image needs a shell, and has to listen where `DOCKER_HOST=unix://…` says, as
//! docker:dind does.

use std::path::Path;
use std::time::Duration;

use crate::docker::{Result, docker};
use crate::harness::{
    BUSYBOX, Contestant, Run, engine, now, progress, ratio, rounds, spread, variable,
};

/// Containers inside that are PID 1 of their namespace and have no handler for SIGTERM.
const DEAF: usize = 3;

/// What is measured of an image, a value a round.
#[derive(Default)]
struct Figures {
    ready_tls: Vec<f64>,
    ready: Vec<f64>,
    accepted: Vec<f64>,
    stop: Vec<f64>,
    stop_deaf: Vec<f64>,
    memory: Vec<f64>,
    /// Stops that ended by `docker stop`'s SIGKILL.
    killed: usize,
}

type Row = fn(&Figures) -> &[f64];

pub fn bench() -> Result<()> {
    let images = [variable("DIND_LAB_IMAGE")?, variable("DIND_LAB_PEER")?];
    let busybox = variable("DIND_LAB_BUSYBOX")?;
    let rounds = rounds()?;
    let contestants = images
        .iter()
        .map(|image| {
            let command = command(image)?;
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            Ok(Contestant::new(image, image, &command))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut figures = [Figures::default(), Figures::default()];
    for round in 0..=rounds {
        for (contestant, figures) in contestants.iter().zip(&mut figures) {
            progress(round, rounds, &contestant.name);
            measure(contestant, Path::new(&busybox), figures)?;
            if round == 0 {
                *figures = Figures::default();
            }
        }
    }
    eprintln!();
    report(&images, &figures, rounds)
}

/// What an image runs where nothing is said: its entrypoint and its command.
fn command(image: &str) -> Result<Vec<String>> {
    let format = "{{json .Config.Entrypoint}}\n{{json .Config.Cmd}}";
    let words = docker(&["image", "inspect", "--format", format, image])?;
    let mut command = Vec::new();
    for line in words.lines() {
        command.extend(serde_json::from_str::<Option<Vec<String>>>(line)?.unwrap_or_default());
    }
    match command.is_empty() {
        true => Err(format!("{image} has neither ENTRYPOINT nor CMD").into()),
        false => Ok(command),
    }
}

fn measure(contestant: &Contestant, busybox: &Path, figures: &mut Figures) -> Result<()> {
    let plain = contestant.clone().env("DOCKER_TLS_CERTDIR=").start(&[])?;
    figures.ready.push(plain.ready.as_secs_f64());
    figures.accepted.push(plain.accepted.as_secs_f64());
    figures.memory.push(plain.run.resident()?);
    figures.stop(&plain.run, |figures| &mut figures.stop)?;
    drop(plain);
    let tls = contestant
        .clone()
        .env("DOCKER_TLS_CERTDIR=/certs")
        .start(&[busybox])?;
    figures.ready_tls.push(tls.ready.as_secs_f64());
    let name = busybox.file_name().unwrap_or_default().to_string_lossy();
    tls.run.sh(&format!(
        "docker load -qi /bench/{name} && for i in $(seq {DEAF}); do \
         docker run -d {BUSYBOX} sleep 1000000 || exit; done"
    ))?;
    figures.stop(&tls.run, |figures| &mut figures.stop_deaf)
}

impl Figures {
    /// `docker stop`, as a user does it: the image's own signal, and SIGKILL after 10 s.
    fn stop(&mut self, run: &Run, times: fn(&mut Self) -> &mut Vec<f64>) -> Result<()> {
        let began = now()?;
        docker(&["stop", &run.name])?;
        let took: Duration = run.ended()?.saturating_sub(began);
        times(self).push(took.as_secs_f64());
        let status = docker(&["inspect", "--format", "{{.State.ExitCode}}", &run.name])?;
        self.killed += usize::from(status.trim() == "137");
        Ok(())
    }
}

fn report(images: &[String; 2], figures: &[Figures; 2], rounds: usize) -> Result<()> {
    for image in images {
        println!("{image}: {}", engine(image)?);
    }
    println!("{rounds} interleaved runs, median (min to max); ratio: the median of the rounds'");
    let [ours, theirs] = figures;
    let [our_name, their_name] = images;
    println!(
        "\n{:<38} {our_name:>28} {their_name:>28} {:>6}",
        "", "ratio"
    );
    let rows: [(&str, Row); 6] = [
        ("ready with TLS from nothing, s", |figures| {
            &figures.ready_tls
        }),
        ("ready without TLS, s", |figures| &figures.ready),
        ("first connection without TLS, s", |figures| {
            &figures.accepted
        }),
        ("docker stop, idle, s", |figures| &figures.stop),
        ("docker stop, three deaf containers, s", |figures| {
            &figures.stop_deaf
        }),
        ("resident memory of PID 1, MB", |figures| &figures.memory),
    ];
    for (name, row) in rows {
        println!(
            "{name:<38} {:>28} {:>28} {:>6.2}",
            spread(row(ours)),
            spread(row(theirs)),
            ratio(row(ours), row(theirs))
        );
    }
    println!(
        "{:<38} {:>28} {:>28}",
        format!("killed, of {} stops", 2 * rounds),
        ours.killed,
        theirs.killed
    );
    Ok(())
}
