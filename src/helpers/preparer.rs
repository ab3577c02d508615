//! Makes an engine whose data root is to be published ready for that, through its API: what is no
//! image and no build cache is removed, while its daemons can still forget it.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::api::exchange::{Body, Exchange};
use crate::messages::remedy::Remedy;
use crate::plan::engine::Saving;
use crate::store::disk::{BUILDKIT_STEPS, COUNTS, Counts, STEPS};
use crate::store::manifest::{Layout, Version};
use crate::sys::read::{self, Links};
use crate::sys::write;

/// How long dockerd may take for one answer.
const PATIENCE: Duration = Duration::from_secs(600);

/// The longest answer that is read, in bytes.
const LONGEST: usize = 64 << 20;

/// What BuildKit keeps of the directories that builds were sent: it is never used again by an
/// engine that has other ones.
const CONTEXTS: &str = "/build/prune?filters=%7B%22type%22%3A%5B%22source.local%22%5D%7D";

/// The largest database of steps that is copied, in bytes.
const STEPS_LIMIT: u64 = 1 << 30;

/// How often a database is read that changes meanwhile.
const ATTEMPTS: u32 = 8;

/// All of BuildKit's cache.
const CACHE: &str = "/build/prune?all=1";

/// Removes all containers with their volumes, build contexts, and the build cache if it is not to
/// be published, and writes down what is left. Blocks, so it must run in a child. The error has
/// dockerd's reason.
pub fn prepare(saving: &Saving) -> Result<()> {
    let ask = |method, target: &str| ask(&saving.socket, method, target);
    let version = ask("GET", "/version")?;
    let engine = version.get("Version").and_then(Value::as_str);
    let engine = engine.and_then(Version::of);
    for container in list(&ask("GET", "/containers/json?all=1")?) {
        if let Some(id) = container.get("Id").and_then(Value::as_str) {
            delete(&saving.socket, id)?;
        }
    }
    let shown = saving.data_root.display();
    let directory =
        write::open_directory(&saving.data_root).with_context(|| format!("cannot open {shown}"))?;
    if saving.build_cache && saving.layout == Layout::Containerd {
        copy_steps(saving, &directory)?;
    }
    let pruned = if saving.build_cache { CONTEXTS } else { CACHE };
    ask("POST", pruned)?;
    let images = list(&ask("GET", "/images/json")?).len();
    let used = ask("GET", "/system/df?type=build-cache")?;
    let steps = used.get("BuildCache").map_or(0, |cache| list(cache).len());
    let info = ask("GET", "/info")?;
    let driver = info.get("Driver").and_then(Value::as_str);
    let counts = Counts {
        engine: engine.context("dockerd names no version")?,
        images: u64::try_from(images)?,
        steps: u64::try_from(steps)?,
        driver: driver
            .context("dockerd names no storage driver")?
            .to_owned(),
    };
    // The publisher reads it, as the user who has the data root.
    let counts = counts.print();
    write::replace_for_owner(&directory, COUNTS.as_ref(), 0o600, counts.as_bytes())
        .with_context(|| format!("cannot write {shown}/{COUNTS}"))
        .remedy("free space in the store")
}

/// Copies what BuildKit knows about steps, for the publisher to put back.
///
/// After a prune BuildKit forgets every step whose result is not found, and asks for the results in
/// the context of a group of goroutines that has ended: `Prune` in its control/control.go, from 0.8
/// to 0.32. containerd does not answer in such a context, so with its image store any prune forgets
/// all steps, though their results stay. An engine that begins with the copy forgets those whose
/// results are gone: `NewCacheManager` in solver/cachemanager.go.
fn copy_steps(saving: &Saving, directory: &File) -> Result<()> {
    let path = saving.data_root.join(BUILDKIT_STEPS);
    let read = || {
        read::read(&path, STEPS_LIMIT, Links::Refuse)
            .with_context(|| format!("cannot read {}", path.display()))
    };
    let mut last = read()?;
    for _ in 0..ATTEMPTS {
        let next = read()?;
        // No build has changed it while it was read, so it is whole.
        if next == last {
            let Some(steps) = next else {
                return Ok(());
            };
            return write::replace_for_owner(directory, STEPS.as_ref(), 0o600, &steps)
                .with_context(|| format!("cannot write {}/{STEPS}", saving.data_root.display()))
                .remedy("free space in the store");
        }
        last = next;
    }
    Err(anyhow!("{} changes all the time", path.display())
        .remedy("wait in the command for the builds that it starts"))
}

fn list(value: &Value) -> Vec<&Value> {
    value.as_array().into_iter().flatten().collect()
}

/// Removes a container. One that ends by itself, such as that of `docker run --rm`, may be gone by
/// then, or be removed at this moment: then its removal is waited for.
fn delete(socket: &Path, id: &str) -> Result<()> {
    let target = format!("/containers/{id}?force=1&v=1");
    let Err(error) = ask(socket, "DELETE", &target) else {
        return Ok(());
    };
    // Moby's daemon/delete.go: "removal of container ... is already in progress".
    match status(
        socket,
        "POST",
        &format!("/containers/{id}/wait?condition=removed"),
    )? {
        (Some(200 | 404), _) => Ok(()),
        _ => Err(error),
    }
}

/// dockerd's answer to a request without a body, if it succeeds.
fn ask(socket: &Path, method: &str, target: &str) -> Result<Value> {
    let failed = || format!("dockerd did not answer {method} {target}");
    let (status, value) = status(socket, method, target)?;
    match status {
        Some(200..=299) => Ok(value),
        status => {
            let reason = value.get("message").and_then(Value::as_str);
            match (reason, status) {
                (Some(reason), _) => bail!("{}: {reason}", failed()),
                (None, status) => bail!("{}: HTTP status {}", failed(), status.unwrap_or(0)),
            }
        }
    }
}

/// dockerd's answer to a request without a body, with its status.
fn status(socket: &Path, method: &str, target: &str) -> Result<(Option<u16>, Value)> {
    let failed = || format!("dockerd did not answer {method} {target}");
    let exchange = Exchange::begin(socket, method, target, Body::None)?;
    let (answer, content) = exchange.finish(PATIENCE, LONGEST).with_context(failed)?;
    let value = serde_json::from_slice(&content).unwrap_or(Value::Null);
    Ok((answer.status(), value))
}
