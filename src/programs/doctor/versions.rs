//! The versions of the engine, as its programs print them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::wait::waitpid;
use nix::unistd::pipe2;

use crate::facts::programs::Programs;
use crate::input::config::Config;
use crate::sys::process;
use crate::sys::read::null;
use crate::sys::search::search;
use crate::sys::signals::Inherited;
use crate::sys::spawn::{Child, Place, Session, spawn};
use crate::sys::wait;

/// The major and minor version of the oldest engine that the tests start: Debian bookworm's.
pub const OLDEST: (u32, u32) = (20, 10);

/// How long the output of a program may take, and how many bytes of it are read.
const PATIENCE: Duration = Duration::from_secs(5);
const BYTES: usize = 4096;

/// The names of dockerd, containerd and runc with the versions that `--version` prints, without
/// programs that are missing or print none within 5 s. It waits for its children by blocking, so
/// it is not for PID 1.
pub fn ask(programs: &Programs, config: &Config) -> Vec<(String, String)> {
    let runc = search("runc", &config.search_path);
    [
        ("dockerd", &programs.dockerd),
        ("containerd", &programs.containerd),
        ("runc", &runc),
    ]
    .into_iter()
    .filter_map(|(name, path)| {
        let output = output(path.as_deref()?, config)?;
        Some((name.to_owned(), version(&output)?.to_owned()))
    })
    .collect()
}

/// Whether `version` is older than the major and minor version `than`; text that is not a
/// version is not.
pub fn is_older(version: &str, than: (u32, u32)) -> bool {
    let mut parts = version.split(|character: char| !character.is_ascii_digit());
    let mut number = || parts.next().and_then(|part| part.parse::<u32>().ok());
    match (number(), number()) {
        (Some(major), Some(minor)) => (major, minor) < than,
        (_, _) => false,
    }
}

/// The major version; `None` for text that is not a version.
pub fn major(version: &str) -> Option<u32> {
    let end = version.find(|character: char| !character.is_ascii_digit());
    version.get(..end?)?.parse().ok()
}

/// The first word that looks like a version: `Docker version 26.1.5+dfsg1, build …`,
/// `containerd PACKAGE v1.7.24 …`, `runc version 1.1.15`.
fn version(output: &str) -> Option<&str> {
    output
        .split_whitespace()
        .map(|word| word.trim_start_matches('v').trim_end_matches(','))
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.'))
}

/// The standard output of `PROGRAM --version`.
fn output(program: &Path, config: &Config) -> Option<String> {
    let null = null().ok()?;
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
    let pid = spawn(&Child {
        path: program,
        arguments: vec![program.as_os_str(), OsStr::new("--version")],
        environment: &config.environment,
        stdio: Some([null.as_fd(), writer.as_fd(), null.as_fd()]),
        descriptors: Vec::new(),
        session: Session::Own,
        dies_with_parent: false,
        oom_score_adj: None,
        limits: &[],
        inherited: &Inherited::read().ok()?,
        umask: None,
        place: Place::Here,
    })
    .ok()?;
    drop(writer);
    let bytes = read(File::from(reader));
    // Its output has ended, or is no longer waited for.
    let _ = process::kill(pid, libc::SIGKILL);
    let _ = waitpid(pid, None);
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads until the end of file, for [`PATIENCE`] and [`BYTES`] at most.
fn read(mut pipe: File) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    let mut bytes = Vec::new();
    let mut part = [0; BYTES];
    while bytes.len() < BYTES {
        let mut descriptors = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        if !poll(&mut descriptors, wait::until(deadline)).is_ok_and(|count| count > 0) {
            break;
        }
        match pipe.read(&mut part) {
            Ok(0) | Err(_) => break,
            Ok(count) => bytes.extend(part.iter().take(count)),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_version_in_a_programs_output() {
        for (output, expected) in [
            (
                "Docker version 26.1.5+dfsg1, build 411e817\n",
                Some("26.1.5+dfsg1"),
            ),
            (
                "containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6\n",
                Some("1.7.24~ds1"),
            ),
            (
                "containerd containerd.io v2.1.4 75cb2b7193e4\n",
                Some("2.1.4"),
            ),
            (
                "runc version 1.1.15+ds1\ncommit: 1.1.15\n",
                Some("1.1.15+ds1"),
            ),
            ("nothing of the kind\n", None),
        ] {
            assert_eq!(version(output), expected, "{output:?}");
        }
    }

    #[test]
    fn the_major_version_is_a_number() {
        for (version, expected) in [
            ("29.7.2", Some(29)),
            ("20.10.24+dfsg1", Some(20)),
            ("dev", None),
            ("", None),
        ] {
            assert_eq!(major(version), expected, "{version}");
        }
    }

    #[test]
    fn compares_versions_as_numbers() {
        for (version, expected) in [
            ("20.10.24+dfsg1", false),
            ("26.1.5+dfsg1", false),
            ("19.03.15", true),
            ("20.9.0", true),
            ("dev", false),
        ] {
            assert_eq!(is_older(version, OLDEST), expected, "{version}");
        }
    }
}
