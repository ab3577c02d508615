//! Limits of containers inside, which need the cgroup controllers there; and the resource limits of
//! the daemons, which containers inside inherit.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use crate::docker::{Container, dind, line_with};

/// The files that hold the limits, on version 2 and on version 1 of cgroups.
const READ_LIMITS: &str = "
    for files in 'memory.max memory/memory.limit_in_bytes' \
                 'cpu.max cpu/cpu.cfs_quota_us' \
                 'pids.max pids/pids.max'; do
        for file in $files; do
            [ ! -e /sys/fs/cgroup/$file ] || echo $(cat /sys/fs/cgroup/$file)
        done
    done";

/// Fails unless a container inside has the limits that it was given.
#[track_caller]
pub fn limits_hold(container: &Container) {
    container.load_busybox();
    let limits = container.inner(
        &["-m", "64m", "--cpus", "0.5", "--pids-limit", "33"],
        &["sh", "-c", READ_LIMITS],
    );
    let lines: Vec<&str> = limits.lines().collect();
    assert_eq!(lines[0], "67108864", "bytes of memory");
    // Version 1 has the period in a file of its own.
    assert!(
        matches!(lines[1], "50000" | "50000 100000"),
        "µs: {}",
        lines[1]
    );
    assert_eq!(lines[2], "33", "processes");
    assert_eq!(lines.len(), 3, "{limits}");
}

/// `-m`, `--cpus` and `--pids-limit` of a container inside are in its cgroup.
#[test]
fn limits_are_in_the_cgroup_of_a_container_inside() {
    limits_hold(&dind().ready(&[]));
}

/// A limit holds: a container that wants more memory than it may have is killed.
#[test]
fn a_memory_limit_holds() {
    let container = dind().ready(&[]);
    container.load_busybox();
    a_limit_of_memory_holds(&container);
}

/// Fails unless the kernel enforces it. The engine has the small image.
#[track_caller]
pub fn a_limit_of_memory_holds(container: &Container) {
    // dd keeps one block of this size in memory.
    let allocate = ["dd", "if=/dev/zero", "of=/dev/null", "bs=256M", "count=1"];
    let run = |limit: &str| {
        let words = ["docker", "run", "--memory", limit, "--memory-swap", limit];
        let words = words.into_iter().chain([crate::docker::BUSYBOX]);
        let words: Vec<&str> = words.chain(allocate).collect();
        container.exec(&words)
    };
    run("32m").exited(137);
    run("512m").exited(0);
}

/// Where nothing is mounted on /sys/fs/cgroup, the hierarchies are mounted as the
/// parent has them, and limits hold; by each contract that starts an engine.
#[test]
fn hierarchies_are_mounted_where_there_are_none() {
    for contract in ["dind", "wrapdocker"] {
        let container = dind()
            .prelude("umount -R /sys/fs/cgroup; [ -z \"$(ls /sys/fs/cgroup)\" ]")
            .env("DIND_CONTRACT", contract)
            .start(&["sh", "-c", "echo session runs; while :; do sleep 0.1; done"]);
        container.wait_log("session runs", 1);
        limits_hold(&container);
    }
}

/// Where it came read-only it is made writable, and limits hold.
#[test]
fn read_only_hierarchies_are_made_writable() {
    let container = dind()
        .prelude(
            r"
            for target in $(awk '$2 ~ /^.sys.fs.cgroup/ { print $2 }' /proc/mounts); do
                mount -o remount,bind,ro $target
            done
            ! mkdir /sys/fs/cgroup/tried /sys/fs/cgroup/*/tried 2>/dev/null
            ",
        )
        .ready(&[]);
    limits_hold(&container);
}

/// Processes that others put into the container while it starts, as health checks
/// do, do not keep the controllers from the containers inside.
#[test]
fn a_storm_of_exec_does_no_harm() {
    let container = dind().create(&[]);
    let ready = AtomicBool::new(false);
    let succeeded = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !ready.load(Ordering::Relaxed) {
                    if container.exec(&["true"]).status == 0 {
                        succeeded.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        container.docker(&["start"]).exited(0);
        // In a thread that may fail without leaving the others to go on for ever.
        let waited = scope.spawn(|| container.wait_ready()).join();
        ready.store(true, Ordering::Relaxed);
        waited.expect("ready in spite of the storm");
    });
    assert!(succeeded.into_inner() > 0, "some of the storm was inside");
    limits_hold(&container);
}

/// What prints the soft and the hard limit of open files of both daemons, of a shim, of a container
/// inside, and of the command; then whether hard limits can be raised here.
const OPEN_FILES: &str = r#"
    docker load --quiet >/dev/null </busybox.tar
    docker run --detach dind-lab/busybox sleep 1000 >/dev/null
    for name in dockerd containerd containerd-shim; do
        pid=$(pgrep -o "^$name")
        echo $name $(awk '/^Max open files/ { print $5 }' /proc/$pid/limits)
    done
    inner=$(docker run --rm dind-lab/busybox sh -c 'echo $(ulimit -Sn):$(ulimit -Hn)')
    echo inner $inner
    echo command $(ulimit -Sn):$(ulimit -Hn)
    setpriv --dump | grep -q '^Capability bounding set:.*sys_resource' && echo raises || :
"#;

#[track_caller]
fn open_files(limit: &str) -> (String, String) {
    let spec = dind().flags(["--ulimit".to_owned(), format!("nofile={limit}")]);
    let spec = spec.flags(["-v".to_owned(), {
        format!("{}:/busybox.tar:ro", crate::docker::lab("DIND_LAB_BUSYBOX"))
    }]);
    let output = spec.run(&["sh", "-c", OPEN_FILES]).exited(0);
    (output.stdout, output.stderr)
}

/// With a low limit of open files, the daemons and containers inside get what is allowed, and the
/// command has its own. That is a note.
#[test]
fn a_low_limit_of_open_files_is_raised_where_that_is_allowed() {
    let (said, log) = open_files("256:4096");
    let (soft, hard) = match said.contains("raises") {
        true => ("1048576", "1048576:1048576"),
        false => ("4096", "4096:4096"),
    };
    for name in ["dockerd", "containerd", "containerd-shim"] {
        assert!(said.contains(&format!("{name} {soft}\n")), "{said}");
    }
    assert!(said.contains(&format!("inner {hard}\n")), "{said}");
    assert!(said.contains("command 256:4096\n"), "{said}");
    let note = ["dind: limits: open files", hard, "256:4096"];
    assert!(line_with(&log, &note).is_some(), "{log}");
}

/// A limit that cannot be raised is warned of, and by `dind doctor`, too.
#[test]
fn a_low_limit_of_open_files_that_stays_is_warned_of() {
    let (said, log) = open_files("256");
    let warning = ["dind: warning: the limit of open files is 256", "--ulimit"];
    let is_warned_of = line_with(&log, &warning).is_some();
    assert_ne!(is_warned_of, said.contains("raises"), "{said}{log}");
    let doctor = dind().flags(["--ulimit", "nofile=256"]).run(&["doctor"]);
    assert_eq!(
        line_with(&doctor.stdout, &["warning: ", "open files is 256"]).is_some(),
        is_warned_of
    );
}
