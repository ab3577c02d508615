//! `tests/lab bench --crowd [SUITE]`: clients that start as soon as `docker run -d` has returned,
//! while other engines start over and over on the same processors. A client that comes before the
//! socket is there is refused. `docker run` returns before the kernel has executed the container's
//! first program, so a shell writes its own clock down in half of the rounds and becomes dind: what
//! was refused before then, nothing in the container could have answered.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::docker::{Result, docker};
use crate::harness::{Run, SOCKET, engine, first_answer, median, now, progress, variable};

/// How many clients.
const CLIENTS: usize = 40;

/// How many other engines start over and over.
const CROWDS: [usize; 2] = [0, 6];

pub fn bench(_suite: &str) -> Result<()> {
    let image = variable("DIND_LAB_IMAGE")?;
    println!("{}, {CLIENTS} clients", engine(&image)?);
    println!(
        "\n{:<14} {:<11} {:>9} {:>20} {:>26} {:>26}",
        "other engines",
        "PID 1",
        "answered",
        "refused before exec",
        "run returned to exec, ms",
        "exec to connection, ms"
    );
    for others in CROWDS {
        let over = AtomicBool::new(false);
        let rounds = thread::scope(|scope| {
            for number in 0..others {
                let (image, over) = (&image, &over);
                scope.spawn(move || crowd(number, image, over));
            }
            let rounds = (0..CLIENTS).map(|client| {
                progress(client, CLIENTS, &format!("{others} other engines"));
                Ok((
                    one(&image, FirstProgram::Dind)?,
                    one(&image, FirstProgram::Clock)?,
                ))
            });
            let rounds: Result<Vec<(Client, Client)>> = rounds.collect();
            over.store(true, Ordering::Relaxed);
            rounds
        })?;
        eprintln!();
        let (direct, timed): (Vec<Client>, Vec<Client>) = rounds.into_iter().unzip();
        for (first, clients) in [("dind", direct), ("shell, dind", timed)] {
            let answered = clients.iter().filter(|client| client.is_answered).count();
            let early = |client: &&Client| !client.is_answered && client.ended < client.executed;
            let early = clients.iter().filter(early).count();
            let column = |value: fn(&Client) -> f64| {
                let most = clients.iter().map(value).fold(f64::NAN, f64::max);
                match most.is_nan() {
                    true => "-".to_owned(),
                    false => format!("{:.1} (most {most:.1})", median(clients.iter().map(value))),
                }
            };
            println!(
                "{others:<14} {first:<11} {:>9} {:>20} {:>26} {:>26}",
                format!("{answered} of {CLIENTS}"),
                if first == "dind" {
                    "-".to_owned()
                } else {
                    early.to_string()
                },
                column(|client| client.executed),
                column(|client| client.accepted - client.executed),
            );
        }
    }
    Ok(())
}

/// Starts an engine, waits until it is ready, and begins again.
fn crowd(number: usize, image: &str, over: &AtomicBool) {
    let name = format!("dind-bench-{}-{number}", std::process::id());
    let quietly = |words: &[&str]| {
        let mut docker = Command::new("docker");
        docker
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // One that fails is load as well.
        let _ = docker.status();
    };
    while !over.load(Ordering::Relaxed) {
        quietly(&[
            "run",
            "-d",
            "--privileged",
            "--name",
            &name,
            "--env=DOCKER_TLS_CERTDIR=",
            image,
        ]);
        quietly(&["exec", &name, "dind", "health", "--wait", "30"]);
        quietly(&["rm", "-f", "-v", &name]);
    }
}

/// What a container executes first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FirstProgram {
    /// dind, as a user's does.
    Dind,
    /// A shell that writes its clock down and becomes dind.
    Clock,
}

/// What a client saw. Times are in ms since the return of `docker run -d`.
struct Client {
    is_answered: bool,
    /// When the client had its answer, or its refusal.
    ended: f64,
    /// When PID 1 was executed, if a shell has written that down.
    executed: f64,
    /// When a connection was accepted.
    accepted: f64,
}

fn one(image: &str, first: FirstProgram) -> Result<Client> {
    let run = Run::new()?;
    let socket = run.directory.join("docker.sock");
    let volume = format!("{}:/bench", run.directory.display());
    // The shell's own clock, so that no other program runs before PID 1 does.
    let script = "printf %s ${EPOCHREALTIME/./} >/bench/executed; exec dind";
    let watched = socket.clone();
    let accepted = thread::spawn(move || first_answer(&watched).map_err(|error| error.to_string()));
    let mut words = vec![
        "run",
        "-d",
        "--privileged",
        "--name",
        &run.name,
        "-v",
        &volume,
    ];
    words.extend(["--env", SOCKET, "--env=DOCKER_TLS_CERTDIR="]);
    match first {
        FirstProgram::Dind => words.push(image),
        FirstProgram::Clock => words.extend(["--entrypoint", "bash", image, "-c", script]),
    }
    docker(&words)?;
    let returned = now()?;
    let host = format!("--host=unix://{}", socket.display());
    let client = Command::new("docker")
        .args([&host, "version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    let ended = now()?;
    let (accepted, _) = accepted
        .join()
        .map_err(|_| "the watching thread has ended")??;
    let after = |moment: Duration| (moment.as_secs_f64() - returned.as_secs_f64()) * 1e3;
    Ok(Client {
        is_answered: client.success(),
        ended: after(ended),
        executed: match first {
            FirstProgram::Dind => f64::NAN,
            FirstProgram::Clock => after(executed(&run.directory)?),
        },
        accepted: after(accepted),
    })
}

fn executed(directory: &Path) -> Result<Duration> {
    let text = fs::read_to_string(directory.join("executed"))?;
    Ok(Duration::from_micros(text.trim().parse()?))
}
