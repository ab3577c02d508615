//! Everything unsafe, one operation a function.
//!
//! This process has one thread, always: between fork and exec a child may do what
//! its parent may.

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

pub mod end;
pub mod nonblocking;
pub mod search;
pub mod signals;
pub mod spawn;
pub mod terminal;
pub mod write;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal};
use nix::sys::signal::{sigaction, sigprocmask};
use nix::unistd::{ForkResult, Pid, SysconfVar, sysconf};

use crate::sys::end::End;

/// Closes every descriptor but 0, 1 and 2, whatever their number and whatever
/// RLIMIT_NOFILE says: close_range(2). Kernels before 5.9 do not have it, and seccomp
/// profiles that do not know it say EPERM instead; there `/proc/self/fd` lists them. To
/// be called while this process has none of its own.
pub fn close_inherited_descriptors() -> io::Result<()> {
    close_other_descriptors(&[])
}

/// The same but for those that are `kept`. To be called while this process has no others of
/// its own, or none that it will ever use.
pub fn close_other_descriptors(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    kept.extend(0..=2);
    kept.sort_unstable();
    let firsts = kept.iter().map(|descriptor| descriptor.saturating_add(1));
    let lasts = kept.iter().map(|descriptor| descriptor.saturating_sub(1));
    let gaps = firsts.zip(lasts.skip(1).chain([RawFd::MAX]));
    let mut gaps = gaps.filter(|(first, last)| first <= last);
    let closed = gaps.try_for_each(|(first, last)| {
        // SAFETY: closes descriptors that nothing in this process uses.
        let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        Errno::result(result).map(drop)
    });
    match closed {
        Ok(()) => Ok(()),
        Err(_) => close_listed_descriptors(&kept),
    }
}

/// The way without close_range(2). The listing's own descriptor is in the list and
/// closed by then: EBADF for it is as good as success.
fn close_listed_descriptors(kept: &[RawFd]) -> io::Result<()> {
    let listed: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|descriptor| !kept.contains(descriptor))
        .collect();
    for descriptor in listed {
        // SAFETY: as above.
        unsafe { libc::close(descriptor) };
    }
    Ok(())
}

/// Unmaps the pages of this program's code, which the kernel maps again, sixteen at a
/// time, as they are needed: most of it was for the start. They are clean pages of the
/// file and stay in the page cache: madvise(2), MADV_DONTNEED.
pub fn unmap_code() -> nix::Result<()> {
    // SAFETY: the linker defines them, and only their addresses are taken: ld(1), end(3).
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    let start = (&raw const __executable_start).addr();
    let end = (&raw const etext).addr();
    let page = sysconf(SysconfVar::PAGE_SIZE)?
        .and_then(|size| usize::try_from(size).ok())
        .ok_or(Errno::EINVAL)?;
    let length = end.saturating_sub(start) / page * page;
    // SAFETY: nothing writes to that range, so what is mapped again is the same.
    let result = unsafe {
        libc::madvise(
            (&raw const __executable_start).cast_mut().cast(),
            length,
            libc::MADV_DONTNEED,
        )
    };
    Errno::result(result).map(drop)
}

/// Locks an open file against other processes, by LOCK_EX or LOCK_SH of flock(2). Waits for
/// `patience` at most, which is more than nothing; the error is then EINTR, from a signal of this process's own timer. The lock goes with
/// the file.
pub fn lock(file: &File, operation: i32, patience: Duration) -> nix::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // Without SA_RESTART, so that flock ends.
    let noted = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing, which it may do at any time.
    let before = unsafe { sigaction(Signal::SIGALRM, &noted) }?;
    let mut mask = SigSet::empty();
    let alarm = SigSet::from(Signal::SIGALRM);
    let result =
        sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&alarm), Some(&mut mask)).and_then(|()| {
            let locked = set_timer(patience).and_then(|()| {
                // SAFETY: a plain system call on a descriptor that is open.
                Errno::result(unsafe { libc::flock(file.as_raw_fd(), operation) }).map(drop)
            });
            // These cannot fail after what they undo has not.
            let _ = set_timer(Duration::ZERO);
            let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
            locked
        });
    // SAFETY: the action that was there before.
    let _ = unsafe { sigaction(Signal::SIGALRM, &before) };
    result
}

