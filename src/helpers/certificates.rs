//! Issues or verifies the certificates, before the daemons start.

use std::time::SystemTime;

use anyhow::{Context, Result};
use tracing::{info, warn};

use crate::plan::engine::Certificates;
use crate::tls;

/// Issues or verifies the files in `wanted` at the time `now`, as [`tls::prepare`] does, and logs
/// the result and the warnings. The error is the reason why there can be no TLS; it names the
/// file.
pub fn prepare(wanted: &Certificates, now: SystemTime) -> Result<()> {
    let summary =
        tls::prepare(&wanted.directory, &wanted.names, now).context("no certificates for TLS")?;
    for warning in &summary.warnings {
        warn!(directory = %wanted.directory.display(), "{warning}");
    }
    info!(directory = %wanted.directory.display(), "{summary}");
    Ok(())
}
