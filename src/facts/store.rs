//! The store of images and build cache that a data root can begin with.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::input::config::{Config, STORE};
use crate::messages::fault::Fault;
use crate::store::disk::Store;
use crate::store::manifest::Manifest;
use crate::store::origin::Origin;

/// A store, as it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFacts {
    /// Its path.
    pub path: PathBuf,
    /// What is there.
    pub found: Found,
}

/// What is at the path of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or a store without a generation.
    Nothing,
    /// A generation, the current one.
    Generation(Box<Manifest>),
    /// A store whose current generation cannot be used, and why.
    Unreadable(String),
    /// No store that can be used, and why.
    Damage(String),
}

impl StoreFacts {
    /// Reads the store that is saved to, else the one that `DIND_STORE` names, else the default one.
    /// `None` where the user has named none and there is none. The generation is the one that the data
    /// root came from, where that is there.
    pub fn read(config: &Config, saved: Option<&Path>, origin: Option<&Origin>) -> Option<Self> {
        let path = match (saved, &config.store) {
            (Some(path), _) => path,
            (None, Some(path)) => path,
            (None, None) if Path::new(STORE).exists() => Path::new(STORE),
            (None, None) => return None,
        };
        let found = match Store::open(path) {
            Err(error) => Found::Damage(Fault::from(error).message),
            Ok(None) => Found::Nothing,
            Ok(Some(store)) => {
                let own: Result<Option<Manifest>> = origin.map_or(Ok(None), |origin| {
                    let own = store.look(origin.generation)?;
                    Ok(own.filter(|manifest| manifest.store == origin.store))
                });
                let found = own.and_then(|own| match own {
                    None => Ok(store.hold_current()?.map(|current| current.manifest)),
                    own => Ok(own),
                });
                match found {
                    Ok(None) => Found::Nothing,
                    Ok(Some(manifest)) => Found::Generation(Box::new(manifest)),
                    Err(error) => Found::Unreadable(Fault::from(error).message),
                }
            }
        };
        Some(Self {
            path: path.to_owned(),
            found,
        })
    }
}
