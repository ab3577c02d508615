//! Which system calls a seccomp profile denies: seccomp(2). A filter sees a call before the kernel
//! looks at its arguments, so each is made with arguments that the kernel refuses with another
//! error, or with which it does nothing. And whether AppArmor does so for mounts.

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};

/// What is neither a descriptor, nor flags, nor an operation.
const BAD: libc::c_long = -1;

/// Flags of clone(2) that exclude each other.
const INVALID: libc::c_int = libc::CLONE_NEWUSER | libc::CLONE_FS;

/// A path that no process can have, since the kernel does not map the first page: EFAULT.
const NOWHERE: *const libc::c_char = ptr::without_provenance(1);

/// EFAULT: `do_mount` in fs/namespace.c looks the directory up before it asks for a capability.
const MOUNT: Call = ("mount", || {
    // SAFETY: the kernel finds that no address is mapped there.
    unsafe { libc::syscall(libc::SYS_mount, NOWHERE, NOWHERE, NOWHERE, 0, NOWHERE) }
});

/// The names of those system calls for a user namespace, and for the containers in one, that are
/// denied here. They are asked of in the namespaces that this process is in, so those are left out
/// that the kernel itself denies outside of an own namespace: see [`inside`].
pub fn outside() -> Vec<&'static str> {
    denied(&[
        // EINVAL: `copy_process` in the kernel's kernel/fork.c.
        ("clone", || {
            // SAFETY: with these flags the kernel makes no process.
            unsafe { libc::syscall(libc::SYS_clone, INVALID, 0, 0, 0, 0) }
        }),
        // Does nothing.
        ("unshare", || {
            // SAFETY: takes an integer and touches no memory.
            unsafe { libc::syscall(libc::SYS_unshare, 0) }
        }),
        // EBADF.
        ("setns", || {
            // SAFETY: takes two integers and touches no memory.
            unsafe { libc::syscall(libc::SYS_setns, BAD, 0) }
        }),
        MOUNT,
        // EINVAL for flags that there are not.
        ("umount2", || {
            // SAFETY: the kernel does not look at the path.
            unsafe { libc::syscall(libc::SYS_umount2, NOWHERE, BAD) }
        }),
        // EFAULT, as with mount(2): a capability is asked for after the directory is found.
        ("chroot", || {
            // SAFETY: the kernel finds that no address is mapped there.
            unsafe { libc::syscall(libc::SYS_chroot, NOWHERE) }
        }),
        // EOPNOTSUPP.
        ("keyctl", || {
            // SAFETY: there is no such operation, and it takes integers.
            unsafe { libc::syscall(libc::SYS_keyctl, BAD, 0, 0, 0, 0) }
        }),
    ])
}

/// The same for the calls that the kernel allows only in namespaces of one's own, in which this
/// process must be.
pub fn inside() -> Vec<&'static str> {
    denied(&[
        // EFAULT.
        ("pivot_root", || {
            // SAFETY: the kernel finds that no address is mapped there.
            unsafe { libc::syscall(libc::SYS_pivot_root, NOWHERE, NOWHERE) }
        }),
        // EINVAL for a length below zero.
        ("sethostname", || {
            // SAFETY: the kernel does not look at the name.
            unsafe { libc::syscall(libc::SYS_sethostname, NOWHERE, -1) }
        }),
    ])
}

/// Whether the profile of AppArmor that confines this process allows mounts. False where seccomp
/// denies mount(2), since then AppArmor is not asked.
///
/// The kernel asks security modules first, and AppArmor's answer is EACCES; then for a capability,
/// EPERM; and then it refuses two kinds of propagation at once, EINVAL: `path_mount` and
/// `flags_to_propagation_type` in fs/namespace.c, `apparmor_sb_mount` in security/apparmor/lsm.c.
pub fn apparmor_allows_mounts() -> bool {
    let nothing = None::<&str>;
    denied(&[MOUNT]).is_empty()
        && matches!(
            mount(
                nothing,
                "/",
                nothing,
                MsFlags::MS_SHARED | MsFlags::MS_PRIVATE,
                nothing
            ),
            Err(Errno::EPERM | Errno::EINVAL)
        )
}

/// The name of a system call, and a call of it.
type Call = (&'static str, fn() -> libc::c_long);

/// Those calls that fail as engines' profiles make them fail.
fn denied(calls: &[Call]) -> Vec<&'static str> {
    let is_denied = |result: libc::c_long| {
        matches!(
            Errno::result(result),
            Err(Errno::EPERM | Errno::EACCES | Errno::ENOSYS)
        )
    };
    let denied = calls.iter().filter(|(_, call)| is_denied(call()));
    denied.map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_changes_nothing_and_finds_nothing_here() {
        let before = std::fs::read_link("/proc/self/ns/user").ok();
        assert_eq!(outside(), Vec::<&str>::new());
        assert!(apparmor_allows_mounts());
        assert_eq!(std::fs::read_link("/proc/self/ns/user").ok(), before);
    }
}
