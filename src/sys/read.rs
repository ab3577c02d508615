//! Bounded reads of small regular files that other programs can replace. Whatever is in their
//! place (a FIFO without a writer, a device, a file without an end), the caller neither waits
//! nor runs out of memory. Only a file system that does not answer can still block it:
//! O_NONBLOCK has no effect on a regular file, open(2).

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::libc;

/// The largest file of the kernel's that is read, in bytes: `/proc/net/unix` of a host with many
/// sockets.
const LARGEST_OF_KERNEL: u64 = 64 << 20;
/// The size in bytes of most files of `/proc`, and more.
const USUAL: usize = 1 << 13;

/// The error text for a directory, FIFO, socket or device.
pub const NOT_REGULAR: &str = "not a regular file";

/// The error text for a symbolic link.
pub const LINK: &str = "a symbolic link, which is not followed";

/// What to do where the last component of a path is a symbolic link. Links in the components
/// before it are always followed: open(2), O_NOFOLLOW.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Open the file that it points to.
    Follow,
    /// Fail with ELOOP.
    Refuse,
}

/// Opens a regular file for reading, without waiting and without making a terminal the
/// controlling one: open(2), O_NONBLOCK, O_NOCTTY. Returns it with the metadata of the open
/// file, whatever its path leads to by then. The error is that of open(2) or fstat(2), of kind
/// `NotFound` for a missing file, or [`NOT_REGULAR`].
pub fn open(path: &Path, links: Links) -> io::Result<(File, Metadata)> {
    let follow = match links {
        Links::Follow => 0,
        Links::Refuse => libc::O_NOFOLLOW,
    };
    // std adds O_CLOEXEC.
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | follow)
        .open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        // A socket, or a device that is not there: open(2).
        Some(libc::ENXIO | libc::ENODEV) => io::Error::other(NOT_REGULAR),
        _ => error,
    })?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other(NOT_REGULAR));
    }
    Ok((file, metadata))
}

/// Opens `path`, beneath the open directory `top`, with these flags. Neither it nor a directory on
/// the way may be a symbolic link, whatever others do there meanwhile: openat2(2), Linux 5.6. With
/// O_PATH a link is opened itself. The error is ELOOP for a link on the way, EXDEV for a path that
/// leads out, or another one of openat2(2).
pub fn beneath(top: &File, path: &Path, flags: OFlag) -> io::Result<File> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(File::from(openat2(top, path, how)?))
}

/// The content of a regular file of at most `limit` bytes; `None` where there is no file. The
/// errors are those of [`open`] and of read(2), and that the file is larger: a file is never
/// read in part.
pub fn read(path: &Path, limit: u64, links: Links) -> io::Result<Option<Vec<u8>>> {
    let (file, metadata) = match open(path, links) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let too_large = || io::Error::other(format!("larger than {limit} bytes"));
    if metadata.len() > limit {
        return Err(too_large());
    }
    // Files of proc(5) have a size of 0, and others may grow meanwhile. Without room for both, a
    // small file would be read in parts.
    let size = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    let mut content = Vec::with_capacity(size.saturating_add(1).max(USUAL));
    let count = file
        .take(limit.saturating_add(1))
        .read_to_end(&mut content)?;
    if u64::try_from(count).unwrap_or(u64::MAX) > limit {
        return Err(too_large());
    }
    Ok(Some(content))
}

/// The text of a regular file of at most `limit` bytes, with symbolic links followed; `None`
/// where there is no file. The errors are those of [`read`], and that it is not UTF-8.
pub fn text(path: &Path, limit: u64) -> io::Result<Option<String>> {
    let content = read(path, limit, Links::Follow)?;
    content
        .map(String::from_utf8)
        .transpose()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))
}

