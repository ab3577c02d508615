//! The cgroup hierarchies of this container.
//!
//! Sources: cgroups(7), cgroup_namespaces(7), Documentation/admin-guide/cgroup-v2.rst.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::sys::statfs;

use super::mountinfo::MountTable;
use super::proc;
use crate::sys::read;

/// Where systemd and all container engines mount the hierarchies.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The name of the leaf cgroup that processes are moved into, as in `hack/dind`.
pub const LEAF: &str = "init";

/// One line of `/proc/PID/cgroup`: a hierarchy, and the cgroup of the process in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The hierarchy that the line describes.
    pub hierarchy: Hierarchy,
    /// The path of the process's cgroup, relative to the root of the reader's cgroup
    /// namespace: cgroup_namespaces(7).
    pub path: String,
}

/// A cgroup hierarchy, as `/proc/PID/cgroup` names it: cgroups(7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hierarchy {
    /// A version 1 hierarchy with controllers, in the kernel's order.
    Controllers(Vec<String>),
    /// A version 1 hierarchy without controllers: `name=NAME`.
    Named(String),
    /// The version 2 hierarchy. A host has one.
    Unified,
}

impl Hierarchy {
    /// Whether one host cannot have both: a controller belongs to one hierarchy only.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Controllers(own), Self::Controllers(others)) => {
                own.iter().any(|controller| others.contains(controller))
            }
            _ => self == other,
        }
    }
}

impl Membership {
    /// Parses the text of `/proc/PID/cgroup`, one `ID:CONTROLLERS:PATH` a line.
    /// Skips lines of any other form.
    pub fn parse(text: &str) -> Vec<Self> {
        // Not lines(): a carriage return before the newline is part of the cgroup's name.
        text.split('\n').filter_map(Self::parse_line).collect()
    }

    fn parse_line(line: &str) -> Option<Self> {
        let mut fields = line.splitn(3, ':');
        let id = fields.next()?;
        let controllers = fields.next()?;
        let path = fields.next()?.to_owned();
        let hierarchy = if id == "0" && controllers.is_empty() {
            Hierarchy::Unified
        } else if let Some(name) = controllers.strip_prefix("name=") {
            Hierarchy::Named(Some(name).filter(|name| is_name(name))?.to_owned())
        } else {
            let controllers: Vec<String> = controllers.split(',').map(str::to_owned).collect();
            if !controllers.iter().all(|controller| is_name(controller)) {
                return None;
            }
            Hierarchy::Controllers(controllers)
        };
        Some(Self { hierarchy, path })
    }
}

/// Whether the kernel accepts the name of a hierarchy or controller: letters, digits and
/// `.-_` (`cgroup1_parse_param()` in kernel/cgroup/cgroup-v1.c). Names become file names
/// here, so `.` and `..` are refused.
fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

/// A cgroup of this process, as a directory below [`CGROUP_ROOT`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// The mount point of its hierarchy.
    pub top: PathBuf,
    /// The directory of the cgroup.
    pub own: PathBuf,
}

impl Mounted {
    /// The cgroup and those above it, as far as the mount shows them, its own first.
    pub fn upwards(&self) -> impl Iterator<Item = &Path> {
        let ancestors = self.own.ancestors();
        ancestors.take_while(|ancestor| ancestor.starts_with(&self.top))
    }
}

/// The cgroups of a process that `controller` may apply to: that of its version 1 hierarchy, and
/// that of version 2. Hierarchies that are not mounted have none.
pub fn mounted(memberships: &[Membership], mounts: &MountTable, controller: &str) -> Vec<Mounted> {
    let counts = |membership: &&Membership| match &membership.hierarchy {
        Hierarchy::Controllers(names) => names.iter().any(|name| name == controller),
        Hierarchy::Named(_) => false,
        Hierarchy::Unified => true,
    };
    let mounted = memberships.iter().filter(counts).filter_map(|membership| {
        let mount = mounts.mounts.iter().find(|mount| {
            mount.target.starts_with(CGROUP_ROOT)
                && match membership.hierarchy {
                    Hierarchy::Unified => mount.fstype == "cgroup2",
                    _ => mount
                        .super_options
                        .iter()
                        .any(|option| option == controller),
                }
        })?;
        // Without a private cgroup namespace the path starts at the host's root, and the mount
        // shows the part of it below the mount's root.
        let path = Path::new(&membership.path);
        let below = path.strip_prefix(&mount.root);
        let below = below.or_else(|_| path.strip_prefix("/")).ok()?;
        let own = match below.as_os_str() {
            same if same.is_empty() => mount.target.clone(),
            _ => mount.target.join(below),
        };
        Some(Mounted {
            top: mount.target.clone(),
            own,
        })
    });
    mounted.collect()
}

