//! What may hang, and must not hang PID 1: a file system that does not answer, a lock that
//! somebody else holds.

use crate::docker::{Container, dind};

/// A file system in user space whose process is stopped: who touches it waits.
const DEAD: &str = "mkdir -p /x/lower /x/upper /x/work /dead
     fuse-overlayfs -o lowerdir=/x/lower,upperdir=/x/upper,workdir=/x/work /dead
     pkill -STOP fuse-overlayfs";

/// Stops it with more patience than it should ever need; SIGKILL would be 137.
#[track_caller]
fn stopped(container: &Container) -> String {
    container.docker(&["stop", "--time", "60"]).exited(0);
    container.inspect("{{.State.ExitCode}}")
}

#[test]
fn a_data_root_that_does_not_answer_holds_up_no_stop() {
    let container = dind().prelude(DEAD).start(&["--data-root=/dead/docker"]);
    container.wait_log("dind: waiting for /dead/docker, which is on fuse", 1);
    assert_eq!(stopped(&container), "143");
    container.logged(&["dind: error: stopped while waiting for /dead/docker"]);
}

#[test]
fn a_data_root_that_does_not_answer_is_named() {
    let container = dind()
        .prelude(DEAD)
        .env("DIND_READY_TIMEOUT", "2")
        .start(&["--data-root=/dead/docker"]);
    assert_eq!(container.wait(), 1);
    container.logged(&[
        "dind: error: /dead/docker is on fuse",
        "has not answered for 2 s; check its server",
    ]);
}

/// Where dockerd does not start, PID 1 has a child look for the reason: it looks at the data root,
/// too.
#[test]
fn a_data_root_that_stops_answering_holds_up_no_end() {
    let alive = DEAD.replace("pkill -STOP fuse-overlayfs", "");
    let container = dind()
        .prelude(&format!(
            "{alive}
             mkdir -p /etc/dind/pre-start.d
             printf '#!/bin/sh\\npkill -STOP fuse-overlayfs\\n' >/etc/dind/pre-start.d/stop
             chmod 0755 /etc/dind/pre-start.d/stop"
        ))
        .env("DIND_STORAGE", "none")
        .start(&["--data-root=/dead/docker", "--no-such-flag"]);
    assert_eq!(container.wait(), 1);
    container.logged(&["dockerd exited with status 1 before it was ready"]);
}

#[test]
fn certificates_behind_a_lock_that_is_held_hold_up_no_stop() {
    let container = dind()
        .prelude(
            "mkdir -p /certs/ca
             flock /certs/ca sleep 600 &
             while flock --nonblock /certs/ca true; do sleep 0.1; done",
        )
        .start(&[]);
    container.wait_log(
        "dind: waiting for /certs/ca, which another daemon has locked",
        1,
    );
    // No daemon had been started, and a stop that was asked for ends well.
    assert_eq!(stopped(&container), "0");
}

/// Whoever may not write to the mark of a start cannot make a container unhealthy, whatever it
/// locks; and a probe need not be root.
#[test]
fn what_a_user_inside_locks_makes_nobody_unhealthy() {
    let container = dind()
        .prelude(
            "mkdir -p /etc/dind/post-start.d
             printf '#!/bin/sh\nwhile ! [ -e /go ]; do sleep 0.1; done\n' >/etc/dind/post-start.d/wait
             chmod 0755 /etc/dind/post-start.d/wait",
        )
        .start(&[]);
    container.wait_log("dind: hook /etc/dind/post-start.d/wait", 1);
    let hold = "cd /run && flock --nonblock dind-provisioning echo held
        flock dind-provisioning sleep infinity & exec perl -MFcntl -e '
        open my $file, \"<\", \"dind-provisioning\" or die $!;
        my $lock = pack \"ssx4qqix4\", F_RDLCK, 0, 0, 0, 0;
        fcntl $file, F_SETLKW, $lock or die $!; sleep'";
    let held = container
        .exec_call(&["--user", "1000"], &["sh", "-c", hold])
        .stream();
    assert_eq!(held.next_line().as_deref(), Some("held"));
    let health = |user: &str, words: &[&str]| {
        let command = [&["dind", "health"][..], words].concat();
        container.exec_call(&["--user", user], &command).finish()
    };
    // A member of the group may ask the daemon.
    for user in ["0", "1000:docker"] {
        health(user, &[])
            .exited(1)
            .says(&["images are being loaded, or post-start hooks are running"]);
    }
    container.sh("touch /go");
    container.wait_ready();
    for user in ["0", "1000:docker"] {
        health(user, &[]).exited(0);
        health(user, &["--wait", "60"]).exited(0);
    }
}
