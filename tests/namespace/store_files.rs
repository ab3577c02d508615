//! Stores in one file, without an engine: what is read of their end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use dind::store::file::{StoreFile, finish};
use dind::store::manifest::{Ids, Layout, Manifest, Version};

/// What erofs has at 1024: `EROFS_SUPER_MAGIC_V1` of the kernel's fs/erofs/erofs_fs.h.
const EROFS: [u8; 4] = [0xE2, 0xE1, 0xF5, 0xE0];

/// The length of what comes behind the manifest, and of the mark at its end.
const END: usize = 96;
const MAGIC: usize = 16;

fn manifest() -> Manifest {
    Manifest {
        store: "a1".into(),
        generation: 3,
        created: 0,
        engine: Version::of("26.1.5").unwrap(),
        layout: Layout::Overlay2,
        build: "ab".into(),
        machine: "x86_64".into(),
        ids: Ids::Own,
        images: 1,
        steps: 2,
        layers: BTreeMap::from([("1-1".into(), 4096)]),
    }
}

/// A store with an image of as much as erofs begins with, for a test to change.
fn store(name: &str) -> (PathBuf, Vec<u8>) {
    let path = std::env::temp_dir().join(format!("dind-file-{name}-{}", std::process::id()));
    let mut image = vec![7; 8192];
    image.splice(1024..1028, EROFS);
    fs::write(&path, image).unwrap();
    let mut file = File::options().read(true).write(true).open(&path).unwrap();
    finish(&mut file, &manifest()).unwrap();
    let bytes = fs::read(&path).unwrap();
    (path, bytes)
}

fn refusal(path: &Path, bytes: &[u8]) -> String {
    fs::write(path, bytes).unwrap();
    StoreFile::open(path).unwrap_err().to_string()
}

#[test]
fn what_is_finished_is_read() {
    let (path, mut bytes) = store("read");
    let store = StoreFile::open(&path).unwrap().unwrap();
    assert!(store.is_whole().unwrap());
    assert_eq!(store.manifest, manifest());
    bytes[5000] = 8;
    fs::write(&path, &bytes).unwrap();
    assert!(!StoreFile::open(&path).unwrap().unwrap().is_whole().unwrap());
    fs::remove_file(&path).unwrap();
    assert!(StoreFile::open(&path).unwrap().is_none());
}

#[test]
fn what_is_cut_off_damaged_or_something_else_is_refused() {
    let (path, bytes) = store("refused");
    let end = bytes.len();
    for length in [2000, 8192, 8300, end - END, end - 1] {
        let said = refusal(&path, &bytes[..length]);
        assert!(
            said.contains("is cut off: its end is missing"),
            "{length}: {said}"
        );
    }
    // Each byte behind the image counts.
    for at in 8192..end - MAGIC {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        let said = refusal(&path, &bytes);
        assert!(said.contains("is damaged at its end"), "{at}: {said}");
    }
    let mut longer = vec![0; 4096];
    longer.extend(&bytes);
    assert!(refusal(&path, &longer).contains("is damaged at its end"));
    for garbage in [&b""[..], b"x", &[0; 4000]] {
        assert!(refusal(&path, garbage).contains("is not a store of dind's"));
    }
    let mut newer = bytes.clone();
    newer[end - 1] = b'2';
    assert!(refusal(&path, &newer).contains("of another version of dind"));
    fs::remove_file(&path).unwrap();
}
