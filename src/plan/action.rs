//! A change to the container as a value, with its reason and with what follows if it fails.

use std::fmt;
use std::path::PathBuf;

use nix::mount::MsFlags;

use crate::facts::nat;
use crate::facts::netfilter::NftPrograms;
use crate::shortcut::place;
use crate::sys::nat::{Family, TABLE_FORWARDING};

/// The permission bits of a device that is open to every user.
pub const OPEN: u32 = 0o666;

/// One change to the container. Its [`Display`](fmt::Display) is one line for `dind plan`, as a
/// shell command where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make a directory and its parents, or set the mode of one that exists.
    Directory {
        /// The directory.
        path: PathBuf,
        /// Its permission bits: chmod(2).
        mode: u32,
    },
    /// Mount a file system: mount(2).
    Mount {
        /// The source, as mountinfo shows it: proc_pid_mountinfo(5).
        source: String,
        /// The mount point.
        target: PathBuf,
        /// The file system type.
        fstype: String,
        /// The mount flags.
        flags: MsFlags,
        /// The options of the file system, separated by commas.
        data: String,
    },
    /// Remount without the read-only flag: `MS_REMOUNT` in mount(2).
    RemountWritable {
        /// The mount point.
        target: PathBuf,
        /// The flags to keep.
        flags: MsFlags,
        /// Whether the superblock is read-only, besides the mount.
        superblock: bool,
    },
    /// Mount a directory or a file on another: `MS_BIND` in mount(2).
    Bind {
        /// What is mounted.
        source: PathBuf,
        /// The mount point.
        target: PathBuf,
    },
    /// Cover a directory with a tmpfs that has links to what is in it, but for some names: then this
    /// user can make files there, and what is mounted below stays.
    CopyUp {
        /// The directory.
        path: PathBuf,
        /// The names without a link.
        own: &'static [&'static str],
        /// The names with a link though nothing may be there yet.
        later: &'static [&'static str],
    },
    /// Give a file or a directory to a user, without what is in it: chown(2).
    Give {
        /// The file or directory.
        path: PathBuf,
        /// The user id.
        user: u32,
        /// Whether that is an error where files of others are in the directory, which then stays as
        /// it is.
        alone: bool,
    },
    /// Open a device to every user of this container: chmod(2).
    Open {
        /// The device.
        path: PathBuf,
    },
    /// Make the propagation of a mount and of all mounts below it shared, as
    /// `mount --make-rshared` does: mount_namespaces(7).
    Share {
        /// The mount point at the top of the tree.
        target: PathBuf,
    },
    /// Lock a directory for as long as this process lives: flock(2).
    Lock {
        /// The directory.
        path: PathBuf,
    },
    /// Make a symbolic link: symlink(2).
    Symlink {
        /// The path of the link.
        link: PathBuf,
        /// The target, as the link holds it.
        to: PathBuf,
    },
    /// Remove a stale file of an earlier start.
    Remove {
        /// The file.
        path: PathBuf,
    },
    /// Remove a directory of an earlier start with all that is in it.
    RemoveTree {
        /// The directory, with nothing mounted in it.
        path: PathBuf,
    },
    /// Make the kernel load a module.
    LoadModule {
        /// The module's name.
        name: String,
    },
    /// Write a file, and replace one that exists.
    Write {
        /// The file.
        path: PathBuf,
        /// Its whole content.
        content: String,
    },
    /// Put the program that answers dockerd's calls of iptables into
    /// [`place::DIRECTORY`].
    Shortcut {
        /// What it finds the real programs by.
        programs: NftPrograms,
    },
    /// Write a value to a file of the kernel: sysctl(8).
    Set {
        /// The file, below `/proc/sys`.
        path: PathBuf,
        /// The value.
        value: &'static str,
    },
    /// Forward packets of a family, and nothing else than what engines and bridges send and get.
    Forward {
        /// The family of addresses.
        family: Family,
    },
    /// Move every process of the cgroup at `root` to its child `leaf`, and enable every
    /// controller for children: cgroup-v2.rst, No Internal Process Constraint.
    Delegate {
        /// The flags of the mount at `root`, if it shows the host's hierarchy. This process
        /// then first enters a new cgroup namespace and mounts its own part of the hierarchy
        /// there. `None` if it is in a private cgroup namespace already.
        remount: Option<MsFlags>,
        /// The mount point of the version 2 hierarchy.
        root: PathBuf,
        /// The name of the child cgroup.
        leaf: String,
    },
}

/// What follows when an action fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// The start ends.
    Fatal {
        /// What there cannot be: it stands before the error.
        lost: &'static str,
        /// What the user can do where the error does not say it.
        remedy: &'static str,
    },
    /// The error is logged as a warning, and the start continues.
    Warn,
    /// The error is logged at level debug, and the start continues.
    Ignore,
}

/// An action, its reason, and what follows when it fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The change to the container.
    pub action: Action,
    /// What follows when it fails.
    pub on_failure: OnFailure,
    /// The reason in one line, with the document that it rests on. `dind plan` prints it.
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
            Self::Bind { source, target } => write!(
                formatter,
                "mount --bind {} {}",
                source.display(),
                target.display()
            ),
            Self::CopyUp { path, .. } => write!(
                formatter,
                "cover {0} with a tmpfs of links to what is in it",
                path.display()
            ),
            Self::Open { path } => write!(formatter, "chmod {OPEN:04o} {}", path.display()),
            Self::Give { path, user, .. } => write!(formatter, "chown {user} {}", path.display()),
            Self::Symlink { link, to } => {
                write!(formatter, "ln -s {} {}", to.display(), link.display())
            }
            Self::Remove { path } => write!(formatter, "rm {}", path.display()),
            Self::RemoveTree { path } => write!(formatter, "rm -r {}", path.display()),
            Self::Lock { path } => write!(formatter, "lock {}", path.display()),
            Self::LoadModule { name } => write!(formatter, "load module {name}"),
            Self::Write { path, .. } => write!(formatter, "write {}", path.display()),
            Self::Shortcut { programs } => write!(
                formatter,
                "answer for {} {} in {}",
                programs.iptables.display(),
                programs.version,
                place::DIRECTORY
            ),
            Self::Set { path, value } => write!(formatter, "echo {value} >{}", path.display()),
            Self::Forward { family } => write!(
                formatter,
                "nft add table {} {TABLE_FORWARDING}, by which only what engines and bridges send and get \
                 is forwarded, and echo 1 >{}",
                family.name(),
                nat::switch(*family)
            ),
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
