//! Which store a data root begins with or depends on, and what is said of it.

use std::env::consts::ARCH;
use std::fs::File;
use std::sync::Arc;

use super::*;
use crate::facts::store::{Found, StoreFacts};
use crate::messages::finding::{Finding, Severity};
use crate::plan::warm_start;
use crate::store::disk::{Form, Generation};
use crate::store::manifest::{Ids, Layout, Manifest, Version};
use crate::store::origin::Origin;

/// Generation 3 of the store "a".
fn manifest() -> Manifest {
    Manifest {
        store: "a".to_owned(),
        generation: 3,
        created: 0,
        engine: Version::of("26.1.5").unwrap_or_else(|| panic!("a version")),
        layout: Layout::Overlay2,
        build: "ab".to_owned(),
        machine: ARCH.to_owned(),
        ids: Ids::Own,
        images: 4,
        steps: 31,
        layers: [("1-1".to_owned(), 2_000_000)].into(),
    }
}

fn with_store(found: Found, origin: Option<(&str, u64)>) -> Facts {
    let mut facts = bare_v1();
    facts.image_stores = Some(ImageStores::GraphDrivers);
    facts.store = Some(StoreFacts {
        path: "/stores/main".into(),
        real: "/stores/main".into(),
        form: Form::Directory,
        found,
        mkfs: None,
    });
    facts.data_root.origin = Ok(origin.map(|(store, generation)| Origin {
        store: store.to_owned(),
        generation,
    }));
    facts
}

fn generation(manifest: Manifest) -> Found {
    Found::Generation(Arc::new(Generation {
        path: "/stores/main/generations/1".into(),
        store: "/stores/main".into(),
        form: Form::Directory,
        held: File::open("/dev/null").unwrap_or_else(|error| panic!("{error}")),
        manifest,
    }))
}

fn found(facts: &Facts, strict: bool, dockerd: Option<&str>) -> Result<Option<Finding>, Fault> {
    with(facts, strict, |inputs| warm_start::finding(inputs, dockerd))
}

fn with<T>(facts: &Facts, strict: bool, test: impl FnOnce(Inputs<'_>) -> T) -> Result<T, Fault> {
    let strict: &[_] = if strict {
        &[("DIND_STORE_STRICT", "1")]
    } else {
        &[]
    };
    store::with(facts, strict, "{}", test)
}

#[test]
fn a_store_that_cannot_be_used_is_a_warning_or_an_error() -> Result<(), Fault> {
    let other_driver = Manifest {
        layout: Layout::Containerd,
        ..manifest()
    };
    let other_machine = Manifest {
        machine: "sparc".to_owned(),
        ..manifest()
    };
    for (store, dockerd, words) in [
        (Found::Nothing, None, "it has no generation; save one"),
        (
            Found::Damage("it is a file".to_owned()),
            None,
            "it is a file; set DIND_STORE to another directory",
        ),
        (
            Found::Unreadable("it is not JSON".to_owned()),
            None,
            "it is not JSON; save it again: dind store save STORE --from-nothing",
        ),
        (
            generation(other_driver),
            None,
            "it is of the storage driver overlayfs",
        ),
        (generation(other_machine), None, "it is of sparc"),
        (
            generation(manifest()),
            Some("20.10.24"),
            "it was made by dockerd 26.1.5, and this one is 20.10.24",
        ),
    ] {
        let facts = with_store(store, None);
        for (strict, severity) in [(false, Severity::Warning), (true, Severity::Error)] {
            let finding = found(&facts, strict, dockerd)?;
            let text = finding
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                text.contains("the store /stores/main is not used: "),
                "{text}"
            );
            assert!(text.contains(words), "{text}");
            let kind = finding.map(|finding| (finding.code, finding.severity));
            assert_eq!(kind, Some(("store-unused", severity)));
        }
    }
    Ok(())
}

