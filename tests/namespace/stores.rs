//! Stores on disk, without an engine: what is published, held, pruned and cleaned.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dind::facts::mountinfo::MountTable;
use dind::helpers::{filler, publisher};
use dind::plan::engine::{Filling, Saving};
use dind::store::clean;
use dind::store::disk::{COUNTS, Counts, Generation, MOUNT_POINT, Store, layer_of};
use dind::store::manifest::{Ids, Layout, Version};
use dind::store::origin::{ORIGIN, Origin};
use dind::sys::signals::Inherited;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::{in_a_child, inside, scratch};

/// A save to a store in `top`, whose data root is empty.
pub fn saving(top: &Path) -> (Saving, Store) {
    let path = top.join("store");
    let store = publisher::make(&path).unwrap();
    let saving = Saving {
        store: path.clone(),
        pack: None,
        data_root: path.join("saving"),
        socket: "/nowhere".into(),
        dockerd: "/proc/self/exe".into(),
        layout: Layout::Overlay2,
        ids: Ids::Own,
        from_nothing: true,
        build_cache: true,
    };
    fs::create_dir_all(&saving.data_root).unwrap();
    (saving, store)
}

/// What an engine with the graph driver overlay2 leaves, with these layers of images.
pub fn engine(root: &Path, layers: &[&str]) {
    for layer in layers {
        let image = root.join("image/overlay2/layerdb/sha256").join(layer);
        fs::create_dir_all(&image).unwrap();
        fs::write(image.join("cache-id"), layer).unwrap();
        directory(root, layer);
    }
    // Of a container, which nobody knows of any more.
    directory(root, "left");
    fs::create_dir_all(root.join("containers/left")).unwrap();
    fs::create_dir_all(root.join("buildkit/executor")).unwrap();
    fs::write(root.join("engine-id"), "id").unwrap();
    let counts = Counts {
        engine: Version::of("28.5.2").unwrap(),
        images: 1,
        steps: 2,
        driver: "overlay2".to_owned(),
    };
    fs::write(root.join(COUNTS), counts.print()).unwrap();
}

/// A layer's directory of overlay2, where there is none yet.
fn directory(root: &Path, layer: &str) {
    let directory = root.join("overlay2").join(layer);
    if directory.join("diff").is_symlink() {
        return;
    }
    fs::create_dir_all(directory.join("diff")).unwrap();
    fs::create_dir_all(directory.join("work")).unwrap();
    fs::write(directory.join("diff/file"), layer).unwrap();
    fs::create_dir_all(root.join("overlay2/l")).unwrap();
    let short = root.join("overlay2/l").join(layer.to_uppercase());
    symlink(format!("../{layer}/diff"), short).unwrap();
}

pub fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The layer of the store that an engine's layer is now.
pub fn layer(generation: &Generation, name: &str) -> String {
    let link = generation
        .path
        .join("data/overlay2")
        .join(name)
        .join("diff");
    let target = fs::read_link(link).unwrap();
    layer_of(&target).unwrap().to_owned()
}

pub fn publish(saving: &Saving, base: Option<&Generation>) {
    publisher::publish(saving, base, &Inherited::read().unwrap()).unwrap();
}

/// Three generations: of `a`, of `a` and `b`, and of `b` alone.
pub fn three(top: &Path) -> (Saving, Store) {
    let (saving, store) = saving(top);
    engine(&saving.data_root, &["a"]);
    publish(&saving, None);
    for layers in [&["a", "b"][..], &["b"]] {
        let base = store.hold_current().unwrap().unwrap();
        // As the filler does it.
        copy(&base.path.join("data"), &saving.data_root);
        if layers == ["b"] {
            for gone in ["image/overlay2/layerdb/sha256/a", "overlay2/a"] {
                fs::remove_dir_all(saving.data_root.join(gone)).unwrap();
            }
        }
        engine(&saving.data_root, layers);
        publish(&saving, Some(&base));
    }
    (saving, store)
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let open = |path| fs::File::open(path).unwrap();
    let all = dind::store::copy::Rules {
        link: &|_, _| true,
        names: &|_, _| true,
        written: &|_| false,
    };
    let content = dind::store::copy::Content::Plain(&all);
    let to = open(to);
    dind::store::copy::tree(open(from).into(), std::os::fd::AsFd::as_fd(&to), content).unwrap();
}

