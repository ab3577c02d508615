//! dockerd's configuration file.

use std::path::Path;

use nix::errno::Errno;

use crate::messages::fault::Fault;
use crate::sys::read;

/// More than any daemon.json has, and little enough to be read.
const LIMIT: u64 = 16 << 20;

/// The text of daemon.json. A missing file is no error unless it was `asked` for. What is no
/// regular file is not waited for: dockerd reads it later, and would find a pipe empty.
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
