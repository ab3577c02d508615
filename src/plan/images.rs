//! Images that are loaded when the API answers.

use std::fmt;
use std::path::{Path, PathBuf};

use super::inputs::Inputs;
use super::listener::Listener;
use crate::input::config::{DOCKER_SOCKET, IMAGES};
use crate::messages::finding::Finding;

/// What was loaded, in the data root.
const RECORD: &str = "dind-images.json";

/// What is loaded, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// Where the archives are.
    pub directory: PathBuf,
    /// Whether the directory was named by `DIND_IMAGES`, and so has to be there.
    pub asked: bool,
    /// Whether one that cannot be loaded ends the container.
    pub strict: bool,
    /// dockerd's Unix socket.
    pub socket: PathBuf,
    /// Where it is noted what has been loaded.
    pub record: PathBuf,
}

impl fmt::Display for Images {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let strict = if self.strict { ", all of it" } else { "" };
        let directory = self.directory.display();
        write!(formatter, "load what is new in {directory}{strict}")
    }
}

/// Decides. Nothing, where there is no directory, none was asked for, and no hook could make
/// it; or where dockerd has no Unix socket: see [`warning`].
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

/// The warning that there are images to load, and no socket to load them over.
pub fn warning(inputs: Inputs<'_>, listeners: &[Listener]) -> Option<Finding> {
    let directory = wanted(inputs)?;
    socket(inputs, listeners).is_none().then(|| {
        let seen = format!(
            "the images in {} are not loaded, since dockerd gets no Unix socket",
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

/// The directory, where there is something to do.
fn wanted(inputs: Inputs<'_>) -> Option<PathBuf> {
    let Inputs { config, facts, .. } = inputs;
    let usual = || facts.images.then(|| PathBuf::from(IMAGES));
    config.images.clone().or_else(usual)
}

/// The socket that was bound here, else the first that dockerd binds itself.
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
