//! What changes a store, or a data root from one, is killed before each of its system calls in
//! turn. A SIGKILL takes effect between two of them, so these are all the moments there are.

#![expect(
    unsafe_code,
    reason = "ptrace(2) and waitpid(2) of the child that is to be killed"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::ptr;

use dind::helpers::{filler, publisher};
use dind::plan::engine::{Filling, Saving};
use dind::programs::store as program;
use dind::store::clean;
use dind::store::disk::{MOUNT_POINT, Store, layer_of};
use dind::store::mend::BOOT;
use dind::store::origin::{ORIGIN, Origin};
use dind::sys::process;
use dind::sys::signals::Inherited;
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{ForkResult, Pid};

use super::stores::{copy, engine, filling, layer, names, publish, saving, three};
use super::{inside, scratch};

/// Waits until the child has ended, which is `None`, or stops for a signal.
fn wait(child: Pid) -> Option<i32> {
    let mut status = 0;
    // SAFETY: the kernel writes one integer to `status`.
    let waited = unsafe { libc::waitpid(child.as_raw(), &raw mut status, libc::__WALL) };
    Errno::result(waited).unwrap();
    if libc::WIFSTOPPED(status) {
        return Some(libc::WSTOPSIG(status));
    }
    let ended = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
    let killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
    assert!(ended || killed, "the child ended with {status:#x}");
    None
}

fn trace(request: libc::c_uint, child: Pid) {
    let nothing = ptr::null_mut::<libc::c_void>();
    // SAFETY: these requests read nothing at an address.
    let done = unsafe { libc::ptrace(request, child.as_raw(), nothing, nothing) };
    Errno::result(done).unwrap();
}

/// Has `work` done by a child, which stops before its system call of this number, counted from 0.
/// `None` where it makes no call of that number, and so has done its work.
fn stopped(call: usize, work: impl FnOnce()) -> Option<Pid> {
    let child = match process::fork().unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            trace(libc::PTRACE_TRACEME, Pid::from_raw(0));
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP).unwrap();
            work();
            // SAFETY: takes an integer and does not return.
            unsafe { libc::_exit(0) }
        }
    };
    assert_eq!(wait(child), Some(libc::SIGSTOP));
    // It stops before a call and after it.
    for _ in 0..=2 * call {
        trace(libc::PTRACE_SYSCALL, child);
        match wait(child) {
            Some(libc::SIGTRAP) => {}
            Some(signal) => panic!("the child got signal {signal}"),
            None => return None,
        }
    }
    Some(child)
}

/// Has `work` done by a child that is killed before its system call of this number. Returns false
/// where it makes no such call.
fn is_killed(call: usize, work: impl FnOnce()) -> bool {
    let Some(child) = stopped(call, work) else {
        return false;
    };
    process::kill(child, libc::SIGKILL).unwrap();
    assert_eq!(wait(child), None);
    true
}

/// Lets a stopped child go on to its end.
fn end(child: Pid) {
    trace(libc::PTRACE_CONT, child);
    while wait(child).is_some() {
        trace(libc::PTRACE_CONT, child);
    }
}

/// Does something with a fresh scratch directory for each call that `work` makes, until it ends by
/// itself, and returns how many there were.
fn at_each_call(mut one: impl FnMut(usize, &Path) -> bool) -> usize {
    let top = scratch();
    for call in 0.. {
        let path = top.join(call.to_string());
        fs::create_dir(&path).unwrap();
        if !one(call, &path) {
            return call;
        }
        fs::remove_dir_all(&path).unwrap();
    }
    unreachable!("the numbers do not end")
}

/// All that the generations in sight need is there.
#[track_caller]
fn is_whole(store: &Store, call: usize) {
    let (text, whole) = program::check(&store.path).unwrap();
    assert!(whole, "killed before call {call}:\n{text}");
}

/// There is nothing in the store but what its generations need.
#[track_caller]
fn is_clean(store: &Store, call: usize) {
    let mut needed = BTreeSet::new();
    for number in store.generations().unwrap() {
        let manifest = store.look(number).unwrap().unwrap();
        needed.extend(manifest.layers.into_keys());
    }
    let there: BTreeSet<String> = names(&store.layers()).into_iter().collect();
    assert_eq!(there, needed, "killed before call {call}");
    let generations = names(&store.path.join("generations"));
    let hidden = generations.iter().find(|name| name.starts_with('.'));
    assert_eq!(hidden, None, "killed before call {call}");
    let mut top = names(&store.path);
    top.retain(|name| name != "saving" && name != "lock");
    assert_eq!(top, ["current", "format", "generations", "layers"]);
    assert_eq!(names(&store.path.join("saving")), Vec::<String>::new());
}

