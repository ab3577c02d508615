//! Memory: the resident pages of this program, and whom the kernel kills first.

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

use std::fs;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{SysconfVar, sysconf};

/// Gives the pages of the heap that nothing uses back to the kernel, most of which only the start
/// has needed: malloc_trim(3).
pub fn trim_heap() {
    // Others have no such function.
    #[cfg(target_env = "gnu")]
    // SAFETY: it changes no memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Unmaps the pages of this program's code, most of which only the start needs: madvise(2),
/// MADV_DONTNEED. They are clean pages of the file and stay in the page cache; the kernel maps
/// them again, sixteen at a time, when they are used. The error is that of sysconf(3) or
/// madvise(2).
pub fn unmap_code() -> nix::Result<()> {
    // SAFETY: the linker defines these symbols, and only their addresses are taken: ld(1),
    // end(3).
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
    // SAFETY: nothing writes to that range, so the pages that are mapped again are the same.
    let result = unsafe {
        libc::madvise(
            (&raw const __executable_start).cast_mut().cast(),
            length,
            libc::MADV_DONTNEED,
        )
    };
    Errno::result(result).map(drop)
}

/// Lowers this process's `oom_score_adj` to `score`, and returns the one from before; `None` where
/// it is as low already, or the kernel does not allow that, as without CAP_SYS_RESOURCE:
/// proc_pid_oom_score_adj(5).
pub fn lower_oom_score_adj(score: i16) -> Option<i16> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let before: i16 = fs::read_to_string(FILE).ok()?.trim().parse().ok()?;
    (score < before && fs::write(FILE, score.to_string()).is_ok()).then_some(before)
}
