//! The harness: a thin wrapper over the `docker` command, whose containers and
//! volumes go when their value does, and show their logs where a test has failed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// Against hanging. `tests/lab vm-test` has more patience: under emulation everything
/// takes ten times as long.
pub fn deadline() -> Duration {
    let seconds = std::env::var("DIND_LAB_DEADLINE").map_or(300, |seconds| {
        seconds
            .parse()
            .expect("DIND_LAB_DEADLINE is a number of seconds")
    });
    Duration::from_secs(seconds)
}

/// The image for containers inside dind.
pub const BUSYBOX: &str = "dind-lab/busybox:latest";

/// A variable that `tests/lab test` sets.
pub fn lab(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run these tests by 'tests/lab test', which makes what they need")
    })
}

/// Whether this is `tests/lab test --all`, which takes the time for what a change rarely breaks.
pub fn all() -> bool {
    std::env::var_os("DIND_LAB_ALL").is_some()
}

/// A name that no other test has, in this run or another.
pub fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("dind-e2e-{}-{count}", std::process::id())
}

/// What a command did.
#[derive(Debug)]
pub struct Output {
    /// The command, for messages.
    command: String,
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Fails the test unless the exit status is `status`.
    #[track_caller]
    pub fn exited(self, status: i32) -> Self {
        assert_eq!(
            self.status, status,
            "{}: wrong exit status\n--- stdout\n{}\n--- stderr\n{}",
            self.command, self.stdout, self.stderr
        );
        self
    }

    /// Standard output of a success, without the newline at its end.
    #[track_caller]
    pub fn text(self) -> String {
        self.exited(0).stdout.trim_end().to_owned()
    }

    /// Fails the test unless standard error has a line with all of `parts`.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        assert!(
            line_with(&self.stderr, parts).is_some(),
            "{}: no line with {parts:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.stdout,
            self.stderr
        );
        self
    }
}

/// The first line that has all of `parts` in it.
pub fn line_with<'a>(text: &'a str, parts: &[&str]) -> Option<&'a str> {
    text.lines()
        .find(|line| parts.iter().all(|part| line.contains(part)))
}

/// What containerd and its shims log as errors when a shim ends, although nothing is lost but what
/// nobody waits for any more: the answer to the shim's last event (ttrpc, server.go), the wait for
/// running out of memory (containerd, pkg/oom/v1), an answer to a request that was given up
/// (ttrpc, client.go). And what a shim logs that has a container without a cgroup of its own, as in a
/// user namespace (containerd, runc/container.go and task/service.go of its shim).
const OF_SHIMS: [&[&str]; 5] = [
    &[
        "failed sending message on channel",
        "containerd.sock.ttrpc->@: write: broken pipe",
    ],
    &["cgroups: epoll wait", "error=shutdown"],
    &["ttrpc: received message on inactive stream"],
    &["loading cgroup", "cgroup deleted"],
    &["add cg to OOM monitor", "read-only file system"],
];

/// A process of ours that ends, at the latest, when this value does.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A call of the `docker` command.
pub struct Call {
    command: Command,
}

impl Call {
    pub fn new(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        Self::program("docker", arguments)
    }

    /// A call of another client of the engine.
    pub fn program(name: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        // Without it clients fall back to a daemon that nobody meant.
        lab("DOCKER_HOST");
        let mut command = Command::new(name);
        command.args(arguments).stdin(Stdio::null());
        Self { command }
    }

    /// Reads its standard input from a file.
    pub fn stdin(mut self, file: &Path) -> Self {
        let file = File::open(file)
            .unwrap_or_else(|error| panic!("cannot open {}: {error}", file.display()));
        self.command.stdin(file);
        self
    }

