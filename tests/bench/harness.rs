//! What every subject needs: a container whose start is timed, its stop, and medians.
//!
//! Every start is a fresh container, privileged unless said otherwise, with a fresh volume. PID 1 begins as a shell that
//! opens a FIFO and executes the contestant. This side waits on the FIFO, so it knows that moment
//! by its own clock, without a program in the image that could tell it. Then it connects to a
//! socket in the same directory.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::docker::{Result, docker};

/// How long one run may take before it is given up. dockerd alone waits 16 s on a
/// plain TCP address.
const DEADLINE: Duration = Duration::from_secs(60);

/// How often the client tries a socket that is not there yet.
const RETRY: Duration = Duration::from_micros(500);

/// The variable for `docker` in the container, and for what listens.
pub const SOCKET: &str = "DOCKER_HOST=unix:///bench/docker.sock";

/// The image for containers inside.
pub const BUSYBOX: &str = "dind-lab/busybox:latest";

/// Counted rounds: 11, or what `DIND_LAB_ROUNDS` says. One more comes first and is thrown away.
pub fn rounds() -> Result<usize> {
    match std::env::var("DIND_LAB_ROUNDS") {
        Ok(rounds) => Ok(rounds
            .parse()
            .map_err(|error| format!("DIND_LAB_ROUNDS={rounds}: {error}"))?),
        Err(_) => Ok(11),
    }
}

/// A variable that `tests/lab bench` sets.
pub fn variable(name: &str) -> Result<String> {
    std::env::var(name)
        .map_err(|_| format!("{name} is not set: run this by 'tests/lab bench'").into())
}

/// What is started, and how.
#[derive(Clone)]
pub struct Contestant {
    /// As the table names it.
    pub name: String,
    pub image: String,
    /// Options of `docker create` that give it rights.
    pub rights: Vec<String>,
    /// Options of `docker create`, beside those that all get.
    pub options: Vec<String>,
    /// What PID 1 begins as.
    pub shell: &'static str,
    /// A script that it runs before its time counts.
    pub before: String,
    /// What PID 1 then becomes.
    pub command: Vec<String>,
}

impl Contestant {
    pub fn new(name: &str, image: &str, command: &[&str]) -> Self {
        Self {
            name: name.into(),
            image: image.into(),
            rights: vec!["--privileged".into()],
            options: Vec::new(),
            shell: "sh",
            before: String::new(),
            command: command.iter().map(|&word| word.into()).collect(),
        }
    }

    /// With these flags, and not `--privileged`.
    pub fn with_flags<'a>(mut self, flags: impl IntoIterator<Item = &'a str>) -> Self {
        self.rights = flags.into_iter().map(str::to_owned).collect();
        self
    }

    /// With a variable.
    pub fn env(mut self, variable: &str) -> Self {
        self.options.push(format!("--env={variable}"));
        self
    }

    pub fn before(mut self, script: &str) -> Self {
        self.before = script.into();
        self
    }
}

/// A container of one run; removed with its volume whatever comes.
pub struct Run {
    pub name: String,
    pub directory: PathBuf,
}

impl Run {
    pub fn new() -> Result<Self> {
        let name = format!("dind-bench-{}", std::process::id());
        let directory = std::env::temp_dir().join(&name);
        fs::create_dir_all(&directory)?;
        // An ordinary user in it has its socket here, too.
        fs::set_permissions(&directory, Permissions::from_mode(0o777))?;
        // What the last run has left to be written is not this one's to wait for.
        nix::unistd::sync();
        Ok(Self { name, directory })
    }

    /// What a command in it prints.
    pub fn exec(&self, words: &[&str]) -> Result<String> {
        let words: Vec<&str> = ["exec", self.name.as_str()]
            .into_iter()
            .chain(words.iter().copied())
            .collect();
        docker(&words)
    }

    pub fn sh(&self, script: &str) -> Result<String> {
        self.exec(&["sh", "-c", script])
    }

