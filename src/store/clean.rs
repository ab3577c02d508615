//! Removes from a store what no generation needs.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::libc;
use tracing::warn;

use super::disk::{NEXT, Store};
use crate::messages::fault::Fault;
use crate::messages::remedy::Remedy;
use crate::sys::lock::Record;
use crate::sys::read::{self, Links};
use crate::sys::tree::{self, Mounts};
use crate::sys::write;

/// Locks a store against being changed by others, as long as the value lives. Does not wait: the
/// error is that another one changes it.
pub fn lock(store: &Store) -> Result<File> {
    let path = store.path.join("lock");
    let failed = || format!("cannot lock {}", path.display());
    let file = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path)
        .with_context(failed)
        .remedy("mount the store writable")?;
    write::open_directory(&store.path)
        .and_then(|directory| write::give_to_owner(&directory, "lock".as_ref()))
        .with_context(failed)
        .remedy("start the container with --cap-add CHOWN")?;
    match Record::Write.set(&file) {
        Err(Errno::EAGAIN | Errno::EACCES) => Err(anyhow!(
            "another container saves to the store {} or prunes it",
            store.path.display()
        )
        .remedy("try again when it has ended")),
        locked => {
            locked.with_context(failed)?;
            Ok(file)
        }
    }
}

/// Removes all generations but the current one, the `kept` newest and those that are in use, and
/// then what no generation needs. Returns the numbers of those that were removed and of those in
/// use. The store must be locked.
pub fn prune(store: &Store, kept: usize) -> Result<(Vec<u64>, Vec<u64>)> {
    let current = store.current()?;
    let mut numbers = store.generations()?;
    numbers.truncate(numbers.len().saturating_sub(kept));
    let (mut removed, mut used) = (Vec::new(), Vec::new());
    for number in numbers {
        if current == Some(number) {
            continue;
        }
        let path = store.generation(number);
        // A start that finds the lock takes the generation for one that is gone. A generation without
        // a manifest is nobody's.
        let manifest = path.join("manifest.json");
        let opened = File::options()
            .append(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&manifest);
        let locked = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            opened => Some(
                opened
                    .with_context(|| format!("cannot lock {}", manifest.display()))
                    .remedy("mount the store writable")?,
            ),
        };
        match locked
            .as_ref()
            .map_or(Ok(()), |file| Record::Write.set(file))
        {
            Err(Errno::EAGAIN | Errno::EACCES) => {
                used.push(number);
                continue;
            }
            locked => locked.with_context(|| format!("cannot lock {}", manifest.display()))?,
        }
        // Renamed first, so that nobody finds half of it.
        let hidden = path.with_file_name(format!(".{number}"));
        fs::rename(&path, &hidden)
            .with_context(|| format!("cannot remove {}", path.display()))
            .remedy("mount the store writable")?;
        removed.push(number);
    }
    clean(store)?;
    Ok((removed, used))
}

/// Whether an engine holds the generation. Only asks, and locks nothing.
pub fn is_used(store: &Store, number: u64) -> Result<bool> {
    let path = store.generation(number).join("manifest.json");
    let failed = || format!("cannot lock {}", path.display());
    let file = match read::open(&path, Links::Refuse) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened.with_context(failed)?.0,
    };
    let found = Record::Write.in_the_way(&file).with_context(failed)?;
    Ok(found != Record::Free)
}

/// Removes what no generation needs: what a killed publisher has left, and layers of generations
/// that are gone. The data root of a save stays. The store must be locked.
pub fn clean(store: &Store) -> Result<()> {
    let generations = store.path.join("generations");
    for name in names(&generations)? {
        if name.to_string_lossy().starts_with('.') {
            remove(&generations.join(name))?;
        }
    }
    remove(&store.path.join(NEXT))?;
    let mut needed = BTreeSet::new();
    // The newest generation of which nobody knows what it needs.
    let mut unknown = None;
    for number in store.generations()? {
        match store.look(number) {
            Ok(Some(manifest)) => needed.extend(manifest.layers.into_keys()),
            unread => {
                let path = store.generation(number);
                let why = unread.map_or_else(
                    |error| format!(": {}", Fault::from(error).message),
                    |_| String::new(),
                );
                warn!(path = %path.display(), "{} cannot be read, so the layers that it may need stay{why}; prune it", path.display());
                unknown = Some(number);
            }
        }
    }
    for name in names(&store.layers())? {
        let name_of = name.to_str().unwrap_or_default();
        // It needs no layer that came after it.
        let brought = name_of
            .split_once('-')
            .and_then(|(brought, _)| brought.parse().ok());
        let may_be_needed =
            unknown.is_some_and(|unknown| brought.is_some_and(|by: u64| by <= unknown));
        if !needed.contains(name_of) && !may_be_needed {
            remove(&store.layers().join(name))?;
        }
    }
    Ok(())
}

/// The names in a directory; none where it is not there.
pub fn names(directory: &Path) -> Result<Vec<OsString>> {
    let failed = || format!("cannot read {}", directory.display());
    match read::names(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        names => names.with_context(failed),
    }
}

/// Removes a file, a link or a directory with all that is in it, however deep. A missing one is no
/// error.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => tree::empty(path, Mounts::Keep)
            .map_err(io::Error::from)
            .and_then(|left| match left.first {
                Some((_, errno)) => Err(errno.into()),
                None => fs::remove_dir(path),
            }),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error)
            .with_context(|| format!("cannot remove {}", path.display()))
            .remedy("mount its directory writable"),
        Ok(()) | Err(_) => Ok(()),
    }
}
