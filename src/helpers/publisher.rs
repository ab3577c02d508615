//! The store's publisher: makes the data root of an engine that has ended the next generation of a
//! store.
//!
//! The data root is in the store's own file system, so that nothing is copied: layers are renamed
//! into the store, and what is left of the data root is the generation's. Until the last rename,
//! that of `current`, nobody sees a generation; what a killed publisher has left is removed before
//! the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::env::consts::ARCH;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::syncfs;
use tracing::info;

use super::packer;
use crate::facts::mountinfo::MountTable;
use crate::messages::remedy::Remedy;
use crate::plan::engine::Saving;
use crate::store::bolt;
use crate::store::build;
use crate::store::clean::{clean, names, remove};
use crate::store::disk::{
    BUILDKIT_STEPS, COUNTS, Counts, FORMAT, Generation, NEXT, PUBLISHED, STEPS, Store, layer_of,
    link_to,
};
use crate::store::file::StoreFile;
use crate::store::manifest::{Layout, Manifest, shown};
use crate::store::snapshots::{self, Kind};
use crate::sys::signals::Inherited;
use crate::sys::{read, write};

/// The largest database that is read, in bytes.
const DATABASE_LIMIT: u64 = 1 << 30;

/// The largest small file that is read, in bytes.
const SMALL: u64 = 4096;

/// What of a data root a generation has, with the graph driver overlay2.
const OVERLAY2: [&str; 4] = ["buildkit", "engine-id", "image", "overlay2"];

/// What of a data root a generation has, with containerd's image store.
const CONTAINERD: [&str; 3] = ["buildkit", "containerd", "engine-id"];

/// Where containerd has its content, its snapshots and its database, in its own directory.
const CONTENT: &str = "io.containerd.content.v1.content";
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1.overlayfs";
const METADATA: &str = "io.containerd.metadata.v1.bolt";

/// A generation that is being made.
struct Publication<'a> {
    store: &'a Store,
    generation: u64,
    /// The layers that it has, old and new, with their sizes.
    layers: BTreeMap<String, u64>,
    /// Those of the generation that it began with.
    known: &'a BTreeMap<String, u64>,
    new: u64,
}

/// Makes an empty directory, or a missing one, a store. One that is a store stays as it is.
pub fn make(path: &Path) -> Result<Store> {
    if let Some(store) = Store::open(path)? {
        return Ok(store);
    }
    let made = || -> io::Result<()> {
        for directory in PUBLISHED {
            own_directory(&path.join(directory))?;
        }
        let directory = write::open_directory(path)?;
        write::replace_for_owner(&directory, "format".as_ref(), 0o600, FORMAT.as_bytes())
    };
    made()
        .with_context(|| format!("cannot make a store of {}", path.display()))
        .remedy("mount a volume there that can be written")?;
    Ok(Store {
        path: path.to_owned(),
    })
}

/// Makes a directory and those above it that are missing, which nobody but root can look into: an
/// image may have programs with the set-user-ID bit, and secrets.
fn own_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)
}

/// Removes what a killed save has left in the store and in its data root. The store must be
/// locked. Blocks, so it must run in a child.
pub fn begin(saving: &Saving) -> Result<()> {
    let left = names(&saving.data_root)?;
    if !left.is_empty() {
        let root = saving.data_root.display();
        info!(path = %root, "removing what an unfinished save has left in {root}; raise DIND_READY_TIMEOUT if that takes longer");
    }
    for name in left {
        remove(&saving.data_root.join(name))?;
    }
    let store = Store {
        path: saving.store.clone(),
    };
    match saving.pack {
        Some(_) => empty_work(&store),
        None => clean(&store),
    }
}

/// Removes what a file has been made of, or was to be.
fn empty_work(store: &Store) -> Result<()> {
    remove(&store.path.join("current"))?;
    for directory in [store.path.join("generations"), store.layers()] {
        for name in names(&directory)? {
            remove(&directory.join(name))?;
        }
    }
    Ok(())
}

