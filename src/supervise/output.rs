//! The standard output and standard error of daemons and hooks.

use std::io::{Stderr, Stdout};
use std::os::fd::{AsFd, BorrowedFd};

use super::log_file::LogFile;
use super::machine::Process;
use super::relay::Relay;
use crate::plan::engine::{Engine, Foreground};

/// The descriptors for standard output and standard error of a daemon or of hooks: the log relay's
/// pipes where there is a relay, else [`sinks`].
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

/// The descriptors that daemons and hooks, or the log relay for them, write lines to: those of the
/// log file, or standard output and standard error of this process.
pub fn sinks<'a>(
    log: Option<&'a LogFile>,
    engine: &Engine,
    (stdout, stderr): &'a (Stdout, Stderr),
) -> [BorrowedFd<'a>; 2] {
    match (log, &engine.foreground) {
        (Some(log), _) => [log.as_fd(); 2],
        // Standard output belongs to the command.
        (None, Foreground::Command(_)) => [stderr.as_fd(); 2],
        (None, Foreground::Daemon) => [stdout.as_fd(), stderr.as_fd()],
    }
}
