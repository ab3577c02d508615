//! Writing to a descriptor that this process shares with others, without ever waiting for its
//! reader.
//!
//! O_NONBLOCK belongs to the open file description, and so to every process that has the
//! descriptor: fcntl(2). Daemons and the user's shell expect one that blocks. So it is left as it
//! is, and a description of its own is opened where the kind of file allows that.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, MsgFlags};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd;

use super::signals;
use crate::messages::backlog::Backlog;

/// A descriptor, and the way in which it is written.
#[derive(Debug)]
pub struct Outlet<D> {
    given: D,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// A pipe or a terminal, by a description of its own that does not block.
    Own(OwnedFd),
    /// send(2), which can be told not to block in each call.
    Socket,
    /// A file or a device that has no reader to wait for.
    Direct,
    /// What cannot be opened again: poll(2) is asked before each write(2), of not more than a pipe
    /// that is ready takes at once. Another writer may be faster, and then this one waits.
    Asked,
}

impl<D: AsFd> Outlet<D> {
    /// Decides how `given` is written. A pipe or a terminal is opened again by `/proc/self/fd`. That
    /// fails without `/proc`, in another user namespace than the one that made it, and for a FIFO
    /// that has no reader at the moment (fifo(7)).
    pub fn new(given: D) -> Self {
        let mode = fstat(given.as_fd()).map(|found| found.st_mode & SFlag::S_IFMT.bits());
        let way = match mode.ok().map(SFlag::from_bits_truncate) {
            Some(SFlag::S_IFSOCK) => Way::Socket,
            Some(SFlag::S_IFIFO) => Way::own(given.as_fd()),
            Some(SFlag::S_IFCHR) if unistd::isatty(given.as_fd()).unwrap_or(false) => {
                Way::own(given.as_fd())
            }
            Some(_) => Way::Direct,
            None => Way::Asked,
        };
        Self { given, way }
    }

    /// Writes the lines that wait, as far as that is possible without waiting. A line that cannot
    /// be written, as at a full disk or without a reader, is lost, and no other with it.
    pub fn drain(&self, backlog: &mut Backlog) {
        while let Some(rest) = backlog.rest() {
            match self.write(rest) {
                Ok(count @ 1..) => backlog.written(count),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Ok(0) | Err(_) => backlog.skip(),
            }
        }
    }

    /// Writes some of `bytes`, and returns how many. The error is that of write(2) or send(2):
    /// EAGAIN where the reader has to read first.
    fn write(&self, bytes: &[u8]) -> nix::Result<usize> {
        let given = self.given.as_fd();
        let written = match &self.way {
            Way::Own(own) => unistd::write(own, bytes),
            Way::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                socket::send(given.as_raw_fd(), bytes, flags)
            }
            Way::Direct => unistd::write(given, bytes),
            Way::Asked => {
                let mut ready = [PollFd::new(given, PollFlags::POLLOUT)];
                match poll(&mut ready, PollTimeout::ZERO)? {
                    0 => Err(Errno::EAGAIN),
                    _ => unistd::write(given, bytes.get(..libc::PIPE_BUF).unwrap_or(bytes)),
                }
            }
        };
        // A socket's raises no signal, and one from elsewhere is not this program's to take.
        if written == Err(Errno::EPIPE) && !matches!(self.way, Way::Socket) {
            signals::forget_broken_pipe();
        }
        written
    }
}

impl Way {
    fn own(given: BorrowedFd<'_>) -> Self {
        let path = format!("/proc/self/fd/{}", given.as_raw_fd());
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        open(path.as_str(), flags, Mode::empty()).map_or(Self::Asked, Self::Own)
    }
}

/// The descriptor that poll(2) reports when more can be written.
impl<D: AsFd> AsFd for Outlet<D> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.way {
            Way::Own(own) => own.as_fd(),
            Way::Socket | Way::Direct | Way::Asked => self.given.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::os::unix::fs::OpenOptionsExt;
    use std::os::unix::net::UnixStream;

    use nix::fcntl::{FcntlArg, fcntl};
    use nix::pty::openpty;
    use nix::sys::termios::{FlowArg, tcflow};
    use nix::unistd::mkfifo;

    use super::*;

    /// Lines, until no more are taken.
    fn fill<D: AsFd>(outlet: &Outlet<D>) -> Backlog {
        let mut backlog = Backlog::default();
        for _ in 0..100_000 {
            backlog.offer(b"a line\n");
            outlet.drain(&mut backlog);
            if !backlog.is_empty() {
                return backlog;
            }
        }
        panic!("it takes 700 kB");
    }

