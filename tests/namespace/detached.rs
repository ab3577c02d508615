//! Data roots that came from a store and are made independent of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use dind::store::detach::{Copied, detach};
use dind::store::disk::{Generation, Store, link_to};
use dind::store::manifest::Layout;
use dind::store::origin::{INCOMING, Origin, file, finish};
use dind::sys::process;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::ForkResult;

use super::stores::{copy, engine, publish, saving};
use super::{inside, scratch};

/// How many layers the generation has.
const LAYERS: usize = 20;

fn layer(number: usize) -> String {
    format!("layer{number}")
}

/// A generation with [`LAYERS`] layers of a megabyte each, and a data root that came from it, as the
/// filler makes it.
fn attached(top: &Path) -> (Generation, PathBuf) {
    let (saving, store) = saving(top);
    let names: Vec<String> = (0..LAYERS).map(layer).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    engine(&saving.data_root, &names);
    for name in names {
        let diff = saving.data_root.join("overlay2").join(name).join("diff");
        let script = "mkdir -m 3750 d; chown 5:6 d; mknod gone c 0 0; ln file d/file; \
                      head -c 1000000 /dev/urandom >d/large; chmod 4711 d/large; \
                      touch -d 2001-02-03 d/large .";
        let mut shell = Command::new("sh");
        let shell = shell.args(["-ec", script]).current_dir(&diff);
        assert!(shell.status().unwrap().success());
    }
    publish(&saving, None);
    let generation = store.hold_current().unwrap().unwrap();
    let root = top.join("root");
    copy(&generation.path.join("data"), &root);
    let origin = Origin::of_manifest(&generation.manifest).print();
    fs::write(file(&root), origin).unwrap();
    (generation, root)
}

fn diff(root: &Path, number: usize) -> PathBuf {
    root.join("overlay2").join(layer(number)).join("diff")
}

