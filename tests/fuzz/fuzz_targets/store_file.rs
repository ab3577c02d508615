//! The end of a store in one file, which PID 1 reads before the file is mounted. Input: the file, and
//! whether its last bytes are to be those of a store with the right sums, so that what they protect is
//! reached, too.

#![no_main]

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use dind::store::file::{StoreFile, finish};
use dind::store::manifest::Manifest;
use libfuzzer_sys::fuzz_target;
use nix::sys::memfd::{MFdFlags, memfd_create};

fuzz_target!(|input: (&[u8], &str, u8)| {
    let (bytes, manifest, cut) = input;
    let made = memfd_create(c"store", MFdFlags::empty()).expect("memfd_create(2)");
    let mut file = File::from(made);
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    file.write_all(bytes).expect("write(2)");
    let opened = |path| {
        StoreFile::open(path).inspect_err(|error| {
            // It is a part of one line of the log.
            let said = format!("{error:#}");
            assert!(!said.contains(char::is_control), "{said:?}");
        })
    };
    if let Ok(found) = opened(&path) {
        let store = found.expect("the file is there");
        let _ = store.is_whole();
    }
    let Ok(manifest) = Manifest::parse(manifest) else {
        return;
    };
    // What is finished is read, whatever the image is.
    finish(&mut file, &manifest).expect("write(2)");
    let store = opened(&path).expect("a store").expect("a file");
    assert_eq!(store.manifest, manifest);
    assert!(store.is_whole().expect("read(2)"));
    // Without a part of its end it is none.
    let length = file.metadata().expect("fstat(2)").len();
    let image = bytes.len() as u64;
    let left = image + u64::from(cut) % (length - image);
    file.set_len(left).expect("ftruncate(2)");
    assert!(left == image || opened(&path).is_err());
});