/// Makes the data root of a save the next generation of its store, and the current one, and logs
/// it. `base` is the generation that the data root began with. The store must be locked, and no
/// engine may run in the data root. Blocks, so it must run in a child.
pub fn publish(saving: &Saving, base: Option<&Generation>, inherited: &Inherited) -> Result<()> {
    let store = Store {
        path: saving.store.clone(),
    };
    let root = &saving.data_root;
    let counts = read::text(&root.join(COUNTS), SMALL)
        .with_context(|| format!("cannot read {}/{COUNTS}", root.display()))?;
    let counts = counts.as_deref().and_then(Counts::parse);
    let counts = counts.with_context(|| format!("{}/{COUNTS} is missing", root.display()))?;
    let expected = saving.layout.name();
    ensure!(
        counts.driver == expected,
        "dockerd has used the storage driver {} and not {expected}, so nothing is published",
        counts.driver
    );
    let images = root.join(match saving.layout {
        Layout::Overlay2 => "image/overlay2",
        Layout::Containerd => "containerd/daemon",
    });
    read::directory(&images).with_context(|| {
        format!(
            "cannot open {}, where the images are to be",
            images.display()
        )
    })?;
    let mounts =
        MountTable::parse(&read::kernel("/proc/self/mountinfo").context("cannot read the mounts")?);
    if let Some(mount) = mounts.below(root).first() {
        bail!(
            "{} is still mounted, so nothing is published",
            mount.display()
        );
    }
    let none = BTreeMap::new();
    let before = before(saving, &store)?;
    let last = match &saving.pack {
        Some(_) => before.as_ref().map(|before| before.generation),
        None => store.generations()?.last().copied(),
    };
    let mut publication = Publication {
        store: &store,
        generation: last.unwrap_or_default() + 1,
        layers: BTreeMap::new(),
        known: base.map_or(&none, |base| &base.manifest.layers),
        new: 0,
    };
    publication.take_all(saving)?;
    let new = publication.new;
    let manifest = Manifest {
        store: before.map_or_else(name, |before| Ok(before.store))?,
        generation: publication.generation,
        created: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs()),
        engine: counts.engine,
        layout: saving.layout,
        build: build::of(&saving.dockerd).context("dockerd cannot be read")?,
        machine: ARCH.to_owned(),
        ids: saving.ids.clone(),
        images: counts.images,
        steps: counts.steps,
        layers: publication.layers,
    };
    put(&store, root, &manifest, saving.pack.is_none())
        .with_context(|| format!("cannot publish generation {}", manifest.generation))
        .remedy("free space in the store")?;
    if let Some(pack) = &saving.pack {
        packer::pack(&store, pack, &manifest, inherited)
            .with_context(|| format!("cannot publish generation {}", manifest.generation))?;
        empty_work(&store)?;
    }
    let (path, number) = (saving.target().display(), manifest.generation);
    let (images, steps, bytes) = (manifest.images, manifest.steps, manifest.bytes());
    info!(
        path = %path,
        generation = number,
        stored_images = images,
        steps,
        bytes,
        "store {path}: generation {number}, {images} images, {steps} build steps, {}, of which {} are new",
        shown(bytes),
        shown(new)
    );
    Ok(())
}

/// The generation that is the current one until this one is; `None` before the first one, and where a
/// save from nothing cannot tell any more which one it was.
fn before(saving: &Saving, store: &Store) -> Result<Option<Manifest>> {
    let found = match &saving.pack {
        Some(pack) => StoreFile::open(&pack.path).map(|file| file.map(|file| file.manifest)),
        None => store
            .hold_current()
            .map(|held| held.map(|held| held.manifest)),
    };
    match found {
        Err(_) if saving.from_nothing => Ok(None),
        found => found,
    }
}

/// A new name for a store.
fn name() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/uuid");
    let uuid = read::text(path, SMALL).context("cannot read a random number")?;
    let uuid = uuid.with_context(|| format!("{} is missing", path.display()))?;
    Ok(uuid.chars().filter(char::is_ascii_alphanumeric).collect())
}

