//! Where symbolic links lead the paths that the user names.

use std::path::{Path, PathBuf};

use super::paths::resolve;
use crate::input::config::{Config, DOCKER_SOCKET};
use crate::input::dockerd_arguments::DockerdOptions;

/// The paths of sockets, of the pid file, of certificates and of images that a symbolic link leads
/// elsewhere, each as it is named and resolved as far as it exists.
pub fn read(options: &DockerdOptions, config: &Config) -> Vec<(PathBuf, PathBuf)> {
    let sockets = options
        .addresses()
        .map(Some)
        .chain([config.docker_host.as_deref()]);
    let sockets = sockets.filter_map(|address| address?.strip_prefix("unix://"));
    let files = [Path::new(DOCKER_SOCKET), &options.pid_file];
    let directories = [config.tls_directory.as_deref(), config.images.as_deref()];
    sockets
        .map(Path::new)
        .chain(files)
        .chain(directories.into_iter().flatten())
        .map(|path| (path.to_owned(), resolve(path)))
        .filter(|(path, real)| path != real)
        .collect()
}