/// SIGALRM after `first`, and then every second, in case that the first comes before the
/// call that it is to end: setitimer(2). Never, where `first` is zero.
fn set_timer(first: Duration) -> nix::Result<()> {
    let every = Duration::from_secs(u64::from(!first.is_zero()));
    let value = |time: Duration| libc::timeval {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_usec: time.subsec_micros().into(),
    };
    let timer = libc::itimerval {
        it_interval: value(every),
        // Less than a microsecond would be never, too.
        it_value: value(first.max(every / 1_000_000)),
    };
    // SAFETY: reads the timer, and there is nobody to be told of the one before.
    let result = unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
    Errno::result(result).map(drop)
}

/// The capabilities that a program's file gives it, as the kernel keeps them: xattr(7),
/// capabilities(7). `None` where it gives none.
pub fn capability(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut value = [0_u8; 64];
    // SAFETY: the name ends with a NUL, and the kernel writes no more than the length that
    // it is told.
    let length = unsafe {
        libc::fgetxattr(
            file.as_raw_fd(),
            c"security.capability".as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    match Errno::result(length) {
        Ok(length) => Ok(usize::try_from(length)
            .ok()
            .and_then(|length| value.get(..length))
            .map(<[u8]>::to_vec)),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Nests pid namespaces in this process's, each with one process, until the kernel refuses
/// or there are `most`, and returns how many there were: unshare(2), pid_namespaces(7).
/// `None` where this process may make none. Its later children would be in the first of
/// them, so it is to be a child that ends then.
pub fn nest_pid_namespaces(most: u8) -> Option<u8> {
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::wait::{WaitStatus, waitpid};
    if most == 0 {
        return Some(0);
    }
    match unshare(CloneFlags::CLONE_NEWPID) {
        Ok(()) => {}
        Err(Errno::EPERM) => return None,
        Err(_) => return Some(0),
    }
    match fork() {
        Ok(ForkResult::Child) => {
            let inside = nest_pid_namespaces(most - 1).unwrap_or(0);
            exit_child(i32::from(inside))
        }
        // A namespace ends with its first process, so that has to wait for those in it.
        Ok(ForkResult::Parent { child }) => match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, inside)) => {
                Some(u8::try_from(inside).unwrap_or(0).saturating_add(1))
            }
            _ => Some(0),
        },
        Err(_) => Some(0),
    }
}

/// fork(2).
pub fn fork() -> nix::Result<ForkResult> {
    // SAFETY: there is one thread, so no lock can be held by another.
    unsafe { nix::unistd::fork() }
}

/// Duplicates `from` onto the number `to`, open across exec: dup2(2).
pub fn duplicate_onto(from: BorrowedFd<'_>, to: RawFd) -> nix::Result<()> {
    // SAFETY: only called in a child that is about to exec, where no value owns the
    // descriptor `to`.
    Errno::result(unsafe { libc::dup2(from.as_raw_fd(), to) }).map(drop)
}

/// A descriptor that this process got from fcntl(2) as a plain number.
pub fn own(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the callers pass a number that F_DUPFD_CLOEXEC has just returned.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Makes the terminal on standard input the controlling terminal of this session,
/// of which this process must be the leader: ioctl_tty(2).
pub fn take_controlling_terminal() -> nix::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer, here 0: do not steal.
    Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }).map(drop)
}

/// The default action for a signal, which a child may have inherited as ignored:
/// Rust's runtime ignores SIGPIPE.
pub fn default_action(signal: nix::sys::signal::Signal) -> nix::Result<()> {
    use nix::sys::signal::{SigHandler, signal as set};
    // SAFETY: SIG_DFL runs no code of this process.
    unsafe { set(signal, SigHandler::SigDfl) }.map(drop)
}

