//! The controlling terminal and its foreground process group.
//!
//! Sources: credentials(7), setpgid(2), tcsetpgrp(3), ioctl_tty(2).

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{self, Pid};

/// What standard input is to this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// No terminal.
    None,
    /// The controlling terminal of this session, as `docker run -t` gives it.
    Controlling,
    /// A terminal that controls another session, or none.
    Foreign,
}

/// Looks at standard input.
pub fn detect() -> Terminal {
    let stdin = io::stdin();
    if !unistd::isatty(&stdin).unwrap_or(false) {
        return Terminal::None;
    }
    // ENOTTY from a terminal means that it is not this session's.
    match unistd::tcgetpgrp(&stdin) {
        Ok(_) => Terminal::Controlling,
        Err(_) => Terminal::Foreign,
    }
}

/// Makes this process, a child that is about to exec, the terminal's foreground, so
/// that the keys and job control are its own. SIGTTOU must be blocked: a background
/// process that calls tcsetpgrp(3) is stopped by it otherwise.
pub fn take(terminal: Terminal) -> nix::Result<()> {
    let this = Pid::from_raw(0);
    match terminal {
        Terminal::None => unistd::setpgid(this, this),
        Terminal::Controlling => {
            unistd::setpgid(this, this)?;
            unistd::tcsetpgrp(io::stdin(), unistd::getpid())
        }
        Terminal::Foreign => {
            unistd::setsid()?;
            take_controlling_terminal()
        }
    }
}

/// Makes the terminal on standard input the controlling terminal of this session,
/// of which this process must be the leader: ioctl_tty(2).
fn take_controlling_terminal() -> nix::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer, here 0: do not steal.
    Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }).map(drop)
}