    /// Resident memory of PID 1, in MB.
    pub fn resident(&self) -> Result<f64> {
        let status = self.exec(&["cat", "/proc/1/status"])?;
        let kib: f64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|value| value.split_whitespace().next())
            .ok_or("no VmRSS in /proc/1/status")?
            .parse()?;
        Ok(kib / 1024.0)
    }

    /// Processor time of PID 1 since it is there.
    pub fn processor(&self) -> Result<Duration> {
        nanoseconds(&self.exec(&["cat", "/proc/1/schedstat"])?)
    }

    /// When it has ended, by the engine's own clock.
    pub fn ended(&self) -> Result<Duration> {
        let ended = docker(&["inspect", "--format", "{{.State.FinishedAt}}", &self.name])?;
        let ended = Command::new("date")
            .args(["-d", ended.trim(), "+%s%N"])
            .output()?;
        nanoseconds(&String::from_utf8(ended.stdout)?)
    }

    /// From SIGTERM to PID 1 until the container has ended.
    pub fn stop(&self) -> Result<Duration> {
        let began = now()?;
        docker(&["kill", "--signal=TERM", &self.name])?;
        docker(&["wait", &self.name])?;
        Ok(self.ended()?.saturating_sub(began))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Best effort: a failure here must not hide the one that led here.
        let _ = docker(&["rm", "-f", "-v", &self.name]);
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A container whose API has answered. Times are since PID 1 began.
pub struct Started {
    pub run: Run,
    /// The time of day at which PID 1 began.
    pub began: Duration,
    pub accepted: Duration,
    pub ready: Duration,
    /// Processor time of PID 1 until it became the contestant.
    pub before: Duration,
}

impl Contestant {
    /// Starts it, with `files` beside its socket.
    pub fn start(&self, files: &[&Path]) -> Result<Started> {
        let run = Run::new()?;
        for file in files {
            let name = file.file_name().ok_or("a file without a name")?;
            fs::copy(file, run.directory.join(name))?;
        }
        let started = self
            .start_in(&run)
            .map_err(|error| format!("{}: {error}\n{}", self.name, logs(&run.name)))?;
        let (began, accepted, ready) = started;
        let before = nanoseconds(&fs::read_to_string(run.directory.join("cpu"))?)?;
        Ok(Started {
            run,
            began,
            accepted: accepted.saturating_sub(began),
            ready: ready.saturating_sub(began),
            before,
        })
    }

    fn start_in(&self, run: &Run) -> Result<(Duration, Duration, Duration)> {
        let fifo = run.directory.join("begin");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
        fs::set_permissions(&fifo, Permissions::from_mode(0o666))?;
        let script = format!(
            "{}\nread -r cpu rest </proc/1/schedstat; echo $cpu >/bench/cpu; : >/bench/begin; exec \"$@\"",
            self.before
        );
        let volume = format!("{}:/bench", run.directory.display());
        let mut words = vec!["create", "--name", &run.name, "-v", &volume];
        words.extend(self.rights.iter().map(String::as_str));
        words.extend(["--env", SOCKET, "--entrypoint", self.shell]);
        words.extend(self.options.iter().map(String::as_str));
        words.extend([&self.image, "-c", &script, "sh"]);
        words.extend(self.command.iter().map(String::as_str));
        docker(&words)?;
        // It ends with this process, should nobody ever open the FIFO.
        let began = thread::spawn(move || File::open(fifo).map(|_| SystemTime::now()));
        let mut start = Command::new("docker")
            .args(["start", &run.name])
            .stdout(Stdio::null())
            .spawn()?;
        let answered = first_answer(&run.directory.join("docker.sock"));
        let started = start.wait()?;
        let (accepted, ready) = answered?;
        if !started.success() {
            return Err(format!("docker start {}: {started}", run.name).into());
        }
        let began = began
            .join()
            .map_err(|_| "the clock's thread has ended")??
            .duration_since(UNIX_EPOCH)?;
        Ok((began, accepted, ready))
    }
}

/// The last lines of a container.
fn logs(name: &str) -> String {
    let logs = Command::new("docker")
        .args(["logs", "--tail=20", name])
        .output();
    logs.map_or_else(
        |error| error.to_string(),
        |logs| {
            let [stdout, stderr] = [logs.stdout, logs.stderr].map(String::from_utf8);
            stdout.unwrap_or_default() + &stderr.unwrap_or_default()
        },
    )
}

/// When the socket accepted a connection, and when the API answered on one.
pub fn first_answer(socket: &Path) -> Result<(Duration, Duration)> {
    let patience = Instant::now() + DEADLINE;
    let mut accepted = None;
    while Instant::now() < patience {
        if let Ok(mut stream) = UnixStream::connect(socket) {
            accepted.get_or_insert(now()?);
            stream.set_read_timeout(Some(DEADLINE))?;
            stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n")?;
            let mut answer = [0_u8; 12];
            if stream.read_exact(&mut answer).is_ok() && answer.ends_with(b" 200") {
                return Ok((accepted.unwrap_or_default(), now()?));
            }
        }
        thread::sleep(RETRY);
    }
    Err(format!("no answer in {} s on {SOCKET}", DEADLINE.as_secs()).into())
}

/// The time of day.
pub fn now() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

/// The first word of a text, which is a number of nanoseconds.
fn nanoseconds(text: &str) -> Result<Duration> {
    let word = text.split_whitespace().next().unwrap_or_default();
    Ok(Duration::from_nanos(word.parse()?))
}

/// What the engine in an image says of itself.
pub fn engine(image: &str) -> Result<String> {
    let version = docker(&["run", "--rm", "--entrypoint", "dockerd", image, "--version"])?;
    Ok(version.trim().to_owned())
}

/// Says what runs, on a line that the next one takes the place of.
pub fn progress(round: usize, rounds: usize, what: &str) {
    eprint!("\rround {round} of {rounds}: {what:<40}");
}

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median, the least and the most.
pub fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    let median = median(values.iter().copied());
    format!("{median:.3} ({least:.3} to {most:.3})")
}

/// The median of the ratios, round by round.
pub fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs))
}
