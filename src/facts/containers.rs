//! The containers that run, with what a stop depends on: from dockerd's data root and `/proc`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::libc;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use super::processes;
use crate::sys::read;

/// The largest file of a container that is read. Its environment is in it, which execve(2) limits
/// to less.
const LONGEST: u64 = 16 << 20;

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its name; its id where dockerd's file about it cannot be read.
    pub name: String,
    /// What dockerd's file about it says about its stop; `None` where that cannot be read.
    pub settings: Option<StopSettings>,
    /// Its main process.
    pub process: MainProcess,
}

/// What the user has chosen for a container's stop: `config.v2.json` in dockerd's data root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopSettings {
    /// The number of the signal that dockerd sends to the main process.
    pub signal: i32,
    /// How many seconds dockerd then waits, for ever where this is negative; `None` for its default.
    pub timeout: Option<i64>,
}

/// The main process of a container: `/proc/PID`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MainProcess {
    /// Its pid here.
    pub pid: i32,
    /// The shim that started it.
    pub shim: i32,
    /// Whether it is PID 1 of a pid namespace.
    pub init: bool,
    /// Whether another process traces it.
    pub traced: bool,
    /// The signals that it has handlers for, one bit for each.
    pub caught: u64,
    /// The signals that any of its threads blocks.
    pub blocked: u64,
    /// The pid and network namespaces that it is in, without those of this process.
    pub namespaces: BTreeSet<OsString>,
}

/// The containers whose shims `supervisor` has: see [`processes::by_shim`]. Those whose processes
/// end meanwhile are left out.
pub fn running(data_root: &Path, supervisor: Pid) -> Vec<Container> {
    let shims = processes::by_shim(supervisor);
    if shims.is_empty() {
        return Vec::new();
    }
    let directories = directories(data_root);
    shims
        .iter()
        .filter_map(|(shim, children)| container(&directories, *shim, children))
        .collect()
}

fn container(directories: &[PathBuf], shim: i32, children: &[i32]) -> Option<Container> {
    let id = id(&read::kernel(format!("/proc/{shim}/cmdline")).ok()?)?;
    let file = directories.iter().find_map(|directory| {
        let path = directory.join(&id).join("config.v2.json");
        read::text(&path, LONGEST).ok()?
    });
    let found = file.as_deref().and_then(parse);
    // The children of `docker exec` are not PID 1.
    let pid = match &found {
        Some(found) => children.iter().find(|pid| **pid == found.pid),
        None => children.iter().find(|pid| is_init(**pid)),
    };
    Some(Container {
        process: MainProcess::read(*pid?, shim)?,
        settings: found.as_ref().and_then(|found| found.settings),
        name: found.map_or(id, |found| found.name),
    })
}

/// The id in the command line of a shim, which containerd starts as `containerd-shim-runc-v2
/// -namespace NAMESPACE -id ID -address SOCKET`.
fn id(command_line: &str) -> Option<String> {
    let mut words = command_line.split('\0');
    words.find(|word| *word == "-id")?;
    let id = words.next()?.to_owned();
    // It becomes a part of a path.
    let plain = |character: char| character.is_ascii_alphanumeric();
    (!id.is_empty() && id.chars().all(plain)).then_some(id)
}

/// The directories in which dockerd keeps files about containers. With `--userns-remap` the data
/// root is a directory `UID.GID` in the one that the user names: `setupDaemonRoot` in moby's
/// daemon/daemon_unix.go.
fn directories(data_root: &Path) -> Vec<PathBuf> {
    let is_remapped = |name: &OsString| {
        let mut parts = name.as_bytes().split(|byte| *byte == b'.');
        let mut number = || {
            parts
                .next()
                .is_some_and(|part| !part.is_empty() && part.iter().all(u8::is_ascii_digit))
        };
        number() && number() && parts.next().is_none()
    };
    let entries = fs::read_dir(data_root).into_iter().flatten().flatten();
    let remapped = entries
        .map(|entry| entry.file_name())
        .filter(is_remapped)
        .map(|name| data_root.join(name));
    [data_root.to_owned()]
        .into_iter()
        .chain(remapped)
        .map(|root| root.join("containers"))
        .collect()
}

