//! Issues or verifies the certificates, before the daemons start.

use std::time::SystemTime;

use anyhow::{Context, Result};
use tracing::{info, warn};

use crate::plan::engine::Certificates;
use crate::tls;

/// Does it. The error is the reason why there is no TLS.
pub fn prepare(wanted: &Certificates, now: SystemTime) -> Result<()> {
    let outcome =
        tls::prepare(&wanted.directory, &wanted.names, now).context("no certificates for TLS")?;
    for warning in &outcome.warnings {
        warn!(directory = %wanted.directory.display(), "{warning}");
    }
    info!(directory = %wanted.directory.display(), "{outcome}");
    Ok(())
}
