//! Standard error, for this program's own lines: whoever reads it, or does not, holds up nobody.
//!
//! What its reader does not take waits in a backlog with a limit. PID 1 and the helpers with a loop
//! of their own write it from there as soon as poll(2) says that they can; the others at their next
//! line and at their end.

use std::io::{self, Stderr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use tracing::warn;

use super::outlet::Outlet;
use super::wait;
use crate::messages::backlog::Backlog;

/// How long the end of a process is held back for the reader of its last lines.
pub const LAST_CHANCE: Duration = Duration::from_millis(500);

/// One for the process: its lines come from everywhere, by the macros of `tracing`.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    outlet: Outlet<Stderr>,
    /// There is one thread, so nobody ever waits for this lock.
    backlog: Mutex<Backlog>,
    /// Whether each line waits for its reader.
    patient: AtomicBool,
}

impl Log {
    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what waits as far as that is possible, and returns how many lines were lost.
    fn drain(&self) -> u64 {
        let mut backlog = self.backlog();
        self.outlet.drain(&mut backlog);
        backlog.take_lost()
    }
}

fn log() -> &'static Log {
    LOG.get_or_init(|| Log {
        outlet: Outlet::new(io::stderr()),
        backlog: Mutex::default(),
        patient: AtomicBool::new(false),
    })
}

/// Takes lines, each as a whole. It never fails and never blocks, but after [`be_patient`].
#[derive(Debug, Clone, Copy)]
pub struct Writer;

impl io::Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let log = log();
        {
            let mut backlog = log.backlog();
            backlog.offer(line);
            log.outlet.drain(&mut backlog);
        }
        if log.patient.load(Ordering::Relaxed) {
            finish(None);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens the log, and returns what `tracing` writes to. To be called before descriptors run out and
/// the first child is forked.
pub fn open() -> Writer {
    log();
    Writer
}

/// Has every line wait for its reader from here on, as in any program that supervises nothing.
pub fn be_patient() {
    log().patient.store(true, Ordering::Relaxed);
    finish(None);
}

/// Writes text that is no line, such as the progress line. Where lines wait, it waits behind them if
/// it `must` be written, or is not written. Returns whether it is taken.
pub fn show(text: &str, must: bool) -> bool {
    let log = log();
    let mut backlog = log.backlog();
    let taken = must || backlog.is_empty();
    if taken {
        backlog.offer(text.as_bytes());
        log.outlet.drain(&mut backlog);
    }
    taken
}

/// What to poll until [`flush`] can write more; `None` where nothing waits.
pub fn waiting() -> Option<PollFd<'static>> {
    let log = LOG.get()?;
    let waits = log.backlog().waits();
    waits.then(|| PollFd::new(log.outlet.as_fd(), PollFlags::POLLOUT))
}

/// Writes the lines that wait, as far as that is possible without waiting, and logs how many lines
/// were lost, if there is room for that again.
pub fn flush() {
    match LOG.get().map_or(0, Log::drain) {
        0 => {}
        lines => warn!(
            lines,
            "{lines} {} lost, since nobody read standard error; see to it that its reader keeps up",
            match lines {
                1 => "line of this log was",
                _ => "lines of this log were",
            }
        ),
    }
}

/// Gives the reader a last chance, of `patience` at most, and then gives up what it did not read:
/// before this process ends or becomes another program.
pub fn finish(patience: Option<Duration>) {
    let deadline = patience.map(|patience| Instant::now() + patience);
    flush();
    while let Some(descriptor) = waiting() {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let done = match poll(&mut [descriptor], wait::timeout(left)) {
            Ok(count) => count == 0,
            Err(errno) => errno != Errno::EINTR,
        };
        if done {
            break;
        }
        flush();
    }
    forget();
}

/// Gives up the lines that wait. In a forked child they are its parent's, who writes them.
pub fn forget() {
    if let Some(log) = LOG.get() {
        *log.backlog() = Backlog::default();
    }
}

/// The descriptor that is written to, which must stay open.
pub(super) fn descriptor() -> Option<BorrowedFd<'static>> {
    LOG.get().map(|log| log.outlet.as_fd())
}