#[test]
fn a_generation_has_images_and_nothing_of_containers() {
    inside(
        "stores::a_generation_has_images_and_nothing_of_containers",
        || {
            let (saving, store) = three(&scratch());
            assert_eq!(store.generations().unwrap(), [1, 2, 3]);
            assert_eq!(store.current().unwrap(), Some(3));
            let hold = |number| store.hold(number).unwrap().unwrap();
            let [first, second, third] = [1, 2, 3].map(hold);
            let data = first.path.join("data");
            assert_eq!(names(&data), ["buildkit", "engine-id", "image", "overlay2"]);
            assert_eq!(names(&data.join("buildkit")), Vec::<String>::new());
            assert_eq!(names(&data.join("overlay2")), ["a", "l"]);
            assert_eq!(names(&data.join("overlay2/a")), ["committed", "diff"]);
            assert_eq!(names(&data.join("overlay2/l")), ["A"]);
            // What a generation has from the one before is the same layer.
            assert_eq!(layer(&first, "a"), layer(&second, "a"));
            assert_eq!(layer(&second, "b"), layer(&third, "b"));
            for (generation, layers) in [(&first, 1), (&second, 2), (&third, 1)] {
                assert_eq!(generation.manifest.layers.len(), layers);
                assert_eq!(generation.manifest.store, first.manifest.store);
            }
            let content = store.layers().join(layer(&second, "b")).join("file");
            assert_eq!(fs::read_to_string(content).unwrap(), "b");
            assert_eq!(names(&store.layers()).len(), 2);
            assert_eq!(names(&saving.data_root), Vec::<String>::new());
        },
    );
}

#[test]
fn a_generation_is_pruned_unless_it_is_held_or_the_current_one() {
    inside(
        "stores::a_generation_is_pruned_unless_it_is_held_or_the_current_one",
        || {
            let (_saving, store) = three(&scratch());
            let held = store.hold(1).unwrap().unwrap();
            assert!(clean::is_used(&store, 1).unwrap());
            assert!(!clean::is_used(&store, 2).unwrap());
            assert_eq!(clean::prune(&store, 1).unwrap(), (vec![2], vec![1]));
            assert_eq!(store.generations().unwrap(), [1, 3]);
            // The layers of both are there.
            let third = store.hold(3).unwrap().unwrap();
            let mut layers = vec![layer(&held, "a"), layer(&third, "b")];
            layers.sort();
            assert_eq!(names(&store.layers()), layers);
            let b = layer(&third, "b");
            drop((held, third));
            assert_eq!(clean::prune(&store, 1).unwrap(), (vec![1], vec![]));
            assert_eq!(names(&store.layers()), [b]);
            // The current one stays even if it is not among the newest.
            for number in [4, 5] {
                let path = store.generation(number);
                fs::create_dir(&path).unwrap();
                let text = fs::read_to_string(store.generation(3).join("manifest.json")).unwrap();
                let text = text.replace("\"generation\": 3", &format!("\"generation\": {number}"));
                fs::write(path.join("manifest.json"), text).unwrap();
            }
            assert_eq!(clean::prune(&store, 1).unwrap(), (vec![4], vec![]));
            assert_eq!(store.generations().unwrap(), [3, 5]);
        },
    );
}

#[test]
fn what_a_killed_save_has_left_is_removed_and_nothing_else() {
    inside(
        "stores::what_a_killed_save_has_left_is_removed_and_nothing_else",
        || {
            let top = scratch();
            let (saving, store) = three(&top);
            let before = names(&store.layers());
            // Killed after it took its layers, and after it began to put the generation in place.
            fs::create_dir_all(store.layers().join("4-1/usr")).unwrap();
            fs::write(store.layers().join("4-2"), "blob").unwrap();
            fs::create_dir_all(store.path.join("generations/.4/data")).unwrap();
            fs::create_dir_all(saving.data_root.join("overlay2/x")).unwrap();
            // A link is removed, and not where it leads to.
            fs::create_dir(top.join("others")).unwrap();
            symlink(top.join("others"), store.layers().join("4-3")).unwrap();
            symlink(top.join("others"), saving.data_root.join("image")).unwrap();
            publisher::begin(&saving).unwrap();
            assert_eq!(names(&store.layers()), before);
            assert_eq!(names(&store.path.join("generations")), ["1", "2", "3"]);
            assert_eq!(names(&saving.data_root), Vec::<String>::new());
            assert!(top.join("others").is_dir());
            // Without its manifest, it is not known which layers the second one needs: those of
            // its time stay, and later ones go.
            fs::remove_file(store.generation(2).join("manifest.json")).unwrap();
            let third = layer(&store.hold(3).unwrap().unwrap(), "b");
            assert!(before.contains(&third));
            for name in ["2-9", "3-9"] {
                fs::create_dir(store.layers().join(name)).unwrap();
            }
            clean::clean(&store).unwrap();
            let mut left = before;
            left.push("2-9".to_owned());
            left.sort();
            assert_eq!(names(&store.layers()), left);
        },
    );
}