    /// Sets a variable of the CLI's own environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    fn shown(&self) -> String {
        let words: Vec<_> = self
            .command
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect();
        let program = self.command.get_program().to_string_lossy();
        format!("{program} {}", words.join(" "))
    }

    fn spawn(&mut self) -> Running {
        let child = self
            .command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Running(child.unwrap_or_else(|error| {
            panic!(
                "cannot run {}: {error}: run these tests by 'tests/lab test', which has it",
                self.shown()
            )
        }))
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn finish(self) -> Output {
        self.finish_within(deadline())
    }

    /// Runs a build to its end: without a cache it compiles, and installs packages.
    #[track_caller]
    pub fn finish_build(self) -> Output {
        self.finish_within(4 * deadline())
    }

    #[track_caller]
    fn finish_within(mut self, limit: Duration) -> Output {
        let mut running = self.spawn();
        let stdout = collect(running.0.stdout.take().expect("stdout is piped"));
        let stderr = collect(running.0.stderr.take().expect("stderr is piped"));
        let by = Instant::now() + limit;
        let take = |output: &Receiver<Vec<u8>>| {
            let left = by.saturating_duration_since(Instant::now());
            output.recv_timeout(left).map_or_else(
                |_| panic!("{} hangs: no end within {limit:?}", self.shown()),
                |bytes| String::from_utf8_lossy(&bytes).into_owned(),
            )
        };
        let (stdout, stderr) = (take(&stdout), take(&stderr));
        let status = running.0.wait().expect("a child can be waited for");
        Output {
            command: self.shown(),
            status: status.code().unwrap_or(-1),
            stdout,
            stderr,
        }
    }

    /// Starts it. Its standard output comes line by line.
    #[track_caller]
    pub fn stream(mut self) -> Stream {
        let mut running = self.spawn();
        let (sender, lines) = mpsc::channel();
        read_lines(running.0.stdout.take().expect("stdout is piped"), sender);
        // Somebody has to, or it would wait.
        drop(collect(running.0.stderr.take().expect("stderr is piped")));
        Stream {
            command: self.shown(),
            lines,
            _running: running,
        }
    }

    /// Waits for the `times`th line with `part` in it, and ends the command.
    #[track_caller]
    fn wait_line(mut self, part: &str, times: usize) {
        let mut running = self.spawn();
        let (sender, lines) = mpsc::channel();
        let stdout = running.0.stdout.take().expect("stdout is piped");
        let stderr = running.0.stderr.take().expect("stderr is piped");
        read_lines(stdout, sender.clone());
        read_lines(stderr, sender);
        let by = Instant::now() + deadline();
        let mut seen = 0;
        while seen < times {
            match lines.recv_timeout(by.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(part) => seen += 1,
                Ok(_) => {}
                Err(error) => panic!(
                    "{}: {part:?} came {seen} times, not {times}, before {}",
                    self.shown(),
                    match error {
                        mpsc::RecvTimeoutError::Timeout => "the deadline",
                        mpsc::RecvTimeoutError::Disconnected => "the end",
                    }
                ),
            }
        }
    }
}

/// A call of which the standard output is read while it runs.
pub struct Stream {
    command: String,
    lines: Receiver<String>,
    _running: Running,
}

impl Stream {
    /// The next line; `None` at its end.
    #[track_caller]
    pub fn next_line(&self) -> Option<String> {
        match self.lines.recv_timeout(deadline()) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("{} hangs", self.command),
        }
    }
}

/// Reads a stream to its end beside the caller.
fn collect(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What could be read counts; the receiver may have given up.
        let _ = stream.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

/// Runs `docker` to its end.
#[track_caller]
pub fn docker(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    Call::new(arguments).finish()
}

/// A container that is to be.
#[derive(Clone)]
pub struct Spec {
    flags: Vec<OsString>,
    image: String,
    first_arguments: Vec<String>,
}

/// The image under test, privileged; by `tests/lab test --rootless` without privileges, so that what
/// is the same in both modes has the same tests.
pub fn dind() -> Spec {
    match std::env::var_os("DIND_LAB_ROOTLESS_MODE") {
        None => unprivileged().flags(["--privileged"]),
        Some(_) => rootless(),
    }
}

/// The profile that `dind seccomp` prints, as README's shortest line has it. Where docker is called it
/// is the file with that text.
const SECCOMP: &str = "seccomp=dind.json";

/// The same flag with a file that has the profile, made once. One is left for the next run.
fn seccomp_file() -> &'static OsStr {
    static FLAG: OnceLock<OsString> = OnceLock::new();
    FLAG.get_or_init(|| {
        let path = Path::new("/tmp/dind-e2e-seccomp.json");
        let made = Path::new("/tmp").join(unique_name());
        // Other runs may read it.
        fs::write(&made, dind::plan::seccomp::text())
            .and_then(|()| fs::rename(&made, path))
            .unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        format!("seccomp={}", path.display()).into()
    })
}

