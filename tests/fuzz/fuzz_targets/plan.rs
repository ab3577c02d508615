//! The whole plan, from facts as tests/lab.d/facts.sh prints them, with further sections
//! for the words of the command line, the variables and daemon.json. Whatever the host
//! shows, nothing is mounted, linked or removed but where dind has business, and no line
//! of the plan is another's doing.

#![no_main]

use std::collections::BTreeSet;
use std::path::{Component, Path};

use dind::facts::Facts;
use dind::facts::capabilities::{Capabilities, CapabilitySet};
use dind::facts::cgroup::{CGROUP_ROOT, CgroupFacts, Membership, RootMount, UnifiedRoot};
use dind::facts::client::ClientFacts;
use dind::facts::container::ContainerFacts;
use dind::facts::engine::ConfigVersion;
use dind::facts::exec_root::ExecRoot;
use dind::facts::hooks::HookFiles;
use dind::facts::limits::Limits;
use dind::facts::mountinfo::MountTable;
use dind::facts::netfilter::{Forwarding, LegacyPrograms, Netfilter, NfTables};
use dind::facts::network::{Networks, resolver_words, resolvers, routes};
use dind::facts::programs::{InformFacts, Programs};
use dind::facts::rootless::{Rootless, extents, ranges};
use dind::facts::storage::{Contents, DataRoot, Filesystem};
use dind::facts::surroundings::{SocketState, Stdin, Surroundings};
use dind::input::config::Config;
use dind::input::dockerd_arguments::DockerdArguments;
use dind::input::request::{self, Request};
use dind::plan::action::Action;
use dind::plan::inputs::Inputs;
use dind::plan::listener::Listener;
use dind::plan::outcome::{Outcome, Plan};
use dind::plan::role::{self, Role, Serve};
use dind::plan::{self, client, inform, prepare};
use dind_fuzz::{enough, environment, sections, words};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let sections = sections(text);
    let section = |name: &str| sections.get(name).map_or("", String::as_str);
    let set = |name: &str| -> BTreeSet<String> {
        section(name)
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    let mut arguments = words(section("arguments").as_bytes());
    arguments.insert(0, "dind".into());
    let config = Config::read(arguments, environment(section("variables").as_bytes()));
    let Ok(Request::Start(start) | Request::Plan(start)) = request::request(&config) else {
        return;
    };
    // An engine in a user namespace, where the input has the ids of this one.
    let ids = sections.get("/proc/self/uid_map");
    let surroundings = Surroundings {
        rootless: ids.map(|ids| rootless(ids, section("/etc/subuid"))),
        stdin: Stdin::Null,
        capabilities: Capabilities {
            effective: CapabilitySet::ALL,
            bounding: CapabilitySet::ALL,
        },
        user: 0,
        socket: config.socket_path(start.contract),
        socket_state: SocketState::Free,
    };
    let Ok(role) = role::decide(&start, &config, &surroundings) else {
        return;
    };
    let file = Some(section("daemon.json")).filter(|text| !text.is_empty());
    let file = file.map(|text| (Path::new("/etc/docker/daemon.json"), text));
    let none = DockerdArguments::default();
    let arguments = match &role {
        Role::Serve(Serve { arguments, .. }) | Role::Session { arguments, .. } => arguments,
        Role::Client { .. } | Role::Prepare { .. } | Role::Inform { .. } => &none,
    };
    let Ok(options) = arguments.options(file) else {
        return;
    };
    let mounts = MountTable::parse(section("/proc/self/mountinfo"));
    let observed = section("observed");
    let root = match observed {
        _ if observed.contains("statfs /sys/fs/cgroup 63677270\n") => RootMount::Cgroup2,
        _ if mounts.at(Path::new(CGROUP_ROOT)).is_some() => RootMount::Directory,
        _ => RootMount::Nothing,
    };
    let entries = observed.lines().filter_map(|line| {
        let path = line.split(' ').nth(1)?.strip_prefix("/sys/fs/cgroup/")?;
        (!path.contains('/')).then(|| path.to_owned())
    });
    let (routes, _) = routes(section("/proc/net/route"));
    let facts = Facts {
        pid1: true,
        container: ContainerFacts {
            cgroup: CgroupFacts {
                memberships: Membership::parse(section("/proc/self/cgroup")),
                root,
                entries: entries.collect(),
                unified: UnifiedRoot {
                    controllers: set("/sys/fs/cgroup/cgroup.controllers"),
                    enabled: set("/sys/fs/cgroup/cgroup.subtree_control"),
                },
            },
            mounts,
            security_directory: observed.contains("directory /sys/kernel/security\n"),
            tmp_empty: !observed.contains("entry /tmp/"),
        },
        apparmor: section("/sys/module/apparmor/parameters/enabled").starts_with('Y'),
        images: observed.contains("directory /var/lib/dind/images\n"),
        log_directory_own: true,
        data_root: DataRoot {
            path: options.data_root.clone(),
            mode: Some(0o710),
            filesystem: Filesystem::Other,
            contents: Contents::default(),
            means: None,
            origin: Ok(None),
        },
        exec_root: ExecRoot {
            path: options.exec_root.clone(),
            ..ExecRoot::default()
        },
        read_only: Vec::new(),
        links: Vec::new(),
        limits: Limits::default(),
        kills: None,
        stale: Vec::new(),
        running: None,
        programs: Programs {
            dockerd: Some("/usr/sbin/dockerd".into()),
            containerd: Some("/usr/bin/containerd".into()),
            dmsetup: None,
            bash: false,
        },
        image_stores: None,
        containerd_config: ConfigVersion::Two,
        socket_group: None,
        addresses: BTreeSet::new(),
        host_names: set("/etc/hostname"),
        networks: Networks {
            routes,
            resolvers: resolvers(section("/etc/resolv.conf")),
            resolver_options: resolver_words(section("/etc/resolv.conf"), "options"),
            search_domains: resolver_words(section("/etc/resolv.conf"), "search"),
            mtu: section("/sys/class/net/eth0/mtu").trim().parse().ok(),
            default_network_opt: true,
            neighbour: observed.contains("link docker0"),
            hosts: false,
            own_bridge: "dind-00000000".into(),
            claimed: None,
        },
        netfilter: Netfilter {
            legacy_in_use: !section("/proc/net/ip_tables_names").is_empty(),
            nf_tables: if observed.contains("directory /sys/module/nf_tables\n") {
                NfTables::Present
            } else {
                NfTables::Unknown
            },
            legacy_programs: LegacyPrograms::Suffixed("/usr/sbin".into()),
            nft_programs: None,
            forwarding: Forwarding::default(),
        },
        hooks: HookFiles::default(),
        client: ClientFacts::default(),
        store: None,
    };
    let inputs = Inputs {
        contract: start.contract,
        config: &config,
        surroundings: &surroundings,
        options: &options,
        facts: &facts,
        save: start.save.as_ref(),
    };
    let contract = start.contract;
    let plan = match &role {
        Role::Serve(serve) => plan::serve(serve, inputs),
        Role::Session {
            command,
            levels_below,
            arguments,
        } => plan::session(command, *levels_below, arguments, inputs),
        Role::Client { command } => Ok(client::plan(
            contract,
            command,
            &config,
            &facts.client,
            false,
        )),
        Role::Prepare { command } => {
            Ok(prepare::plan(contract, command, &config, &facts.container))
        }
        Role::Inform { arguments } => {
            let facts = InformFacts {
                dockerd: facts.programs.dockerd.clone(),
                apparmor: facts.apparmor,
            };
            inform::plan(contract, arguments, &config, &facts)
        }
    };
    let Ok(plan) = plan else {
        return;
    };
    stays_in_place(&plan, inputs);
    lines_are_ours(&plan);
});

