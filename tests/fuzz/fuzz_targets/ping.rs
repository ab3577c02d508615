//! The answer to `GET /_ping`, from a real socket. The first byte is the size of the parts
//! in which it comes.

#![no_main]

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::LazyLock;

use dind::api::ping::{Ping, Progress};
use libfuzzer_sys::fuzz_target;

static LISTENER: LazyLock<(PathBuf, UnixListener)> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("dind-fuzz-ping-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap_or_else(|error| panic!("{error}"));
    (path, listener)
});

fuzz_target!(|data: &[u8]| {
    let (path, listener) = &*LISTENER;
    let (part, answer) = data.split_first().unwrap_or((&1, &[]));
    // More than is ever read, and less than a socket's buffer.
    let answer = &answer[..answer.len().min(1024)];
    let mut ping = Ping::ask(path).unwrap_or_else(|error| panic!("{error}"));
    let (mut daemon, _) = listener.accept().unwrap_or_else(|error| panic!("{error}"));
    assert!(matches!(ping.advance(), Progress::Waiting));
    let is_answer = answer.starts_with(b"HTTP/1.");
    let mut sent = 0;
    for part in answer.chunks(usize::from(*part).max(1)) {
        if daemon.write_all(part).is_err() {
            break;
        }
        sent += part.len();
        match ping.advance() {
            Progress::Answered => return assert!(is_answer),
            Progress::Refused(_) => return assert!(!is_answer),
            Progress::Waiting => assert!(b"HTTP/1.".starts_with(&answer[..sent]) || sent > 64),
        }
        assert!(sent < 7 + 64, "goes on waiting");
    }
    // The daemon is gone before it has answered.
    drop(daemon);
    assert!(!is_answer);
    assert!(matches!(ping.advance(), Progress::Refused(_)));
});