    /// Whether writes to the description itself may still block.
    fn blocks(descriptor: impl AsFd) -> bool {
        let flags = fcntl(descriptor, FcntlArg::F_GETFL).unwrap_or_default();
        !OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK)
    }

    /// Reads as much as the outlet then can write, until it has written all.
    fn read_all<D: AsFd>(mut reader: impl Read, outlet: &Outlet<D>, backlog: &mut Backlog) {
        while !backlog.is_empty() {
            let count = reader.read(&mut [0; 4096]).unwrap_or_default();
            assert_ne!(count, 0, "there is something to read");
            outlet.drain(backlog);
        }
    }

    #[test]
    fn a_full_pipe_is_not_waited_for() -> nix::Result<()> {
        let (reader, writer) = unistd::pipe()?;
        let outlet = Outlet::new(writer.as_fd());
        assert!(matches!(outlet.way, Way::Own(_)), "{outlet:?}");
        let mut backlog = fill(&outlet);
        assert!(blocks(&writer));
        read_all(File::from(reader), &outlet, &mut backlog);
        Ok(())
    }

    #[test]
    fn a_full_socket_is_not_waited_for() -> std::io::Result<()> {
        let (reader, writer) = UnixStream::pair()?;
        let outlet = Outlet::new(writer.as_fd());
        assert!(matches!(outlet.way, Way::Socket), "{outlet:?}");
        let mut backlog = fill(&outlet);
        assert!(blocks(&writer));
        read_all(reader, &outlet, &mut backlog);
        Ok(())
    }

    #[test]
    fn a_stopped_terminal_is_not_waited_for() -> nix::Result<()> {
        let terminal = openpty(None, None)?;
        let outlet = Outlet::new(terminal.slave.as_fd());
        assert!(matches!(outlet.way, Way::Own(_)), "{outlet:?}");
        tcflow(&terminal.slave, FlowArg::TCOOFF)?;
        let mut backlog = Backlog::default();
        backlog.offer(b"a line\n");
        outlet.drain(&mut backlog);
        assert!(!backlog.is_empty());
        let mut ready = [PollFd::new(outlet.as_fd(), PollFlags::POLLOUT)];
        assert_eq!(
            poll(&mut ready, PollTimeout::ZERO)?,
            0,
            "nor is it polled for ever"
        );
        tcflow(&terminal.slave, FlowArg::TCOON)?;
        outlet.drain(&mut backlog);
        assert!(backlog.is_empty());
        let mut shown = [0; 8];
        unistd::read(&terminal.master, &mut shown)?;
        assert_eq!(&shown, b"a line\r\n");
        assert!(blocks(&terminal.slave));
        Ok(())
    }

    /// It cannot be opened again: fifo(7).
    #[test]
    fn a_fifo_without_a_reader_at_first_is_not_waited_for() -> std::io::Result<()> {
        let path = std::env::temp_dir().join(format!("dind-outlet-fifo-{}", std::process::id()));
        let reader = || {
            let mut options = File::options();
            options
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(&path)
        };
        mkfifo(&path, Mode::S_IRWXU)?;
        let first = reader()?;
        let writer = File::options().write(true).open(&path)?;
        drop(first);
        let outlet = Outlet::new(writer.as_fd());
        assert!(matches!(outlet.way, Way::Asked), "{outlet:?}");
        let mut backlog = Backlog::default();
        backlog.offer(b"for nobody\n");
        outlet.drain(&mut backlog);
        assert!(backlog.is_empty());
        let second = reader()?;
        let mut backlog = fill(&outlet);
        read_all(second, &outlet, &mut backlog);
        assert!(blocks(&writer));
        fs::remove_file(&path)
    }

    #[test]
    fn a_file_is_written_where_the_others_that_have_it_write() -> std::io::Result<()> {
        let path = std::env::temp_dir().join(format!("dind-outlet-file-{}", std::process::id()));
        let mut options = File::options();
        let mut file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        fs::remove_file(&path)?;
        let outlet = Outlet::new(file.try_clone()?);
        assert!(matches!(outlet.way, Way::Direct), "{outlet:?}");
        file.write_all(b"theirs\n")?;
        let mut backlog = Backlog::default();
        backlog.offer(b"ours\n");
        outlet.drain(&mut backlog);
        file.write_all(b"theirs\n")?;
        file.seek(SeekFrom::Start(0))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        assert_eq!(text, "theirs\nours\ntheirs\n");
        Ok(())
    }
}
