//! The store of images and build cache that an empty data root begins with.

use std::env::consts::ARCH;
use std::path::Path;

use super::engine::{Filling, Saving};
use super::inputs::Inputs;
use super::storage;
use crate::facts::store::{Found, StoreFacts};
use crate::messages::fault::Fault;
use crate::messages::finding::Finding;
use crate::store::disk::Form;
use crate::store::manifest::{Ids, Layout, Manifest, Version, shown};

const LINK: &str = "README.md#warm-starts";

/// Why an engine in a user namespace has no store in one file.
pub const NO_LOOP: &str =
    "one file is mounted by a loop device, and the engine is in a user namespace, which has none";

/// The part of a plan that is about the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WarmStart {
    /// The input of the filler. `None` if no store is used.
    pub filling: Option<Filling>,
    /// Why the store is not used.
    pub warning: Option<Finding>,
}

/// Returns the plan for the store. A fault is a data root whose store is not there, or, with
/// `DIND_STORE_STRICT`, a store that cannot be used.
pub fn plan(
    inputs: Inputs<'_>,
    dockerd: &Path,
    saving: Option<&Saving>,
) -> Result<WarmStart, Fault> {
    let Inputs { config, facts, .. } = inputs;
    if let Some(saving) = saving {
        let found = facts.store.as_ref().and_then(StoreFacts::generation);
        let begins_anew = saving.from_nothing || found.is_none();
        let filling = Filling {
            store: saving.target().to_owned(),
            generation: found.filter(|_| !saving.from_nothing).cloned(),
            data_root: saving.data_root.clone(),
            dockerd: dockerd.to_owned(),
            layout: saving.layout,
            strict: true,
        };
        if !begins_anew && let Some(found) = &facts.store {
            usable(inputs, found)?;
        }
        return Ok(WarmStart {
            filling: Some(filling),
            warning: None,
        });
    }
    let usable = match &facts.store {
        None => Ok(None),
        Some(found) => usable(inputs, found).map(|()| Some(found)),
    };
    let root = &facts.data_root;
    if let Some(origin) = root.origin.as_ref().map_err(Fault::clone)? {
        let (path, number) = (root.path.display(), origin.generation);
        let needs = format!("{path} depends on generation {number} of a store");
        let why = match (&usable, &facts.store) {
            (Err(obstacle), _) => obstacle.to_string(),
            (Ok(None), _) | (_, None) => "DIND_STORE names none".to_owned(),
            (Ok(Some(found)), _)
                if found.manifest().map(|found| &found.store) != Some(&origin.store) =>
            {
                format!("{} is another one", found.path.display())
            }
            (Ok(Some(found)), _)
                if found.manifest().map(|found| found.generation) != Some(number) =>
            {
                format!("{} has it no more", found.path.display())
            }
            (Ok(Some(_)), _) => String::new(),
        };
        if !why.is_empty() {
            return Err(Fault::failure(format!("{needs}, and {why}"))
                .remedy("mount that store and set DIND_STORE, or use another volume"));
        }
    }
    match usable {
        Ok(found) => Ok(WarmStart {
            filling: found.and_then(|found| {
                Some(Filling {
                    store: found.path.clone(),
                    generation: found
                        .generation()
                        .filter(|_| !storage::is_elsewhere(inputs))
                        .cloned(),
                    data_root: root.path.clone(),
                    dockerd: dockerd.to_owned(),
                    layout: found.manifest()?.layout,
                    strict: config.store_strict,
                })
            }),
            warning: None,
        }),
        Err(obstacle) if config.store_strict => Err(obstacle),
        Err(obstacle) => Ok(WarmStart {
            filling: None,
            warning: Some(Finding::fault("store-unused", obstacle, LINK).as_warning()),
        }),
    }
}

