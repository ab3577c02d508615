//! The file system of the data root, and the alternatives where overlay2 cannot use it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::{self, FsType};
use nix::unistd::{AccessFlags, access};

use super::capabilities::{Capabilities, Capability};
use super::paths::{existing, resolve};
use super::space::Space;
use crate::facts::mountinfo::MountTable;
use crate::input::config::{Config, Storage};
use crate::messages::fault::Fault;
use crate::store::origin::Origin;
use crate::sys::filesystem;
use crate::sys::read;
use crate::sys::search::search;

/// The name of the ext4 image in a data root that is on a volume. The image's file system is
/// mounted over the same directory.
const ON_VOLUME: &str = "dind.ext4";
/// The path of the ext4 image where the data root is not on a volume.
pub const IN_CONTAINER: &str = "/var/lib/dind/data-root.ext4";

/// The unit of `st_blocks` in bytes: stat(2).
const STAT_BLOCK: u64 = 512;

/// The control device that allocates loop devices: loop(4).
pub const LOOP_CONTROL: &str = "/dev/loop-control";

/// The facts of dockerd's data root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataRoot {
    /// Its path; symbolic links are resolved as far as it exists.
    pub path: PathBuf,
    /// Its permission bits. `None` where it does not exist.
    pub mode: Option<u32>,
    /// The file system that the data root is or will be on.
    pub filesystem: Filesystem,
    /// What the image stores of earlier starts have left in it.
    pub contents: Contents,
    /// The generation of a store that it depends on, or why it cannot be told. It may have another one
    /// below an ext4 image.
    pub origin: Result<Option<Origin>, Fault>,
    /// The alternatives to that file system. Read only where the plan may choose one.
    pub means: Option<Means>,
}

impl DataRoot {
    /// Reads the facts of the data root at `path`. `mounts` are the mounts of this process;
    /// `config` has the storage that the user asked for, and `PATH`.
    pub fn read(path: &Path, mounts: &MountTable, config: &Config) -> Self {
        let path = resolve(path);
        let filesystem = filesystem(&path);
        let to_choose = filesystem != Filesystem::Other
            || config.storage != Storage::Auto
            || has_data_file(&path, mounts);
        Self {
            mode: fs::metadata(&path).ok().map(|found| found.mode() & 0o7777),
            means: to_choose.then(|| Means::read(&path, mounts, &config.search_path)),
            filesystem,
            contents: Contents::read(&path),
            origin: Origin::of(&path).map_err(Fault::from),
            path,
        }
    }
}

/// What image stores have left in a data root. dockerd has two kinds, and each hides the images of
/// the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Whether a graph driver other than vfs has been used: a dockerd that is not told otherwise
    /// then keeps to graph drivers (`HasPriorDriver` in moby's daemon/graphdriver/driver.go).
    pub graph_driver: bool,
    /// The graph driver whose images are there, one of them if there are several.
    pub graph_images: Option<String>,
    /// The snapshotter of containerd's image store whose images are there, one of them if there
    /// are several. Only below the directory that dockerd gives its own containerd.
    pub containerd_images: Option<String>,
}

impl Contents {
    /// dockerd's graph drivers but vfs: those of 20.10 to 29, each with a directory of its name
    /// (`scanPriorDrivers` in moby's daemon/graphdriver/driver.go).
    const GRAPH_DRIVERS: &[&str] = &["overlay2", "fuse-overlayfs", "btrfs", "zfs"];

    fn read(data_root: &Path) -> Self {
        let has_entries =
            |path: PathBuf| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
        // The first of the names in a directory, in their order, that `found` accepts and names.
        let first = |directory: &str, found: &dyn Fn(&str, &Path) -> Option<String>| {
            let entries = fs::read_dir(data_root.join(directory)).ok()?;
            let names = entries.filter_map(|entry| {
                let entry = entry.ok()?;
                found(entry.file_name().to_str()?, &entry.path())
            });
            names.min()
        };
        Self {
            graph_driver: Self::GRAPH_DRIVERS
                .iter()
                .any(|driver| has_entries(data_root.join(driver))),
            graph_images: first("image", &|name, path| {
                has_entries(path.join("imagedb/content/sha256")).then(|| name.to_owned())
            }),
            containerd_images: first("containerd/daemon", &|name, path| {
                let name = name.strip_prefix("io.containerd.snapshotter.v1.")?;
                has_entries(path.join("snapshots")).then(|| name.to_owned())
            }),
        }
    }
}

/// Whether a data root has an ext4 image that holds the data of an engine and is not mounted.
pub fn is_in_image(data_root: &Path) -> bool {
    data_root.join(ON_VOLUME).exists()
}

