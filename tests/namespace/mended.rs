//! What a power failure leaves of a data root that had begun with a store.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use dind::helpers::filler;
use dind::plan::engine::Filling;
use dind::store::detach::detach;
use dind::store::disk::Store;
use dind::store::mend::{BOOT, mend};
use dind::store::origin::INCOMING;
use dind::sys::signals::Inherited;

use super::kills::{own_run, tree, unmount};
use super::stores::{filling, names, three};
use super::{inside, scratch};

const OTHER_BOOT: &str = "5b7e0d4c-0f0e-4a7e-9f43-000000000000\n";

/// Begins with the store, or goes on with what is there.
fn begin(filling: &Filling) {
    let (generation, _) = filler::hold(filling, None).unwrap();
    filler::run(filling, &generation.unwrap(), &Inherited::read().unwrap()).unwrap();
    unmount();
}

/// A data root that has begun with generation 2, which has a file in several pieces and what a build
/// has written.
fn filled(top: &Path) -> (Filling, Store, PathBuf) {
    let (saving, store) = three(top);
    let data = store.generation(2).join("data");
    let database: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(data.join("buildkit/cache.db"), database).unwrap();
    for directory in ["d", "e"].map(|name| data.join("overlay2/c/diff").join(name)) {
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("x"), "text").unwrap();
    }
    fs::remove_file(store.path.join("current")).unwrap();
    symlink("generations/2", store.path.join("current")).unwrap();
    let filling = filling(&saving);
    begin(&filling);
    (filling, store, data)
}

/// What of a file a power failure leaves.
fn cut(path: &Path, length: u64) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(length).unwrap();
    file.set_modified(time).unwrap();
}

/// The files that the tests cut.
const CUT: [(&str, u64); 5] = [
    ("engine-id", 0),
    ("image/overlay2/layerdb/sha256/a/cache-id", 0),
    ("buildkit/cache.db", 200_000),
    ("buildkit/empty.db", 0),
    ("overlay2/c/diff/d/x", 1),
];

#[test]
fn what_a_power_failure_has_cut_off_is_written_again() {
    inside(
        "mended::what_a_power_failure_has_cut_off_is_written_again",
        || {
            own_run();
            let (filling, _, data) = filled(&scratch());
            let root = &filling.data_root;
            let read = |path: &str| fs::read(root.join(path)).unwrap();
            // In the same boot nothing is looked at.
            cut(&root.join("engine-id"), 1);
            begin(&filling);
            assert_eq!(read("engine-id"), b"i");
            assert!(root.join(BOOT).exists());
            for content in [OTHER_BOOT, ""] {
                fs::write(root.join(BOOT), content).unwrap();
                for (path, length) in CUT {
                    if root.join(path).exists() {
                        cut(&root.join(path), length);
                    }
                }
                begin(&filling);
                for (path, _) in CUT {
                    let stored = fs::read(data.join(path)).ok();
                    assert_eq!(fs::read(root.join(path)).ok(), stored, "{path}");
                }
                // It is on the disk now.
                assert!(!root.join(BOOT).exists());
            }
            cut(&root.join("engine-id"), 1);
            begin(&filling);
            assert_eq!(read("engine-id"), b"i");
        },
    );
}

#[test]
fn what_an_engine_has_changed_since_stays() {
    inside("mended::what_an_engine_has_changed_since_stays", || {
        own_run();
        let top = scratch();
        let (filling, _, _) = filled(&top);
        let root = &filling.data_root;
        fs::write(root.join("engine-id"), "x").unwrap();
        fs::remove_dir_all(root.join("overlay2/a")).unwrap();
        // Written to by a build, and not cut off: its time is another one.
        fs::write(root.join("overlay2/c/diff/d/x"), "t").unwrap();
        // Nothing outside is written to.
        let outside = top.join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("x"), "").unwrap();
        fs::remove_dir_all(root.join("overlay2/c/diff/e")).unwrap();
        symlink(&outside, root.join("overlay2/c/diff/e")).unwrap();
        fs::write(outside.join("cache-id"), "").unwrap();
        let id = root.join("image/overlay2/layerdb/sha256/b/cache-id");
        fs::remove_file(&id).unwrap();
        symlink(outside.join("cache-id"), &id).unwrap();
        fs::write(root.join(BOOT), OTHER_BOOT).unwrap();
        let before = tree(root);
        begin(&filling);
        let mut after = tree(root);
        after.insert((BOOT.into(), PathBuf::new()));
        assert_eq!(after, before);
        assert_eq!(fs::read(root.join("engine-id")).unwrap(), b"x");
        assert_eq!(fs::read(root.join("overlay2/c/diff/d/x")).unwrap(), b"t");
        for name in names(&outside) {
            assert_eq!(fs::read(outside.join(&name)).unwrap(), b"", "{name}");
        }
    });
}

/// The power has failed before the data root was in place.
#[test]
fn what_was_on_its_way_is_mended_too() {
    inside("mended::what_was_on_its_way_is_mended_too", || {
        own_run();
        let (filling, store, data) = filled(&scratch());
        let root = &filling.data_root;
        let incoming = root.join(INCOMING);
        let all = names(root);
        fs::create_dir(&incoming).unwrap();
        for name in all {
            fs::rename(root.join(&name), incoming.join(&name)).unwrap();
        }
        fs::write(incoming.join(BOOT), OTHER_BOOT).unwrap();
        cut(&incoming.join("engine-id"), 0);
        begin(&filling);
        assert_eq!(fs::read(root.join("engine-id")).unwrap(), b"id");
        // And where the data root is to be made independent next.
        fs::write(root.join(BOOT), OTHER_BOOT).unwrap();
        cut(&root.join("buildkit/cache.db"), 3);
        let generation = store.hold(2).unwrap().unwrap();
        detach(root, &generation).unwrap();
        let path = "buildkit/cache.db";
        assert_eq!(
            fs::read(root.join(path)).unwrap(),
            fs::read(data.join(path)).unwrap()
        );
        assert!(!root.join(BOOT).exists());
        assert_eq!(mend(root, &generation).unwrap(), 0);
    });
}