/// What is in a layer, with its attributes.
fn listed(layer: &Path) -> String {
    let script = "find . -printf '%P %y %m %U:%G %n %s %T@ %l\\n' | sort; \
                  find . -type f -exec sha256sum {} + | sort";
    let mut shell = Command::new("sh");
    let output = shell.args(["-ec", script]).current_dir(layer).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

/// Fails unless each layer is there, as a link or as a whole, and returns how many are whole.
fn whole(generation: &Generation, root: &Path) -> usize {
    let data = generation.path.join("data");
    (0..LAYERS)
        .filter(|number| {
            let target = fs::read_link(diff(&data, *number)).unwrap();
            let path = diff(root, *number);
            let is_link = path.is_symlink();
            if is_link {
                assert_eq!(fs::read_link(&path).unwrap(), target);
            } else {
                let name = target.file_name().unwrap();
                let stored = generation.store.join("layers").join(name);
                assert_eq!(listed(&path), listed(&stored), "{number}");
            }
            !is_link
        })
        .count()
}

#[test]
fn every_link_becomes_its_layer() {
    inside("detached::every_link_becomes_its_layer", || {
        let (generation, root) = attached(&scratch());
        // What a container has made stays a link.
        let own = root.join("overlay2/own/diff");
        fs::create_dir_all(&own).unwrap();
        symlink(link_to("1-1"), own.join("link")).unwrap();
        // For quotas of xfs.
        fs::write(root.join("overlay2/backingFsBlockDev"), "").unwrap();
        let copied = detach(&root, &generation).unwrap();
        let bytes = generation.manifest.bytes();
        assert_eq!(
            copied,
            Copied {
                layers: LAYERS,
                bytes
            }
        );
        assert_eq!(whole(&generation, &root), LAYERS);
        assert!(own.join("link").is_symlink());
        assert_eq!(Origin::of(&root).unwrap(), None);
        assert!(!root.join(INCOMING).exists());
        // Nothing is left to do.
        let again = detach(&root, &generation).unwrap();
        assert_eq!(again, Copied::default());
    });
}

#[test]
fn contents_of_containerds_are_copied_too() {
    inside("detached::contents_of_containerds_are_copied_too", || {
        let top = scratch();
        let (mut saving, store) = saving(&top);
        saving.layout = Layout::Containerd;
        engine(&saving.data_root, &[]);
        let counts = saving.data_root.join(dind::store::disk::COUNTS);
        let text = fs::read_to_string(&counts).unwrap();
        fs::write(&counts, text.replace("overlay2", "overlayfs")).unwrap();
        let blobs = "containerd/daemon/io.containerd.content.v1.content/blobs/sha256";
        fs::create_dir_all(saving.data_root.join(blobs)).unwrap();
        let blob = saving.data_root.join(blobs).join("00ff");
        fs::write(&blob, "content").unwrap();
        fs::set_permissions(&blob, std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
        publish(&saving, None);
        let generation = store.hold_current().unwrap().unwrap();
        let root = top.join("root");
        copy(&generation.path.join("data"), &root);
        assert!(root.join(blobs).join("00ff").is_symlink());
        assert_eq!(detach(&root, &generation).unwrap().layers, 1);
        let found = fs::symlink_metadata(root.join(blobs).join("00ff")).unwrap();
        assert_eq!((found.is_file(), found.mode() & 0o777), (true, 0o444));
        let content = fs::read_to_string(root.join(blobs).join("00ff")).unwrap();
        assert_eq!(content, "content");
    });
}

/// It is killed later and later, until it has come to its end before.
#[test]
fn what_is_killed_at_any_moment_goes_on() {
    inside("detached::what_is_killed_at_any_moment_goes_on", || {
        let (generation, root) = attached(&scratch());
        let mut before = 0;
        for attempt in 0_u64.. {
            match process::fork().unwrap() {
                ForkResult::Child => {
                    let done = detach(&root, &generation).is_ok();
                    process::exit_child(if done { 0 } else { 1 });
                }
                ForkResult::Parent { child } => {
                    std::thread::sleep(std::time::Duration::from_micros(200 * attempt));
                    // It may have ended.
                    let _ = kill(child, Signal::SIGKILL);
                    let ended = waitpid(child, None).unwrap();
                    let now = whole(&generation, &root);
                    assert!(now >= before, "{now} of {before}");
                    before = now;
                    if ended == WaitStatus::Exited(child, 0) {
                        break;
                    }
                    assert!(matches!(ended, WaitStatus::Signaled(..)), "{ended:?}");
                    assert!(Origin::of(&root).unwrap().is_some() || now == LAYERS);
                    // A start that finds it removes what is half made.
                    if attempt % 2 == 1 && file(&root).exists() {
                        assert!(finish(&root).unwrap());
                        assert!(!root.join(INCOMING).exists());
                    }
                }
            }
        }
        assert_eq!(before, LAYERS);
        assert_eq!(Origin::of(&root).unwrap(), None);
        assert!(!root.join(INCOMING).exists());
    });
}

#[test]
fn without_space_it_is_still_of_the_store() {
    inside("detached::without_space_it_is_still_of_the_store", || {
        let (generation, root) = attached(&scratch());
        let small = root.with_file_name("small");
        fs::create_dir(&small).unwrap();
        let size = |options: &str, flags| {
            mount(Some("small"), &small, Some("tmpfs"), flags, Some(options)).unwrap();
        };
        size("size=8m", MsFlags::empty());
        copy(&root, &small);
        let error = detach(&small, &generation).unwrap_err();
        let fault = dind::messages::fault::Fault::from(error).to_string();
        assert!(fault.contains("No space left on device"), "{fault}");
        assert!(fault.contains("; free space in it"), "{fault}");
        let some = whole(&generation, &small);
        assert!((1..LAYERS).contains(&some), "{some}");
        assert!(Origin::of(&small).unwrap().is_some());
        assert!(!small.join(INCOMING).exists());
        size("size=64m", MsFlags::MS_REMOUNT);
        assert_eq!(detach(&small, &generation).unwrap().layers, LAYERS - some);
        assert_eq!(whole(&generation, &small), LAYERS);
        assert_eq!(Origin::of(&small).unwrap(), None);
    });
}

#[test]
fn a_fill_that_was_killed_is_finished_first() {
    inside("detached::a_fill_that_was_killed_is_finished_first", || {
        let (generation, root) = attached(&scratch());
        let incoming = root.join(INCOMING);
        fs::create_dir(&incoming).unwrap();
        for name in ["overlay2", "image", "dind-store.json"] {
            fs::rename(root.join(name), incoming.join(name)).unwrap();
        }
        assert!(Origin::of(&root).unwrap().is_some());
        assert_eq!(detach(&root, &generation).unwrap().layers, LAYERS);
        assert_eq!(whole(&generation, &root), LAYERS);
        assert!(root.join("image").is_dir());
    });
}

#[test]
fn a_layer_that_leads_elsewhere_is_not_taken() {
    inside(
        "detached::a_layer_that_leads_elsewhere_is_not_taken",
        || {
            let (generation, root) = attached(&scratch());
            let target = fs::read_link(diff(&root, 3)).unwrap();
            let layers = generation.store.join("layers");
            let layer = layers.join(target.file_name().unwrap());
            fs::remove_dir_all(&layer).unwrap();
            symlink("/etc", &layer).unwrap();
            let said = format!("{:#}", detach(&root, &generation).unwrap_err());
            assert!(said.contains("is neither a directory nor a file"), "{said}");
            assert_eq!(fs::read_link(diff(&root, 3)).unwrap(), target);
            assert!(Origin::of(&root).unwrap().is_some());
            assert!(!root.join(INCOMING).exists());
            // The directory of all layers is no link, either.
            fs::rename(&layers, generation.store.join("moved")).unwrap();
            symlink("moved", &layers).unwrap();
            let said = format!("{:#}", detach(&root, &generation).unwrap_err());
            assert!(said.contains("a symbolic link"), "{said}");
        },
    );
}

/// The store of a data root is found by its name and not by its path.
#[test]
fn a_generation_is_found_wherever_its_store_is() {
    inside(
        "detached::a_generation_is_found_wherever_its_store_is",
        || {
            let top = scratch();
            let (generation, root) = attached(&top);
            let origin = Origin::of(&root).unwrap().unwrap();
            let moved = top.join("moved");
            let (other, missing) = (top.join("other"), top.join("missing"));
            drop(generation);
            fs::rename(top.join("store"), &moved).unwrap();
            fs::create_dir_all(other.join("home")).unwrap();
            let find = |paths: &[&Path]| origin.find(paths.iter().copied());
            let found = find(&[&missing, &other, &moved]).unwrap().unwrap();
            assert_eq!(found.store, moved);
            assert!(find(&[&missing]).unwrap().is_none());
            assert!(format!("{:#}", find(&[&other]).unwrap_err()).contains("is not a store"));
            let gone = Origin {
                generation: 9,
                ..origin.clone()
            };
            assert!(gone.find([moved.as_path()]).unwrap().is_none());
            // One with the same number in another store is another one.
            let foreign = Origin {
                store: "x".to_owned(),
                ..origin
            };
            assert!(foreign.find([moved.as_path()]).unwrap().is_none());
            assert!(Store::open(&moved).unwrap().is_some());
        },
    );
}
