//! Copies of trees by `store::copy`, against the kernel.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use dind::store::copy::{self, Content, Rules};
use dind::sys::xattr;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{inside, scratch};

/// A tree with all that a container may have written.
const TREE: &str = r#"
umask 022
odd=$(printf 'a\nb\377 *')
mkdir a a/b "a/$odd" opaque
chmod 3750 a
echo one >a/file; chown 1:2 a/file; chmod 6711 a/file; ln a/file a/b/file; ln a/file other
echo two >"a/$odd/file"
: >empty; chmod 0 empty; chown 7 empty
ln -s /etc/passwd link; chown -h 3:4 link; ln -P link same-link; ln -s missing a/dangling
mknod null c 1 3; mknod whiteout c 0 0; mknod disk b 7 300; chmod 660 disk
mkfifo -m 640 fifo; ln fifo a/fifo
truncate -s 8M sparse
printf begin | dd of=sparse conv=notrunc status=none
printf middle | dd of=sparse conv=notrunc oflag=seek_bytes seek=5M status=none
truncate -s 1M hole
head -c 300000 /dev/urandom >full
"#;

/// Different times of each entry, to the nanosecond, and those of a directory last.
const TIMES: &str = r#"
find . -depth -exec touch -h -a -d '2001-02-03 04:05:06.123456789Z' {} + \
    -exec touch -h -m -d '1969-12-31 23:59:58.987654321Z' {} +
touch -m -d '2030-01-01Z' a a/file link fifo .
"#;

/// The capability net_raw, as `setcap` writes it: `struct vfs_cap_data` of linux/capability.h.
const NET_RAW: [u8; 20] = [
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// What has to be the same of a file and its copy.
#[derive(Debug, PartialEq)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    accessed: (i64, i64),
    modified: (i64, i64),
    device: u64,
    /// Of a regular file.
    size_and_blocks: Option<(u64, u64)>,
    /// A sum of a file's bytes or a link's target.
    content: u64,
    /// The first path of the same file, and how many it has.
    first: (PathBuf, u64),
    attributes: BTreeMap<CString, Vec<u8>>,
}

/// Rules under which any file and no special directory may be in a tree.
fn rules<'a>(link: &'a dyn Fn(&Path, &Path) -> bool) -> Rules<'a> {
    Rules {
        link,
        names: &|_, _| true,
        written: &|_| false,
    }
}

/// Two empty directories, `from` and `to`, where reading changes no time.
fn directories() -> (PathBuf, PathBuf) {
    let top = scratch();
    let none = None::<&str>;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_NOATIME;
    mount(none, &top, none, flags, none).unwrap();
    let (from, to) = (top.join("from"), top.join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    (from, to)
}

fn shell(directory: &Path, script: &str) {
    let mut shell = Command::new("sh");
    let status = shell.args(["-ec", script]).current_dir(directory).status();
    assert!(status.unwrap().success(), "{script}");
}

fn copied(from: &Path, to: &Path, content: Content<'_>) -> anyhow::Result<()> {
    let open = |path| OwnedFd::from(File::open(path).unwrap());
    copy::tree(open(from), open(to).as_fd(), content)
}

/// The error, with all that it says.
#[track_caller]
fn refused(from: &Path, to: &Path, content: Content<'_>) -> String {
    format!("{:#}", copied(from, to, content).unwrap_err())
}

fn set(path: &Path, name: &str, value: &[u8]) -> nix::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    xattr::set(&path, &CString::new(name).unwrap(), value)
}

/// Every entry of a tree, and the tree's top as an empty path.
fn described(top: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut entries = BTreeMap::new();
    let mut paths = Vec::new();
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            left.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        paths.push(path);
    }
    paths.sort();
    let mut first: HashMap<u64, PathBuf> = HashMap::new();
    for path in paths {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(top).unwrap().to_owned();
        let mut sum = DefaultHasher::new();
        if metadata.is_file() {
            fs::read(&path).unwrap().hash(&mut sum);
        } else if metadata.is_symlink() {
            fs::read_link(&path).unwrap().hash(&mut sum);
        }
        let shown = CString::new(path.as_os_str().as_bytes()).unwrap();
        let attributes = xattr::list(&shown).unwrap().into_iter();
        let same = first.entry(metadata.ino()).or_insert_with(|| name.clone());
        let entry = Entry {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            accessed: (metadata.atime(), metadata.atime_nsec()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            device: metadata.rdev(),
            size_and_blocks: metadata
                .is_file()
                .then(|| (metadata.len(), metadata.blocks())),
            content: sum.finish(),
            first: (same.clone(), metadata.nlink()),
            attributes: attributes
                .map(|name| (name.clone(), xattr::get(&shown, &name).unwrap()))
                .collect(),
        };
        entries.insert(name, entry);
    }
    entries
}