/// A save on top of the current generation, to the end, whose engine leaves these layers.
fn save(saving: &Saving, store: &Store, layers: &[&str]) {
    let base = store.hold_current().unwrap();
    publisher::begin(saving).unwrap();
    if let Some(base) = &base {
        copy(&base.path.join("data"), &saving.data_root);
    }
    engine(&saving.data_root, layers);
    publish(saving, base.as_ref());
}

/// The layers of the current generation, by the engine's names for them.
fn current(store: &Store) -> Vec<String> {
    let generation = store.hold_current().unwrap().unwrap();
    let mut layers = names(&generation.path.join("data/overlay2"));
    layers.retain(|name| name != "l");
    layers
}

#[test]
fn a_save_that_is_killed_leaves_the_store_as_it_was() {
    inside(
        "kills::a_save_that_is_killed_leaves_the_store_as_it_was",
        || {
            let mut published = 0;
            let calls = at_each_call(|call, top| {
                let (saving, store) = saving(top);
                save(&saving, &store, &["a"]);
                let base = store.hold_current().unwrap();
                copy(&base.as_ref().unwrap().path.join("data"), &saving.data_root);
                engine(&saving.data_root, &["a", "b"]);
                let killed = is_killed(call, || {
                    publish(&saving, base.as_ref());
                });
                is_whole(&store, call);
                let expected = match store.current().unwrap() {
                    Some(1) => vec!["a"],
                    Some(2) => vec!["a", "b"],
                    other => panic!("killed before call {call}: {other:?} is current"),
                };
                published += usize::from(expected.len() == 2);
                assert_eq!(current(&store), expected, "killed before call {call}");
                drop(base);
                // The next one cleans up, whether or not it makes something.
                publisher::begin(&saving).unwrap();
                is_whole(&store, call);
                is_clean(&store, call);
                assert_eq!(current(&store), expected, "killed before call {call}");
                let next: Vec<&str> = expected.into_iter().chain(["c"]).collect();
                save(&saving, &store, &next);
                is_whole(&store, call);
                is_clean(&store, call);
                assert_eq!(current(&store), next, "killed before call {call}");
                killed
            });
            // It is the work that was interrupted, and not what comes before or after it.
            assert!(
                calls > 100 && (2..calls / 2).contains(&published),
                "{published} of {calls}"
            );
        },
    );
}

#[test]
fn the_first_save_that_is_killed_leaves_no_store_or_one() {
    inside(
        "kills::the_first_save_that_is_killed_leaves_no_store_or_one",
        || {
            let calls = at_each_call(|call, top| {
                let path = top.join("store");
                let killed = is_killed(call, || {
                    publisher::make(&path).unwrap();
                });
                assert!(
                    Store::open(&path)
                        .unwrap()
                        .is_none_or(|store| store.current().unwrap().is_none())
                );
                let (saving, store) = saving(top);
                save(&saving, &store, &["a"]);
                is_whole(&store, call);
                is_clean(&store, call);
                killed
            });
            assert!(calls > 10, "{calls}");
        },
    );
}

#[test]
fn a_prune_that_is_killed_leaves_every_generation_whole_or_none() {
    inside(
        "kills::a_prune_that_is_killed_leaves_every_generation_whole_or_none",
        || {
            let calls = at_each_call(|call, top| {
                let (_, store) = three(top);
                let held = store.hold(2).unwrap().unwrap();
                let killed = is_killed(call, || {
                    let _locked = clean::lock(&store).unwrap();
                    clean::prune(&store, 1).unwrap();
                });
                is_whole(&store, call);
                let left = store.generations().unwrap();
                assert!(
                    left == [1, 2, 3] || left == [2, 3],
                    "killed before call {call}: {left:?}"
                );
                assert_eq!(layer(&held, "a"), "1-1");
                assert!(store.layers().join("1-1/file").exists());
                drop(held);
                // The lock went with the one that was killed.
                let locked = clean::lock(&store).unwrap();
                clean::prune(&store, 1).unwrap();
                drop(locked);
                assert_eq!(store.generations().unwrap(), [3]);
                is_whole(&store, call);
                is_clean(&store, call);
                killed
            });
            assert!(calls > 50, "{calls}");
        },
    );
}

/// Whoever gets hold of a generation at whatever moment of a prune has it for as long as he likes.
#[test]
fn what_is_held_at_any_moment_of_a_prune_stays() {
    inside("kills::what_is_held_at_any_moment_of_a_prune_stays", || {
        let mut held = 0;
        let calls = at_each_call(|call, top| {
            let (_, store) = three(top);
            let child = stopped(call, || {
                let _locked = clean::lock(&store).unwrap();
                clean::prune(&store, 1).unwrap();
            });
            let generation = store.hold(1).unwrap();
            if let Some(child) = child {
                end(child);
            }
            if let Some(generation) = generation {
                held += 1;
                assert_eq!(store.generations().unwrap(), [1, 3], "from call {call}");
                assert_eq!(layer(&generation, "a"), "1-1");
                assert!(store.layers().join("1-1/file").exists());
            } else {
                assert_eq!(store.generations().unwrap(), [3], "from call {call}");
            }
            is_whole(&store, call);
            child.is_some()
        });
        assert!((10..calls - 10).contains(&held), "{held} of {calls}");
    });
}

