//! `dind store list`, `check`, `prune` and `detach`: what does not need a daemon.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use time::OffsetDateTime;

use crate::apply::{data_root, store_file};
use crate::facts::capabilities::{Capabilities, Capability};
use crate::facts::storage::is_in_image;
use crate::facts::store::places;
use crate::input::config::Config;
use crate::messages::fault::Fault;
use crate::messages::remedy::Remedy;
use crate::programs::health;
use crate::store::clean;
use crate::store::detach;
use crate::store::disk::{Form, Generation, Store, is_written, layer_of};
use crate::store::file::StoreFile;
use crate::store::manifest::{Ids, Manifest, shown};
use crate::store::origin::Origin;

/// The text of `dind store list`: a line for each generation.
pub fn list(path: &Path) -> Result<String, Fault> {
    if Form::of(path) == Form::File {
        let store = open_file(path)?;
        let length = store.file.metadata().context("cannot read the file")?.len();
        let (number, of) = (store.manifest.generation, described(&store.manifest));
        return Ok(format!(
            "generation {number}: {of}, in a file of {}",
            shown(length)
        ));
    }
    let store = open(path)?;
    let current = store.current()?;
    let mut text = String::new();
    for number in store.generations()? {
        let is_used = clean::is_used(&store, number)?;
        let line = match store.look(number) {
            Ok(Some(manifest)) => described(&manifest),
            Ok(None) => "being removed".to_owned(),
            Err(error) => Fault::from(error).to_string(),
        };
        let marks = [
            (current == Some(number)).then_some("current"),
            is_used.then_some("in use"),
        ];
        let marks: Vec<&str> = marks.into_iter().flatten().collect();
        let marks = match marks.is_empty() {
            true => String::new(),
            false => format!(" ({})", marks.join(", ")),
        };
        let _ = writeln!(text, "generation {number}{marks}: {line}");
    }
    Ok(text)
}

fn described(manifest: &Manifest) -> String {
    let created = i64::try_from(manifest.created).ok();
    let created = created.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let created = created.map_or_else(String::new, |time| {
        let (hour, minute, second) = time.to_hms();
        format!("{}T{hour:02}:{minute:02}:{second:02}Z, ", time.date())
    });
    let ids = match manifest.ids {
        Ids::Own => "",
        Ids::Mapped { .. } => " in a user namespace",
    };
    format!(
        "{created}dockerd {} with {} on {}{ids}, {} images, {} build steps, {}",
        manifest.engine,
        manifest.layout.name(),
        manifest.machine,
        manifest.images,
        manifest.steps,
        shown(manifest.bytes()),
    )
}

/// The text of `dind store check`, and whether everything is there.
pub fn check(path: &Path) -> Result<(String, bool), Fault> {
    if Form::of(path) == Form::File {
        let store = open_file(path)?;
        let whole = store.is_whole();
        let whole = whole.with_context(|| format!("cannot read {}", path.display()))?;
        let what = match whole {
            true => "all is there",
            false => "the file is not what was saved: copy it again, or save it again",
        };
        return Ok((
            format!("generation {}: {what}", store.manifest.generation),
            whole,
        ));
    }
    let store = open(path)?;
    let (mut text, mut whole) = (String::new(), true);
    for number in store.generations()? {
        let missing = match store.hold(number) {
            Ok(Some(generation)) => missing(&store, &generation)?,
            Ok(None) => continue,
            Err(error) => vec![Fault::from(error).to_string()],
        };
        if missing.is_empty() {
            let _ = writeln!(text, "generation {number}: all is there");
        }
        for what in missing {
            whole = false;
            let _ = writeln!(text, "generation {number}: {what}");
        }
    }
    Ok((text, whole))
}

