//! The directories that a start writes to and cannot, as with `docker run --read-only`: all of
//! them are found before anything is changed, so that one message names every flag.

use std::path::{Path, PathBuf};

use super::engine::Certificates;
use super::inputs::Inputs;
use super::listener::Listener;
use crate::facts::read_only::{KEY, RUN};
use crate::input::config::{LOG_FILE, Storage};
use crate::messages::fault::Fault;

/// What a directory is to be, if it is on a read-only file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mount {
    /// A tmpfs: nothing in it outlives the container.
    Tmpfs,
    /// A volume, which begins with what the image has there.
    Volume,
}

/// Returns the fault of a start that cannot write where it must, with the flags that make all of
/// it possible. `log_file` is whether the daemons log to a file; without it they can go on.
pub fn fault(
    inputs: Inputs<'_>,
    listeners: &[Listener],
    certificates: Option<&Certificates>,
    log_file: bool,
) -> Option<Fault> {
    let options = inputs.options;
    let parent = |path: &Path| path.parent().map(Path::to_owned);
    // A tmpfs is mounted on a directory that exists, whatever that is on.
    let own_tmpfs =
        inputs.config.storage == Storage::Tmpfs && inputs.facts.data_root.mode.is_some();
    let tmpfs = [
        Some(RUN.into()),
        Some(options.exec_root.clone()),
        parent(&options.pid_file),
        listeners
            .iter()
            .find_map(Listener::unix_path)
            .and_then(parent),
    ];
    let volumes = [
        Some(KEY.into()),
        Some(options.data_root.clone()).filter(|_| !own_tmpfs),
        certificates.map(|certificates| certificates.directory.clone()),
    ];
    let tmpfs = tmpfs.into_iter().flatten().map(|path| (path, Mount::Tmpfs));
    let volumes = volumes.into_iter().flatten();
    let needed = tmpfs.chain(volumes.map(|path| (path, Mount::Volume)));
    let mut blocked = Blocked::new(inputs);
    for (directory, mount) in needed {
        blocked.add(&directory, mount);
    }
    if blocked.found.is_empty() {
        return None;
    }
    if let Some(directory) = parent(Path::new(LOG_FILE)).filter(|_| log_file) {
        blocked.add(&directory, Mount::Tmpfs);
    }
    Some(blocked.fault())
}

/// The directories that cannot be written to, as the kernel names them.
struct Blocked<'a> {
    inputs: Inputs<'a>,
    found: Vec<(PathBuf, Mount)>,
}

impl<'a> Blocked<'a> {
    fn new(inputs: Inputs<'a>) -> Self {
        let found = Vec::new();
        Self { inputs, found }
    }

    /// Adds a directory, unless it can be written to or is in one that is added already.
    fn add(&mut self, directory: &Path, mount: Mount) {
        let mut read_only = self.inputs.facts.read_only.iter();
        let Some(read_only) = read_only.find(|found| found.directory == directory) else {
            return;
        };
        let is_covered = |(path, _): &(PathBuf, Mount)| read_only.real.starts_with(path);
        if !self.found.iter().any(is_covered) {
            self.found.push((read_only.real.clone(), mount));
        }
    }

    fn fault(&self) -> Fault {
        let paths: Vec<String> = self
            .found
            .iter()
            .map(|(path, _)| path.display().to_string())
            .collect();
        let flags: Vec<String> = self
            .found
            .iter()
            .map(|(path, mount)| match mount {
                Mount::Tmpfs => format!("--tmpfs {}", path.display()),
                Mount::Volume => format!("-v {}", path.display()),
            })
            .collect();
        let verb = match paths.len() {
            1 => "is",
            _ => "are",
        };
        Fault::failure(format!(
            "{} {verb} on a file system that is mounted read-only, and a start writes there",
            paths.join(" and ")
        ))
        .remedy(format!("mount it writable: docker run {}", flags.join(" ")))
    }
}