/// Whether `directory` is on the container's root file system and not on a mount, so that its
/// files were not put there from outside.
pub fn is_own(directory: &Path, mounts: &MountTable) -> bool {
    mounts.mount_point(&resolve(directory)) == Some(Path::new("/"))
}

/// A file system type, by the magic number of statfs(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filesystem {
    /// A file system that overlay2 cannot use for its upper directory, with its name.
    Unsuitable(&'static str),
    /// Any other file system, also one that cannot be read.
    Other,
}

/// The alternatives for a data root on an unsuitable file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Means {
    /// Whether the data root has files, which a mount would hide.
    pub occupied: bool,
    /// Whether these files belong to the vfs driver, which dockerd keeps using only when it is
    /// selected explicitly (`New` in moby's daemon/graphdriver/driver.go).
    pub vfs: bool,
    /// The path of the ext4 image, whether or not it exists.
    pub data_file: PathBuf,
    /// Whether the ext4 image exists.
    pub made: bool,
    /// The bytes that are free for the ext4 image.
    pub free: u64,
    /// The bytes that the ext4 image takes, which are fewer than its size.
    pub taken: u64,
    /// Whether the ext4 image is to begin small and can grow: it is in the container's layer, which
    /// `docker commit` copies, and this process may grow a mounted ext4.
    pub grows: bool,
    /// The path of `mkfs.ext4`. `None` where it is not in `PATH`.
    pub mkfs: Option<PathBuf>,
    /// Whether loop devices are available, as far as is known: loop(4). A missing control device
    /// counts as available, since the kernel may not have loaded the module yet; it does when
    /// the device is opened.
    pub loop_devices: bool,
    /// Whether `fuse-overlayfs` is in `PATH` and `/dev/fuse` can be opened.
    pub fuse_overlayfs: bool,
    /// Whether dockerd's zfs driver can work: it runs `zfs`, which needs `/dev/zfs`.
    pub zfs: bool,
}

impl Means {
    fn read(data_root: &Path, mounts: &MountTable, search_path: &OsStr) -> Self {
        let data_file = data_file_path(data_root, mounts);
        let ours = [
            ON_VOLUME.into(),
            new_name(Path::new(ON_VOLUME)),
            filesystem::LOST_AND_FOUND.into(),
        ];
        let is_ours = |name: OsString| ours.contains(&PathBuf::from(name));
        Self {
            occupied: fs::read_dir(data_root).is_ok_and(|mut entries| {
                // A start binds its sockets before it looks here.
                let is_socket =
                    |entry: &DirEntry| entry.file_type().is_ok_and(|kind| kind.is_socket());
                entries.any(|entry| {
                    !entry.is_ok_and(|entry| is_ours(entry.file_name()) || is_socket(&entry))
                })
            }),
            vfs: data_root.join("image/vfs").is_dir() && !data_root.join("image/overlay2").exists(),
            made: has_data_file(data_root, mounts),
            free: Space::read(&data_file).map_or(0, |space| space.bytes),
            taken: fs::symlink_metadata(&data_file)
                .map_or(0, |found| found.blocks().saturating_mul(STAT_BLOCK)),
            grows: data_file == Path::new(IN_CONTAINER)
                && Capabilities::read()
                    .is_ok_and(|found| found.effective.has(Capability::SYS_RESOURCE)),
            data_file,
            mkfs: search("mkfs.ext4", search_path),
            loop_devices: may_open(LOOP_CONTROL) || fs::symlink_metadata(LOOP_CONTROL).is_err(),
            fuse_overlayfs: search("fuse-overlayfs", search_path).is_some()
                && may_open("/dev/fuse"),
            zfs: search("zfs", search_path).is_some() && Path::new("/dev/zfs").exists(),
        }
    }
}

/// Whether a device can be opened, by its file mode and the container's device cgroup. It is not
/// opened, since the kernel would then load its module, and this folder changes nothing.
fn may_open(device: &str) -> bool {
    fs::metadata(device).is_ok_and(|found| found.file_type().is_char_device())
        && access(device, AccessFlags::R_OK | AccessFlags::W_OK).is_ok()
}

