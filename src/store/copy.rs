//! Copies a tree of files as it is: owners, modes, times, extended attributes, hard links, holes,
//! devices. No symbolic link is followed, and no mount point below the tree is entered.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::libc;
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstat, fstatat, mkdirat,
    mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, Whence, fchownat, linkat, lseek, symlinkat};

use crate::sys::{filesystem, xattr};

/// The deepest directory that is copied: each level holds two descriptors.
const DEPTH: usize = 400;

/// What may be in a tree.
#[derive(Clone, Copy)]
pub enum Content<'a> {
    /// Whatever a container has written.
    Any,
    /// Directories, regular files, and those symbolic links for which this is true. It gets the
    /// link's path in the tree and its target. The files are few and an engine's own, so that they
    /// are on their way to the disk when they are copied.
    Plain(&'a dyn Fn(&Path, &Path) -> bool),
    /// The same, and whatever a container has written in those directories for whose path in the
    /// tree the second one is true.
    PlainBut(&'a dyn Fn(&Path, &Path) -> bool, &'a dyn Fn(&Path) -> bool),
}

/// A copy that is being made.
struct Copying<'a> {
    content: Content<'a>,
    /// The directory that the tree is copied to.
    top: BorrowedFd<'a>,
    /// The first name of every file with more names, by device and inode.
    names: HashMap<(u64, u64), PathBuf>,
    /// The path in the tree of what is being copied.
    path: PathBuf,
    depth: usize,
}

/// Copies the content of the directory `from` into the directory `to`, which has nothing of it
/// yet, and the attributes of `from` itself. Blocks while it copies. The error names the path in
/// the tree.
pub fn tree(from: OwnedFd, to: BorrowedFd<'_>, content: Content<'_>) -> Result<()> {
    let metadata = fstat(&from).context("cannot read the directory")?;
    let mut copy = Copying {
        content,
        top: to,
        names: HashMap::new(),
        path: PathBuf::new(),
        depth: 0,
    };
    let top = from.try_clone().context("cannot open the directory")?;
    copy.directory(from, to)?;
    copy.attributes(&metadata, &descriptor(top.as_fd(), c".")?, to, c".")
}

/// Copies `name`, a file or a directory with all that is in it, from the directory `from` into the
/// directory `to`, which has no such name. Blocks while it copies. The error names the path in
/// `from`.
pub fn entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let mut copy = Copying {
        content: Content::Any,
        top: to,
        names: HashMap::new(),
        path: PathBuf::from(name),
        depth: 0,
    };
    copy.entry(from, to, &CString::new(name.as_bytes())?)
}

/// The name of `name` in an open directory as a path, for system calls that take no descriptor.
fn descriptor(directory: BorrowedFd<'_>, name: &CStr) -> Result<CString> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    Ok(CString::new(path)?)
}

/// Opens an entry of the tree for reading. EXDEV where something is mounted on it.
fn open(directory: BorrowedFd<'_>, name: &CStr, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags).resolve(
        ResolveFlag::RESOLVE_NO_XDEV
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_BENEATH,
    );
    openat2(directory, name, how)
}

