//! Loop devices: loop(4). Their nodes are made here, as the kernel makes none in a container's `/dev`.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::facts::storage::LOOP_CONTROL;
use crate::messages::remedy::Remedy;
use crate::sys::{loop_device, read};

/// The device numbers of loop devices and of `/dev/loop-control`:
/// Documentation/admin-guide/devices.txt of the kernel.
pub const LOOP_MAJOR: u64 = 7;
const MISC_MAJOR: u64 = 10;
const LOOP_CONTROL_MINOR: u64 = 237;

/// How many times another process may take the loop device that the kernel has just returned
/// as free.
const ATTEMPTS: u32 = 64;

/// How a loop device shows its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// For reading alone.
    Read,
    /// For reading and writing.
    Write,
}

/// A loop device that has a file. The kernel detaches the file when the device is neither open nor
/// mounted any more.
pub struct Loop {
    /// The path of the device.
    pub path: String,
    /// Keeps the file attached until the device is mounted.
    _open: File,
}

/// Attaches a file to a free loop device. `remedy` is what the user can do where there is none.
pub fn attach(file: &File, access: Access, remedy: &str) -> Result<Loop> {
    node(
        LOOP_CONTROL,
        SFlag::S_IFCHR,
        (MISC_MAJOR, LOOP_CONTROL_MINOR),
    )
    .remedy(remedy)?;
    let control = open(LOOP_CONTROL, Access::Write).remedy(remedy)?;
    for _ in 0..ATTEMPTS {
        let number = loop_device::free_loop_device(&control)
            .context("no loop device is free")
            .remedy(remedy)?;
        let path = device(number).remedy(remedy)?;
        let open = open(&path, access).remedy(remedy)?;
        match loop_device::attach_loop_device(&open, file) {
            Ok(()) => return Ok(Loop { path, _open: open }),
            Err(Errno::EBUSY) => {}
            Err(errno) => {
                return Err(errno)
                    .with_context(|| format!("cannot use {path}"))
                    .remedy(remedy);
            }
        }
    }
    Err(anyhow!("other processes took {ATTEMPTS} loop devices in a row").remedy("start again"))
}

/// A loop device that shows this file already, all of it and read-only, whichever container has
/// attached it. A file system that is mounted from one device twice is one, with one page cache:
/// `get_tree_bdev` in the kernel's fs/super.c. A file that is attached twice has two.
pub fn showing(file: &File) -> Option<Loop> {
    let metadata = file.metadata().ok()?;
    let names = fs::read_dir("/sys/block").ok()?;
    names
        .filter_map(|name| name.ok()?.file_name().into_string().ok())
        .find_map(|name| {
            let number = name.strip_prefix("loop")?.parse().ok()?;
            // Devices with no file, and those that can be written to, are not even opened.
            let is = |attribute: &str| {
                let value = read::kernel(format!("/sys/block/{name}/{attribute}"));
                value.is_ok_and(|value| value.trim() == "1")
            };
            if !is("ro") || !is("loop/autoclear") {
                return None;
            }
            let path = device(number).ok()?;
            let open = open(&path, Access::Read).ok()?;
            // It stays attached from here on.
            let shows = loop_device::shows(&open, (metadata.dev(), metadata.ino()));
            (shows == Ok(true)).then_some(Loop { path, _open: open })
        })
}

/// The path of loop device N, whose node is made where it is missing.
fn device(number: u32) -> Result<String> {
    let path = format!("/dev/loop{number}");
    node(&path, SFlag::S_IFBLK, (LOOP_MAJOR, number.into()))?;
    Ok(path)
}

fn node(path: &str, kind: SFlag, (major, minor): (u64, u64)) -> Result<()> {
    let mode = Mode::from_bits_truncate(0o600);
    match mknod(path, kind, mode, makedev(major, minor)) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno).with_context(|| format!("cannot make {path}")),
    }
}

fn open(path: &str, access: Access) -> Result<File> {
    let opened = File::options()
        .read(true)
        .write(access == Access::Write)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    opened.with_context(|| format!("cannot open {path}"))
}
