//! Whether the engine runs with the rights of a privileged container, or in a user namespace that
//! this process makes, and what is missing for that.

use std::path::Path;

use super::rootless_driver::{self, Choice, Lack, NoVeth};
use super::words::listed;
use crate::facts::capabilities::{Capabilities, Capability};
use crate::facts::netfilter::NfTables;
use crate::facts::rootless::{Account, Device, Extent, HOME, Range, Rootless};
use crate::facts::surroundings::Surroundings;
use crate::input::config::Config;
use crate::messages::fault::Fault;
use crate::messages::finding::Finding;

/// Where README has what an engine in a user namespace needs, and what is different with it.
pub const LINK: &str = "README.md#without---privileged";

/// The most lines of a map: `UID_GID_MAP_MAX_EXTENTS` of linux/user_namespace.h.
const MOST_EXTENTS: usize = 340;

/// The number of ids that images expect: nobody is 65534.
const USUAL_IDS: u32 = 65_536;

/// Fewer ids than these are not worth an engine: Debian's system accounts alone go up to 999.
const LEAST_IDS: u32 = 1000;

/// The range that the account gets where root writes the map, and `/etc/subuid` gives it none: that
/// of docker:dind-rootless.
const USUAL_RANGE: Range = Range {
    first: 100_000,
    count: USUAL_IDS,
};

/// What root needs outside of the user namespace. Each is among Docker's defaults.
const NEEDED: [(Capability, &str, &str); 5] = [
    (
        Capability::CHOWN,
        "CHOWN",
        "gives the data root and the socket to the engine's user",
    ),
    (
        Capability::DAC_OVERRIDE,
        "DAC_OVERRIDE",
        "reads the data root, which is the engine's",
    ),
    (Capability::KILL, "KILL", "stops the engine"),
    (Capability::SETGID, "SETGID", "writes the map of groups"),
    (Capability::SETUID, "SETUID", "writes the map of users"),
];

/// The flags of `docker run`.
const SECCOMP: &str = "--security-opt seccomp=dind.json";
const SYSTEM_PATHS: &str = "--security-opt systempaths=unconfined";
const APPARMOR: &str = "--security-opt apparmor=unconfined";
const TUN: &str = "--device /dev/net/tun";
const NET_ADMIN: &str = "--cap-add NET_ADMIN";

/// How the engine runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode<'a> {
    /// In the namespaces of this process. It needs CAP_SYS_ADMIN.
    Privileged,
    /// In a user namespace, and others that belong to it.
    Rootless(&'a Rootless, Maps, Choice),
    /// In neither: what is missing for a user namespace. `asked` is whether something shows that the
    /// user wants one, so that a command is not taken for a client's.
    Impossible {
        /// What is missing, one of them at least.
        missing: Vec<Missing>,
        /// Whether the user has asked for one, or has given a flag that nothing else needs.
        asked: bool,
    },
}

/// The maps of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maps {
    /// That of user ids.
    pub users: Vec<Extent>,
    /// That of group ids.
    pub groups: Vec<Extent>,
}

impl Maps {
    /// The lines of both, as they are written, with commas between them.
    pub fn lines(&self) -> [String; 2] {
        [&self.users, &self.groups].map(|map| {
            let lines = map
                .iter()
                .map(|extent| format!("{} {} {}", extent.inside, extent.outside, extent.count));
            lines.collect::<Vec<_>>().join(", ")
        })
    }
}

/// Something that an engine in a user namespace needs and that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The code of the finding.
    code: &'static str,
    /// What was seen, as a clause.
    seen: String,
    /// How it is given: a flag, or what an administrator does.
    flag: String,
    /// What the flag opens, or what it is needed for.
    opens: String,
}

impl Missing {
    fn new(
        code: &'static str,
        seen: impl Into<String>,
        flag: impl Into<String>,
        opens: impl Into<String>,
    ) -> Self {
        Self {
            code,
            seen: seen.into(),
            flag: flag.into(),
            opens: opens.into(),
        }
    }

    /// The finding of `dind doctor`.
    pub fn finding(&self) -> Finding {
        let Self {
            code,
            seen,
            flag,
            opens,
        } = self;
        let seen = format!("no engine can run in a user namespace here, since {seen}");
        Finding::error(code, seen, LINK).remedy(format!("{flag}, which {opens}"))
    }
}

