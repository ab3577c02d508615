//! `/proc/self/cgroup`: names become directories below `/sys/fs/cgroup`, and mount options.

#![no_main]

use std::collections::BTreeSet;
use std::path::Path;

use dind::facts::cgroup::{CgroupFacts, Hierarchy, Layout, Membership, RootMount, UnifiedRoot};
use libfuzzer_sys::fuzz_target;

fn written(membership: &Membership) -> String {
    let (id, controllers) = match &membership.hierarchy {
        Hierarchy::Controllers(names) => (1, names.join(",")),
        Hierarchy::Named(name) => (1, format!("name={name}")),
        Hierarchy::Unified => (0, String::new()),
    };
    format!("{id}:{controllers}:{}\n", membership.path)
}

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let memberships = Membership::parse(&text);
    for membership in &memberships {
        let names = match &membership.hierarchy {
            Hierarchy::Controllers(names) => names.clone(),
            Hierarchy::Named(name) => vec![name.clone()],
            Hierarchy::Unified => Vec::new(),
        };
        for name in names {
            let path = Path::new("/a").join(&name);
            assert_eq!(path.parent(), Some(Path::new("/a")), "{name:?}");
            assert_eq!(path.file_name(), Some(name.as_ref()));
            assert!(!name.contains([',', '=', ' ']), "{name:?}");
        }
        assert!(membership.hierarchy.overlaps(&membership.hierarchy));
    }
    let all: String = memberships.iter().map(written).collect();
    assert_eq!(Membership::parse(&all), memberships);
    for root in [RootMount::Nothing, RootMount::Directory, RootMount::Cgroup2] {
        let facts = CgroupFacts {
            memberships: memberships.clone(),
            root,
            entries: BTreeSet::new(),
            unified: UnifiedRoot::default(),
        };
        if facts.layout() == Layout::Legacy {
            let unified = |found: &Membership| found.hierarchy == Hierarchy::Unified;
            assert!(!memberships.iter().any(unified));
        }
        facts.private_namespace();
    }
});
