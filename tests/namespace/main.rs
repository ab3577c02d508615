//! The effects, one by one, against the real kernel: each test in namespaces of its
//! own, made by unshare(1), with nothing of the host changed.
//!
//! A test runs twice: outside it starts itself again inside the namespaces, and there
//! it does its work. So each has a process of its own, and PID 1's rule of one
//! thread is the process's and not the harness's.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests: they start programs, and a failure is to end them"
)]

mod copies;
mod detached;
mod kills;
mod mended;
mod networks;
mod ports;
mod store_files;
mod stores;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::panic::UnwindSafe;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dind::apply::apply;
use dind::apply::delegate::{self, Attempt, Delegation};
use dind::facts::interfaces::Inner;
use dind::facts::mountinfo::MountTable;
use dind::helpers::child::become_helper;
use dind::messages::backlog::Backlog;
use dind::plan::action::{Action, OnFailure, Step};
use dind::sys::memory::lower_oom_score_adj;
use dind::sys::outlet::Outlet;
use dind::sys::process;
use dind::sys::signals::{self, Inherited, Signals};
use dind::sys::spawn::{Child, Place, Session, spawn};
use nix::errno::Errno;
use nix::libc;
use nix::mount::MsFlags;
use nix::poll::{PollFd, PollFlags};
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, UnlinkatFlags, unlinkat};

/// Set in the process that is inside, to a name that no other test has.
const INSIDE: &str = "DIND_TEST_INSIDE";

/// Runs `body` in new mount, pid and cgroup namespaces with a `/proc` of their own.
/// `test` is the path of the test, by which the harness finds it again.
fn inside(test: &str, body: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    assert!(
        nix::unistd::geteuid().is_root(),
        "needs root for its namespaces; run it as root"
    );
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--mount-proc",
            "--cgroup",
            "--",
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, format!("{}-{test}", std::process::id()))
        .output()
        .expect("unshare(1) of util-linux is needed; install it");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{text}");
    // A name that matches no test would succeed too.
    assert!(text.contains("1 passed"), "{test} did not run:\n{text}");
}

/// Runs `checks` in a forked child, which has one thread and so gets its own signals.
#[track_caller]
fn in_a_child(checks: impl FnOnce() + UnwindSafe) {
    match process::fork().unwrap() {
        ForkResult::Child => {
            let passed = std::panic::catch_unwind(checks).is_ok();
            process::exit_child(i32::from(!passed))
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
        }
    }
}

fn step(action: Action) -> Step {
    Step {
        action,
        on_failure: OnFailure::Fatal {
            lost: "must work",
            remedy: "mend it",
        },
        why: "a test".into(),
    }
}

/// Attempts once, and then as long as PID 1's child would.
fn delegate(root: &Path, leaf: &str) -> anyhow::Result<Delegation> {
    match delegate::attempt(root, leaf)? {
        Attempt::Done(delegation) => Ok(delegation),
        Attempt::Busy(unfinished) => delegate::finish(&unfinished),
    }
}

fn mounts() -> MountTable {
    MountTable::parse(&fs::read_to_string("/proc/self/mountinfo").unwrap())
}