/// Decides how the engine runs.
pub fn decide<'a>(surroundings: &'a Surroundings, config: &Config) -> Mode<'a> {
    let Some(rootless) = &surroundings.rootless else {
        return Mode::Privileged;
    };
    if config.rootless == Some(false) {
        return Mode::Privileged;
    }
    let maps = maps(rootless, surroundings.user);
    let mut missing = missing(rootless, surroundings.user, &surroundings.capabilities);
    let network = rootless_driver::choose(surroundings, rootless, config);
    match (maps, network) {
        (Ok(maps), Ok(network)) if missing.is_empty() => Mode::Rootless(rootless, maps, network),
        (maps, network) => Mode::Impossible {
            missing: {
                let lacks = network.err().unwrap_or_default().into_iter();
                missing.extend(lacks.map(|lack| lacking(rootless, lack)));
                missing.extend(maps.err());
                missing
            },
            asked: config.rootless == Some(true) || seems_wanted(rootless, surroundings.user),
        },
    }
}

/// Whether an engine that starts here runs in a user namespace.
pub fn is_rootless(surroundings: &Surroundings, config: &Config) -> bool {
    matches!(decide(surroundings, config), Mode::Rootless(..))
}

/// Whether the container has something that only an engine in a user namespace needs. That seccomp
/// allows the calls shows nothing: podman's profile does so in every container.
fn seems_wanted(rootless: &Rootless, user: u32) -> bool {
    let may_map = user == 0 || rootless.map_programs.is_some();
    may_map && (rootless.masked.is_none() || rootless.tun != Device::Missing)
}

/// The fault that names all that is missing for `user`, and what each flag opens.
pub fn fault(missing: &[Missing], user: u32) -> Fault {
    let seen: Vec<&str> = missing
        .iter()
        .map(|missing| missing.seen.as_str())
        .collect();
    Fault::failure(format!(
        "no engine can run in a user namespace here, since {}",
        listed(&seen)
    ))
    .remedy(format!(
        "{}; or start it with --privileged{}",
        flags(missing),
        if user == 0 { "" } else { " --user 0" }
    ))
}

/// The flags that are missing, each with what it opens.
fn flags(missing: &[Missing]) -> String {
    let flags: Vec<String> = missing
        .iter()
        .map(|Missing { flag, opens, .. }| format!("{flag} ({opens})"))
        .collect();
    flags.join("; and ")
}

/// The fault of a container without privileges in which nobody has asked for a user namespace, with
/// what that would need.
pub fn or_rootless(fault: Fault, missing: &[Missing]) -> Fault {
    let flags = flags(missing);
    match fault.remedy.clone() {
        Some(remedy) => fault.remedy(format!(
            "{remedy}; or without it, for an engine in a user namespace: {flags}"
        )),
        None => fault,
    }
}

/// The shortest command line with which an engine in a user namespace starts on this host, as a note.
/// `None` where something else is missing than flags. `asked` is whether flags may have been given, so
/// that what is not missing here may be due to them.
pub fn shortest(rootless: &Rootless, missing: &[Missing], asked: bool) -> Option<Finding> {
    let is_given =
        |missing: &&Missing| missing.code == "rootless-tun" && rootless.tun == Device::Missing;
    let others: Vec<&Missing> = missing.iter().filter(|one| !is_given(one)).collect();
    let tun = (asked || rootless.tun == Device::Missing).then_some(TUN);
    let line = line(rootless, &others, asked, tun)?;
    let seen = format!("without --privileged, this starts an engine here: {line}");
    Some(Finding::note("rootless-flags", seen, LINK))
}

/// The same line with a veth pair for the engine's network. `None` where it is known that none is possible,
/// too; `tables` is what is known of the kernel's nf_tables, which nobody may ask without CAP_NET_ADMIN.
pub fn fastest(
    surroundings: &Surroundings,
    config: &Config,
    missing: &[Missing],
    asked: bool,
    tables: NfTables,
) -> Option<Finding> {
    let rootless = surroundings.rootless.as_ref()?;
    let condition = match tables {
        NfTables::Present => "",
        NfTables::Unknown => ", if the kernel has nf_tables, which only a start finds out",
        NfTables::Missing => return None,
    };
    if !rootless_driver::may_be_veth(surroundings, rootless, config) {
        return None;
    }
    let is_given = |missing: &&Missing| matches!(missing.code, "rootless-tun" | "rootless-network");
    let others: Vec<&Missing> = missing.iter().filter(|one| !is_given(one)).collect();
    let line = line(rootless, &others, asked, Some(NET_ADMIN))?;
    let seen = format!(
        "with {NET_ADMIN} in the place of {TUN}, a veth pair makes the engine's network several times as fast{condition}: {line}"
    );
    Some(Finding::note("rootless-veth", seen, LINK))
}