/// The flags of README's shortest line for an engine in a user namespace.
pub const ROOTLESS_FLAGS: [[&str; 2]; 3] = [
    ["--security-opt", SECCOMP],
    ["--security-opt", "systempaths=unconfined"],
    ["--device", "/dev/net/tun"],
];

/// The capabilities that it needs, which are among Docker's defaults.
pub const ROOTLESS_CAPABILITIES: [&str; 5] = ["CHOWN", "DAC_OVERRIDE", "KILL", "SETGID", "SETUID"];

/// The image under test with that and no more.
pub fn rootless() -> Spec {
    rootless_with(ROOTLESS_FLAGS, ROOTLESS_CAPABILITIES)
}

/// The same with other flags and capabilities.
pub fn rootless_with<'a>(
    flags: impl IntoIterator<Item = [&'a str; 2]>,
    capabilities: impl IntoIterator<Item = &'a str>,
) -> Spec {
    with_only(flags, capabilities)
        .flags(["--security-opt=no-new-privileges"])
        // A host with AppArmor; the flag is no error on others.
        .flags(["--security-opt=apparmor=unconfined"])
}

/// A container with the flags and capabilities, and no other capability.
pub fn with_only<'a>(
    flags: impl IntoIterator<Item = [&'a str; 2]>,
    capabilities: impl IntoIterator<Item = &'a str>,
) -> Spec {
    unprivileged()
        .flags(flags.into_iter().flatten())
        .flags(["--cap-drop=ALL"])
        .flags(
            capabilities
                .into_iter()
                .map(|name| format!("--cap-add={name}")),
        )
}

/// The words for a shell's `docker run` inside that let the container be an engine, too:
/// `--privileged`, where the engine under test can do that.
///
/// Before 23.0 it asks for every capability of the kernel's, not only for those that it
/// may have (moby#42933), and a host may lack some: CAP_SYS_RESOURCE, in CI. Then it is
/// the capabilities that there are, and what else a privileged container has but for the
/// host's devices.
#[track_caller]
pub fn privileges() -> &'static str {
    static PRIVILEGES: OnceLock<String> = OnceLock::new();
    PRIVILEGES.get_or_init(|| {
        let container = dind().ready(&[]);
        container.load_busybox();
        let output = container.exec(&["docker", "run", "--rm", "--privileged", BUSYBOX, "true"]);
        if output.status == 0 {
            return "--privileged".into();
        }
        output.says(&["unable to apply caps: operation not permitted"]);
        let drops = container.sh(
            "bounding=$(setpriv --dump | sed -n 's/^Capability bounding set: //p')
             for name in $(setpriv --list-caps); do
                 case ,$bounding, in *,$name,*) ;; *) echo --cap-drop=$name ;; esac
             done",
        );
        assert_ne!(drops, "", "no capability is missing");
        let drops = drops.replace('\n', " ");
        format!(
            "--cap-add=ALL {drops} --security-opt=seccomp=unconfined \
             --security-opt=apparmor=unconfined --security-opt=systempaths=unconfined \
             '--device-cgroup-rule=a *:* rwm'"
        )
    })
}

/// The image under test, privileged, with a docker that gives [`privileges`] where it is
/// asked for `--privileged`. So have images that are made of the root file system.
#[track_caller]
pub fn nestable() -> Spec {
    let privileges = privileges();
    if privileges == "--privileged" {
        return dind();
    }
    let docker = format!(
        r#"#!/bin/bash
words=()
for word; do
    case $word in
    --privileged) words+=({privileges}) ;;
    *) words+=("$word") ;;
    esac
done
exec /usr/bin/docker "${{words[@]}}""#
    );
    dind().prelude(&format!(
        "cat >/usr/local/sbin/docker <<'TEXT'\n{docker}\nTEXT\nchmod 0755 /usr/local/sbin/docker"
    ))
}

/// The image under test as any other image is started.
pub fn unprivileged() -> Spec {
    Spec {
        flags: Vec::new(),
        image: lab("DIND_LAB_IMAGE"),
        first_arguments: Vec::new(),
    }
}

impl Spec {
    /// Flags for `docker create`.
    pub fn flags(mut self, flags: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.flags.extend(flags.into_iter().map(Into::into));
        self
    }

    pub fn env(self, name: &str, value: &str) -> Self {
        self.flags(["-e".to_owned(), format!("{name}={value}")])
    }

    pub fn image(mut self, image: &str) -> Self {
        self.image = image.to_owned();
        self
    }