/// A directory that is gone with the namespace: it lies on a tmpfs.
fn scratch() -> PathBuf {
    let directory = PathBuf::from("/mnt");
    nix::mount::mount(
        Some("scratch"),
        &directory,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    directory
}

fn tmpfs(target: &Path) -> Step {
    step(Action::Mount {
        source: "scratch".into(),
        target: target.to_owned(),
        fstype: "tmpfs".into(),
        flags: MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        data: "mode=1777".into(),
    })
}

#[test]
fn mounts_and_links_are_what_the_plan_says() {
    inside("mounts_and_links_are_what_the_plan_says", || {
        let top = scratch();
        let target = top.join("a/b");
        let steps = [
            step(Action::Directory {
                path: target.clone(),
                mode: 0o710,
            }),
            tmpfs(&target),
            step(Action::Symlink {
                link: top.join("link"),
                to: "a".into(),
            }),
            step(Action::Write {
                path: top.join("file"),
                content: "text".into(),
            }),
            step(Action::Share { target: "/".into() }),
        ];
        apply(&steps).unwrap();
        let table = mounts();
        let mount = table.at(&target).unwrap();
        assert_eq!(mount.fstype, "tmpfs");
        assert!(mount.options.contains(&"nosuid".to_owned()));
        assert!(table.all_shared());
        assert_eq!(fs::read_link(top.join("link")).unwrap(), Path::new("a"));
        assert_eq!(fs::read_to_string(top.join("file")).unwrap(), "text");
    });
}

#[test]
fn a_file_is_written_in_the_place_of_a_link_and_not_through_it() {
    inside(
        "a_file_is_written_in_the_place_of_a_link_and_not_through_it",
        || {
            let top = scratch();
            let (target, link) = (top.join("target"), top.join("file"));
            fs::write(&target, "mine").unwrap();
            for planted in [&link, &top.join(".dind-file")] {
                std::os::unix::fs::symlink(&target, planted).unwrap();
            }
            apply(&[step(Action::Write {
                path: link.clone(),
                content: "text".into(),
            })])
            .unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), "mine");
            assert_eq!(fs::read_to_string(&link).unwrap(), "text");
            assert!(fs::symlink_metadata(&link).unwrap().is_file());
            let mode = fs::metadata(&link).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o644);
            assert_eq!(fs::read_dir(&top).unwrap().count(), 2);
        },
    );
}

/// Deeper than the limit of open files, with a limit for more than its few directories at a time;
/// and what is mounted in it stays, or not even that.
#[test]
fn a_tree_of_any_depth_is_removed() {
    inside("a_tree_of_any_depth_is_removed", || {
        use dind::sys::tree::{Mounts, empty};
        use nix::sys::resource::{Resource, setrlimit};
        setrlimit(Resource::RLIMIT_NOFILE, 64, 64).unwrap();
        let top = scratch().join("top");
        let make = || {
            fs::create_dir(&top).unwrap();
            let before = std::env::current_dir().unwrap();
            std::env::set_current_dir(&top).unwrap();
            for depth in 0..3000 {
                fs::write("file", "").unwrap();
                std::os::unix::fs::symlink("/", "link").unwrap();
                fs::create_dir_all("beside/below").unwrap();
                let name = format!("{depth:0>250}");
                fs::create_dir(&name).unwrap();
                std::env::set_current_dir(&name).unwrap();
            }
            std::env::set_current_dir(before).unwrap();
        };
        make();
        apply(&[step(Action::RemoveTree { path: top.clone() })]).unwrap();
        assert!(!top.exists());
        // Nothing is there any more, which is what was asked for.
        apply(&[step(Action::RemoveTree { path: top.clone() })]).unwrap();

        make();
        let users = top.join("a/b/c");
        fs::create_dir_all(&users).unwrap();
        apply(&[tmpfs(&users)]).unwrap();
        fs::write(users.join("kept"), "").unwrap();
        let left = empty(&top, Mounts::Keep).unwrap();
        assert_eq!(
            (left.count, left.first),
            (1, Some((c"c".into(), Errno::EBUSY)))
        );
        assert!(users.join("kept").exists());
        assert_eq!(fs::read_dir(&top).unwrap().count(), 1);
    });
}