/// All that is needed, with these ids.
fn rootless(ids: &str, subids: &str) -> Rootless {
    let enough = enough();
    Rootless {
        uid_map: extents(ids),
        gid_map: extents(ids),
        subuids: ranges(subids, &enough.account),
        subgids: ranges(subids, &enough.account),
        cgroup: subids.is_empty(),
        ..enough
    }
}

/// Everything is where dind has business, or where the user sent it.
fn stays_in_place(plan: &Plan, inputs: Inputs<'_>) {
    let is_below = |path: &Path, top: &str| {
        let plain = path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        plain && path.starts_with(top)
    };
    let is_mounted = |path: &Path| inputs.facts.container.mounts.at(path).is_some();
    let is_rootless = inputs.surroundings.rootless.is_some();
    let is_listener = |path: &Path| match &plan.outcome {
        Outcome::Supervise(engine) => {
            let mut paths = engine.listeners.iter().filter_map(Listener::unix_path);
            paths.any(|listener| listener == path)
        }
        Outcome::Become { .. } => false,
    };
    // Not the files with this container's own limits.
    let is_delegated = |path: &Path| {
        let files = [
            "",
            "cgroup.procs",
            "cgroup.threads",
            "cgroup.subtree_control",
        ];
        files
            .iter()
            .any(|file| *path == Path::new(CGROUP_ROOT).join(file))
    };
    let inside = match &plan.outcome {
        Outcome::Supervise(engine) => engine.namespaces.as_ref(),
        Outcome::Become { .. } => None,
    };
    let inside = inside.map_or(&[][..], |namespaces| &namespaces.steps);
    for step in plan.changes().chain(inside) {
        let fine = match &step.action {
            Action::Mount { target, fstype, .. } => match fstype.as_str() {
                "cgroup" | "cgroup2" => is_below(target, CGROUP_ROOT),
                "tmpfs" => {
                    [Path::new(CGROUP_ROOT), Path::new("/tmp")].contains(&target.as_path())
                        || *target == inputs.facts.exec_root.path
                }
                _ => target == Path::new("/sys/kernel/security"),
            },
            Action::RemountWritable { target, .. } => {
                is_mounted(target) && target.starts_with(CGROUP_ROOT)
            }
            Action::Symlink { link, .. } => {
                is_below(link, CGROUP_ROOT) || is_below(link, "/run/dind")
            }
            Action::Delegate { root, .. } => root == Path::new(CGROUP_ROOT),
            Action::Share { target } => target == Path::new("/"),
            Action::Directory { path, .. } => {
                is_below(path, CGROUP_ROOT)
                    || is_below(path, "/run/dind")
                    || (is_rootless && path == Path::new("/etc/docker"))
                    || path.starts_with(&inputs.options.data_root)
                    || path.starts_with(&inputs.options.exec_root)
            }
            Action::Forward { .. } => is_rootless,
            Action::Set { path, .. } => path.starts_with("/proc/sys/net"),
            Action::Write { path, .. } => {
                path.starts_with(&inputs.options.exec_root) || is_below(path, "/run/dind")
            }
            Action::Bind { source, target } => {
                is_rootless
                    && is_below(source, "/run/dind")
                    && target == Path::new("/etc/resolv.conf")
            }
            Action::CopyUp { path, .. } => {
                is_rootless
                    && ["/run", "/etc/docker"]
                        .map(Path::new)
                        .contains(&path.as_path())
            }
            Action::Give { path, .. } => {
                is_rootless
                    && (*path == inputs.facts.data_root.path
                        || is_listener(path)
                        || path == Path::new("/root")
                        || is_delegated(path))
            }
            Action::Open { path } => {
                is_rootless
                    && ["/dev/net/tun", "/dev/fuse"]
                        .map(Path::new)
                        .contains(&path.as_path())
            }
            Action::Lock { path } => *path == inputs.facts.data_root.path,
            Action::Remove { path } => inputs.facts.stale.contains(path),
            Action::RemoveTree { path } => inputs.facts.exec_root.stale.contains(path),
            Action::LoadModule { .. } | Action::Shortcut { .. } => true,
        };
        assert!(fine, "{step:?}");
    }
    if let Outcome::Supervise(engine) = &plan.outcome
        && let Some(certificates) = &engine.certificates
    {
        let asked = inputs.config.tls_directory.as_ref();
        assert_eq!(asked, Some(&certificates.directory));
    }
}

fn lines_are_ours(plan: &Plan) {
    const STARTS: &[&str] = &[
        "contract: ",
        "warning: ",
        "note: ",
        "listen: ",
        "step: ",
        "    # ",
        "prepare: ",
        "hook: ",
        "start: ",
        "forward: ",
        "meanwhile: ",
        "log: ",
        "ready: ",
        "images: ",
        "then: ",
        "restart: ",
        "stop: ",
        "become: ",
    ];
    let text = plan.to_string();
    for line in text.split('\n').filter(|line| !line.is_empty()) {
        assert!(
            STARTS.iter().any(|start| line.starts_with(start)),
            "{line:?}"
        );
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}