/// The command line, with the flag for what connects the network. `None` where something is missing that
/// no flag gives.
fn line(
    rootless: &Rootless,
    missing: &[&Missing],
    asked: bool,
    network: Option<&str>,
) -> Option<String> {
    let is_flag = |missing: &&Missing| {
        matches!(
            missing.code,
            "rootless-seccomp" | "rootless-proc" | "rootless-apparmor" | "rootless-capabilities"
        )
    };
    if !missing.iter().all(is_flag) {
        return None;
    }
    let mut words = vec!["docker run -it --rm".to_owned()];
    let given = |needed: bool, flag: &str| (asked || needed).then(|| flag.to_owned());
    words.extend(given(!rootless.denied.is_empty(), SECCOMP));
    words.extend(given(rootless.masked.is_some(), SYSTEM_PATHS));
    let is_confined = rootless.apparmor.is_some();
    words.extend((is_confined || (asked && rootless.has_apparmor)).then(|| APPARMOR.to_owned()));
    words.extend(network.map(str::to_owned));
    let capabilities = missing.iter().filter_map(|missing| {
        let flag = missing.flag.strip_prefix("start it with ")?;
        (missing.code == "rootless-capabilities").then(|| flag.to_owned())
    });
    words.extend(capabilities);
    let words = words.join(" ");
    let makes = match words.contains(SECCOMP) {
        true => "docker run --rm dind seccomp >dind.json && ",
        false => "",
    };
    Some(format!("{makes}{words} dind"))
}

/// What is missing but for the maps.
fn missing(rootless: &Rootless, user: u32, capabilities: &Capabilities) -> Vec<Missing> {
    let mut missing = Vec::new();
    if !rootless.denied.is_empty() {
        let calls = listed(&rootless.denied);
        missing.push(Missing::new(
            "rootless-seccomp",
            format!("seccomp denies {calls}"),
            format!("start it with {SECCOMP}, which 'docker run --rm dind seccomp >dind.json' makes, or with --security-opt seccomp=unconfined"),
            "opens these calls, or every one, whose rights the kernel still checks",
        ));
    }
    if let Some(path) = &rootless.masked {
        missing.push(Missing::new(
            "rootless-proc",
            format!("{} is covered, so the kernel mounts no /proc in inner containers", path.display()),
            format!("start it with {SYSTEM_PATHS}"),
            "opens the host's settings in /proc to this container's root, who is not that of inner containers",
        ));
    }
    if let Some(profile) = &rootless.apparmor {
        missing.push(Missing::new(
            "rootless-apparmor",
            format!("AppArmor enforces the profile {profile}, which denies mounts"),
            format!("start it with {APPARMOR}"),
            "opens mounts, and files of /proc and /sys as their modes say",
        ));
    }
    for (name, value) in &rootless.settings {
        let other = match name.as_str() {
            "user.max_user_namespaces" => "15000",
            "kernel.unprivileged_userns_clone" => "1",
            _ => "0",
        };
        let or = match name.contains("apparmor") {
            true => {
                "start it with a profile of AppArmor that has userns, mount, umount and pivot_root, or "
            }
            false => "",
        };
        missing.push(Missing::new(
            "rootless-setting",
            format!("{name} is {value} on the host"),
            format!("{or}set it there: sysctl -w {name}={other}"),
            "opens user namespaces to every user of the host",
        ));
    }
    if user == 0 {
        missing.extend(
            NEEDED
                .iter()
                .filter(|(capability, ..)| !capabilities.effective.has(*capability))
                .map(|(_, name, purpose)| {
                    Missing::new(
                        "rootless-capabilities",
                        format!("it has no CAP_{name}"),
                        format!("start it with --cap-add {name}"),
                        *purpose,
                    )
                }),
        );
    } else if rootless.map_programs.is_none() {
        missing.push(Missing::new(
            "rootless-programs",
            "newuidmap and newgidmap are not in PATH",
            "install uidmap in the image, or start it with --user 0",
            "writes the maps of ids",
        ));
    } else if rootless.no_new_privileges {
        missing.push(Missing::new(
            "rootless-privileges",
            "no_new_privs is set, so newuidmap gains no rights",
            "start it with --user 0, or without --security-opt no-new-privileges",
            "lets programs with file capabilities have them",
        ));
    }
    missing
}

