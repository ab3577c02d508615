//! The seccomp profile that `dind seccomp` prints: engines take it, what it opens beyond their
//! default is what it says, and nothing else is open.

use std::collections::{BTreeMap, BTreeSet};

use dind::plan::seccomp::{self, ADDITIONS};
use nix::libc;
use serde_json::Value;

use crate::docker::{BUSYBOX, Container, Scratch, dind, docker, lab, unprivileged};

/// What Docker 28.5 allows by default and an older engine did not know: its comments in
/// github.com/moby/profiles/seccomp say of which kernel they are.
const NEWER: [&str; 28] = [
    // After 26.1, with the numbers below.
    "getxattrat",
    "listmount",
    "listxattrat",
    "mseal",
    "removexattrat",
    "riscv_hwprobe",
    "setxattrat",
    "statmount",
    "uretprobe",
    // After 20.10.
    "cachestat",
    "epoll_pwait2",
    "fchmodat2",
    "futex_requeue",
    "futex_wait",
    "futex_waitv",
    "futex_wake",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    "map_shadow_stack",
    "memfd_secret",
    "name_to_handle_at",
    "pkey_alloc",
    "pkey_free",
    "pkey_mprotect",
    "process_mrelease",
    "process_vm_readv",
    "process_vm_writev",
];

/// The numbers of the first of [`NEWER`] in the kernel, where libc has no names for them. All but
/// the first, which is amd64's alone, are the same on every architecture.
const NEWER_NUMBERS: [i64; 8] = [335, 457, 458, 462, 463, 464, 465, 466];

/// The system calls of other architectures. Docker's default has them there only; here they are of
/// no effect.
const ELSEWHERE: [&str; 8] = [
    "arch_prctl",
    "arm_fadvise64_64",
    "arm_sync_file_range",
    "breakpoint",
    "cacheflush",
    "modify_ldt",
    "set_tls",
    "sync_file_range2",
];

/// The numbers of [`ADDITIONS`] for which the kernel asks for a capability after it has looked at
/// the arguments, so that it refuses nonsense with another error than a profile.
const SEEN: [i64; 6] = [
    libc::SYS_clone,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_setns,
    libc::SYS_umount2,
    libc::SYS_unshare,
];

/// What the runtime of a container inside was told to allow: each system call, with the conditions
/// of its arguments, of which one must hold.
fn allowed(dind: &Container, name: &str) -> BTreeMap<String, BTreeSet<String>> {
    let id = dind.text(&["docker", "inspect", "--format", "{{.Id}}", name]);
    let text = dind.sh(&format!(
        "cat \"$(find /run -path '*/{id}/config.json' 2>/dev/null | head -n 1)\""
    ));
    let config: Value = serde_json::from_str(&text).unwrap();
    let seccomp = &config["linux"]["seccomp"];
    assert_eq!(seccomp["defaultAction"], "SCMP_ACT_ERRNO", "{seccomp}");
    let mut allowed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for rule in seccomp["syscalls"].as_array().unwrap() {
        if rule["action"] == "SCMP_ACT_ALLOW" {
            let condition = match &rule["args"] {
                Value::Array(conditions) if !conditions.is_empty() => {
                    // Versions differ in whether they write a zero.
                    let parts = conditions.iter().map(|condition| {
                        let number = |name: &str| condition[name].as_u64().unwrap_or(0);
                        format!(
                            "{} {} {} {}",
                            number("index"),
                            condition["op"].as_str().unwrap(),
                            number("value"),
                            number("valueTwo")
                        )
                    });
                    parts.collect::<Vec<_>>().join(", ")
                }
                _ => String::new(),
            };
            for name in rule["names"].as_array().unwrap() {
                let name = name.as_str().unwrap().to_owned();
                allowed.entry(name).or_default().insert(condition.clone());
            }
        } else {
            // What programs get along without.
            assert_eq!(rule["errnoRet"], libc::ENOSYS, "{rule}");
        }
    }
    allowed
}

#[test]
fn it_opens_what_it_says_beyond_the_default_of_each_engine_and_nothing_else() {
    let dind = dind().ready(&[]);
    dind.load_busybox();
    dind.sh("dind seccomp >/tmp/dind.json");
    for (name, flags) in [
        ("default", &[][..]),
        ("ours", &["--security-opt", "seccomp=/tmp/dind.json"]),
    ] {
        let words = ["docker", "run", "-d", "--name", name];
        dind.text(&[&words, flags, &[BUSYBOX, "sleep", "1000"]].concat());
    }
    let default = allowed(&dind, "default");
    let ours = allowed(&dind, "ours");
    let mut opened = BTreeSet::new();
    for (name, conditions) in &ours {
        let before = default.get(name);
        let is_same = before.is_some_and(|before| before.contains("") || before == conditions);
        if !is_same {
            opened.insert(name.as_str());
        }
    }
    let additions: BTreeSet<&str> = ADDITIONS.iter().map(|(name, _)| *name).collect();
    // The capability for it is one of the default's.
    let expected: BTreeSet<&str> = additions
        .iter()
        .copied()
        .filter(|name| *name != "chroot")
        .collect();
    let others = NEWER.into_iter().chain(ELSEWHERE).collect();
    assert_eq!(&opened - &others, expected);
    // Nothing of the default is missing but what later engines have closed.
    let missing = default.iter().filter(|(name, conditions)| {
        let now = ours.get(*name);
        !now.is_some_and(|now| now.contains("") || now == *conditions)
    });
    let missing: BTreeSet<&str> = missing.map(|(name, _)| name.as_str()).collect();
    let closed = [
        "io_uring_enter",
        "io_uring_register",
        "io_uring_setup",
        "socket",
    ];
    assert!(missing.is_subset(&closed.into()), "{missing:?}");
}

