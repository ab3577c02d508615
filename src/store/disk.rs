//! A store on disk, and the locks on it.
//!
//! ```text
//! format                        "dind-store 1"
//! lock                          a write lock, held by what changes the store
//! current                       a symbolic link to generations/N, replaced by one rename(2)
//! generations/N/manifest.json   a read lock, held by every engine that uses the generation
//! generations/N/data            what a data root begins with; its links lead to layers
//! layers/N-K                    a layer that came with generation N, shared by all later ones
//! saving                        the data root of an engine that makes the next generation
//! ```
//!
//! The links of `data` lead to [`MOUNT_POINT`], where every engine mounts the store read-only, so
//! that a data root finds its layers wherever the store itself is mounted.
//!
//! The locks are record locks: who has the store read-only can take none that is in the way of a
//! start.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use nix::errno::Errno;
use serde_json::{Value, json};

use super::manifest::{Manifest, Version, is_layer};
use crate::messages::remedy::Remedy;
use crate::sys::filesystem;
use crate::sys::lock::Record;
use crate::sys::read::{self, Links};
use crate::sys::write;

/// Where an engine has the store that its data root depends on.
pub const MOUNT_POINT: &str = "/run/dind-store";

/// The content of the file `format`.
pub const FORMAT: &str = "dind-store 1\n";

/// The longest manifest that is read, in bytes: some 100 000 layers.
pub(super) const MANIFEST_LIMIT: u64 = 4 << 20;

/// The suffix of the name of a new store in a file.
const SUFFIX: &str = "erofs";

/// The directories of a store that a save publishes in.
pub const PUBLISHED: [&str; 2] = ["layers", "generations"];

/// The directories of a store.
const DIRECTORIES: [&str; 3] = ["generations", "layers", "saving"];

/// The link that is to be `current`.
pub const NEXT: &str = ".current";

/// What else a store may have before it has its `format`: what a new ext4 has, and the format that
/// is being written.
const BEGUN: [&str; 2] = [filesystem::LOST_AND_FOUND, ".dind-format"];

/// How often the current generation is asked for again that was pruned in between.
const ATTEMPTS: u32 = 8;

/// The file in the data root of a save with its [`Counts`].
pub const COUNTS: &str = "dind-saving.json";

/// The copy in the data root of a save of what BuildKit knows about steps and their results.
pub const STEPS: &str = "dind-steps.db";

/// Where BuildKit has that in a data root: `newSnapshotterController` of moby's
/// builder/builder-next/controller.go.
pub const BUILDKIT_STEPS: &str = "buildkit/cache.db";

/// What an engine says of itself before its data root is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Its version.
    pub engine: Version,
    /// How many images it has.
    pub images: u64,
    /// How many steps of builds it has.
    pub steps: u64,
    /// Its storage driver.
    pub driver: String,
}

impl Counts {
    /// Its text, which [`Self::parse`] reads.
    pub fn print(&self) -> String {
        let engine = self.engine.to_string();
        json!({
            "engine": engine, "images": self.images, "steps": self.steps, "driver": self.driver,
        })
        .to_string()
    }

    /// Reads that text; `None` where it is another one.
    pub fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        Some(Self {
            engine: Version::of(value.get("engine")?.as_str()?)?,
            images: value.get("images")?.as_u64()?,
            steps: value.get("steps")?.as_u64()?,
            driver: value.get("driver")?.as_str()?.to_owned(),
        })
    }
}

/// Which form a store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A directory.
    Directory,
    /// One file.
    File,
}

impl Form {
    /// The form of the store at `path`, or of one that is to be made there.
    pub fn of(path: &Path) -> Self {
        let is_file = match fs::metadata(path) {
            Ok(found) => found.is_file(),
            Err(_) => path.extension().is_some_and(|suffix| suffix == SUFFIX),
        };
        match is_file {
            true => Self::File,
            false => Self::Directory,
        }
    }
}