/// Reaps one child that has ended, if there is one: waitpid(2). By its raw status,
/// since nix has no name for the real-time signals that may have ended it.
pub fn reap() -> Option<(Pid, End)> {
    let mut status = 0;
    // SAFETY: the kernel writes one integer to where `status` is.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    if pid <= 0 {
        return None;
    }
    let end = if libc::WIFSIGNALED(status) {
        End::Signaled(libc::WTERMSIG(status))
    } else {
        // Eight bits, by wait(2); without WUNTRACED there is no third case.
        End::Exited((libc::WEXITSTATUS(status) & 0xff) as u8)
    };
    Some((Pid::from_raw(pid), end))
}

/// Sends a signal: kill(2). By its number, since nix has no names for the real-time
/// signals. A process that has ended meanwhile is no error.
pub fn kill(pid: Pid, signal: i32) -> nix::Result<()> {
    // SAFETY: takes two integers and touches no memory.
    match Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }) {
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Ends this process without running anything: _exit(2). For a child that could
/// not exec.
pub fn exit_child(status: i32) -> ! {
    // SAFETY: takes an integer and does not return.
    unsafe { libc::_exit(status) }
}

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    descriptor: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// The number of a loop device that nobody uses: LOOP_CTL_GET_FREE in loop(4).
pub fn free_loop_device(control: &File) -> nix::Result<u32> {
    const GET_FREE: libc::Ioctl = 0x4C82;
    // SAFETY: takes no argument.
    let number = Errno::result(unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) })?;
    u32::try_from(number).map_err(|_| Errno::EINVAL)
}

/// Gives a loop device its file, until nobody has the device open or mounted: loop(4),
/// LOOP_CONFIGURE; before Linux 5.8 LOOP_SET_FD and LOOP_SET_STATUS64.
pub fn attach_loop_device(device: &File, file: &File) -> nix::Result<()> {
    const CONFIGURE: libc::Ioctl = 0x4C0A;
    const SET_FILE: libc::Ioctl = 0x4C00;
    const SET_STATUS: libc::Ioctl = 0x4C04;
    const CLEAR_FILE: libc::Ioctl = 0x4C01;
    const AUTOCLEAR: u32 = 4;
    let descriptor = file.as_raw_fd();
    let config = LoopConfig {
        descriptor: u32::try_from(descriptor).map_err(|_| Errno::EBADF)?,
        block_size: 0,
        info: LoopInfo {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: AUTOCLEAR,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    let device = device.as_raw_fd();
    // SAFETY: the kernel reads a structure that lives until the call has returned.
    match Errno::result(unsafe { libc::ioctl(device, CONFIGURE, &raw const config) }) {
        Ok(_) => return Ok(()),
        Err(Errno::EINVAL | Errno::ENOTTY) => {}
        Err(errno) => return Err(errno),
    }
    // SAFETY: takes an integer.
    Errno::result(unsafe { libc::ioctl(device, SET_FILE, descriptor) })?;
    // SAFETY: as with LOOP_CONFIGURE.
    let set = unsafe { libc::ioctl(device, SET_STATUS, &raw const config.info) };
    Errno::result(set).map(drop).inspect_err(|_| {
        // SAFETY: takes an integer, which is not used.
        unsafe { libc::ioctl(device, CLEAR_FILE, 0) };
    })
}

/// Whether the directories of an xfs have the types of their entries in them:
/// ioctl_xfs_fsgeometry(2).
pub fn xfs_has_ftype(directory: &File) -> nix::Result<bool> {
    /// `struct xfs_fsop_geom_v1` of xfs/xfs_fs.h, of which only the flags are read.
    #[repr(C, align(8))]
    struct Geometry {
        before: [u32; 23],
        flags: u32,
        after: [u32; 4],
    }
    const GEOMETRY: libc::Ioctl = 0x8070_5864_u32 as libc::Ioctl;
    const FTYPE: u32 = 1 << 16;
    let mut geometry = Geometry {
        before: [0; 23],
        flags: 0,
        after: [0; 4],
    };
    // SAFETY: the kernel writes a structure of this size, which its number has in it.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), GEOMETRY, &raw mut geometry) };
    Errno::result(result)?;
    Ok(geometry.flags & FTYPE != 0)
}