/// Files have other owners in a user namespace, and a user namespace has no loop devices.
#[test]
fn a_store_is_of_engines_with_the_same_ids() -> Result<(), Fault> {
    let mapped = |outside| Ids::Mapped {
        users: format!("0 {outside} 1, 1 100000 65536"),
        groups: format!("0 {outside} 1, 1 100000 65536"),
    };
    let used = "the store /stores/main has generation 3";
    for (rootless, ids, form, expected) in [
        (
            false,
            mapped(1000),
            Form::Directory,
            "it was made by an engine in a user namespace (uid_map 0 1000 1, 1 100000 65536; gid_map 0 1000 1, 1 100000 65536), and this is an engine with privileges; save one with this engine",
        ),
        (
            true,
            mapped(1001),
            Form::Directory,
            "(uid_map 0 1001 1, 1 100000 65536; gid_map 0 1001 1, 1 100000 65536), and this is an engine in a user namespace (uid_map 0 1000 1, ",
        ),
        (
            true,
            Ids::Own,
            Form::Directory,
            "it was made by an engine with privileges, and this is an engine in a user namespace (uid_map 0 1000 1, ",
        ),
        (
            true,
            mapped(1000),
            Form::File,
            "which has none; save it to a directory",
        ),
        (true, mapped(1000), Form::Directory, used),
        (false, Ids::Own, Form::File, used),
    ] {
        let mut facts = with_store(generation(Manifest { ids, ..manifest() }), None);
        if let Some(store) = &mut facts.store {
            store.form = form;
        }
        let start = Start {
            rootless,
            json: "{}",
            ..DAEMON
        };
        let finding = store::of(start, &facts, |inputs| warm_start::finding(inputs, None))?;
        let text = finding
            .map(|finding| finding.to_string())
            .unwrap_or_default();
        assert!(text.contains(expected), "{text}");
    }
    Ok(())
}

#[test]
fn a_store_that_is_used_is_a_note() -> Result<(), Fault> {
    let of_it = Some(("a", 3));
    for (origin, dockerd) in [
        (None, None),
        (None, Some("26.1.5")),
        (of_it, Some("29.0.0")),
    ] {
        let finding = found(&with_store(generation(manifest()), origin), true, dockerd)?;
        let text = finding.as_ref().map(ToString::to_string);
        let expected = "the store /stores/main has generation 3: 4 images, 31 build steps, 2.0 MB";
        assert_eq!(text.as_deref(), Some(expected));
        assert_eq!(
            finding.map(|finding| finding.severity),
            Some(Severity::Note)
        );
    }
    assert_eq!(found(&bare_v1(), true, None)?, None);
    Ok(())
}

#[test]
fn a_data_root_without_its_generation_is_not_used() -> Result<(), Fault> {
    let mut without = with_store(Found::Nothing, Some(("a", 3)));
    without.store = None;
    let mut damaged = without.clone();
    damaged.data_root.origin = Err(Fault::failure("dind-store.json is damaged"));
    let needs = "/var/lib/docker depends on generation 3 of a store, and ";
    for (facts, words) in [
        (
            without,
            format!("{needs}DIND_STORE names none; mount that store"),
        ),
        (
            with_store(Found::Nothing, Some(("a", 3))),
            format!("{needs}the store /stores/main is not used"),
        ),
        (
            with_store(generation(manifest()), Some(("b", 3))),
            format!("{needs}/stores/main is another one"),
        ),
        (
            with_store(
                generation(Manifest {
                    generation: 4,
                    ..manifest()
                }),
                Some(("a", 3)),
            ),
            format!("{needs}/stores/main has it no more"),
        ),
        (damaged, "dind-store.json is damaged".to_owned()),
    ] {
        let fault = DAEMON.fault(&facts).to_string();
        assert!(fault.contains(&words), "{fault}");
        let finding = found(&facts, false, None)?;
        let kind = finding.map(|finding| (finding.code, finding.severity));
        assert_eq!(kind, Some(("store-missing", Severity::Error)));
    }
    Ok(())
}

/// Which image store dockerd has is found out by reading the program.
#[test]
fn a_store_of_containerds_is_used_where_dockerd_has_that_too() -> Result<(), Fault> {
    let layouts = [(Layout::Overlay2, false), (Layout::Containerd, true)];
    for (layout, asks) in layouts {
        let stored = Manifest {
            layout,
            ..manifest()
        };
        let mut facts = with_store(generation(stored), None);
        facts.image_stores = None;
        assert_eq!(
            with(&facts, false, crate::plan::stores_question)?,
            asks,
            "{layout:?}"
        );
    }
    Ok(())
}
