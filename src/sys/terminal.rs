//! The controlling terminal and its foreground process group.
//!
//! Sources: credentials(7), setpgid(2), tcsetpgrp(3), ioctl_tty(2).

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::sys::termios::{FlowArg, tcflow};
use nix::unistd::{self, Pid};

/// The relation of standard input to this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// It is not a terminal.
    None,
    /// The controlling terminal of this session, as `docker run -t` gives it.
    Controlling,
    /// A terminal that is the controlling terminal of another session, or of none.
    Foreign,
}

/// Determines what standard input is: isatty(3), tcgetpgrp(3).
pub fn detect() -> Terminal {
    let stdin = io::stdin();
    if !unistd::isatty(&stdin).unwrap_or(false) {
        return Terminal::None;
    }
    // ENOTTY for a terminal means that it does not control this session.
    match unistd::tcgetpgrp(&stdin) {
        Ok(_) => Terminal::Controlling,
        Err(_) => Terminal::Foreign,
    }
}

/// Lets the output of the terminal on standard input go on that Ctrl-S or tcflow(3) has stopped.
/// SIGTTOU must be blocked, as for [`take`].
pub fn resume_output() {
    // TCOON alone undoes TCOOFF and not Ctrl-S: `n_tty_ioctl_helper` in the kernel's
    // drivers/tty/tty_ioctl.c. What is no terminal any more needs neither.
    for flow in [FlowArg::TCOOFF, FlowArg::TCOON] {
        let _ = tcflow(io::stdin(), flow);
    }
}

/// Makes this process, a child before its exec, the foreground process group of the terminal,
/// so that it gets the signals of the terminal's keys and may do job control. Without a
/// terminal it becomes a process group. SIGTTOU must be blocked: otherwise it stops a background
/// process that calls tcsetpgrp(3). The error is that of setpgid(2), setsid(2), tcsetpgrp(3) or
/// TIOCSCTTY.
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

/// Makes the terminal on standard input the controlling terminal of this session, whose leader
/// this process must be: ioctl_tty(2).
fn take_controlling_terminal() -> nix::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer; 0 does not steal another session's terminal.
    Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }).map(drop)
}