/// What the network lacks.
fn lacking(rootless: &Rootless, lack: Lack) -> Missing {
    match lack {
        Lack::Tun(no_veth) => {
            let (seen, flag) = match rootless.tun {
                Device::Closed { mode, .. } => (
                    format!(
                        "/dev/net/tun has the mode {mode:04o}, and user {} may not open it",
                        rootless.account.user
                    ),
                    format!(
                        "chmod 666 /dev/net/tun on the host, or start it with --user 0 and {TUN}"
                    ),
                ),
                Device::Missing | Device::Open => (
                    "there is no /dev/net/tun".to_owned(),
                    format!("start it with {TUN}"),
                ),
            };
            let seen = match no_veth {
                Some(reason) => format!("{seen}, and no veth pair is possible, for {reason}"),
                None => seen,
            };
            let flag = match no_veth {
                // The kernel makes one in general.
                Some(NoVeth {
                    remedy,
                    error: Some(_),
                    ..
                }) => format!("{remedy}, or {flag}"),
                Some(_) | None => flag,
            };
            let opens =
                "opens network interfaces to who has CAP_NET_ADMIN in their network namespace";
            Missing::new("rootless-tun", seen, flag, opens)
        }
        Lack::Program(name) => {
            let package = if name == "pasta" { "passt" } else { name };
            Missing::new(
                "rootless-network",
                format!("{name} is not in PATH"),
                format!("install {package} in the image"),
                "connects the engine's network to this container's",
            )
        }
        Lack::Veth(reason) => Missing::new(
            "rootless-network",
            format!("a veth pair is asked for, and {reason}"),
            format!("{}, or set DIND_ROOTLESS_NETWORK=auto", reason.remedy),
            "connects the engine's network to this container's",
        ),
    }
}

/// The maps for a user namespace that `user` makes.
fn maps(rootless: &Rootless, user: u32) -> Result<Maps, Missing> {
    let Account {
        user: owner,
        group,
        name,
    } = &rootless.account;
    let map = |own: &[Extent], given: &[Range], id: u32, file: &str, map: &str| {
        let found = match user {
            0 => map_by_root(own, given, id),
            _ => given.iter().find_map(|range| map_of(own, *range, id)),
        };
        found.ok_or_else(|| {
            let is_nameless = name.is_none();
            let name = name.clone().unwrap_or_else(|| owner.to_string());
            let (seen, flag) = match user {
                0 => (
                    format!("/proc/self/{map} has too few ids for another user namespace"),
                    format!("give it {USUAL_IDS} ids: a larger range for the engine outside"),
                ),
                // newuidmap(1) looks for it, and a platform may have chosen the id, as OpenShift does.
                _ if is_nameless => (
                    format!("user {owner} is not in /etc/passwd, and {file} gives it no range of ids"),
                    format!(
                        "an administrator must let it run as root (--user 0; in OpenShift a SecurityContextConstraints with runAsUser: RunAsAny and the capabilities {}), or put user {owner} into /etc/passwd and {owner}:{}:{} into /etc/subuid and /etc/subgid",
                        NEEDED.map(|(_, name, _)| name).join(", "),
                        USUAL_RANGE.first,
                        USUAL_RANGE.count
                    ),
                ),
                _ => (
                    format!("{file} gives {name} no range of ids that this container has"),
                    format!(
                        "an administrator must add a line to {file}: {name}:{}:{}",
                        USUAL_RANGE.first, USUAL_RANGE.count
                    ),
                ),
            };
            Missing::new(
                "rootless-ids",
                seen,
                flag,
                "gives the users of inner containers ids",
            )
        })
    };
    Ok(Maps {
        users: map(
            &rootless.uid_map,
            &rootless.subuids,
            *owner,
            "/etc/subuid",
            "uid_map",
        )?,
        groups: map(
            &rootless.gid_map,
            &rootless.subgids,
            *group,
            "/etc/subgid",
            "gid_map",
        )?,
    })
}

/// The map that root writes: with the account's range or the usual one, where this user namespace
/// has it, else with all of its ids but root's.
fn map_by_root(own: &[Extent], given: &[Range], id: u32) -> Option<Vec<Extent>> {
    let usual = given.iter().chain([&USUAL_RANGE]);
    let mut usual = usual.filter_map(|range| map_of(own, *range, id));
    usual.next().or_else(|| map_of_all(own, id))
}