    /// Runs `script` first, as PID 1, which then becomes dind.
    pub fn prelude(self, script: &str) -> Self {
        self.shell(&format!("set -e\n{script}\nexec dind \"$@\""))
    }

    /// Runs `script` in the place of dind; the arguments are its.
    pub fn shell(mut self, script: &str) -> Self {
        self.first_arguments = vec!["-c".into(), script.into(), "dind".into()];
        self.flags(["--entrypoint", "bash"])
    }

    fn arguments(&self, verb: &[&str], name: &str, command: &[&str]) -> Vec<OsString> {
        let mut words: Vec<OsString> = verb.iter().map(OsString::from).collect();
        words.extend(["--name".into(), name.into()]);
        let flags = self.flags.iter().map(|flag| match flag == SECCOMP {
            true => seccomp_file().to_owned(),
            false => flag.clone(),
        });
        words.extend(flags);
        words.push((&self.image).into());
        words.extend(self.first_arguments.iter().map(OsString::from));
        words.extend(command.iter().map(OsString::from));
        words
    }

    /// The words after `docker` that run it attached, and the container-to-be.
    pub fn attached(&self, flags: &[&str], command: &[&str]) -> (Container, Vec<OsString>) {
        let container = Container {
            name: unique_name(),
        };
        let mut verb = vec!["run"];
        verb.extend(flags);
        let words = self.arguments(&verb, &container.name, command);
        (container, words)
    }

    /// Makes it and does not start it.
    #[track_caller]
    pub fn create(&self, command: &[&str]) -> Container {
        let container = Container {
            name: unique_name(),
        };
        docker(self.arguments(&["create"], &container.name, command)).exited(0);
        container
    }

    /// Starts it, detached: standard input is `/dev/null`.
    #[track_caller]
    pub fn start(&self, command: &[&str]) -> Container {
        let container = Container {
            name: unique_name(),
        };
        docker(self.arguments(&["run", "--detach"], &container.name, command)).exited(0);
        container
    }

    /// Starts it, and waits until the API answers.
    #[track_caller]
    pub fn ready(&self, command: &[&str]) -> Container {
        let container = self.start(command);
        container.wait_ready();
        container
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(&self, command: &[&str]) -> Output {
        let (_container, words) = self.attached(&[], command);
        docker(words)
    }

    /// Runs it to its end with a file as its standard input.
    #[track_caller]
    pub fn run_with_stdin(&self, file: &Path, command: &[&str]) -> Output {
        let (_container, words) = self.attached(&["--interactive"], command);
        Call::new(words).stdin(file).finish()
    }
}

/// A container. It is removed, with its anonymous volumes, when this is dropped.
pub struct Container {
    pub name: String,
}

impl Drop for Container {
    fn drop(&mut self) {
        if thread::panicking() {
            let logs = Call::new(["logs", &self.name]).finish();
            eprintln!(
                "--- docker logs {}\n{}{}---",
                self.name, logs.stdout, logs.stderr
            );
        }
        let removed = Call::new(["rm", "--force", "--volumes", &self.name]).finish();
        if removed.status != 0 {
            eprintln!("{} is left behind: {}", self.name, removed.stderr);
        }
    }
}

impl Container {
    /// `docker VERB FLAGS... NAME`.
    #[track_caller]
    pub fn docker(&self, verb_and_flags: &[&str]) -> Output {
        docker(verb_and_flags.iter().copied().chain([self.name.as_str()]))
    }

    /// A call of `docker exec`, to be finished by the caller.
    pub fn exec_call(&self, flags: &[&str], command: &[&str]) -> Call {
        let words = ["exec"].iter().chain(flags).copied();
        Call::new(
            words
                .chain([self.name.as_str()])
                .chain(command.iter().copied()),
        )
    }

    /// Runs a command in it.
    #[track_caller]
    pub fn exec(&self, command: &[&str]) -> Output {
        self.exec_call(&[], command).finish()
    }

    /// The standard output of a command that succeeds.
    #[track_caller]
    pub fn text(&self, command: &[&str]) -> String {
        self.exec(command).text()
    }

    /// The standard output of a shell script that succeeds.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.text(&["sh", "-c", script])
    }

