//! Which contract reads which variable: the table of variables against the plans.

use std::collections::BTreeSet;

use super::*;
use crate::facts::store::{Found, StoreFacts};
use crate::input::variables::tests::table;
use crate::store::disk::Form;

/// For each variable, a value that changes the plan of a contract that reads it.
const SAMPLES: &[(&str, &str)] = &[
    ("PORT", "4444"),
    ("DOCKER_DAEMON_ARGS", "--debug"),
    ("LOG", "file"),
    ("DOCKER_TLS_CERTDIR", "/own"),
    ("DOCKER_TLS_SAN", "DNS:other"),
    ("DOCKER_IPTABLES_LEGACY", "1"),
    ("DIND_IPTABLES_SHORTCUT", "off"),
    ("NOTIFY_SOCKET", "/run/notify"),
    ("DIND_READY_TIMEOUT", "61"),
    ("DIND_STOP_TIMEOUT", "8"),
    ("DIND_STOP_DEAF", "wait"),
    ("DIND_HOOK_TIMEOUT", "61"),
    ("DIND_TMPFS", "off"),
    ("DIND_DNS", "off"),
    ("DIND_MTU", "1300"),
    ("DIND_EPHEMERAL", "1"),
    ("DIND_RESTART", "on-failure"),
    ("DIND_IMAGES", "/images"),
    ("DIND_IMAGES_STRICT", "1"),
    ("DIND_STORE_STRICT", "1"),
    ("DIND_STORAGE", "vfs"),
    ("DIND_STORAGE_SIZE", "1G"),
    ("DOCKER_DRIVER", "vfs"),
    ("DOCKER_HOST", "unix:///other.sock"),
    ("DOCKER_CONTEXT", "remote"),
    ("DOCKER_TLS_VERIFY", "1"),
    ("DOCKER_TLS", "1"),
    ("DOCKERD_ROOTLESS_ROOTLESSKIT_NET", "pasta"),
    ("DOCKERD_ROOTLESS_ROOTLESSKIT_MTU", "1400"),
    ("DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS", "--pidns"),
    ("DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER", "slirp4netns"),
    (
        "DOCKERD_ROOTLESS_ROOTLESSKIT_DISABLE_HOST_LOOPBACK",
        "false",
    ),
    ("DOCKERD_ROOTLESS_ROOTLESSKIT_SLIRP4NETNS_SANDBOX", "true"),
    ("DOCKERD_ROOTLESS_ROOTLESSKIT_SLIRP4NETNS_SECCOMP", "true"),
    ("DOCKERD_ROOTLESS_ROOTLESSKIT_DETACH_NETNS", "true"),
    ("DOCKERD_ROOTLESS_ROOTLESSKIT_STATE_DIR", "/run/state"),
];

/// Variables that are read before there is a plan: for logging, to choose the contract, to know whether
/// an engine may run in a user namespace and how, and to find programs, the store and the files of the
/// docker CLI.
const READ_BEFORE: &[&str] = &[
    "DIND_LOG",
    "DIND_LOG_FORMAT",
    "DIND_CONTRACT",
    "DIND_ROOTLESS",
    "DIND_ROOTLESS_NETWORK",
    "DIND_STORE",
    "DOCKER_CERT_PATH",
    "DOCKER_CONFIG",
    "HOME",
    "XDG_RUNTIME_DIR",
    "PATH",
    "NO_COLOR",
    "TERM",
];

const CONTRACTS: [Contract; 5] = [
    Contract::Dind,
    Contract::Wrapdocker,
    Contract::HackDind,
    Contract::DockerdEntrypoint,
    Contract::DockerEntrypoint,
];

/// The plan as text. The variable itself is removed from the environments, since every contract
/// passes it on or removes it.
fn shown(start: &Start<'_>, facts: &Facts, variable: &str) -> String {
    let mut plan = match start.plan(facts) {
        Ok(plan) => plan,
        Err(fault) => return fault.to_string(),
    };
    let without = |environment: &mut Vec<(OsString, OsString)>| {
        environment.retain(|(name, _)| name != variable);
    };
    match &mut plan.outcome {
        Outcome::Become { environment, .. } => without(environment),
        Outcome::Supervise(engine) => {
            let optional = engine.containerd.iter_mut().chain(&mut engine.dmsetup);
            for program in optional.chain([&mut engine.dockerd]) {
                without(&mut program.environment);
            }
            without(&mut engine.environment);
        }
    }
    format!("{plan:?}")
}

/// Facts with which each variable has an effect under some contract.
fn places() -> Vec<Facts> {
    let mut facts = bare_v1();
    facts.images = true;
    facts.store = Some(StoreFacts {
        path: "/store".into(),
        real: "/store".into(),
        form: Form::Directory,
        found: Found::Nothing,
        mkfs: None,
    });
    facts.networks.resolvers = vec![[127, 0, 0, 11].into()];
    facts.data_root = DataRoot {
        filesystem: Filesystem::Unsuitable("overlay"),
        means: Some(Means {
            occupied: false,
            vfs: false,
            data_file: "/var/lib/docker/dind-data.img".into(),
            made: false,
            free: 20 << 30,
            taken: 0,
            grows: false,
            mkfs: Some("/usr/sbin/mkfs.ext4".into()),
            loop_devices: true,
            fuse_overlayfs: false,
            zfs: false,
        }),
        ..facts.data_root
    };
    let mut with_certificates = facts.clone();
    with_certificates.client.certificates = true;
    vec![facts, with_certificates]
}

fn has_an_effect(contract: Contract, variable: (&str, &str)) -> bool {
    let places = places();
    let mut starts = Vec::new();
    for command in [&[][..], &["true"]] {
        for stdin in [Stdin::Null, Stdin::Terminal] {
            for directory in ["", "/certs"] {
                starts.push(([&[contract.name()], command].concat(), stdin, directory));
            }
        }
    }
    starts.iter().any(|(arguments, stdin, directory)| {
        let directory = ("DOCKER_TLS_CERTDIR", *directory);
        let start = |variables| Start {
            arguments,
            variables,
            stdin: *stdin,
            ..DAEMON
        };
        // Of two variables with the same name the first is read.
        let (with, without) = ([variable, directory], [directory]);
        places.iter().any(|facts| {
            shown(&start(&with), facts, variable.0) != shown(&start(&without), facts, variable.0)
        })
    })
}

#[test]
fn the_table_says_which_contract_reads_a_variable() {
    let mut left: BTreeSet<&str> = SAMPLES.iter().map(|(name, _)| *name).collect();
    for (name, readers) in table() {
        let Some(sample) = SAMPLES.iter().find(|(sample, _)| *sample == name) else {
            assert!(READ_BEFORE.contains(&name), "{name} has no sample");
            continue;
        };
        left.remove(name);
        for contract in CONTRACTS {
            assert_eq!(
                has_an_effect(contract, *sample),
                readers.contains(&contract),
                "{name}, {}",
                contract.name()
            );
        }
    }
    assert!(left.is_empty(), "not in the table: {left:?}");
}

/// The table, which help is printed from, has the variables that are not passed to dockerd.
#[test]
fn the_table_has_the_variables_of_clients() {
    for name in CLIENT_VARIABLES {
        assert!(table().any(|(known, _)| known == *name), "{name}");
    }
}
