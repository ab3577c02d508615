//! `dind health`: checks whether the daemon of this container answers, for HEALTHCHECK and for
//! Kubernetes probes. It runs as a separate process beside PID 1.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::api::ping::{Ping, Progress};
use crate::api::readiness;
use crate::facts::capabilities::{Capabilities, Capability};
use crate::facts::client::rootless_socket;
use crate::facts::{daemon_json, exec_root, processes};
use crate::input::config::Config;
use crate::input::contract::Contract;
use crate::input::dockerd_arguments::{DockerdArguments, DockerdOptions};
use crate::input::request::Health;
use crate::input::variables;
use crate::messages::fault::Fault;
use crate::messages::remedy::Remedy;
use crate::plan::capabilities;
use crate::sys::clock::Clock;
use crate::sys::read;
use crate::sys::wait;

/// How long an answer may take without `--wait`.
const PROMPT: Duration = Duration::from_secs(5);

/// How often what cannot be watched from here is looked for: a containerd, a TCP address.
const TURN: Duration = Duration::from_millis(100);

/// How long an answer may take, on the clock of the process that waits for it.
struct Patience {
    clock: Clock,
    all: Duration,
}

impl Patience {
    fn new(all: Duration) -> Self {
        Self {
            clock: Clock::since(Instant::now()),
            all,
        }
    }

    fn left(&self) -> Duration {
        self.all.saturating_sub(self.clock.now())
    }
}

/// An address on which the daemon may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    /// Without TLS.
    Tcp(SocketAddr),
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(formatter),
            Self::Tcp(address) => write!(formatter, "tcp://{address}"),
        }
    }
}

fn is_tcp(address: &Address) -> bool {
    matches!(address, Address::Tcp(_))
}

/// Asks the daemon for an answer, on the Unix sockets that PID 1's arguments, the environment and
/// daemon.json name, for `how.wait` or 5 s; and its containerd, where that can be asked. A daemon
/// that has none is asked on its TCP addresses. The fault has status 1 and the reason.
pub fn check(config: &Config, how: Health) -> Result<(), Fault> {
    let options = checked_options(config)?;
    let addresses = addresses(&options, config);
    // Without it dockerd answers, and starts no container.
    let containerd = (!options.has_own_containerd()).then_some(&options.exec_root);
    let patience = Patience::new(how.wait.unwrap_or(PROMPT));
    // Watched before the first attempt, so that no new socket is missed in between.
    let watched = addresses.iter().filter_map(|address| match address {
        Address::Unix(path) => Some(path.clone()),
        Address::Tcp(_) => None,
    });
    let watched = watched.chain(containerd.map(|root| exec_root::socket(root)));
    let has_unwatched = addresses.iter().any(is_tcp);
    let watch = how.wait.map(|_| watch(watched)).transpose()?;
    loop {
        let answer = answered(&addresses, &patience);
        let is_lost_inside = containerd.is_some()
            && matches!(&answer, Ok(listener) if has_lost_one_inside(*listener));
        let reason = match answer {
            Ok(_)
                if is_lost_inside
                    || containerd.is_some_and(|root| exec_root::has_lost_containerd(root)) =>
            {
                "containerd has ended, so docker starts no container".to_owned()
            }
            Ok(listener) => {
                if readiness::is_complete(how.wait.map(|_| patience.left())) {
                    return starts_containers(listener);
                }
                return Err(unhealthy(
                    "images are being loaded, or post-start hooks are running",
                ));
            }
            Err(reason) => reason,
        };
        let appeared = watch.as_ref().is_some_and(|watch| {
            let looks_again = is_lost_inside || has_unwatched;
            let turn = Patience::new(match looks_again {
                true => patience.left().min(TURN),
                false => patience.left(),
            });
            let appeared = any_readable(&[watch.as_fd()], &turn);
            // The events only have to be drained: the next attempt asks every socket.
            let _ = watch.read_events();
            appeared || (looks_again && !patience.left().is_zero())
        });
        if !appeared {
            return Err(unhealthy(&reason));
        }
    }
}

