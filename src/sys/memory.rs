//! The memory of this program's own code.

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{SysconfVar, sysconf};

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