impl Copying<'_> {
    /// Copies the entries of a directory.
    fn directory(&mut self, from: OwnedFd, to: BorrowedFd<'_>) -> Result<()> {
        self.depth += 1;
        if self.depth > DEPTH {
            bail!("{} is deeper than {DEPTH} directories", self.path.display());
        }
        let mut entries = Dir::from_fd(from).with_context(|| self.shown("read"))?;
        let mut names = Vec::new();
        for entry in entries.iter() {
            let entry = entry.with_context(|| self.shown("read"))?;
            if entry.file_name() != c"." && entry.file_name() != c".." {
                names.push(entry.file_name().to_owned());
            }
        }
        for name in names {
            self.path.push(OsStr::from_bytes(name.to_bytes()));
            self.entry(entries.as_fd(), to, &name)?;
            self.path.pop();
        }
        self.depth -= 1;
        Ok(())
    }

    fn shown(&self, done: &str) -> String {
        match self.path.as_os_str().is_empty() {
            true => format!("cannot {done} the directory"),
            false => format!("cannot {done} {}", self.path.display()),
        }
    }

    fn entry(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let metadata = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .with_context(|| self.shown("read"))?;
        let kind = SFlag::from_bits_truncate(metadata.st_mode) & SFlag::S_IFMT;
        // Whether a symbolic link is allowed depends on its name, so each name is asked about.
        let has_one_name = kind == SFlag::S_IFDIR
            || kind == SFlag::S_IFLNK && !matches!(self.content, Content::Any);
        if !has_one_name && self.is_linked(&metadata, to, name)? {
            return Ok(());
        }
        match kind {
            SFlag::S_IFDIR => {
                let inside = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let source = open(from, name, inside).with_context(|| self.shown("open"))?;
                mkdirat(to, name, Mode::S_IRWXU).with_context(|| self.shown("make"))?;
                let target =
                    openat(to, name, inside, Mode::empty()).with_context(|| self.shown("open"))?;
                if let Content::PlainBut(_, is_written) = self.content
                    && is_written(&self.path)
                {
                    // No file in it is another name of one outside.
                    let outside = (self.content, std::mem::take(&mut self.names));
                    self.content = Content::Any;
                    self.directory(source, target.as_fd())?;
                    self.attributes(&metadata, &descriptor(from, name)?, to, name)?;
                    (self.content, self.names) = outside;
                    return Ok(());
                }
                self.directory(source, target.as_fd())?;
            }
            SFlag::S_IFREG => self
                .regular(from, to, name, &metadata)
                .with_context(|| self.shown("copy"))?,
            SFlag::S_IFLNK => {
                let target = readlinkat(from, name).with_context(|| self.shown("read"))?;
                if let Content::Plain(allowed) | Content::PlainBut(allowed, _) = self.content
                    && !allowed(&self.path, Path::new(&target))
                {
                    bail!(
                        "{} is a symbolic link to {}",
                        self.path.display(),
                        Path::new(&target).display()
                    );
                }
                symlinkat(target.as_os_str(), to, name).with_context(|| self.shown("make"))?;
            }
            _ if !matches!(self.content, Content::Any) => {
                bail!("{} is a device, a FIFO or a socket", self.path.display());
            }
            kind => mknodat(to, name, kind, Mode::S_IRUSR, metadata.st_rdev)
                .with_context(|| self.shown("make"))?,
        }
        let source = descriptor(from, name)?;
        self.attributes(&metadata, &source, to, name)
    }

    /// Whether it is another name of a file that is there already: then it has that name, too.
    fn is_linked(&mut self, metadata: &FileStat, to: BorrowedFd<'_>, name: &CStr) -> Result<bool> {
        if metadata.st_nlink < 2 {
            return Ok(false);
        }
        let file = (metadata.st_dev, metadata.st_ino);
        let Some(first) = self.names.get(&file) else {
            self.names.insert(file, self.path.clone());
            return Ok(false);
        };
        linkat(self.top, first, to, name, LinkatFlags::empty())
            .with_context(|| self.shown("link"))?;
        Ok(true)
    }

    fn regular(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        metadata: &FileStat,
    ) -> Result<()> {
        let read = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let create = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mut source = File::from(open(from, name, read)?);
        let mut target = File::from(openat(to, name, create, Mode::S_IRUSR | Mode::S_IWUSR)?);
        let size = u64::try_from(metadata.st_size)?;
        // st_blocks counts 512 bytes: stat(2).
        let is_sparse = u64::try_from(metadata.st_blocks)?.saturating_mul(512) < size;
        match is_sparse {
            true => sparse(&mut source, &mut target, size)?,
            // copy_file_range(2), which shares extents where the file system can.
            false => drop(io::copy(&mut source, &mut target)?),
        }
        if !matches!(self.content, Content::Any) {
            filesystem::begin_to_write(&target);
        }
        Ok(())
    }

    /// Gives `name` in `to` the attributes of `source`.
    fn attributes(
        &self,
        metadata: &FileStat,
        source: &CStr,
        to: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<()> {
        let set = || -> Result<()> {
            let no_follow = AtFlags::AT_SYMLINK_NOFOLLOW;
            let (user, group) = (metadata.st_uid, metadata.st_gid);
            fchownat(
                to,
                name,
                Some(Uid::from_raw(user)),
                Some(Gid::from_raw(group)),
                no_follow,
            )?;
            let is_link = metadata.st_mode & libc::S_IFMT == libc::S_IFLNK;
            if !is_link {
                // After chown(2), which clears the set-user-ID bit.
                let mode = Mode::from_bits_truncate(metadata.st_mode & 0o7777);
                fchmodat(to, name, mode, FchmodatFlags::FollowSymlink)?;
            }
            if matches!(self.content, Content::Any) {
                let target = descriptor(to, name)?;
                for attribute in xattr::list(source)? {
                    let value = xattr::get(source, &attribute)?;
                    xattr::set(&target, &attribute, &value)?;
                }
                let accessed = TimeSpec::new(metadata.st_atime, metadata.st_atime_nsec);
                let modified = TimeSpec::new(metadata.st_mtime, metadata.st_mtime_nsec);
                let no_follow = UtimensatFlags::NoFollowSymlink;
                utimensat(to, name, &accessed, &modified, no_follow)?;
            }
            Ok(())
        };
        set().with_context(|| self.shown("set the attributes of"))
    }
}

/// Copies what is not a hole: lseek(2), SEEK_DATA.
fn sparse(source: &mut File, target: &mut File, size: u64) -> Result<()> {
    target.set_len(size)?;
    let mut at = 0;
    loop {
        let data = match lseek(&*source, i64::try_from(at)?, Whence::SeekData) {
            Ok(data) => u64::try_from(data)?,
            // There is no more.
            Err(Errno::ENXIO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let hole = lseek(&*source, i64::try_from(data)?, Whence::SeekHole)?;
        let hole = u64::try_from(hole)?;
        source.seek(SeekFrom::Start(data))?;
        target.seek(SeekFrom::Start(data))?;
        io::copy(
            &mut io::Read::take(&mut *source, hole.saturating_sub(data)),
            target,
        )?;
        at = hole;
    }
}