/// What an engine is to find in a data root: each path, and where its links lead to.
pub fn tree(top: &Path) -> BTreeSet<(PathBuf, PathBuf)> {
    let mut found = BTreeSet::new();
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let target = match metadata.is_symlink() {
            true => fs::read_link(&path).unwrap(),
            false => PathBuf::new(),
        };
        if metadata.is_dir() {
            left.extend(names(&path).iter().map(|name| path.join(name)));
        }
        found.insert((path.strip_prefix(top).unwrap().to_owned(), target));
    }
    found
}

/// A `/run` of the test's own, for the mount point of stores.
pub fn own_run() {
    let flags = MsFlags::empty();
    mount(Some("run"), "/run", Some("tmpfs"), flags, None::<&str>).unwrap();
}

pub fn unmount() {
    while umount2(MOUNT_POINT, MntFlags::MNT_DETACH).is_ok() {}
}

/// Begins with the store, or goes on with what is there of it. Returns the generation.
fn begin(filling: &Filling) -> u64 {
    let (generation, _) = filler::hold(filling, None).unwrap();
    let generation = generation.unwrap();
    filler::run(filling, &generation, &Inherited::read().unwrap()).unwrap();
    generation.manifest.generation
}

/// In between, another generation is published. The data root gets the first one or that one, and
/// no mixture of both.
#[test]
fn a_start_from_a_store_that_is_killed_goes_on_where_it_was() {
    inside(
        "kills::a_start_from_a_store_that_is_killed_goes_on_where_it_was",
        || {
            own_run();
            let mut later = 0;
            let calls = at_each_call(|call, top| {
                let (saving, store) = saving(top);
                save(&saving, &store, &["a", "b"]);
                let new = filling(&saving);
                let killed = is_killed(call, || {
                    assert_eq!(begin(&new), 1);
                });
                unmount();
                save(&saving, &store, &["a", "b", "c"]);
                let number = begin(&new);
                unmount();
                later += usize::from(number == 2);
                let mut found = tree(&new.data_root);
                let before = found.len();
                found.retain(|(path, _)| !path.starts_with(ORIGIN) && !path.starts_with(BOOT));
                assert_eq!(found.len(), before - 2);
                let data = store.generation(number).join("data");
                assert_eq!(found, tree(&data), "killed before call {call}");
                let origin = Origin::of(&new.data_root).unwrap().unwrap();
                assert_eq!(origin.generation, number, "killed before call {call}");
                // From then on it is of that generation, and nothing is filled again.
                assert_eq!(begin(&new), number);
                unmount();
                killed
            });
            assert!(
                calls > 200 && (50..calls).contains(&later),
                "{later} of {calls}"
            );
        },
    );
}

#[test]
fn a_store_that_cannot_be_mounted_is_not_used() {
    inside("kills::a_store_that_cannot_be_mounted_is_not_used", || {
        own_run();
        let top = scratch();
        let (saving, store) = saving(&top);
        save(&saving, &store, &["a"]);
        // Where it is to be, there is a file.
        fs::write(MOUNT_POINT, "").unwrap();
        for strict in [false, true] {
            let filling = Filling {
                strict,
                ..filling(&saving)
            };
            let (generation, _) = filler::hold(&filling, None).unwrap();
            let generation = generation.unwrap();
            let filled = filler::run(&filling, &generation, &Inherited::read().unwrap());
            let said = filled.map_or_else(|error| format!("{error:?}"), |()| String::new());
            assert_eq!(strict, said.contains(MOUNT_POINT), "{said}");
            assert_eq!(names(&filling.data_root), Vec::<String>::new());
        }
        // A data root that depends on it does not go on without it, strict or not.
        fs::remove_file(MOUNT_POINT).unwrap();
        let filling = Filling {
            strict: false,
            ..filling(&saving)
        };
        assert_eq!(begin(&filling), 1);
        unmount();
        let before = tree(&filling.data_root);
        fs::remove_dir(MOUNT_POINT).unwrap();
        fs::write(MOUNT_POINT, "").unwrap();
        let (generation, _) = filler::hold(&filling, None).unwrap();
        let inherited = Inherited::read().unwrap();
        filler::run(&filling, &generation.unwrap(), &inherited).unwrap_err();
        assert_eq!(tree(&filling.data_root), before);
        let link = filling.data_root.join("overlay2/a/diff");
        assert_eq!(layer_of(&fs::read_link(link).unwrap()), Some("1-1"));
    });
}
