//! The data-root mounter: makes an ext4 image for a data root that cannot hold overlay2,
//! attaches it to a loop device and mounts it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::wait::WaitStatus;
use tracing::{info, warn};

use super::run::run;
use crate::apply::loops::{self, Access};
use crate::facts::storage::new_name;
use crate::messages::remedy::Remedy;
use crate::plan::engine::{DataFile, NewDataFile};
use crate::sys::lock;
use crate::sys::signals::Inherited;

/// The size of a block of an image that grows, in bytes.
const BLOCK: u64 = 4096;

/// What the user can do about a directory that cannot be changed.
const WRITABLE: &str = "mount its directory writable";

/// What the user can do where there is no loop device.
const NO_LOOP_DEVICE: &str =
    "start the container with --privileged, or give the data root a volume";

/// The limit of the wait for a lock: longer than PID 1 waits for this child.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// Mounts the ext4 image on the data root, and makes it first where `data_file.new` is set. It
/// blocks, so it must run in a child: it waits for `mkfs.ext4`, and for the image's lock where
/// another container with that image mounted has just been killed. The error names the path.
pub fn put_in_place(data_file: &DataFile, inherited: &Inherited) -> Result<()> {
    let file = match &data_file.new {
        Some(new) => make(&data_file.path, new, inherited)?,
        None => open(&data_file.path, false)?,
    };
    // Kept open until the mount, since the device detaches the image when nothing uses it.
    let device = loops::attach(&file, Access::Write, NO_LOOP_DEVICE)?;
    mount(
        Some(device.path.as_str()),
        &data_file.target,
        Some("ext4"),
        MsFlags::empty(),
        // Blocks that are freed inside return to the file system that holds the image.
        Some("discard"),
    )
    .with_context(|| {
        format!(
            "cannot mount {} on {}",
            data_file.path.display(),
            data_file.target.display()
        )
    })
    .remedy(
        "the kernel's log has the reason: repair the image with fsck.ext4, or move it away to get \
         a new one",
    )
}

/// Unmounts the data root `target` and removes its ext4 image. The error names the path.
pub fn remove(data_file: &Path, target: &Path) -> Result<()> {
    umount2(target, MntFlags::MNT_DETACH)
        .with_context(|| format!("cannot unmount {}", target.display()))
        .remedy("remove the ext4 image")?;
    fs::remove_file(data_file)
        .with_context(|| format!("cannot remove {}", data_file.display()))
        .remedy("remove the ext4 image")
}

/// Opens an ext4 image and locks it. The lock belongs to the open file (flock(2)), which the loop
/// device holds as long as the file system is mounted anywhere: also after this process and its
/// container have been killed, while the kernel still writes.
fn open(path: &Path, create: bool) -> Result<File> {
    let shown = path.display();
    let file = File::options()
        .read(true)
        .write(true)
        .create(create)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .with_context(|| format!("cannot open {shown}"))
        .remedy(WRITABLE)?;
    lock::lock_or_wait(&file, libc::LOCK_EX, FOR_EVER, || {
        info!(path = %shown, "waiting for {shown}, which another container has mounted");
    })
    .with_context(|| format!("cannot lock {shown}"))
    .remedy("put it on a file system that has locks")?;
    Ok(file)
}

/// Makes an ext4 image under a temporary name and renames it, so that the file under the final
/// name always has a file system.
fn make(path: &Path, new: &NewDataFile, inherited: &Inherited) -> Result<File> {
    let beside = new_name(path);
    let shown = beside.display();
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("cannot make {}", directory.display()))
            .remedy(WRITABLE)?;
    }
    let file = open(&beside, true)?;
    // Truncation to 0 drops the content of a failed attempt. After it the image is sparse.
    file.set_len(0)
        .and_then(|()| file.set_len(new.size))
        .with_context(|| format!("cannot set the size of {shown} to {} bytes", new.size))
        .remedy("set a smaller DIND_STORAGE_SIZE")?;
    format(&beside, new, inherited)?;
    file.sync_all()
        .with_context(|| format!("cannot write {shown}"))
        .remedy("free space on its file system")?;
    fs::rename(&beside, path)
        .with_context(|| format!("cannot rename {shown}"))
        .remedy(WRITABLE)?;
    Ok(file)
}

fn format(path: &Path, new: &NewDataFile, inherited: &Inherited) -> Result<()> {
    let mkfs = new.mkfs.as_path();
    // The kernel initializes the tables in the background: 20 ms instead of seconds.
    let mut extended = "-Elazy_itable_init=1,lazy_journal_init=1,nodiscard".to_owned();
    let mut arguments: Vec<&OsStr> = vec![
        "-q".as_ref(),
        "-F".as_ref(),
        // No blocks are reserved for root, as only root writes here.
        "-m0".as_ref(),
    ];
    if let Some(most) = new.grows_to {
        // What mkfs.ext4 chooses for file systems from 512 MB on. A journal does not grow.
        arguments.extend(["-b4096", "-I256", "-i16384", "-Jsize=32"].map(OsStr::new));
        // Room for the descriptors of all groups that it will have.
        let blocks = (most / BLOCK).min(u32::MAX.into());
        extended.push_str(&format!(",resize={blocks}"));
    }
    arguments.extend([extended.as_ref(), path.as_os_str()]);
    let (end, output) = run(mkfs, &arguments, inherited)?;
    // Logged line by line, so that the log keeps its form.
    for line in output.lines() {
        warn!(program = %mkfs.display(), "{}: {line}", mkfs.display());
    }
    match end {
        WaitStatus::Exited(_, 0) => Ok(()),
        WaitStatus::Exited(_, status) => Err(anyhow!(
            "{} {} failed with status {status}",
            mkfs.display(),
            path.display()
        )
        .remedy("its output has the reason")),
        WaitStatus::Signaled(_, signal, _) => Err(anyhow!(
            "{} {} failed, ended by {signal}",
            mkfs.display(),
            path.display()
        )
        .remedy("start again")),
        _ => bail!("{} {} has not ended", mkfs.display(), path.display()),
    }
}
