//! Mends what a power failure has left of a data root that had begun with a store.
//!
//! A start does not wait for the disk. ext4 and xfs write the content of a file up to 30 s after its
//! name, and their journals keep names in the order in which they were made. So a power failure soon
//! after a start leaves every name, and of some files only a beginning: the store has the rest.
//!
//! The data root has the boot that it was made in, in a file of its own, until it is known to be on
//! the disk. Within one boot the kernel has what it has not written. In a later one the files are
//! compared with those of the store, once.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::dir::{Dir, Type};
use nix::fcntl::OFlag;
use nix::unistd::syncfs;
use tracing::warn;

use super::disk::{Generation, is_written};
use crate::messages::remedy::Remedy;
use crate::sys::{read, write};

/// The file in a data root with the boot that it was made in. Without it, the data root is on the
/// disk.
pub const BOOT: &str = "dind-store.boot";

/// The kernel's name for its own boot: random(4).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The largest such file that is read, in bytes.
const LIMIT: u64 = 4096;

/// The name of this boot. Where the kernel does not tell it, every boot is another one.
pub fn boot() -> Option<String> {
    read::text(Path::new(BOOT_ID), LIMIT).ok().flatten()
}

/// Mends the data root, which must be of this generation, if it was made in another boot and is not
/// known to be on the disk. Returns how many files were cut off. The store must be in its place, and
/// no engine may run in the data root. Blocks while it compares and syncs.
pub fn mend(data_root: &Path, generation: &Generation) -> Result<usize> {
    let shown = data_root.display();
    let made = read::read(&data_root.join(BOOT), LIMIT, read::Links::Refuse)
        .with_context(|| format!("cannot read {shown}/{BOOT}"))?;
    match made {
        None => return Ok(0),
        Some(made) if boot().is_some_and(|now| now.as_bytes() == made) => return Ok(0),
        Some(_) => {}
    }
    let store = generation.tree();
    let data = Path::new("generations")
        .join(generation.manifest.generation.to_string())
        .join("data");
    let top = read::directory(store)
        .and_then(|top| read::beneath(&top, &data, OFlag::O_DIRECTORY))
        .with_context(|| format!("cannot open {}", store.join(data).display()))?;
    let root = write::open_directory(data_root).with_context(|| format!("cannot open {shown}"))?;
    let mended = files(&top, &root)
        .with_context(|| {
            format!("cannot mend {shown}, which a power failure may have cut files of")
        })
        .remedy("free space in it, or use another volume")?;
    if mended > 0 {
        warn!(path = %shown, "a power failure had cut {mended} files of {shown}, which are whole again");
    }
    syncfs(&root).with_context(|| format!("cannot sync {shown}"))?;
    write::remove(&root, BOOT.as_ref())
        .with_context(|| format!("cannot remove {shown}/{BOOT}"))
        .remedy("mount the data root writable")?;
    Ok(mended)
}

/// Mends every file of the data root that is one of the generation, and returns how many were cut
/// off. What is gone is what an engine has removed.
fn files(top: &File, root: &File) -> Result<usize> {
    let mut mended = 0;
    let mut left = vec![PathBuf::from(".")];
    while let Some(path) = left.pop() {
        let failed = || format!("cannot read {} of the store", path.display());
        let directory = read::beneath(top, &path, OFlag::O_DIRECTORY).with_context(failed)?;
        let mut entries = Dir::from_fd(directory.into()).with_context(failed)?;
        for entry in entries.iter() {
            let entry = entry.with_context(failed)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let path = path.join(OsStr::from_bytes(name.to_bytes()));
            let kind = match entry.file_type() {
                Some(kind) => Some(kind),
                None => kind(top, &path).with_context(failed)?,
            };
            match kind {
                Some(Type::Directory) => left.push(path),
                Some(Type::File) => {
                    let failed = || format!("{} cannot be written again", path.display());
                    mended += usize::from(file(top, root, &path).with_context(failed)?);
                }
                Some(_) | None => {}
            }
        }
    }
    Ok(mended)
}

/// The kind of an entry, where the directory does not have it: readdir(3).
fn kind(top: &File, path: &Path) -> io::Result<Option<Type>> {
    let found = read::beneath(top, path, OFlag::O_PATH)?.metadata()?;
    Ok(match (found.is_dir(), found.is_file()) {
        (true, _) => Some(Type::Directory),
        (_, true) => Some(Type::File),
        _ => None,
    })
}

/// Writes the end of a file of the data root again, if it has only the beginning of the store's.
/// Returns whether it had.
fn file(top: &File, root: &File, path: &Path) -> io::Result<bool> {
    let mut target = match read::beneath(root, path, OFlag::O_RDWR | OFlag::O_NONBLOCK) {
        Ok(target) => target,
        // It was removed, or something else is there now, and what that is is the engine's.
        Err(_) => return Ok(false),
    };
    let mut source = read::beneath(top, path, OFlag::O_NONBLOCK)?;
    let (left, found) = (target.metadata()?, source.metadata()?);
    if !left.is_file() || left.len() >= found.len() {
        return Ok(false);
    }
    // What containers have written is copied with its time, and has another one when it was written to
    // since.
    let parents = path.strip_prefix(".").unwrap_or(path).ancestors().skip(1);
    let time = |of: &Metadata| (of.mtime(), of.mtime_nsec());
    if parents.into_iter().any(is_written) && time(&left) != time(&found) {
        return Ok(false);
    }
    // An engine replaces its files, and no text of one is the beginning of another.
    if !is_beginning(&mut target, &mut source)? {
        return Ok(false);
    }
    // Both are where the beginning ends.
    io::copy(&mut source, &mut target)?;
    target.set_modified(found.modified()?)?;
    Ok(true)
}

/// Whether a file is the beginning of another one. Then both are where it ends.
fn is_beginning(short: &mut File, long: &mut File) -> io::Result<bool> {
    let mut at = [vec![0; 1 << 16], vec![0; 1 << 16]];
    let [ours, theirs] = &mut at;
    loop {
        let count = short.read(ours)?;
        let (Some(ours), Some(theirs)) = (ours.get(..count), theirs.get_mut(..count)) else {
            return Ok(false);
        };
        long.read_exact(theirs)?;
        match (count, ours == theirs) {
            (0, _) => return Ok(true),
            (_, true) => {}
            (_, false) => return Ok(false),
        }
    }
}
