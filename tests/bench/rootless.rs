//! `tests/lab bench --rootless [SUITE]`: an engine in a user namespace, with each way of connecting its
//! network, against docker:dind-rootless' recipe and against the same engine with privileges, turn by
//! turn.
//!
//! The recipe is rootlesskit's from Debian with the defaults of that image: slirp4netns, MTU 1500, the
//! port driver `builtin`, in a privileged container of an ordinary user, on a Unix socket only. dind
//! has a TCP socket, too.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::docker::{Result, docker};
use crate::harness::{
    BUSYBOX, Contestant, engine, median, progress, ratio, rounds, spread, variable,
};

/// What an engine in a user namespace needs, and no more.
const FLAGS: &[&str] = &[
    "--security-opt=seccomp=unconfined",
    "--security-opt=systempaths=unconfined",
    "--security-opt=apparmor=unconfined",
    "--security-opt=no-new-privileges",
    "--cap-drop=ALL",
    "--cap-add=CHOWN",
    "--cap-add=DAC_OVERRIDE",
    "--cap-add=KILL",
    "--cap-add=SETGID",
    "--cap-add=SETUID",
];

/// Idle time before PID 1's memory is read.
const IDLE: Duration = Duration::from_millis(500);

/// What is measured, a value a round.
#[derive(Default)]
struct Figures {
    ready: Vec<f64>,
    stop: Vec<f64>,
    memory: Vec<f64>,
    out: Vec<f64>,
    into: Vec<f64>,
}

type Row = fn(&Figures) -> &[f64];

/// The server outside, which is removed at the end.
struct Server {
    name: String,
    /// This program where the engine finds it: beside the sockets.
    program: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = docker(&["rm", "-f", &self.name]);
        let _ = std::fs::remove_file(&self.program);
    }
}

impl Server {
    /// Starts it, and gives its address, too.
    fn start() -> Result<(Self, String)> {
        let name = format!("dind-bench-server-{}", std::process::id());
        let program = std::env::temp_dir().join(&name);
        std::fs::copy(std::env::current_exe()?, &program)?;
        let server = Self { name, program };
        let volume = format!("{}:/flow", server.program.display());
        let run = ["run", "-d", "--name", &server.name, "-v", &volume, BUSYBOX];
        docker(&[&run[..], &["/flow", "flow-serve", "."]].concat())?;
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let address = docker(&["inspect", "--format", format, &server.name])?;
        Ok((server, address.trim().to_owned()))
    }
}

pub fn bench() -> Result<()> {
    let image = variable("DIND_LAB_IMAGE")?;
    let peer = variable("DIND_LAB_ROOTLESS_PEER")?;
    let busybox = PathBuf::from(variable("DIND_LAB_BUSYBOX")?);
    let rounds = rounds()?;
    let (server, address) = Server::start()?;
    let rootless = |name: &str, flag: &str| {
        let flags = FLAGS.iter().copied().chain([flag]);
        Contestant::new(name, &image, &["dind"])
            .with_flags(flags)
            .env("DOCKER_TLS_CERTDIR=")
    };
    let tun = "--device=/dev/net/tun";
    let mut pasta = rootless("dind, pasta", tun).env("DIND_ROOTLESS_NETWORK=pasta");
    // What its warning advises, since with a larger buffer, such as this host may have, connections
    // stall, and what README.md advises for a server on the same machine, as this one is.
    for buffer in ["rmem=4096 131072 16777216", "wmem=4096 33554432 33554432"] {
        pasta
            .options
            .push(format!("--sysctl=net.ipv4.tcp_{buffer}"));
    }
    let contestants = [
        recipe(&peer),
        Contestant::new("dind, privileged", &image, &["dind"]).env("DOCKER_TLS_CERTDIR="),
        rootless("dind, slirp4netns", tun),
        pasta,
        rootless("dind, veth", "--cap-add=NET_ADMIN"),
    ];
    let mut figures = contestants.each_ref().map(|_| Figures::default());
    for round in 0..=rounds {
        for (contestant, figures) in contestants.iter().zip(&mut figures) {
            progress(round, rounds, &contestant.name);
            measure(contestant, [&busybox, &server.program], &address, figures)?;
            if round == 0 {
                *figures = Figures::default();
            }
        }
    }
    eprintln!();
    println!(
        "{}, {rounds} interleaved rounds, median (min to max)",
        engine(&image)?.trim()
    );
    report(&contestants, &figures)
}

