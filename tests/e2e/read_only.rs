//! `docker run --read-only`: what has to be writable is said at once, and is enough.

use crate::docker::{Output, Spec, dind};

fn read_only() -> Spec {
    dind().flags(["--read-only"])
}

/// The flags that the one line of a start that cannot be tells.
#[track_caller]
fn told(output: Output) -> Vec<String> {
    let output = output.exited(1);
    let lines: Vec<&str> = output.stderr.lines().collect();
    let [line] = lines[..] else {
        panic!("one line is wanted: {lines:?}");
    };
    assert!(line.starts_with("dind: error: /run"), "{line}");
    let (_, flags) = line.split_once("docker run ").expect("the flags");
    flags.split(' ').map(str::to_owned).collect()
}

/// A server and a session, with TLS and without: with the flags that were told it starts, and
/// containers run.
#[test]
fn the_flags_that_are_told_are_enough() {
    for (spec, command) in [
        (read_only(), &[][..]),
        (read_only().env("DOCKER_TLS_CERTDIR", ""), &["--debug"]),
        (
            read_only().flags(["--entrypoint", "dockerd-entrypoint.sh"]),
            &[],
        ),
        (read_only().env("LOG", "file"), &["sleep", "infinity"]),
        (
            read_only().flags(["--entrypoint", "wrapdocker"]),
            &["sleep", "infinity"],
        ),
    ] {
        let flags = told(spec.run(command));
        let container = spec.flags(&flags).ready(command);
        container.load_busybox();
        assert_eq!(
            container.inner(&[], &["echo", "inside"]),
            "inside",
            "{flags:?}"
        );
        container.not_logged(&["dind: warning:", "ead-only"]);
    }
}