/// What is read from a `config.v2.json`.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    name: String,
    pid: i32,
    settings: Option<StopSettings>,
}

fn parse(text: &str) -> Option<Found> {
    let value: Value = serde_json::from_str(text).ok()?;
    let word = |value: &Value, key| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let config = value.get("Config")?;
    let signal = match word(config, "StopSignal") {
        Some(signal) if !signal.is_empty() => signal_number(&signal),
        // `defaultStopSignal` in moby's container/container.go.
        _ => Some(libc::SIGTERM),
    };
    let timeout = config.get("StopTimeout").and_then(Value::as_i64);
    Some(Found {
        name: word(&value, "Name")?.trim_start_matches('/').to_owned(),
        pid: i32::try_from(value.get("State")?.get("Pid")?.as_i64()?).ok()?,
        settings: signal.map(|signal| StopSettings { signal, timeout }),
    })
}

/// The first real-time signal that glibc leaves to programs, and the last: signal(7). moby's names
/// count from these, whatever the container's C library is.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of a signal as moby reads it: `ParseSignal` in its pkg/signal/signal.go. A number, or
/// a name in any case, with or without `SIG`. `None` where this program does not know it.
fn signal_number(text: &str) -> Option<i32> {
    let is_signal = |number: &i32| (1..=RTMAX).contains(number);
    if let Ok(number) = text.parse() {
        return Some(number).filter(is_signal);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let offset = |digits: &str| digits.parse::<u8>().ok().map(i32::from);
    let number = match name {
        "RTMIN" => RTMIN,
        "RTMAX" => RTMAX,
        name => match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
            (Some(above), _) => RTMIN + offset(above)?,
            (_, Some(below)) => RTMAX - offset(below)?,
            (None, None) => Signal::from_str(&format!("SIG{name}")).ok()? as i32,
        },
    };
    Some(number).filter(is_signal)
}

impl MainProcess {
    /// Reads the facts of a process. `None` where it has ended, or is not the child of `shim`.
    pub fn read(pid: i32, shim: i32) -> Option<Self> {
        let directory = PathBuf::from(format!("/proc/{pid}"));
        let status = read::kernel(directory.join("status")).ok()?;
        let mut process = Self {
            pid,
            shim,
            init: innermost_pid(&status) == Some("1"),
            traced: word(&status, "TracerPid") != Some("0"),
            caught: set(&status, "SigCgt")?,
            blocked: 0,
            namespaces: namespaces(&directory),
        };
        for thread in fs::read_dir(directory.join("task")).ok()?.flatten() {
            // A thread may have ended meanwhile.
            if let Ok(status) = read::kernel(thread.path().join("status")) {
                process.blocked |= set(&status, "SigBlk")?;
            }
        }
        // Asked last: then all of this was about the same process.
        (processes::parent(pid) == Some(shim)).then_some(process)
    }

    /// The signals for which a process has handlers now. `None` where it has ended.
    pub fn caught_now(pid: i32) -> Option<u64> {
        let status = read::kernel(format!("/proc/{pid}/status")).ok()?;
        set(&status, "SigCgt")
    }
}

/// Whether a set of signals in `/proc/PID/status` has one: proc_pid_status(5).
pub fn has(signals: u64, signal: i32) -> bool {
    let bit = u32::try_from(signal - 1).ok();
    bit.and_then(|bit| signals.checked_shr(bit))
        .is_some_and(|signals| signals & 1 == 1)
}

fn is_init(pid: i32) -> bool {
    read::kernel(format!("/proc/{pid}/status"))
        .is_ok_and(|status| innermost_pid(&status) == Some("1"))
}

/// The pid in the innermost pid namespace of a process in a namespace below this one.
fn innermost_pid(status: &str) -> Option<&str> {
    line(status, "NSpid")?.split_whitespace().skip(1).last()
}

