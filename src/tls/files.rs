//! Reads, locks and writes the files below `DOCKER_TLS_CERTDIR`.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sys::stat::Mode;
use tracing::info;

use crate::messages::remedy::Remedy;
use crate::sys::read::{self, Links};
use crate::sys::{lock, write};

/// How long another daemon may hold a lock. Certificates are made in milliseconds, unless the
/// disk hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the user can do about a directory that cannot be changed.
const WRITABLE: &str = "mount it writable, or put complete and valid certificates there";

/// The mode of certificates, which contain no secret.
pub const CERTIFICATE_MODE: u32 = 0o644;
/// The mode of the keys of the authority and of dockerd: only the owner may read them.
pub const KEY_MODE: u32 = 0o600;
/// The mode of the client's key, which is for every client that can see the file, whatever its
/// user.
pub const CLIENT_KEY_MODE: u32 = 0o644;

/// The largest file that is read, in bytes: more than any certificate or key.
const LARGEST: u64 = 1 << 20;

/// One of the three directories below `DOCKER_TLS_CERTDIR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directory {
    /// The authority's directory. Its key is in no other.
    Ca,
    /// The directory of dockerd's files.
    Server,
    /// The directory that is shared with clients.
    Client,
}

impl Directory {
    /// All directories, in the order in which they are locked and written.
    pub const ALL: [Self; 3] = [Self::Ca, Self::Server, Self::Client];

    /// The name of the directory.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// The content of a file; `None` where it is missing or empty.
pub type Content = Option<Vec<u8>>;

/// The contents of one directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// `ca.pem`; the authority's directory has none.
    pub ca: Content,
    /// `cert.pem`: a certificate, or a chain.
    pub certificate: Content,
    /// `key.pem`: the certificate's private key.
    pub key: Content,
}

impl Contents {
    /// Whether all three files are present.
    pub fn is_complete(&self) -> bool {
        self.ca.is_some() && self.certificate.is_some() && self.key.is_some()
    }
}

/// The contents of the three directories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// The files in `ca`.
    pub ca: Contents,
    /// The files in `server`.
    pub server: Contents,
    /// The files in `client`.
    pub client: Contents,
}

impl Files {
    /// Reads all files below `top`. Symbolic links are followed, as Kubernetes mounts secrets as
    /// links. `ca` is read last, since it is written first: so files that another daemon is
    /// making are found with the authority's key, and not taken for the user's own. The error
    /// names the path and what the user can do.
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
        .with_context(|| format!("cannot read {}", path.display()))
        .remedy("repair it or remove it")?;
    Ok(content.filter(|content| !content.is_empty()))
}

/// Gives the client's key [`CLIENT_KEY_MODE`], where that is possible: the file may have another
/// owner. A symbolic or hard link is left alone, as it may lead anywhere.
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
    /// The file is written, in place of an older one.
    Write {
        /// The directory of the file.
        directory: Directory,
        /// The name of the file.
        name: &'static str,
        /// The permission bits of the file.
        mode: u32,
        /// The content of the file.
        content: Vec<u8>,
    },
    /// The file is removed, so that a client that waits for it continues to wait.
    Remove {
        /// The directory of the file.
        directory: Directory,
        /// The name of the file.
        name: &'static str,
    },
}

/// The three directories, made where they were missing and locked against other daemons
/// on the same volume until this value is dropped. The locks are those of flock(2) on the
/// directories themselves: they leave no file behind, and end with a process that is killed. No
/// directory may be a symbolic link: clients can write to theirs and to what is beside it, and
/// must not choose where keys are written.
#[derive(Debug)]
pub struct Locked {
    top: PathBuf,
    /// A warning for each directory that could not be locked.
    pub warnings: Vec<String>,
    /// In the order of [`Directory::ALL`].
    directories: Vec<(Directory, File)>,
}

impl Locked {
    /// Makes and locks the directories below `top`, each of which may be a volume of its own.
    /// Waits up to 30 s for each lock. The error names the path and what the user can do.
    pub fn open(top: &Path) -> Result<Self> {
        let mut warnings = Vec::new();
        let mut directories = Vec::new();
        for directory in Directory::ALL {
            let path = top.join(directory.name());
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&path)
                .with_context(|| cannot("make", &path))
                .remedy(WRITABLE)?;
            let opened = write::open_directory(&path)
                .with_context(|| cannot("open", &path))
                .remedy(WRITABLE)?;
            match lock(&opened, &path) {
                Ok(()) => {}
                Err(Errno::EINTR) => {
                    let by = "is locked by another daemon that does not finish";
                    return Err(anyhow!("{} {by}", path.display()).remedy("stop that daemon"));
                }
                // As on NFS, and on file systems without locks.
                Err(errno) => warnings.push(format!(
                    "cannot lock {}: {}; start only one daemon at a time with this directory",
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

    /// Makes the changes in their order, up to the first error, which names the path.
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
                    .remedy(WRITABLE)
            }
            Change::Remove { .. } => write::remove(opened, name.as_ref())
                .with_context(|| cannot("remove", &path))
                .remedy(WRITABLE),
        }
    }
}

/// Locks a directory, and logs it where that has to wait.
fn lock(directory: &File, path: &Path) -> nix::Result<()> {
    lock::lock_or_wait(directory, libc::LOCK_EX, PATIENCE, || {
        info!(
            path = %path.display(),
            "waiting for {}, which another daemon has locked",
            path.display()
        );
    })
}

fn cannot(what: &str, path: &Path) -> String {
    format!("cannot {what} {}", path.display())
}
