//! The databases of BuildKit and containerd, as a killed or broken engine may leave them.
//!
//! A meta page has a checksum, which nothing gets right by chance: so both get the one that is
//! right for what they have, unless the input ends with an odd byte.

#![no_main]

use dind::store::bolt;
use dind::store::snapshots;
use libfuzzer_sys::fuzz_target;

/// Where a meta page's data begins, and where in it the checksum stands: bbolt's page.go, db.go.
const META: usize = 16;
const SUM: usize = 56;

/// FNV-1a, of 64 bits.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

fn mend(bytes: &mut [u8], at: usize) {
    if let Some(meta) = bytes.get_mut(at + META..at + META + SUM + 8) {
        let (content, sum) = meta.split_at_mut(SUM);
        sum.copy_from_slice(&checksum(content).to_le_bytes());
    }
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    if bytes.last().is_none_or(|last| last % 2 == 0) {
        mend(&mut bytes, 0);
        mend(&mut bytes, 4096);
    }
    let Ok(root) = bolt::read(&bytes) else {
        return;
    };
    let room = bytes.len();
    if let Ok(kinds) = snapshots::of_buildkit(&root) {
        assert!(kinds.len() <= room);
    }
    if let Ok(kinds) = snapshots::of_containerd(&root) {
        assert!(kinds.len() <= room);
    }
});