fn set(status: &str, name: &str) -> Option<u64> {
    u64::from_str_radix(word(status, name)?, 16).ok()
}

fn word<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    line(status, name).map(str::trim)
}

fn line<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = status.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// The pid and network namespaces of a process: namespaces(7).
fn namespaces(directory: &Path) -> BTreeSet<OsString> {
    let link = |directory: &Path, name| {
        let path = directory.join("ns").join(name);
        fs::read_link(path).ok().map(PathBuf::into_os_string)
    };
    let own = Path::new("/proc/self");
    ["pid", "net"]
        .into_iter()
        .filter_map(|name| {
            link(directory, name).filter(|found| link(own, name).as_ref() != Some(found))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_as_moby_reads_them() {
        for (text, expected) in [
            ("SIGTERM", Some(15)),
            ("int", Some(2)),
            ("SigQuit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMIN", Some(34)),
            ("RTMAX-14", Some(50)),
            ("SIGRTMAX", Some(64)),
            ("STKFLT", Some(16)),
            ("0", None),
            ("65", None),
            ("RTMIN+40", None),
            ("RTMIN+", None),
            ("SIGSIGTERM", None),
            ("TERMINATE", None),
            ("", None),
        ] {
            assert_eq!(signal_number(text), expected, "{text}");
        }
    }

    #[test]
    fn the_file_of_a_container_has_its_stop() {
        let text = |config: &str| {
            format!(
                r#"{{"State":{{"Running":true,"Pid":261}},"Config":{{{config}}},"Name":"/aa"}}"#
            )
        };
        let found = |settings| {
            Some(Found {
                name: "aa".into(),
                pid: 261,
                settings,
            })
        };
        for (config, expected) in [
            ("", Some((15, None))),
            (r#""StopSignal":"""#, Some((15, None))),
            (r#""StopSignal":"INT","StopTimeout":5"#, Some((2, Some(5)))),
            (r#""StopTimeout":-1"#, Some((15, Some(-1)))),
            (r#""StopSignal":"PARDON""#, None),
        ] {
            let expected = expected.map(|(signal, timeout)| StopSettings { signal, timeout });
            assert_eq!(parse(&text(config)), found(expected), "{config}");
        }
        for text in [
            "",
            "{}",
            "[]",
            r#"{"Config":{},"Name":"a","State":{"Pid":""}}"#,
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_command_line_of_a_shim_has_the_id() {
        let shim = "/usr/bin/containerd-shim-runc-v2\0-namespace\0moby\0-id\0abc12\0-address\0/x\0";
        assert_eq!(id(shim).as_deref(), Some("abc12"));
        for other in [
            "containerd-shim\0-id",
            "containerd-shim\0-id\0../../etc\0",
            "containerd-shim\0-id\0\0",
            "",
        ] {
            assert_eq!(id(other), None);
        }
    }

    #[test]
    fn a_process_has_its_signals_and_its_place() {
        let own = Pid::this().as_raw();
        let process = MainProcess::read(own, nix::unistd::getppid().as_raw());
        let process = process.unwrap_or_default();
        assert_eq!(process.pid, own);
        // Rust's runtime handles SIGSEGV.
        assert!(has(process.caught, libc::SIGSEGV) && !has(process.caught, libc::SIGKILL));
        assert_eq!(process.namespaces, BTreeSet::new());
        assert_eq!(MainProcess::read(own, own), None);
        assert!(!has(u64::MAX, 0) && !has(u64::MAX, 65) && has(1 << 63, 64));
    }

    #[test]
    fn pid_1_of_a_namespace_below_is_an_init() {
        assert_eq!(innermost_pid("Name:\tsh\nNSpid:\t261\t1\n"), Some("1"));
        assert_eq!(innermost_pid("NSpid:\t261\t7\n"), Some("7"));
        assert_eq!(innermost_pid("NSpid:\t1\n"), None);
        assert_eq!(innermost_pid("Name:\tsh\n"), None);
    }
}
