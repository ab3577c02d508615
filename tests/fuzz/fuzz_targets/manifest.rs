//! A store's manifest, which whoever can write to the store has written.

#![no_main]

use dind::store::disk::{Counts, layer_of, link_to};
use dind::store::manifest::{Manifest, Version};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Some(version) = Version::of(text) {
        assert_eq!(Version::of(&version.to_string()), Some(version));
    }
    if let Some(counts) = Counts::parse(text) {
        assert_eq!(Counts::parse(&counts.print()), Some(counts));
    }
    let manifest = match Manifest::parse(text) {
        Ok(manifest) => manifest,
        Err(error) => {
            // It is a part of one line of the log.
            assert!(
                !format!("{error:#}").contains(char::is_control),
                "{error:?}"
            );
            return;
        }
    };
    for layer in manifest.layers.keys() {
        // One name in the directory of layers, and no other place.
        assert!(!layer.contains('/') && !layer.contains("..") && !layer.is_empty());
        assert_eq!(layer_of(&link_to(layer)), Some(layer.as_str()));
    }
    assert!(
        manifest
            .store
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric())
    );
    let _ = manifest.bytes();
    let printed = Manifest::parse(&manifest.print());
    assert_eq!(printed.ok(), Some(manifest));
});
