//! What may hang, and must not hang PID 1: a file system that does not answer, a lock that
//! somebody else holds.

use crate::docker::{Container, Volume, dind, unprivileged};

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

/// Locks a file as a daemon does, with a record lock for writing, for ever.
const DAEMON: &str = r#"perl -MFcntl -e '
    open my $file, "+>>", $ARGV[0] or die $!;
    my $lock = pack "ssx4qqix4", F_WRLCK, 0, 0, 0, 0;
    fcntl $file, F_SETLK, $lock or die $!;
    open my $done, ">", "/locked";
    sleep' "#;

#[test]
fn certificates_behind_a_lock_that_is_held_hold_up_no_stop() {
    let container = dind()
        .prelude(&format!(
            "mkdir -p /certs/ca
             {DAEMON} /certs/ca/.dind-lock &
             while ! [ -e /locked ]; do sleep 0.1; done"
        ))
        .start(&[]);
    container.wait_log(
        "dind: waiting for /certs/ca/.dind-lock, which another daemon has locked",
        1,
    );
    // No daemon had been started, and a stop that was asked for ends well.
    assert_eq!(stopped(&container), "0");
}

/// Locks of both kinds on everything in the volume, and on each lock of a daemon as soon as it is
/// there: as much as a volume that is mounted read-only allows, to root or to anybody.
const CLIENT: &str = r#"
    for file in /certs /certs/* /certs/*/*; do
        ! [ -r $file ] || flock --nonblock $file sleep infinity &
    done
    exec perl -MFcntl -e '
        print STDERR "held\n";
        while (1) {
            open my $file, "<", "/certs/ca/.dind-lock" or next;
            push @held, $file;
            my $lock = pack "ssx4qqix4", F_RDLCK, 0, 0, 0, 0;
            fcntl $file, F_SETLK, $lock;
        }'"#;

/// A client that has the certificates' volume as it should cannot keep a daemon from its own
/// certificate, nor let it wait.
#[test]
fn what_a_client_locks_holds_up_no_start() {
    let volume = Volume::new();
    drop(dind().flags(volume.on("/certs")).ready(&[]));
    let [flag, mount] = volume.on("/certs:ro");
    for (user, name) in [("0", "second.example"), ("1000", "third.example")] {
        let client = unprivileged()
            .flags([flag.as_str(), &mount, "--user", user])
            .shell(CLIENT)
            .start(&[]);
        client.wait_log("held", 1);
        let daemon = dind()
            .flags(volume.on("/certs"))
            .env("DOCKER_TLS_SAN", &format!("DNS:{name}"))
            .ready(&[]);
        daemon.logged(&["dind: certificates in /certs: made server (the names changed)"]);
        daemon.not_logged(&["dind: warning: ", "certificates"]);
        daemon.not_logged(&["dind: waiting for /certs"]);
        daemon.sh(&format!(
            "openssl x509 -noout -ext subjectAltName -in /certs/server/cert.pem | grep -F DNS:{name}"
        ));
        assert!(client.runs());
    }
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

/// What dind reads in a container, by path: of the user's, the image's, Docker's and the kernel's,
/// without what mount(8) and the shell read.
const READ: &[&str] = &[
    "/etc/resolv.conf",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/group",
    "/etc/passwd",
    "/etc/docker/daemon.json",
    "/run/docker.pid",
    "/run/dind-provisioning",
    "/dev/null",
    "/usr/bin/dockerd",
    "/usr/bin/containerd",
    "/proc/1/cmdline",
    "/proc/misc",
    "/proc/sys/fs/inotify/max_user_instances",
    "/sys/module/apparmor/parameters/enabled",
    "/sys/fs/cgroup/cgroup.controllers",
    "/sys/fs/cgroup/cgroup.procs",
];

/// In the place of each, a FIFO that nobody writes to, and a file without an end: whoever only
/// reads gets by, or says what is wrong.
#[test]
fn what_is_no_file_or_too_large_is_not_waited_for() {
    let container = dind()
        .flags(["--no-healthcheck"])
        .shell("exec sleep infinity")
        .start(&[]);
    let script = format!(
        "mkfifo /fifo; truncate -s 4T /huge
         mkdir -p /etc/docker
         touch /etc/docker/daemon.json /run/docker.pid /run/dind-provisioning
         for path in {}; do
             [ -e $path ] || continue
             for other in /fifo /huge; do
                 mount --bind $other $path || {{ echo $path cannot be covered; continue; }}
                 for what in plan doctor health; do
                     timeout --signal=KILL 60 dind $what >/out 2>&1
                     case $? in 0 | 1) ;; *) echo $path $other $what: $?; tail -n 3 /out ;; esac
                 done
                 umount $path
             done
         done
         timeout --signal=KILL 60 dind plan dockerd --data-root=/fifo >/out || cat /out",
        READ.join(" ")
    );
    assert_eq!(container.sh(&script), "");
}

/// And a start with them is stopped in order.
#[test]
fn what_is_no_file_or_too_large_holds_up_no_stop() {
    for other in ["mkfifo /other", "truncate -s 4T /other"] {
        let container = dind()
            .prelude(&format!(
                "{other}
                 for path in /etc/resolv.conf /etc/hostname /etc/hosts /etc/group /etc/passwd; do
                     mount --bind /other $path
                 done"
            ))
            .start(&["--dns=192.0.2.1"]);
        container.wait_log("dind: ", 1);
        assert_ne!(stopped(&container), "137", "{other}");
    }
    let container = dind().prelude("rm /dev/null; mkfifo /dev/null").start(&[]);
    assert_eq!(container.wait(), 1);
    container.logged(&["dind: error: cannot open /dev/null: not a device; check"]);
}
