//! An engine in a user namespace, seen from its host, which has AppArmor and nothing else to do.
//! `tests/lab vm-test` runs this on a host of each layout.

use std::time::Instant;

use crate::docker::{
    BUSYBOX, Container, ROOTLESS_CAPABILITIES, ROOTLESS_FLAGS, Spec, deadline, unprivileged,
    with_only,
};
use crate::rootless_flags::is_named;
use crate::rootless_network::{made, with_veth};

/// The flags of hosts without AppArmor do not do here: what it denies is named.
#[test]
#[ignore = "needs a host with AppArmor; tests/lab vm-test has one"]
fn a_profile_of_apparmor_is_named() {
    is_named(
        &with_only(ROOTLESS_FLAGS, ROOTLESS_CAPABILITIES),
        &[
            "AppArmor enforces the profile docker-default, which denies mounts",
            "--security-opt apparmor=unconfined",
        ],
    );
}

/// A profile of one's own that allows mounts is enough, and is kept.
#[test]
#[ignore = "needs a host with AppArmor; tests/lab vm-test has one"]
fn a_profile_of_apparmor_that_allows_mounts_stays() {
    const PROFILE: &str =
        "profile dind-allows-mounts flags=(attach_disconnected, mediate_deleted) {
        file,
        network,
        capability,
        signal,
        ptrace,
        userns,
        mount,
        umount,
        pivot_root,
        deny /sys/kernel/security/** rwklx,
    }";
    let host = Host::new();
    host.0
        .sh("mount -t securityfs securityfs /sys/kernel/security");
    host.0
        .sh(&format!("echo '{PROFILE}' | apparmor_parser --replace"));
    let spec = with_only(ROOTLESS_FLAGS, ROOTLESS_CAPABILITIES)
        .flags(["--security-opt=apparmor=dind-allows-mounts"]);
    let report = spec.run(&["doctor"]).exited(0);
    assert!(!report.stdout.contains("AppArmor enforces"), "{report:?}");
    let engine = spec.ready(&[]);
    let profile = engine.sh("cat /proc/1/attr/current");
    assert_eq!(profile.trim(), "dind-allows-mounts (enforce)");
    engine.load_busybox();
    assert_eq!(engine.inner(&[], &["echo", "inside"]).trim(), "inside");
    drop(engine);
    host.0
        .sh("echo 'profile dind-allows-mounts { }' | apparmor_parser --remove");
}

/// What the host has outside of every container, and what it has for each: mounts, cgroups with their
/// settings, network interfaces, rules of nf_tables, profiles of AppArmor, settings of the kernel that
/// root of a container could write. Names that are different for each container are left out.
const SEEN: &str = r"
    cut -d' ' -f4- /proc/self/mountinfo | sed 's/,*\(lower\|upper\|work\)dir=[^,]*//g; s/shared:[0-9]*//'
    find /sys/fs/cgroup -type d
    find /sys/fs/cgroup \( -name cgroup.subtree_control -o -name '*.max' -o -name '*limit_in_bytes' \
        -o -name 'cpu.cfs_*' -o -name release_agent -o -name notify_on_release -o -name 'devices.list' \) \
        -exec grep -H '' {} + 2>/dev/null
    ls /sys/class/net
    nft -s list ruleset
    cat /sys/kernel/security/apparmor/profiles
    grep -rs '' /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/vm/overcommit_memory \
        /proc/sys/kernel/core_pattern /proc/sys/kernel/panic /proc/sys/user
    cat /sys/class/net/lo/mtu /sys/kernel/mm/transparent_hugepage/enabled";

/// A look at the host from its own namespaces, by a container that is there all the time.
struct Host(Container);

impl Host {
    fn new() -> Self {
        let flags = [
            "--privileged",
            "--pid=host",
            "--network=host",
            "--cgroupns=host",
        ];
        let spec = unprivileged().flags(flags).shell("exec sleep infinity");
        Self(spec.start(&[]))
    }

    /// The lines of [`SEEN`], in order.
    #[track_caller]
    fn seen(&self) -> Vec<String> {
        let names = r"s/[0-9a-f]\{12,64\}/ID/g; s/veth[0-9a-f]*/veth/g";
        let script = format!("({SEEN}) | sed '{names}' | sort");
        let enter = ["nsenter", "--target=1", "--mount", "--net", "--cgroup"];
        let text = self.0.text(&[&enter[..], &["sh", "-c", &script]].concat());
        text.lines().map(str::to_owned).collect()
    }

    /// Fails the test unless the host comes to have `expected`: Docker takes its time to remove the
    /// network of a container.
    #[track_caller]
    fn has(&self, expected: &[String], when: &str) {
        let by = Instant::now() + deadline();
        loop {
            let seen = self.seen();
            if seen == expected {
                return;
            }
            let only = |these: &[String], others: &[String]| -> Vec<String> {
                let mut others = others.to_vec();
                let is_only = |line: &&String| {
                    let found = others.iter().position(|other| other == *line);
                    found.map(|index| others.swap_remove(index)).is_none()
                };
                these.iter().filter(is_only).cloned().collect()
            };
            let (more, less) = (only(&seen, expected), only(expected, &seen));
            assert!(
                Instant::now() < by,
                "{when}: more {more:#?}, less {less:#?}"
            );
        }
    }
}

/// While an engine runs, with a container inside and a pair of interfaces that PID 1 has made, the host
/// has for it what it has for any other container. After its end nothing is left, whatever ended it,
/// and nothing in the network namespace, which another container keeps.
#[test]
#[ignore = "needs a host without other containers; tests/lab vm-test has one"]
fn nothing_outside_is_changed() {
    let host = Host::new();
    let namespace = unprivileged().image(BUSYBOX).start(&["sleep", "100001"]);
    let network = format!("--network=container:{}", namespace.name);
    let spec = || -> Spec { with_veth().flags([network.as_str()]) };
    let (before, in_network) = (host.seen(), made(&namespace));
    let other = spec().shell("exec sleep infinity").start(&[]);
    let with_another = host.seen();
    assert_ne!(with_another, before, "a container is seen");
    drop(other);
    host.has(&before, "after any other container");

    let engine = spec().ready(&[]);
    engine.load_busybox();
    engine.inner(&["-d"], &["sleep", "100001"]);
    engine.logged(&["dind: rootless: ", "a veth pair"]);
    assert!(
        made(&namespace)
            .iter()
            .any(|line| line.starts_with("table dind-"))
    );
    host.has(&with_another, "while it runs");
    engine.docker(&["pause"]).exited(0);
    engine.docker(&["unpause"]).exited(0);
    let running = engine.text(&["docker", "ps", "--format={{.Command}}"]);
    assert!(running.contains("sleep 100001"), "after a pause: {running}");
    engine.docker(&["stop"]).exited(0);
    host.has(&before, "after a stop");
    assert_eq!(made(&namespace), in_network, "after a stop");

    engine.docker(&["start"]).exited(0);
    engine.wait_ready_times(2);
    host.has(&with_another, "after the second start");
    engine.signal("KILL");
    engine.wait();
    host.has(&before, "after SIGKILL");
    let by = Instant::now() + deadline();
    while made(&namespace) != in_network {
        assert!(
            Instant::now() < by,
            "{:?}, not {in_network:?}",
            made(&namespace)
        );
    }
}
