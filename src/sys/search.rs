//! The search for programs in `PATH`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::messages::fault::Fault;

/// The path of the program that execvp(3) would find for `name` in `search_path`, a value of
/// `PATH`; `None` where there is none.
pub fn search(name: &str, search_path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(search_path)
        .map(|directory| directory.join(name))
        .find(|path| is_executable(path))
}

/// Whether `path` leads to a regular file with an execute bit for any user.
pub fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// The path of the program that `words`, a command, would run in a shell: its first word as it
/// is where it has a slash, else the program of that name in `search_path`. The fault, with the
/// shell's status 127, is that there is none.
pub fn find(words: &[OsString], search_path: &OsStr) -> Result<PathBuf, Fault> {
    let name = words.first().map(OsString::as_os_str).unwrap_or_default();
    if name.as_encoded_bytes().contains(&b'/') {
        return Ok(PathBuf::from(name));
    }
    name.to_str()
        .and_then(|text| search(text, search_path))
        .ok_or_else(|| {
            Fault::not_found(format!(
                "{}: not found in PATH ({})",
                name.to_string_lossy(),
                search_path.to_string_lossy()
            ))
            .remedy("check its spelling")
        })
}