/// What is mounted on [`CGROUP_ROOT`], by the magic number of its file system: statfs(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootMount {
    /// Nothing: it is a plain directory of sysfs, or it is missing.
    Nothing,
    /// A file system with a directory for each hierarchy, usually a tmpfs.
    Directory,
    /// The version 2 hierarchy itself.
    Cgroup2,
}

/// The cgroup layouts, with systemd's names for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Version 1 hierarchies only; `legacy` in systemd.
    Legacy,
    /// Version 1 hierarchies with the controllers, and the version 2 hierarchy without.
    Hybrid,
    /// The version 2 hierarchy only; `unified` in systemd.
    Unified,
}

impl Layout {
    /// The name of the layout in messages: `v1`, `hybrid` or `v2`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Legacy => "v1",
            Self::Hybrid => "hybrid",
            Self::Unified => "v2",
        }
    }
}

/// The controllers of a version 2 hierarchy that is mounted on [`CGROUP_ROOT`]: cgroup-v2.rst.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnifiedRoot {
    /// `cgroup.controllers`: controllers that can be enabled for children.
    pub controllers: BTreeSet<String>,
    /// `cgroup.subtree_control`: controllers that are enabled for children.
    pub enabled: BTreeSet<String>,
}

/// The cgroup facts that a plan depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupFacts {
    /// The lines of `/proc/self/cgroup`. This process is PID 1 of the container, except with
    /// `--pid=host`, where PID 1 is the host's and has the same hierarchies.
    pub memberships: Vec<Membership>,
    /// What is mounted on [`CGROUP_ROOT`].
    pub root: RootMount,
    /// The names of the directory entries of [`CGROUP_ROOT`].
    pub entries: BTreeSet<String>,
    /// The controllers of the version 2 root. Empty where [`CGROUP_ROOT`] is not one.
    pub unified: UnifiedRoot,
}

impl CgroupFacts {
    /// Reads the facts; `mounts` are the mounts of this process. Fails where
    /// `/proc/self/cgroup` cannot be read.
    pub fn read(mounts: &MountTable) -> Result<Self> {
        let root = Path::new(CGROUP_ROOT);
        let kind = match statfs::statfs(root) {
            Ok(stat) if stat.filesystem_type() == statfs::CGROUP2_SUPER_MAGIC => RootMount::Cgroup2,
            Ok(_) if mounts.at(root).is_some() => RootMount::Directory,
            _ => RootMount::Nothing,
        };
        let words = |name: &str| -> BTreeSet<String> {
            let text = read::kernel(root.join(name)).unwrap_or_default();
            text.split_whitespace().map(str::to_owned).collect()
        };
        let names = fs::read_dir(root).into_iter().flatten().flatten();
        Ok(Self {
            memberships: Membership::parse(&proc::text("/proc/self/cgroup")?),
            root: kind,
            entries: names
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect(),
            unified: UnifiedRoot {
                controllers: words("cgroup.controllers"),
                enabled: words("cgroup.subtree_control"),
            },
        })
    }

    /// The cgroup layout of the host. What is mounted on [`CGROUP_ROOT`] decides; where nothing
    /// is mounted, the memberships of this process do. The kernel lists version 2 once it has
    /// been mounted anywhere.
    pub fn layout(&self) -> Layout {
        let has = |wanted: fn(&Hierarchy) -> bool| {
            self.memberships
                .iter()
                .any(|membership| wanted(&membership.hierarchy))
        };
        let controllers = has(|hierarchy| matches!(hierarchy, Hierarchy::Controllers(_)));
        let unified = has(|hierarchy| matches!(hierarchy, Hierarchy::Unified));
        match self.root {
            RootMount::Cgroup2 => Layout::Unified,
            RootMount::Nothing if unified && !controllers => Layout::Unified,
            RootMount::Nothing | RootMount::Directory if unified => Layout::Hybrid,
            RootMount::Nothing | RootMount::Directory => Layout::Legacy,
        }
    }

