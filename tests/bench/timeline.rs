//! `tests/lab bench --timeline [SUITE]`: where the time of a start goes.
//!
//! Looking costs time, so there are three kinds of starts, turn by turn: as it is; with the debug
//! lines of dind, containerd and dockerd, whose times are the timeline; and with strace at every
//! program that is executed, which counts the runs of iptables.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use crate::docker::Result;
use crate::harness::{Contestant, Started, engine, median, progress, rounds, spread, variable};

/// What a start comes by, in its order: how it is shown, and what is in its line. The first line
/// with that counts. No engine has all of them.
const MARKS: &[(&str, &str)] = &[
    ("dind: first line, its plan is made", "dind: "),
    (
        "dind: the container is prepared, the loop begins",
        "dind: debug: Begin",
    ),
    ("containerd: first line", "msg=\"starting containerd\""),
    ("containerd: serves", "msg=\"containerd successfully booted"),
    ("dockerd: first line", "msg=\"Starting up\""),
    (
        "dockerd: asks containerd",
        "msg=\"Creating a containerd client\"",
    ),
    ("dockerd: storage driver", "priority list:"),
    ("dockerd: that is there", "backingFs="),
    ("dockerd: firewall", "iptables, [--wait"),
    ("dockerd: default bridge", "Allocating IPv4 pools"),
    (
        "dockerd: containers are there",
        "msg=\"Loading containers: done.\"",
    ),
    ("dockerd: buildkit", "msg=\"Initializing buildkit\""),
    (
        "dockerd: that is there",
        "msg=\"Completed buildkit initialization\"",
    ),
    ("dockerd: first route", "Registering route"),
    (
        "dockerd: done",
        "msg=\"Daemon has completed initialization\"",
    ),
];

/// A program that was executed: when it began and when it ended, in seconds of the day's clock.
struct Execution {
    program: String,
    began: f64,
    ended: f64,
}

/// What all runs of one program in one start took.
#[derive(Default)]
struct Runs {
    number: Vec<f64>,
    /// Seconds, each from its exec to its exit.
    sum: Vec<f64>,
}

pub fn bench(_suite: &str) -> Result<()> {
    let image = variable("DIND_LAB_IMAGE")?;
    let plain = Contestant::new("as it is", &image, &["dind"]).env("DOCKER_TLS_CERTDIR=");
    let debug = Contestant {
        name: "with debug lines".into(),
        ..plain
            .clone()
            .env("DIND_LOG=debug")
            .env("DOCKER_DAEMON_ARGS=--debug")
    };
    let strace =
        "strace -DD -f --seccomp-bpf -ttt -q -e trace=execve -e signal=none -o /bench/trace dind";
    let traced = Contestant {
        name: "with strace".into(),
        image: variable("DIND_LAB_STRACE")?,
        command: strace.split(' ').map(str::to_owned).collect(),
        ..plain.clone()
    };
    let rounds = rounds()?;
    let mut ready: [Vec<f64>; 3] = Default::default();
    let mut accepted = Vec::new();
    let mut marks: Vec<Vec<f64>> = vec![Vec::new(); MARKS.len()];
    let mut programs: BTreeMap<String, Runs> = BTreeMap::new();
    for round in 0..=rounds {
        for (contestant, ready) in [&plain, &debug, &traced].into_iter().zip(&mut ready) {
            progress(round, rounds, &contestant.name);
            let started = contestant.start(&[])?;
            if round == 0 {
                continue;
            }
            ready.push(started.ready.as_secs_f64());
            match contestant.name.as_str() {
                "with debug lines" => {
                    accepted.push(started.accepted.as_secs_f64());
                    note_marks(&started, &mut marks)?;
                }
                "with strace" => note_programs(&started, &mut programs)?,
                _ => {}
            }
        }
    }
    eprintln!();
    println!(
        "{}, {rounds} interleaved runs, median (min to max)",
        engine(&image)?
    );
    for (name, ready) in ["as it is", "with debug lines", "with strace"]
        .iter()
        .zip(&ready)
    {
        println!("ready, {name:<20} {:>26} s", spread(ready));
    }
    println!(
        "\n{:>7}  medians with debug lines, ms since PID 1 began",
        "ms"
    );
    let mut rows = vec![("first connection accepted", median(accepted))];
    rows.extend(
        MARKS
            .iter()
            .zip(marks)
            .map(|((name, _), times)| (*name, median(times))),
    );
    let [_, debug, traced] = ready;
    rows.push(("the API answers", median(debug)));
    rows.retain(|(_, time)| time.is_finite());
    rows.sort_by(|left, right| left.1.total_cmp(&right.1));
    for (name, time) in rows {
        println!("{:>7.1}  {name}", time * 1e3);
    }
    println!(
        "\n{:<24} {:>6} {:>9}  with strace, until the API answers after {:.3} s",
        "program",
        "runs",
        "sum, s",
        median(traced)
    );
    for (program, runs) in programs {
        println!(
            "{program:<24} {:>6} {:>9.3}",
            median(runs.number),
            median(runs.sum)
        );
    }
    Ok(())
}

