//! Reads and writes the files below `DOCKER_TLS_CERTDIR`.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::lock::{Locking, lock};
use crate::messages::remedy::Remedy;
use crate::sys::read::{self, Links};
use crate::sys::write;

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
    /// All directories, in the order in which they are written.
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

/// The three directories, made where they were missing, and open. None may be a symbolic link:
/// clients can write to theirs and to what is beside it, and must not choose where keys are
/// written.
#[derive(Debug)]
pub struct Directories {
    top: PathBuf,
    /// In the order of [`Directory::ALL`].
    open: Vec<(Directory, File)>,
}

impl Directories {
    /// Makes and opens the directories below `top`, each of which may be a volume of its own. The
    /// error names the path and what the user can do.
    pub fn open(top: &Path) -> Result<Self> {
        let open = |directory: Directory| -> Result<(Directory, File)> {
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
            Ok((directory, opened))
        };
        Ok(Self {
            top: top.to_owned(),
            open: Directory::ALL
                .into_iter()
                .map(open)
                .collect::<Result<_>>()?,
        })
    }

    /// Locks the first directory that can be written and is not the clients', as they may write
    /// in theirs. `None` where there is none: then what cannot be written is named by
    /// [`Directories::carry_out`].
    pub fn lock(&self) -> Option<Locking<'_>> {
        let own = self
            .open
            .iter()
            .filter(|(found, _)| *found != Directory::Client);
        let mut tried = own.map(|(found, opened)| lock(opened, &self.top.join(found.name())));
        tried.find(|tried| !matches!(tried, Locking::ReadOnly))
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
        let mut open = self.open.iter();
        let opened = open.find(|(found, _)| found == directory);
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

fn cannot(what: &str, path: &Path) -> String {
    format!("cannot {what} {}", path.display())
}
