//! `tests/lab bench [SUITE]`, the figures of README.md: `dind` against dockerd alone, in the
//! same image, turn by turn, so that a machine whose speed drifts does it to both.
//!
//! Every run is a fresh privileged container with a fresh volume. PID 1 begins as a
//! shell that notes the time and executes the contestant, and a client on this side
//! of a bind-mounted socket notes when it is accepted and when it is answered: the
//! clock is the host's on both sides.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::docker::{Result, docker};
use crate::harness::{Run, first_answer, median};

/// Counted rounds; one more comes first and is thrown away.
const ROUNDS: usize = 11;

/// Idle time before PID 1's memory is read.
const IDLE: Duration = Duration::from_millis(500);

/// What is measured against what.
#[derive(Clone, Copy)]
enum Contestant {
    /// `dind`: Unix and TCP socket.
    Dind,
    /// `dind`: Unix socket, and TCP with TLS and certificates made from nothing.
    DindTls,
    /// As the first, with iptables itself for each of dockerd's calls.
    DindIptables,
    /// dockerd as PID 1, Unix socket only.
    Plain,
    /// dockerd as wrapdocker starts it with `PORT`: Unix and TCP socket.
    PlainTcp,
}

impl Contestant {
    fn name(self) -> &'static str {
        match self {
            Self::Dind => "dind, unix + tcp",
            Self::DindTls => "dind, unix + tls",
            Self::DindIptables => "dind, no shortcut",
            Self::Plain => "dockerd, unix",
            Self::PlainTcp => "dockerd, unix + tcp",
        }
    }

    fn command(self) -> &'static str {
        match self {
            Self::Dind => "DOCKER_TLS_CERTDIR= DOCKER_HOST=unix:///bench/docker.sock exec dind",
            Self::DindTls => {
                "DOCKER_TLS_CERTDIR=/certs DOCKER_HOST=unix:///bench/docker.sock exec dind"
            }
            Self::DindIptables => {
                "DIND_IPTABLES_SHORTCUT=off DOCKER_TLS_CERTDIR= DOCKER_HOST=unix:///bench/docker.sock exec dind"
            }
            Self::Plain => "exec dockerd -H unix:///bench/docker.sock",
            Self::PlainTcp => "exec dockerd -H unix:///bench/docker.sock -H tcp://0.0.0.0:2375",
        }
    }
}

/// The figures of one run.
#[derive(Default, Clone, Copy)]
struct Figures {
    accepted: Duration,
    ready: Duration,
    stop: Duration,
    /// Processor time of PID 1 until the API answered.
    cpu: Duration,
    resident_kib: u64,
    /// One `dind health`, from its fork to its end; nothing for dockerd.
    health: Duration,
}

pub fn bench(suite: &str) -> Result<()> {
    let image = std::env::var("DIND_LAB_IMAGE")
        .map_err(|_| "DIND_LAB_IMAGE is not set; run it by 'tests/lab bench'")?;
    // Only there does the wait on TCP take 16 s; elsewhere it says nothing new.
    let contestants: &[Contestant] = match suite {
        "trixie" => &[
            Contestant::Dind,
            Contestant::Plain,
            Contestant::DindTls,
            Contestant::DindIptables,
            Contestant::PlainTcp,
        ],
        _ => &[
            Contestant::Dind,
            Contestant::Plain,
            Contestant::DindTls,
            Contestant::DindIptables,
        ],
    };
    let mut runs: Vec<Vec<Figures>> = contestants.iter().map(|_| Vec::new()).collect();
    for round in 0..=ROUNDS {
        for (contestant, runs) in contestants.iter().zip(&mut runs) {
            eprint!("\rround {round} of {ROUNDS}: {:<22}", contestant.name());
            let figures = run(*contestant, &image)?;
            if round > 0 {
                runs.push(figures);
            }
        }
    }
    eprintln!();
    report(suite, &image, contestants, &runs)
}

fn report(
    suite: &str,
    image: &str,
    contestants: &[Contestant],
    runs: &[Vec<Figures>],
) -> Result<()> {
    let version = docker(&["run", "--rm", "--entrypoint", "dockerd", image, "--version"])?;
    println!(
        "{suite}: {}, {ROUNDS} interleaved runs, median (min to max)",
        version.trim()
    );
    println!("{:<22} {:>26} {:>26}", "", "ready, s", "stop, s");
    for (contestant, runs) in contestants.iter().zip(runs) {
        println!(
            "{:<22} {:>26} {:>26}",
            contestant.name(),
            spread(runs, |figures| figures.ready),
            spread(runs, |figures| figures.stop),
        );
    }
    let [dind, plain, tls, iptables, ..] = runs else {
        return Err("no runs".into());
    };
    let ready: fn(&Figures) -> f64 = |figures| figures.ready.as_secs_f64();
    let stop: fn(&Figures) -> f64 = |figures| figures.stop.as_secs_f64();
    let ready_limit = if suite == "trixie" { 0.50 } else { 0.95 };
    println!();
    row(
        "ready, against dockerd, unix",
        ratio(dind, plain, ready),
        ready_limit,
        "",
    );
    if let Some(tcp) = runs.get(4) {
        row(
            "ready, against dockerd, unix + tcp",
            ratio(dind, tcp, ready),
            0.05,
            "",
        );
    }
    row(
        "ready, against no shortcut for iptables",
        ratio(dind, iptables, ready),
        0.85,
        "",
    );
    row(
        "ready with TLS from nothing, against without",
        ratio(tls, dind, ready),
        1.10,
        "",
    );
    row("certificates from nothing", certificates()?, 30.0, "ms");
    row("stop, against dockerd", ratio(dind, plain, stop), 0.40, "");
    let milliseconds = |figure: fn(&Figures) -> Duration| {
        median(
            dind.iter()
                .map(|figures| figure(figures).as_secs_f64() * 1000.0),
        )
    };
    row(
        "first connection accepted",
        milliseconds(|figures| figures.accepted),
        10.0,
        "ms",
    );
    row(
        "processor time of PID 1 until ready",
        milliseconds(|figures| figures.cpu),
        10.0,
        "ms",
    );
    row(
        "dind health",
        milliseconds(|figures| figures.health),
        5.0,
        "ms",
    );
    let resident = |runs: &[Figures]| {
        median(
            runs.iter()
                .map(|figures| figures.resident_kib as f64 / 1024.0),
        )
    };
    let what = "resident memory of PID 1, idle";
    row(what, resident(dind), 2.0, "MB");
    row(&format!("{what}, with TLS"), resident(tls), 2.0, "MB");
    Ok(())
}

