//! The files below `DOCKER_TLS_CERTDIR`: reading, locking, writing.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sys::stat::Mode;
use tracing::info;

use crate::sys::read::{self, Links};
use crate::sys::{lock, write};

/// How long another daemon may take to make certificates; that is done in milliseconds,
/// unless its disk has stopped.
const PATIENCE: Duration = Duration::from_secs(30);

/// The mode of certificates: there is no secret in one.
pub const CERTIFICATE_MODE: u32 = 0o644;
/// The mode of keys: for the owner alone.
pub const KEY_MODE: u32 = 0o600;
/// The mode of the client's key, which is there for every client that can see it, whatever
/// its user.
pub const CLIENT_KEY_MODE: u32 = 0o644;

/// No certificate or key comes near it.
const LARGEST: u64 = 1 << 20;

/// One of the three directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directory {
    /// The authority's: its key leaves it for no other.
    Ca,
    /// dockerd's.
    Server,
    /// The one that is shared with clients.
    Client,
}

impl Directory {
    /// All of them, in the order in which they are locked and written.
    pub const ALL: [Self; 3] = [Self::Ca, Self::Server, Self::Client];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// What is in a file; nothing where it is missing or empty.
pub type Content = Option<Vec<u8>>;

/// The contents of one directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// `ca.pem`; the authority has none.
    pub ca: Content,
    /// `cert.pem`.
    pub certificate: Content,
    /// `key.pem`.
    pub key: Content,
}

impl Contents {
    /// Whether nothing is missing.
    pub fn is_complete(&self) -> bool {
        self.ca.is_some() && self.certificate.is_some() && self.key.is_some()
    }
}

/// All files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// Those in `ca`.
    pub ca: Contents,
    /// Those in `server`.
    pub server: Contents,
    /// Those in `client`.
    pub client: Contents,
}

impl Files {
    /// Reads them. Symbolic links are followed: secrets of Kubernetes are links. `ca` is
    /// last, since it is written first: whoever finds what another daemon has just made
    /// finds its key, too, and does not take the rest for the user's own.
    pub fn read(top: &Path) -> Result<Self> {
        let contents = |directory: Directory| -> Result<Contents> {
            let file = |name: &str| content(&top.join(directory.name()).join(name));
            Ok(Contents {
                ca: file("ca.pem")?,
                certificate: file("cert.pem")?,
                key: file("key.pem")?,
            })
        };
        let client = contents(Directory::Client)?;
        let server = contents(Directory::Server)?;
        let ca = contents(Directory::Ca)?;
        Ok(Self { ca, server, client })
    }
}

fn content(path: &Path) -> Result<Content> {
    let content = read::read(path, LARGEST, Links::Follow)
        .with_context(|| format!("cannot read {}; mend it or remove it", path.display()))?;
    Ok(content.filter(|content| !content.is_empty()))
}

/// Lets everybody read the client's key, where that is possible: there may be another
/// owner, or a link of either kind, which might lead to anywhere.
pub fn share_client_key(top: &Path) {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Ok(directory) = write::open_directory(&top.join(Directory::Client.name())) else {
        return;
    };
    let Ok(opened) = openat(&directory, "key.pem", flags, Mode::empty()) else {
        return;
    };
    let file = File::from(opened);
    if file.metadata().is_ok_and(|found| found.nlink() == 1) {
        let _ = file.set_permissions(fs::Permissions::from_mode(CLIENT_KEY_MODE));
    }
}

/// One change to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Written anew.
    Write {
        /// Where.
        directory: Directory,
        /// Its name there.
        name: &'static str,
        /// Permission bits.
        mode: u32,
        /// What it holds.
        content: Vec<u8>,
    },
    /// Removed: whoever waits for it waits on.
    Remove {
        /// Where.
        directory: Directory,
        /// Its name there.
        name: &'static str,
    },
}

/// The three directories, made where they were missing and locked against other daemons
/// on the same volume until this value goes. The locks are flock(2)'s on the directories
/// themselves: they leave nothing behind, and go with whoever is killed. None of them may be
/// a symbolic link, since clients can write to theirs and what is beside it: keys are
/// written to no place that one of them has chosen.
#[derive(Debug)]
pub struct Locked {
    top: PathBuf,
    /// What could not be locked, and why.
    pub warnings: Vec<String>,
    /// In the order of [`Directory::ALL`].
    directories: Vec<(Directory, File)>,
}

impl Locked {
    /// Makes and locks them. Each may be a volume of its own.
    pub fn open(top: &Path) -> Result<Self> {
        let mut warnings = Vec::new();
        let mut directories = Vec::new();
        for directory in Directory::ALL {
            let path = top.join(directory.name());
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&path)
                .with_context(|| cannot("make", &path))?;
            let opened = write::open_directory(&path).with_context(|| cannot("open", &path))?;
            match lock(&opened, &path) {
                Ok(()) => {}
                Err(Errno::EINTR) => bail!(
                    "{} is locked by another daemon that does not finish; stop that one",
                    path.display()
                ),
                // NFS, and file systems that have no locks.
                Err(errno) => warnings.push(format!(
                    "{} cannot be locked: {}; going on, but start no two daemons on it at once",
                    path.display(),
                    errno.desc()
                )),
            }
            directories.push((directory, opened));
        }
        Ok(Self {
            top: top.to_owned(),
            warnings,
            directories,
        })
    }

    /// Makes the changes in their order.
    pub fn carry_out(&self, changes: &[Change]) -> Result<()> {
        changes.iter().try_for_each(|change| self.change(change))
    }

    fn change(&self, change: &Change) -> Result<()> {
        let (Change::Write {
            directory, name, ..
        }
        | Change::Remove { directory, name }) = change;
        let path = self.top.join(directory.name()).join(name);
        let mut directories = self.directories.iter();
        let opened = directories.find(|(opened, _)| opened == directory);
        let (_, opened) = opened.with_context(|| format!("{} is not open", path.display()))?;
        match change {
            Change::Write { mode, content, .. } => {
                write::replace(opened, name.as_ref(), *mode, content)
                    .with_context(|| cannot("write", &path))
            }
            Change::Remove { .. } => {
                write::remove(opened, name.as_ref()).with_context(|| cannot("remove", &path))
            }
        }
    }
}

/// Locks a directory, and says so where that takes its time.
fn lock(directory: &File, path: &Path) -> nix::Result<()> {
    match lock::try_lock(directory, libc::LOCK_EX) {
        Err(Errno::EWOULDBLOCK) => {}
        done => return done,
    }
    info!(
        path = %path.display(),
        "waiting for {}, which another daemon has locked",
        path.display()
    );
    lock::lock(directory, libc::LOCK_EX, PATIENCE)
}

fn cannot(what: &str, path: &Path) -> String {
    format!(
        "cannot {what} {}; mount it writable, or put complete and valid certificates there",
        path.display()
    )
}
