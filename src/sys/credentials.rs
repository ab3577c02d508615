//! Whose rights a child uses: credentials(7), capabilities(7).

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::stat::{fstat, stat};
use nix::unistd::{Gid, Uid, fchown, setegid, seteuid, setgroups, setresgid, setresuid};

/// Becomes this user for good, without supplementary groups. Processes of the same user may look
/// at it all the same, and its files in `/proc` are the user's: prctl(2), PR_SET_DUMPABLE. The
/// error is that of the first call that fails; it takes CAP_SETGID and CAP_SETUID.
pub fn become_user(user: u32, group: u32) -> nix::Result<()> {
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    prctl::set_dumpable(true)
}

/// Uses the rights of this user from now on, and keeps the capabilities that are permitted: the
/// kernel takes them away where the effective user is no longer root. The error is that of the
/// first call that fails.
pub fn act_as(user: u32, group: u32) -> nix::Result<()> {
    setegid(Gid::from_raw(group))?;
    seteuid(Uid::from_raw(user))?;
    keep_permitted()
}

/// Gives standard input, output and error of this process to a user, so that a program of that user
/// can open them by name, as `/dev/stdout`: runc does so for `docker run --user`
/// (`fixStdioPermissions` in libcontainer/init_linux.go). Those for which that is not possible, and
/// `/dev/null`, are left as they are.
pub fn give_standard(user: u32) {
    let standard = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let null = stat("/dev/null").ok().map(|found| found.st_rdev);
    for descriptor in [standard.0.as_fd(), standard.1.as_fd(), standard.2.as_fd()] {
        if fstat(descriptor).is_ok_and(|found| Some(found.st_rdev) != null) {
            let _ = fchown(descriptor, Some(Uid::from_raw(user)), None);
        }
    }
}

/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h.
const VERSION: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct` of linux/capability.h.
#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

/// `struct __user_cap_data_struct`: 32 of the capabilities.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Makes the permitted capabilities effective: capset(2).
fn keep_permitted() -> nix::Result<()> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: the kernel writes to the two structures, which version 3 has.
    let read = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    Errno::result(read)?;
    for part in &mut data {
        part.effective = part.permitted;
    }
    // SAFETY: the kernel reads the same structures.
    let written = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    Errno::result(written).map(drop)
}