/// Root is the account with this `id`, and the other ids are the range. `None` where this user
/// namespace, whose map is `own`, does not have all of them.
fn map_of(own: &[Extent], range: Range, id: u32) -> Option<Vec<Extent>> {
    let count = range.count.min(USUAL_IDS);
    let has = |first: u32, count: u32| {
        own.iter().any(|extent| {
            let offset = first.checked_sub(extent.inside);
            offset.is_some_and(|offset| offset < extent.count && count <= extent.count - offset)
        })
    };
    let end = range.first.checked_add(count)?;
    let apart = !(range.first..end).contains(&id);
    let fits = count >= LEAST_IDS && apart && has(id, 1) && has(range.first, count);
    fits.then(|| {
        vec![
            Extent {
                inside: 0,
                outside: id,
                count: 1,
            },
            Extent {
                inside: 1,
                outside: range.first,
                count,
            },
        ]
    })
}

/// Root is the account with this `id`, and the others are all other ids of this user namespace in
/// their order, without its root, whose files are not the engine's.
fn map_of_all(own: &[Extent], id: u32) -> Option<Vec<Extent>> {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for extent in own {
        let end = extent.inside.saturating_add(extent.count);
        let mut first = extent.inside;
        let mut taken = [0, id];
        taken.sort_unstable();
        for hole in taken {
            if (first..end).contains(&hole) {
                parts.push((first, hole - first));
                first = hole + 1;
            }
        }
        parts.push((first, end - first));
    }
    let has_id = own
        .iter()
        .any(|extent| (extent.inside..extent.inside.saturating_add(extent.count)).contains(&id));
    parts.retain(|(_, count)| *count > 0);
    parts.sort_unstable();
    let mut map = vec![Extent {
        inside: 0,
        outside: id,
        count: 1,
    }];
    let mut inside: u32 = 1;
    for (outside, count) in parts {
        let count = count.min(USUAL_IDS - inside);
        if count == 0 || map.len() == MOST_EXTENTS {
            break;
        }
        map.push(Extent {
            inside,
            outside,
            count,
        });
        inside += count;
    }
    (has_id && inside >= LEAST_IDS).then_some(map)
}

/// Whether the container's own node of a device is closed to the account, so that root must open it.
pub fn must_open(device: Device) -> bool {
    matches!(device, Device::Closed { own: true, .. })
}

/// The path of root's home, which the engine's root has inside.
pub fn home() -> &'static Path {
    Path::new(HOME)
}

