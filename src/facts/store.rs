//! The store of images and build cache that a data root can begin with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::paths::resolve;
use crate::input::config::{Config, STORE};
use crate::messages::fault::Fault;
use crate::store::disk::{Form, Generation, Store};
use crate::store::file;
use crate::store::manifest::Manifest;
use crate::store::origin::Origin;
use crate::sys::search::search;

/// A store, as it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFacts {
    /// Its path.
    pub path: PathBuf,
    /// The same with symbolic links resolved, as far as it exists.
    pub real: PathBuf,
    /// Whether it is a directory or a file.
    pub form: Form,
    /// What is there.
    pub found: Found,
    /// The path of `mkfs.erofs`, which a save to a file needs. `None` where it is not in `PATH`, or
    /// not looked for.
    pub mkfs: Option<PathBuf>,
}

/// What is at the path of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or a store without a generation.
    Nothing,
    /// A generation, the current one or the one that the data root came from. It is locked as long
    /// as the value lives.
    Generation(Arc<Generation>),
    /// A store whose current generation cannot be used, and why.
    Unreadable(String),
    /// No store that can be used, and why.
    Damage(String),
}

impl StoreFacts {
    /// Reads the store that is saved to, else the one that has the generation that the data root came
    /// from, else the one that `DIND_STORE` names, else the default one. `None` where the user has
    /// named none and there is none.
    pub fn read(config: &Config, saved: Option<&Path>, origin: Option<&Origin>) -> Option<Self> {
        let own = match (saved, origin) {
            (None, Some(origin)) => origin.find(places(config)),
            (Some(_), _) | (None, None) => Ok(None),
        };
        if let Ok(Some(generation)) = own {
            return Some(Self {
                path: generation.store.clone(),
                real: resolve(&generation.store),
                form: generation.form,
                found: Found::Generation(Arc::new(generation)),
                mkfs: None,
            });
        }
        let path = match saved {
            Some(path) => path,
            None => places(config).find(|path| config.store.is_some() || path.exists())?,
        };
        let form = Form::of(path);
        let found = match form {
            Form::File => Found::in_file(path),
            Form::Directory => Found::in_directory(path),
        };
        Some(Self {
            path: path.to_owned(),
            real: resolve(path),
            mkfs: (saved.is_some() && form == Form::File)
                .then(|| search("mkfs.erofs", &config.search_path))
                .flatten(),
            form,
            found: match own {
                Err(error) if !matches!(found, Found::Damage(_)) => {
                    Found::Unreadable(Fault::from(error).message)
                }
                _ => found,
            },
        })
    }

    /// The manifest of its generation, if it has one.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.generation().map(|generation| &generation.manifest)
    }

    /// Its generation, if it has one.
    pub fn generation(&self) -> Option<&Arc<Generation>> {
        match &self.found {
            Found::Generation(generation) => Some(generation),
            Found::Nothing | Found::Unreadable(_) | Found::Damage(_) => None,
        }
    }
}

impl Found {
    fn in_file(path: &Path) -> Self {
        match file::hold_current(path) {
            Err(error) => Self::Damage(Fault::from(error).message),
            Ok(None) => Self::Nothing,
            Ok(Some(current)) => Self::Generation(Arc::new(current)),
        }
    }

    fn in_directory(path: &Path) -> Self {
        match Store::open(path) {
            Err(error) => Self::Damage(Fault::from(error).message),
            Ok(None) => Self::Nothing,
            Ok(Some(store)) => match store.hold_current() {
                Ok(None) => Self::Nothing,
                Ok(Some(current)) => Self::Generation(Arc::new(current)),
                Err(error) => Self::Unreadable(Fault::from(error).message),
            },
        }
    }
}

/// Where a store may be: what `DIND_STORE` names, and the default path.
pub fn places(config: &Config) -> impl Iterator<Item = &Path> {
    let named = config.store.as_deref();
    named.into_iter().chain([Path::new(STORE)])
}