    /// Whether this process has a private cgroup namespace: it is at the root of the version 2
    /// hierarchy, or already in the leaf [`LEAF`]. In the host's cgroup namespace the path
    /// contains the container's cgroup: cgroup_namespaces(7).
    pub fn private_namespace(&self) -> bool {
        self.memberships
            .iter()
            .find(|membership| membership.hierarchy == Hierarchy::Unified)
            .is_none_or(|membership| {
                Path::new(&membership.path) == Path::new("/")
                    || Path::new(&membership.path) == Path::new("/").join(LEAF)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_all_three_kinds_of_hierarchy() {
        let memberships = Membership::parse(
            "4:cpu,cpuacct:/docker/a:b\n1:name=systemd:/\n0::/docker/a\nodd\n5:../x:/\n",
        );
        assert_eq!(
            memberships,
            [
                Membership {
                    hierarchy: Hierarchy::Controllers(vec!["cpu".into(), "cpuacct".into()]),
                    path: "/docker/a:b".into()
                },
                Membership {
                    hierarchy: Hierarchy::Named("systemd".into()),
                    path: "/".into()
                },
                Membership {
                    hierarchy: Hierarchy::Unified,
                    path: "/docker/a".into()
                },
            ]
        );
    }

    fn facts(memberships: &str, root: RootMount) -> CgroupFacts {
        CgroupFacts {
            memberships: Membership::parse(memberships),
            root,
            entries: BTreeSet::new(),
            unified: UnifiedRoot::default(),
        }
    }

    #[test]
    fn the_layout_is_that_of_the_host() {
        use RootMount::{Cgroup2, Directory, Nothing};
        for (memberships, root, layout) in [
            ("2:cpu:/\n1:name=systemd:/\n", Directory, Layout::Legacy),
            ("2:cpu:/\n", Nothing, Layout::Legacy),
            ("2:cpu:/\n0::/\n", Directory, Layout::Hybrid),
            ("2:cpu:/\n0::/\n", Nothing, Layout::Hybrid),
            ("0::/\n", Cgroup2, Layout::Unified),
            ("0::/\n", Nothing, Layout::Unified),
            // A v2 host with a named v1 hierarchy for old containers.
            ("1:name=systemd:/\n0::/\n", Cgroup2, Layout::Unified),
        ] {
            assert_eq!(
                facts(memberships, root).layout(),
                layout,
                "{memberships:?} {root:?}"
            );
        }
    }

    #[test]
    fn a_path_with_the_containers_cgroup_in_it_is_the_hosts_namespace() {
        assert!(facts("0::/\n", RootMount::Cgroup2).private_namespace());
        assert!(facts("0::/init\n", RootMount::Cgroup2).private_namespace());
        assert!(!facts("0::/kubepods/pod1/abc\n", RootMount::Cgroup2).private_namespace());
        assert!(!facts("0::/../abc\n", RootMount::Cgroup2).private_namespace());
        // Another cgroup, whose name only resembles the leaf's.
        assert!(!facts("0::/init\r\n", RootMount::Cgroup2).private_namespace());
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*") {
            Membership::parse(&text);
        }

        /// Names become directory names, so each is a single path component.
        #[test]
        fn names_are_single_path_components(text in "([0-9]{1,2}|:|/|\\.|,|name=|[a-z]|\n){0,40}") {
            for membership in Membership::parse(&text) {
                let names = match membership.hierarchy {
                    Hierarchy::Controllers(names) => names,
                    Hierarchy::Named(name) => vec![name],
                    Hierarchy::Unified => Vec::new(),
                };
                for name in names {
                    let path = Path::new("/a").join(&name);
                    prop_assert_eq!(path.parent(), Some(Path::new("/a")));
                }
            }
        }
    }
}
