//! The data root's filler: puts into an empty data root what a generation of a store has.
//!
//! Everything is made in [`INCOMING`] and renamed into place, the origin last. So a start that is
//! killed has put nothing in place, or the next one puts the rest there: nothing that was in the
//! data root before is touched.

use std::env::consts::ARCH;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};
use tracing::{info, warn};

use super::{packer, publisher, run};
use crate::apply::store_file;
use crate::input::config;
use crate::messages::fault::Fault;
use crate::messages::remedy::Remedy;
use crate::plan::engine::{Filling, Saving};
use crate::plan::too_old;
use crate::store::build;
use crate::store::clean::{self, remove};
use crate::store::copy::{self, Content, Rules};
use crate::store::disk::{Form, Generation, MOUNT_POINT, is_written, layer_of};
use crate::store::file;
use crate::store::manifest::Version;
use crate::store::mend::{self, BOOT};
use crate::store::origin::{INCOMING, ORIGIN, Origin, finish};
use crate::sys::read::{self, Links};
use crate::sys::signals::Inherited;
use crate::sys::{filesystem, write};

/// What the user can do about a data root that cannot be filled.
const SPACE: &str = "free space in the data root, or unset DIND_STORE";

/// What PID 1 holds as long as the container lives: the generation that its data root depends on,
/// and the lock on a store that it saves to.
pub type Held = (Option<Arc<Generation>>, Option<File>);

/// Locks the generation that the data root is to have: the one that it depends on, else the
/// current one; and the store, if the data root is to be published in it. No generation means that
/// the data root begins empty, the reason for which is logged. To be called by PID 1, since the
/// locks last as long as the value. Does not wait.
pub fn hold(filling: &Filling, saving: Option<&Saving>) -> Result<Held> {
    if let Some(saving) = saving {
        let store = publisher::make(&saving.store)?;
        let lock = match &saving.pack {
            Some(pack) => packer::lock(&pack.path)?,
            None => clean::lock(&store)?,
        };
        // Another save may have published one before this one had the lock.
        let generation = match &filling.generation {
            _ if saving.from_nothing => None,
            Some(seen) if file::is_current(seen)? => Some(Arc::clone(seen)),
            _ => file::hold_current(&filling.store)?.map(Arc::new),
        };
        return Ok((generation, Some(lock)));
    }
    let shown = filling.store.display();
    let origin = Origin::of(&filling.data_root)?;
    if let Some(seen) = &filling.generation
        && origin
            .as_ref()
            .is_none_or(|origin| *origin == Origin::of_manifest(&seen.manifest))
    {
        return Ok((Some(Arc::clone(seen)), None));
    }
    let Some(origin) = origin else {
        return match file::hold_current(&filling.store) {
            Err(error) if !filling.strict => {
                let fault = Fault::from(error);
                warn!(path = %shown, "{}", fault.consequence("the data root begins empty"));
                Ok((None, None))
            }
            held => held.map(|held| (held.map(Arc::new), None)),
        };
    };
    let held = origin.find([filling.store.as_path(), Path::new(config::STORE)])?;
    let lost = || {
        let path = filling.data_root.display();
        let number = origin.generation;
        anyhow!("{path} depends on generation {number} of the store {shown}, which is not there")
            .remedy("mount the store that it came from, or use another volume")
    };
    Ok((Some(Arc::new(held.ok_or_else(lost)?)), None))
}

/// Fails if the data root at `path` depends on a store: there is none. Blocks, so it must run in a
/// child.
pub fn needs_none(path: &Path) -> Result<()> {
    match Origin::of(path)? {
        None => Ok(()),
        Some(origin) => Err(anyhow!(
            "{} depends on generation {} of a store, and DIND_STORE names none",
            path.display(),
            origin.generation
        )
        .remedy("mount that store and set DIND_STORE, or use another volume")),
    }
}

/// Mounts the store, and fills the data root if it is empty. One that has data of its own stays as
/// it is. Blocks, so it must run in a child. The error names the path.
pub fn run(filling: &Filling, generation: &Generation, inherited: &Inherited) -> Result<()> {
    let started = Instant::now();
    let (root, shown) = (&filling.data_root, generation.store.display());
    let manifest = &generation.manifest;
    let number = manifest.generation;
    let is_filled = finish(root)?;
    if !is_filled && is_occupied(root)? {
        let root = root.display();
        info!(path = %shown, "the store {shown} is not used, since {root} has data of its own");
        return Ok(());
    }
    let used = fits(filling, generation, inherited).and_then(|()| put_in_place(generation));
    if is_filled {
        used.and_then(|()| mend::mend(root, generation))?;
        let root = root.display();
        info!(path = %shown, generation = number, "{root} is of generation {number} of the store {shown}");
        return Ok(());
    }
    let incoming = root.join(INCOMING);
    if let Err(error) = used.and_then(|()| make(generation, &incoming)) {
        remove(&incoming)?;
        // It is not there where it was not mounted.
        let _ = umount2(MOUNT_POINT, MntFlags::MNT_DETACH);
        if filling.strict {
            return Err(error);
        }
        let fault = Fault::from(error);
        warn!(path = %shown, "{}", fault.consequence("the data root begins empty"));
        return Ok(());
    }
    finish(root)?;
    let seconds = started.elapsed().as_secs_f64();
    let (images, steps) = (manifest.images, manifest.steps);
    info!(
        path = %shown,
        generation = number,
        stored_images = images,
        steps,
        seconds,
        "store {shown}: generation {number}, {images} images, {steps} build steps, in {seconds:.2} s"
    );
    Ok(())
}