/// Puts a generation in place: whole, on the disk if it `lasts`, and only then under its name.
fn put(store: &Store, root: &Path, manifest: &Manifest, lasts: bool) -> Result<()> {
    let hidden = store
        .generation(manifest.generation)
        .with_file_name(format!(".{}", manifest.generation));
    let data = hidden.join("data");
    own_directory(&data)?;
    for name in names(root)? {
        fs::rename(root.join(&name), data.join(&name))?;
    }
    fs::write(hidden.join("manifest.json"), manifest.print())?;
    let directory = read::directory(&store.path)?;
    // What a file is made of is nobody's: the file is synced.
    let sync = || match lasts {
        true => syncfs(&directory),
        false => Ok(()),
    };
    sync()?;
    fs::rename(&hidden, store.generation(manifest.generation))?;
    let next = store.path.join(NEXT);
    remove(&next)?;
    symlink(format!("generations/{}", manifest.generation), &next)?;
    fs::rename(&next, store.path.join("current"))?;
    sync()?;
    Ok(())
}

impl Publication<'_> {
    /// Takes the layers out of the data root, and removes what is not published.
    fn take_all(&mut self, saving: &Saving) -> Result<()> {
        let root = &saving.data_root;
        // The preparer has copied it.
        let steps = root.join(STEPS);
        if fs::symlink_metadata(&steps).is_ok() {
            fs::rename(&steps, root.join(BUILDKIT_STEPS))
                .with_context(|| format!("cannot rename {}", steps.display()))?;
        }
        match saving.layout {
            Layout::Overlay2 => {
                keep(root, &OVERLAY2)?;
                self.overlay2(root)?;
            }
            Layout::Containerd => {
                keep(root, &CONTAINERD)?;
                self.containerd(&root.join("containerd/daemon"))?;
            }
        }
        let buildkit = root.join("buildkit");
        for name in names(&buildkit)? {
            let text = name.to_string_lossy();
            // The records of past builds: history.db, history_c8d.db.
            let is_history = text.starts_with("history") && text.ends_with(".db");
            if is_history || text == "executor" || text == "net" {
                remove(&buildkit.join(&name))?;
            }
        }
        Ok(())
    }

    /// Takes the layers out of `overlay2`, and removes what is no image's and no build's.
    fn overlay2(&mut self, data: &Path) -> Result<()> {
        let mut committed = BTreeSet::new();
        let images = data.join("image/overlay2/layerdb/sha256");
        for name in names(&images)? {
            let file = images.join(name).join("cache-id");
            let failed = || format!("cannot read {}", file.display());
            let id = read::text(&file, SMALL).with_context(failed)?;
            committed.insert(id.with_context(failed)?);
        }
        let mut active = BTreeSet::new();
        let database = data.join("buildkit/snapshots.db");
        if let Some(bytes) = database_of(&database)? {
            let kinds = bolt::read(&bytes).and_then(|root| snapshots::of_buildkit(&root));
            for (id, kind) in
                kinds.with_context(|| format!("cannot read {}", database.display()))?
            {
                match kind {
                    Kind::Committed => committed.insert(id),
                    Kind::Active | Kind::View => active.insert(id),
                };
            }
        }
        let directories = data.join("overlay2");
        for name in names(&directories)? {
            let directory = directories.join(&name);
            match name.to_str() {
                Some("l") => {}
                Some(id) if committed.contains(id) => {
                    self.take(&directory.join("diff"))?;
                    // overlay2 mounts what has this file read-only: daemon/graphdriver/overlay2
                    // of moby, get. It has none where nothing was built on it yet.
                    File::create(directory.join("committed"))
                        .with_context(|| format!("cannot write to {}", directory.display()))?;
                    remove(&directory.join("work"))?;
                }
                Some(id) if active.contains(id) => empty(&directory.join("work"))?,
                _ => remove(&directory)?,
            }
        }
        // What belongs to containers, and half of what was pulled.
        for name in ["mounts", "tmp"] {
            remove(&data.join("image/overlay2/layerdb").join(name))?;
        }
        let links = directories.join("l");
        for name in names(&links)? {
            let link = links.join(name);
            // Not to the link's end, which is in the store.
            let target = fs::read_link(&link)
                .ok()
                .and_then(|target| Some(links.join(target.parent()?)));
            if !target.is_some_and(|directory| directory.is_dir()) {
                fs::remove_file(&link)
                    .with_context(|| format!("cannot remove {}", link.display()))?;
            }
        }
        Ok(())
    }

    /// Takes the layers and the content out of containerd's directory.
    fn containerd(&mut self, directory: &Path) -> Result<()> {
        keep(directory, &[CONTENT, SNAPSHOTTER, METADATA])?;
        remove(&directory.join(CONTENT).join("ingest"))?;
        let blobs = directory.join(CONTENT).join("blobs");
        for algorithm in names(&blobs)? {
            for digest in names(&blobs.join(&algorithm))? {
                self.take(&blobs.join(&algorithm).join(digest))?;
            }
        }
        let database = directory.join(SNAPSHOTTER).join("metadata.db");
        let Some(bytes) = database_of(&database)? else {
            return Ok(());
        };
        let kinds = bolt::read(&bytes).and_then(|root| snapshots::of_containerd(&root));
        let kinds = kinds.with_context(|| format!("cannot read {}", database.display()))?;
        let snapshots = directory.join(SNAPSHOTTER).join("snapshots");
        for name in names(&snapshots)? {
            let id = name.to_str().and_then(|name| name.parse().ok());
            match id.and_then(|id| kinds.get(&id)) {
                Some(Kind::Committed) => {
                    self.take(&snapshots.join(&name).join("fs"))?;
                    remove(&snapshots.join(&name).join("work"))?;
                }
                Some(Kind::Active | Kind::View) => empty(&snapshots.join(&name).join("work"))?,
                None => remove(&snapshots.join(name))?,
            }
        }
        Ok(())
    }

    /// Makes a directory or file a layer of the store, with a link in its place. One that is such
    /// a link already stays.
    fn take(&mut self, path: &Path) -> Result<()> {
        let failed = || format!("cannot take {} into the store", path.display());
        let metadata = fs::symlink_metadata(path).with_context(failed)?;
        if metadata.is_symlink() {
            let target = fs::read_link(path).with_context(failed)?;
            let layer = layer_of(&target).with_context(failed)?;
            let bytes = self.known.get(layer).with_context(failed)?;
            self.layers.insert(layer.to_owned(), *bytes);
            return Ok(());
        }
        let name = format!("{}-{}", self.generation, self.layers.len() + 1);
        let bytes = size(path).with_context(failed)?;
        fs::rename(path, self.store.layers().join(&name)).with_context(failed)?;
        symlink(link_to(&name), path).with_context(failed)?;
        self.layers.insert(name, bytes);
        self.new = self.new.saturating_add(bytes);
        Ok(())
    }
}

/// Empties a directory that may be missing: overlayfs leaves a device in its directory for work.
fn empty(directory: &Path) -> Result<()> {
    keep(directory, &[])
}

/// The bytes of a database; `None` where there is none.
fn database_of(path: &Path) -> Result<Option<Vec<u8>>> {
    read::read(path, DATABASE_LIMIT, read::Links::Refuse)
        .with_context(|| format!("cannot read {}", path.display()))
}

/// What is on the disk of a file, or of all files of a directory, in bytes. A file with several
/// names counts each time.
fn size(path: &Path) -> io::Result<u64> {
    let mut sum = 0_u64;
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        // st_blocks counts 512 bytes: stat(2).
        sum = sum.saturating_add(metadata.blocks().saturating_mul(512));
        if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        }
    }
    Ok(sum)
}

/// Removes everything in a directory that is not named.
fn keep(directory: &Path, kept: &[&str]) -> Result<()> {
    for name in names(directory)? {
        if !kept.iter().any(|kept| name == *kept) {
            remove(&directory.join(name))?;
        }
    }
    Ok(())
}