#[test]
fn a_store_is_changed_by_one_at_a_time() {
    inside("stores::a_store_is_changed_by_one_at_a_time", || {
        let (_, store) = saving(&scratch());
        let locked = clean::lock(&store).unwrap();
        let said = format!("{:#}", clean::lock(&store).unwrap_err());
        assert!(
            said.contains("another container saves to the store"),
            "{said}"
        );
        drop(locked);
        clean::lock(&store).unwrap();
    });
}

#[test]
fn only_a_store_is_opened_as_one() {
    inside("stores::only_a_store_is_opened_as_one", || {
        let top = scratch();
        let nothing = |path: &Path| Store::open(path).unwrap().is_none();
        assert!(nothing(&top.join("missing")));
        let make = |name: &str, content: &[&str]| -> PathBuf {
            let path = top.join(name);
            fs::create_dir(&path).unwrap();
            for directory in content {
                fs::create_dir(path.join(directory)).unwrap();
            }
            path
        };
        assert!(nothing(&make("empty", &[])));
        // What a new file system has, and what a save has that was killed while it made a store.
        let begun = make("begun", &["lost+found", "layers", "generations"]);
        assert!(nothing(&begun));
        publisher::make(&begun).unwrap();
        assert!(Store::open(&begun).unwrap().is_some());
        let refused = |path: &Path| format!("{:#}", Store::open(path).unwrap_err());
        let foreign = make("foreign", &["layers", "home"]);
        for (format, reason) in [
            (None, "is not a store of dind's"),
            (Some("something\n"), "is not a store of dind's"),
            (
                Some("dind-store 2\n"),
                "is a store of another version of dind",
            ),
        ] {
            if let Some(format) = format {
                fs::write(foreign.join("format"), format).unwrap();
            }
            assert!(refused(&foreign).contains(reason), "{}", refused(&foreign));
            assert!(publisher::make(&foreign).is_err());
        }
        assert_eq!(names(&foreign), ["format", "home", "layers"]);
        fs::write(top.join("file"), "").unwrap();
        assert!(Store::open(&top.join("file")).is_err());
    });
}

#[test]
fn a_generation_that_is_being_removed_is_not_held() {
    inside(
        "stores::a_generation_that_is_being_removed_is_not_held",
        || {
            let (_, store) = three(&scratch());
            // The lock of the one that removes it.
            let path = store.generation(1).join("manifest.json");
            let manifest = fs::File::options().append(true).open(path).unwrap();
            dind::sys::lock::Record::Write.set(&manifest).unwrap();
            assert!(store.hold(1).unwrap().is_none());
            drop(manifest);
            assert!(store.hold(1).unwrap().is_some());
            assert!(store.hold(9).unwrap().is_none());
            // A manifest of another generation is no answer.
            let [second, third] = [2, 3].map(|n| store.generation(n).join("manifest.json"));
            fs::copy(&third, &second).unwrap();
            let said = format!("{:#}", store.hold(2).unwrap_err());
            assert!(said.contains("is of generation 3"), "{said}");
            // The current one is gone: the link leads nowhere, or out of the store.
            fs::remove_dir_all(store.generation(3)).unwrap();
            let said = format!("{:#}", store.hold_current().unwrap_err());
            assert!(said.contains("current leads to nothing"), "{said}");
            for target in ["../elsewhere", "generations/../..", "generations/x"] {
                fs::remove_file(store.path.join("current")).unwrap();
                symlink(target, store.path.join("current")).unwrap();
                let said = format!("{:#}", store.hold_current().unwrap_err());
                assert!(said.contains("leads to no generation"), "{said}");
            }
        },
    );
}

