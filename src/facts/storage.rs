//! Where the data would be: the file system of the data root, and what there is to take
//! its place.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::{self, FsType};
use nix::unistd::{AccessFlags, access};

use super::paths::{existing, resolve};
use super::space::Space;
use crate::facts::mountinfo::MountTable;
use crate::input::config::{Config, Storage};
use crate::sys::filesystem;
use crate::sys::search::search;

/// What the ext4 file is called that lies where its own file system is mounted: on a volume.
const ON_VOLUME: &str = "dind.ext4";
/// Where it is when the data root is on no volume.
pub const IN_CONTAINER: &str = "/var/lib/dind/data-root.ext4";

/// What gives loop devices.
pub const LOOP_CONTROL: &str = "/dev/loop-control";

/// What is known of the data root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataRoot {
    /// Its path, symbolic links resolved as far as it exists.
    pub path: PathBuf,
    /// Its permission bits, if it exists.
    pub mode: Option<u32>,
    /// The file system that it is or will be on.
    pub filesystem: Filesystem,
    /// What could be used instead. Looked at only where there is something to choose.
    pub means: Option<Means>,
}

impl DataRoot {
    /// Reads it.
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
            path,
        }
    }
}

/// Whether `directory` is on the container's own root file system, and on none that is
/// mounted into it: what is there, nobody outside has put there.
pub fn is_own(directory: &Path, mounts: &MountTable) -> bool {
    mounts.mount_point(&resolve(directory)) == Some(Path::new("/"))
}

/// A file system type, by the magic number of statfs(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filesystem {
    /// One that overlay2 refuses as its upper directory, by name.
    Unsuitable(&'static str),
    /// Any other.
    Other,
}

/// What there is for a data root on an unsuitable file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Means {
    /// Whether the data root has something in it, which a mount would hide.
    pub occupied: bool,
    /// Whether that is data of the vfs driver, with which dockerd goes on only when it is
    /// told to (`New` in moby's daemon/graphdriver/driver.go).
    pub vfs: bool,
    /// Where the ext4 file is or would be.
    pub data_file: PathBuf,
    /// Whether it is there.
    pub made: bool,
    /// How many bytes it could have.
    pub free: u64,
    /// `mkfs.ext4`.
    pub mkfs: Option<PathBuf>,
    /// Whether loop devices can be had, as far as is known: loop(4). Their control device may
    /// be missing, where the kernel has not loaded the module: it does for who opens it.
    pub loop_devices: bool,
    /// Whether there is a fuse-overlayfs, and a `/dev/fuse` that can be opened.
    pub fuse_overlayfs: bool,
    /// Whether dockerd's driver for zfs would work: it calls `zfs`, which needs `/dev/zfs`.
    pub zfs: bool,
}

impl Means {
    /// Looks at what there is for `data_root`.
    pub fn read(data_root: &Path, mounts: &MountTable, search_path: &OsStr) -> Self {
        let data_file = data_file_path(data_root, mounts);
        let ours = [
            ON_VOLUME.into(),
            new_name(Path::new(ON_VOLUME)),
            "lost+found".into(),
        ];
        let is_ours = |name: OsString| ours.contains(&PathBuf::from(name));
        Self {
            occupied: fs::read_dir(data_root).is_ok_and(|mut entries| {
                entries.any(|entry| !entry.is_ok_and(|entry| is_ours(entry.file_name())))
            }),
            vfs: data_root.join("image/vfs").is_dir() && !data_root.join("image/overlay2").exists(),
            made: has_data_file(data_root, mounts),
            free: Space::read(&data_file).map_or(0, |space| space.bytes),
            data_file,
            mkfs: search("mkfs.ext4", search_path),
            loop_devices: may_open(LOOP_CONTROL) || fs::symlink_metadata(LOOP_CONTROL).is_err(),
            fuse_overlayfs: search("fuse-overlayfs", search_path).is_some()
                && may_open("/dev/fuse"),
            zfs: search("zfs", search_path).is_some() && Path::new("/dev/zfs").exists(),
        }
    }
}

/// Whether a device can be opened, as far as its mode and the container's cgroup say. It is
/// not opened: the kernel would load its module, and nothing is to change here.
fn may_open(device: &str) -> bool {
    fs::metadata(device).is_ok_and(|found| found.file_type().is_char_device())
        && access(device, AccessFlags::R_OK | AccessFlags::W_OK).is_ok()
}

/// What an ext4 file is called until it has a file system in it.
pub fn new_name(data_file: &Path) -> PathBuf {
    let mut name = data_file.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// Where the ext4 file for `data_root` is: on the volume that the user has given for the data, so
/// that it lasts as long; else in the container, outside of the data root.
fn data_file_path(data_root: &Path, mounts: &MountTable) -> PathBuf {
    if is_on_volume(data_root, mounts) {
        data_root.join(ON_VOLUME)
    } else {
        PathBuf::from(IN_CONTAINER)
    }
}

/// Whether there is an ext4 file for `data_root`.
pub fn has_data_file(data_root: &Path, mounts: &MountTable) -> bool {
    fs::symlink_metadata(data_file_path(data_root, mounts)).is_ok()
}

/// Whether `path` is on anything but the container's own root file system.
pub fn is_on_volume(path: &Path, mounts: &MountTable) -> bool {
    let mount_point = mounts.mount_point(path);
    mount_point.is_some_and(|mount_point| mount_point != Path::new("/"))
}

/// What overlay2 does not take as its upper directory: moby's driver (`Init` in
/// overlay2/overlay.go) refuses the first five by name, and the kernel the others for lack
/// of what overlayfs.rst asks of an upper one.
const UNSUITABLE: &[(FsType, &str)] = &[
    (statfs::OVERLAYFS_SUPER_MAGIC, "overlay"),
    (FsType(0x6175_6673), "aufs"),
    (statfs::ECRYPTFS_SUPER_MAGIC, "ecryptfs"),
    (statfs::NFS_SUPER_MAGIC, "nfs"),
    (FsType(0x2fc1_2fc1), "zfs"),
    (statfs::FUSE_SUPER_MAGIC, "fuse"),
    (FsType(0x4d44), "vfat"),
];

/// The file system that `path` is on, or will be.
pub fn filesystem(path: &Path) -> Filesystem {
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

/// Whether an xfs says of what type the entries of a directory are, which overlayfs depends
/// on: mkfs.xfs(8), `ftype`. What cannot be asked does.
fn has_ftype(directory: &Path) -> bool {
    let directory = fs::File::open(directory).map_err(|_| Errno::ENOENT);
    directory
        .and_then(|directory| filesystem::xfs_has_ftype(&directory))
        .unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ext4_file_lasts_as_long_as_the_data_would() {
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
