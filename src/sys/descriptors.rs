//! File descriptors by number: closing what was inherited, dup2(2), taking ownership.

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;

use super::log;

/// Closes every descriptor except 0, 1, 2, the log's and those in `kept`, also those above
/// RLIMIT_NOFILE: close_range(2). Kernels before 5.9 do not have that call, and seccomp profiles that do not
/// know it fail it with EPERM; then the descriptors are those that `/proc/self/fd` lists. Call
/// it while this process has opened no others, or will never use them again. The error is that
/// `/proc/self/fd` cannot be listed.
pub fn close_other_descriptors(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    kept.extend(0..=2);
    kept.extend(log::descriptor().as_ref().map(AsRawFd::as_raw_fd));
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

/// The fallback without close_range(2). The descriptor of the listing itself is in the list
/// and is closed already, so EBADF is expected for it.
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

/// Duplicates `from` onto the number `to`, which stays open across exec. The error is that of
/// dup2(2).
pub fn duplicate_onto(from: BorrowedFd<'_>, to: RawFd) -> nix::Result<()> {
    // SAFETY: only called in a child that is about to exec, where no value owns the
    // descriptor `to`.
    Errno::result(unsafe { libc::dup2(from.as_raw_fd(), to) }).map(drop)
}

/// Takes ownership of a descriptor that the kernel has given as a number: F_DUPFD_CLOEXEC in
/// fcntl(2), SCM_RIGHTS in unix(7).
pub fn own(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the callers pass a number that one of these calls has just returned.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