/// What a start would say of the store: why it would not use it, or what is in it. `None` if there is
/// none. `dockerd` is its version, where that is known. For `dind doctor`.
pub fn finding(inputs: Inputs<'_>, dockerd: Option<&str>) -> Option<Finding> {
    let Inputs { config, facts, .. } = inputs;
    let warning = match plan(inputs, Path::new("dockerd"), None) {
        Ok(planned) => planned.warning,
        Err(fault) => {
            let code = match facts.data_root.origin {
                Ok(None) => "store-unused",
                Ok(Some(_)) | Err(_) => "store-missing",
            };
            return Some(Finding::fault(code, fault, LINK));
        }
    };
    if warning.is_some() {
        return warning;
    }
    let found = facts.store.as_ref()?;
    let manifest = found.manifest()?;
    let version = dockerd.and_then(Version::of);
    if let Some(fault) = version.and_then(|version| too_old(&found.path, manifest, &version)) {
        let finding = Finding::fault("store-unused", fault, LINK);
        return Some(match config.store_strict {
            true => finding,
            false => finding.as_warning(),
        });
    }
    let seen = format!(
        "the store {} has generation {}: {} images, {} build steps, {}",
        found.path.display(),
        manifest.generation,
        manifest.images,
        manifest.steps,
        shown(manifest.bytes())
    );
    Some(Finding::note("store", seen, LINK))
}

/// The fault that a dockerd of this version cannot use what a newer one has made.
pub fn too_old(store: &Path, manifest: &Manifest, dockerd: &Version) -> Option<Fault> {
    (*dockerd < manifest.engine).then(|| {
        Fault::failure(format!(
            "the store {} is not used: it was made by dockerd {}, and this one is {dockerd}",
            store.display(),
            manifest.engine
        ))
        .remedy("save one with this dockerd, or use a newer one")
    })
}

/// Whether this engine can use the store, as far as it is known before dockerd's version is.
fn usable(inputs: Inputs<'_>, found: &StoreFacts) -> Result<(), Fault> {
    let path = found.path.display();
    let unused = |why: String, remedy: &str| {
        Err(Fault::failure(format!("the store {path} is not used: {why}")).remedy(remedy))
    };
    let manifest = match &found.found {
        Found::Generation(generation) => &generation.manifest,
        Found::Nothing => {
            return unused(
                "it has no generation".to_owned(),
                "save one: dind store save",
            );
        }
        // A save begins with the current generation, too.
        Found::Unreadable(why) => {
            return unused(
                why.clone(),
                "save it again: dind store save STORE --from-nothing",
            );
        }
        Found::Damage(why) => return unused(why.clone(), "set DIND_STORE to another directory"),
    };
    if manifest.machine != ARCH {
        let why = format!("it is of {} and not of {ARCH}", manifest.machine);
        return unused(why, "save one on this architecture");
    }
    if inputs.options.userns_remap {
        let why = "dockerd has userns-remap, which needs other owners of files".to_owned();
        return unused(why, "drop one of the two");
    }
    let own = ids(inputs);
    if own != Ids::Own && found.form == Form::File {
        return unused(NO_LOOP.to_owned(), "save it to a directory");
    }
    if manifest.ids != own {
        let why = format!("it was made by {}, and this is {own}", manifest.ids);
        return unused(why, "save one with this engine in another directory");
    }
    match other_driver(inputs, manifest) {
        None => Ok(()),
        Some(driver) => {
            let made = manifest.layout.name();
            let why = format!("it is of the storage driver {made}, and dockerd uses {driver}");
            unused(why, "save one with this driver")
        }
    }
}

/// The ids of the files of this engine.
pub fn ids(inputs: Inputs<'_>) -> Ids {
    match inputs.rootless() {
        None => Ids::Own,
        Some((_, maps)) => {
            let [users, groups] = maps.lines();
            Ids::Mapped { users, groups }
        }
    }
}

/// The storage driver of this dockerd, where it is not that of the store.
fn other_driver(inputs: Inputs<'_>, manifest: &Manifest) -> Option<String> {
    let expected = manifest.layout.name();
    if let Some(driver) = storage::named(inputs) {
        return (driver != expected).then_some(driver);
    }
    // dockerd 29 keeps to the graph driver whose data it finds.
    let is_containerds = match manifest.layout {
        Layout::Overlay2 => inputs.options.containerd_store == Some(true),
        Layout::Containerd => storage::store(inputs) != Some(super::store::Store::GraphDriver),
    };
    let used = match is_containerds {
        true => Layout::Containerd,
        false => Layout::Overlay2,
    };
    (used != manifest.layout).then(|| used.name().to_owned())
}
