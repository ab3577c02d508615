//! The planner against the facts of real hosts: `tests/fixtures` has those of each cgroup layout,
//! as `tests/lab fixtures` found them, and the plan beside them.
//!
//! `DIND_TEST_GOLDEN=write cargo test golden` writes the plans again. Read their diff.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use super::*;
use crate::facts::network::{Networks, resolver_words, resolvers, routes};

/// The cgroup layouts. Each has the facts of the same containers: see `tests/fixtures/README.md`.
const LAYOUTS: [&str; 3] = ["v1", "hybrid", "v2"];
const CONTAINERS: [&str; 3] = ["private", "host", "bare"];

/// The facts of one host or container.
struct Fixture {
    /// The text below each line `== NAME`.
    sections: BTreeMap<String, String>,
    /// The file with the plan.
    plan: PathBuf,
}

impl Fixture {
    fn read(layout: &str, name: &str) -> Self {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let file = fixtures.join(layout).join(format!("{name}.facts"));
        let text = fs::read_to_string(&file);
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut sections: BTreeMap<String, String> = BTreeMap::new();
        let mut current = String::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("== ") {
                current = name.to_owned();
            } else {
                sections
                    .entry(current.clone())
                    .or_default()
                    .extend([line, "\n"]);
            }
        }
        Self {
            sections,
            plan: file.with_extension("plan"),
        }
    }

    /// The text of a file; empty if the host did not have it.
    fn text(&self, path: &str) -> &str {
        self.sections.get(path).map_or("", String::as_str)
    }

    /// The rest of the first line that begins with `words`.
    fn observed(&self, words: &str) -> Option<String> {
        let start = format!("{words} ");
        self.text("observed")
            .lines()
            .find_map(|line| line.strip_prefix(&start).map(str::to_owned))
    }

    /// The names in a directory.
    fn entries(&self, directory: &str) -> BTreeSet<String> {
        let start = format!("{directory}/");
        self.text("observed")
            .lines()
            .filter_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
                ["entry", path] | ["link", path, _] => path.strip_prefix(&start),
                _ => None,
            })
            .filter(|name| !name.contains('/'))
            .map(str::to_owned)
            .collect()
    }

    fn words(&self, path: &str) -> BTreeSet<String> {
        let words = self.text(path).split_whitespace();
        words.map(str::to_owned).collect()
    }

    fn networks(&self) -> Networks {
        let (routes, default) = routes(self.text("/proc/net/route"));
        let mtu = default.map(|interface| format!("/sys/class/net/{interface}/mtu"));
        Networks {
            routes,
            resolvers: resolvers(self.text("/etc/resolv.conf")),
            resolver_options: resolver_words(self.text("/etc/resolv.conf"), "options"),
            search_domains: resolver_words(self.text("/etc/resolv.conf"), "search"),
            mtu: mtu.and_then(|path| self.text(&path).trim().parse().ok()),
            default_network_opt: true,
            ..Networks::default()
        }
    }

    /// The facts of this host; those that were not recorded are invented.
    fn facts(&self) -> Facts {
        let mounts = MountTable::parse(self.text("/proc/self/mountinfo"));
        let program = |name: &str| self.observed(&format!("program {name}")).map(PathBuf::from);
        let device_mapper = self.words("/proc/misc").contains("device-mapper");
        Facts {
            container: ContainerFacts {
                cgroup: CgroupFacts {
                    memberships: Membership::parse(self.text("/proc/self/cgroup")),
                    root: match self.observed("statfs /sys/fs/cgroup").as_deref() {
                        Some("63677270") => RootMount::Cgroup2,
                        Some(_) if mounts.at(Path::new(CGROUP_ROOT)).is_some() => {
                            RootMount::Directory
                        }
                        _ => RootMount::Nothing,
                    },
                    entries: self.entries(CGROUP_ROOT),
                    unified: UnifiedRoot {
                        controllers: self.words("/sys/fs/cgroup/cgroup.controllers"),
                        enabled: self.words("/sys/fs/cgroup/cgroup.subtree_control"),
                    },
                },
                mounts,
                security_directory: self
                    .text("observed")
                    .contains("directory /sys/kernel/security\n"),
                tmp_empty: self.entries("/tmp").is_empty(),
            },
            apparmor: self
                .words("/sys/module/apparmor/parameters/enabled")
                .contains("Y"),
            networks: self.networks(),
            images: self
                .text("observed")
                .contains("directory /var/lib/dind/images\n"),
            programs: Programs {
                dockerd: program("dockerd"),
                containerd: program("containerd"),
                dmsetup: program("dmsetup").filter(|_| device_mapper),
                bash: program("bash").is_some(),
            },
            socket_group: self
                .observed("group docker")
                .and_then(|number| number.parse().ok()),
            ..facts("", "", RootMount::Nothing)
        }
    }
}

