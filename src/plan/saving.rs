//! The making of the next generation of a store from what a command leaves.

use std::ffi::OsString;
use std::path::Path;

use super::engine::{Pack, Saving};
use super::inputs::Inputs;
use super::listener::Listener;
use super::{storage, warm_start};
use crate::facts::storage::Filesystem;
use crate::facts::store::{Found, StoreFacts};
use crate::input::dockerd_arguments::{DockerdArguments, DockerdOptions};
use crate::input::store::Save;
use crate::messages::fault::Fault;
use crate::store::disk::Form;
use crate::store::manifest::{Ids, Layout};

/// The directory in a store that is the data root of the engine that makes the next generation.
pub const SAVING: &str = "saving";

/// The directory in a data root that is a store of its own, where a store in a file is made.
const WORK: &str = "dind-saving";

/// Returns dockerd's arguments with the data root in the store, or in the directory that becomes a
/// store in a file. The fault is that the user has named another one.
pub fn arguments(
    save: &Save,
    form: Form,
    arguments: &DockerdArguments,
    options: &DockerdOptions,
) -> Result<DockerdArguments, Fault> {
    let store = match form {
        Form::File => options.data_root.join(WORK),
        Form::Directory => save.path.clone(),
    };
    if options.data_root_set {
        return Err(Fault::usage(format!(
            "store save has a data root of its own, and dockerd is given {}",
            options.data_root.display()
        ))
        .remedy("remove data-root from its flags and from daemon.json"));
    }
    let flag = format!("--data-root={}", store.join(SAVING).display());
    let words: Vec<OsString> = arguments.words().cloned().collect();
    Ok(DockerdArguments::new(&[flag.into()], &words))
}

/// Returns the input of the publisher. A fault is a store that is none, or whose file system
/// cannot hold layers.
pub fn plan(
    save: &Save,
    inputs: Inputs<'_>,
    listeners: &[Listener],
    dockerd: &Path,
) -> Result<Saving, Fault> {
    let path = save.path.display();
    let nothing = |why: &str| Fault::failure(format!("nothing can be saved to {path}: {why}"));
    let found = inputs.facts.store.as_ref();
    let form = found.map_or(Form::Directory, |found| found.form);
    match found.map(|store| &store.found) {
        Some(Found::Damage(why)) => {
            return Err(nothing(why).remedy(match form {
                Form::Directory => "name another directory",
                Form::File => "name another file, or remove this one",
            }));
        }
        Some(Found::Unreadable(why)) if !save.from_nothing => {
            return Err(nothing(why).remedy("save with --from-nothing"));
        }
        _ => {}
    }
    let refused = |what: &str, remedy: &str| {
        Err(Fault::usage(format!("store save cannot publish what {what}")).remedy(remedy))
    };
    if inputs.options.userns_remap {
        return refused(
            "a dockerd with userns-remap has made: its files have other owners",
            "drop userns-remap for the save",
        );
    }
    if inputs.options.containerd {
        return refused(
            "a containerd of its own keeps: its directory is not in the data root",
            "drop --containerd for the save",
        );
    }
    let ids = warm_start::ids(inputs);
    if ids != Ids::Own && form == Form::File {
        return Err(nothing(warm_start::NO_LOOP).remedy("save it to a directory"));
    }
    let data_root = inputs.options.data_root.clone();
    let (store, pack) = match (form, data_root.parent()) {
        (Form::File, Some(work)) => (work.to_owned(), Some(packing(save, found)?)),
        _ => (save.path.clone(), None),
    };
    // Whoever may write to the store can put a link there at any time.
    let elsewhere =
        found.is_some_and(|found| inputs.facts.data_root.path != found.real.join(SAVING));
    if form == Form::Directory && elsewhere {
        return Err(nothing(&format!("{path}/{SAVING} is a symbolic link"))
            .remedy("remove it, or name another directory"));
    }
    if let Filesystem::Unsuitable(name) = inputs.facts.data_root.filesystem {
        if form == Form::File {
            return Err(Fault::failure(format!(
                "{path} is made in {}, which is on {name}, which cannot hold layers of images",
                store.display()
            ))
            .remedy("give the data root a volume: docker run -v /var/lib/docker"));
        }
        return Err(Fault::failure(format!(
            "the store {path} is on {name}, which cannot hold layers of images"
        ))
        .remedy("put it on a volume: docker run -v stores:/stores"));
    }
    if storage::is_elsewhere(inputs) {
        return refused(
            "is in an ext4 image or on a tmpfs, and not in the store",
            "unset DIND_STORAGE for the save",
        );
    }
    let layout = match storage::store(inputs) {
        Some(super::store::Store::Containerd) => Layout::Containerd,
        Some(super::store::Store::GraphDriver) | None => Layout::Overlay2,
    };
    if let Some(driver) = storage::named(inputs).filter(|driver| driver != layout.name()) {
        return Err(Fault::usage(format!(
            "a store has images of the storage driver {}, and dockerd uses {driver}",
            layout.name()
        ))
        .remedy("unset DOCKER_DRIVER, DIND_STORAGE and --storage-driver"));
    }
    let socket = listeners.iter().find_map(Listener::unix_path);
    let socket = socket.ok_or_else(|| {
        Fault::usage("store save needs dockerd's Unix socket")
            .remedy("add -H unix:///var/run/docker.sock")
    })?;
    Ok(Saving {
        data_root: store.join(SAVING),
        store,
        pack,
        socket: socket.to_owned(),
        dockerd: dockerd.to_owned(),
        layout,
        ids,
        from_nothing: save.from_nothing,
        build_cache: save.build_cache,
    })
}

/// How the store becomes a file.
fn packing(save: &Save, found: Option<&StoreFacts>) -> Result<Pack, Fault> {
    let mkfs = found.and_then(|found| found.mkfs.clone());
    let missing = || {
        let path = save.path.display();
        Fault::failure(format!(
            "nothing can be saved to {path}: there is no mkfs.erofs in PATH"
        ))
        .remedy("install erofs-utils, or save to a directory")
    };
    Ok(Pack {
        path: save.path.clone(),
        mkfs: mkfs.ok_or_else(missing)?,
    })
}
