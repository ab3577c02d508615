//! The figures of `tests/lab bench --deep [SUITE]`: `dind nest`, as deep as this kernel
//! lets pid namespaces nest, and the refusal of one level more.
//!
//! Every level is measured against the second, the first one that is made by nesting:
//! seconds from one level's ready line to the next, anonymous memory of the outermost
//! container's cgroup, and the space used below its data root.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::docker::{Result, docker};

/// Deeper than any kernel nests pid namespaces: MAX_PID_NS_LEVEL is 32.
const TOO_DEEP: usize = 40;

/// How much worse a level may be than the second.
const FLAT: f64 = 1.3;

/// How many of the last levels are taken together: one alone has the machine's noise.
const LAST: usize = 5;

/// What one level took.
#[derive(Clone, Copy)]
struct Level {
    seconds: f64,
    memory_mb: f64,
    disk_mb: f64,
}

/// A container that goes with its volume, whatever comes.
struct Outermost(String);

impl Drop for Outermost {
    fn drop(&mut self) {
        let _ = docker(&["rm", "-f", "-v", &self.0]);
    }
}

pub fn bench() -> Result<()> {
    let variable = |name: &str| {
        std::env::var(name)
            .map_err(|_| format!("{name} is not set; run it by 'tests/lab bench --deep'"))
    };
    let image = variable("DIND_LAB_IMAGE")?;
    let depth = deepest(&image)?;
    let levels = nest(&image, &variable("DIND_LAB_BUSYBOX")?, depth)?;
    println!(
        "{:>5} {:>8} {:>10} {:>8}",
        "level", "s", "memory, MB", "disk, MB"
    );
    for (number, level) in (2..).zip(&levels) {
        println!(
            "{number:>5} {:>8.2} {:>10.1} {:>8.0}",
            level.seconds, level.memory_mb, level.disk_mb
        );
    }
    println!();
    row("seconds", &levels, |level| level.seconds)?;
    row("memory", &levels, |level| level.memory_mb)?;
    row("disk", &levels, |level| level.disk_mb)
}

/// The largest depth that is not refused. One more must be, for want of pid namespaces.
fn deepest(image: &str) -> Result<usize> {
    let mut refusal = String::new();
    for depth in (1..=TOO_DEEP).rev() {
        let plan = docker(&[
            "run",
            "--rm",
            "--privileged",
            image,
            "plan",
            "nest",
            &depth.to_string(),
        ])?;
        let Some(refused) = plan.lines().find(|line| line.starts_with("would stop: ")) else {
            if !refusal.contains("pid namespaces") {
                return Err(format!("one level more than {depth}: {refusal}").into());
            }
            println!("{} levels are refused: {refusal}", depth + 1);
            return Ok(depth);
        };
        refusal = refused.to_owned();
    }
    Err(format!("no depth will do: {refusal}").into())
}

/// Nests, runs a container in the innermost level, and goes all the way back up.
fn nest(image: &str, busybox: &str, depth: usize) -> Result<Vec<Level>> {
    let name = format!("dind-deep-{}", std::process::id());
    let inside = "docker load -qi /busybox.tar >&2 && docker run --rm dind-lab/busybox:latest echo innermost >&2; exit 42";
    let outermost = Outermost(name);
    let name = outermost.0.as_str();
    docker(&[
        "create",
        "--privileged",
        "--no-healthcheck",
        "--env=LOG=file",
        "--name",
        name,
        image,
        "nest",
        &depth.to_string(),
        "--",
        "sh",
        "-c",
        inside,
    ])?;
    docker(&["cp", busybox, &format!("{name}:/busybox.tar")])?;
    let mut attached = Command::new("docker")
        .args(["start", "--attach", name])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(attached.stderr.take().ok_or("no standard error")?).lines();
    let mut levels = Vec::new();
    let mut before: Option<(Instant, f64, f64)> = None;
    let mut innermost = None;
    for line in lines {
        let line = line?;
        if line.contains("docker is ready after") {
            let now = (Instant::now(), memory(name)?, disk(name)?);
            if before.is_none() {
                let engine = "--format={{.ServerVersion}}, {{.Driver}}";
                let engine = docker(&["exec", name, "docker", "info", engine])?;
                println!("the engine of every level: {}", engine.trim());
            }
            if let Some(before) = before {
                levels.push(Level {
                    seconds: (now.0 - before.0).as_secs_f64(),
                    memory_mb: now.1 - before.1,
                    disk_mb: now.2 - before.2,
                });
            }
            eprint!("\rlevel {} of {depth}", levels.len() + 1);
            before = Some(now);
        } else if line == "innermost" {
            innermost = Some(Instant::now());
        } else if line.contains("error") {
            eprintln!("\r{line}");
        }
    }
    eprintln!();
    let status = attached.wait()?;
    let innermost = innermost.ok_or("no container ran in the innermost level")?;
    println!(
        "{depth} levels, and a container in the last; back up in {:.1} s, with its status: {}",
        innermost.elapsed().as_secs_f64(),
        status.code() == Some(42)
    );
    if status.code() != Some(42) || levels.len() + 1 != depth {
        return Err(format!("{} levels, {status}", levels.len() + 1).into());
    }
    Ok(levels)
}

/// Anonymous memory of the container and all in it, in MB: of version 2, else of version 1.
fn memory(name: &str) -> Result<f64> {
    let script = "cd /sys/fs/cgroup; cat memory.stat 2>/dev/null || cat memory/memory.stat";
    let stat = docker(&["exec", name, "sh", "-c", script])?;
    let field = |wanted: &str| {
        stat.lines()
            .find_map(|line| line.strip_prefix(wanted)?.trim().parse::<f64>().ok())
    };
    let bytes = field("total_rss ").or_else(|| field("anon "));
    Ok(bytes.ok_or("memory.stat has neither total_rss nor anon")? / 1e6)
}

fn disk(name: &str) -> Result<f64> {
    let used = docker(&[
        "exec",
        name,
        "df",
        "--output=used",
        "-B1",
        "/var/lib/docker",
    ])?;
    let bytes = used.lines().last().unwrap_or_default().trim();
    Ok(bytes.parse::<f64>()? / 1e6)
}

fn row(what: &str, levels: &[Level], figure: fn(&Level) -> f64) -> Result<()> {
    let figures: Vec<f64> = levels.iter().map(figure).collect();
    let second = figures.first().ok_or("no level was made")?;
    let last = median(figures.iter().rev().take(LAST))?;
    let ratio = last / second;
    let verdict = if ratio <= FLAT { "reached" } else { "MISSED" };
    println!(
        "{what:<8} of the last {LAST} levels (median) against the second {ratio:>6.2}  must reach {FLAT}  {verdict}; median of all {:.1}",
        median(figures.iter())?
    );
    Ok(())
}

fn median<'a>(figures: impl Iterator<Item = &'a f64>) -> Result<f64> {
    let mut figures: Vec<f64> = figures.copied().collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures.get(figures.len() / 2);
    Ok(*middle.ok_or("no level was made")?)
}
