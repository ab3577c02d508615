//! The data-root grower: makes the ext4 image larger while it is mounted, before it is full.
//!
//! `docker commit` and `docker export` copy the image with the container's layer, and a tar has no
//! holes. So the image begins small. No event tells how full a file system is: ext4 counts what is
//! written while it is only in memory, and tells nobody. So this process looks at the free space,
//! more often the less of it is left, and ends when the image has its full size.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use anyhow::{Context, Result};
use nix::libc;
use nix::poll::poll;
use nix::sys::stat::{major, minor};
use nix::sys::statvfs::statvfs;
use tracing::{debug, info};

use crate::apply::loops::LOOP_MAJOR;
use crate::messages::remedy::Remedy;
use crate::plan::engine::DataFile;
use crate::plan::growth::Growth;
use crate::sys::read;
use crate::sys::{filesystem, loop_device, memory, wait};

/// Grows the image until it has its full size, or is not mounted any more. The error names the
/// path.
pub fn run(data_file: &DataFile, growth: Growth) -> Result<()> {
    if let Err(errno) = memory::unmap_code() {
        debug!(error = errno.desc(), "madvise: {}, ignoring", errno.desc());
    }
    let (path, target) = (data_file.path.display(), data_file.target.display());
    let volume = format!("give {target} a volume");
    // Where a grower was killed, the file may be larger than its file system.
    let mut unfinished = true;
    loop {
        let Some(device) = loop_device_at(data_file) else {
            return Ok(());
        };
        let found = statvfs(&data_file.target)
            .with_context(|| format!("cannot read the space of {target}"))
            .remedy(&volume)?;
        let size = fs::metadata(&data_file.path)
            .with_context(|| format!("cannot read the size of {path}"))
            .remedy(&volume)?
            .len();
        let block = found.fragment_size();
        let free = found.blocks_free().saturating_mul(block);
        let wanted = match growth.next(size, free) {
            Some(wanted) => wanted,
            None if unfinished => size,
            None if size >= growth.most => return Ok(()),
            None => {
                // It ends early by a signal, which is no harm.
                let _ = poll(&mut [], wait::timeout(Some(growth.pause(size, free))));
                continue;
            }
        };
        grow(data_file, &device, wanted, wanted / block.max(1))
            .with_context(|| {
                format!(
                    "cannot grow {path} from {} to {} MiB",
                    size >> 20,
                    wanted >> 20
                )
            })
            .remedy(&volume)?;
        unfinished = false;
        if wanted > size {
            info!(path = %path, bytes = wanted, "{path} has grown to {} MiB", wanted >> 20);
        }
    }
}

/// The path of the loop device whose file system is mounted on the data root. `None` where there
/// is none.
fn loop_device_at(data_file: &DataFile) -> Option<String> {
    let device = fs::metadata(&data_file.target).ok()?.dev();
    (major(device) == LOOP_MAJOR).then(|| format!("/dev/loop{}", minor(device)))
}

/// Grows the file, then the loop device, then the file system. At any time in between the file
/// system is whole: ext4 adds each group of blocks in a transaction.
fn grow(data_file: &DataFile, device: &str, size: u64, blocks: u64) -> Result<()> {
    let image = File::options()
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&data_file.path)
        .context("cannot open it")?;
    image.set_len(size).context("ftruncate")?;
    let mut options = File::options();
    // Another kind of file in its place does not block: open(2).
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let opened = options.open(device);
    let device = opened.with_context(|| format!("cannot open {device}"))?;
    loop_device::update_size(&device).context("LOOP_SET_CAPACITY")?;
    let directory = read::directory(&data_file.target).context("cannot open the data root")?;
    filesystem::resize_ext4(&directory, blocks).context("EXT4_IOC_RESIZE_FS")
}
