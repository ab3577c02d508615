use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use serde_json::Value;

use super::*;
use crate::facts::capabilities::{Capabilities, Capability, CapabilitySet};
use crate::facts::cgroup::{CGROUP_ROOT, CgroupFacts, Membership, RootMount, UnifiedRoot};
use crate::facts::client::ClientFacts;
use crate::facts::container::ContainerFacts;
use crate::facts::engine::{ConfigVersion, ImageStores};
use crate::facts::exec_root::ExecRoot;
use crate::facts::hooks::HookFiles;
use crate::facts::host::{Clock, Confinement, Modules, Numbers, Processes, Quotas, Status};
use crate::facts::limits::Limits;
use crate::facts::memory;
use crate::facts::mountinfo::MountTable;
use crate::facts::netfilter::{Forwarding, LegacyPrograms, Netfilter, NfTables};
use crate::facts::network::{Network, Networks, Route};
use crate::facts::programs::Programs;
use crate::facts::read_only::ReadOnly;
use crate::facts::rootless::{Device, Rootless};
use crate::facts::space::Space;
use crate::facts::storage::{Contents, DataRoot, Filesystem, Means};
use crate::facts::surroundings::{Stdin, Surroundings};
use crate::plan::mode::tests::enough;
use crate::sys::limits::Limit;

/// A container and its host.
struct Machine {
    facts: Facts,
    host: Host,
    capabilities: Capabilities,
    user: u32,
    socket_state: SocketState,
    variables: Vec<(&'static str, &'static str)>,
    arguments: &'static str,
    rootless: Option<Rootless>,
}