/// Tries each system call with arguments that mean nothing, in a process of its own, and prints its
/// number and its errno. What ends the process prints nothing, and neither does what waits.
const PROBE: &str = r#"
$| = 1;
for my $number (0 .. 470) {
    # vfork(2) comes back twice in the same memory.
    next if $number == 58;
    my $pid = fork;
    if (!$pid) {
        alarm 2;
        my $done = syscall $number, -1, -1, -1, -1, -1, -1;
        printf "%d %d\n", $number, $done == -1 ? $! + 0 : 0;
        kill 9, $$;
    }
    waitpid $pid, 0;
}
"#;

/// Which numbers a profile denies to the image under test, with what the kernel denies by itself.
fn denied(profile: Option<&str>) -> BTreeSet<i64> {
    let flags = profile.map(|path| format!("--security-opt=seccomp={path}"));
    let spec = unprivileged().flags(flags).flags(["--entrypoint", "perl"]);
    let output = spec.run(&["-e", PROBE]).text();
    let lines = output.lines().filter_map(|line| line.split_once(' '));
    let tried: Vec<(i64, i32)> = lines
        .filter_map(|(number, errno)| Some((number.parse().ok()?, errno.parse().ok()?)))
        .collect();
    assert!(tried.len() > 300, "{output}");
    // runc lets a call fail with ENOSYS whose number is above all those that the profile knows
    // (libcontainer/seccomp/patchbpf).
    let denied = tried.into_iter();
    let denied = denied.filter(|(_, errno)| matches!(*errno, libc::EPERM | libc::ENOSYS));
    denied.map(|(number, _)| number).collect()
}

/// By the kernel, and not by what the profile says.
#[test]
fn the_kernel_denies_the_same_but_for_the_additions() {
    let scratch = Scratch::new();
    let profile = scratch.file("dind.json", &unprivileged().run(&["seccomp"]).text());
    let default = denied(None);
    let ours = denied(Some(profile.to_str().unwrap()));
    let opened: BTreeSet<i64> = &default - &ours;
    assert_eq!(&opened - &NEWER_NUMBERS.into(), SEEN.into());
    assert_eq!(&ours - &default, BTreeSet::new());
}

/// What the profile is for, of the commands that every Debian has; of pivot_root(2) not each has one.
fn namespaces() -> String {
    let pivot_root = libc::SYS_pivot_root;
    format!(
        "unshare --user --map-root-user --mount --uts --net sh -ec '
            mount -t tmpfs none /mnt
            hostname inside
            umount /mnt
            nsenter --uts=/proc/self/ns/uts true
            chroot / true
            mount -t tmpfs none /mnt
            cd /mnt
            mkdir old
            perl -e \"@paths = (q(.), q(old)); exit !!syscall {pivot_root}, @paths\"
            echo done'"
    )
}

#[test]
fn an_unprivileged_container_makes_namespaces_with_it() {
    let scratch = Scratch::new();
    let try_with = |profile: Option<&str>| {
        let flags = profile.map(|profile| {
            let path = scratch.file("profile.json", profile);
            format!("--security-opt=seccomp={}", path.display())
        });
        let without_capabilities = [
            "--user=1000",
            "--cap-drop=ALL",
            "--security-opt=apparmor=unconfined",
        ];
        let spec = unprivileged().flags(flags).flags(without_capabilities);
        spec.shell(&namespaces()).run(&[])
    };
    let whole = seccomp::text();
    let output = try_with(Some(&whole)).exited(0);
    assert_eq!(output.stdout, "done\n");
    let refused = try_with(None);
    assert_ne!(refused.status, 0);
    assert!(
        refused.stderr.contains("Operation not permitted"),
        "{refused:?}"
    );
    // Each of those that the commands need: without it the profile is of no use.
    for (name, _) in ADDITIONS {
        let without = seccomp::profile_without(Some(name)).to_string();
        let output = try_with(Some(&without));
        let needed = !matches!(name, "clone" | "keyctl");
        assert_eq!(output.status != 0, needed, "{name}: {output:?}");
    }
}

/// The outer engine's runtime takes it for both kinds of containers that docker makes.
#[test]
fn it_is_json_that_the_engine_takes() {
    let text = unprivileged().run(&["seccomp"]).text();
    assert_eq!(text, seccomp::text());
    let scratch = Scratch::new();
    let profile = scratch.file("dind.json", &text);
    let option = format!("seccomp={}", profile.display());
    let image = lab("DIND_LAB_IMAGE");
    let words = [
        "run",
        "--rm",
        "--security-opt",
        &option,
        &image,
        "echo",
        "hi",
    ];
    assert_eq!(docker(words).text(), "hi");
    let help = unprivileged().run(&["seccomp", "--help"]).text();
    assert!(help.contains("seccomp=dind.json"), "{help}");
    unprivileged()
        .run(&["seccomp", "x"])
        .exited(2)
        .says(&["seccomp: unexpected argument 'x'; allowed: no arguments"]);
}