    /// Gives the engine inside an image to run containers from.
    #[track_caller]
    pub fn load_busybox(&self) {
        self.exec_call(&["--interactive"], &["docker", "load", "--quiet"])
            .stdin(Path::new(&lab("DIND_LAB_BUSYBOX")))
            .finish()
            .exited(0);
    }

    /// The standard output of a container inside, run to its end.
    #[track_caller]
    pub fn inner(&self, flags: &[&str], command: &[&str]) -> String {
        let mut words = vec!["docker", "run", "--rm"];
        words.extend(flags);
        words.push(BUSYBOX);
        words.extend(command);
        self.text(&words)
    }

    /// Both streams of its log.
    #[track_caller]
    pub fn logs(&self) -> String {
        let output = self.docker(&["logs"]).exited(0);
        output.stdout + &output.stderr
    }

    /// Fails the test unless the log has a line with all of `parts`.
    #[track_caller]
    pub fn logged(&self, parts: &[&str]) {
        let logs = self.logs();
        assert!(
            line_with(&logs, parts).is_some(),
            "the log has no line with {parts:?}"
        );
    }

    /// Fails the test unless the log has all of `parts`, each behind the one before.
    #[track_caller]
    pub fn logged_in_order(&self, parts: &[&str]) {
        let log = self.logs();
        let mut rest = log.as_str();
        for part in parts {
            let Some((_, after)) = rest.split_once(part) else {
                panic!("{part:?} is not in its place in:\n{log}");
            };
            rest = after;
        }
    }

    /// Fails the test if the log has a line with all of `parts`.
    #[track_caller]
    pub fn not_logged(&self, parts: &[&str]) {
        if let Some(line) = line_with(&self.logs(), parts) {
            panic!("a line that should not be in the log: {line}");
        }
    }

    /// Fails the test if one of the engine's programs has logged an error.
    #[track_caller]
    pub fn no_error_logged(&self) {
        let logs = self.logs();
        let error = logs.lines().find(|line| {
            ["level=error", "level=fatal"]
                .iter()
                .any(|level| line.contains(level))
                && !OF_SHIMS
                    .iter()
                    .any(|parts| parts.iter().all(|part| line.contains(part)))
        });
        if let Some(line) = error {
            panic!("an error in the log: {line}");
        }
    }

    /// Waits for the API.
    #[track_caller]
    pub fn wait_ready(&self) {
        self.wait_ready_times(1);
    }

    /// Waits until the API has answered for the `times`th time since the first start.
    #[track_caller]
    pub fn wait_ready_times(&self, times: usize) {
        self.wait_log("dind: docker is ready after", times);
    }

    /// Waits for the `times`th line with `part` in the log.
    #[track_caller]
    pub fn wait_log(&self, part: &str, times: usize) {
        Call::new(["logs", "--follow", &self.name]).wait_line(part, times);
    }

    /// Waits until it has been started, by whomever.
    #[track_caller]
    pub fn wait_started(&self) {
        let filter = format!("container={}", self.name);
        Call::new(["events", "--since", "0", "--filter", &filter]).wait_line("container start", 1);
    }

    /// Waits for its end; the exit status.
    #[track_caller]
    pub fn wait(&self) -> i32 {
        let status = self.docker(&["wait"]).text();
        status
            .parse()
            .unwrap_or_else(|_| panic!("docker wait printed {status:?}"))
    }

    #[track_caller]
    pub fn inspect(&self, format: &str) -> String {
        self.docker(&["inspect", "--format", format]).text()
    }

    #[track_caller]
    pub fn runs(&self) -> bool {
        self.inspect("{{.State.Running}}") == "true"
    }

    #[track_caller]
    pub fn signal(&self, name: &str) {
        self.docker(&["kill", "--signal", name]).exited(0);
    }

    /// Copies a file out of the container, which need not run.
    #[track_caller]
    pub fn copy_out(&self, from: &str, to: &Path) {
        let source = format!("{}:{from}", self.name);
        docker([OsStr::new("cp"), OsStr::new(&source), to.as_os_str()]).exited(0);
    }

    /// Copies a file into the container, which need not run.
    #[track_caller]
    pub fn copy_in(&self, from: &Path, to: &str) {
        let target = format!("{}:{to}", self.name);
        docker([OsStr::new("cp"), from.as_os_str(), OsStr::new(&target)]).exited(0);
    }

    /// Unpacks an archive at the top of the container's file system.
    #[track_caller]
    pub fn unpack(&self, archive: &Path) {
        let target = format!("{}:/", self.name);
        Call::new(["cp", "-", &target])
            .stdin(archive)
            .finish()
            .exited(0);
    }

