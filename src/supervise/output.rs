//! Where the lines of daemons and hooks go.

use std::io::{Stderr, Stdout};
use std::os::fd::{AsFd, BorrowedFd};

use super::log_file::LogFile;
use super::machine::Process;
use super::relay::Relay;
use crate::plan::engine::{Engine, Foreground};

/// Standard output and error for a daemon or for hooks: the log relay's pipes where there is one.
pub fn output<'a>(
    relay: Option<&'a Relay>,
    log: Option<&'a LogFile>,
    engine: &Engine,
    standard: &'a (Stdout, Stderr),
    process: Process,
) -> [BorrowedFd<'a>; 2] {
    match relay {
        Some(relay) => relay.output_for(process),
        None => sinks(log, engine, standard),
    }
}

/// Where the standard output and error of daemons and hooks go.
pub fn sinks<'a>(
    log: Option<&'a LogFile>,
    engine: &Engine,
    (stdout, stderr): &'a (Stdout, Stderr),
) -> [BorrowedFd<'a>; 2] {
    match (log, &engine.foreground) {
        (Some(log), _) => [log.as_fd(); 2],
        // Beside a command, standard output is the command's alone.
        (None, Foreground::Command(_)) => [stderr.as_fd(); 2],
        (None, Foreground::Daemon) => [stdout.as_fd(), stderr.as_fd()],
    }
}
