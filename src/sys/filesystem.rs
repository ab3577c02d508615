//! Attributes of files and file systems that stat(2) and statfs(2) do not report, and their size.

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;

/// The directory that a new ext4 has: mke2fs(8).
pub const LOST_AND_FOUND: &str = "lost+found";

/// Reads the capabilities of a program file: the value of its extended attribute
/// `security.capability`, as the kernel stores it: xattr(7), capabilities(7). `None` where the
/// file has none, or its file system has no extended attributes. The error is that of
/// fgetxattr(2).
pub fn capability(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut value = [0_u8; 64];
    // SAFETY: the name ends with a NUL, and the kernel writes at most the given length.
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

/// Has the kernel begin to write a file to the disk, and does not wait for it: sync_file_range(2).
/// Where that cannot be, the kernel writes when it does anyway.
pub fn begin_to_write(file: &File) {
    // SAFETY: a plain system call on a descriptor that is open. A length of 0 is the whole file.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Has ext4 choose a group of inodes for each directory that is made in this one, by the new
/// directory's name and how full the groups are, and not the group of this one: `find_group_orlov`
/// in the kernel's fs/ext4/ialloc.c. Does nothing on other file systems. The error is that of
/// ioctl(2).
pub fn spread(directory: &File) -> nix::Result<()> {
    /// `FS_IOC_GETFLAGS`, `FS_IOC_SETFLAGS` and `FS_TOPDIR_FL` of linux/fs.h: chattr(1), T.
    const GET: libc::Ioctl = 0x8008_6601_u32 as libc::Ioctl;
    const SET: libc::Ioctl = 0x4008_6602_u32 as libc::Ioctl;
    const TOP: libc::c_int = 0x0002_0000;
    let mut flags: libc::c_int = 0;
    let directory = directory.as_raw_fd();
    // SAFETY: the kernel writes an int, whatever size the request number encodes: ioctl_iflags(2).
    Errno::result(unsafe { libc::ioctl(directory, GET, &raw mut flags) })?;
    flags |= TOP;
    // SAFETY: the kernel reads an int.
    Errno::result(unsafe { libc::ioctl(directory, SET, &raw const flags) }).map(drop)
}

/// Whether an xfs stores the file type in its directory entries (`ftype=1`):
/// ioctl_xfs_fsgeometry(2). Takes a directory on it; the error is that of ioctl(2).
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
    // SAFETY: the kernel writes a structure of this size, which the request number encodes.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), GEOMETRY, &raw mut geometry) };
    Errno::result(result)?;
    Ok(geometry.flags & FTYPE != 0)
}

/// Grows a mounted ext4 to `blocks` blocks, by the ioctl of resize2fs(8). Takes a directory on it
/// and needs CAP_SYS_RESOURCE (`ext4_resize_begin` in the kernel's fs/ext4/resize.c). Does nothing
/// where it has that size. The error is that of ioctl(2).
pub fn resize_ext4(directory: &File, blocks: u64) -> nix::Result<()> {
    /// `EXT4_IOC_RESIZE_FS` of linux/ext4.h.
    const RESIZE: libc::Ioctl = 0x4008_6610_u32 as libc::Ioctl;
    // SAFETY: the kernel reads an integer of this size, which the request number encodes.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), RESIZE, &raw const blocks) };
    Errno::result(result).map(drop)
}