    /// Where on this machine one of its ports is published.
    #[track_caller]
    pub fn published(&self, port: u16) -> String {
        let address = docker(["port", &self.name, &format!("{port}/tcp")]).text();
        let first = address.lines().next().unwrap_or_default();
        format!("tcp://{first}")
    }

    /// Repeats a script until it succeeds, for what no event tells.
    #[track_caller]
    pub fn wait_until(&self, script: &str) {
        let looped = format!("until {script}; do sleep 0.05; done");
        self.exec_call(&[], &["sh", "-c", &looped])
            .finish()
            .exited(0);
    }
}

/// A volume that goes with this value.
pub struct Volume(String);

impl Volume {
    #[track_caller]
    pub fn new() -> Self {
        let name = unique_name();
        docker(["volume", "create", &name]).exited(0);
        Self(name)
    }

    /// One that something else has made.
    pub fn adopt(name: &str) -> Self {
        Self(name.to_owned())
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    /// The words that mount it for `docker run`.
    pub fn on(&self, target: &str) -> [String; 2] {
        ["-v".into(), format!("{}:{target}", self.0)]
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let removed = docker(["volume", "rm", "--force", &self.0]);
        if removed.status != 0 {
            eprintln!("{} is left behind: {}", self.0, removed.stderr);
        }
    }
}

/// An image that is removed when this is dropped; what it shares with others stays.
pub struct Image(pub String);

impl Image {
    /// What `docker commit` makes of a container.
    #[track_caller]
    pub fn commit(container: &Container) -> Self {
        let name = unique_name();
        docker(["commit", &container.name, &name]).exited(0);
        Self(name)
    }

    /// The bytes that it has more than the image of the container that it was made of.
    #[track_caller]
    pub fn layer_size(&self) -> u64 {
        let words = [
            "history",
            "--no-trunc",
            "--human=false",
            "--format={{.Size}}",
        ];
        let sizes = docker(words.into_iter().chain([self.0.as_str()])).text();
        let top = sizes.lines().next().unwrap_or_default();
        top.parse()
            .unwrap_or_else(|_| panic!("docker history printed {sizes:?}"))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // With its parents would go the build cache, where a stage is its parent.
        let removed = docker(["image", "rm", "--force", "--no-prune", &self.0]);
        if removed.status != 0 {
            eprintln!("{} is left behind: {}", self.0, removed.stderr);
        }
    }
}

/// A network that goes with this value, after the containers that are in it.
pub struct Network {
    pub name: String,
}

impl Network {
    #[track_caller]
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// With flags for `docker network create`.
    #[track_caller]
    pub fn with(flags: &[&str]) -> Self {
        let name = unique_name();
        let words = ["network", "create"].iter().chain(flags).copied();
        docker(words.chain([name.as_str()])).exited(0);
        Self { name }
    }

    /// Puts a container into it, under another name too.
    #[track_caller]
    pub fn connect(&self, container: &Container, alias: &str) {
        docker([
            "network",
            "connect",
            "--alias",
            alias,
            &self.name,
            &container.name,
        ])
        .exited(0);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let removed = docker(["network", "rm", &self.name]);
        if removed.status != 0 {
            eprintln!("{} is left behind: {}", self.name, removed.stderr);
        }
    }
}

/// Sends the lines of a stream.
fn read_lines(stream: impl Read + Send + 'static, sender: mpsc::Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { return };
            if sender
                .send(String::from_utf8_lossy(&line).into_owned())
                .is_err()
            {
                return;
            }
        }
    });
}

/// A directory that containers can mount, and that goes with this value.
pub struct Scratch {
    pub path: PathBuf,
}

impl Scratch {
    /// In `/tmp`, wherever TMPDIR is: the engine of `tests/lab` shares that one.
    pub fn new() -> Self {
        let path = Path::new("/tmp").join(unique_name());
        fs::create_dir(&path)
            .unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        Self { path }
    }

    /// Writes a file in it.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::write(&path, content)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        path
    }

    /// The words for `docker run -v`.
    pub fn mounted_on(&self, target: &str) -> [String; 2] {
        ["-v".into(), format!("{}:{target}", self.path.display())]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("{} is left behind: {error}", self.path.display());
        }
    }
}
