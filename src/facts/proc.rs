//! Files of /proc/self without which nothing can be planned.

use std::fs;

use anyhow::{Context, Result};

use super::mountinfo::MountTable;

/// The mounts of this process. PID 1 reads them once, before it has decided anything, and
/// hands them on. Only what looks at another time reads them again, since others have mounted
/// by then: the sweeper at the end, the diagnosis of a dockerd that has died, and
/// `dind nest`, which is a process of its own, for the image of the next level.
pub fn mounts() -> Result<MountTable> {
    Ok(MountTable::parse(&text("/proc/self/mountinfo")?))
}

/// The text of a file of /proc.
pub fn text(path: &str) -> Result<String> {
    let bytes = fs::read(path)
        .with_context(|| format!("cannot read {path}; the container needs a /proc of its own"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The effective capabilities of this process, a bit each: capabilities(7).
pub fn effective_capabilities() -> Result<u64> {
    let status = text("/proc/self/status")?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .context("no CapEff in /proc/self/status; the container needs a /proc of its own")
}
