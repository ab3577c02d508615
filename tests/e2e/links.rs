//! Symbolic links and pipes where dind writes, put there by whoever shares the volume.

use crate::docker::{Volume, dind};

/// In a directory that others have, the daemons' log is appended to no file of their
/// choice, and nobody waits for a reader of a pipe.
#[test]
fn a_log_file_in_a_shared_directory_is_no_way_out_of_it() {
    for planted in [
        "touch /chosen; ln -s /chosen /var/log/docker.log",
        "touch /chosen; mkfifo /var/log/docker.log",
    ] {
        let volume = Volume::new();
        let spec = dind().flags(volume.on("/var/log")).env("LOG", "file");
        let container = spec.prelude(planted).ready(&[]);
        container.logged(&["dind: warning: cannot write /var/log/docker.log"]);
        assert_eq!(container.text(&["cat", "/chosen"]), "", "{planted}");
        container.text(&["docker", "version"]);
    }
}

/// What the image has there is its own choice.
#[test]
fn a_link_of_the_images_own_is_followed() {
    let container = dind()
        .env("LOG", "file")
        .prelude("ln -s /chosen /var/log/docker.log")
        .ready(&[]);
    container.not_logged(&["cannot write"]);
    assert!(container.text(&["cat", "/chosen"]).contains("level="));
    let container = dind()
        .env("LOG", "file")
        .prelude("ln -s /dev/stderr /var/log/docker.log")
        .ready(&[]);
    container.logged(&["API listen on"]);
}

/// The last lines that are shown of the log are those of the file that was written to.
#[test]
fn another_file_under_the_logs_name_is_not_shown() {
    // dockerd itself, once somebody has exchanged the file.
    let output = dind()
        .env("LOG", "file")
        .env("DIND_TMPFS", "off")
        .prelude(
            "mkdir /tmp/bin; PATH=/tmp/bin:$PATH
            cat >/tmp/bin/dockerd <<'END'
#!/bin/sh
echo hunter2 >/secret
ln -sf /secret /var/log/docker.log
exec /usr/sbin/dockerd \"$@\"
END
            chmod +x /tmp/bin/dockerd",
        )
        .run(&["--no-such-flag"])
        .exited(1);
    assert!(!output.stderr.contains("hunter2"), "{}", output.stderr);
    output.says(&["| ", "unknown flag: --no-such-flag"]);
}

/// A pid file that is a link is removed, and not what it leads to.
#[test]
fn a_linked_pid_file_does_not_take_another_file_along() {
    let container = dind()
        .prelude("mkdir -p /run/docker; echo kept >/chosen; ln -s /chosen /run/docker.pid")
        .ready(&[]);
    assert_eq!(container.text(&["cat", "/chosen"]), "kept");
    container.text(&["sh", "-c", "kill -0 $(cat /run/docker.pid)"]);
}