/// The text of a file in a fixture: tests/fixtures/README.md.
fn fixture(layout: &str, name: &str, path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(layout)
        .join(format!("{name}.facts"));
    let text = std::fs::read_to_string(&file);
    let text = text.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let start = format!("== {path}");
    let lines = text.lines().skip_while(|line| *line != start).skip(1);
    let lines = lines.take_while(|line| !line.starts_with("== "));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// A privileged container on a real host, with nothing wrong in all other facts.
fn machine(layout: &str, name: &str) -> Machine {
    let text = |path: &str| fixture(layout, name, path);
    let words = |path: &str| -> BTreeSet<String> {
        text(path).split_whitespace().map(str::to_owned).collect()
    };
    let mut mounts = MountTable::parse(&text("/proc/self/mountinfo"));
    let volume = MountTable::parse("1 0 8:1 / /var/lib/docker rw - ext4 /dev/sda rw\n");
    mounts.mounts.extend(volume.mounts);
    let entries = text("observed");
    let entries = entries.lines().filter_map(|line| {
        let path = line.split(' ').nth(1)?;
        let name = Path::new(path).strip_prefix(CGROUP_ROOT).ok()?.to_str()?;
        (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
    });
    let facts = Facts {
        store: None,
        pid1: true,
        container: ContainerFacts {
            cgroup: CgroupFacts {
                memberships: Membership::parse(&text("/proc/self/cgroup")),
                root: if text("observed").contains("statfs /sys/fs/cgroup 63677270") {
                    RootMount::Cgroup2
                } else if mounts.at(Path::new(CGROUP_ROOT)).is_some() {
                    RootMount::Directory
                } else {
                    RootMount::Nothing
                },
                entries: entries.collect(),
                unified: UnifiedRoot {
                    controllers: words("/sys/fs/cgroup/cgroup.controllers"),
                    enabled: words("/sys/fs/cgroup/cgroup.subtree_control"),
                },
            },
            mounts,
            security_directory: true,
            tmp_empty: true,
        },
        apparmor: false,
        images: false,
        log_directory_own: true,
        data_root: DataRoot {
            origin: Ok(None),
            path: "/var/lib/docker".into(),
            mode: Some(0o710),
            filesystem: Filesystem::Other,
            contents: Contents::default(),
            means: None,
        },
        exec_root: ExecRoot::default(),
        read_only: Vec::new(),
        links: Vec::new(),
        limits: Limits::default(),
        kills: None,
        stale: Vec::new(),
        running: None,
        programs: Programs {
            dockerd: Some("/usr/sbin/dockerd".into()),
            ..Programs::default()
        },
        image_stores: None,
        containerd_config: ConfigVersion::Three,
        socket_group: Some(999),
        addresses: BTreeSet::new(),
        host_names: BTreeSet::new(),
        networks: Networks {
            mtu: Some(1500),
            ..Networks::default()
        },
        netfilter: Netfilter {
            legacy_in_use: false,
            nf_tables: NfTables::Present,
            legacy_programs: LegacyPrograms::Missing,
            nft_programs: None,
            forwarding: Forwarding::default(),
        },
        hooks: HookFiles::default(),
        client: ClientFacts::default(),
    };
    Machine {
        facts,
        host: Host {
            in_container: true,
            kernel: "6.12.43-amd64".into(),
            status: Status::parse(&text("/proc/self/status")),
            confinement: Confinement::parse(&text("/proc/self/attr/current")),
            user_namespace: false,
            space: Some(Space {
                bytes: 100 << 30,
                inodes: Some(1 << 20),
                read_only: false,
            }),
            quotas: Quotas {
                inotify_instances: Some(1024),
                inotify_watches: Some(1 << 20),
                keys: Some(2000),
            },
            runtime: Vec::new(),
            processes: None,
            numbers: None,
            memory: None,
            modules: Modules {
                overlay: true,
                bridge_filter: true,
                ip_tables: true,
            },
            clock: Clock {
                now: 1_800_000_000,
                written: Some(1_790_000_000),
            },
            iptables: true,
            nft: true,
            apparmor_parser: true,
            versions: Vec::new(),
        },
        capabilities: Capabilities {
            effective: CapabilitySet::ALL,
            bounding: CapabilitySet::ALL,
        },
        user: 0,
        socket_state: SocketState::Free,
        variables: Vec::new(),
        arguments: "",
        rootless: None,
    }
}

fn sound() -> Machine {
    machine("v2", "private")
}

impl Machine {
    fn findings(&self) -> Result<Vec<Finding>, Fault> {
        let variables = self.variables.iter();
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let config = Config::read([OsString::from("dind")], variables);
        let arguments: Vec<OsString> = self.arguments.split_whitespace().map(Into::into).collect();
        let options = DockerdArguments::new(&arguments, &[]).options(None)?;
        let surroundings = Surroundings {
            rootless: self.rootless.clone(),
            stdin: Stdin::Null,
            capabilities: self.capabilities,
            user: self.user,
            socket: config.socket_path(Contract::Dind),
            socket_state: self.socket_state,
        };
        let inputs = Inputs {
            save: None,
            contract: Contract::Dind,
            config: &config,
            surroundings: &surroundings,
            options: &options,
            facts: &self.facts,
        };
        Ok(findings(inputs, &self.host))
    }

    /// The findings with that code.
    fn coded(&self, code: &str) -> Result<Vec<Finding>, Fault> {
        let mut found = self.findings()?;
        found.retain(|finding| finding.code == code);
        Ok(found)
    }
}

/// Fails unless exactly one finding has that code, with that severity and all of `parts`.
#[track_caller]
fn says(machine: &Machine, code: &str, severity: Severity, parts: &[&str]) {
    let found = machine.coded(code);
    let Ok([finding]) = found.as_deref() else {
        panic!("one {code} is wanted: {found:?}");
    };
    assert_eq!(finding.severity, severity, "{finding:?}");
    for part in parts {
        assert!(
            finding.to_string().contains(part),
            "{part:?} is not in: {finding}"
        );
    }
}

#[test]
fn nothing_is_wrong_with_a_privileged_container_on_a_sound_host() -> Result<(), Fault> {
    for layout in ["v1", "hybrid", "v2"] {
        for name in ["private", "host", "bare"] {
            let machine = machine(layout, name);
            let mut found = machine.findings()?;
            let layout = format!("cgroup layout is {layout}");
            says(&machine, "cgroup-layout", Severity::Note, &[&layout]);
            found.retain(|finding| finding.severity < Severity::Note);
            assert_eq!(found, [], "{layout}/{name}");
        }
    }
    Ok(())
}

/// The second line has a network that is several times as fast, where nothing that is known of the
/// kernel is against it.
#[test]
fn the_lines_for_an_engine_without_privileges_are_for_this_kernel() -> Result<(), Fault> {
    let both = &["rootless-flags", "rootless-veth"][..];
    for (kernel, expected) in [
        ("6.12.43-amd64", both),
        ("5.12.0", both),
        ("5.11.22-100.fc32.x86_64", &["rootless-flags"]),
        ("4.4.0", &["rootless-flags"]),
        ("", both),
    ] {
        let mut machine = sound();
        machine.host.kernel = kernel.into();
        machine.capabilities.effective = CapabilitySet::ALL
            .without(Capability::SYS_ADMIN)
            .without(Capability::NET_ADMIN);
        machine.rootless = Some(Rootless {
            tun: Device::Missing,
            masked: Some("/proc/kcore".into()),
            ..enough()
        });
        let mut found = machine.findings()?;
        found.retain(|finding| finding.code.starts_with("rootless-"));
        let codes: Vec<&str> = found.iter().map(|finding| finding.code).collect();
        assert_eq!(codes, expected, "{kernel}: {found:?}");
    }
    Ok(())
}

/// Containers with something to note have the finding, and one without has none.
#[test]
fn what_a_start_will_do_with_the_cgroups_is_noted() -> Result<(), Fault> {
    let path = &[CGROUP_ROOT][..];
    for (layout, name, code, parts) in [
        ("v2", "host", "cgroup-namespace", &[][..]),
        ("v2", "bare", "cgroup-missing", path),
        ("v1", "bare", "cgroup-missing", &["/sys/fs/cgroup/memory"]),
        (
            "hybrid",
            "private",
            "cgroup-missing",
            &["/sys/fs/cgroup/unified"],
        ),
    ] {
        says(&machine(layout, name), code, Severity::Note, parts);
    }
    for code in ["cgroup-namespace", "cgroup-missing", "cgroup-read-only"] {
        assert_eq!(sound().coded(code)?, []);
    }
    let mut read_only = sound();
    let mounts = read_only.facts.container.mounts.mounts.iter_mut();
    for mount in mounts.filter(|mount| mount.target.starts_with(CGROUP_ROOT)) {
        mount.options = vec!["ro".into()];
    }
    says(&read_only, "cgroup-read-only", Severity::Note, path);
    Ok(())
}

#[test]
fn a_controller_that_is_missing_is_named() {
    let mut unified = sound();
    unified
        .facts
        .container
        .cgroup
        .unified
        .controllers
        .remove("memory");
    let mut legacy = machine("v1", "private");
    legacy.facts.container.cgroup.memberships =
        Membership::parse("4:devices:/\n2:cpu:/\n1:pids:/\n");
    for machine in [unified, legacy] {
        let parts = &["no memory controller", "cgroup_enable"];
        says(&machine, "cgroup-controllers", Severity::Warning, parts);
    }
    let mut devices = machine("v1", "private");
    devices.facts.container.cgroup.memberships =
        Membership::parse("4:devices,cpu:/\n3:memory:/\n1:pids:/\n");
    let parts = &["the 'devices' cgroup should be in its own hierarchy."];
    says(&devices, "devices-cgroup", Severity::Warning, parts);
}

#[test]
fn without_privileges_nothing_works_and_the_flag_is_named() -> Result<(), Fault> {
    let mut machine = sound();
    machine.capabilities = Capabilities {
        effective: CapabilitySet::NONE,
        bounding: CapabilitySet::NONE,
    };
    machine.host.status.seccomp_filter = true;
    says(
        &machine,
        "privileges",
        Severity::Error,
        &["CAP_SYS_ADMIN", "--privileged"],
    );
    // Privileges cure it too.
    assert_eq!(machine.coded("seccomp")?, []);
    machine.user = 1000;
    let parts = &["--privileged", "without --user"];
    says(&machine, "privileges", Severity::Error, parts);
    // Privileged, and only the user is in the way.
    machine.capabilities.bounding = CapabilitySet::ALL;
    let parts = &["this process is user 1000", "without --user"];
    says(&machine, "not-root", Severity::Error, parts);
    assert_eq!(machine.coded("privileges")?, []);
    machine.host.in_container = false;
    says(&machine, "privileges", Severity::Note, &["as root"]);
    Ok(())
}

#[test]
fn what_confines_a_container_with_cap_sys_admin_is_reported() {
    let mut machine = sound();
    machine.host.status = Status::parse("CapEff: 0000000000201000\nNoNewPrivs: 1\nSeccomp: 2\n");
    machine.host.confinement = Confinement::AppArmor("docker-default".into());
    machine.facts.apparmor = true;
    machine.host.apparmor_parser = false;
    machine.host.user_namespace = true;
    let warning = Severity::Warning;
    says(&machine, "seccomp", warning, &["seccomp=unconfined"]);
    says(
        &machine,
        "no-new-privileges",
        warning,
        &["without --security-opt"],
    );
    says(
        &machine,
        "apparmor",
        warning,
        &["docker-default", "apparmor=unconfined"],
    );
    says(
        &machine,
        "apparmor-inside",
        warning,
        &["apparmor_parser is missing"],
    );
    says(&machine, "user-namespace", warning, &["--userns=host"]);
    machine.host.confinement = Confinement::Selinux("a:b:container_t:s0".into());
    says(
        &machine,
        "selinux",
        warning,
        &["container_t", "label=disable"],
    );
    machine.host.apparmor_parser = true;
    says(&machine, "apparmor-inside", Severity::Note, &["confined"]);
}

#[test]
fn the_data_root_is_judged_by_its_free_space_and_its_file_system() -> Result<(), Fault> {
    let room = |bytes: u64, inodes| {
        let mut machine = sound();
        machine.host.space = Some(Space {
            bytes,
            inodes,
            read_only: false,
        });
        machine
    };
    let plenty = Some(1 << 20);
    says(
        &room(63 << 20, plenty),
        "space",
        Severity::Error,
        &["/var/lib/docker has 63 MiB left", "prune"],
    );
    says(
        &room(64 << 20, plenty),
        "space",
        Severity::Warning,
        &["64 MiB"],
    );
    assert_eq!(room(1 << 30, plenty).coded("space")?, []);
    says(
        &room(1 << 40, Some(999)),
        "inodes",
        Severity::Error,
        &["999 inodes"],
    );
    says(
        &room(1 << 40, Some(1_000)),
        "inodes",
        Severity::Warning,
        &["1000 inodes"],
    );
    assert_eq!(room(1 << 40, Some(50_000)).coded("inodes")?, []);
    assert_eq!(room(1 << 40, None).coded("inodes")?, []);
    let mut read_only = sound();
    read_only.host.space = Some(Space {
        bytes: 0,
        inodes: None,
        read_only: true,
    });
    assert_eq!(read_only.coded("space")?, []);
    read_only.facts.read_only = ["/run", "/var/lib/docker", "/var/log"]
        .map(|path| ReadOnly {
            directory: path.into(),
            real: path.into(),
        })
        .into();
    let flags = "docker run --tmpfs /run -v /var/lib/docker";
    says(&read_only, "read-only", Severity::Error, &[flags]);
    let said = read_only.coded("read-only")?;
    assert!(
        said.iter()
            .all(|finding| !finding.to_string().contains("/var/log"))
    );
    let mut overlay = sound();
    overlay.facts.data_root.filesystem = Filesystem::Unsuitable("overlay");
    overlay.facts.data_root.means = Some(Means {
        occupied: false,
        vfs: false,
        data_file: "/var/lib/dind/data-root.ext4".into(),
        made: false,
        free: 0,
        taken: 0,
        grows: false,
        mkfs: Some("/usr/sbin/mkfs.ext4".into()),
        loop_devices: true,
        fuse_overlayfs: false,
        zfs: false,
    });
    says(
        &overlay,
        "data-root-filesystem",
        Severity::Warning,
        &[
            "is on overlay",
            "only 0 MiB are left",
            "FULL COPY",
            "-v NAME:",
        ],
    );
    let mut inside = sound();
    let volume = Path::new("/var/lib/docker");
    inside
        .facts
        .container
        .mounts
        .mounts
        .retain(|mount| mount.target != volume);
    says(
        &inside,
        "data-root-volume",
        Severity::Warning,
        &["not a mount point"],
    );
    Ok(())
}

#[test]
fn the_engine_and_what_it_needs_are_looked_for() -> Result<(), Fault> {
    let mut machine = sound();
    machine.facts.programs.dockerd = None;
    says(
        &machine,
        "no-dockerd",
        Severity::Error,
        &["no dockerd in PATH", "use an image"],
    );
    // The remedy is the fault's own, whatever semicolons stand before it.
    machine.variables.push(("PATH", "/a; /b"));
    let remedies: Vec<_> = machine
        .coded("no-dockerd")?
        .into_iter()
        .map(|finding| (finding.seen, finding.remedy))
        .collect();
    let remedy = "use an image with a Docker engine, or add its directory to PATH";
    assert_eq!(
        remedies,
        [("no dockerd in PATH (/a; /b)".into(), Some(remedy.into()))]
    );
    let mut machine = sound();
    machine.host.iptables = false;
    says(
        &machine,
        "no-iptables",
        Severity::Error,
        &["--iptables=false"],
    );
    for arguments in ["--iptables=false", "--debug --iptables=0"] {
        machine.arguments = arguments;
        assert_eq!(machine.coded("no-iptables")?, [], "{arguments}");
    }
    machine.facts.socket_group = None;
    says(
        &machine,
        "socket-group",
        Severity::Warning,
        &["no group \"docker\""],
    );
    let versions = |dockerd: &str| {
        let mut machine = sound();
        machine.host.versions = vec![
            ("dockerd".into(), dockerd.into()),
            ("runc".into(), "1.1".into()),
        ];
        machine
    };
    says(
        &versions("26.1.5"),
        "engine",
        Severity::Note,
        &["dockerd 26.1.5, runc 1.1"],
    );
    assert_eq!(versions("26.1.5").coded("engine-version")?, []);
    says(
        &versions("19.03.1"),
        "engine-version",
        Severity::Warning,
        &["20.10 or newer"],
    );
    Ok(())
}

#[test]
fn netfilter_is_judged_only_where_it_answers() -> Result<(), Fault> {
    let mut machine = sound();
    says(&machine, "iptables", Severity::Note, &["iptables: nft"]);
    machine.facts.netfilter.nf_tables = NfTables::Unknown;
    let words = &["a start loads the module and checks"];
    says(&machine, "iptables", Severity::Note, words);
    machine.host.modules.ip_tables = false;
    assert_eq!(machine.coded("no-netfilter")?, []);
    machine.facts.netfilter.nf_tables = NfTables::Missing;
    says(
        &machine,
        "no-netfilter",
        Severity::Warning,
        &["modprobe nf_tables"],
    );
    says(
        &machine,
        "no-iptables-legacy",
        Severity::Warning,
        &["no iptables-legacy"],
    );
    machine.host.status.network_admin = false;
    assert_eq!(machine.coded("no-netfilter")?, []);
    machine.host.modules.overlay = false;
    machine.host.modules.bridge_filter = false;
    says(
        &machine,
        "no-overlay",
        Severity::Warning,
        &["modprobe overlay"],
    );
    says(
        &machine,
        "no-br-netfilter",
        Severity::Note,
        &["modprobe br_netfilter"],
    );
    Ok(())
}

#[test]
fn nftables_is_judged_in_the_place_of_iptables() -> Result<(), Fault> {
    let mut machine = sound();
    machine.arguments = "--firewall-backend=nftables";
    machine.host.iptables = false;
    machine.facts.netfilter.nf_tables = NfTables::Missing;
    for code in ["no-iptables", "iptables", "no-nft", "no-iptables-legacy"] {
        assert_eq!(machine.coded(code)?, [], "{code}");
    }
    let note = &["firewall: nftables"];
    says(&machine, "firewall-backend", Severity::Note, note);
    let parts = &["no nf_tables", "modprobe nf_tables"];
    says(&machine, "no-netfilter", Severity::Warning, parts);
    machine.host.nft = false;
    says(&machine, "no-nft", Severity::Warning, &["install nftables"]);
    machine.arguments = "--firewall-backend=nftables --iptables=false";
    assert_eq!(machine.coded("no-nft")?, []);
    machine.arguments = "";
    machine.host.iptables = true;
    assert_eq!(machine.coded("no-nft")?, []);
    Ok(())
}

#[test]
fn an_engine_that_will_drop_cgroup_v1_is_named() -> Result<(), Fault> {
    for (layout, version, noted) in [
        ("v1", "29.0.0", true),
        ("hybrid", "30.1.0", true),
        ("v2", "29.0.0", false),
        ("v1", "28.5.2", false),
        ("v1", "dev", false),
    ] {
        let mut machine = machine(layout, "private");
        machine.host.versions = vec![("dockerd".into(), version.into())];
        let found = machine.coded("cgroup-v1")?;
        assert_eq!(found.len(), usize::from(noted), "{layout} {version}");
    }
    Ok(())
}

#[test]
fn images_of_the_store_that_is_not_used_are_reported() {
    let mut machine = sound();
    machine.facts.image_stores = Some(ImageStores::ContainerdOnRequest);
    machine.facts.data_root.contents.containerd_images = Some("overlayfs".into());
    let parts = &["containerd's image store", "graph drivers"];
    says(&machine, "images-hidden", Severity::Warning, parts);
}

#[test]
fn resolvers_addresses_and_mtu() -> Result<(), Fault> {
    let mut machine = sound();
    machine.facts.networks.resolvers = vec![[127, 0, 0, 11].into()];
    let code = "resolver-on-loopback";
    assert_eq!(machine.coded(code)?, []);
    machine.variables = vec![("DIND_DNS", "off")];
    says(&machine, code, Severity::Warning, &["127.0.0.11", "--dns"]);
    for arguments in ["--dns 10.0.0.1", "--dns=10.0.0.1"] {
        machine.arguments = arguments;
        assert_eq!(machine.coded(code)?, [], "{arguments}");
    }
    machine.arguments = "";
    machine.facts.networks.resolvers.push([10, 0, 0, 53].into());
    assert_eq!(machine.coded(code)?, []);
    machine.facts.networks.mtu = Some(1400);
    says(
        &machine,
        "mtu",
        Severity::Note,
        &["1400", "inner networks use the same"],
    );
    machine.variables.push(("DIND_MTU", "off"));
    says(&machine, "mtu", Severity::Note, &["1400", "your choice"]);
    let halves = [[0, 0, 0, 0], [128, 0, 0, 0]].map(|address| Route {
        interface: "tun0".into(),
        network: Network {
            address: address.into(),
            prefix: 1,
        },
    });
    machine.facts.networks.routes = halves.into();
    says(
        &machine,
        "addresses",
        Severity::Warning,
        &["--default-address-pool"],
    );
    machine.arguments = "--bip=10.1.0.1/24";
    assert_eq!(machine.coded("addresses")?, []);
    Ok(())
}

#[test]
fn too_few_processes_are_an_error_and_few_are_a_warning() -> Result<(), Fault> {
    let with = |limit, used, refused| {
        let mut machine = sound();
        machine.host.processes = Some(Processes {
            limit,
            cgroup: "/sys/fs/cgroup/pids".into(),
            used,
            refused,
        });
        machine
    };
    let code = "pids-limit";
    for (machine, severity, parts) in [
        (
            with(50, 3, 0),
            Severity::Error,
            &["allows 50 ", "3 are there"][..],
        ),
        (with(66, 3, 0), Severity::Error, &["allows 66 "]),
        (with(67, 3, 0), Severity::Warning, &["allows 67 "]),
        (with(999, 3, 0), Severity::Warning, &["allows 999 "]),
        (with(2_000, 1_937, 0), Severity::Error, &["1937 are there"]),
        (with(2_000, 3, 1), Severity::Warning, &["1 were refused"]),
    ] {
        says(&machine, code, severity, parts);
        says(&machine, code, severity, &["--pids-limit", "container 12"]);
    }
    assert_eq!(with(1_000, 3, 0).coded(code)?, []);
    assert_eq!(with(2_000, 1_936, 0).coded(code)?, []);
    // What runs is what needs them.
    let mut runs = with(100, 60, 0);
    runs.facts.running = Some(("/run/docker.pid".into(), 42));
    says(&runs, code, Severity::Warning, &["60 are there"]);
    let numbers = |limit, used| {
        let mut machine = sound();
        machine.host.numbers = Some(Numbers {
            name: "kernel.pid_max",
            limit,
            used,
        });
        machine
    };
    says(
        &numbers(400, 337),
        "pid-max",
        Severity::Error,
        &["sysctl -w kernel.pid_max="],
    );
    says(
        &numbers(400, 336),
        "pid-max",
        Severity::Warning,
        &["is 400", "336 processes"],
    );
    assert_eq!(numbers(32_768, 400).coded("pid-max")?, []);
    Ok(())
}

#[test]
fn a_full_run_is_judged_by_what_a_container_takes() -> Result<(), Fault> {
    let with = |bytes, inodes| {
        let mut machine = sound();
        let space = Space {
            bytes,
            inodes: Some(inodes),
            read_only: false,
        };
        machine.host.runtime = vec![("/run/docker".into(), space)];
        machine
    };
    let (plenty, many) = (1 << 30, 1 << 20);
    let parts = &["/run/docker has ", "--tmpfs /run:size="][..];
    says(
        &with(79 << 10, many),
        "runtime-space",
        Severity::Error,
        parts,
    );
    says(
        &with(80 << 10, many),
        "runtime-space",
        Severity::Warning,
        parts,
    );
    assert_eq!(with(4 << 20, many).coded("runtime-space")?, []);
    says(&with(plenty, 47), "runtime-inodes", Severity::Error, parts);
    says(
        &with(plenty, 48),
        "runtime-inodes",
        Severity::Warning,
        parts,
    );
    assert_eq!(with(plenty, 1_000).coded("runtime-inodes")?, []);
    let mut outside = with(0, 0);
    outside.host.in_container = false;
    assert_eq!(outside.coded("runtime-space")?, []);
    let mut read_only = with(0, 0);
    for (_, space) in &mut read_only.host.runtime {
        space.read_only = true;
    }
    assert_eq!(read_only.coded("runtime-inodes")?, []);
    Ok(())
}

#[test]
fn limits_and_quotas_are_named_with_what_to_set() -> Result<(), Fault> {
    let mut machine = sound();
    assert_eq!(machine.coded("inotify")?, []);
    machine.host.quotas = Quotas {
        inotify_instances: Some(64),
        inotify_watches: None,
        keys: Some(200),
    };
    says(
        &machine,
        "inotify",
        Severity::Warning,
        &["sysctl -w fs.inotify.max_user_instances=512"],
    );
    says(
        &machine,
        "keyring",
        Severity::Note,
        &["kernel.keys.maxkeys is 200"],
    );
    let memory = |mib: u64| {
        let mut machine = sound();
        machine.host.memory = Some(memory::Limit {
            bytes: mib << 20,
            cgroup: "/sys/fs/cgroup".into(),
        });
        machine
    };
    says(
        &memory(127),
        "memory-limit",
        Severity::Warning,
        &["/sys/fs/cgroup has a limit of 127 MiB", "--memory"],
    );
    assert_eq!(memory(128).coded("memory-limit")?, []);
    Ok(())
}

#[test]
fn limits_of_open_files_and_processes_are_reported_where_they_stay_low() -> Result<(), Fault> {
    let with = |soft, hard, cap_sys_resource: bool| {
        let mut machine = sound();
        if !cap_sys_resource {
            let effective = machine.capabilities.effective;
            machine.capabilities.effective = effective.without(Capability::SYS_RESOURCE);
        }
        let limit = Some(Limit { soft, hard });
        machine.facts.limits.open_files = limit;
        machine.facts.limits.processes = limit;
        machine
    };
    let low = with(64, 256, false).coded("limit-low")?;
    let said: Vec<String> = low.iter().map(ToString::to_string).collect();
    let [files, processes] = said.as_slice() else {
        panic!("two, got {said:?}");
    };
    assert!(files.contains("open files is 256") && files.contains("--ulimit nofile="));
    assert!(processes.contains("of a user is 256") && processes.contains("--ulimit nproc="));
    assert_eq!(with(64, 256, true).coded("limit-low")?, []);
    assert_eq!(with(64, 1024, false).coded("limit-low")?, []);
    let mut remapped = with(64, 256, true);
    remapped.facts.limits.user_namespace = true;
    assert_eq!(remapped.coded("limit-low")?.len(), 2);
    Ok(())
}

#[test]
fn a_clock_that_is_behind_is_reported() -> Result<(), Fault> {
    let at = |now, written| {
        let mut machine = sound();
        machine.host.clock = Clock { now, written };
        machine
    };
    says(
        &at(100, Some(50)),
        "clock",
        Severity::Warning,
        &["100 s after 1970", "certificates"],
    );
    let written = Some(1_800_000_000);
    says(
        &at(1_799_000_000, written),
        "clock",
        Severity::Warning,
        &["277 h behind"],
    );
    assert_eq!(at(1_799_990_000, written).coded("clock")?, []);
    Ok(())
}

#[test]
fn leaked_variables_are_named_without_their_values() -> Result<(), Fault> {
    let mut machine = sound();
    machine.variables = vec![("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", "")];
    says(
        &machine,
        "client-variables",
        Severity::Note,
        &["DOCKER_TLS_VERIFY;"],
    );
    machine
        .variables
        .push(("DOCKER_HOST", "tcp://user:secret@docker:2375"));
    says(
        &machine,
        "client-variables",
        Severity::Warning,
        &["DOCKER_HOST, DOCKER_TLS_VERIFY"],
    );
    assert!(!format!("{:?}", machine.findings()?).contains("secret"));
    machine.variables = vec![("DOCKER_HOST", "unix:///run/x.sock")];
    assert_eq!(machine.coded("client-variables")?, []);
    Ok(())
}

#[test]
fn a_daemon_that_runs_is_not_a_fault_and_its_files_are_not_stale() -> Result<(), Fault> {
    let mut machine = sound();
    machine.facts.stale = vec!["/run/docker.pid".into()];
    says(
        &machine,
        "stale-files",
        Severity::Note,
        &["/run/docker.pid"],
    );
    machine.facts.running = Some(("/run/docker.pid".into(), 12));
    says(
        &machine,
        "daemon-running",
        Severity::Note,
        &["already runs here with pid 12"],
    );
    assert_eq!(machine.coded("stale-files")?, []);
    machine.socket_state = SocketState::Live;
    says(
        &machine,
        "daemon-running",
        Severity::Note,
        &["already answers on"],
    );
    machine.socket_state = SocketState::Mounted { live: true };
    says(
        &machine,
        "socket-mounted",
        Severity::Warning,
        &["mounted from outside", "drop that mount"],
    );
    Ok(())
}

/// Outside of a container only the host is judged, not its engine, its docker group and its data
/// root.
#[test]
fn outside_of_a_container_only_the_host_is_judged() -> Result<(), Fault> {
    let mut machine = machine("v1", "machine");
    machine.host.in_container = false;
    machine.host.iptables = false;
    machine.facts.programs.dockerd = None;
    machine.facts.socket_group = None;
    machine.facts.stale = vec!["/run/docker.pid".into()];
    machine.facts.data_root.filesystem = Filesystem::Unsuitable("overlay");
    machine.socket_state = SocketState::Live;
    let found = machine.findings()?;
    let codes: Vec<&str> = found.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["outside", "cgroup-layout"], "{found:#?}");
    Ok(())
}

#[test]
fn the_report_has_counts_and_the_status_of_the_worst_finding() -> Result<(), Fault> {
    let (text, status) = report(&sound().findings()?, Report::Text);
    assert_eq!(status, 0);
    let last = text.lines().last();
    assert_eq!(
        last,
        Some("0 errors, 0 warnings, 2 notes: nothing keeps dind from working here")
    );
    let mut machine = sound();
    machine.capabilities = Capabilities {
        effective: CapabilitySet::NONE,
        bounding: CapabilitySet::NONE,
    };
    machine.host.quotas.keys = Some(1);
    let found = machine.findings()?;
    let (text, status) = report(&found, Report::Text);
    assert_eq!(status, 1);
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("error: this container has no CAP_SYS_ADMIN"),
        "{text}"
    );
    assert!(
        lines[0].ends_with("(https://docs.docker.com/engine/containers/run/)"),
        "{text}"
    );
    assert!(
        lines[1].starts_with("warning: kernel.keys.maxkeys is 1"),
        "{text}"
    );
    assert_eq!(
        lines.len(),
        found.len() + 1,
        "one line a finding, and the summary"
    );
    let (text, status) = report(&found, Report::Json);
    assert_eq!(status, 1);
    let Ok(json) = serde_json::from_str::<Value>(&text) else {
        panic!("not JSON: {text}");
    };
    assert_eq!(json["summary"]["errors"], 1);
    assert_eq!(json["findings"][0]["code"], "privileges");
    assert_eq!(json["findings"][0]["severity"], "error");
    Ok(())
}