#[test]
fn a_copy_of_a_tree_is_as_the_tree() {
    inside("copies::a_copy_of_a_tree_is_as_the_tree", || {
        let (from, to) = directories();
        shell(&from, TREE);
        let _socket = UnixListener::bind(from.join("socket")).unwrap();
        for (path, name, value) in [
            ("a/b/file", "security.capability", &NET_RAW[..]),
            ("opaque", "trusted.overlay.opaque", b"y"),
            ("link", "trusted.of-the-link", b"\0\xff"),
            ("whiteout", "trusted.empty", b""),
            ("", "trusted.of-the-top", b"x"),
        ] {
            set(&from.join(path), name, value).unwrap();
        }
        // tmpfs has these since Linux 6.6.
        let users = set(&from.join("full"), "user.large", &[b'x'; 3000]);
        assert!(
            matches!(users, Ok(()) | Err(Errno::EOPNOTSUPP)),
            "{users:?}"
        );
        shell(&from, TIMES);
        let before = described(&from);
        // The tree has what the test is about.
        let entry = |path: &str| before.get(Path::new(path)).unwrap();
        assert_eq!(entry("other").first, (PathBuf::from("a/b/file"), 3));
        assert_eq!(entry("other").mode & 0o7777, 0o6711);
        assert!(
            entry("other")
                .attributes
                .contains_key(c"security.capability")
        );
        assert!(
            entry("link")
                .attributes
                .contains_key(c"trusted.of-the-link")
        );
        assert!(entry("sparse").size_and_blocks.unwrap().1 < 200);
        assert_ne!(entry("").modified, entry("full").modified);
        assert!(before.len() > 20);

        copied(&from, &to, Content::Any).unwrap();
        let after = described(&to);
        for (path, entry) in &before {
            assert_eq!(after.get(path), Some(entry), "{}", path.display());
        }
        assert_eq!(after.len(), before.len());
        assert_eq!(described(&from), before);
    });
}

#[test]
fn no_mount_point_in_a_tree_is_entered() {
    inside("copies::no_mount_point_in_a_tree_is_entered", || {
        let (from, to) = directories();
        let none = None::<&str>;
        fs::create_dir_all(from.join("a/mounted")).unwrap();
        fs::write(from.join("a/mounted-file"), "").unwrap();
        fs::create_dir(to.join("directory")).unwrap();
        fs::create_dir(to.join("file")).unwrap();
        let all = rules(&|_, _| true);
        mount(
            Some("x"),
            &from.join("a/mounted"),
            Some("tmpfs"),
            MsFlags::empty(),
            none,
        )
        .unwrap();
        fs::write(from.join("a/mounted/secret"), "").unwrap();
        let said = refused(&from, &to.join("directory"), Content::Any);
        assert!(said.contains("a/mounted: "), "{said}");
        assert!(said.contains("Cross-device link"), "{said}");
        assert!(!to.join("directory/a/mounted/secret").exists());
        nix::mount::umount(&from.join("a/mounted")).unwrap();
        // One of the same file system, too.
        fs::write(to.join("secret"), "secret").unwrap();
        let over = from.join("a/mounted-file");
        mount(
            Some(&to.join("secret")),
            &over,
            none,
            MsFlags::MS_BIND,
            none,
        )
        .unwrap();
        for content in [Content::Any, Content::Plain(&all)] {
            let said = refused(&from, &to.join("file"), content);
            assert!(said.contains("a/mounted-file: "), "{said}");
            assert!(said.contains("Cross-device link"), "{said}");
            assert!(!to.join("file/a/mounted-file").exists());
            fs::remove_dir_all(to.join("file/a")).unwrap();
        }
        // A symbolic link is another way to the same place, which is not gone.
        nix::mount::umount(&over).unwrap();
        fs::remove_file(&over).unwrap();
        symlink(to.join("secret"), &over).unwrap();
        copied(&from, &to.join("file"), Content::Any).unwrap();
        let copy = fs::symlink_metadata(to.join("file/a/mounted-file"));
        assert!(copy.unwrap().is_symlink());
    });
}