#[test]
fn a_read_only_mount_becomes_writable_and_keeps_its_flags() {
    inside(
        "a_read_only_mount_becomes_writable_and_keeps_its_flags",
        || {
            let target = scratch().join("ro");
            apply(&[
                step(Action::Directory {
                    path: target.clone(),
                    mode: 0o755,
                }),
                tmpfs(&target),
            ])
            .unwrap();
            for superblock in [false, true] {
                let how = if superblock {
                    "remount,ro"
                } else {
                    "remount,bind,ro"
                };
                let status = Command::new("mount")
                    .args(["-o", how])
                    .arg(&target)
                    .status()
                    .unwrap();
                assert!(status.success());
                assert!(mounts().at(&target).unwrap().read_only());
                apply(&[step(Action::RemountWritable {
                    target: target.clone(),
                    flags: MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
                    superblock,
                })])
                .unwrap();
                let table = mounts();
                let mount = table.at(&target).unwrap();
                assert!(!mount.read_only(), "{mount:?}");
                assert!(mount.options.contains(&"nosuid".to_owned()), "{mount:?}");
                fs::write(target.join("file"), "text").unwrap();
            }
        },
    );
}

#[test]
fn a_fatal_failure_says_what_was_done_before() {
    inside("a_fatal_failure_says_what_was_done_before", || {
        let top = scratch();
        let nowhere = top.join("missing/target");
        let fault = apply(&[tmpfs(&top), tmpfs(&nowhere)]).unwrap_err();
        let said = fault.to_string();
        let mut rest = said.as_str();
        for part in [
            "must work: ",
            "missing/target",
            ": No such file or directory; already done and not undone: mount -t tmpfs",
            "; this kernel or this container does not support it: see mount(2)",
        ] {
            let Some((_, after)) = rest.split_once(part) else {
                panic!("{part:?} is not there, or not in this order: {said}");
            };
            rest = after;
        }
        assert_eq!(rest, "", "{said}");
    });
}

#[test]
fn a_failure_that_only_warns_does_not_stop_the_rest() {
    inside("a_failure_that_only_warns_does_not_stop_the_rest", || {
        let top = scratch();
        let mut missing = tmpfs(&top.join("missing"));
        missing.on_failure = OnFailure::Warn;
        let after = Action::Directory {
            path: top.join("after"),
            mode: 0o755,
        };
        apply(&[missing, step(after)]).unwrap();
        assert!(top.join("after").is_dir());
    });
}