/// A reader comes and goes while generations are removed. Whoever holds one finds it there.
#[test]
fn a_generation_that_is_held_is_there_whatever_is_pruned() {
    inside(
        "stores::a_generation_that_is_held_is_there_whatever_is_pruned",
        || {
            const LAST: u64 = 2000;
            let (_, store) = three(&scratch());
            let text = fs::read_to_string(store.generation(3).join("manifest.json")).unwrap();
            let add = |number: u64| {
                let hidden = store.path.join("generations/.new");
                fs::create_dir(&hidden).unwrap();
                let text = text.replace("\"generation\": 3", &format!("\"generation\": {number}"));
                fs::write(hidden.join("manifest.json"), text).unwrap();
                fs::rename(&hidden, store.generation(number)).unwrap();
            };
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    let mut held = 0;
                    loop {
                        let newest = store.generations().unwrap().pop().unwrap();
                        if let Some(generation) = store.hold(newest).unwrap() {
                            // Held from here on, so nobody may take it away.
                            std::thread::yield_now();
                            assert!(generation.path.exists(), "{held} times held before");
                            held += 1;
                        }
                        if newest >= LAST {
                            return held;
                        }
                    }
                });
                for number in 4..=LAST {
                    add(number);
                    clean::prune(&store, 0).unwrap();
                }
                add(LAST + 1);
                assert!(reader.join().unwrap() > 100);
            });
        },
    );
}

/// Several save at once, again and again: each is refused or on top of the one before, and what
/// any of them has published is in all later generations.
#[test]
fn of_saves_at_once_none_is_lost() {
    inside("stores::of_saves_at_once_none_is_lost", || {
        const SAVERS: usize = 4;
        const EACH: usize = 25;
        let (saving, store) = saving(&scratch());
        let saving = Saving {
            from_nothing: false,
            ..saving
        };
        let filling = filling(&saving);
        let refused = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for saver in 0..SAVERS {
                let (saving, filling, refused) = (&saving, &filling, &refused);
                scope.spawn(move || {
                    for number in 0..EACH {
                        // As PID 1 holds both, and its children do the rest.
                        let (base, _lock) = loop {
                            match filler::hold(filling, Some(saving)) {
                                Ok(held) => break held,
                                Err(error) => {
                                    let said = error.to_string();
                                    assert!(said.contains("another container saves"), "{said}");
                                    refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                                    std::thread::yield_now();
                                }
                            }
                        };
                        publisher::begin(saving).unwrap();
                        let mut layers = vec![format!("s{saver}n{number}")];
                        if let Some(base) = &base {
                            copy(&base.path.join("data"), &saving.data_root);
                            layers.extend(engines(base));
                        }
                        let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
                        engine(&saving.data_root, &layers);
                        publish(saving, base.as_deref());
                    }
                });
            }
        });
        assert!(refused.into_inner() > 0);
        let numbers = store.generations().unwrap();
        assert_eq!(numbers.len(), SAVERS * EACH);
        assert_eq!(store.current().unwrap(), numbers.last().copied());
        let mut before: Vec<String> = Vec::new();
        for number in numbers {
            let generation = store.hold(number).unwrap().unwrap();
            let layers = engines(&generation);
            assert_eq!(layers.len(), before.len() + 1);
            assert!(before.iter().all(|layer| layers.contains(layer)));
            before = layers;
        }
    });
}

/// The names that the engine has for the layers of a generation.
fn engines(generation: &Generation) -> Vec<String> {
    let mut layers = names(&generation.path.join("data/overlay2"));
    layers.retain(|name| name != "l");
    layers
}

/// A start with the store of a save, in a data root beside it.
pub fn filling(saving: &Saving) -> Filling {
    let data_root = saving.store.with_file_name("root");
    fs::create_dir_all(&data_root).unwrap();
    Filling {
        store: saving.store.clone(),
        generation: None,
        data_root,
        dockerd: saving.dockerd.clone(),
        layout: saving.layout,
        strict: true,
    }
}

