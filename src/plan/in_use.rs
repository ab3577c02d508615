//! The paths that a start, its daemons and its helpers use. A mount of the start hides none of
//! them: what is bound, read or written before it would be lost from sight, and what comes later
//! would be in memory, or in an image, where the user does not look for it.

use std::fmt;
use std::path::{Path, PathBuf};

use super::action::{Action, OnFailure, Step};
use super::inputs::Inputs;
use crate::facts::hooks;
use crate::facts::read_only::KEY;
use crate::input::config::{IMAGES, LOG_FILE};
use crate::messages::finding::Finding;

/// What a path is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The Unix socket that this process binds, before the mounts.
    Socket,
    /// A Unix socket that dockerd binds itself.
    OwnSocket,
    /// dockerd's data root.
    DataRoot,
    /// The ext4 image for the data root.
    DataFile,
    /// dockerd's exec root.
    ExecRoot,
    /// dockerd's pid file.
    PidFile,
    /// The directory of the certificates.
    Certificates,
    /// The directory of images to load.
    Images,
    /// The directory of the hooks.
    Hooks,
    /// dockerd's own configuration and key.
    Configuration,
    /// The daemons' log.
    Log,
}

/// A path in use. Its [`Display`](fmt::Display) names it in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// What it is used for.
    pub what: What,
    /// The path: as the user has named it, or with symbolic links resolved.
    pub path: PathBuf,
}

impl fmt::Display for InUse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            What::Socket | What::OwnSocket => "the socket",
            What::DataRoot => "the data root",
            What::DataFile => "the ext4 image",
            What::ExecRoot => "the exec root",
            What::PidFile => "the pid file",
            What::Certificates => "the certificates in",
            What::Images => "the images in",
            What::Hooks => "the hooks in",
            What::Configuration => "dockerd's configuration in",
            What::Log => "the log",
        };
        write!(formatter, "{what} {}", self.path.display())
    }
}

/// Returns the steps without those mounts that are not required and that would hide a path in use.
/// A note about each is added to `left_out`.
pub fn kept(mut steps: Vec<Step>, inputs: Inputs<'_>, left_out: &mut Vec<Finding>) -> Vec<Step> {
    steps.retain(|step| {
        let Action::Mount { target, fstype, .. } = &step.action else {
            return true;
        };
        let is_required = matches!(step.on_failure, OnFailure::Fatal { .. });
        let hidden = hidden_by(target, inputs, |_| !is_required);
        let note = hidden.map(|hidden| not_mounted(fstype, target, &hidden));
        let is_kept = note.is_none();
        left_out.extend(note);
        is_kept
    });
    steps
}

/// The note that a file system is not mounted, since it would hide a path in use.
pub fn not_mounted(fstype: &str, target: &Path, hidden: &InUse) -> Finding {
    let target = target.display();
    let seen = format!("no {fstype} is mounted on {target}, since it would hide {hidden}");
    Finding::note("mount-left-out", seen, "README.md#what-a-start-changes")
}

/// Returns the first path in use at or below `target` that `counts` accepts, which a mount on
/// `target` would hide.
pub fn hidden_by(
    target: &Path,
    inputs: Inputs<'_>,
    counts: impl Fn(What) -> bool,
) -> Option<InUse> {
    all(inputs)
        .into_iter()
        .find(|used| counts(used.what) && used.path.starts_with(target))
}

/// Every path in use. A path that a symbolic link leads elsewhere is there twice.
fn all(inputs: Inputs<'_>) -> Vec<InUse> {
    let Inputs {
        config,
        surroundings,
        options,
        facts,
        ..
    } = inputs;
    let sockets = options
        .addresses()
        .filter_map(|address| address.strip_prefix("unix://"))
        .map(|path| (What::OwnSocket, Path::new(path)));
    let sockets = [(What::Socket, surroundings.socket.as_path())]
        .into_iter()
        .chain(sockets);
    let data_file = facts.data_root.means.as_ref().map(|means| &means.data_file);
    let usual = facts.images.then_some(Path::new(IMAGES));
    let files = [
        (What::DataRoot, Some(facts.data_root.path.as_path())),
        (What::DataFile, data_file.map(PathBuf::as_path)),
        (What::ExecRoot, Some(facts.exec_root.path.as_path())),
        (What::PidFile, Some(options.pid_file.as_path())),
        (What::Certificates, config.tls_directory.as_deref()),
        (What::Images, config.images.as_deref().or(usual)),
        (What::Hooks, Some(Path::new(hooks::DIRECTORY))),
        (What::Configuration, Some(Path::new(KEY))),
        (What::Log, Some(Path::new(LOG_FILE))),
    ];
    let files = files
        .into_iter()
        .filter_map(|(what, path)| Some((what, path?)));
    sockets
        .chain(files)
        .flat_map(|(what, path)| {
            let real = facts.links.iter().filter(move |(link, _)| link == path);
            let real = real.map(|(_, real)| real.as_path());
            [path].into_iter().chain(real).map(move |path| InUse {
                what,
                path: path.to_owned(),
            })
        })
        .collect()
}
