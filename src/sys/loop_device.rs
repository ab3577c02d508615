//! Loop devices: loop(4).

#![expect(unsafe_code, reason = "system calls that no safe interface offers")]

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;

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

/// LO_FLAGS_READ_ONLY and LO_FLAGS_AUTOCLEAR of linux/loop.h. The kernel sets the first one by itself
/// where the file or the device is not open for writing.
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;

impl LoopInfo {
    fn new(flags: u32) -> Self {
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    descriptor: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// The number N of a free loop device `/dev/loopN`: LOOP_CTL_GET_FREE in loop(4). `control` is
/// `/dev/loop-control`. The error is that of ioctl(2).
pub fn free_loop_device(control: &File) -> nix::Result<u32> {
    const GET_FREE: libc::Ioctl = 0x4C82;
    // SAFETY: takes no argument.
    let number = Errno::result(unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) })?;
    u32::try_from(number).map_err(|_| Errno::EINVAL)
}

/// Gives a loop device the size that its file has now: LOOP_SET_CAPACITY in loop(4). The error is
/// that of ioctl(2).
pub fn update_size(device: &File) -> nix::Result<()> {
    const SET_CAPACITY: libc::Ioctl = 0x4C07;
    // SAFETY: takes no argument.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), SET_CAPACITY) }).map(drop)
}

/// Whether a loop device shows exactly the file with these numbers of stat(2), all of it and
/// read-only, and detaches it by itself: LOOP_GET_STATUS64 in loop(4). The error is that of ioctl(2),
/// ENXIO where the device has no file.
pub fn shows(device: &File, (file_system, inode): (u64, u64)) -> nix::Result<bool> {
    const GET_STATUS: libc::Ioctl = 0x4C05;
    let mut info = LoopInfo::new(0);
    // SAFETY: the kernel fills a structure that lives until the call has returned.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), GET_STATUS, &raw mut info) })?;
    Ok((info.device, info.inode) == (file_system, inode)
        && (info.offset, info.size_limit) == (0, 0)
        && info.flags & (READ_ONLY | AUTOCLEAR) == READ_ONLY | AUTOCLEAR)
}

/// Attaches `file` to a loop device, which is read-only where the file is. The kernel detaches it
/// when the device is neither open nor mounted any more: LO_FLAGS_AUTOCLEAR in loop(4). With
/// LOOP_CONFIGURE, and before Linux 5.8 with LOOP_SET_FD and LOOP_SET_STATUS64. The error is that of
/// ioctl(2).
pub fn attach_loop_device(device: &File, file: &File) -> nix::Result<()> {
    const CONFIGURE: libc::Ioctl = 0x4C0A;
    const SET_FILE: libc::Ioctl = 0x4C00;
    const SET_STATUS: libc::Ioctl = 0x4C04;
    const CLEAR_FILE: libc::Ioctl = 0x4C01;
    let descriptor = file.as_raw_fd();
    let config = LoopConfig {
        descriptor: u32::try_from(descriptor).map_err(|_| Errno::EBADF)?,
        block_size: 0,
        info: LoopInfo::new(AUTOCLEAR),
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
    // SAFETY: as for LOOP_CONFIGURE.
    let set = unsafe { libc::ioctl(device, SET_STATUS, &raw const config.info) };
    Errno::result(set).map(drop).inspect_err(|_| {
        // SAFETY: takes an integer, which is not used.
        unsafe { libc::ioctl(device, CLEAR_FILE, 0) };
    })
}