/// Whether a data root that was not filled has data: anything but what a new file system has.
fn is_occupied(data_root: &Path) -> Result<bool> {
    let entries = fs::read_dir(data_root)
        .with_context(|| format!("cannot read {}", data_root.display()))
        .remedy("check its file system")?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", data_root.display()))?;
        let name = entry.file_name();
        if name != filesystem::LOST_AND_FOUND && name != INCOMING {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Fails if this engine cannot use the generation.
fn fits(filling: &Filling, generation: &Generation, inherited: &Inherited) -> Result<()> {
    let (shown, manifest) = (generation.store.display(), &generation.manifest);
    let (made, used) = (manifest.layout.name(), filling.layout.name());
    if manifest.machine != ARCH || made != used {
        let why = anyhow!(
            "the store {shown} is not used: it is of the storage driver {made} on {}, and this one is {used} on {ARCH}",
            manifest.machine
        );
        return Err(why.remedy("save one with this driver on this architecture"));
    }
    if build::of(&filling.dockerd).as_ref() == Some(&manifest.build) {
        return Ok(());
    }
    let (_, output) = run::run(&filling.dockerd, &["--version"], inherited)?;
    // "Docker version 26.1.5, build a72d7cd": printVersion in moby's cmd/dockerd.
    let version = output
        .split_whitespace()
        .find_map(|word| Version::of(word.trim_end_matches(',')));
    let version = version
        .with_context(|| format!("{} prints no version", filling.dockerd.display()))
        .remedy("unset DIND_STORE")?;
    match too_old(&generation.store, manifest, &version) {
        None => Ok(()),
        Some(Fault {
            message, remedy, ..
        }) => Err(anyhow!(message).remedy(remedy.unwrap_or_default())),
    }
}

/// Mounts the store where the links of a data root lead to.
fn put_in_place(generation: &Generation) -> Result<()> {
    match generation.form {
        Form::Directory => mount_read_only(&generation.store),
        Form::File => store_file::mount(&generation.store, &generation.held),
    }
}

/// Mounts a directory there. Where that fails, nothing is mounted.
fn mount_read_only(store: &Path) -> Result<()> {
    const NOTHING: Option<&str> = None;
    let shown = store.display();
    let found = statvfs(store)
        .with_context(|| format!("cannot read the flags of {shown}"))
        .remedy("check its file system")?;
    // A remount drops those that it does not name, and fails in a user namespace, where they are
    // locked: mount_namespaces(7). The times of access stay as they are: path_mount of fs/namespace.c.
    let mut kept = MsFlags::empty();
    for (is, flag) in [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    ] {
        kept.set(flag, found.flags().contains(is));
    }
    let bind = |flags: MsFlags| {
        mount(
            Some(store),
            MOUNT_POINT,
            NOTHING,
            MsFlags::MS_BIND | flags,
            NOTHING,
        )
    };
    fs::create_dir_all(MOUNT_POINT)
        .with_context(|| format!("cannot make {MOUNT_POINT}"))
        .remedy("make /run writable")?;
    bind(MsFlags::empty())
        .and_then(|()| {
            bind(MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | kept).inspect_err(|_| {
                // The store is not left there writable. The first error is the one to report.
                let _ = umount2(MOUNT_POINT, MntFlags::MNT_DETACH);
            })
        })
        .with_context(|| format!("cannot mount {shown} read-only on {MOUNT_POINT}"))
        .remedy("start the container with --privileged")
}

fn make(generation: &Generation, incoming: &Path) -> Result<()> {
    let shown = incoming.display();
    // Whoever writes to the store meanwhile leads this nowhere else.
    let store = generation.tree();
    let top = read::directory(store).with_context(|| format!("cannot open {}", store.display()))?;
    let data = generation.path.join("data");
    let from = format!("generations/{}/data", generation.manifest.generation);
    let from = read::beneath(&top, Path::new(&from), OFlag::O_DIRECTORY)
        .with_context(|| format!("cannot open {}", data.display()))?;
    for layer in generation.manifest.layers.keys() {
        let found = read::beneath(&top, &Path::new("layers").join(layer), OFlag::O_PATH)
            .and_then(|layer| layer.metadata())
            .with_context(|| format!("cannot read layer {layer} of the store"))?;
        ensure!(
            found.is_dir() || found.is_file(),
            "layer {layer} of the store is neither a directory nor a file"
        );
    }
    remove(incoming)?;
    fs::DirBuilder::new()
        .mode(0o700)
        .create(incoming)
        .with_context(|| format!("cannot make {shown}"))
        .remedy(SPACE)?;
    let target = write::open_directory(incoming).with_context(|| format!("cannot open {shown}"))?;
    // Where the kernel takes no hint, it is as it is.
    let _ = filesystem::spread(&target);
    let rules = Rules {
        link: &|path, target| is_allowed(generation, path, target),
        names: &names_layers_alone,
        written: &is_written,
    };
    copy::tree(OwnedFd::from(from), target.as_fd(), Content::Plain(&rules))
        .with_context(|| format!("cannot copy {} to {shown}", data.display()))
        .remedy(SPACE)?;
    // To wait for the disk is too dear for a start of 200 ms: syncfs(2) took 8 ms where nothing else
    // was written and 240 ms where something was, and fsync(2) of 120 files 50 to 950 ms. What a power
    // failure cuts off is mended, by the boot.
    let boot = mend::boot().unwrap_or_default();
    write::replace(&target, BOOT.as_ref(), 0o600, boot.as_bytes())
        .with_context(|| format!("cannot write {shown}/{BOOT}"))
        .remedy(SPACE)?;
    let origin = Origin::of_manifest(&generation.manifest).print();
    write::replace(&target, ORIGIN.as_ref(), 0o600, origin.as_bytes())
        .with_context(|| format!("cannot write {shown}/{ORIGIN}"))
        .remedy(SPACE)?;
    // The origin alone is on its way before it gets its place: without it, it would be said that the
    // data root is damaged.
    if let Ok((origin, _)) = read::open(&incoming.join(ORIGIN), Links::Refuse) {
        filesystem::begin_to_write(&origin);
    }
    Ok(())
}

/// Whether it can be one of the names in overlay2's `lower`: a short name of another directory.
fn is_link(name: &str) -> bool {
    name.strip_prefix("l/").is_some_and(is_id)
}

/// Whether a file names layers alone, if it is one of those of overlay2 whose content dockerd takes as
/// the name of a directory. `None` is more than mount(2) takes.
fn names_layers_alone(path: &Path, content: Option<&[u8]>) -> bool {
    let mut parts = path.iter().rev().map(OsStr::to_str);
    let mut parts = [(); 4].map(|()| parts.next().flatten());
    parts.reverse();
    let is_safe: &dyn Fn(&str) -> bool = match parts {
        // What dockerd knows of containers, which no save publishes.
        [_, Some("layerdb"), Some("mounts"), _] | [Some("layerdb"), Some("mounts"), _, _] => {
            return false;
        }
        [_, _, _, Some("cache-id")] | [_, Some("overlay2"), _, Some("link")] => &is_id,
        [_, Some("overlay2"), _, Some("lower")] => &|text| text.split(':').all(is_link),
        _ => return true,
    };
    content.is_some_and(|content| std::str::from_utf8(content).is_ok_and(is_safe))
}

/// Whether a link of a generation may be in a data root: one to a layer of that generation, or one
/// of overlay2's short names for its directories.
fn is_allowed(generation: &Generation, path: &Path, target: &Path) -> bool {
    if let Some(layer) = layer_of(target) {
        return generation.manifest.layers.contains_key(layer);
    }
    let is_short = path.parent() == Some(Path::new("overlay2/l"));
    let id = target.strip_prefix("..").ok().and_then(Path::parent);
    is_short && id.and_then(Path::to_str).is_some_and(is_id) && target.ends_with("diff")
}

/// Whether it can be the name of a directory of overlay2's, or a short name of one: nothing in it leads
/// elsewhere.
fn is_id(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dockerd_takes_as_a_directory_leads_to_no_other_place() {
        let database = "image/overlay2/layerdb/sha256/a/cache-id";
        for (path, content, expected) in [
            (database, "abc", true),
            (database, "../../etc", false),
            (database, "", false),
            ("overlay2/a/link", "ABC", true),
            ("overlay2/a/link", "..", false),
            ("overlay2/a/lower", "l/A:l/B", true),
            ("overlay2/a/lower", "l/A:../l/B", false),
            ("overlay2/a/lower", "l/../A", false),
            ("overlay2/a/lower", "/etc", false),
            ("overlay2/a/committed", "", true),
            ("image/overlay2/layerdb/sha256/a/parent", "sha256:b", true),
            ("image/overlay2/layerdb/mounts/a/mount-id", "abc", false),
            ("image/overlay2/layerdb/mounts/a", "", false),
            ("engine-id", "a-b", true),
        ] {
            let content = Some(content.as_bytes());
            let is_safe = names_layers_alone(Path::new(path), content);
            assert_eq!(is_safe, expected, "{path}: {content:?}");
        }
        assert!(!names_layers_alone(Path::new(database), None));
        assert!(!names_layers_alone(Path::new(database), Some(b"\xff")));
        assert!(names_layers_alone(Path::new("buildkit/cache.db"), None));
    }
}