/// Tests, and what the tests of plans use.
#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::facts::capabilities::CapabilitySet;
    use crate::facts::nat::{Ipv6, Nat, Rules, Switch};
    use crate::facts::surroundings::{SocketState, Stdin};
    use proptest::prelude::*;

    /// The facts of a container with all that is needed, as root.
    pub fn enough() -> Rootless {
        let all = vec![extent(0, 0, u32::MAX)];
        Rootless {
            account: Account {
                name: Some("rootless".into()),
                user: 1000,
                group: 1000,
            },
            uid_map: all.clone(),
            gid_map: all,
            subuids: Vec::new(),
            subgids: Vec::new(),
            denied: Vec::new(),
            masked: None,
            has_apparmor: false,
            apparmor: None,
            settings: Vec::new(),
            tun: Device::Closed {
                mode: 0o600,
                own: true,
            },
            fuse: Device::Missing,
            cgroup: false,
            no_new_privileges: true,
            slirp4netns: Some("/usr/bin/slirp4netns".into()),
            pasta: None,
            nat: Nat {
                ipv4: Switch::Fixed,
                ipv6: Switch::Fixed,
                ipv6_route: Ipv6::None,
                rules: Rules::Unknown,
                hosts: false,
                dockerd: false,
            },
            receive_buffer: Some(6 << 20),
            map_programs: None,
            own_home: true,
            program: "/usr/local/bin/dind".into(),
        }
    }

    fn extent(inside: u32, outside: u32, count: u32) -> Extent {
        Extent {
            inside,
            outside,
            count,
        }
    }

    fn surroundings(rootless: Rootless, user: u32, without: &[Capability]) -> Surroundings {
        let effective = without.iter().fold(CapabilitySet::ALL, |set, capability| {
            set.without(*capability)
        });
        Surroundings {
            stdin: Stdin::Null,
            capabilities: Capabilities {
                effective: if user == 0 {
                    effective
                } else {
                    CapabilitySet::NONE
                },
                bounding: CapabilitySet::ALL,
            },
            user,
            socket: "/var/run/docker.sock".into(),
            socket_state: SocketState::Free,
            rootless: Some(rootless),
        }
    }

    fn codes(mode: &Mode<'_>) -> Vec<&'static str> {
        match mode {
            Mode::Impossible { missing, .. } => missing.iter().map(|one| one.code).collect(),
            Mode::Privileged | Mode::Rootless(..) => Vec::new(),
        }
    }

    fn config(rootless: &str) -> Config {
        Config::read([], [("DIND_ROOTLESS".into(), rootless.into())])
    }

    #[test]
    fn each_thing_that_is_missing_has_a_name_and_a_flag() {
        type Change = fn(&mut Rootless);
        let changes: [(Change, &str, &str); 10] = [
            (
                |facts| facts.denied = vec!["unshare", "mount"],
                "rootless-seccomp",
                "--security-opt seccomp=dind.json, which 'docker run --rm dind seccomp >dind.json' makes",
            ),
            (
                |facts| facts.masked = Some("/proc/kcore".into()),
                "rootless-proc",
                "systempaths=unconfined",
            ),
            (
                |facts| facts.apparmor = Some("docker-default".into()),
                "rootless-apparmor",
                "apparmor=unconfined",
            ),
            (
                |facts| facts.tun = Device::Missing,
                "rootless-tun",
                "--device /dev/net/tun",
            ),
            (
                |facts| {
                    facts.tun = Device::Closed {
                        mode: 0o600,
                        own: false,
                    };
                },
                "rootless-tun",
                "chmod 666",
            ),
            (
                |facts| facts.slirp4netns = None,
                "rootless-network",
                "install slirp4netns",
            ),
            (
                |facts| facts.settings = vec![("user.max_user_namespaces".into(), "0".into())],
                "rootless-setting",
                "sysctl -w user.max_user_namespaces=15000",
            ),
            (
                |facts| {
                    facts.settings = vec![("kernel.unprivileged_userns_clone".into(), "0".into())];
                },
                "rootless-setting",
                "sysctl -w kernel.unprivileged_userns_clone=1",
            ),
            (
                |facts| {
                    let name = "kernel.apparmor_restrict_unprivileged_userns";
                    facts.settings = vec![(name.into(), "1".into())];
                },
                "rootless-setting",
                "pivot_root, or set it there: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
            ),
            (
                |facts| facts.uid_map = vec![extent(0, 1000, 1)],
                "rootless-ids",
                "a larger range",
            ),
        ];
        for (change, code, flag) in changes {
            let mut facts = enough();
            change(&mut facts);
            let surroundings = surroundings(facts, 0, &[]);
            let mode = decide(&surroundings, &config(""));
            assert_eq!(codes(&mode), [code], "{mode:?}");
            let Mode::Impossible { missing, asked } = mode else {
                panic!("{mode:?}");
            };
            assert!(asked, "{code}");
            let fault = fault(&missing, 0).to_string();
            assert!(fault.contains(flag), "{fault}");
            let finding = missing.first().map(|one| one.finding().to_string());
            assert!(finding.is_some_and(|text| text.contains(flag)), "{code}");
        }
    }

    #[test]
    fn root_needs_its_capabilities_and_another_user_its_programs() {
        for (capability, name, _) in NEEDED {
            let surroundings = surroundings(enough(), 0, &[capability, Capability::SYS_ADMIN]);
            let mode = decide(&surroundings, &config(""));
            assert_eq!(codes(&mode), ["rootless-capabilities"], "{name}");
        }
        let range = Range {
            first: 100_000,
            count: 65_536,
        };
        let user = Rootless {
            tun: Device::Open,
            no_new_privileges: false,
            map_programs: Some(["/usr/bin/newuidmap".into(), "/usr/bin/newgidmap".into()]),
            subuids: vec![range],
            subgids: vec![range],
            ..enough()
        };
        let found = |facts: Rootless| codes(&decide(&surroundings(facts, 1000, &[]), &config("")));
        assert_eq!(found(user.clone()), Vec::<&str>::new());
        for (facts, code) in [
            (
                Rootless {
                    subuids: Vec::new(),
                    ..user.clone()
                },
                "rootless-ids",
            ),
            (
                Rootless {
                    map_programs: None,
                    ..user.clone()
                },
                "rootless-programs",
            ),
            (
                Rootless {
                    no_new_privileges: true,
                    ..user.clone()
                },
                "rootless-privileges",
            ),
            (
                Rootless {
                    tun: enough().tun,
                    ..user.clone()
                },
                "rootless-tun",
            ),
        ] {
            assert_eq!(found(facts), [code]);
        }
    }

    #[test]
    fn without_any_flag_nobody_has_asked() {
        let bare = Rootless {
            denied: vec!["unshare"],
            masked: Some("/proc/kcore".into()),
            tun: Device::Missing,
            ..enough()
        };
        let asked = |value| match decide(&surroundings(bare.clone(), 0, &[]), &config(value)) {
            Mode::Impossible { asked, .. } => Some(asked),
            Mode::Privileged | Mode::Rootless(..) => None,
        };
        assert_eq!(asked(""), Some(false));
        assert_eq!(asked("1"), Some(true));
        assert_eq!(asked("0"), None);
        let unread = Surroundings {
            rootless: None,
            ..surroundings(enough(), 0, &[])
        };
        assert_eq!(decide(&unread, &config("")), Mode::Privileged);
    }

    #[test]
    fn the_map_is_the_one_that_fits() {
        let all = [extent(0, 0, u32::MAX)];
        let given = Range {
            first: 200_000,
            count: 65_536,
        };
        let usual = vec![extent(0, 1000, 1), extent(1, 100_000, 65_536)];
        assert_eq!(map_by_root(&all, &[], 1000), Some(usual));
        let by_file = vec![extent(0, 1000, 1), extent(1, 200_000, 65_536)];
        assert_eq!(map_by_root(&all, &[given], 1000), Some(by_file));
        // In a user namespace of 65,536 ids.
        let small = [extent(0, 231_072, 65_536)];
        let inside = vec![
            extent(0, 1000, 1),
            extent(1, 1, 999),
            extent(1000, 1001, 64_535),
        ];
        assert_eq!(map_by_root(&small, &[given], 1000), Some(inside));
        // One that rootless Docker has made.
        let two = [extent(0, 1000, 1), extent(1, 100_000, 65_536)];
        let map = map_by_root(&two, &[], 1000).unwrap_or_default();
        assert_eq!(map.first(), Some(&extent(0, 1000, 1)));
        assert_eq!(map.get(1), Some(&extent(1, 1, 999)));
        assert_eq!(map.last(), Some(&extent(1000, 1001, 64_536)));
        assert_eq!(map_by_root(&[extent(0, 1000, 1)], &[], 1000), None);
        assert_eq!(map_by_root(&[extent(0, 5000, 999)], &[], 10), None);
    }

    /// Without any flag each that is needed is missing; with some, those that are not may be there
    /// because of them.
    #[test]
    fn the_shortest_line_has_what_this_host_needs() {
        let line = |facts: &Rootless, without: &[Capability], asked| {
            let surroundings = surroundings(facts.clone(), 0, without);
            let missing = match decide(&surroundings, &config("")) {
                Mode::Impossible { missing, .. } => missing,
                Mode::Privileged | Mode::Rootless(..) => Vec::new(),
            };
            let note = shortest(facts, &missing, asked)?;
            Some(note.seen.rsplit_once(": ")?.1.to_owned())
        };
        let bare = Rootless {
            denied: vec!["unshare"],
            masked: Some("/proc/kcore".into()),
            tun: Device::Missing,
            ..enough()
        };
        let podman = Rootless {
            denied: Vec::new(),
            ..bare.clone()
        };
        let with_apparmor = Rootless {
            has_apparmor: true,
            ..bare.clone()
        };
        let confined = Rootless {
            apparmor: Some("docker-default".into()),
            ..with_apparmor.clone()
        };
        let makes = "docker run --rm dind seccomp >dind.json && docker run -it --rm --security-opt seccomp=dind.json";
        let rest = "--security-opt systempaths=unconfined --device /dev/net/tun dind";
        let unconfined = "--security-opt systempaths=unconfined --security-opt apparmor=unconfined --device /dev/net/tun dind";
        for (facts, asked, expected) in [
            (&bare, false, format!("{makes} {rest}")),
            (&podman, false, format!("docker run -it --rm {rest}")),
            (&podman, true, format!("{makes} {rest}")),
            // The engine outside may not confine its containers.
            (&with_apparmor, false, format!("{makes} {rest}")),
            (&with_apparmor, true, format!("{makes} {unconfined}")),
            (&confined, false, format!("{makes} {unconfined}")),
            (&confined, true, format!("{makes} {unconfined}")),
        ] {
            assert_eq!(line(facts, &[], asked), Some(expected));
        }
        let found = line(&bare, &[Capability::SETUID], false);
        assert!(found.is_some_and(|line| line.ends_with("/dev/net/tun --cap-add SETUID dind")));
        let closed = Rootless {
            settings: vec![("user.max_user_namespaces".into(), "0".into())],
            ..bare
        };
        assert_eq!(line(&closed, &[], false), None);
        let of_the_host = Rootless {
            tun: Device::Closed {
                mode: 0o600,
                own: false,
            },
            ..podman
        };
        assert_eq!(line(&of_the_host, &[], true), None);
    }

    /// What the first line lacks in the image, the second one does not need.
    #[test]
    fn the_fastest_line_has_a_capability_in_the_place_of_the_device() {
        let found = |facts: &Rootless, network: &str, tables| {
            let surroundings = surroundings(facts.clone(), 0, &[Capability::NET_ADMIN]);
            let config = Config::read([], [("DIND_ROOTLESS_NETWORK".into(), network.into())]);
            let missing = match decide(&surroundings, &config) {
                Mode::Impossible { missing, .. } => missing,
                Mode::Privileged | Mode::Rootless(..) => Vec::new(),
            };
            let note = fastest(&surroundings, &config, &missing, false, tables);
            let text = note.map(|note| note.seen).unwrap_or_default();
            let shortest = shortest(facts, &missing, false).is_some();
            (text, shortest)
        };
        let bare = Rootless {
            denied: vec!["unshare"],
            masked: Some("/proc/kcore".into()),
            tun: Device::Missing,
            ..enough()
        };
        let line = "docker run --rm dind seccomp >dind.json && docker run -it --rm --security-opt seccomp=dind.json --security-opt systempaths=unconfined --cap-add NET_ADMIN dind";
        let (text, both) = found(&bare, "", NfTables::Present);
        assert!(both && text.ends_with(&format!(" times as fast: {line}")));
        let (text, both) = found(&bare, "", NfTables::Unknown);
        assert!(both && text.ends_with(line) && text.contains("only a start finds out: "));
        let without_programs = Rootless {
            slirp4netns: None,
            ..bare.clone()
        };
        for (facts, network, one) in [
            (&without_programs, "", true),
            (&bare, "veth", true),
            (&bare, "pasta", false),
        ] {
            let (text, shortest) = found(facts, network, NfTables::Present);
            assert_eq!(text.is_empty(), !one, "{network}: {text}");
            assert!(!shortest, "{network}");
        }
        assert_eq!(found(&bare, "", NfTables::Missing).0, "");
        let closed = Rootless {
            settings: vec![("user.max_user_namespaces".into(), "0".into())],
            ..bare
        };
        assert_eq!(found(&closed, "", NfTables::Present).0, "");
    }

    proptest! {
        #[test]
        fn a_map_has_each_id_once_and_only_own_ones(
            own in proptest::collection::vec((0..400_u32, 1..90_000_u32), 1..5), id in 1..3000_u32,
        ) {
            let mut next = 0;
            let own: Vec<Extent> = own.into_iter().map(|(gap, count)| {
                let extent = extent(next + gap, next + gap, count);
                next += gap + count;
                extent
            }).collect();
            let Some(map) = map_by_root(&own, &[], id) else { return Ok(()); };
            prop_assert!(map.len() <= MOST_EXTENTS);
            let mut inside = 0;
            for part in &map {
                prop_assert_eq!(part.inside, inside);
                inside += part.count;
                prop_assert!(part.outside > 0 && part.count > 0);
                let end = part.outside + part.count;
                let has = |own: &Extent| own.inside <= part.outside && end <= own.inside + own.count;
                prop_assert!(own.iter().any(has));
                let meets = |other: &&Extent| {
                    other.outside < end && part.outside < other.outside + other.count
                };
                prop_assert_eq!(map.iter().filter(meets).count(), 1);
            }
            prop_assert!(inside <= USUAL_IDS + 1);
        }
    }
}