/// The time of each mark in a start's log: the daemons write theirs themselves, and the engine notes
/// when it got a line of dind's.
fn note_marks(started: &Started, marks: &mut [Vec<f64>]) -> Result<()> {
    let logs = Command::new("docker")
        .args(["logs", "--timestamps", &started.run.name])
        .output()?;
    let logs = String::from_utf8(logs.stdout)? + &String::from_utf8(logs.stderr)?;
    for ((_, part), times) in MARKS.iter().zip(marks) {
        let lines = logs.lines().filter(|line| line.contains(part));
        let first = lines.filter_map(time_of_line).min_by(f64::total_cmp);
        let Some(first) = first else { continue };
        // Both are of this day, unless it is midnight.
        let began = started.began.as_secs_f64() % 86_400.0;
        times.push((first - began).rem_euclid(86_400.0));
    }
    Ok(())
}

/// Seconds since midnight, of `DATETHH:MM:SS.FRACTIONZ`: of the daemon's `time="…"`, else the first
/// word's.
fn time_of_line(line: &str) -> Option<f64> {
    let text = match line.split_once("time=\"") {
        Some((_, text)) => text,
        None => line,
    };
    let (_, clock) = text.split_once('T')?;
    let (clock, _) = clock.split_once('Z')?;
    clock.split(':').try_fold(0.0, |seconds, part| {
        Some(seconds * 60.0 + part.parse::<f64>().ok()?)
    })
}

fn note_programs(started: &Started, programs: &mut BTreeMap<String, Runs>) -> Result<()> {
    let ready = (started.began + started.ready).as_secs_f64();
    let trace = fs::read_to_string(started.run.directory.join("trace"))?;
    let mut sums: BTreeMap<String, (u32, f64)> = BTreeMap::new();
    for execution in executions(&trace) {
        if execution.began < ready && execution.ended.is_finite() {
            let (number, sum) = sums.entry(execution.program).or_default();
            *number += 1;
            *sum += execution.ended - execution.began;
        }
    }
    for (program, (number, sum)) in sums {
        let runs = programs.entry(program).or_default();
        runs.number.push(f64::from(number));
        runs.sum.push(sum);
    }
    Ok(())
}

/// What strace wrote: a line is a pid, a time and a call or its second half, or an end. A program
/// that still runs has no end.
fn executions(trace: &str) -> Vec<Execution> {
    let mut executions: Vec<(String, Execution)> = Vec::new();
    for line in trace.lines() {
        let mut words = line.split_whitespace();
        let (Some(pid), Some(time)) = (words.next(), words.next()) else {
            continue;
        };
        let Ok(time) = time.parse::<f64>() else {
            continue;
        };
        if let Some((_, call)) = line.split_once(" execve(\"") {
            let path = call.split('"').next().unwrap_or_default();
            let program = path.rsplit('/').next().unwrap_or_default().to_owned();
            let execution = Execution {
                program,
                began: time,
                ended: f64::INFINITY,
            };
            if !line.contains(" = -1 ") {
                executions.push((pid.to_owned(), execution));
            }
            continue;
        }
        let last = executions.iter_mut().rev().find(|(of, _)| of == pid);
        let Some((_, execution)) = last else { continue };
        if line.contains(" +++ ") {
            execution.ended = execution.ended.min(time);
        } else if line.contains("execve resumed") && line.contains(" = -1 ") {
            // It was not executed: what has no end does not count.
            execution.began = f64::INFINITY;
        }
    }
    executions
        .into_iter()
        .map(|(_, execution)| execution)
        .collect()
}
