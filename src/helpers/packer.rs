//! The store's packer: makes the one generation of a directory store a store in one file.
//!
//! The file is made beside the one that it replaces, under a hidden name, and renamed when it is whole
//! and on the disk. Who saves holds a lock on the hidden file from the beginning on, so that a second
//! one does not begin with a generation that is about to be replaced.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::WaitStatus;

use super::run::run;
use crate::messages::remedy::Remedy;
use crate::plan::engine::Pack;
use crate::store::disk::{MOUNT_POINT, Store};
use crate::store::file;
use crate::store::manifest::Manifest;
use crate::sys::lock::Record;
use crate::sys::read;
use crate::sys::signals::Inherited;

/// What the user can do where the file cannot be written.
const WRITABLE: &str = "mount its directory writable, and free space in it";

/// How often another save may put its file in place while this one opens the hidden file.
const ATTEMPTS: u32 = 8;

/// The hidden file that becomes the store at `path`.
fn hidden(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".saving");
    path.with_file_name(name)
}

/// Locks the store at `path` against being saved by others, as long as the value lives. Does not
/// wait: the error is that another one saves to it.
pub fn lock(path: &Path) -> Result<File> {
    let hidden = hidden(path);
    let failed = || format!("cannot make {}", hidden.display());
    if let Some(directory) = path.parent() {
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory);
        made.with_context(|| format!("cannot make {}", directory.display()))
            .remedy(WRITABLE)?;
    }
    for _ in 0..ATTEMPTS {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&hidden)
            .with_context(failed)
            .remedy(WRITABLE)?;
        match Record::Write.set(&file) {
            Err(Errno::EAGAIN | Errno::EACCES) => {
                let shown = path.display();
                return Err(anyhow!("another container saves to the store {shown}")
                    .remedy("try again when it has ended"));
            }
            locked => locked
                .with_context(|| format!("cannot lock {}", hidden.display()))
                .remedy("save to a file system that has locks, and copy the file")?,
        }
        if is_at(&file, &hidden)? {
            return Ok(file);
        }
    }
    Err(anyhow!(
        "other containers save to the store {} all the time",
        path.display()
    )
    .remedy("try again"))
}

/// Removes the hidden file of a save that published nothing. The lock on it must be held.
pub fn give_up(path: &Path, lock: &File) {
    let hidden = hidden(path);
    if is_at(lock, &hidden).is_ok_and(|is_there| is_there) {
        // The next save takes it as it is.
        let _ = fs::remove_file(hidden);
    }
}

/// Whether an open file is still the one at `path`.
fn is_at(file: &File, path: &Path) -> Result<bool> {
    let open = file.metadata().context("cannot read an open file")?;
    Ok(fs::symlink_metadata(path)
        .is_ok_and(|found| (found.dev(), found.ino()) == (open.dev(), open.ino())))
}

/// Packs the directory store, whose only generation has this manifest, and puts the file in place.
/// Layers that the generation has of the file before are taken from where that is mounted. Returns the
/// length of the file. Blocks, so it must run in a child, which gets a mount namespace of its own. The
/// lock must be held.
pub fn pack(store: &Store, pack: &Pack, manifest: &Manifest, inherited: &Inherited) -> Result<u64> {
    let mounted = mount_old_layers(store, manifest)?;
    let hidden = hidden(&pack.path);
    let shown = hidden.display();
    let mut file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&hidden)
        .with_context(|| format!("cannot open {shown}"))
        .remedy(WRITABLE)?;
    // What a killed save has left.
    file.set_len(0)
        .with_context(|| format!("cannot write {shown}"))
        .remedy(WRITABLE)?;
    make_image(pack, &hidden, &store.path, inherited)?;
    for path in mounted {
        umount2(&path, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", path.display()))?;
    }
    let written = file::finish(&mut file, manifest).and_then(|()| file.sync_all());
    written
        .with_context(|| format!("cannot write {shown}"))
        .remedy(WRITABLE)?;
    fs::rename(&hidden, &pack.path)
        .with_context(|| format!("cannot rename {shown} to {}", pack.path.display()))
        .remedy("mount the directory of the store, and not the file alone")?;
    let directory = pack.path.parent().unwrap_or(Path::new("/"));
    read::directory(directory)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("cannot write {}", directory.display()))?;
    let length = file.metadata().map(|metadata| metadata.len());
    length.with_context(|| format!("cannot read {}", pack.path.display()))
}

/// Mounts the layers that came with the file before in the directory of layers, where nobody else sees
/// that, and returns where.
fn mount_old_layers(store: &Store, manifest: &Manifest) -> Result<Vec<PathBuf>> {
    const NOTHING: Option<&str> = None;
    let change = |flags| mount(NOTHING, "/", NOTHING, flags, NOTHING);
    unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| change(MsFlags::MS_REC | MsFlags::MS_PRIVATE))
        .context("cannot make a mount namespace")
        .remedy("start the container with --privileged")?;
    let mut mounted = Vec::new();
    for layer in manifest.layers.keys() {
        let path = store.layers().join(layer);
        if fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        let old = Path::new(MOUNT_POINT).join("layers").join(layer);
        let failed = || format!("cannot mount {} on {}", old.display(), path.display());
        let is_directory = fs::symlink_metadata(&old).with_context(failed)?.is_dir();
        let made = match is_directory {
            true => fs::create_dir(&path),
            false => File::create_new(&path).map(drop),
        };
        made.with_context(failed)?;
        mount(Some(&old), &path, NOTHING, MsFlags::MS_BIND, NOTHING).with_context(failed)?;
        mounted.push(path);
    }
    Ok(mounted)
}

/// Makes an image of erofs that has what is in a directory, mount points included: mkfs.erofs(1).
/// Compressed by lz4, since what is compressed has no holes to fill with zeros, takes half of the room
/// and is read as fast: `tests/lab bench --store-file`. Clusters of their usual size are read by every
/// kernel from 5.4 on.
fn make_image(pack: &Pack, image: &Path, from: &Path, inherited: &Inherited) -> Result<()> {
    let options = ["--quiet", "-zlz4"].map(OsStr::new);
    let arguments = [&options[..], &[image.as_os_str(), from.as_os_str()]].concat();
    let (end, output) = run(&pack.mkfs, &arguments, inherited)?;
    let program = pack.mkfs.display();
    let last = output.lines().rev().find(|line| !line.trim().is_empty());
    let why = last.map_or_else(String::new, |line| format!(": {line}"));
    match end {
        WaitStatus::Exited(_, 0) => Ok(()),
        _ => Err(anyhow!("{program} could not make {}{why}", image.display()).remedy(WRITABLE)),
    }
}