/// Milliseconds that it takes to make all keys and certificates and to write them.
fn certificates() -> Result<f64> {
    let mut times = Vec::new();
    for round in 0..=ROUNDS {
        let directory =
            std::env::temp_dir().join(format!("dind-bench-{}-{round}", std::process::id()));
        let names = ["docker", "localhost", "127.0.0.1", "172.17.0.2", "::1"]
            .into_iter()
            .filter_map(dind::input::san::Name::host)
            .collect();
        let began = Instant::now();
        let made = dind::tls::prepare(&directory, &names, SystemTime::now());
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        fs::remove_dir_all(&directory)?;
        made?;
    }
    Ok(median(times.into_iter().skip(1)))
}

fn row(what: &str, value: f64, limit: f64, unit: &str) {
    let verdict = if value <= limit { "reached" } else { "MISSED" };
    println!("{what:<44} {value:>8.3} {unit:<2}  must reach {limit:>5.2} {unit:<2}  {verdict}");
}

/// The median of the ratios, round by round.
fn ratio(dind: &[Figures], other: &[Figures], figure: fn(&Figures) -> f64) -> f64 {
    median(
        dind.iter()
            .zip(other)
            .map(|(dind, other)| figure(dind) / figure(other)),
    )
}

fn spread(runs: &[Figures], figure: fn(&Figures) -> Duration) -> String {
    let seconds = || runs.iter().map(|run| figure(run).as_secs_f64());
    let least = seconds().fold(f64::INFINITY, f64::min);
    let most = seconds().fold(0.0, f64::max);
    format!("{:.3} ({least:.3} to {most:.3})", median(seconds()))
}

fn run(contestant: Contestant, image: &str) -> Result<Figures> {
    let run = Run::new()?;
    let script = format!(
        "date +%s%N > /bench/start; read -r cpu rest < /proc/$$/schedstat; echo $cpu > /bench/cpu; {}",
        contestant.command()
    );
    let volume = format!("{}:/bench", run.directory.display());
    docker(&[
        "create",
        "--privileged",
        "--name",
        &run.name,
        "-v",
        &volume,
        "--entrypoint",
        "sh",
        image,
        "-c",
        &script,
    ])?;
    let mut start = Command::new("docker")
        .args(["start", &run.name])
        .stdout(Stdio::null())
        .spawn()?;
    let answered = first_answer(&run.directory.join("docker.sock"));
    let started = start.wait()?;
    let (accepted, ready) = answered.map_err(|error| {
        format!(
            "{}: {error}\n{}",
            contestant.name(),
            docker(&["logs", &run.name]).unwrap_or_default()
        )
    })?;
    if !started.success() {
        return Err(format!("docker start {}: {started}", run.name).into());
    }
    let began = Duration::from_nanos(
        fs::read_to_string(run.directory.join("start"))?
            .trim()
            .parse()?,
    );
    let cpu_before: u64 = fs::read_to_string(run.directory.join("cpu"))?
        .trim()
        .parse()?;
    let cpu = docker(&["exec", &run.name, "cat", "/proc/1/schedstat"])?;
    let cpu: u64 = cpu.split(' ').next().unwrap_or_default().parse()?;
    std::thread::sleep(IDLE);
    let health = match contestant {
        Contestant::Dind | Contestant::DindTls | Contestant::DindIptables => health(&run.name)?,
        Contestant::Plain | Contestant::PlainTcp => Duration::ZERO,
    };
    let status = docker(&["exec", &run.name, "cat", "/proc/1/status"])?;
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.split_whitespace().next())
        .ok_or("no VmRSS in /proc/1/status")?;
    Ok(Figures {
        accepted: accepted.saturating_sub(began),
        ready: ready.saturating_sub(began),
        stop: run.stop()?,
        cpu: Duration::from_nanos(cpu.saturating_sub(cpu_before)),
        resident_kib: resident.parse()?,
        health,
    })
}

/// The time of one `dind health`, of several in a row as bash measures them.
fn health(name: &str) -> Result<Duration> {
    const TIMES: u32 = 20;
    let script = format!(
        "export DOCKER_HOST=unix:///bench/docker.sock; began=${{EPOCHREALTIME/./}};
        for ((i = 0; i < {TIMES}; i++)); do dind health || exit; done; echo $((${{EPOCHREALTIME/./}} - began))"
    );
    let microseconds = docker(&["exec", name, "bash", "-c", &script])?;
    Ok(Duration::from_micros(microseconds.trim().parse()?) / TIMES)
}
