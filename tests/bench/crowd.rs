//! `tests/lab bench --crowd [SUITE]`: clients that start as soon as `docker run -d` has returned,
//! while other engines start over and over on the same processors. A client that comes before the
//! socket is there is refused; how long the container's first program is not even executed by then
//! is the outer engine's time, and printed beside it.

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
        "\n{:<16} {:>9} {:>26} {:>26}",
        "other engines", "answered", "run returned to exec, ms", "exec to connection, ms"
    );
    for others in CROWDS {
        let over = AtomicBool::new(false);
        let clients = thread::scope(|scope| {
            for number in 0..others {
                let (image, over) = (&image, &over);
                scope.spawn(move || crowd(number, image, over));
            }
            let clients = (0..CLIENTS).map(|client| {
                progress(client, CLIENTS, &format!("{others} other engines"));
                one(&image)
            });
            let clients: Result<Vec<Client>> = clients.collect();
            over.store(true, Ordering::Relaxed);
            clients
        })?;
        eprintln!();
        let answered = clients.iter().filter(|client| client.is_answered).count();
        let column = |value: fn(&Client) -> f64| {
            let most = clients.iter().map(value).fold(f64::MIN, f64::max);
            format!("{:.1} (most {most:.1})", median(clients.iter().map(value)))
        };
        println!(
            "{others:<16} {:>9} {:>26} {:>26}",
            format!("{answered} of {CLIENTS}"),
            column(|client| client.executed),
            column(|client| client.accepted),
        );
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

/// What a client saw. Times are in ms.
struct Client {
    is_answered: bool,
    /// From the return of `docker run -d` until PID 1 was executed; below 0 where that came first.
    executed: f64,
    /// From there until a connection was accepted.
    accepted: f64,
}

fn one(image: &str) -> Result<Client> {
    let run = Run::new()?;
    let socket = run.directory.join("docker.sock");
    let volume = format!("{}:/bench", run.directory.display());
    // The shell's own clock, so that no other program runs before PID 1 does.
    let script = "printf %s ${EPOCHREALTIME/./} >/bench/executed; exec dind";
    let watched = socket.clone();
    let accepted = thread::spawn(move || first_answer(&watched).map_err(|error| error.to_string()));
    docker(&[
        "run",
        "-d",
        "--privileged",
        "--name",
        &run.name,
        "-v",
        &volume,
        "--env",
        SOCKET,
        "--env=DOCKER_TLS_CERTDIR=",
        "--entrypoint",
        "bash",
        image,
        "-c",
        script,
    ])?;
    let returned = now()?;
    let host = format!("--host=unix://{}", socket.display());
    let client = Command::new("docker")
        .args([&host, "version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    let (accepted, _) = accepted
        .join()
        .map_err(|_| "the watching thread has ended")??;
    let executed = executed(&run.directory)?;
    let milliseconds = |from: Duration, to: Duration| (to.as_secs_f64() - from.as_secs_f64()) * 1e3;
    Ok(Client {
        is_answered: client.success(),
        executed: milliseconds(returned, executed),
        accepted: milliseconds(executed, accepted),
    })
}

fn executed(directory: &Path) -> Result<Duration> {
    let text = fs::read_to_string(directory.join("executed"))?;
    Ok(Duration::from_micros(text.trim().parse()?))
}
