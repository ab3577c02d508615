//! Makes a data root independent of the store that it came from: each link to a layer becomes the
//! layer.
//!
//! A layer is copied beside the link, is on the disk, and then takes the place of the link in one
//! system call. So the data root is whole at every moment, with the store until the last link is
//! gone and without it afterwards, and only then it loses its origin. What is killed on the way goes
//! on from there.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::unistd::syncfs;

use super::clean::{names, remove};
use super::copy;
use super::disk::{Generation, layer_of};
use super::mend::{self, BOOT};
use super::origin::{self, INCOMING, ORIGIN};
use crate::messages::remedy::Remedy;
use crate::sys::{filesystem, write};

/// What the user can do about a file system that takes no copy.
const SPACE: &str = "free space in it and detach it again, which goes on from here; the data root still works with the store";

/// What has been copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// How many layers.
    pub layers: usize,
    /// Their size in bytes.
    pub bytes: u64,
}

/// Replaces every link to a layer in the data root by that layer, and removes the origin. The
/// generation must be that of the origin, and no engine may run there. Blocks while it copies.
pub fn detach(data_root: &Path, generation: &Generation) -> Result<Copied> {
    origin::finish(data_root)?;
    mend::mend(data_root, generation)?;
    let incoming = data_root.join(INCOMING);
    // Half a layer of one that was killed.
    remove(&incoming)?;
    DirBuilder::new()
        .mode(0o700)
        .create(&incoming)
        .with_context(|| format!("cannot make {}", incoming.display()))
        .remedy(SPACE)?;
    let open = |path: &Path| -> Result<File> {
        write::open_directory(path).with_context(|| format!("cannot open {}", path.display()))
    };
    let (layers, target) = (open(&generation.tree().join("layers"))?, open(&incoming)?);
    // As the filler does it. Where the kernel takes no hint, it is as it is.
    let _ = filesystem::spread(&target);
    let mut copied = Copied::default();
    for (link, layer) in links(data_root)? {
        let bytes = generation.manifest.layers.get(&layer);
        let bytes = bytes.with_context(|| {
            let number = generation.manifest.generation;
            format!(
                "{} leads to a layer that generation {number} does not have",
                link.display()
            )
        })?;
        let replaced = copy::entry(layers.as_fd(), target.as_fd(), layer.as_ref())
            .with_context(|| format!("cannot copy layer {layer} to {}", incoming.display()))
            .remedy(SPACE)
            .and_then(|()| replace(&target, &incoming.join(&layer), &link));
        if let Err(error) = replaced {
            // Its room is needed by what runs in the data root. The first error is the one to report.
            let _ = remove(&incoming);
            return Err(error);
        }
        copied.layers += 1;
        copied.bytes = copied.bytes.saturating_add(*bytes);
    }
    remove(&incoming)?;
    let root = open(data_root)?;
    let synced = || syncfs(&root).with_context(|| format!("cannot sync {}", data_root.display()));
    synced()?;
    for name in [BOOT, ORIGIN] {
        write::remove(&root, name.as_ref())
            .with_context(|| format!("cannot remove {}", data_root.join(name).display()))
            .remedy("mount the data root writable")?;
    }
    synced()?;
    Ok(copied)
}

/// Puts a layer in the place of the link to it, and removes the link.
fn replace(directory: &File, layer: &Path, link: &Path) -> Result<()> {
    // A link would have overlayfs follow it, to wherever a hostile store says.
    let found =
        fs::symlink_metadata(layer).with_context(|| format!("cannot read {}", layer.display()))?;
    ensure!(
        found.is_dir() || found.is_file(),
        "layer {} of the store is neither a directory nor a file",
        layer.file_name().unwrap_or_default().display()
    );
    // Files that a rename puts in place may be empty after a power failure: ext4(5), auto_da_alloc
    // is about those alone that replace a file.
    syncfs(directory)
        .with_context(|| format!("cannot sync {}", layer.display()))
        .remedy(SPACE)?;
    let here = AT_FDCWD;
    renameat2(here, layer, here, link, RenameFlags::RENAME_EXCHANGE)
        .with_context(|| {
            format!(
                "cannot put {} in the place of {}",
                layer.display(),
                link.display()
            )
        })
        .remedy("put the data root on ext4, xfs or btrfs")?;
    fs::remove_file(layer).with_context(|| format!("cannot remove {}", layer.display()))
}

/// Whether readlink(2) has failed since there is no link: EINVAL, ENOENT and ENOTDIR.
fn is_no_link(error: ErrorKind) -> bool {
    matches!(
        error,
        ErrorKind::InvalidInput | ErrorKind::NotFound | ErrorKind::NotADirectory
    )
}

/// Every link of the data root to a layer of a store, and the layer. Those that a container has made
/// are in none of these places.
fn links(data_root: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut links = Vec::new();
    let mut add = |path: PathBuf| -> Result<()> {
        let target = match fs::read_link(&path) {
            // No link, or no directory: overlay2 has a device beside those of layers for quotas of xfs.
            Err(error) if is_no_link(error.kind()) => return Ok(()),
            target => target.with_context(|| format!("cannot read {}", path.display()))?,
        };
        if let Some(layer) = layer_of(&target) {
            let layer = layer.to_owned();
            links.push((path, layer));
        }
        Ok(())
    };
    let overlay2 = data_root.join("overlay2");
    for name in names(&overlay2)? {
        if name != "l" {
            add(overlay2.join(name).join("diff"))?;
        }
    }
    let containerd = data_root.join("containerd/daemon");
    let snapshots = containerd.join("io.containerd.snapshotter.v1.overlayfs/snapshots");
    for name in names(&snapshots)? {
        add(snapshots.join(name).join("fs"))?;
    }
    let blobs = containerd.join("io.containerd.content.v1.content/blobs");
    for algorithm in names(&blobs)? {
        let blobs = blobs.join(algorithm);
        for name in names(&blobs)? {
            add(blobs.join(name))?;
        }
    }
    Ok(links)
}
