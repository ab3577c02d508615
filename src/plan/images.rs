//! The images that the image loader loads when dockerd's API answers.

use std::fmt;
use std::path::{Path, PathBuf};

use super::inputs::Inputs;
use super::listener::Listener;
use crate::input::config::{DOCKER_SOCKET, IMAGES};
use crate::messages::finding::Finding;

/// The name of the record of loaded images, in the data root.
const RECORD: &str = "dind-images.json";

/// The input of the image loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// The directory of the archives.
    pub directory: PathBuf,
    /// Whether `DIND_IMAGES` names the directory, which must then exist.
    pub asked: bool,
    /// Whether an archive that cannot be loaded ends the container: `DIND_IMAGES_STRICT`.
    pub strict: bool,
    /// dockerd's Unix socket.
    pub socket: PathBuf,
    /// The file that records which archives have been loaded.
    pub record: PathBuf,
}

impl fmt::Display for Images {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let strict = if self.strict {
            "; an archive that cannot be loaded ends the container"
        } else {
            ""
        };
        let directory = self.directory.display();
        write!(formatter, "load new archives from {directory}{strict}")
    }
}

/// Returns the input of the image loader. `None` if there is no directory, `DIND_IMAGES` names
/// none, and no pre-start hook could make one; or if dockerd has no Unix socket: see [`warning`].
pub fn plan(inputs: Inputs<'_>, listeners: &[Listener]) -> Option<Images> {
    let Inputs { config, facts, .. } = inputs;
    let asked = config.images.is_some();
    let to_come = !facts.hooks.pre_start.is_empty();
    let usual = to_come.then(|| PathBuf::from(IMAGES));
    Some(Images {
        directory: wanted(inputs).or(usual)?,
        asked,
        strict: config.images_strict,
        socket: socket(inputs, listeners)?,
        record: facts.data_root.path.join(RECORD),
    })
}

/// Returns the warning that there are images to load and dockerd has no Unix socket.
pub fn warning(inputs: Inputs<'_>, listeners: &[Listener]) -> Option<Finding> {
    let directory = wanted(inputs)?;
    socket(inputs, listeners).is_none().then(|| {
        let seen = format!(
            "the images in {} are not loaded, since dockerd has no Unix socket",
            directory.display()
        );
        Finding::warning(
            "images-without-socket",
            seen,
            "README.md#images-at-the-start",
        )
        .remedy("add -H unix:///var/run/docker.sock")
    })
}

/// The directory that `DIND_IMAGES` names, else the default one if it exists.
fn wanted(inputs: Inputs<'_>) -> Option<PathBuf> {
    let Inputs { config, facts, .. } = inputs;
    let usual = || facts.images.then(|| PathBuf::from(IMAGES));
    config.images.clone().or_else(usual)
}

/// The Unix socket that a start binds, else the first that dockerd binds itself.
fn socket(inputs: Inputs<'_>, listeners: &[Listener]) -> Option<PathBuf> {
    let bound = listeners.iter().find_map(Listener::unix_path);
    let own = || {
        let mut paths = inputs.options.addresses();
        paths.find_map(|address| match address.strip_prefix("unix://")? {
            // `parseSimpleProtoAddr` in docker's opts/hosts.go.
            "" => Some(PathBuf::from(DOCKER_SOCKET)),
            path => Some(PathBuf::from(path)),
        })
    };
    bound.map(Path::to_owned).or_else(own)
}