/// A directory that is a store.
#[derive(Debug, Clone)]
pub struct Store {
    /// Its path.
    pub path: PathBuf,
}

/// A generation that no one removes as long as this value lives.
#[derive(Debug)]
pub struct Generation {
    /// What it says of itself.
    pub manifest: Manifest,
    /// Its directory.
    pub path: PathBuf,
    /// The path of its store.
    pub store: PathBuf,
    /// The form of its store.
    pub form: Form,
    /// The lock on it.
    pub held: File,
}

/// The lock has no part in it.
impl PartialEq for Generation {
    fn eq(&self, other: &Self) -> bool {
        let place = |of: &Self| (of.path.clone(), of.store.clone(), of.form);
        self.manifest == other.manifest && place(self) == place(other)
    }
}

impl Eq for Generation {}

impl Generation {
    /// Where the directories of its store are. A file has to be mounted.
    pub fn tree(&self) -> &Path {
        match self.form {
            Form::Directory => &self.store,
            Form::File => Path::new(MOUNT_POINT),
        }
    }
}

impl Store {
    /// Opens the store at `path`; `None` where there is nothing or an empty directory.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let shown = path.display();
        let another =
            || anyhow!("{shown} is not a store of dind's").remedy("set another DIND_STORE");
        let format = read::read(&path.join("format"), 64, Links::Refuse)
            .with_context(|| format!("cannot read {shown}/format"))
            .remedy("set another DIND_STORE")?;
        match format {
            Some(format) if format == FORMAT.as_bytes() => {
                let store = Self {
                    path: path.to_owned(),
                };
                directories(path)?;
                Ok(Some(store))
            }
            Some(format) if format.starts_with(b"dind-store ") => {
                Err(anyhow!("{shown} is a store of another version of dind")
                    .remedy("save it again with this one"))
            }
            Some(_) => Err(another()),
            None => match fs::read_dir(path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(_) => Err(another()),
                // A save that was killed may have made these.
                Ok(entries) => {
                    let names: std::io::Result<Vec<OsString>> =
                        entries.map(|entry| Ok(entry?.file_name())).collect();
                    let names = names.with_context(|| format!("cannot read {shown}"))?;
                    let begun = DIRECTORIES.iter().chain(&BEGUN);
                    if !names
                        .iter()
                        .all(|name| begun.clone().any(|begun| name == *begun))
                    {
                        return Err(another());
                    }
                    directories(path)?;
                    Ok(None)
                }
            },
        }
    }

    /// The directory of a generation.
    pub fn generation(&self, number: u64) -> PathBuf {
        self.path.join("generations").join(number.to_string())
    }

    /// The directory of all layers.
    pub fn layers(&self) -> PathBuf {
        self.path.join("layers")
    }

    /// The number of the current generation; `None` before the first one.
    pub fn current(&self) -> Result<Option<u64>> {
        let path = self.path.join("current");
        let damaged = || format!("{} leads to no generation", path.display());
        match fs::read_link(&path) {
            Ok(target) => {
                let name = target.strip_prefix("generations").ok();
                let number = name.and_then(|name| name.to_str()?.parse().ok());
                number.with_context(damaged).map(Some)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(damaged),
        }
    }

    /// The numbers of all generations, in their order.
    pub fn generations(&self) -> Result<Vec<u64>> {
        let path = self.path.join("generations");
        let names =
            read::names(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut numbers: Vec<u64> = names
            .iter()
            .filter_map(|name| name.to_str()?.parse().ok())
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Locks a generation against being pruned, and reads its manifest. `None` where it is gone.
    pub fn hold(&self, number: u64) -> Result<Option<Generation>> {
        self.open_generation(number, true)
    }

    /// Reads the manifest of a generation, and locks nothing. `None` where it is gone.
    pub fn look(&self, number: u64) -> Result<Option<Manifest>> {
        let found = self.open_generation(number, false)?;
        Ok(found.map(|generation| generation.manifest))
    }

    fn open_generation(&self, number: u64, locks: bool) -> Result<Option<Generation>> {
        let path = self.generation(number);
        directory(&path)?;
        let file = path.join("manifest.json");
        let failed = || format!("cannot use {}", file.display());
        let (held, metadata) = match read::open(&file, Links::Refuse) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.with_context(failed)?,
        };
        if locks {
            match Record::Read.set(&held) {
                // It is being removed.
                Err(Errno::EAGAIN | Errno::EACCES) => return Ok(None),
                locked => locked.with_context(failed)?,
            }
        }
        let is_there = fs::symlink_metadata(&file)
            .is_ok_and(|now| (now.dev(), now.ino()) == (metadata.dev(), metadata.ino()));
        if !is_there {
            return Ok(None);
        }
        ensure!(
            metadata.len() <= MANIFEST_LIMIT,
            "{} is too large",
            file.display()
        );
        // With room for a byte more, one call reads it and one sees its end.
        let length = usize::try_from(metadata.len())?;
        let mut text = String::with_capacity(length.saturating_add(1));
        (&held)
            .take(MANIFEST_LIMIT)
            .read_to_string(&mut text)
            .with_context(failed)?;
        let manifest = Manifest::parse(&text).with_context(failed)?;
        ensure!(
            manifest.generation == number,
            "{} is of generation {}",
            file.display(),
            manifest.generation
        );
        Ok(Some(Generation {
            manifest,
            path,
            store: self.path.clone(),
            form: Form::Directory,
            held,
        }))
    }

    /// Locks the current generation; `None` before the first one.
    pub fn hold_current(&self) -> Result<Option<Generation>> {
        for _ in 0..ATTEMPTS {
            let Some(number) = self.current()? else {
                return Ok(None);
            };
            if let Some(generation) = self.hold(number)? {
                return Ok(Some(generation));
            }
        }
        Err(anyhow!("{}/current leads to nothing", self.path.display())
            .remedy("save the store again with --from-nothing"))
    }
}

/// Fails where one of the directories of the store at `path` is something else, such as a link to a
/// directory of the host. A missing one is no error.
fn directories(path: &Path) -> Result<()> {
    DIRECTORIES
        .iter()
        .try_for_each(|name| directory(&path.join(name)))
}

/// The same for one.
fn directory(path: &Path) -> Result<()> {
    match write::open_directory(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error)
            .with_context(|| format!("cannot open {}", path.display()))
            .remedy("save the store again in another directory"),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Whether it is the path in a data root of a directory that an engine mounts over others and writes
/// to: it has whatever a container can make, and marks of overlayfs. BuildKit turns the last step of
/// a stage of which only files are copied into a committed snapshot when it has to, which is never.
pub fn is_written(path: &Path) -> bool {
    let words: Option<Vec<&str>> = path.iter().map(std::ffi::OsStr::to_str).collect();
    matches!(
        words.as_deref(),
        Some(
            ["overlay2", _, "diff"]
                | [
                    "containerd",
                    "daemon",
                    "io.containerd.snapshotter.v1.overlayfs",
                    "snapshots",
                    _,
                    "fs"
                ]
        )
    )
}

/// The name of the layer that a link of a data root leads to; `None` for any other link.
pub fn layer_of(target: &Path) -> Option<&str> {
    let name = target.strip_prefix(MOUNT_POINT).ok()?;
    let name = name.strip_prefix("layers").ok()?.to_str()?;
    is_layer(name).then_some(name)
}

/// What a link to this layer has as its target.
pub fn link_to(layer: &str) -> PathBuf {
    Path::new(MOUNT_POINT).join("layers").join(layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_to_nothing_has_the_form_that_its_name_says() {
        for (path, form) in [
            ("/missing/main.erofs", Form::File),
            ("/missing/main", Form::Directory),
            ("/missing/erofs", Form::Directory),
            ("/proc/version", Form::File),
            ("/proc", Form::Directory),
        ] {
            assert_eq!(Form::of(Path::new(path)), form, "{path}");
        }
    }
}
