//! The parser of `/proc/PID/mountinfo`.
//!
//! Source: proc_pid_mountinfo(5). A line of any other form is skipped, so that one malformed
//! line does not prevent a start.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount of a mount namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The directory of the file system that is mounted, as a path inside that file system.
    pub root: PathBuf,
    /// The mount point, relative to the root directory of the process.
    pub target: PathBuf,
    /// Per-mount options: `rw`, `nosuid`, …
    pub options: Vec<String>,
    /// Whether the mount is in a peer group (`shared:N`): mount_namespaces(7), propagation.
    pub shared: bool,
    /// The file system type: `overlay`, `cgroup2`, …
    pub fstype: String,
    /// Per-superblock options. For cgroup v1 they name the controllers.
    pub super_options: Vec<String>,
}

impl Mount {
    /// Whether the mount or its superblock is read-only.
    pub fn read_only(&self) -> bool {
        self.options
            .iter()
            .chain(&self.super_options)
            .any(|option| option == "ro")
    }

    fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        // ID, parent ID and major:minor come first.
        let mut left = left.split(' ').skip(3);
        let root = unescape(left.next()?);
        let target = unescape(left.next()?);
        let options = list(left.next()?);
        let shared = left.any(|field| field.starts_with("shared:"));
        let mut right = right.split(' ');
        let fstype = right.next()?.to_owned();
        let _source = right.next()?;
        let super_options = list(right.next()?);
        Some(Self {
            root,
            target,
            options,
            shared,
            fstype,
            super_options,
        })
    }
}

/// Every mount of a mount namespace, in the kernel's order: a later mount on the
/// same target hides an earlier one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountTable {
    /// The mounts in the kernel's order.
    pub mounts: Vec<Mount>,
}

impl MountTable {
    /// Parses the text of `/proc/PID/mountinfo`. Skips lines of any other form.
    pub fn parse(text: &str) -> Self {
        Self {
            // Not lines(): a carriage return before the newline is part of a name.
            mounts: text.split('\n').filter_map(Mount::parse).collect(),
        }
    }

    /// The mount points below `directory`, sorted, each once.
    pub fn below(&self, directory: &Path) -> Vec<PathBuf> {
        let targets = self.mounts.iter().map(|mount| mount.target.as_path());
        let below = targets.filter(|target| *target != directory && target.starts_with(directory));
        let once: BTreeSet<PathBuf> = below.map(Path::to_owned).collect();
        once.into_iter().collect()
    }

    /// The mount that is visible at `target`. `None` where `target` is not a mount point.
    pub fn at(&self, target: &Path) -> Option<&Mount> {
        self.mounts
            .iter()
            .rev()
            .find(|mount| mount.target == target)
    }

    /// The nearest mount point at or above `path`.
    pub fn mount_point<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        path.ancestors()
            .find(|ancestor| self.at(ancestor).is_some())
    }

    /// Whether every mount has shared propagation, as after `mount --make-rshared /`.
    pub fn all_shared(&self) -> bool {
        self.mounts.iter().all(|mount| mount.shared)
    }
}

fn list(field: &str) -> Vec<String> {
    field.split(',').map(str::to_owned).collect()
}

/// Undoes the kernel's `mangle()`: space, tab, newline and backslash are written
/// as a backslash and three octal digits (`seq_path()` in fs/seq_file.c).
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'\\'
            && let Some((digits, after)) = tail.split_at_checked(3)
            && let Some(value) = octal(digits)
        {
            bytes.push(value);
            rest = after;
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn octal(digits: &[u8]) -> Option<u8> {
    digits.iter().try_fold(0_u8, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value.checked_mul(8)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_a_table_of_the_kernel() {
        let table = MountTable::parse(
            "32 31 0:29 /docker/4f /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:7 master:2 - cgroup cgroup rw,cpu,cpuacct\n\
             33 31 254:1 / /mnt/a\\040b\\134c ro,relatime - ext4 /dev/vda rw\n",
        );
        let [cpu, odd] = table.mounts.as_slice() else {
            panic!("two mounts, got {table:?}");
        };
        assert_eq!(cpu.root, Path::new("/docker/4f"));
        assert_eq!(cpu.super_options, ["rw", "cpu", "cpuacct"]);
        assert!(cpu.shared && !cpu.read_only());
        assert_eq!(odd.target, Path::new("/mnt/a b\\c"));
        assert!(odd.read_only() && !odd.shared);
    }

    #[test]
    fn the_last_mount_on_a_target_is_the_visible_one() {
        let table =
            MountTable::parse("1 0 0:1 / /tmp rw - ext4 a rw\n2 1 0:2 / /tmp rw - tmpfs b rw\n");
        assert_eq!(
            table
                .at(Path::new("/tmp"))
                .map(|mount| mount.fstype.as_str()),
            Some("tmpfs")
        );
    }

    #[test]
    fn a_line_of_another_form_is_skipped() {
        let table = MountTable::parse("nonsense\n\n1 0 0:1 / / rw - ext4 a rw\n1 2 -\n");
        assert_eq!(table.mounts.len(), 1);
    }

    #[test]
    fn a_carriage_return_at_the_end_of_a_line_is_part_of_a_name() {
        let table = MountTable::parse("1 0 0:1 / / rw - overlay a rw,lowerdir=/b\r\n");
        let options: Vec<_> = table
            .mounts
            .into_iter()
            .map(|mount| mount.super_options)
            .collect();
        assert_eq!(options, [["rw", "lowerdir=/b\r"]]);
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*") {
            MountTable::parse(&text);
        }

        #[test]
        fn never_panics_on_near_misses(text in "([0-9]{1,2} |/|[\\\\0-9a-z]{1,5}| - |,|rw|\n){0,60}") {
            MountTable::parse(&text);
        }

        #[test]
        fn undoes_the_kernels_escapes(path in "/[ -~\t\n]{0,20}") {
            let written: String = path
                .chars()
                .map(|character| match character {
                    ' ' | '\t' | '\n' | '\\' => format!("\\{:03o}", character as u32),
                    other => other.to_string(),
                })
                .collect();
            let line = format!("1 0 0:1 / {written} rw - ext4 a rw\n");
            let table = MountTable::parse(&line);
            prop_assert!(table.at(Path::new(&path)).is_some());
        }
    }
}
