//! Which image store dockerd uses, and the storage driver that it gets for it.

use super::*;
use crate::input::store::Save;

const PLAIN: ImageStores = ImageStores::GraphDrivers;
const REQUEST: ImageStores = ImageStores::ContainerdOnRequest;
const DEFAULT: ImageStores = ImageStores::ContainerdByDefault;

const ON: &str = r#"{"features": {"containerd-snapshotter": true}}"#;
const OFF: &str = r#"{"features": {"containerd-snapshotter": false}}"#;

/// `inputs` of a daemon with these variables and this daemon.json.
pub(super) fn with<T>(
    facts: &Facts,
    variables: &[(&str, &str)],
    json: &str,
    test: impl FnOnce(Inputs<'_>) -> T,
) -> Result<T, Fault> {
    let start = Start {
        variables,
        json,
        ..DAEMON
    };
    of(start, facts, test)
}

/// The same, of a start.
pub(super) fn of<T>(
    start: Start<'_>,
    facts: &Facts,
    test: impl FnOnce(Inputs<'_>) -> T,
) -> Result<T, Fault> {
    let json = start.json;
    let (config, request) = start.read()?;
    let surroundings = start.surroundings(&config, &request, true, SocketState::Free);
    let arguments = DockerdArguments::default();
    let options = arguments.options(Some((Path::new("/etc/docker/daemon.json"), json)))?;
    Ok(test(Inputs {
        save: None,
        contract: request.contract,
        config: &config,
        surroundings: &surroundings,
        options: &options,
        facts,
    }))
}

fn engine(facts: Facts, stores: ImageStores) -> Facts {
    Facts {
        image_stores: Some(stores),
        ..facts
    }
}

/// A container that can have no ext4 image.
fn bare(stores: ImageStores) -> Facts {
    engine(on_overlay(NO_MEANS()), stores)
}

fn used_by_graph_driver(facts: Facts) -> Facts {
    let contents = Contents {
        graph_driver: true,
        graph_images: Some("overlay2".into()),
        containerd_images: None,
    };
    Facts {
        data_root: DataRoot {
            contents,
            ..facts.data_root
        },
        ..facts
    }
}

fn used_by_containerd(facts: Facts) -> Facts {
    let contents = Contents {
        containerd_images: Some("overlayfs".into()),
        ..facts.data_root.contents
    };
    Facts {
        data_root: DataRoot {
            contents,
            ..facts.data_root
        },
        ..facts
    }
}

#[test]
fn the_store_is_the_one_that_dockerd_will_choose() -> Result<(), Fault> {
    let (graph, containerd) = (Some(Store::GraphDriver), Some(Store::Containerd));
    let used = || used_by_graph_driver(bare_v1());
    let overlayfs = r#"{"storage-driver": "overlayfs"}"#;
    let overlay2: &[(&str, &str)] = &[("DOCKER_DRIVER", "overlay2")];
    for (facts, variables, json, [plain, request, default]) in [
        (bare_v1(), &[][..], "", [graph, graph, containerd]),
        (bare_v1(), &[], ON, [graph, containerd, containerd]),
        (bare_v1(), &[], OFF, [graph; 3]),
        (used(), &[], "", [graph; 3]),
        (used(), &[], ON, [graph, containerd, containerd]),
        (bare_v1(), overlay2, "", [graph; 3]),
        (bare_v1(), &[], overlayfs, [graph, graph, containerd]),
        // What a graph driver has comes before what is named.
        (used(), &[], overlayfs, [graph; 3]),
        (
            used_by_containerd(bare_v1()),
            &[],
            "",
            [graph, graph, containerd],
        ),
    ] {
        for (stores, expected) in [(PLAIN, plain), (REQUEST, request), (DEFAULT, default)] {
            let facts = engine(facts.clone(), stores);
            let found = with(&facts, variables, json, crate::plan::store)?;
            assert_eq!(found, expected, "{stores:?} {variables:?} {json}");
        }
        let found = with(&facts, variables, json, crate::plan::store)?;
        let agreed = (plain == request && request == default).then_some(plain);
        assert_eq!(found, agreed.flatten(), "{variables:?} {json}");
    }
    // The driver that dind names counts as well.
    let vfs = with(
        &bare(DEFAULT),
        &[("DIND_STORAGE", "fuse-overlayfs")],
        "",
        crate::plan::store,
    )?;
    assert_eq!(vfs, graph);
    Ok(())
}

/// dockerd has 100 MB to search.
#[test]
fn dockerd_is_searched_only_where_the_plan_depends_on_it() -> Result<(), Fault> {
    let fuse = || Means {
        fuse_overlayfs: true,
        ..NO_MEANS()
    };
    let occupied = || Means {
        occupied: true,
        ..MEANS()
    };
    for (facts, variables, json, asks) in [
        (bare_v1(), &[][..], "", false),
        (bare_v1(), &[], ON, false),
        (used_by_containerd(bare_v1()), &[], "", true),
        (used_by_containerd(bare_v1()), &[], OFF, false),
        (used_by_graph_driver(bare_v1()), &[], "", false),
        (used_by_graph_driver(bare_v1()), &[], ON, true),
        (bare_v1(), &[("DOCKER_DRIVER", "overlay2")], "", false),
        (bare_v1(), &[("DOCKER_DRIVER", "overlay2")], ON, true),
        (bare_v1(), &[], r#"{"storage-driver": "overlay2"}"#, false),
        (on_overlay(MEANS()), &[], "", false),
        (on_overlay(fuse()), &[], "", false),
        (on_overlay(NO_MEANS()), &[], "", true),
        (on_overlay(NO_MEANS()), &[], OFF, false),
        (on_overlay(occupied()), &[], "", true),
        (used_by_graph_driver(on_overlay(occupied())), &[], "", false),
        (on_overlay(MEANS()), &[("DIND_STORAGE", "none")], "", true),
        (on_overlay(MEANS()), &[("DIND_STORAGE", "vfs")], "", true),
    ] {
        let found = with(&facts, variables, json, |inputs| {
            crate::plan::stores_question(inputs)
        })?;
        assert_eq!(found, asks, "{variables:?} {json} {:?}", facts.data_root);
        // What is saved is taken from where dockerd keeps it, so a save always asks.
        let save = Save {
            path: "/stores/main".into(),
            from_nothing: false,
            build_cache: true,
            arguments: Vec::new(),
        };
        assert!(with(&facts, variables, json, |inputs| {
            crate::plan::stores_question(Inputs {
                save: Some(&save),
                ..inputs
            })
        })?);
        let known = engine(facts, REQUEST);
        assert!(!with(&known, variables, json, |inputs| {
            crate::plan::stores_question(inputs)
        })?);
    }
    Ok(())
}

/// What dockerd is told, of all that is about storage.
fn told(start: &Start<'_>, facts: &Facts) -> Result<String, Fault> {
    let engine = start.engine(facts)?;
    let drivers = engine.dockerd.arguments.iter().filter_map(|argument| {
        let driver = argument.to_str()?.strip_prefix("--storage-driver=")?;
        Some(driver.to_owned())
    });
    let variable = engine.dockerd.environment.iter();
    let variable = variable.filter(|(name, _)| name == "DOCKER_DRIVER");
    let variable = variable.map(|(_, value)| format!("DOCKER_DRIVER={}", value.display()));
    Ok(drivers.chain(variable).collect::<Vec<_>>().join(" "))
}

#[test]
fn each_store_gets_a_driver_with_which_containers_run() -> Result<(), Fault> {
    let fuse = |stores| {
        let means = Means {
            fuse_overlayfs: true,
            ..NO_MEANS()
        };
        engine(on_overlay(means), stores)
    };
    let occupied = |stores, vfs| {
        let means = Means {
            occupied: true,
            vfs,
            ..NO_MEANS()
        };
        engine(on_overlay(means), stores)
    };
    let start = |variables, json| Start {
        variables,
        json,
        ..DAEMON
    };
    let vfs: &[(&str, &str)] = &[("DIND_STORAGE", "vfs")];
    for (variables, json, facts, expected) in [
        (&[][..], "", bare(PLAIN), "vfs"),
        (&[], "", bare(REQUEST), "vfs"),
        (&[], "", bare(DEFAULT), "native"),
        (&[], ON, bare(PLAIN), "vfs"),
        (&[], ON, bare(REQUEST), "native"),
        (&[], ON, bare(DEFAULT), "native"),
        (&[], OFF, bare(DEFAULT), "vfs"),
        (&[], "", fuse(REQUEST), "fuse-overlayfs"),
        (&[], "", fuse(DEFAULT), "fuse-overlayfs"),
        (&[], ON, fuse(REQUEST), "native"),
        (&[], ON, fuse(DEFAULT), "native"),
        (&[], "", occupied(REQUEST, false), ""),
        (&[], "", occupied(REQUEST, true), "vfs"),
        (&[], "", occupied(DEFAULT, false), "native"),
        (&[], "", occupied(DEFAULT, true), "vfs"),
        (&[], ON, occupied(DEFAULT, true), "native"),
        (
            &[],
            "",
            used_by_containerd(occupied(DEFAULT, true)),
            "native",
        ),
        (&[], "", used_by_graph_driver(occupied(DEFAULT, false)), ""),
        (vfs, "", bare(REQUEST), "vfs"),
        (vfs, "", bare(DEFAULT), "native"),
        (vfs, "", occupied(DEFAULT, true), "vfs"),
        (vfs, ON, bare(REQUEST), "native"),
        (
            &[("DIND_STORAGE", "fuse-overlayfs")],
            "",
            bare(DEFAULT),
            "fuse-overlayfs",
        ),
        (&[("DIND_STORAGE", "none")], ON, bare(REQUEST), ""),
        (
            &[("DOCKER_DRIVER", "overlay2")],
            ON,
            engine(bare_v1(), REQUEST),
            "",
        ),
        (
            &[("DOCKER_DRIVER", "overlay2")],
            ON,
            bare(REQUEST),
            "native",
        ),
        (&[("DOCKER_DRIVER", "vfs")], ON, bare(DEFAULT), "native"),
        (
            &[("DOCKER_DRIVER", "overlay2")],
            ON,
            engine(bare_v1(), PLAIN),
            "DOCKER_DRIVER=overlay2",
        ),
        (
            &[("DOCKER_DRIVER", "overlay2")],
            "",
            engine(bare_v1(), DEFAULT),
            "DOCKER_DRIVER=overlay2",
        ),
        (
            &[("DOCKER_DRIVER", "overlayfs")],
            ON,
            engine(bare_v1(), REQUEST),
            "DOCKER_DRIVER=overlayfs",
        ),
    ] {
        let found = told(&start(variables, json), &facts)?;
        assert_eq!(found, expected, "{variables:?} {json} {facts:?}");
    }
    Ok(())
}

#[test]
fn a_driver_with_which_no_container_could_run_is_refused() {
    let start = |variables, json, arguments| Start {
        variables,
        json,
        arguments,
        ..DAEMON
    };
    let overlay2 =
        r#"{"features": {"containerd-snapshotter": true}, "storage-driver": "overlay2"}"#;
    let fuse: &[&str] = &["dind", "--storage-driver=fuse-overlayfs"];
    let overlayfs: &[&str] = &["dind", "--storage-driver=overlayfs"];
    for (start, facts, part) in [
        (
            start(&[], overlay2, &["dind"]),
            engine(bare_v1(), REQUEST),
            "\"overlay2\" is a graph driver",
        ),
        (
            start(&[], ON, fuse),
            engine(bare_v1(), DEFAULT),
            "\"fuse-overlayfs\" is a graph driver",
        ),
        (
            start(&[("DIND_STORAGE", "fuse-overlayfs")], ON, &["dind"]),
            bare(REQUEST),
            "has no such snapshotter",
        ),
        (
            start(&[], ON, overlayfs),
            bare(REQUEST),
            "so no container could run with the storage driver overlayfs",
        ),
        (
            start(&[], "", overlayfs),
            bare(DEFAULT),
            "so no container could run with the storage driver overlayfs",
        ),
    ] {
        let fault = start.fault(&facts);
        assert!(fault.message.contains(part), "{fault}");
    }
}

/// A containerd of the user's may have the snapshotter, as a proxy plugin.
#[test]
fn the_users_own_containerd_may_have_fuse_overlayfs() -> Result<(), Fault> {
    let arguments: &[&str] = &["dind", "--containerd=/own.sock"];
    let start = Start {
        arguments,
        variables: &[("DIND_STORAGE", "fuse-overlayfs")],
        json: ON,
        ..DAEMON
    };
    assert_eq!(told(&start, &bare(REQUEST))?, "fuse-overlayfs");
    Ok(())
}

fn warned(start: &Start<'_>, facts: &Facts, code: &str) -> Result<Vec<String>, Fault> {
    let warnings = start.plan(facts)?.warnings.into_iter();
    let coded = warnings.filter(|warning| warning.code == code);
    Ok(coded.map(|warning| warning.to_string()).collect())
}

#[test]
fn images_in_the_other_store_are_named() -> Result<(), Fault> {
    let start = |json| Start { json, ..DAEMON };
    let both = || used_by_containerd(used_by_graph_driver(bare_v1()));
    let graph = "images and containers of the graph driver overlay2";
    let containerd = "images and containers of containerd's image store (snapshotter overlayfs)";
    for (json, facts, expected) in [
        ("", bare_v1(), None),
        ("", used_by_graph_driver(bare_v1()), None),
        // Before dockerd is searched it is not known.
        ("", used_by_containerd(bare_v1()), None),
        (OFF, used_by_containerd(bare_v1()), Some(containerd)),
        (
            "",
            engine(used_by_containerd(bare_v1()), REQUEST),
            Some(containerd),
        ),
        ("", engine(used_by_containerd(bare_v1()), DEFAULT), None),
        ("", both(), Some(containerd)),
        (ON, engine(both(), REQUEST), Some(graph)),
        (
            ON,
            engine(used_by_graph_driver(bare_v1()), DEFAULT),
            Some(graph),
        ),
    ] {
        let found = warned(&start(json), &facts, "images-hidden")?;
        let named = found.first().map(String::as_str);
        assert_eq!(named.is_some(), expected.is_some(), "{json} {found:?}");
        let expected = expected.unwrap_or_default();
        assert!(
            found.iter().all(|words| words.contains(expected)),
            "{found:?}"
        );
    }
    Ok(())
}

#[test]
fn what_follows_is_said() -> Result<(), Fault> {
    let start = |variables, json| Start {
        variables,
        json,
        ..DAEMON
    };
    let none: &[(&str, &str)] = &[("DIND_STORAGE", "none")];
    for (start, stores, code, words) in [
        (start(none, ""), REQUEST, "data-root-filesystem", "slower"),
        (
            start(none, ""),
            DEFAULT,
            "data-root-filesystem",
            "NO CONTAINER CAN RUN",
        ),
        (
            start(none, ON),
            REQUEST,
            "data-root-filesystem",
            "NO CONTAINER CAN RUN",
        ),
        (
            start(&[], ON),
            REQUEST,
            "data-root-filesystem",
            "WITH NATIVE EVERY IMAGE AND EVERY CONTAINER IS A FULL COPY",
        ),
        (
            start(&[("DOCKER_DRIVER", "overlay2")], ON),
            DEFAULT,
            "docker-driver",
            "DOCKER_DRIVER=overlay2 names a graph driver",
        ),
    ] {
        let found = warned(&start, &bare(stores), code)?;
        assert!(
            found.len() == 1 && found[0].contains(words),
            "{code}: {found:?}"
        );
    }
    Ok(())
}

/// Where the ext4 image cannot be made, dockerd gets a driver for the file system below.
#[test]
fn an_image_that_fails_has_a_driver_instead() -> Result<(), Fault> {
    let no_fuse = || Means {
        fuse_overlayfs: false,
        ..MEANS()
    };
    let start = |variables, json| Start {
        variables,
        json,
        ..DAEMON
    };
    for (start, means, stores, expected) in [
        (start(&[], ""), MEANS(), None, Some("fuse-overlayfs")),
        (start(&[], ""), no_fuse(), None, Some("vfs")),
        (start(&[], ON), MEANS(), Some(REQUEST), Some("native")),
        (start(&[], ON), MEANS(), Some(PLAIN), Some("vfs")),
        // Who named a driver wants no other.
        (
            start(&[("DOCKER_DRIVER", "overlay2")], ""),
            MEANS(),
            None,
            None,
        ),
        (start(&[("DIND_STORAGE", "loop")], ""), MEANS(), None, None),
    ] {
        let facts = Facts {
            image_stores: stores,
            ..on_overlay(means)
        };
        let file = start.engine(&facts)?.data_file;
        let Some(file) = file else {
            panic!("no image");
        };
        let expected = expected.map(|driver| OsString::from(format!("--storage-driver={driver}")));
        assert_eq!(file.otherwise, expected);
        assert_eq!(file.required, expected.is_none());
    }
    Ok(())
}

#[test]
fn an_embedded_containerd_is_the_only_one() -> Result<(), Fault> {
    let embedded = Start {
        json: r#"{"features": {"embedded-containerd": true}}"#,
        ..DAEMON
    };
    let engine = embedded.engine(&bare_v1())?;
    assert_eq!(engine.containerd, None);
    let arguments = engine.dockerd.arguments.iter();
    assert!(
        !arguments
            .map(|argument| argument.to_string_lossy())
            .any(|argument| argument.starts_with("--containerd"))
    );
    assert!(DAEMON.engine(&bare_v1())?.containerd.is_some());
    Ok(())
}

#[test]
fn containerd_gets_its_configuration_in_the_version_that_it_wants() -> Result<(), Fault> {
    for (version, first) in [
        (ConfigVersion::Two, "version = 2\n"),
        (ConfigVersion::Three, "version = 3\n"),
        (ConfigVersion::Four, "version = 4\n"),
    ] {
        let facts = Facts {
            containerd_config: version,
            ..bare_v1()
        };
        let plan = DAEMON.plan(&facts)?;
        let content = plan.changes().find_map(|step| match &step.action {
            Action::Write { path, content } if path.ends_with("containerd.toml") => Some(content),
            _ => None,
        });
        let content = content.map_or("", String::as_str);
        assert!(content.starts_with(first), "{content}");
        assert!(content.contains("io.containerd.grpc.v1.cri"), "{content}");
    }
    Ok(())
}