/// Whether the containerd has ended that the listener has started in another user namespace, beside a
/// dockerd that it has told of it. Its socket is in a directory of theirs.
fn has_lost_one_inside(listener: Option<i32>) -> bool {
    let of = |pid: i32, name: &str| read::kernel(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let Some((listener, dockerd)) =
        listener.and_then(|pid| Some((pid, processes::child(pid, "dockerd")?)))
    else {
        return false;
    };
    let arguments = of(dockerd, "cmdline");
    let mut arguments = arguments.split('\0');
    of(dockerd, "uid_map") != of(listener, "uid_map")
        && arguments.any(|word| word.starts_with("--containerd="))
        && processes::child(listener, "containerd").is_none()
}

/// Whether containers start, by the capabilities of the container that the listener is in: PID 1,
/// which has bound dockerd's socket. One that is not seen from here is not judged. Where it has no
/// CAP_SYS_ADMIN, its dockerd has the capabilities of a user namespace.
fn starts_containers(listener: Option<i32>) -> Result<(), Fault> {
    let given = listener.and_then(|pid| {
        let given = Capabilities::of_programs_of(pid)?;
        if given.has(Capability::SYS_ADMIN) {
            return Some(given);
        }
        let dockerd = processes::child(pid, "dockerd");
        dockerd.map_or(Some(given), Capabilities::of_programs_of)
    });
    match given.and_then(capabilities::containers) {
        None => Ok(()),
        Some((seen, remedy)) => Err(Fault::failure(format!("not healthy: {seen}")).remedy(remedy)),
    }
}

fn unhealthy(reason: &str) -> Fault {
    Fault::failure(format!("not healthy: {reason}")).remedy("see the container's log")
}

/// dockerd's options from PID 1's arguments, the environment and daemon.json. The fault is that
/// an argument or daemon.json is invalid.
pub fn options(config: &Config) -> Result<DockerdOptions, Fault> {
    let command_line = read::kernel("/proc/1/cmdline").unwrap_or_default();
    let arguments = DockerdArguments::new(
        &config.daemon_arguments,
        &daemon_arguments(command_line.as_bytes()),
    );
    let (path, _) = arguments.config_file();
    let text = daemon_json::read(&path, false)?;
    arguments.options(text.as_deref().map(|text| (path.as_path(), text)))
}

/// The same, where the variables that matter are valid.
fn checked_options(config: &Config) -> Result<DockerdOptions, Fault> {
    let read = [variables::DOCKER_DAEMON_ARGS, variables::DOCKER_HOST];
    config.check(|variable| read.contains(&variable))?;
    options(config)
}

/// The addresses on which the daemon may listen, the most likely first: Unix sockets, and those of TCP
/// where the options name no other and no TLS.
fn addresses(options: &DockerdOptions, config: &Config) -> Vec<Address> {
    let mut named = options.addresses().peekable();
    let has_tcp_alone = named.peek().is_some() && !named.any(|host| host.starts_with("unix://"));
    let tcp = options.addresses().filter_map(tcp_address);
    let tcp = tcp.filter(|_| has_tcp_alone && !options.tls.is_on());
    let sockets = sockets(options, config).into_iter().map(Address::Unix);
    sockets.chain(tcp.map(Address::Tcp)).collect()
}

/// The address of `host`, a value of dockerd's `--host`, as this container reaches it: without one it
/// is that of loopback (`ParseTCPAddr` in moby's opts/hosts.go). `None` where it is not of TCP.
fn tcp_address(host: &str) -> Option<SocketAddr> {
    let address = host.strip_prefix("tcp://").unwrap_or(host);
    let (ip, port) = address.rsplit_once(':')?;
    match ip {
        "" | "localhost" => Some((Ipv4Addr::LOCALHOST, port.parse().ok()?).into()),
        _ => address.parse().ok(),
    }
}

/// The Unix sockets on which the daemon may listen, the most likely first.
fn sockets(options: &DockerdOptions, config: &Config) -> Vec<PathBuf> {
    let named = options.addresses().filter_map(|address| {
        let path = address.strip_prefix("unix://")?;
        (!path.is_empty()).then(|| PathBuf::from(path))
    });
    let usual = config.socket_path(Contract::Dind);
    let mut sockets: Vec<PathBuf> = named.collect();
    sockets.retain(|path| *path != usual);
    sockets.insert(0, usual);
    sockets.extend(rootless_socket(config));
    sockets
}

/// dockerd's flags in the command line of PID 1, which is this program or an init that runs it:
/// proc_pid_cmdline(5).
fn daemon_arguments(command_line: &[u8]) -> Vec<OsString> {
    let words = command_line
        .split(|byte| *byte == 0)
        .map(|word| OsStr::from_bytes(word).to_owned());
    let is_program = |word: &OsString| {
        let name = Path::new(word).file_name().and_then(OsStr::to_str);
        name.is_some_and(|name| Contract::from_name(name).is_some())
    };
    let mut after = words
        .skip_while(|word| !is_program(word))
        .skip(1)
        .peekable();
    while after
        .next_if(|word| is_program(word) || word == "dockerd")
        .is_some()
    {}
    match after.peek() {
        Some(first) if first.as_bytes().starts_with(b"-") => after.collect(),
        Some(_) | None => Vec::new(),
    }
}

/// Pings all Unix sockets at the same time; where there is none, all addresses of TCP, which do not tell
/// who listens. Returns the process that listens on the first that is answered, where it is seen from
/// here. The error is the reason of the first that was pinged.
fn answered(addresses: &[Address], patience: &Patience) -> Result<Option<i32>, String> {
    let mut reasons = Vec::new();
    let mut asked: Vec<(&Address, Ping)> = Vec::new();
    for address in addresses {
        let (ping, place) = match address {
            Address::Unix(path) => (Ping::ask(path), reasons.len()),
            Address::Tcp(_) if asked.iter().any(|(address, _)| !is_tcp(address)) => continue,
            Address::Tcp(address) => (Ping::ask_tcp(address, patience.left()), 0),
        };
        match ping {
            Ok(ping) => asked.push((address, ping)),
            Err(error) => reasons.insert(place, format!("{address}: {error}")),
        }
    }
    while !asked.is_empty() {
        let mut waiting = Vec::new();
        let pollable: Vec<_> = asked.iter().map(|(_, ping)| ping.as_fd()).collect();
        if !any_readable(&pollable, patience) {
            let silent = asked
                .iter()
                .map(|(address, _)| format!("{address}: no answer in time"));
            reasons.splice(0..0, silent);
            break;
        }
        for (address, mut ping) in asked {
            match ping.advance() {
                Progress::Answered => return Ok(ping.listener()),
                Progress::Waiting => waiting.push((address, ping)),
                Progress::Refused(error) => reasons.push(format!("{address}: {error}")),
            }
        }
        asked = waiting;
    }
    Err(reasons.into_iter().next().unwrap_or_default())
}

/// Watches the directories of the sockets for new entries: inotify(7). Where a directory does
/// not exist yet, the nearest one above it that does.
fn watch(sockets: impl Iterator<Item = PathBuf>) -> Result<Inotify> {
    let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
        .context("cannot watch for the socket")
        .remedy("raise fs.inotify.max_user_instances")?;
    for socket in sockets {
        let directory = socket
            .ancestors()
            .skip(1)
            .find(|directory| directory.is_dir());
        // containerd sets the mode of its socket once it listens (`GetLocalListener` in containerd's
        // pkg/sys).
        let made = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ATTRIB;
        match directory.map(|directory| (directory, watch.add_watch(directory, made))) {
            // Whoever may not read the exec root does not see what is in it either.
            None | Some((_, Ok(_) | Err(Errno::EACCES))) => {}
            Some((directory, Err(errno))) => Err(errno)
                .with_context(|| format!("cannot watch {}", directory.display()))
                .remedy("raise fs.inotify.max_user_watches")?,
        }
    }
    Ok(watch)
}

fn any_readable(descriptors: &[BorrowedFd<'_>], patience: &Patience) -> bool {
    let mut descriptors: Vec<PollFd<'_>> = descriptors
        .iter()
        .map(|descriptor| PollFd::new(*descriptor, PollFlags::POLLIN))
        .collect();
    loop {
        let timeout = patience.clock.timeout(Some(patience.all));
        match poll(&mut descriptors, wait::timeout(timeout)) {
            Ok(0) if patience.left().is_zero() => return false,
            Ok(0) => {}
            Ok(_) => return true,
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_dockerds_flags_on_the_command_line_of_pid_1() {
        for (line, flags) in [
            ("/usr/local/bin/dind\0-H\0unix:///x\0", "-H unix:///x"),
            ("dind\0dockerd\0--debug\0", "--debug"),
            (
                "/sbin/docker-init\0--\0dind\0dockerd-entrypoint.sh\0-D\0",
                "-D",
            ),
            ("dind\0bash\0-c\0true\0", ""),
            ("sleep\0-1\0", ""),
            ("", ""),
        ] {
            let found = daemon_arguments(line.as_bytes());
            let found: Vec<_> = found.iter().map(|word| word.to_string_lossy()).collect();
            assert_eq!(found.join(" ").trim_end(), flags, "{line:?}");
        }
    }

    #[test]
    fn reads_tcp_addresses_as_dockerd_does() {
        for (host, address) in [
            ("tcp://0.0.0.0:2375", Some("0.0.0.0:2375")),
            ("127.0.0.1:4000", Some("127.0.0.1:4000")),
            ("tcp://:4000", Some("127.0.0.1:4000")),
            ("tcp://localhost:4000", Some("127.0.0.1:4000")),
            ("tcp://[::1]:4000", Some("[::1]:4000")),
            ("tcp://elsewhere:4000", None),
            ("unix:///run/own.sock", None),
            ("fd://", None),
        ] {
            let found = tcp_address(host).map(|address| address.to_string());
            assert_eq!(found.as_deref(), address, "{host}");
        }
    }
}
