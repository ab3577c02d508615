//! The directories for a start to write to that are on a read-only file system, as with
//! `docker run --read-only`.

use std::path::{Path, PathBuf};

use super::mountinfo::MountTable;
use super::paths::resolve;
use super::program_text;
use crate::input::config::Config;
use crate::input::dockerd_arguments::DockerdOptions;

/// The directory of the sockets, pid files and locks that a start makes, wherever dockerd's are.
pub const RUN: &str = "/run";

/// The directory of the key that dockerd makes before 23.0, and does not start without:
/// `LoadOrCreateTrustKey` in moby's api/common.go.
pub const KEY: &str = "/etc/docker";

/// A text of such a dockerd, which later ones do not have.
const KEY_ERROR: &[u8] = b"Error saving key file";

/// A directory on a file system that is mounted read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOnly {
    /// The directory as the user or this program names it.
    pub directory: PathBuf,
    /// The same with symbolic links resolved, as far as it exists.
    pub real: PathBuf,
}

/// Finds those of the directories that a start may write to. Directories of certificates or of a
/// key that are there already do not count. `log` is the directory of the daemons' log, `dockerd`
/// the program.
pub fn find(
    options: &DockerdOptions,
    config: &Config,
    log: PathBuf,
    dockerd: Option<&Path>,
    mounts: &MountTable,
) -> Vec<ReadOnly> {
    // Most containers have no such mount, and their paths are not resolved.
    let kernel = ["/proc", "/sys", "/dev"];
    let is_any = mounts.mounts.iter().any(|mount| {
        mount.read_only() && !kernel.iter().any(|path| mount.target.starts_with(path))
    });
    if !is_any {
        return Vec::new();
    }
    let certificates = config.tls_directory.iter();
    let certificates = certificates.filter(|path| !path.join("server/cert.pem").exists());
    let directories = [
        Path::new(RUN),
        &options.exec_root,
        &options.data_root,
        &log,
        Path::new(KEY),
    ];
    directories
        .into_iter()
        .chain(parents(options, config))
        .chain(certificates.map(PathBuf::as_path))
        .filter_map(|directory| {
            let real = resolve(directory);
            let mount = mounts.at(mounts.mount_point(&real)?)?;
            mount.read_only().then(|| ReadOnly {
                directory: directory.to_owned(),
                real,
            })
        })
        .filter(|found| found.directory != Path::new(KEY) || needs_key(&found.real, dockerd))
        .collect()
}

/// The directories of the Unix socket in `DOCKER_HOST` and of dockerd's pid file.
pub fn parents<'a>(
    options: &'a DockerdOptions,
    config: &'a Config,
) -> impl Iterator<Item = &'a Path> {
    let host = config.docker_host.as_deref();
    let socket = host.and_then(|host| host.strip_prefix("unix://"));
    let files = [socket.map(Path::new), Some(options.pid_file.as_path())];
    files.into_iter().flatten().filter_map(Path::parent)
}

fn needs_key(directory: &Path, dockerd: Option<&Path>) -> bool {
    !directory.join("key.json").exists()
        && dockerd.is_some_and(|path| program_text::has(path, [KEY_ERROR]) == [true])
}
