//! Which generation of which store a data root depends on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::clean::{names, remove};
use super::disk::Generation;
use super::file as store_file;
use super::manifest::{Manifest, pretty};
use crate::messages::remedy::Remedy;
use crate::sys::read::{self, Links};

/// The file in a data root that says it.
pub const ORIGIN: &str = "dind-store.json";

/// The directory in a data root where its content is made.
pub const INCOMING: &str = ".dind-store";

/// The largest such file that is read, in bytes.
const LIMIT: u64 = 4096;

/// What the user can do where it cannot be told which store a data root depends on.
const REMEDY: &str = "use another volume, or empty this one";

/// A generation of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The store's own name.
    pub store: String,
    /// The number of the generation.
    pub generation: u64,
}

impl Origin {
    /// The generation with this manifest.
    pub fn of_manifest(manifest: &Manifest) -> Self {
        Self {
            store: manifest.store.clone(),
            generation: manifest.generation,
        }
    }

    /// The origin of the data root at `path`, whole or on its way. `None` where it has none. The
    /// error is that it cannot be read: then the data root may depend on a store all the same.
    pub fn of(path: &Path) -> Result<Option<Self>> {
        match Self::in_directory(path)? {
            None => Self::in_directory(&path.join(INCOMING)),
            found => Ok(found),
        }
    }

    /// Locks that generation in the first of these stores that has it. `None` where none has. The
    /// error is the first store's that cannot be used, where no other has it.
    pub fn find<'a>(
        &self,
        stores: impl IntoIterator<Item = &'a Path>,
    ) -> Result<Option<Generation>> {
        let mut damage = None;
        for path in stores {
            match store_file::hold(path, self.generation) {
                Ok(Some(found)) if found.manifest.store == self.store => return Ok(Some(found)),
                Ok(_) => {}
                Err(error) => drop(damage.get_or_insert(error)),
            }
        }
        damage.map_or(Ok(None), Err)
    }

    fn in_directory(path: &Path) -> Result<Option<Self>> {
        let file = file(path);
        let failed = || format!("cannot read {}", file.display());
        let content = match read::read(&file, LIMIT, Links::Refuse) {
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => None,
            content => content.with_context(failed).remedy(REMEDY)?,
        };
        let Some(content) = content else {
            return Ok(None);
        };
        let origin = String::from_utf8(content).ok();
        let origin = origin.and_then(|text| Self::parse(&text));
        origin
            .with_context(|| format!("{} is damaged", file.display()))
            .remedy(REMEDY)
            .map(Some)
    }

    fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        Some(Self {
            store: value.get("store")?.as_str()?.to_owned(),
            generation: value.get("generation")?.as_u64()?,
        })
    }

    /// The text of the file.
    pub fn print(&self) -> String {
        let value = json!({ "store": self.store, "generation": self.generation });
        format!("{}\n", pretty(&value))
    }
}

/// The file in the directory at `path`.
pub fn file(path: &Path) -> PathBuf {
    path.join(ORIGIN)
}

/// Puts in place what has been made in [`INCOMING`], if it is whole: the origin last, so that a data
/// root with an origin has all of it. Returns whether the data root has one.
pub fn finish(data_root: &Path) -> Result<bool> {
    let incoming = data_root.join(INCOMING);
    if file(&incoming).exists() {
        for name in names(&incoming)? {
            if name != ORIGIN {
                put(&incoming, data_root, Path::new(&name))?;
            }
        }
        put(&incoming, data_root, Path::new(ORIGIN))?;
    }
    let is_filled = file(data_root).exists();
    if is_filled {
        remove(&incoming)?;
    }
    Ok(is_filled)
}

fn put(incoming: &Path, data_root: &Path, name: &Path) -> Result<()> {
    let from = incoming.join(name);
    fs::rename(&from, data_root.join(name))
        .with_context(|| format!("cannot rename {}", from.display()))
        .remedy("empty the data root, or give it another volume")
}
