//! dockerd's configuration file, `daemon.json`.

use std::path::Path;

use nix::errno::Errno;

use crate::messages::fault::Fault;
use crate::sys::read;

/// In bytes: larger than any real `daemon.json`, and small enough to read into memory.
const LIMIT: u64 = 16 << 20;

/// The text of the `daemon.json` at `path`. A missing file gives `None`, or an error where the
/// user `asked` for it with `--config-file`. A file that is not a regular file is an error: dind
/// would empty a pipe before dockerd reads it.
pub fn read(path: &Path, asked: bool) -> Result<Option<String>, Fault> {
    let text = match read::text(path, LIMIT) {
        Ok(None) if asked => Err(Errno::ENOENT.into()),
        text => text,
    };
    text.map_err(|error| {
        Fault::failure(format!("cannot read {}: {error}", path.display()))
            .remedy("correct --config-file or the file")
    })
}
