//! The answer to a request, which comes from a daemon: whatever it is, and in whatever parts
//! it comes, it is the same. The first byte is the size of the parts.

#![no_main]

use dind::api::answer::Answer;
use libfuzzer_sys::fuzz_target;

/// What was made of it: the status, whether it is complete, and the content.
fn taken(bytes: &[u8], size: usize) -> Option<(Option<u16>, bool, Vec<u8>)> {
    let (mut answer, mut content) = (Answer::default(), Vec::new());
    for part in bytes.chunks(size) {
        answer.take(part, &mut content).ok()?;
    }
    let is_complete = answer.is_complete();
    // The end of the connection changes nothing about what is complete.
    assert!(!is_complete || answer.end());
    Some((answer.status(), is_complete, content))
}

fuzz_target!(|data: &[u8]| {
    let (size, bytes) = data.split_first().unwrap_or((&1, &[]));
    let whole = taken(bytes, bytes.len().max(1));
    let parts = taken(bytes, usize::from(*size).max(1));
    assert_eq!(whole, parts);
    if let Some((status, is_complete, content)) = whole {
        assert!(content.len() <= bytes.len());
        assert!(status.is_some() || (!is_complete && content.is_empty()));
    }
});