/// With the limit of open files that a login has.
#[test]
fn a_tree_is_copied_down_to_a_depth_and_no_deeper() {
    inside(
        "copies::a_tree_is_copied_down_to_a_depth_and_no_deeper",
        || {
            let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            setrlimit(Resource::RLIMIT_NOFILE, 1024, most).unwrap();
            let (from, to) = directories();
            let (deep, deeper) = (to.join("deep"), to.join("deeper"));
            fs::create_dir(&deep).unwrap();
            fs::create_dir(&deeper).unwrap();
            let nested = |depth| PathBuf::from(vec!["d"; depth].join("/"));
            fs::create_dir_all(from.join(nested(399))).unwrap();
            fs::write(from.join(nested(399)).join("file"), "text").unwrap();
            copied(&from, &deep, Content::Any).unwrap();
            let copy = fs::read_to_string(deep.join(nested(399)).join("file"));
            assert_eq!(copy.unwrap(), "text");
            fs::create_dir(from.join(nested(400))).unwrap();
            let said = refused(&from, &deeper, Content::Any);
            assert!(said.ends_with("d is deeper than 400 directories"), "{said}");
        },
    );
}

#[test]
fn a_plain_tree_has_no_special_files_and_no_other_links() {
    inside(
        "copies::a_plain_tree_has_no_special_files_and_no_other_links",
        || {
            let (from, top) = directories();
            let allowed = |path: &Path, target: &Path| {
                path == Path::new("good/link") && target == Path::new("../kept")
            };
            let allowed = rules(&allowed);
            let good = r#"rm -rf ./*; mkdir good; ln -s ../kept good/link; echo text >good/file;
                chown 1:2 good/file; chmod 640 good/file; ln good/file good/same
                mkdir -m 3771 good/sticky; chown 5:6 good/sticky; echo one >good/sticky/file
                : >good/own; chmod 6777 good/own; head -c 65537 /dev/urandom >good/large
                truncate -s 8M good/sparse; echo two >>good/sparse"#;
            shell(&from, good);
            set(&from.join("good/file"), "trusted.x", b"x").unwrap();
            let to = top.join("good");
            fs::create_dir(&to).unwrap();
            copied(&from, &to, Content::Plain(&allowed)).unwrap();
            let (mut before, mut after) = (described(&from), described(&to));
            for entry in before.values_mut().chain(after.values_mut()) {
                // Neither these nor extended attributes are of use to an engine.
                (entry.accessed, entry.modified) = ((0, 0), (0, 0));
            }
            for path in ["good/file", "good/same"] {
                before.get_mut(Path::new(path)).unwrap().attributes.clear();
            }
            assert_eq!(after, before);
            for (number, (bad, reason)) in [
                ("mkfifo good/x", "good/x is a device, a FIFO or a socket"),
                ("mknod x c 1 3", "x is a device, a FIFO or a socket"),
                ("mknod x b 7 0", "x is a device, a FIFO or a socket"),
                ("ln -s ../kept x", "x is a symbolic link to ../kept"),
                (
                    "ln -sf /etc good/link",
                    "good/link is a symbolic link to /etc",
                ),
                // Another name of a link that may be there, whichever of the two comes first.
                (
                    "ln -P good/link good/x",
                    "good/x is a symbolic link to ../kept",
                ),
                (
                    "rm good/link; ln -s ../kept good/x; ln -P good/x good/link",
                    "good/x is a symbolic link to ../kept",
                ),
            ]
            .into_iter()
            .enumerate()
            {
                shell(&from, &format!("{good}; {bad}"));
                let to = top.join(number.to_string());
                fs::create_dir(&to).unwrap();
                let said = refused(&from, &to, Content::Plain(&allowed));
                assert_eq!(said, reason, "{bad}");
                assert!(fs::symlink_metadata(to.join("x")).is_err(), "{bad}");
            }
            shell(&from, good);
            let _socket = UnixListener::bind(from.join("x")).unwrap();
            let to = top.join("socket");
            fs::create_dir(&to).unwrap();
            let said = refused(&from, &to, Content::Plain(&allowed));
            assert_eq!(said, "x is a device, a FIFO or a socket");
        },
    );
}
