//! dockerd's configuration file.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::libc;

/// More than any daemon.json has, and little enough to be read.
const DAEMON_JSON_BYTES: u64 = 16 << 20;

/// The text of daemon.json. A missing file is no error unless it was `asked` for. What is no
/// file is not waited for: dockerd reads it later, and would find a pipe empty.
pub fn read(path: &Path, asked: bool) -> Result<Option<String>> {
    let text = || -> io::Result<String> {
        let file = fs::File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        if metadata.len() > DAEMON_JSON_BYTES {
            return Err(io::Error::other("it is larger than 16 MiB"));
        }
        let mut text = String::new();
        file.take(DAEMON_JSON_BYTES).read_to_string(&mut text)?;
        Ok(text)
    };
    match text() {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked => Ok(None),
        Err(error) => Err(error).with_context(|| {
            format!(
                "cannot read {}; correct --config-file or the file",
                path.display()
            )
        }),
    }
}