/// docker:dind-rootless' recipe, as its user. Where the host has `/dev/net/tun` for root alone, it
/// fails, so root opens it before.
fn recipe(image: &str) -> Contestant {
    let as_user = "setpriv --reuid=rootless --regid=rootless --init-groups env HOME=/home/rootless";
    let command: Vec<&str> = as_user.split(' ').chain(["peer-entrypoint"]).collect();
    let mut recipe = Contestant::new("docker:dind-rootless' recipe", image, &command);
    recipe.options.push("--user=0".into());
    recipe.before("chmod 0666 /dev/net/tun")
}

fn measure(
    contestant: &Contestant,
    [busybox, program]: [&Path; 2],
    server: &str,
    figures: &mut Figures,
) -> Result<()> {
    let started = contestant.start(&[busybox, program])?;
    let run = &started.run;
    figures.ready.push(started.ready.as_secs_f64());
    std::thread::sleep(IDLE);
    figures.memory.push(run.resident()?);
    let name = |path: &Path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    let (Some(archive), Some(program)) = (name(busybox), name(program)) else {
        return Err("a file without a name".into());
    };
    run.sh(&format!("docker load -qi /bench/{archive}"))?;
    for (direction, values) in [("out", &mut figures.out), ("in", &mut figures.into)] {
        let volume = format!("/bench/{program}:/flow");
        let inner = ["docker", "run", "--rm", "-v", &volume, BUSYBOX];
        let subject = format!("flow-{direction}");
        let rate = run.exec(&[&inner[..], &["/flow", &subject, server]].concat())?;
        values.push(rate.trim().parse()?);
    }
    figures.stop.push(run.stop()?.as_secs_f64());
    Ok(())
}

fn report(contestants: &[Contestant], figures: &[Figures]) -> Result<()> {
    let rows: [(&str, Row); 5] = [
        ("ready, s", |figures| &figures.ready),
        ("stop, s", |figures| &figures.stop),
        ("PID 1, MB", |figures| &figures.memory),
        ("TCP out, Mbit/s", |figures| &figures.out),
        ("TCP in, Mbit/s", |figures| &figures.into),
    ];
    for (name, row) in rows {
        println!("\n{name}");
        for (contestant, figures) in contestants.iter().zip(figures) {
            println!("    {:<30} {}", contestant.name, spread(row(figures)));
        }
    }
    let [peer, privileged, slirp4netns, pasta, veth] = figures else {
        return Err("no figures".into());
    };
    println!();
    let most = |what: &str, value: f64, limit: f64| verdict(what, value, limit, value <= limit);
    let least = |what: &str, value: f64, limit: f64| verdict(what, value, limit, value >= limit);
    most(
        "ready, against the recipe",
        ratio(&slirp4netns.ready, &peer.ready),
        0.30,
    );
    most(
        "ready, against the privileged mode",
        ratio(&slirp4netns.ready, &privileged.ready),
        1.2,
    );
    most(
        "the same with a veth pair",
        ratio(&veth.ready, &privileged.ready),
        1.2,
    );
    most(
        "stop, against the recipe's",
        ratio(&slirp4netns.stop, &peer.stop),
        0.2,
    );
    most(
        "resident memory of PID 1, MB",
        median(slirp4netns.memory.iter().copied()),
        1.2,
    );
    for (name, figures, limit) in [
        ("slirp4netns", slirp4netns, 4.0),
        ("pasta", pasta, 4.0),
        ("veth", veth, 9.0),
    ] {
        least(
            &format!("{name} out, against the recipe"),
            ratio(&figures.out, &peer.out),
            limit,
        );
        least(
            &format!("{name} in, against the recipe"),
            ratio(&figures.into, &peer.into),
            limit,
        );
    }
    Ok(())
}

fn verdict(what: &str, value: f64, limit: f64, reached: bool) {
    let verdict = if reached { "reached" } else { "MISSED" };
    println!("{what:<40} {value:>8.2}  must reach {limit:>5.2}  {verdict}");
}
