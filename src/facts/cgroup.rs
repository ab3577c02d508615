//! How the cgroup hierarchies of this container are laid out.
//!
//! Sources: cgroups(7), cgroup_namespaces(7), Documentation/admin-guide/cgroup-v2.rst.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Result;
use nix::sys::statfs;

use super::mountinfo::MountTable;
use super::proc;

/// Where every container engine and systemd have the hierarchies.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The leaf that processes are evacuated into; the name is that of `hack/dind`.
pub const LEAF: &str = "init";

/// One line of `/proc/PID/cgroup`: a hierarchy, and where in it the process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Which hierarchy.
    pub hierarchy: Hierarchy,
    /// The process's cgroup, as its cgroup namespace shows it.
    pub path: String,
}

/// A cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hierarchy {
    /// Version 1 with controllers, in the kernel's order.
    Controllers(Vec<String>),
    /// Version 1 without controllers: `name=NAME`.
    Named(String),
    /// Version 2, of which there is one.
    Unified,
}

impl Hierarchy {
    /// Whether both cannot be hierarchies of one host: a controller is in one only.
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
    /// Lines of another shape are passed over.
    pub fn parse(text: &str) -> Vec<Self> {
        // Not lines(): a carriage return before the newline is the cgroup's name's.
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

/// The names that the kernel gives and takes (`cgroup1_parse_param()` allows
/// letters, digits and `.-_`). They become file names here, so `.` and `..` are
/// out.
fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

/// What is on [`CGROUP_ROOT`], told by the file system's magic number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootMount {
    /// It is a plain directory of sysfs, or it is missing.
    Nothing,
    /// Something that holds directories for the hierarchies: a tmpfs.
    Directory,
    /// The version 2 hierarchy itself.
    Cgroup2,
}

/// The layouts that systemd knows by these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Version 1 only.
    Legacy,
    /// Version 1 with the controllers, version 2 beside it.
    Hybrid,
    /// Version 2 only.
    Unified,
}

impl Layout {
    /// The name of the layout.
    pub fn name(self) -> &'static str {
        match self {
            Self::Legacy => "v1",
            Self::Hybrid => "hybrid",
            Self::Unified => "v2",
        }
    }
}

/// What [`CGROUP_ROOT`] says of a version 2 hierarchy mounted there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnifiedRoot {
    /// `cgroup.controllers`: what may be enabled for children.
    pub controllers: BTreeSet<String>,
    /// `cgroup.subtree_control`: what is enabled for children.
    pub enabled: BTreeSet<String>,
}

/// Everything that planning needs to know of the cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupFacts {
    /// This process's memberships. PID 1's file is the one that counts, and this
    /// process is PID 1; with `--pid=host` it is the other way round, and the
    /// hierarchies are the same.
    pub memberships: Vec<Membership>,
    /// What is on [`CGROUP_ROOT`].
    pub root: RootMount,
    /// The names in [`CGROUP_ROOT`].
    pub entries: BTreeSet<String>,
    /// The version 2 root, where there is one.
    pub unified: UnifiedRoot,
}

impl CgroupFacts {
    /// Reads them.
    pub fn read(mounts: &MountTable) -> Result<Self> {
        let root = Path::new(CGROUP_ROOT);
        let kind = match statfs::statfs(root) {
            Ok(stat) if stat.filesystem_type() == statfs::CGROUP2_SUPER_MAGIC => RootMount::Cgroup2,
            Ok(_) if mounts.at(root).is_some() => RootMount::Directory,
            _ => RootMount::Nothing,
        };
        let words = |name: &str| -> BTreeSet<String> {
            let text = fs::read_to_string(root.join(name)).unwrap_or_default();
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

    /// The parent's layout. What is mounted decides; where nothing is, the
    /// hierarchies that this process is in do. The kernel lists version 2 once
    /// somebody has mounted it.
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

    /// Whether this process is at the root of its cgroup namespace's version 2
    /// hierarchy, or already in the leaf below it: what is mounted is then its
    /// own. In the host's namespace the path has the container's cgroup in it.
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
    fn the_layout_is_the_parents() {
        use RootMount::{Cgroup2, Directory, Nothing};
        for (memberships, root, layout) in [
            ("2:cpu:/\n1:name=systemd:/\n", Directory, Layout::Legacy),
            ("2:cpu:/\n", Nothing, Layout::Legacy),
            ("2:cpu:/\n0::/\n", Directory, Layout::Hybrid),
            ("2:cpu:/\n0::/\n", Nothing, Layout::Hybrid),
            ("0::/\n", Cgroup2, Layout::Unified),
            ("0::/\n", Nothing, Layout::Unified),
            // Unified host with a named v1 hierarchy for old containers.
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
        // A name of somebody else's that only looks like the leaf's.
        assert!(!facts("0::/init\r\n", RootMount::Cgroup2).private_namespace());
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*") {
            Membership::parse(&text);
        }

        /// Names become directories: none may lead elsewhere.
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