/// The path of an ext4 image until its file system is complete: `data_file` with `.new` appended.
pub fn new_name(data_file: &Path) -> PathBuf {
    let mut name = data_file.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// The path of the ext4 image for `data_root`: on the volume that the user provides for the data,
/// so that it lasts as long as the volume; otherwise in the container, outside the data root.
fn data_file_path(data_root: &Path, mounts: &MountTable) -> PathBuf {
    if is_on_volume(data_root, mounts) {
        data_root.join(ON_VOLUME)
    } else {
        PathBuf::from(IN_CONTAINER)
    }
}

/// Whether the ext4 image for `data_root` exists.
fn has_data_file(data_root: &Path, mounts: &MountTable) -> bool {
    fs::symlink_metadata(data_file_path(data_root, mounts)).is_ok()
}

/// Whether `path` is on a mount other than the container's root file system. `mounts` are the
/// mounts of this process.
pub fn is_on_volume(path: &Path, mounts: &MountTable) -> bool {
    let mount_point = mounts.mount_point(path);
    mount_point.is_some_and(|mount_point| mount_point != Path::new("/"))
}

/// File systems that overlay2 cannot use for its upper directory. moby's driver (`Init` in
/// overlay2/overlay.go) refuses the first five by name. The kernel refuses the others, which lack
/// what overlayfs.rst requires of an upper file system.
const UNSUITABLE: &[(FsType, &str)] = &[
    (statfs::OVERLAYFS_SUPER_MAGIC, "overlay"),
    (FsType(0x6175_6673), "aufs"),
    (statfs::ECRYPTFS_SUPER_MAGIC, "ecryptfs"),
    (statfs::NFS_SUPER_MAGIC, "nfs"),
    (FsType(0x2fc1_2fc1), "zfs"),
    (statfs::FUSE_SUPER_MAGIC, "fuse"),
    (FsType(0x4d44), "vfat"),
];

/// The file system that `path` is or will be on.
fn filesystem(path: &Path) -> Filesystem {
    let Some((existing, found)) =
        existing(path).and_then(|existing| Some((existing, statfs::statfs(existing).ok()?)))
    else {
        return Filesystem::Other;
    };
    let magic = found.filesystem_type();
    match UNSUITABLE.iter().find(|(known, _)| *known == magic) {
        Some((_, name)) => Filesystem::Unsuitable(name),
        None if magic == statfs::XFS_SUPER_MAGIC && !has_ftype(existing) => {
            Filesystem::Unsuitable("xfs without ftype")
        }
        None => Filesystem::Other,
    }
}

/// Whether an xfs stores the file type in directory entries, which overlayfs depends on:
/// mkfs.xfs(8), `ftype`. True where the file system cannot be asked.
fn has_ftype(directory: &Path) -> bool {
    let directory = read::directory(directory).map_err(|_| Errno::ENOENT);
    directory
        .and_then(|directory| filesystem::xfs_has_ftype(&directory))
        .unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contents_are_those_of_stores_with_images() -> std::io::Result<()> {
        let root = std::env::temp_dir().join(format!("dind-contents-{}", std::process::id()));
        let read = |directories: &[&str]| -> std::io::Result<Contents> {
            for directory in directories {
                fs::create_dir_all(root.join(directory))?;
            }
            let found = Contents::read(&root);
            fs::remove_dir_all(&root)?;
            Ok(found)
        };
        // A start with vfs, and what containerd makes at every start.
        let nothing = read(&[
            "vfs/dir/1",
            "overlay2",
            "image/vfs/imagedb/content/sha256",
            "containerd/daemon/io.containerd.snapshotter.v1.overlayfs/snapshots",
            "containerd/daemon/io.containerd.content.v1.content/blobs",
        ])?;
        assert_eq!(nothing, Contents::default());
        let graph = read(&["overlay2/l", "image/overlay2/imagedb/content/sha256/1"])?;
        assert!(graph.graph_driver);
        assert_eq!(graph.graph_images.as_deref(), Some("overlay2"));
        assert_eq!(graph.containerd_images, None);
        let containerd =
            read(&["containerd/daemon/io.containerd.snapshotter.v1.native/snapshots/1"])?;
        assert_eq!(containerd.containerd_images.as_deref(), Some("native"));
        assert!(!containerd.graph_driver);
        Ok(())
    }

    #[test]
    fn the_ext4_image_is_on_the_volume_of_the_data() {
        let mounts = MountTable::parse(
            "1 0 0:1 / / rw - overlay overlay rw\n\
             2 1 0:2 / /data rw - nfs server:/data rw\n",
        );
        for (data_root, expected) in [
            ("/var/lib/docker", IN_CONTAINER),
            ("/data", "/data/dind.ext4"),
            ("/data/docker", "/data/docker/dind.ext4"),
        ] {
            assert_eq!(
                data_file_path(Path::new(data_root), &mounts),
                Path::new(expected)
            );
        }
    }
}
