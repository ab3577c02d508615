//! An engine in a user namespace needs flags: each that is missing is named, and what says so is what
//! works.

use dind::plan::seccomp::{self, ADDITIONS};

use crate::docker::{
    ROOTLESS_CAPABILITIES as CAPABILITIES, ROOTLESS_FLAGS as FLAGS, Scratch, Spec, lab, rootless,
    rootless_with as with, unprivileged,
};

/// What every error says that keeps an engine from running in a user namespace.
const SAID: &str = "no engine can run in a user namespace here";

/// Fails the test unless a start and the doctor name what is missing, before any daemon starts.
#[track_caller]
pub fn is_named(spec: &Spec, parts: &[&str]) {
    let output = spec.run(&["docker", "info"]).exited(1);
    // As the daemons write their lines.
    assert!(!output.stderr.contains("level="), "{output:?}");
    output.says(&[&["dind: error: ", SAID], parts].concat());
    let report = spec.run(&["doctor"]).exited(1);
    let has =
        |line: &str| line.starts_with("error: ") && parts.iter().all(|part| line.contains(part));
    assert!(report.stdout.lines().any(has), "{parts:?}: {report:?}");
}

#[test]
fn each_flag_that_is_missing_is_named() {
    for flag in FLAGS {
        let others = FLAGS.into_iter().filter(|other| *other != flag);
        is_named(&with(others, CAPABILITIES), &[&flag.join(" ")]);
    }
    for name in CAPABILITIES {
        let others = CAPABILITIES.into_iter().filter(|other| *other != name);
        is_named(&with(FLAGS, others), &[&format!("--cap-add {name}")]);
    }
    let output = unprivileged().run(&[]).exited(1);
    output.says(&[
        "--privileged",
        "for an engine in a user namespace: ",
        "--device /dev/net/tun",
    ]);
}

/// Each call that the profile opens beyond the engine's default is asked of, and named where it is
/// denied.
#[test]
fn each_system_call_that_seccomp_denies_is_named() {
    let scratch = Scratch::new();
    let others = || {
        FLAGS
            .into_iter()
            .filter(|flag| !flag[1].starts_with("seccomp="))
    };
    for (name, _) in ADDITIONS {
        let without = seccomp::profile_without(Some(name)).to_string();
        let profile = scratch.file("profile.json", &without);
        let flag = format!("--security-opt=seccomp={}", profile.display());
        let spec = with(others(), CAPABILITIES).flags([flag]);
        let output = spec.run(&["docker", "info"]).exited(1);
        output.says(&[
            "dind: error: ",
            &format!("seccomp denies {name}"),
            "'docker run --rm dind seccomp >dind.json'",
        ]);
    }
}

/// The flags in a line of the doctor's, which comes after these words.
#[track_caller]
fn flags_of(report: &str, words: &str) -> String {
    let found = report.lines().find_map(|line| line.split_once(words));
    let (_, line) = found.unwrap_or_else(|| panic!("no line in {report}"));
    let (_, line) = line.split_once(": ").expect("the line");
    let (profile, line) = line.split_once(" && ").expect("the profile comes first");
    assert_eq!(profile, "docker run --rm dind seccomp >dind.json");
    let (line, _) = line.split_once(" dind (").expect("the image, and the link");
    let flags = line.strip_prefix("docker run -it --rm ");
    flags.expect("docker run").to_owned()
}

/// The doctor's line is README's, but for what this host has, and an engine starts with it. The second
/// one's has a faster network.
#[test]
fn the_line_of_the_doctor_starts_an_engine() {
    let report = unprivileged().run(&["doctor"]).exited(1).stdout;
    let flags = flags_of(&report, "this starts an engine here");
    let has_apparmor = flags.contains(" --security-opt apparmor=unconfined");
    let plain = flags.replace(" --security-opt apparmor=unconfined", "");
    let expected: Vec<String> = FLAGS.iter().map(|flag| flag.join(" ")).collect();
    assert_eq!(plain, expected.join(" "));
    let readme = include_str!("../../README.md");
    assert!(readme.contains(&format!("$ docker run -it --rm {plain} dind\n")));
    let enabled = unprivileged().shell("cat /sys/module/apparmor/parameters/enabled || true");
    assert_eq!(enabled.run(&[]).text().starts_with('Y'), has_apparmor);
    let words = flags.split(' ');
    let output = unprivileged()
        .flags(words)
        .run(&["docker", "info"])
        .exited(0);
    assert!(output.stdout.contains("rootless"), "{output:?}");
    let faster = flags_of(&report, "several times as fast");
    let expected = flags.replace("--device /dev/net/tun", "--cap-add NET_ADMIN");
    assert_eq!(faster, expected);
    let output = unprivileged()
        .flags(faster.split(' '))
        .run(&["docker", "info"])
        .exited(0);
    assert!(output.stdout.contains("rootless"), "{output:?}");
    output.says(&["dind: rootless: ", "a veth pair with NAT"]);
}

/// A node of `/dev/net/tun` with this mode, in a directory to be mounted.
fn tun(mode: &str) -> Scratch {
    let scratch = Scratch::new();
    let made = format!("mknod -m {mode} /out/tun c 10 200");
    let spec = unprivileged().flags(scratch.mounted_on("/out"));
    spec.shell(&made).run(&[]).exited(0);
    scratch
}

