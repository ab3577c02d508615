//! What file systems say of a file by other ways than stat(2).

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;

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