/// The text of a file in `/proc`, `/sys` or a cgroup, or of what somebody has mounted there.
/// Invalid UTF-8 is replaced. The errors are those of [`read`], and that there is no file.
pub fn kernel(path: impl AsRef<Path>) -> io::Result<String> {
    let content = read(path.as_ref(), LARGEST_OF_KERNEL, Links::Follow)?;
    let content = content.ok_or(io::ErrorKind::NotFound)?;
    Ok(match String::from_utf8(content) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// The names in a directory, in no order. The error is that of opendir(3) or readdir(3).
pub fn names(path: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(path)?
        .map(|entry| Ok(entry?.file_name()))
        .collect()
}

/// Opens a directory, with symbolic links followed. What is no directory is not opened at all, so
/// a FIFO in its place does not block: open(2), O_DIRECTORY.
pub fn directory(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(path)
}

/// Opens `/dev/null` for reading and writing. The error is that of open(2), or that it is no
/// device.
pub fn null() -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true);
    let file = options.custom_flags(libc::O_NONBLOCK).open("/dev/null")?;
    if !file.metadata()?.file_type().is_char_device() {
        return Err(io::Error::other("not a device"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    /// A temporary directory of one test, removed on drop.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> io::Result<Self> {
            let name = format!("dind-read-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path)?;
            Ok(Self(path))
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn words(path: &Path, limit: u64) -> String {
        match read(path, limit, Links::Follow) {
            Ok(content) => format!("{content:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused_at_once() -> io::Result<()> {
        let directory = Directory::new("kinds")?;
        mkfifo(&directory.path("fifo"), Mode::S_IRWXU)?;
        let _listener = UnixListener::bind(directory.path("socket"))?;
        symlink("/dev/zero", directory.path("device"))?;
        symlink("fifo", directory.path("link"))?;
        for name in ["fifo", "socket", "device", "link", "."] {
            assert_eq!(words(&directory.path(name), 9), NOT_REGULAR, "{name}");
        }
        Ok(())
    }

    #[test]
    fn a_file_is_read_up_to_its_limit_and_never_in_part() -> io::Result<()> {
        let directory = Directory::new("limit")?;
        let path = directory.path("file");
        fs::write(&path, "12345")?;
        assert_eq!(text(&path, 5)?.as_deref(), Some("12345"));
        assert_eq!(words(&path, 4), "larger than 4 bytes");
        File::create(&path)?.set_len(1 << 40)?;
        assert_eq!(words(&path, 1 << 20), "larger than 1048576 bytes");
        assert_eq!(words(&directory.path("missing"), 9), "None");
        assert_eq!(words(&directory.path("file/below"), 9), {
            io::Error::from_raw_os_error(libc::ENOTDIR).to_string()
        });
        fs::write(&path, b"\xff")?;
        let kind = text(&path, 9).map_err(|error| error.kind());
        assert_eq!(kind, Err(io::ErrorKind::InvalidData));
        Ok(())
    }

    #[test]
    fn a_proc_file_is_read_although_its_size_is_0() -> io::Result<()> {
        let path = Path::new("/proc/self/mountinfo");
        assert_eq!(fs::metadata(path)?.len(), 0);
        assert_eq!(text(path, 16 << 20)?, Some(fs::read_to_string(path)?));
        assert_eq!(words(path, 1), "larger than 1 bytes");
        Ok(())
    }

    #[test]
    fn a_symbolic_link_is_followed_or_refused() -> io::Result<()> {
        let directory = Directory::new("links")?;
        let link = directory.path("link");
        fs::write(directory.path("file"), "text")?;
        symlink("file", &link)?;
        let content = read(&link, 9, Links::Follow)?;
        assert_eq!(content.as_deref(), Some(b"text".as_slice()));
        let refused = read(&link, 9, Links::Refuse).map_err(|error| error.raw_os_error());
        assert_eq!(refused, Err(Some(libc::ELOOP)));
        // The path is the file itself.
        let content = read(&directory.path("file"), 9, Links::Refuse)?;
        assert_eq!(content.as_deref(), Some(b"text".as_slice()));
        // A link to nothing is a missing file.
        symlink("missing", directory.path("dangling"))?;
        assert_eq!(read(&directory.path("dangling"), 9, Links::Follow)?, None);
        Ok(())
    }

    #[test]
    fn nothing_beneath_a_directory_leads_out_of_it() -> io::Result<()> {
        let directory = Directory::new("beneath")?;
        fs::create_dir_all(directory.path("a/b"))?;
        fs::write(directory.path("a/b/file"), "text")?;
        symlink("a", directory.path("link"))?;
        let top = super::directory(&directory.0)?;
        let open = |path: &str, flags| {
            let opened = beneath(&top, Path::new(path), flags).and_then(|file| file.metadata());
            opened.map_err(|error| error.raw_os_error())
        };
        let read = OFlag::O_RDONLY;
        assert!(open("a/b/file", read).is_ok_and(|found| found.is_file()));
        assert!(open("a/b", OFlag::O_DIRECTORY).is_ok_and(|found| found.is_dir()));
        assert!(open("link", OFlag::O_PATH).is_ok_and(|found| found.is_symlink()));
        for (path, flags, errno) in [
            ("link", read, libc::ELOOP),
            ("link/b/file", OFlag::O_PATH, libc::ELOOP),
            ("..", OFlag::O_PATH, libc::EXDEV),
            ("/etc", OFlag::O_PATH, libc::EXDEV),
        ] {
            assert_eq!(open(path, flags).err(), Some(Some(errno)), "{path}");
        }
        Ok(())
    }
}