/// The image for an ordinary user, with the flags but for the device, and the words for a file that is
/// mounted.
fn as_a_user(mounted: [String; 2]) -> Spec {
    let others = FLAGS.into_iter().filter(|flag| flag[0] != "--device");
    unprivileged()
        .image(&lab("DIND_LAB_ROOTLESS"))
        .flags(others.flatten())
        .flags(["--security-opt=apparmor=unconfined"])
        .flags(["--device-cgroup-rule=c 10:200 rwm"])
        .flags(mounted)
}

/// One that is mounted from outside is not this container's to give away.
#[test]
fn a_tun_that_is_closed_is_named() {
    let mounted = |tun: &Scratch| {
        let path = tun.path.join("tun");
        ["-v".to_owned(), format!("{}:/dev/net/tun", path.display())]
    };
    let closed = tun("0600");
    let parts = ["/dev/net/tun has the mode 0600", "chmod 666 /dev/net/tun"];
    let others = FLAGS.into_iter().filter(|flag| flag[0] != "--device");
    is_named(&with(others, CAPABILITIES).flags(mounted(&closed)), &parts);
    is_named(&as_a_user(mounted(&closed)), &parts);
}

/// An ordinary user needs ids from an administrator, programs that write the maps, and the right to
/// execute them.
#[test]
fn what_an_ordinary_user_lacks_is_named() {
    let open = tun("0666");
    let path = open.path.join("tun");
    let spec = || as_a_user(["-v".to_owned(), format!("{}:/dev/net/tun", path.display())]);
    let empty = open.file("empty", "");
    for file in ["/etc/subuid", "/etc/subgid"] {
        let mount = format!("{}:{file}:ro", empty.display());
        is_named(
            &spec().flags(["-v".to_owned(), mount]),
            &[
                file,
                "an administrator must add a line",
                "rootless:100000:65536",
            ],
        );
    }
    is_named(
        &spec().flags(["--security-opt=no-new-privileges"]),
        &["no_new_privs is set", "--user 0"],
    );
    let programs = unprivileged()
        .flags(FLAGS.into_iter().flatten())
        .env("DIND_ROOTLESS", "1")
        .flags(["--user", "1000"]);
    is_named(
        &programs,
        &[
            "newuidmap and newgidmap are not in PATH",
            "install uidmap in the image",
        ],
    );
}

/// The setting is one of each user namespace: user_namespaces(7).
#[test]
fn a_setting_that_keeps_users_from_making_namespaces_is_named() {
    // Root would need CAP_SETFCAP to be root in there, too.
    let script =
        "setpriv --reuid 1000 --regid 1000 --clear-groups unshare --user --map-root-user sh -ec '
        echo 0 >/proc/sys/user/max_user_namespaces
        exec dind \"$@\"' dind \"$@\"";
    let spec = rootless().env("DIND_ROOTLESS", "1").shell(script);
    is_named(
        &spec,
        &[
            "user.max_user_namespaces is 0 on the host",
            "sysctl -w user.max_user_namespaces=15000",
        ],
    );
}

/// What docker:dind-rootless and moby's dockerd-rootless.sh read: the API on TCP where `-p` of
/// rootlesskit's flags has it and where `dockerd -H` does; and what has no meaning is said by name.
#[test]
fn the_variables_for_rootlesskit_have_an_effect_or_a_warning() {
    const PREFIX: &str = "DOCKERD_ROOTLESS_ROOTLESSKIT";
    let container = rootless()
        .env("DOCKER_TLS_CERTDIR", "")
        .env(
            &format!("{PREFIX}_FLAGS"),
            "--pidns -p 0.0.0.0:4444:2375/tcp -p 0.0.0.0:8080:80/tcp",
        )
        .env(&format!("{PREFIX}_STATE_DIR"), "/run/state")
        .env(&format!("{PREFIX}_ENABLE_HOST_LOOPBACK"), "true")
        .env("CONTAINERD_ROOTLESS_ROOTLESSKIT_NET", "pasta")
        .ready(&[]);
    let version = |port: u16| {
        let host = format!("tcp://127.0.0.1:{port}");
        let format = "--format={{.Server.Os}}";
        container.text(&["docker", "-H", &host, "version", format])
    };
    assert_eq!([version(2375), version(4444)], ["linux", "linux"]);
    for parts in [
        [
            "_FLAGS: -p 0.0.0.0:8080:80/tcp has no effect",
            "docker run -p",
        ],
        ["_FLAGS: --pidns", "leave them out"],
        ["_STATE_DIR=\"/run/state\" has no effect", "unset it"],
        ["_ENABLE_HOST_LOOPBACK has no effect", "check its spelling"],
        [
            "CONTAINERD_ROOTLESS_ROOTLESSKIT_NET has",
            "set DOCKERD_ROOT",
        ],
    ] {
        container.logged(&[&["dind: warning: "], &parts[..]].concat());
    }
    let literal = [
        "dockerd",
        "-H",
        "tcp://0.0.0.0:4444",
        "-H",
        "unix:///run/own.sock",
    ];
    let container = rootless().ready(&literal);
    for host in ["tcp://127.0.0.1:4444", "unix:///run/own.sock"] {
        let output = container.exec(&["docker", "-H", host, "info"]).exited(0);
        assert!(output.stdout.contains("rootless"), "{output:?}");
    }
}