#[test]
fn a_data_root_has_its_own_generation_and_no_other() {
    inside(
        "stores::a_data_root_has_its_own_generation_and_no_other",
        || {
            let (saving, store) = three(&scratch());
            let filling = filling(&saving);
            let held = || filler::hold(&filling, None).map(|(held, _)| held.unwrap());
            assert_eq!(held().unwrap().manifest.generation, 3);
            let own = store.look(2).unwrap().unwrap();
            let file = filling.data_root.join(ORIGIN);
            fs::write(&file, Origin::of_manifest(&own).print()).unwrap();
            assert_eq!(held().unwrap().manifest.generation, 2);
            // A generation of this number, in another store that is mounted in its place.
            let path = store.generation(2).join("manifest.json");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text.replace(&own.store, "another")).unwrap();
            for change in ["another", "gone"] {
                if change == "gone" {
                    fs::remove_dir_all(store.generation(2)).unwrap();
                }
                let said = held().unwrap_err().to_string();
                assert!(
                    said.contains("depends on generation 2 of the store"),
                    "{change}: {said}"
                );
            }
            assert_eq!(names(&filling.data_root), [ORIGIN]);
        },
    );
}

/// The facts have locked a generation, and PID 1 holds that one where it is the right one.
#[test]
fn the_generation_that_was_found_is_held_unless_another_one_is_needed() {
    inside(
        "stores::the_generation_that_was_found_is_held_unless_another_one_is_needed",
        || {
            let (saving, store) = three(&scratch());
            let hold = |number| Arc::new(store.hold(number).unwrap().unwrap());
            let start = |found: &Arc<Generation>| Filling {
                generation: Some(Arc::clone(found)),
                ..filling(&saving)
            };
            let held = |filling: &Filling, saving: Option<&Saving>| {
                filler::hold(filling, saving).unwrap().0.unwrap()
            };
            // An empty data root begins with what the plan has shown, also when there is a newer one.
            let [second, third] = [2, 3].map(hold);
            assert!(Arc::ptr_eq(&held(&start(&second), None), &second));
            let start_of = |number| {
                let origin = Origin::of_manifest(&hold(number).manifest).print();
                fs::write(start(&third).data_root.join(ORIGIN), origin).unwrap();
                held(&start(&third), None)
            };
            assert!(Arc::ptr_eq(&start_of(3), &third));
            assert_eq!(start_of(1).manifest.generation, 1);
            // A save goes on from the newest one.
            let saving = Saving {
                from_nothing: false,
                ..saving.clone()
            };
            assert!(Arc::ptr_eq(&held(&start(&third), Some(&saving)), &third));
            let newer = held(&start(&second), Some(&saving));
            assert_eq!(newer.manifest.generation, 3);
        },
    );
}

/// What is a directory of a store is no link to one of the host's, whatever asks for it.
#[test]
fn a_link_is_no_part_of_a_store() {
    inside("stores::a_link_is_no_part_of_a_store", || {
        let top = scratch();
        let (saving, store) = three(&top);
        let others = top.join("others");
        for part in ["generations", "layers", "saving", "generations/3"] {
            let path = store.path.join(part);
            fs::rename(&path, &others).unwrap();
            symlink(&others, &path).unwrap();
            let before = names(&others);
            let shown = path.display().to_string();
            let held = Store::open(&store.path)
                .and_then(|store| store.unwrap().hold_current())
                .map(|_| ());
            let filling = filling(&saving);
            let from_nothing = filler::hold(&filling, Some(&saving)).map(|_| ());
            let asked = [
                ("hold", held),
                ("make", publisher::make(&store.path).map(|_| ())),
                ("check", {
                    let checked = dind::programs::store::check(&store.path);
                    match checked {
                        Ok((text, whole)) => {
                            assert!(!whole, "{text}");
                            Err(anyhow::anyhow!(text))
                        }
                        Err(fault) => Err(anyhow::anyhow!(fault.to_string())),
                    }
                }),
                ("save", from_nothing),
            ];
            for (asks, found) in asked {
                // A save that begins with nothing looks into no generation.
                if part == "generations/3" && matches!(asks, "make" | "save") {
                    continue;
                }
                let said = format!("{:#}", found.unwrap_err());
                assert!(said.contains(&shown), "{asks} of {part}: {said}");
            }
            assert_eq!(names(&others), before);
            fs::remove_file(&path).unwrap();
            fs::rename(&others, &path).unwrap();
        }
        // Nor are its files.
        for part in ["format", "lock", "generations/3/manifest.json"] {
            let path = store.path.join(part);
            drop(clean::lock(&store).unwrap());
            fs::rename(&path, &others).unwrap();
            symlink(&others, &path).unwrap();
            match part {
                "lock" => drop(clean::lock(&store).unwrap_err()),
                "format" => drop(Store::open(&store.path).unwrap_err()),
                _ => drop(store.hold(3).unwrap_err()),
            }
            fs::remove_file(&path).unwrap();
            fs::rename(&others, &path).unwrap();
        }
        assert_eq!(
            store.hold_current().unwrap().unwrap().manifest.generation,
            3
        );
    });
}

