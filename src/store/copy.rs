//! Copies a tree of files as it is: owners, modes, times, extended attributes, hard links, holes,
//! devices. No symbolic link is followed, and no mount point below the tree is entered.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat, renameat};
use nix::libc;
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, fstatat,
    mkdirat, mknodat, umask, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{
    Gid, LinkatFlags, Uid, Whence, fchown, fchownat, getegid, geteuid, linkat, lseek, symlinkat,
};

use crate::sys::xattr;

/// The deepest directory that is copied: each level holds two descriptors.
const DEPTH: usize = 400;

/// The largest file that is copied in one piece, in bytes.
pub const PIECE: usize = 1 << 16;

/// How directories and files of a tree are opened, and how files are made.
const DIRECTORY: OFlag = OFlag::O_DIRECTORY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);
const READ: OFlag = OFlag::O_NOFOLLOW
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_CLOEXEC);
const CREATE: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_CREAT)
    .union(OFlag::O_EXCL)
    .union(OFlag::O_CLOEXEC);

/// What may be in a tree.
#[derive(Clone, Copy)]
pub enum Content<'a> {
    /// Whatever a container has written.
    Any,
    /// Directories and regular files of an engine's own, and symbolic links. Their times and
    /// extended attributes are of no use to an engine, and are not copied.
    Plain(&'a Rules<'a>),
}

/// What may be in a tree of an engine's own. All paths are those in the tree.
pub struct Rules<'a> {
    /// Whether a symbolic link may have this path and this target.
    pub link: &'a dyn Fn(&Path, &Path) -> bool,
    /// Whether a regular file of this path and this content names layers alone, if it names any.
    /// `None` is one of more than [`PIECE`] bytes.
    pub names: &'a dyn Fn(&Path, Option<&[u8]>) -> bool,
    /// Whether the directory of this path has whatever a container has written.
    pub written: &'a dyn Fn(&Path) -> bool,
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
    /// The permission bits that the kernel takes from what is made; `None` where it may also get
    /// another owner than the one of this process.
    mask: Option<Mode>,
    buffer: Vec<u8>,
}

/// Copies the content of the directory `from` into the directory `to`, which has nothing of it
/// yet, and the attributes of `from` itself. Blocks while it copies. The error names the path in
/// the tree.
pub fn tree(from: OwnedFd, to: BorrowedFd<'_>, content: Content<'_>) -> Result<()> {
    let metadata = fstat(&from).context("cannot read the directory")?;
    let mut copy = Copying::new(content, to, PathBuf::new());
    if matches!(content, Content::Plain(_)) {
        copy.mask = mask(to).context("cannot read the directory's owner")?;
        copy.buffer = vec![0; PIECE];
    }
    let top = from.try_clone().context("cannot open the directory")?;
    copy.directory(from, to)?;
    copy.attributes(&metadata, &descriptor(top.as_fd(), c".")?, to, c".")
}

/// Copies `name`, a file or a directory with all that is in it, from the directory `from` into the
/// directory `to`, which has no such name. Blocks while it copies. The error names the path in
/// `from`.
pub fn entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let mut copy = Copying::new(Content::Any, to, PathBuf::from(name));
    copy.entry(from, to, &CString::new(name.as_bytes())?)
}

/// The file mode creation mask, where what is made in a directory belongs to this process. It does
/// not where the directory has the set-group-ID bit: inode(7).
fn mask(directory: BorrowedFd<'_>) -> nix::Result<Option<Mode>> {
    let inherits = fstat(directory)?.st_mode & libc::S_ISGID != 0;
    if inherits || !geteuid().is_root() || getegid().as_raw() != 0 {
        return Ok(None);
    }
    let mask = umask(Mode::empty());
    umask(mask);
    Ok(Some(mask))
}