fn containers() -> impl Iterator<Item = (&'static str, &'static str, Fixture)> {
    LAYOUTS.into_iter().flat_map(|layout| {
        CONTAINERS
            .into_iter()
            .map(move |name| (layout, name, Fixture::read(layout, name)))
    })
}

/// The facts of every container.
pub fn all_facts() -> impl Iterator<Item = Facts> {
    containers().map(|(_, _, fixture)| fixture.facts())
}

#[test]
fn golden_plans_match_the_files() -> Result<(), Fault> {
    #[expect(clippy::disallowed_methods, reason = "a test has no config")]
    let write = std::env::var_os("DIND_TEST_GOLDEN").is_some_and(|value| value == "write");
    let mut wrong = Vec::new();
    for (layout, name, fixture) in containers() {
        let plan = DAEMON.plan(&fixture.facts())?.to_string();
        if write {
            let written = fs::write(&fixture.plan, &plan);
            assert!(written.is_ok(), "{}: {written:?}", fixture.plan.display());
        }
        if fs::read_to_string(&fixture.plan).ok().as_ref() != Some(&plan) {
            wrong.push(format!("{layout}/{name} gets another plan:\n{plan}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\nread them, then DIND_TEST_GOLDEN=write cargo test golden",
        wrong.join("\n")
    );
    Ok(())
}

#[test]
fn golden_layouts_are_known_from_host_and_container() {
    for layout in LAYOUTS {
        for name in CONTAINERS.into_iter().chain(["machine"]) {
            let facts = Fixture::read(layout, name).facts();
            assert_eq!(
                facts.container.cgroup.layout().name(),
                layout,
                "{layout}/{name}"
            );
        }
    }
}

#[test]
fn golden_plans_leave_nothing_to_a_second_start() -> Result<(), Fault> {
    for (layout, name, fixture) in containers() {
        let facts = fixture.facts();
        let first = DAEMON.plan(&facts)?;
        let second = DAEMON.plan(&after(&facts, &first))?;
        assert_eq!(repeated(&second), Vec::<String>::new(), "{layout}/{name}");
    }
    Ok(())
}

/// In every container, each hierarchy of the host is mounted under all of its usual names.
#[test]
fn golden_plans_mirror_every_hierarchy_of_the_host() -> Result<(), Fault> {
    for (layout, name, fixture) in containers() {
        let machine = Fixture::read(layout, "machine");
        let facts = fixture.facts();
        let after = after(&facts, &DAEMON.plan(&facts)?);
        let hierarchies = |facts: &Facts| -> BTreeSet<(String, BTreeSet<String>)> {
            let options = [
                "rw",
                "ro",
                "xattr",
                "nsdelegate",
                "memory_recursiveprot",
                "none",
                "",
            ];
            facts
                .container
                .mounts
                .mounts
                .iter()
                .filter(|mount| mount.target.starts_with(CGROUP_ROOT))
                .filter(|mount| mount.fstype.starts_with("cgroup"))
                .map(|mount| {
                    let named = mount.super_options.iter().cloned();
                    let named = named.filter(|option| !options.contains(&option.as_str()));
                    (mount.fstype.clone(), named.collect())
                })
                .collect()
        };
        assert_eq!(
            hierarchies(&after),
            hierarchies(&machine.facts()),
            "{layout}/{name}"
        );
        let (ours, theirs) = (after.container.cgroup.entries, machine.entries(CGROUP_ROOT));
        let missing: Vec<&String> = match layout {
            "v2" => Vec::new(),
            _ => theirs.difference(&ours).collect(),
        };
        assert_eq!(missing, Vec::<&String>::new(), "{layout}/{name}");
    }
    Ok(())
}
