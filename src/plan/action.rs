//! One change to the container, as a value.

use std::fmt;
use std::path::PathBuf;

use nix::mount::MsFlags;

/// One change to the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make a directory with its parents, or give an existing one this mode.
    Directory {
        /// Which.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// mount(2).
    Mount {
        /// What mountinfo will show as the source.
        source: String,
        /// The mount point.
        target: PathBuf,
        /// File system type.
        fstype: String,
        /// Mount flags.
        flags: MsFlags,
        /// Options for the file system.
        data: String,
    },
    /// Remount without the read-only flag.
    RemountWritable {
        /// The mount point.
        target: PathBuf,
        /// The flags to keep.
        flags: MsFlags,
        /// Whether the superblock is read-only too.
        superblock: bool,
    },
    /// `mount --make-rshared`.
    Share {
        /// The top of the tree of mounts.
        target: PathBuf,
    },
    /// Lock a directory for as long as this process lives: flock(2).
    Lock {
        /// Which.
        path: PathBuf,
    },
    /// A symbolic link.
    Symlink {
        /// Where it is.
        link: PathBuf,
        /// What it says.
        to: PathBuf,
    },
    /// Remove a file that an earlier start left behind.
    Remove {
        /// Which.
        path: PathBuf,
    },
    /// Have the kernel load a module, where it can.
    LoadModule {
        /// Its name.
        name: String,
    },
    /// Write a file anew.
    Write {
        /// Which.
        path: PathBuf,
        /// What it holds.
        content: String,
    },
    /// Evacuate the cgroup at `root` into its child `leaf` and enable every
    /// controller for children.
    Delegate {
        /// The flags of the mount at `root`, where that shows the host's hierarchy: this
        /// process then first enters a cgroup namespace of its own and mounts its own part
        /// there. Without these `root` is its own already.
        remount: Option<MsFlags>,
        /// The mount point of the version 2 hierarchy.
        root: PathBuf,
        /// The child's name.
        leaf: String,
    },
}

/// What follows when an action fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// The start ends with these words and the error.
    Fatal(&'static str),
    /// A warning, and the start goes on.
    Warn,
    /// Nothing: it is only for the better.
    Ignore,
}

/// An action, why it is done, and how much depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub action: Action,
    /// What follows when that fails.
    pub on_failure: OnFailure,
    /// Why, with the document it rests on.
    pub why: String,
}

fn flag_names(flags: MsFlags) -> String {
    flags
        .iter_names()
        .map(|(name, _)| name.trim_start_matches("MS_").to_ascii_lowercase())
        .collect::<Vec<_>>()
        .join(",")
}

fn joined_options(flags: MsFlags, data: &str) -> String {
    [flag_names(flags), data.to_owned()]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(",")
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, mode } => {
                write!(formatter, "mkdir -p -m {mode:04o} {}", path.display())
            }
            Self::Mount {
                source,
                target,
                fstype,
                flags,
                data,
            } => write!(
                formatter,
                "mount -t {fstype} -o {} {source} {}",
                joined_options(*flags, data),
                target.display()
            ),
            Self::RemountWritable { target, flags, .. } => write!(
                formatter,
                "mount -o {} {}",
                joined_options(*flags, "remount,rw"),
                target.display()
            ),
            Self::Share { target } => {
                write!(formatter, "mount --make-rshared {}", target.display())
            }
            Self::Symlink { link, to } => {
                write!(formatter, "ln -s {} {}", to.display(), link.display())
            }
            Self::Remove { path } => write!(formatter, "rm {}", path.display()),
            Self::Lock { path } => write!(formatter, "lock {}", path.display()),
            Self::LoadModule { name } => write!(formatter, "load module {name}"),
            Self::Write { path, .. } => write!(formatter, "write {}", path.display()),
            Self::Delegate {
                root,
                leaf,
                remount: Some(flags),
            } => write!(
                formatter,
                "enter a cgroup namespace, mount -t cgroup2 -o {} cgroup {}, and delegate it from leaf {leaf}",
                flag_names(*flags),
                root.display(),
            ),
            Self::Delegate { root, leaf, .. } => write!(
                formatter,
                "move every process of {} to {leaf}, then enable every controller",
                root.display()
            ),
        }
    }
}