/// What a generation needs and is not there.
fn missing(store: &Store, generation: &Generation) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    for layer in generation.manifest.layers.keys() {
        let path = store.layers().join(layer);
        if fs::symlink_metadata(&path).is_err() {
            missing.push(format!("{} is missing", path.display()));
        }
    }
    let data = generation.path.join("data");
    let mut left: Vec<PathBuf> = vec![data.clone()];
    while let Some(path) = left.pop() {
        let failed = || format!("cannot read {}", path.display());
        let kind = fs::symlink_metadata(&path)
            .with_context(failed)?
            .file_type();
        if path.strip_prefix(&data).is_ok_and(is_written) && kind.is_dir() {
            // Its links are those of a container.
            continue;
        }
        if kind.is_dir() {
            for name in clean::names(&path)? {
                left.push(path.join(name));
            }
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).with_context(failed)?;
            let is_known = match layer_of(&target) {
                Some(layer) => generation.manifest.layers.contains_key(layer),
                // Its end may be a link to a layer, which leads nowhere from here.
                None => path
                    .parent()
                    .is_some_and(|directory| fs::symlink_metadata(directory.join(&target)).is_ok()),
            };
            if !is_known {
                missing.push(format!(
                    "{} leads to {}, which is not there",
                    path.display(),
                    target.display()
                ));
            }
        }
    }
    let records = generation.path.join("data/buildkit");
    if !records.exists() {
        missing.push(format!("{} is missing", records.display()));
    }
    Ok(missing)
}

/// Removes old generations, and returns the text that says which.
pub fn prune(path: &Path, kept: usize) -> Result<String, Fault> {
    if Form::of(path) == Form::File {
        let store = open_file(path)?;
        return Err(Fault::failure(format!(
            "{} is one file with generation {} alone, so there is nothing to prune",
            path.display(),
            store.manifest.generation
        ))
        .remedy("save to it again to replace it, or remove it"));
    }
    let store = open(path)?;
    let _locked = clean::lock(&store)?;
    let (removed, used) = clean::prune(&store, kept)?;
    let mut text = format!("removed {} generations", removed.len());
    if !used.is_empty() {
        let numbers: Vec<String> = used.iter().map(u64::to_string).collect();
        let _ = write!(text, ", and kept {} in use", numbers.join(", "));
    }
    Ok(text)
}

/// Copies to a data root all that it has in a store, dockerd's data root if none is named, and
/// returns the text that says how much.
pub fn detach(config: &Config, data_root: Option<&Path>) -> Result<String, Fault> {
    let data_root = match data_root {
        Some(path) => path.to_owned(),
        None => health::options(config)?.data_root,
    };
    let path = data_root.display();
    fs::read_dir(&data_root)
        .with_context(|| format!("cannot read {path}"))
        .remedy("mount the data root there")?;
    data_root::lock(&data_root)
        .context("an engine uses it")
        .remedy("stop its container first")?;
    let Some(origin) = Origin::of(&data_root)? else {
        return match is_in_image(&data_root) {
            false => Ok(format!("{path} depends on no store")),
            true => Err(Fault::failure(format!(
                "{path} has its data in an ext4 image, which is not mounted"
            ))
            .remedy(format!(
                "mount it first: mount -o loop {path}/dind.ext4 {path}"
            ))),
        };
    };
    let lost = || {
        let number = origin.generation;
        anyhow!("{path} depends on generation {number} of a store that is not here")
            .remedy("mount that store and set DIND_STORE")
    };
    let generation = origin.find(places(config))?.ok_or_else(lost)?;
    // Without it listxattr(2) leaves out the attributes of overlayfs: xattr(7), trusted.
    let has_all = Capabilities::read()?.effective.has(Capability::SYS_ADMIN);
    if generation.manifest.ids == Ids::Own && !has_all {
        return Err(Fault::failure(format!(
            "{path} cannot be detached without CAP_SYS_ADMIN: attributes of files would be lost"
        ))
        .remedy("start the container with --privileged"));
    }
    if generation.form == Form::File {
        store_file::mount(&generation.store, &generation.held)?;
    }
    let copied = detach::detach(&data_root, &generation)?;
    Ok(format!(
        "{path} does not depend on the store {} any more: {} layers are copied, {}",
        generation.store.display(),
        copied.layers,
        shown(copied.bytes)
    ))
}

fn open(path: &Path) -> Result<Store, Fault> {
    Ok(Store::open(path)?.ok_or_else(|| no_store(path))?)
}

fn open_file(path: &Path) -> Result<StoreFile, Fault> {
    Ok(StoreFile::open(path)?.ok_or_else(|| no_store(path))?)
}

fn no_store(path: &Path) -> anyhow::Error {
    anyhow!("{} is not a store", path.display())
        .remedy("make one: dind store save STORE -- COMMAND")
}