#[test]
fn a_store_is_mounted_read_only_where_other_flags_are_locked() {
    inside(
        "stores::a_store_is_mounted_read_only_where_other_flags_are_locked",
        || {
            const NOTHING: Option<&str> = None;
            let top = scratch();
            let (saving, _) = three(&top);
            let filling = filling(&saving);
            let none = MsFlags::empty();
            mount(Some("run"), "/run", Some("tmpfs"), none, NOTHING).unwrap();
            let locked = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | locked;
            mount(NOTHING, &top, NOTHING, flags, NOTHING).unwrap();
            let checks = || {
                unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).unwrap();
                fs::write("/proc/self/setgroups", "deny").unwrap();
                fs::write("/proc/self/uid_map", "0 0 1").unwrap();
                fs::write("/proc/self/gid_map", "0 0 1").unwrap();
                let (generation, _) = filler::hold(&filling, None).unwrap();
                let inherited = Inherited::read().unwrap();
                filler::run(&filling, &generation.unwrap(), &inherited).unwrap();
                let found = statvfs(MOUNT_POINT).unwrap().flags();
                for flag in [
                    FsFlags::ST_RDONLY,
                    FsFlags::ST_NOSUID,
                    FsFlags::ST_NODEV,
                    FsFlags::ST_NOEXEC,
                ] {
                    assert!(found.contains(flag), "{flag:?}");
                }
                let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
                let mounted = MountTable::parse(&table).below(Path::new("/run"));
                assert_eq!(mounted, [Path::new(MOUNT_POINT)]);
            };
            // unshare(2) wants a process of one thread for a user namespace.
            in_a_child(checks);
        },
    );
}

/// With less memory and fewer descriptors than there are layers.
#[test]
fn a_start_with_thousands_of_layers_is_bounded() {
    inside(
        "stores::a_start_with_thousands_of_layers_is_bounded",
        || {
            const LAYERS: usize = 5000;
            const NOTHING: Option<&str> = None;
            let (saving, store) = saving(&scratch());
            let layers: Vec<String> = (0..LAYERS).map(|number| format!("l{number}")).collect();
            let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
            engine(&saving.data_root, &layers);
            publish(&saving, None);
            let filling = filling(&saving);
            let none = MsFlags::empty();
            mount(Some("run"), "/run", Some("tmpfs"), none, NOTHING).unwrap();
            let start = || {
                let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
                setrlimit(Resource::RLIMIT_NOFILE, 40, most).unwrap();
                let before = getrusage(UsageWho::RUSAGE_SELF).unwrap().max_rss();
                let (generation, _) = filler::hold(&filling, None).unwrap();
                let inherited = Inherited::read().unwrap();
                filler::run(&filling, &generation.unwrap(), &inherited).unwrap();
                let after = getrusage(UsageWho::RUSAGE_SELF).unwrap().max_rss();
                // In kB: some names of each layer, and not what is in it.
                assert!(after - before < 8192, "{before} kB, then {after} kB");
            };
            // The most that this process has used before is no measure.
            in_a_child(start);
            let generation = store.hold(1).unwrap().unwrap();
            for layer in layers {
                let link = filling.data_root.join("overlay2").join(layer).join("diff");
                let target = fs::read_link(link).unwrap();
                let known = &generation.manifest.layers;
                assert!(known.contains_key(layer_of(&target).unwrap()));
            }
        },
    );
}