/// What ends a start is an error, and what is ignored a warning; neither ends the doctor.
#[test]
fn invalid_variables_are_found() -> Result<(), Fault> {
    let mut machine = sound();
    machine.variables = vec![("PORT", "auto"), ("LOG", "debug"), ("DIND_MTU", "big")];
    let parts = &["DIND_MTU=\"big\" is not valid", "68 to 65535"];
    says(&machine, "variable-invalid", Severity::Error, parts);
    let ignored = machine.coded("variable-ignored")?;
    let ignored: Vec<String> = ignored.iter().map(ToString::to_string).collect();
    assert_eq!(
        ignored,
        [
            "PORT=\"auto\" is not valid and counts as not set; allowed: a TCP port, 1 to 65535",
            "LOG=\"debug\" is not valid and counts as not set; allowed: file, stdio",
        ]
    );
    Ok(())
}

/// A line break in a path does not end the line of a finding.
#[test]
fn a_finding_is_one_line() -> Result<(), Fault> {
    let mut machine = sound();
    machine.facts.stale = vec!["/run/docker\nerror: forged.pid".into()];
    let found = machine.findings()?;
    let (text, _) = report(&found, Report::Text);
    assert_eq!(text.lines().count(), found.len() + 1, "{text}");
    Ok(())
}