/// A name that no directory had before. ext4 chooses the place of a directory at the top by the name
/// with which it is made: [`filesystem::spread`](crate::sys::filesystem::spread). By the same name
/// it would choose the one of the data root before, where each new file is looked for among all
/// inodes that were removed in the last minutes, since these are not used again so soon:
/// `recently_deleted` in the kernel's fs/ext4/ialloc.c.
fn new_name() -> CString {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_nanos());
    // No digit is a NUL.
    CString::new(format!(".dind-{now}")).unwrap_or_default()
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

impl<'a> Copying<'a> {
    fn new(content: Content<'a>, top: BorrowedFd<'a>, path: PathBuf) -> Self {
        Self {
            content,
            top,
            names: HashMap::new(),
            path,
            depth: 0,
            mask: None,
            buffer: Vec::new(),
        }
    }

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
                names.push((entry.file_name().to_owned(), entry.file_type()));
            }
        }
        for (name, kind) in names {
            self.path.push(OsStr::from_bytes(name.to_bytes()));
            match self.content {
                Content::Any => self.entry(entries.as_fd(), to, &name)?,
                Content::Plain(rules) => self.plain(rules, entries.as_fd(), to, &name, kind)?,
            }
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
        if kind != SFlag::S_IFDIR && self.is_linked(&metadata, to, name)? {
            return Ok(());
        }
        match kind {
            SFlag::S_IFDIR => {
                let source = open(from, name, DIRECTORY).with_context(|| self.shown("open"))?;
                mkdirat(to, name, Mode::S_IRWXU).with_context(|| self.shown("make"))?;
                let target = openat(to, name, DIRECTORY, Mode::empty())
                    .with_context(|| self.shown("open"))?;
                self.directory(source, target.as_fd())?;
            }
            SFlag::S_IFREG => {
                regular(from, to, name, &metadata).with_context(|| self.shown("copy"))?
            }
            SFlag::S_IFLNK => {
                let target = readlinkat(from, name).with_context(|| self.shown("read"))?;
                symlinkat(target.as_os_str(), to, name).with_context(|| self.shown("make"))?;
            }
            kind => mknodat(to, name, kind, Mode::S_IRUSR, metadata.st_rdev)
                .with_context(|| self.shown("make"))?,
        }
        let source = descriptor(from, name)?;
        self.attributes(&metadata, &source, to, name)
    }

    /// Copies an entry of an engine's own. There may be thousands, before the engine starts: so
    /// each is made with its mode, and what the directory says of its kind is enough.
    fn plain(
        &mut self,
        rules: &Rules<'_>,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        kind: Option<Type>,
    ) -> Result<()> {
        let kind = match kind {
            Some(kind) => kind,
            // Not every file system has it: readdir(3).
            None => {
                let found = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW);
                let mode = found.with_context(|| self.shown("read"))?.st_mode;
                match SFlag::from_bits_truncate(mode) & SFlag::S_IFMT {
                    SFlag::S_IFDIR => Type::Directory,
                    SFlag::S_IFREG => Type::File,
                    SFlag::S_IFLNK => Type::Symlink,
                    _ => Type::Fifo,
                }
            }
        };
        match kind {
            Type::Directory => self.plain_directory(rules, from, to, name),
            Type::File => self.plain_file(rules, from, to, name),
            Type::Symlink => {
                let target = readlinkat(from, name).with_context(|| self.shown("read"))?;
                let target = Path::new(&target);
                ensure!(
                    (rules.link)(&self.path, target),
                    "{} is a symbolic link to {}",
                    self.path.display(),
                    target.display()
                );
                symlinkat(target, to, name).with_context(|| self.shown("make"))
            }
            _ => bail!("{} is a device, a FIFO or a socket", self.path.display()),
        }
    }

    fn plain_directory(
        &mut self,
        rules: &Rules<'_>,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<()> {
        let source = open(from, name, DIRECTORY).with_context(|| self.shown("open"))?;
        let metadata = fstat(&source).with_context(|| self.shown("read"))?;
        let made = match self.depth {
            1 => Cow::Owned(new_name()),
            _ => Cow::Borrowed(name),
        };
        mkdirat(to, &*made, mode(&metadata)).with_context(|| self.shown("make"))?;
        let target =
            openat(to, &*made, DIRECTORY, Mode::empty()).with_context(|| self.shown("open"))?;
        if made != name {
            renameat(to, &*made, to, name).with_context(|| self.shown("make"))?;
        }
        if (rules.written)(&self.path) {
            // No file in it is another name of one outside.
            let outside = (self.content, std::mem::take(&mut self.names));
            self.content = Content::Any;
            self.directory(source, target.as_fd())?;
            self.attributes(&metadata, &descriptor(from, name)?, to, name)?;
            (self.content, self.names) = outside;
            return Ok(());
        }
        self.directory(source, target.as_fd())?;
        self.own(&metadata, target.as_fd())
    }

    fn plain_file(
        &mut self,
        rules: &Rules<'_>,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<()> {
        let source = open(from, name, READ).with_context(|| self.shown("open"))?;
        let metadata = fstat(&source).with_context(|| self.shown("read"))?;
        let is_file = metadata.st_mode & libc::S_IFMT == libc::S_IFREG;
        ensure!(is_file, "{} is no regular file", self.path.display());
        let size = usize::try_from(metadata.st_size).unwrap_or(usize::MAX);
        let mut source = File::from(source);
        let mut buffer = std::mem::take(&mut self.buffer);
        let piece = match buffer.get_mut(..size) {
            Some(piece) => {
                let read = source.read_exact(piece);
                read.with_context(|| self.shown("read"))?;
                Some(&*piece)
            }
            None => None,
        };
        ensure!(
            (rules.names)(&self.path, piece),
            "{} names something else than a layer",
            self.path.display()
        );
        if !self.is_linked(&metadata, to, name)? {
            let made = openat(to, name, CREATE, mode(&metadata));
            let mut target = File::from(made.with_context(|| self.shown("make"))?);
            let copied = match piece {
                Some(piece) => target.write_all(piece).map_err(anyhow::Error::from),
                None => content(&mut source, &mut target, &metadata),
            };
            copied.with_context(|| self.shown("copy"))?;
            self.own(&metadata, target.as_fd())?;
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Gives what was made with its mode the owner and the rest of the mode.
    fn own(&self, metadata: &FileStat, target: BorrowedFd<'_>) -> Result<()> {
        let mode = mode(metadata);
        let is_own =
            |mask: Mode| (metadata.st_uid, metadata.st_gid) == (0, 0) && !mode.intersects(mask);
        if self.mask.is_some_and(is_own) {
            return Ok(());
        }
        let (user, group) = (
            Uid::from_raw(metadata.st_uid),
            Gid::from_raw(metadata.st_gid),
        );
        fchown(target, Some(user), Some(group))
            // After chown(2), which clears the set-user-ID bit.
            .and_then(|()| fchmod(target, mode))
            .with_context(|| self.shown("set the attributes of"))
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

/// The permission bits of a file, and the three bits before them.
fn mode(metadata: &FileStat) -> Mode {
    Mode::from_bits_truncate(metadata.st_mode & 0o7777)
}

fn regular(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    metadata: &FileStat,
) -> Result<()> {
    let mut source = File::from(open(from, name, READ)?);
    let made = openat(to, name, CREATE, Mode::S_IRUSR | Mode::S_IWUSR)?;
    content(&mut source, &mut File::from(made), metadata)
}

fn content(source: &mut File, target: &mut File, metadata: &FileStat) -> Result<()> {
    let size = u64::try_from(metadata.st_size)?;
    // st_blocks counts 512 bytes: stat(2).
    let is_sparse = u64::try_from(metadata.st_blocks)?.saturating_mul(512) < size;
    match is_sparse {
        true => sparse(source, target, size)?,
        // copy_file_range(2), which shares extents where the file system can.
        false => drop(io::copy(source, target)?),
    }
    Ok(())
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
