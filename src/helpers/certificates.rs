//! Issues or verifies the certificates, before the daemons start.

use std::os::unix::fs::lchown;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};
use tracing::{info, warn};

use crate::messages::remedy::Remedy;
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
    if let Some(user) = wanted.owner {
        give_server(&wanted.directory.join("server"), user)?;
    }
    Ok(())
}

/// Gives the server's files to the user who is root for dockerd. Only root can read the key.
fn give_server(server: &Path, user: u32) -> Result<()> {
    let files = ["", "ca.pem", "cert.pem", "key.pem"];
    for path in files.map(|name| server.join(name)) {
        lchown(&path, Some(user), None)
            .with_context(|| format!("cannot give {} to user {user}", path.display()))
            .remedy("start the container with --cap-add CHOWN, or set DOCKER_TLS_CERTDIR=")?;
    }
    Ok(())
}