/// Of the host's version 2 hierarchy, a cgroup of the test's own; gone with it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Self {
        // Mounted anew: the host may not have it, and this mount ends with the test.
        let root = Path::new("/mnt");
        nix::mount::mount(
            Some("cgroup"),
            root,
            Some("cgroup2"),
            MsFlags::empty(),
            None::<&str>,
        )
        .expect("needs a kernel with cgroup v2 and root; run it as root of a privileged container or host");
        // Pids begin anew in every test's namespaces, so the name comes from outside.
        let name = std::env::var(INSIDE).unwrap();
        let path = root.join(format!("dind-test-{name}"));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn words(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.0.join(file)).unwrap();
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn add(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

/// In a threaded cgroup nothing is moved and nothing fails: there are no domains to be
/// had below it.
#[test]
fn a_threaded_cgroup_is_left_as_it_is() {
    inside("a_threaded_cgroup_is_left_as_it_is", || {
        let cgroup = Cgroup::new();
        fs::write(cgroup.0.join("cgroup.type"), "threaded").unwrap();
        let delegation = delegate(&cgroup.0, "init").unwrap();
        assert!(delegation.threaded, "{delegation:?}");
        assert!(!cgroup.0.join("init").exists());
        assert_eq!(cgroup.words("cgroup.type"), ["threaded"]);
    });
}

/// In a namespace whose root is above it, a process gets one of its own, with its own
/// part of the hierarchy where the other was, and that is delegated.
#[test]
fn it_gets_a_cgroup_namespace_of_its_own() {
    inside("it_gets_a_cgroup_namespace_of_its_own", || {
        let cgroup = Cgroup::new();
        let own = std::process::id();
        cgroup.add(own);
        let membership = || fs::read_to_string("/proc/self/cgroup").unwrap();
        let name = cgroup.0.file_name().unwrap().to_str().unwrap();
        assert!(membership().contains(&format!("/{name}\n")));
        let root = PathBuf::from("/mnt");
        // The way back, which will be out of sight.
        let above = fs::File::open(&root).unwrap();
        let way_out = fs::OpenOptions::new()
            .write(true)
            .open(root.join("cgroup.procs"));
        let delegate = step(Action::Delegate {
            remount: Some(MsFlags::MS_NOSUID),
            root: root.clone(),
            leaf: "init".into(),
        });
        apply(&[delegate]).unwrap();
        assert!(membership().contains("0::/init\n"), "{}", membership());
        let leaf = fs::read_to_string(root.join("init/cgroup.procs")).unwrap();
        assert!(leaf.lines().any(|line| line == own.to_string()), "{leaf}");
        assert!(!root.join(name).exists(), "nothing above it is in sight");
        let mounts = MountTable::parse(&fs::read_to_string("/proc/self/mountinfo").unwrap());
        let mount = mounts.at(&root).unwrap();
        assert_eq!(
            (mount.fstype.as_str(), &*mount.root),
            ("cgroup2", Path::new("/"))
        );
        assert!(mount.options.iter().any(|option| option == "nosuid"));
        way_out
            .unwrap()
            .write_all(own.to_string().as_bytes())
            .unwrap();
        for left in [format!("{name}/init"), name.to_owned()] {
            unlinkat(&above, left.as_str(), UnlinkatFlags::RemoveDir).unwrap();
        }
    });
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // What a storm has left runs for a moment longer than its shell.
        let patience = Instant::now() + Duration::from_secs(10);
        for path in [self.0.join("init"), self.0.clone()] {
            let _ = fs::write(path.join("cgroup.kill"), "1");
            while path.exists() && fs::remove_dir(&path).is_err() && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// A process to move about; ended with the test.
struct Sleeper(std::process::Child);

impl Sleeper {
    fn new() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn delegation_evacuates_enables_and_is_idempotent() {
    inside("delegation_evacuates_enables_and_is_idempotent", || {
        let cgroup = Cgroup::new();
        let sleepers: Vec<Sleeper> = (0..3).map(|_| Sleeper::new()).collect();
        sleepers
            .iter()
            .for_each(|sleeper| cgroup.add(sleeper.0.id()));
        for _ in 0..2 {
            let delegation = delegate(&cgroup.0, "init").unwrap();
            assert_eq!(delegation.refused, []);
            assert_eq!(cgroup.words("cgroup.procs"), Vec::<String>::new());
            let mut moved = cgroup.words("init/cgroup.procs");
            let mut expected: Vec<String> = sleepers
                .iter()
                .map(|sleeper| sleeper.0.id().to_string())
                .collect();
            moved.sort();
            expected.sort();
            assert_eq!(moved, expected);
            let mut enabled = cgroup.words("cgroup.subtree_control");
            let mut available = cgroup.words("cgroup.controllers");
            enabled.sort();
            available.sort();
            assert_eq!(enabled, available);
            // On a hybrid host the controllers are in version 1, and what is shown there
            // is the evacuation; `tests/lab vm-test` has a version 2 host with all of them.
            let expects_controllers = std::env::var_os("DIND_TEST_V2").is_some();
            assert!(
                !expects_controllers || !available.is_empty(),
                "no controllers to enable"
            );
        }
    });
}

#[test]
fn delegation_holds_its_own_against_processes_that_keep_coming() {
    inside(
        "delegation_holds_its_own_against_processes_that_keep_coming",
        || {
            let cgroup = Cgroup::new();
            // As `docker exec` does it: processes that enter the root, live for a moment
            // and end.
            let storm = format!(
                "while :; do sh -c 'echo $$ > {}/cgroup.procs' 2>/dev/null; done",
                cgroup.0.display()
            );
            let storms: Vec<std::process::Child> = (0..2)
                .map(|_| Command::new("sh").args(["-c", &storm]).spawn().unwrap())
                .collect();
            let results: Vec<_> = (0..20).map(|_| delegate(&cgroup.0, "init")).collect();
            for mut storm in storms {
                storm.kill().unwrap();
                storm.wait().unwrap();
            }
            for result in results {
                result.unwrap();
            }
            assert_eq!(
                cgroup.words("cgroup.subtree_control"),
                cgroup.words("cgroup.controllers")
            );
        },
    );
}

#[test]
fn delegation_that_cannot_work_says_why() {
    inside("delegation_that_cannot_work_says_why", || {
        let fault = delegate(Path::new("/sys/fs/cgroup/missing"), "init").unwrap_err();
        assert!(
            format!("{fault:#}").contains("/sys/fs/cgroup/missing/init"),
            "{fault:#}"
        );
    });
}

#[test]
fn every_inherited_descriptor_is_closed() {
    inside("every_inherited_descriptor_is_closed", || {
        // The harness's own must stay open, so this is done in a child that has only
        // the descriptors it was given.
        let null = fs::File::open("/dev/null").unwrap();
        match dind::sys::process::fork().unwrap() {
            nix::unistd::ForkResult::Parent { child } => {
                let status = nix::sys::wait::waitpid(child, None).unwrap();
                assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
            }
            nix::unistd::ForkResult::Child => {
                let limit =
                    nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
                let (_, hard) = limit.unwrap();
                let many = hard.min(4096);
                nix::sys::resource::setrlimit(
                    nix::sys::resource::Resource::RLIMIT_NOFILE,
                    many,
                    hard,
                )
                .unwrap();
                let opened = (0..1000)
                    .filter(|_| nix::unistd::dup(&null).map(std::mem::forget).is_ok())
                    .count();
                // Below the numbers that are open: the limit does not hide them.
                nix::sys::resource::setrlimit(
                    nix::sys::resource::Resource::RLIMIT_NOFILE,
                    64,
                    hard,
                )
                .unwrap();
                dind::sys::descriptors::close_other_descriptors(&[]).unwrap();
                let left = fs::read_dir("/proc/self/fd")
                    .unwrap()
                    .flatten()
                    .filter(|entry| {
                        entry
                            .file_name()
                            .to_str()
                            .is_some_and(|name| name.parse::<i32>().unwrap() > 3)
                    })
                    .count();
                let status = if opened == 1000 && left == 0 { 0 } else { 1 };
                dind::sys::process::exit_child(status);
            }
        }
        assert!(null.as_raw_fd() > 2);
    });
}

/// What a child of [`spawn`] sees of itself, as a shell script prints it.
fn spawned(script: &str, descriptors: usize, oom_score_adj: Option<i16>) -> String {
    let file = fs::File::create(scratch().join("output")).unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    // On numbers that overlap those that the child is to have.
    let opened: Vec<fs::File> = (0..descriptors)
        .map(|_| fs::File::open("/proc/self/mountinfo").unwrap())
        .collect();
    let pid = spawn(&Child {
        path: Path::new("/bin/sh"),
        arguments: ["sh", "-c", script].map(OsStr::new).to_vec(),
        environment: &[("PATH".into(), "/usr/bin:/bin".into())],
        stdio: Some([null.as_fd(), file.as_fd(), file.as_fd()]),
        descriptors: opened.iter().map(AsFd::as_fd).collect(),
        session: Session::Own,
        dies_with_parent: false,
        oom_score_adj,
        limits: &[],
        inherited: &Inherited::read().unwrap(),
        umask: None,
        place: Place::Here,
    })
    .unwrap();
    let status = nix::sys::wait::waitpid(pid, None).unwrap();
    assert_eq!(status, nix::sys::wait::WaitStatus::Exited(pid, 0));
    fs::read_to_string("/mnt/output").unwrap()
}

#[test]
fn a_child_has_its_descriptors_from_3_on_and_no_others() {
    inside(
        "a_child_has_its_descriptors_from_3_on_and_no_others",
        || {
            let script = r#"[ "$LISTEN_PID" = $$ ] && echo pid; echo "fds $LISTEN_FDS"; find /proc/$$/fd -type l -printf '%f %l\n'"#;
            let output = spawned(script, 3, None);
            let lines: Vec<&str> = output.lines().collect();
            assert_eq!(lines[..2], ["pid", "fds 3"], "{output}");
            let open: Vec<(i32, &str)> = lines[2..]
                .iter()
                .filter_map(|line| line.split_once(' '))
                .map(|(number, target)| (number.parse().unwrap(), target))
                .collect();
            let numbers: Vec<i32> = open
                .iter()
                .filter(|(_, target)| target.ends_with("/mountinfo"))
                .map(|(number, _)| *number)
                .collect();
            assert_eq!(numbers, [3, 4, 5], "{output}");
            // `main` closes what it inherits; a test has what its harness left it.
            for (number, target) in open {
                assert!(number <= 5 || inherited(number), "{number} is {target}");
            }
        },
    );
}

/// Whether a descriptor of this process stays open across exec.
fn inherited(number: i32) -> bool {
    let Ok(info) = fs::read_to_string(format!("/proc/self/fdinfo/{number}")) else {
        return false;
    };
    let flags = info
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .unwrap();
    // proc_pid_fdinfo(5): the octal flags of open(2), O_CLOEXEC among them.
    i32::from_str_radix(flags.trim(), 8).unwrap() & libc::O_CLOEXEC == 0
}

#[test]
fn a_child_has_a_session_and_signals_of_its_own() {
    inside("a_child_has_a_session_and_signals_of_its_own", || {
        // Without a child of its own: a shell that waits blocks signals.
        let script = r#"read -r _ _ _ _ group session _ < /proc/$$/stat; [ $group = $$ ] && [ $session = $$ ] && echo session; while read -r line; do case $line in Sig[BI]*) echo "$line";; esac; done < /proc/$$/status; echo "fds $LISTEN_FDS$LISTEN_PID""#;
        let output = spawned(script, 0, None);
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines[0], "session", "{output}");
        assert!(lines.contains(&"SigBlk:\t0000000000000000"), "{output}");
        // What this process found ignored stays so; what Rust's runtime ignores does not.
        let own = fs::read_to_string("/proc/self/status").unwrap();
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("SigIgn:\t"))
            .unwrap();
        let sigpipe = 1_u64 << (libc::SIGPIPE - 1);
        let inherited = u64::from_str_radix(own, 16).unwrap();
        assert!(inherited & sigpipe != 0, "{own}");
        let expected = format!("SigIgn:\t{:016x}", inherited & !sigpipe);
        assert!(
            lines.contains(&expected.as_str()),
            "{expected:?} not in {output}"
        );
        assert_eq!(lines.last(), Some(&"fds "), "{output}");
    });
}

/// ppoll(2) lets no signal in where a descriptor is ready. Somebody who always writes must not
/// keep PID 1 from its end.
#[test]
fn a_signal_is_delivered_though_a_descriptor_is_always_ready() {
    inside(
        "a_signal_is_delivered_though_a_descriptor_is_always_ready",
        || {
            in_a_child(|| {
                let mut signals = Signals::catch(signals::block().unwrap()).unwrap();
                let (reader, writer) = nix::unistd::pipe().unwrap();
                nix::unistd::write(&writer, b"x").unwrap();
                nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
                let mut ready = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
                let polled = signals.poll(&mut ready, None);
                assert!(polled.is_ok() && signals.arrived().eq([libc::SIGTERM]));
            });
        },
    );
}

/// What was put back wakes the next poll, which waits for nothing else here.
#[test]
fn a_signal_that_is_kept_is_not_waited_for() {
    inside("a_signal_that_is_kept_is_not_waited_for", || {
        in_a_child(|| {
            let mut signals = Signals::catch(signals::block().unwrap()).unwrap();
            signals.keep(vec![libc::SIGHUP]);
            assert!(signals.poll(&mut [], None).is_ok() && signals.arrived().eq([libc::SIGHUP]));
        });
    });
}

/// The log relay goes on where its reader has gone, and a helper can wait for its own children.
#[test]
fn a_helper_survives_a_write_without_a_reader() {
    inside("a_helper_survives_a_write_without_a_reader", || {
        in_a_child(|| {
            let signals = Signals::catch(signals::block().unwrap()).unwrap();
            let (reader, writer) = nix::unistd::pipe().unwrap();
            drop(reader);
            become_helper(signals.inherited(), &[writer.as_fd()]).unwrap();
            // Its descriptors are closed by now.
            std::mem::forget(signals);
            assert!(nix::unistd::write(&writer, b"x") == Err(nix::errno::Errno::EPIPE));
        });
    });
}

#[test]
fn a_childs_oom_score_is_set_where_that_is_allowed() {
    inside("a_childs_oom_score_is_set_where_that_is_allowed", || {
        // Raising it is always allowed, and shows that it is written at all.
        assert_eq!(spawned("cat /proc/$$/oom_score_adj", 0, Some(500)), "500\n");
        // Lowering it may be refused, and the child runs all the same.
        let lowered = spawned("cat /proc/$$/oom_score_adj", 0, Some(-999));
        assert!(["-999\n", "0\n"].contains(&lowered.as_str()), "{lowered}");
    });
}

/// What PID 1 does for itself. Back to where it was is allowed without CAP_SYS_RESOURCE.
#[test]
fn an_oom_score_is_lowered_and_never_raised() {
    inside("an_oom_score_is_lowered_and_never_raised", || {
        in_a_child(|| {
            const FILE: &str = "/proc/self/oom_score_adj";
            let before: i16 = fs::read_to_string(FILE).unwrap().trim().parse().unwrap();
            fs::write(FILE, "900").unwrap();
            let lowered = [before, before, 1000].map(lower_oom_score_adj);
            let after = fs::read_to_string(FILE).unwrap();
            assert!(lowered == [Some(900), None, None] && after.trim() == before.to_string());
        });
    });
}

#[test]
fn a_program_that_cannot_run_has_the_shells_status() {
    inside("a_program_that_cannot_run_has_the_shells_status", || {
        let top = scratch();
        fs::write(top.join("script"), "no shebang").unwrap();
        fs::write(top.join("plain"), "").unwrap();
        let mode = |name: &str, mode| {
            fs::set_permissions(top.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        mode("script", 0o755);
        mode("plain", 0o644);
        for (name, status) in [("missing", 127), ("script", 126), ("plain", 126)] {
            let error = spawn(&Child {
                path: &top.join(name),
                arguments: vec![OsStr::new(name)],
                environment: &[],
                stdio: None,
                descriptors: Vec::new(),
                session: Session::Own,
                dies_with_parent: false,
                oom_score_adj: None,
                limits: &[],
                inherited: &Inherited::read().unwrap(),
                umask: None,
                place: Place::Here,
            })
            .unwrap_err();
            assert_eq!(error.status(), status, "{name}: {error}");
            assert!(error.fault(OsStr::new(name)).message.contains(name));
        }
    });
}

/// PID 1 passes signals on to the command, and SIGPIPE would end it.
#[test]
fn a_write_without_a_reader_raises_no_signal_and_takes_none_away() {
    inside(
        "a_write_without_a_reader_raises_no_signal_and_takes_none_away",
        || {
            // Another thread, which does not block it, would get the signal of the process.
            in_a_child(|| {
                let mut signals = Signals::catch(signals::block().unwrap()).unwrap();
                let write = || {
                    let (reader, writer) = nix::unistd::pipe().unwrap();
                    let outlet = Outlet::new(writer);
                    drop(reader);
                    let mut backlog = Backlog::default();
                    backlog.offer(b"a line\n");
                    outlet.drain(&mut backlog);
                    assert!(backlog.is_empty());
                };
                write();
                assert_eq!(signals.arrived().collect::<Vec<_>>(), Vec::<i32>::new());
                kill(Pid::this(), Signal::SIGPIPE).unwrap();
                write();
                assert_eq!(signals.arrived().collect::<Vec<_>>(), [libc::SIGPIPE]);
            });
        },
    );
}

/// A covered directory keeps what is in it and what is mounted below, and takes new files.
#[test]
fn a_covered_directory_shows_what_is_below() {
    inside("a_covered_directory_shows_what_is_below", || {
        let scratch = scratch();
        for name in ["kept", "own", "mounted"] {
            fs::create_dir(scratch.join(name)).unwrap();
        }
        let mounted = scratch.join("mounted");
        nix::mount::mount(
            Some("tmpfs"),
            &mounted,
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        fs::write(mounted.join("file"), "below").unwrap();
        let step = |action| Step {
            action,
            on_failure: OnFailure::Fatal {
                lost: "the test needs it",
                remedy: "none",
            },
            why: String::new(),
        };
        let covered = step(Action::CopyUp {
            path: scratch.clone(),
            own: &["own"],
            later: &["later"],
        });
        apply(&[covered]).unwrap();
        fs::write(scratch.join(".dind-below/later"), "made later").unwrap();
        assert_eq!(
            fs::read_to_string(scratch.join("later")).unwrap(),
            "made later"
        );
        fs::create_dir(scratch.join("own")).unwrap();
        assert!(
            fs::symlink_metadata(scratch.join("kept"))
                .unwrap()
                .is_symlink()
        );
        assert!(scratch.join("kept").is_dir());
        assert_eq!(fs::read_to_string(mounted.join("file")).unwrap(), "below");
        assert!(Path::new("/proc/self/status").exists());
    });
}

/// A directory is given away only where nobody else's files are in it, if it is to be alone.
#[test]
fn a_directory_with_files_of_others_is_not_given_away() {
    inside("a_directory_with_files_of_others_is_not_given_away", || {
        use std::os::unix::fs::MetadataExt;
        let scratch = scratch();
        fs::write(scratch.join("file"), "").unwrap();
        let give = |alone| Step {
            action: Action::Give {
                path: scratch.clone(),
                user: 1000,
                alone,
            },
            on_failure: OnFailure::Fatal {
                lost: "the test needs it",
                remedy: "none",
            },
            why: String::new(),
        };
        let owner = || fs::metadata(&scratch).unwrap().uid();
        let fault = apply(&[give(true)]).err().unwrap().to_string();
        assert!(fault.contains("file in it belongs to user 0"), "{fault}");
        assert_eq!(owner(), 0);
        apply(&[give(false)]).unwrap();
        assert_eq!(owner(), 1000);
        assert_eq!(fs::metadata(scratch.join("file")).unwrap().uid(), 0);
    });
}

/// Who asks over a bridge is inside, in whatever network namespace the socket is, and who asks over
/// another interface is not.
#[test]
fn interfaces_are_those_of_the_sockets_network_namespace() {
    inside(
        "interfaces_are_those_of_the_sockets_network_namespace",
        || {
            let ip = |words: &str| {
                let status = Command::new("ip").args(words.split(' ')).status();
                assert!(status.expect("iproute2 is needed").success(), "{words}");
            };
            let own = fs::File::open("/proc/thread-self/ns/net").unwrap();
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
            for (index, words) in [
                (50, "link add index 50 br-50 type bridge"),
                (52, "link add index 52 veth52 type veth peer name veth53"),
            ] {
                ip(words);
                assert!(nix::net::if_::if_indextoname(index).is_ok());
            }
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            nix::sched::setns(own, CloneFlags::CLONE_NEWNET).unwrap();
            let mut inner = Inner::of(socket.into());
            for (index, expected) in [(1, true), (50, true), (52, false), (99, false)] {
                for _ in 0..2 {
                    assert_eq!(inner.has(index), expected, "{index}");
                }
            }
        },
    );
}
