//! The planner against invented facts; `golden` has the facts of real hosts.

mod capabilities;
mod drop_in;
mod firewall;
mod golden;
mod hides;
mod read_by;
mod rootless;
mod saving;
mod store;
mod warm_start;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

use nix::mount::MsFlags;
use proptest::prelude::*;

use super::*;
use crate::facts::capabilities::{Capabilities, Capability, CapabilitySet};
use crate::facts::cgroup::{
    CGROUP_ROOT, CgroupFacts, Hierarchy, LEAF, Membership, RootMount, UnifiedRoot,
};
use crate::facts::client::ClientFacts;
use crate::facts::container::ContainerFacts;
use crate::facts::engine::{ConfigVersion, ImageStores};
use crate::facts::exec_root::ExecRoot;
use crate::facts::hooks::HookFiles;
use crate::facts::limits::Limits;
use crate::facts::mountinfo::{Mount, MountTable};
use crate::facts::netfilter::{Forwarding, LegacyPrograms, Netfilter, NfTables, NftPrograms};
use crate::facts::network::{Network, Networks, Route};
use crate::facts::programs::{InformFacts, Programs};
use crate::facts::read_only::ReadOnly;
use crate::facts::rootless::Rootless;
use crate::facts::storage::{Contents, DataRoot, Filesystem, Means};
use crate::facts::surroundings::{SocketState, Surroundings};
use crate::input::config::Config;
use crate::input::request::{self, Request};
use crate::messages::fault::{FAILURE, NOT_FOUND};
use crate::messages::finding::Severity;
use crate::plan::images::Images;
use crate::plan::role::{self, Role};

/// The facts of a privileged container with a volume as its data root, and with these mounts and
/// cgroups.
fn facts(mountinfo: &str, memberships: &str, root: RootMount) -> Facts {
    let mounts = MountTable::parse(&format!(
        "1 0 0:1 / / rw,relatime - overlay overlay rw\n\
         2 1 0:2 / /sys rw,nosuid - sysfs sysfs rw\n\
         3 1 8:1 /volumes/a /var/lib/docker rw - ext4 /dev/sda rw\n\
         {mountinfo}"
    ));
    let entries = mounts
        .mounts
        .iter()
        .filter_map(|mount| mount.target.strip_prefix(CGROUP_ROOT).ok()?.to_str())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    Facts {
        store: None,
        pid1: true,
        container: ContainerFacts {
            cgroup: CgroupFacts {
                memberships: Membership::parse(memberships),
                root,
                entries,
                unified: UnifiedRoot::default(),
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
        exec_root: ExecRoot {
            path: "/run/docker".into(),
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
            bash: true,
        },
        image_stores: None,
        containerd_config: ConfigVersion::Three,
        socket_group: Some(999),
        addresses: ["127.0.0.1", "172.17.0.2", "::1"]
            .into_iter()
            .filter_map(|address| address.parse().ok())
            .collect(),
        host_names: BTreeSet::from(["box".to_owned()]),
        networks: Networks::default(),
        netfilter: Netfilter {
            legacy_in_use: false,
            nf_tables: NfTables::Present,
            legacy_programs: LegacyPrograms::Suffixed("/usr/sbin".into()),
            nft_programs: Some(nft_programs()),
            forwarding: Forwarding::default(),
        },
        hooks: HookFiles::default(),
        client: ClientFacts {
            docker: true,
            ..ClientFacts::default()
        },
    }
}

/// Those of Debian trixie.
fn nft_programs() -> NftPrograms {
    NftPrograms {
        iptables: "/usr/sbin/iptables".into(),
        ip6tables: "/usr/sbin/ip6tables".into(),
        version: "1.8.11".into(),
    }
}

/// cgroup version 1 with co-mounted controllers and no hierarchy mounted: the case that wrapdocker
/// was written for.
fn bare_v1() -> Facts {
    facts(
        "",
        "5:cpuacct,cpu:/docker/a\n4:devices:/docker/a\n3:memory:/docker/a\n1:name=systemd:/docker/a\n",
        RootMount::Nothing,
    )
}

fn unified(memberships: &str) -> Facts {
    let mut facts = facts(
        "9 2 0:9 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate\n",
        memberships,
        RootMount::Cgroup2,
    );
    facts.container.cgroup.unified.controllers = ["cpu", "memory", "pids"]
        .map(str::to_owned)
        .into_iter()
        .collect();
    facts.container.cgroup.entries.insert("cgroup.procs".into());
    facts
}

/// The facts of a container whose file system is read-only at these directories, each as it is named
/// and as it is with links resolved.
fn read_only(directories: &[(&str, &str)]) -> Facts {
    let found = directories.iter().map(|(directory, real)| ReadOnly {
        directory: directory.into(),
        real: real.into(),
    });
    Facts {
        read_only: found.collect(),
        ..bare_v1()
    }
}

/// `docker run --read-only`: one message has every flag that the start needs, and no other.
#[test]
fn every_directory_that_must_be_writable_is_named_at_once() {
    let all = [
        ("/run", "/run"),
        ("/var/run/docker", "/run/docker"),
        ("/var/lib/docker", "/var/lib/docker"),
        ("/var/log", "/var/log"),
        ("/var/run", "/run"),
        ("/certs", "/certs"),
        ("/etc/docker", "/etc/docker"),
    ];
    let with = |variables| Start { variables, ..SHELL };
    let tls = with(&[("DOCKER_TLS_CERTDIR", "/certs")]);
    let quiet = with(&[("LOG", "stdio")]);
    let tmpfs = with(&[("LOG", "stdio"), ("DIND_STORAGE", "tmpfs")]);
    let elsewhere = Start {
        arguments: &["dind", "--exec-root=/exec", "--pidfile=/pids/docker.pid"],
        ..DAEMON
    };
    let more = [
        ("/exec", "/mnt/exec"),
        ("/pids", "/pids"),
        ("/var/log", "/var/log"),
    ];
    for (start, directories, flags) in [
        (
            tls,
            &all[..],
            "--tmpfs /run -v /etc/docker -v /var/lib/docker -v /certs --tmpfs /var/log",
        ),
        (
            quiet,
            &all,
            "--tmpfs /run -v /etc/docker -v /var/lib/docker",
        ),
        (tmpfs, &all, "--tmpfs /run -v /etc/docker"),
        (DAEMON, &all[1..3], "--tmpfs /run/docker -v /var/lib/docker"),
        (elsewhere, &more, "--tmpfs /mnt/exec --tmpfs /pids"),
    ] {
        let fault = start.fault(&read_only(directories));
        let remedy = format!("mount it writable: docker run {flags}");
        assert_eq!(fault.remedy.as_deref(), Some(remedy.as_str()), "{fault}");
    }
}

/// Without a log file the daemons go on, a role without daemons writes nothing.
#[test]
fn what_is_not_needed_may_be_read_only() -> Result<(), Fault> {
    SHELL.engine(&read_only(&[
        ("/var/log", "/var/log"),
        ("/certs", "/certs"),
    ]))?;
    for arguments in [
        &["hack-dind", "true"][..],
        &["docker-entrypoint.sh", "docker"],
    ] {
        let start = Start {
            arguments,
            ..DAEMON
        };
        start.plan(&read_only(&[("/run", "/run")]))?;
    }
    Ok(())
}

/// Images are loaded if the default directory exists or `DIND_IMAGES` names one, over any Unix
/// socket that dockerd has.
#[test]
fn images_are_loaded_over_dockerds_unix_socket() -> Result<(), Fault> {
    let with = Facts {
        images: true,
        ..bare_v1()
    };
    let own = Start {
        arguments: &[
            "dind",
            "dockerd",
            "-H",
            "tcp://:1",
            "-H",
            "unix:///own.sock",
        ],
        ..DAEMON
    };
    let asked = Start {
        variables: &[("DIND_IMAGES", "/x"), ("DIND_IMAGES_STRICT", "1")],
        ..SHELL
    };
    let in_file = Start {
        json: r#"{"hosts": ["unix://"]}"#,
        ..DAEMON
    };
    let usual = "/var/run/docker.sock";
    for (start, directory, socket, asked, strict) in [
        (DAEMON, "/var/lib/dind/images", usual, false, false),
        (own, "/var/lib/dind/images", "/own.sock", false, false),
        (in_file, "/var/lib/dind/images", usual, false, false),
        (asked, "/x", usual, true, true),
    ] {
        let expected = Images {
            directory: directory.into(),
            asked,
            strict,
            socket: socket.into(),
            record: "/var/lib/docker/dind-images.json".into(),
        };
        assert_eq!(start.engine(&with)?.images, Some(expected));
        let text = start.plan(&with)?.to_string();
        assert!(
            text.contains(&format!("\nimages: load new archives from {directory}")),
            "{text}"
        );
    }
    assert_eq!(DAEMON.engine(&bare_v1())?.images, None);
    Ok(())
}

#[test]
fn images_without_a_unix_socket_cause_a_warning() -> Result<(), Fault> {
    let start = Start {
        arguments: &["dind", "dockerd", "-H", "tcp://:1"],
        ..DAEMON
    };
    let with = Facts {
        images: true,
        ..bare_v1()
    };
    assert_eq!(start.engine(&with)?.images, None);
    let said = |facts: &Facts| -> Result<bool, Fault> {
        let warnings = start.plan(facts)?.warnings;
        Ok(warnings
            .iter()
            .any(|warning| warning.code == "images-without-socket"))
    };
    assert!(said(&with)?);
    assert!(!said(&bare_v1())?);
    Ok(())
}

struct Start<'a> {
    arguments: &'a [&'a str],
    variables: &'a [(&'a str, &'a str)],
    json: &'a str,
    stdin: Stdin,
    capabilities: Capabilities,
    /// Whether the container has what an engine in a user namespace needs, and `DIND_ROOTLESS` or the
    /// capabilities have led to its being read.
    rootless: bool,
    /// Whether its cgroup is writable then.
    cgroup: bool,
    /// The largest receive buffer of TCP, in bytes.
    receive_buffer: u64,
}

/// Those of a process of root.
const fn of_root(set: CapabilitySet) -> Capabilities {
    Capabilities {
        effective: set,
        bounding: set,
    }
}

const DAEMON: Start<'_> = Start {
    arguments: &["dind"],
    variables: &[],
    json: "",
    stdin: Stdin::Null,
    capabilities: of_root(CapabilitySet::ALL),
    rootless: false,
    cgroup: false,
    receive_buffer: 6 << 20,
};
const SHELL: Start<'_> = Start {
    stdin: Stdin::Terminal,
    ..DAEMON
};

impl Start<'_> {
    fn role(&self, privileged: bool, socket_state: SocketState) -> Result<(Role, Contract), Fault> {
        let (config, start) = self.read()?;
        let surroundings = self.surroundings(&config, &start, privileged, socket_state);
        Ok((
            role::decide(&start, &config, &surroundings)?,
            start.contract,
        ))
    }

    fn read(&self) -> Result<(Config, request::Start), Fault> {
        let config = Config::read(
            self.arguments.iter().map(OsString::from),
            self.variables
                .iter()
                .map(|(name, value)| (name.into(), value.into())),
        );
        match request::request(&config)? {
            Request::Start(start) | Request::Plan(start) => Ok((config, start)),
            Request::Help(_)
            | Request::Version
            | Request::Health(_)
            | Request::Doctor(_)
            | Request::Store(_)
            | Request::Seccomp
            | Request::DockerProxy(_)
            | Request::Nest(_) => {
                panic!("not a start")
            }
        }
    }

    fn surroundings(
        &self,
        config: &Config,
        start: &request::Start,
        cap_sys_admin: bool,
        socket_state: SocketState,
    ) -> Surroundings {
        Surroundings {
            rootless: self.rootless.then(|| Rootless {
                cgroup: self.cgroup,
                receive_buffer: Some(self.receive_buffer),
                pasta: Some("/usr/bin/pasta".into()),
                ..mode::tests::enough()
            }),
            stdin: self.stdin,
            capabilities: match cap_sys_admin {
                true => self.capabilities,
                false => of_root(CapabilitySet::ALL.without(Capability::SYS_ADMIN)),
            },
            user: 0,
            socket: config.socket_path(start.contract),
            socket_state,
        }
    }

    fn plan(&self, facts: &Facts) -> Result<Plan, Fault> {
        let (config, start) = self.read()?;
        let surroundings = self.surroundings(&config, &start, true, SocketState::Free);
        let role = role::decide(&start, &config, &surroundings)?;
        let contract = start.contract;
        let arguments = match &role {
            Role::Client { command } => {
                let bash = facts.programs.bash;
                return Ok(client::plan(
                    contract,
                    command,
                    &config,
                    &facts.client,
                    bash,
                ));
            }
            Role::Prepare { command } => {
                return Ok(prepare::plan(contract, command, &config, &facts.container));
            }
            Role::Inform { arguments } => {
                let facts = InformFacts {
                    dockerd: facts.programs.dockerd.clone(),
                    apparmor: facts.apparmor,
                };
                return inform::plan(contract, arguments, &config, &facts);
            }
            Role::Serve(Serve { arguments, .. }) | Role::Session { arguments, .. } => arguments,
        };
        let json = Some((Path::new("/etc/docker/daemon.json"), self.json));
        let options = arguments.options(json)?;
        let inputs = Inputs {
            save: None,
            contract,
            config: &config,
            surroundings: &surroundings,
            options: &options,
            facts,
        };
        match &role {
            Role::Session {
                command,
                levels_below,
                arguments,
            } => session(command, *levels_below, arguments, inputs),
            Role::Serve(given) => serve(given, inputs),
            Role::Client { .. } | Role::Prepare { .. } | Role::Inform { .. } => {
                panic!("no daemons: {role:?}")
            }
        }
    }

    fn engine(&self, facts: &Facts) -> Result<Engine, Fault> {
        match self.plan(facts)?.outcome {
            Outcome::Supervise(engine) => Ok(*engine),
            Outcome::Become { command, .. } => panic!("becomes {command:?}"),
        }
    }

    fn fault(&self, facts: &Facts) -> Fault {
        match self.plan(facts) {
            Err(fault) => fault,
            Ok(plan) => panic!("no fault, but:\n{plan}"),
        }
    }
}

fn commands(plan: &Plan) -> Vec<String> {
    plan.changes().map(|step| step.action.to_string()).collect()
}

/// The facts after a plan has been carried out.
fn after(facts: &Facts, plan: &Plan) -> Facts {
    let mut facts = facts.clone();
    for step in plan.changes() {
        match &step.action {
            Action::Mount {
                target,
                fstype,
                data,
                ..
            } => {
                let name = target
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned());
                if target.starts_with(CGROUP_ROOT) && target != Path::new(CGROUP_ROOT) {
                    facts.container.cgroup.entries.extend(name);
                }
                if target == Path::new(CGROUP_ROOT) {
                    facts.container.cgroup.root = if fstype == "cgroup2" {
                        RootMount::Cgroup2
                    } else {
                        RootMount::Directory
                    };
                }
                // A mount on a shared one is shared: mount_namespaces(7).
                let below = target
                    .ancestors()
                    .find_map(|directory| facts.container.mounts.at(directory));
                let shared = below.is_some_and(|mount| mount.shared);
                facts.container.mounts.mounts.push(Mount {
                    root: "/".into(),
                    target: target.clone(),
                    options: vec!["rw".into()],
                    shared,
                    fstype: fstype.clone(),
                    super_options: data.split(',').map(str::to_owned).collect(),
                });
                if target == Path::new("/tmp") {
                    facts.container.tmp_empty = true;
                }
            }
            Action::RemountWritable { target, .. } => {
                for mount in facts
                    .container
                    .mounts
                    .mounts
                    .iter_mut()
                    .filter(|mount| &mount.target == target)
                {
                    mount.options.retain(|option| option != "ro");
                    mount.super_options.retain(|option| option != "ro");
                }
            }
            Action::Share { .. } => {
                facts
                    .container
                    .mounts
                    .mounts
                    .iter_mut()
                    .for_each(|mount| mount.shared = true);
            }
            Action::Symlink { link, .. } => {
                facts
                    .container
                    .cgroup
                    .entries
                    .extend(link.file_name().and_then(OsStr::to_str).map(str::to_owned));
            }
            Action::Directory { path, mode } if *path == facts.data_root.path => {
                facts.data_root.mode = Some(*mode);
            }
            Action::Directory { .. }
            | Action::Write { .. }
            | Action::Shortcut { .. }
            | Action::Set { .. }
            | Action::Forward { .. }
            | Action::LoadModule { .. }
            | Action::Bind { .. }
            | Action::CopyUp { .. }
            | Action::Give { .. }
            | Action::Open { .. }
            | Action::Lock { .. } => {}
            Action::Remove { path } => facts.stale.retain(|stale| stale != path),
            Action::RemoveTree { path } => facts.exec_root.stale.retain(|stale| stale != path),
            Action::Delegate { remount, .. } => {
                if remount.is_some() {
                    facts.container.cgroup.memberships = Membership::parse("0::/\n");
                    let root = facts.container.mounts.at(Path::new(CGROUP_ROOT)).cloned();
                    facts.container.mounts.mounts.extend(root.map(|root| Mount {
                        options: vec!["rw".into()],
                        super_options: vec!["rw".into()],
                        ..root
                    }));
                }
                facts
                    .container
                    .cgroup
                    .entries
                    .extend([LEAF.to_owned(), "cgroup.procs".to_owned()]);
                facts.container.cgroup.unified.enabled =
                    facts.container.cgroup.unified.controllers.clone();
            }
        }
    }
    facts
}

/// The commands that a second start repeats, without those below `/run`, which every start
/// repeats.
fn repeated(plan: &Plan) -> Vec<String> {
    plan.changes()
        .filter(|step| match &step.action {
            Action::Write { .. }
            | Action::Shortcut { .. }
            | Action::Set { .. }
            | Action::Forward { .. }
            | Action::LoadModule { .. }
            | Action::Lock { .. } => false,
            Action::Directory { path, .. } | Action::Symlink { link: path, .. } => {
                !path.starts_with("/run/dind") && !path.ends_with("containerd")
            }
            _ => true,
        })
        .map(|step| step.action.to_string())
        .collect()
}

#[test]
fn bare_v1_gets_every_hierarchy_under_every_usual_name() -> Result<(), Fault> {
    let plan = DAEMON.plan(&bare_v1())?;
    let commands = commands(&plan);
    let index = |wanted: &str| {
        commands
            .iter()
            .position(|command| command == wanted)
            .unwrap_or_else(|| {
                panic!("no step {wanted:?} in {commands:#?}");
            })
    };
    let tmpfs =
        index("mount -t tmpfs -o nosuid,nodev,noexec,uid=0,gid=0,mode=0755 cgroup /sys/fs/cgroup");
    let cpu = index(
        "mount -t cgroup -o nosuid,nodev,noexec,cpuacct,cpu cgroup /sys/fs/cgroup/cpuacct,cpu",
    );
    assert!(tmpfs < cpu);
    for link in ["cpu", "cpuacct", "cpu,cpuacct"] {
        assert!(cpu < index(&format!("ln -s cpuacct,cpu /sys/fs/cgroup/{link}")));
    }
    let systemd = index(
        "mount -t cgroup -o nosuid,nodev,noexec,none,name=systemd cgroup /sys/fs/cgroup/systemd",
    );
    assert!(systemd < index("ln -s systemd /sys/fs/cgroup/name=systemd"));
    index("mount -t cgroup -o nosuid,nodev,noexec,memory cgroup /sys/fs/cgroup/memory");
    assert!(!commands.iter().any(|command| command.contains("cgroup2")));
    Ok(())
}

#[test]
fn hybrid_gets_the_unified_hierarchy_beside_the_others() -> Result<(), Fault> {
    let host = facts(
        "8 2 0:8 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
         9 8 0:9 /docker/a /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
        "2:cpu:/docker/a\n0::/docker/a\n",
        RootMount::Directory,
    );
    let commands = commands(&DAEMON.plan(&host)?);
    assert!(
        commands.contains(
            &"mount -t cgroup2 -o nosuid,nodev,noexec cgroup /sys/fs/cgroup/unified".to_owned()
        ),
        "{commands:#?}"
    );
    assert!(
        !commands
            .iter()
            .any(|command| command.contains("tmpfs cgroup /sys")),
        "{commands:#?}"
    );
    Ok(())
}

#[test]
fn a_hierarchy_is_recognised_by_its_controllers_not_by_its_directory() -> Result<(), Fault> {
    let host = facts(
        "8 2 0:8 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
         9 8 0:9 / /sys/fs/cgroup/odd rw - cgroup cgroup rw,cpu,cpuacct\n",
        "2:cpu,cpuacct:/\n",
        RootMount::Directory,
    );
    let commands = commands(&DAEMON.plan(&host)?);
    assert!(
        !commands
            .iter()
            .any(|command| command.starts_with("mount -t cgroup ")),
        "{commands:#?}"
    );
    assert!(
        commands.contains(&"ln -s odd /sys/fs/cgroup/cpu,cpuacct".to_owned()),
        "{commands:#?}"
    );
    Ok(())
}

#[test]
fn the_devices_warnings_are_wrapdockers() -> Result<(), Fault> {
    let own = DAEMON.plan(&bare_v1())?.warnings;
    assert!(
        !own.iter().any(|warning| warning.code == "devices-cgroup"),
        "{own:?}"
    );
    for (hierarchy, words) in [
        (
            "2:devices,cpu:/\n",
            "the 'devices' cgroup should be in its own hierarchy.",
        ),
        (
            "2:cpu:/\n",
            "it looks like the 'devices' cgroup is not mounted.",
        ),
    ] {
        let warnings = DAEMON
            .plan(&facts("", hierarchy, RootMount::Nothing))?
            .warnings;
        assert!(
            warnings.iter().any(|warning| warning.to_string() == words),
            "{warnings:?}"
        );
    }
    Ok(())
}

#[test]
fn v2_is_delegated_in_a_namespace_of_its_own() -> Result<(), Fault> {
    let delegates = |plan: &Plan| -> Vec<Option<MsFlags>> {
        plan.changes()
            .filter_map(|step| match step.action {
                Action::Delegate { remount, .. } => Some(remount),
                _ => None,
            })
            .collect()
    };
    assert_eq!(delegates(&DAEMON.plan(&unified("0::/\n"))?), [None]);
    // In the host's cgroup namespace no mount of the host's hierarchy is changed.
    let mut host = unified("0::/kubepods/pod1/c\n");
    for mount in &mut host.container.mounts.mounts {
        if mount.target == Path::new(CGROUP_ROOT) {
            mount.options = vec!["ro".into(), "nosuid".into(), "relatime".into()];
        }
    }
    let plan = DAEMON.plan(&host)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_RELATIME;
    assert_eq!(delegates(&plan), [Some(flags)]);
    assert!(
        !commands(&plan)
            .iter()
            .any(|command| command.contains("remount")),
        "{plan}"
    );
    // With nothing mounted, the parent's hierarchy is mounted, and no tmpfs.
    let commands = commands(&DAEMON.plan(&facts("", "0::/\n", RootMount::Nothing))?);
    assert!(
        commands
            .iter()
            .any(|command| command.starts_with("mount -t cgroup2")),
        "{commands:#?}"
    );
    assert!(
        !commands
            .iter()
            .any(|command| command.contains("tmpfs cgroup")),
        "{commands:#?}"
    );
    Ok(())
}

#[test]
fn read_only_cgroups_are_made_writable_with_their_flags() -> Result<(), Fault> {
    let host = facts(
        "8 2 0:8 / /sys/fs/cgroup ro,nosuid,nodev,noexec - tmpfs tmpfs rw\n\
         9 8 0:9 / /sys/fs/cgroup/cpu ro,nosuid,relatime - cgroup cgroup rw,cpu\n",
        "2:cpu:/\n",
        RootMount::Directory,
    );
    let commands = commands(&DAEMON.plan(&host)?);
    assert!(
        commands.contains(&"mount -o nosuid,nodev,noexec,remount,rw /sys/fs/cgroup".to_owned()),
        "{commands:#?}"
    );
    assert!(
        commands.contains(&"mount -o nosuid,relatime,remount,rw /sys/fs/cgroup/cpu".to_owned()),
        "{commands:#?}"
    );
    Ok(())
}

#[test]
fn a_tmpfs_is_mounted_on_an_empty_tmp_only() -> Result<(), Fault> {
    let mounts_tmp = |start: &Start<'_>, facts: &Facts| -> Result<bool, Fault> {
        Ok(start
            .plan(facts)?
            .steps
            .iter()
            .any(|step| matches!(&step.action, Action::Mount { target, .. } if target == Path::new("/tmp"))))
    };
    assert!(mounts_tmp(&DAEMON, &bare_v1())?);
    let off = Start {
        variables: &[("DIND_TMPFS", "off")],
        ..DAEMON
    };
    assert!(!mounts_tmp(&off, &bare_v1())?);
    let mut used = bare_v1();
    used.container.tmp_empty = false;
    assert!(!mounts_tmp(&DAEMON, &used)?);
    let volume = facts(
        "9 1 8:1 / /tmp rw - ext4 a rw\n",
        "2:cpu:/\n",
        RootMount::Nothing,
    );
    assert!(!mounts_tmp(&DAEMON, &volume)?);
    Ok(())
}

/// The plan's steps for the exec root, where dockerd's arguments are `arguments`.
fn exec_root_steps(facts: &Facts, arguments: &[&str]) -> Result<Vec<String>, Fault> {
    let start = Start {
        arguments,
        ..DAEMON
    };
    let mut commands = commands(&start.plan(facts)?);
    commands.retain(|command| {
        let words: Vec<&str> = command.split(' ').collect();
        match words[..] {
            ["rm", "-r", _] => true,
            ["mount", .., target] => target.starts_with("/run"),
            _ => false,
        }
    });
    Ok(commands)
}

#[test]
fn the_state_of_running_containers_ends_with_the_boot() -> Result<(), Fault> {
    const TMPFS: &str = "mount -t tmpfs -o nosuid,nodev,noexec,mode=0700 tmpfs /run/docker";
    const REMOVED: [&str; 2] = [
        "rm -r /run/docker/runtime-runc",
        "rm -r /run/docker/containerd/daemon",
    ];
    let left = |facts: Facts| Facts {
        exec_root: ExecRoot {
            stale: vec![
                "/run/docker/runtime-runc".into(),
                "/run/docker/containerd/daemon".into(),
            ],
            ..facts.exec_root
        },
        ..facts
    };
    let with_mount = |mountinfo: &str| facts(mountinfo, "", RootMount::Nothing);
    let dind = ["dind"];
    let first = bare_v1();
    assert_eq!(exec_root_steps(&first, &dind)?, [TMPFS]);
    let again = left(bare_v1());
    assert_eq!(
        exec_root_steps(&again, &dind)?,
        [&REMOVED[..], &[TMPFS]].concat()
    );
    let around_the_data = Facts {
        exec_root: ExecRoot {
            path: "/var/lib".into(),
            ..ExecRoot::default()
        },
        ..bare_v1()
    };
    let mounts = DAEMON.plan(&around_the_data)?.to_string();
    assert!(!mounts.contains("tmpfs /var/lib"), "{mounts}");
    // Elsewhere what is stale goes, and nothing is hidden.
    let other = Facts {
        pid1: false,
        ..left(bare_v1())
    };
    let users = Facts {
        exec_root: ExecRoot {
            foreign: true,
            ..again.exec_root.clone()
        },
        ..bare_v1()
    };
    for facts in [
        other,
        users,
        left(with_mount("9 1 0:9 / /run rw - tmpfs a rw\n")),
        left(with_mount("9 1 0:9 / /run/docker rw - tmpfs a rw\n")),
        left(with_mount("9 1 0:9 / /run/docker/plugins rw - ext4 a rw\n")),
    ] {
        assert_eq!(exec_root_steps(&facts, &dind)?, REMOVED, "{facts:?}");
    }
    // What is mounted is in use.
    let used = left(with_mount(
        "9 1 0:9 / /run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby/a/rootfs rw - overlay a rw\n",
    ));
    assert_eq!(exec_root_steps(&used, &dind)?, REMOVED[..1]);
    // The sockets are there before.
    for (arguments, expected) in [
        (
            &[
                "dind",
                "--containerd=/run/docker/containerd/containerd.sock",
            ][..],
            &[][..],
        ),
        (&["dind", "-H", "unix:///run/docker/own.sock"], &[TMPFS]),
    ] {
        assert_eq!(
            exec_root_steps(&first, arguments)?,
            expected,
            "{arguments:?}"
        );
    }
    for socket in [
        "unix:///run/docker/own.sock",
        "unix:///var/run/docker/own.sock",
    ] {
        let start = Start {
            variables: &[("DOCKER_HOST", socket)],
            ..DAEMON
        };
        let linked = Facts {
            links: vec![(
                "/var/run/docker/own.sock".into(),
                "/run/docker/own.sock".into(),
            )],
            ..bare_v1()
        };
        let plan = start.plan(&linked)?.to_string();
        assert!(!plan.contains(TMPFS), "{plan}");
    }
    Ok(())
}

/// The arguments about networks and iptables, the rules, and the warning.
#[test]
fn beside_another_engine_there_is_no_docker0_and_no_chain() -> Result<(), Fault> {
    let mut beside = bare_v1();
    beside.networks.neighbour = true;
    beside.networks.own_bridge = "dind-01234567".into();
    let mut on_host = beside.clone();
    on_host.networks.hosts = true;
    let mut without_block = beside.clone();
    for (address, prefix) in [([172, 16, 0, 0], 12), ([10, 0, 0, 0], 8)] {
        without_block.networks.routes.push(Route {
            interface: "eth0".into(),
            network: Network {
                address: address.into(),
                prefix,
            },
        });
    }
    type Read = (Vec<String>, usize, bool);
    let read = |facts: &Facts, arguments: &[&str], json: &str| -> Result<Read, Fault> {
        let start = Start {
            arguments,
            json,
            ..DAEMON
        };
        let plan = start.plan(facts)?;
        let engine = start.engine(facts)?;
        let words = engine.dockerd.arguments.iter();
        let words = words.map(|word| word.to_string_lossy().into_owned());
        let about = [
            "--bridge",
            "--bip",
            "--default-address-pool",
            "--iptables",
            "--ip6tables",
        ];
        let words = words.filter(|word| about.iter().any(|about| word.starts_with(about)));
        Ok((
            words.collect(),
            engine.network.map_or(0, |network| {
                1 + network.rules().len() + network.rules_of_made().len()
            }),
            plan.warnings
                .iter()
                .any(|found| found.code == "engine-beside"),
        ))
    };
    let bridge = "--bridge=dind-01234567";
    for (arguments, json, expected, made, warns) in [
        (
            &["dind"][..],
            "",
            &[bridge, "--iptables=false", "--ip6tables=false"][..],
            8,
            true,
        ),
        // dockerd refuses an option that is both a flag and in its file.
        (
            &["dind"],
            r#"{"iptables": true}"#,
            &[bridge, "--ip6tables=false"],
            1,
            true,
        ),
        (
            &["dind", "--iptables=false", "--ip6tables"],
            "",
            &[bridge, "--iptables=false", "--ip6tables"],
            1,
            true,
        ),
        (
            &["dind", "--bip=10.9.0.1/24"],
            "",
            &["--bip=10.9.0.1/24"],
            0,
            true,
        ),
        (
            &["dind", "--bridge=mine", "--iptables=false"],
            "",
            &["--bridge=mine", "--iptables=false"],
            0,
            false,
        ),
    ] {
        let (words, network, warned) = read(&beside, arguments, json)?;
        assert_eq!(
            (words.as_slice(), network, warned),
            (
                &expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..],
                made,
                warns
            ),
            "{arguments:?}"
        );
    }
    let tables = ["--iptables=false", "--ip6tables=false"].map(str::to_owned);
    // On the host's own network other bridges have names like those that docker makes.
    let (words, network, warned) = read(&on_host, &["dind"], "")?;
    assert_eq!(words, [&[bridge.to_owned()], &tables[..]].concat());
    assert_eq!((network, warned), (4, true));
    // Without addresses there is no bridge: that of the other engine is not taken.
    let (words, network, warned) = read(&without_block, &["dind"], "")?;
    assert_eq!(words, [&["--bridge=none".to_owned()], &tables[..]].concat());
    assert_eq!((network, warned), (0, true));
    let alone = DAEMON.plan(&bare_v1())?.to_string();
    assert!(
        alone.contains("--bip=") && !alone.contains("tables="),
        "{alone}"
    );
    Ok(())
}

#[test]
fn storage_warns_once_and_names_the_volume_flag() -> Result<(), Fault> {
    let storage = |facts: &Facts| -> Result<Vec<String>, Fault> {
        let warnings = DAEMON.plan(facts)?.warnings;
        Ok(warnings
            .iter()
            .map(Finding::to_string)
            .filter(|warning| warning.contains("/var/lib/docker"))
            .collect())
    };
    assert_eq!(storage(&bare_v1())?, Vec::<String>::new());
    let mut inside = bare_v1();
    inside
        .container
        .mounts
        .mounts
        .retain(|mount| mount.target != Path::new("/var/lib/docker"));
    let warnings = storage(&inside)?;
    assert!(
        warnings.len() == 1 && warnings[0].contains("-v NAME:/var/lib/docker"),
        "{warnings:?}"
    );
    for means in [MEANS, NO_MEANS] {
        inside.data_root.filesystem = Filesystem::Unsuitable("overlay");
        inside.data_root.means = Some(means());
        let warnings = storage(&inside)?;
        assert!(
            warnings.len() == 1 && warnings[0].contains("-v NAME:/var/lib/docker"),
            "{warnings:?}"
        );
    }
    Ok(())
}

/// What a container of this image has if its data root is not on a volume.
const MEANS: fn() -> Means = || Means {
    occupied: false,
    vfs: false,
    data_file: "/var/lib/dind/data-root.ext4".into(),
    made: false,
    free: 100 << 30,
    taken: 0,
    grows: false,
    mkfs: Some("/usr/sbin/mkfs.ext4".into()),
    loop_devices: true,
    fuse_overlayfs: true,
    zfs: false,
};

/// An image without these programs, in a container without devices.
const NO_MEANS: fn() -> Means = || Means {
    mkfs: None,
    loop_devices: false,
    fuse_overlayfs: false,
    ..MEANS()
};

/// The facts with the data root on the container's overlay.
fn on_overlay(means: Means) -> Facts {
    let mut facts = bare_v1();
    facts.data_root.filesystem = Filesystem::Unsuitable("overlay");
    facts.data_root.means = Some(means);
    facts
}

#[test]
fn an_ext4_image_with_data_is_used_or_the_start_fails() {
    let made = |loop_devices, occupied| Means {
        made: true,
        loop_devices,
        occupied,
        ..MEANS()
    };
    let native = |means| {
        let mut facts = on_overlay(means);
        facts.data_root.filesystem = Filesystem::Other;
        facts
    };
    for facts in [on_overlay(made(false, false)), native(made(false, false))] {
        let fault = DAEMON.fault(&facts);
        assert_eq!(fault.status, FAILURE);
        assert_eq!(
            fault.to_string(),
            "/var/lib/dind/data-root.ext4 has the data of an earlier start and cannot be used: \
             /dev/loop-control cannot be opened; \
             start the container with --privileged, or move it away to begin anew"
        );
    }
    for means in [made(true, false), made(false, true)] {
        assert!(DAEMON.plan(&on_overlay(means)).is_ok());
    }
}

#[test]
fn storage_is_the_best_that_there_is() -> Result<(), Fault> {
    let made = || Means {
        made: true,
        mkfs: None,
        ..MEANS()
    };
    let growing = || Means {
        grows: true,
        ..MEANS()
    };
    let occupied = || Means {
        occupied: true,
        ..MEANS()
    };
    let vfs = || Means {
        vfs: true,
        ..occupied()
    };
    let zfs = || Means {
        zfs: true,
        ..MEANS()
    };
    let small = || Means {
        free: 256 << 20,
        ..MEANS()
    };
    let fuse = || Means {
        loop_devices: false,
        ..MEANS()
    };
    let zfs_root = |means| {
        let mut facts = on_overlay(means);
        facts.data_root.filesystem = Filesystem::Unsuitable("zfs");
        facts
    };
    for (facts, image, note) in [
        (
            on_overlay(MEANS()),
            true,
            "an ext4 image of 92160 MiB at /var/lib/dind/data-root.ext4, since /var/lib/docker is on overlay",
        ),
        (
            on_overlay(growing()),
            true,
            "an ext4 image of 184 MiB at /var/lib/dind/data-root.ext4, which grows to 92160 MiB, since",
        ),
        (on_overlay(made()), true, "an earlier start made it"),
        (on_overlay(occupied()), false, ""),
        (on_overlay(vfs()), false, ""),
        (
            on_overlay(small()),
            false,
            "fuse-overlayfs, since /var/lib/docker is on overlay, which overlay2 cannot use, and only 230 MiB",
        ),
        (on_overlay(fuse()), false, "fuse-overlayfs, since"),
        (on_overlay(NO_MEANS()), false, "vfs, since"),
        (zfs_root(zfs()), false, "dockerd's zfs driver"),
        (zfs_root(MEANS()), true, "on zfs"),
    ] {
        let plan = DAEMON.plan(&facts)?;
        let notes: Vec<&str> = plan
            .notes
            .iter()
            .filter(|note| note.code == "storage-chosen")
            .map(|note| note.seen.as_str())
            .collect();
        match (note, notes.as_slice()) {
            ("", []) => {}
            (expected, [found]) => assert!(found.contains(expected), "{found}, not {expected}"),
            (_, found) => panic!("{found:?}"),
        }
        let Outcome::Supervise(engine) = &plan.outcome else {
            panic!("{plan}");
        };
        assert_eq!(engine.data_file.is_some(), image, "{plan}");
        assert_eq!(plan.to_string().contains("\nprepare: "), image, "{plan}");
        let told = engine
            .dockerd
            .arguments
            .contains(&"--storage-driver=vfs".into());
        let vfs = facts
            .data_root
            .means
            .as_ref()
            .is_some_and(|means| means.vfs);
        assert_eq!(told, vfs || note.starts_with("vfs"), "{plan}");
    }
    Ok(())
}

/// The limit is that of this start, and counts what the image takes already.
#[test]
fn an_image_grows_to_the_limit_of_this_start() -> Result<(), Fault> {
    let growing = |made| Means {
        made,
        grows: true,
        free: 8 << 30,
        taken: 2 << 30,
        ..MEANS()
    };
    let asked = Start {
        variables: &[("DIND_STORAGE_SIZE", "3G")],
        ..DAEMON
    };
    for (start, means, size, most) in [
        (&DAEMON, growing(false), Some(184_u64 << 20), 9 << 30),
        (&asked, growing(false), Some(184 << 20), 3 << 30),
        (&DAEMON, growing(true), None, 9 << 30),
        (&asked, growing(true), None, 3 << 30),
    ] {
        let engine = start.engine(&on_overlay(means))?;
        let file = engine.data_file.unwrap_or_else(|| panic!("no image"));
        assert_eq!(file.new.map(|new| new.size), size);
        assert_eq!(file.growth.map(|growth| growth.most), Some(most));
    }
    let fixed = DAEMON.engine(&on_overlay(MEANS()))?;
    assert!(fixed.data_file.is_some_and(|file| file.growth.is_none()));
    Ok(())
}

#[test]
fn the_users_storage_driver_is_kept() -> Result<(), Fault> {
    let told = |variables: &'static [(&'static str, &'static str)], json, arguments| Start {
        variables,
        json,
        arguments,
        ..DAEMON
    };
    const PLAIN: &[&str] = &["dind"];
    for (start, image) in [
        (told(&[("DOCKER_DRIVER", "vfs")], "", PLAIN), false),
        (told(&[("DOCKER_DRIVER", "overlay2")], "", PLAIN), true),
        (told(&[], r#"{"storage-driver": "btrfs"}"#, PLAIN), false),
        (told(&[], r#"{"storage-driver": "overlay2"}"#, PLAIN), true),
        (told(&[], "", &["dind", "-s", "vfs"]), false),
        (
            told(&[("DOCKER_DRIVER", "overlay2")], "", &["dind", "-s", "vfs"]),
            true,
        ),
        (told(&[("DIND_STORAGE", "none")], "", PLAIN), false),
        (
            told(
                &[("DIND_STORAGE", "loop"), ("DOCKER_DRIVER", "overlay2")],
                "",
                PLAIN,
            ),
            true,
        ),
    ] {
        assert_eq!(
            start.engine(&on_overlay(MEANS()))?.data_file.is_some(),
            image,
            "{:?} {}",
            start.variables,
            start.json
        );
    }
    for variables in [
        &[("DIND_STORAGE", "loop"), ("DOCKER_DRIVER", "vfs")],
        &[("DIND_STORAGE", "vfs"), ("DOCKER_DRIVER", "overlay2")],
    ] {
        let start = Start {
            variables,
            ..DAEMON
        };
        let fault = start.fault(&on_overlay(MEANS()));
        assert!(
            fault.status == 2 && fault.message.contains("exclude each other"),
            "{fault}"
        );
    }
    Ok(())
}

#[test]
fn explicit_storage_is_used_or_refused() -> Result<(), Fault> {
    fn asked(variables: &'static [(&'static str, &'static str)]) -> Start<'static> {
        Start {
            variables,
            ..DAEMON
        }
    }
    let facts = on_overlay(MEANS());
    let image = asked(&[("DIND_STORAGE", "loop"), ("DIND_STORAGE_SIZE", "20G")])
        .engine(&facts)?
        .data_file;
    let size = image.and_then(|image| image.new).map(|new| new.size);
    assert_eq!(size, Some(20 << 30));
    let tmpfs = asked(&[("DIND_STORAGE", "tmpfs"), ("DIND_STORAGE_SIZE", "1G")]).plan(&facts)?;
    assert!(
        commands(&tmpfs)
            .contains(&"mount -t tmpfs -o mode=0710,size=1073741824 tmpfs /var/lib/docker".into())
    );
    for driver in ["vfs", "fuse-overlayfs"] {
        let variables = [("DIND_STORAGE", driver)];
        let engine = Start {
            variables: &variables,
            ..DAEMON
        }
        .engine(&facts)?;
        let flag = OsString::from(format!("--storage-driver={driver}"));
        assert!(engine.data_file.is_none() && engine.dockerd.arguments.contains(&flag));
    }
    let occupied = on_overlay(Means {
        occupied: true,
        ..MEANS()
    });
    for storage in [&[("DIND_STORAGE", "loop")], &[("DIND_STORAGE", "tmpfs")]] {
        let fault = asked(storage).fault(&occupied);
        assert!(
            fault.status == 1
                && fault
                    .message
                    .contains("would hide the data in /var/lib/docker"),
            "{fault}"
        );
    }
    let fault = asked(&[("DIND_STORAGE", "loop")]).fault(&on_overlay(NO_MEANS()));
    assert!(fault.message.contains("/dev/loop-control"), "{fault}");
    let fault = asked(&[("DIND_STORAGE", "loop")]).fault(&on_overlay(Means {
        mkfs: None,
        ..MEANS()
    }));
    assert!(fault.message.contains("no mkfs.ext4"), "{fault}");
    Ok(())
}

fn listeners(start: &Start<'_>) -> Result<Vec<String>, Fault> {
    Ok(start
        .engine(&bare_v1())?
        .listeners
        .iter()
        .map(ToString::to_string)
        .collect())
}

#[test]
fn listeners_follow_the_table() -> Result<(), Fault> {
    let unix = "unix:///var/run/docker.sock";
    let port: &[(&str, &str)] = &[("PORT", "4444")];
    assert_eq!(listeners(&DAEMON)?, [unix, "tcp://0.0.0.0:2375"]);
    assert_eq!(listeners(&SHELL)?, [unix]);
    assert_eq!(
        listeners(&Start {
            variables: port,
            ..SHELL
        })?,
        [unix, "tcp://0.0.0.0:4444"]
    );
    let literal = ["dind", "dockerd", "-D"];
    assert_eq!(
        listeners(&Start {
            arguments: &literal,
            ..DAEMON
        })?,
        [unix]
    );
    let literal = ["dind", "dockerd", "-H", "tcp://127.0.0.1:1"];
    assert_eq!(
        listeners(&Start {
            arguments: &literal,
            ..DAEMON
        })?,
        Vec::<String>::new()
    );
    let file = Start {
        json: r#"{"hosts": ["unix:///x"]}"#,
        ..DAEMON
    };
    assert_eq!(listeners(&file)?, Vec::<String>::new());
    let elsewhere = Start {
        variables: &[("DOCKER_HOST", "unix:///x/d.sock")],
        ..DAEMON
    };
    assert_eq!(
        listeners(&elsewhere)?,
        ["unix:///x/d.sock", "tcp://0.0.0.0:2375"]
    );
    // A CI job passes its variables to its service containers too.
    let leaked = Start {
        variables: &[("DOCKER_HOST", "tcp://docker:2375")],
        ..DAEMON
    };
    assert_eq!(listeners(&leaked)?, [unix, "tcp://0.0.0.0:2375"]);
    Ok(())
}

#[test]
fn the_users_hosts_are_added_once() -> Result<(), Fault> {
    let start = Start {
        arguments: &[
            "dind",
            "-H",
            "unix:///var/run/docker.sock",
            "-H",
            "tcp://127.0.0.1:9",
            "--host=tcp://:2375",
        ],
        ..DAEMON
    };
    let arguments = start.engine(&bare_v1())?.dockerd.arguments;
    let hosts: Vec<&OsString> = arguments
        .iter()
        .zip(arguments.iter().skip(1))
        .filter(|(flag, _)| *flag == "-H")
        .map(|(_, host)| host)
        .collect();
    assert_eq!(hosts, ["fd://", "tcp://127.0.0.1:9"]);
    assert!(!arguments.iter().any(|word| word == "--host=tcp://:2375"));
    let file = Start {
        json: r#"{"hosts": ["unix:///x"]}"#,
        ..DAEMON
    };
    assert!(
        !file
            .engine(&bare_v1())?
            .dockerd
            .arguments
            .iter()
            .any(|word| word == "-H")
    );
    Ok(())
}

#[test]
fn the_command_line_comes_after_the_variable() -> Result<(), Fault> {
    let start = Start {
        arguments: &["dind", "--label=b"],
        variables: &[("DOCKER_DAEMON_ARGS", "--label 'a a'")],
        ..DAEMON
    };
    let arguments = start.engine(&bare_v1())?.dockerd.arguments;
    assert!(
        arguments.ends_with(&["--label".into(), "a a".into(), "--label=b".into()]),
        "{arguments:?}"
    );
    Ok(())
}

#[test]
fn containerd_is_left_to_dockerd_where_the_user_has_one() -> Result<(), Fault> {
    let own = DAEMON.engine(&bare_v1())?;
    assert!(own.containerd.is_some());
    assert!(
        own.dockerd
            .arguments
            .contains(&"--containerd=/var/run/docker/containerd/containerd.sock".into())
    );
    let theirs = Start {
        arguments: &["dind", "--containerd=/run/x.sock"],
        ..DAEMON
    };
    assert!(theirs.engine(&bare_v1())?.containerd.is_none());
    let mut none = bare_v1();
    none.programs.containerd = None;
    let engine = DAEMON.engine(&none)?;
    assert!(engine.containerd.is_none());
    assert!(
        !engine
            .dockerd
            .arguments
            .iter()
            .any(|word| word.to_string_lossy().contains("containerd"))
    );
    Ok(())
}

#[test]
fn the_role_follows_the_contract() -> Result<(), Fault> {
    let serve = |start: &Start<'_>| -> Result<bool, Fault> {
        Ok(matches!(
            start.role(true, SocketState::Free)?.0,
            Role::Serve(_)
        ))
    };
    assert!(serve(&DAEMON)?);
    assert!(!serve(&SHELL)?);
    assert!(!serve(&Start {
        stdin: Stdin::Other,
        ..DAEMON
    })?);
    assert!(!serve(&Start {
        arguments: &["dind", "sh"],
        ..DAEMON
    })?);
    assert!(serve(&Start {
        arguments: &["dind", "-D"],
        ..SHELL
    })?);
    assert!(serve(&Start {
        variables: &[("PORT", "1")],
        arguments: &["dind", "sh"],
        ..SHELL
    })?);
    // wrapdocker without PORT runs its shell even if standard input is /dev/null.
    assert!(!serve(&Start {
        arguments: &["wrapdocker"],
        ..DAEMON
    })?);
    for arguments in [
        ["wrapdocker"].as_slice(),
        &["dind", "wrapdocker"],
        &["dind", "/usr/local/bin/wrapdocker"],
    ] {
        let (_, contract) = Start { arguments, ..SHELL }.role(true, SocketState::Free)?;
        assert_eq!(contract, Contract::Wrapdocker, "{arguments:?}");
    }
    for arguments in [
        ["hack/dind", "x"].as_slice(),
        &["/go/src/hack/dind", "x"],
        &["dind", "hack-dind", "x"],
    ] {
        let (role, contract) = Start {
            arguments,
            ..DAEMON
        }
        .role(true, SocketState::Free)?;
        assert_eq!(
            (role, contract),
            (
                Role::Prepare {
                    command: vec!["x".into()]
                },
                Contract::HackDind
            )
        );
    }
    let information = Start {
        arguments: &["dind", "dockerd", "--version"],
        ..DAEMON
    };
    // dockerd needs no privilege to print its version.
    assert!(matches!(
        information.role(false, SocketState::Free)?.0,
        Role::Inform { .. }
    ));
    Ok(())
}

#[test]
fn without_privileges_the_fault_says_how_to_get_them() {
    let fault = |start: &Start<'_>| start.role(false, SocketState::Free).err();
    for start in [
        DAEMON,
        SHELL,
        Start {
            arguments: &["hack-dind", "x"],
            ..DAEMON
        },
    ] {
        let fault = fault(&start);
        assert!(
            fault.as_ref().is_some_and(
                |fault| fault.status == 1 && fault.to_string().contains("--privileged")
            ),
            "{fault:?}"
        );
    }
    let wrapdocker = fault(&Start {
        arguments: &["wrapdocker"],
        ..SHELL
    });
    assert_eq!(
        wrapdocker,
        Some(Fault::failure(
            "Could not make a tmpfs mount. Did you use --privileged?"
        ))
    );
}

#[test]
fn the_fault_names_the_user_where_only_that_is_in_the_way() -> Result<(), Fault> {
    for (arguments, root_has_it, user, parts) in [
        (
            &["dind"][..],
            true,
            1000,
            &["this process is user 1000", "--user 0"][..],
        ),
        (
            &["hack-dind", "x"],
            true,
            1000,
            &["this process is user 1000", "--user 0"],
        ),
        (
            &["dind"],
            false,
            1000,
            &["CAP_SYS_ADMIN", "--privileged, and as root", "--user 0"],
        ),
        (
            &["dind"],
            true,
            0,
            &["CAP_SYS_ADMIN", "start it with --privileged"],
        ),
        (
            &["wrapdocker"],
            true,
            1000,
            &[
                "Did you use --privileged?; this process is user 1000",
                "--user 0",
            ],
        ),
    ] {
        let start = Start {
            arguments,
            ..DAEMON
        };
        let (config, start) = start.read()?;
        let surroundings = Surroundings {
            rootless: None,
            stdin: Stdin::Null,
            capabilities: Capabilities {
                effective: CapabilitySet::NONE,
                bounding: match root_has_it {
                    true => CapabilitySet::ALL,
                    false => CapabilitySet::NONE,
                },
            },
            user,
            socket: config.socket_path(start.contract),
            socket_state: SocketState::Free,
        };
        let fault = role::decide(&start, &config, &surroundings).err();
        let text = fault.map(|fault| fault.to_string()).unwrap_or_default();
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
        assert_eq!(
            text.contains("this process is user"),
            root_has_it && user != 0,
            "{text}"
        );
    }
    Ok(())
}

#[test]
fn a_socket_from_outside_cannot_be_replaced() {
    let port = Start {
        variables: &[("PORT", "4444")],
        ..DAEMON
    };
    for state in [
        SocketState::Mounted { live: true },
        SocketState::Mounted { live: false },
        SocketState::Live,
    ] {
        let fault = port.role(true, state).err();
        assert!(
            fault
                .as_ref()
                .is_some_and(|fault| fault.message.contains("/var/run/docker.sock")),
            "{fault:?}"
        );
    }
}

#[test]
fn a_daemon_that_already_runs_is_a_fault() {
    let mut facts = bare_v1();
    facts.running = Some(("/run/docker.pid".into(), 42));
    facts.stale = vec!["/run/docker.pid".into()];
    let fault = DAEMON.fault(&facts);
    assert!(
        fault.message.contains("pid 42") && fault.message.contains("/run/docker.pid"),
        "{fault:?}"
    );
}

#[test]
fn no_dockerd_is_status_127() {
    let mut facts = bare_v1();
    facts.programs.dockerd = None;
    assert_eq!(DAEMON.fault(&facts).status, NOT_FOUND);
}

#[test]
fn hack_dind_leaves_v1_hierarchies_alone() -> Result<(), Fault> {
    let start = Start {
        arguments: &["hack-dind", "make", "test"],
        ..DAEMON
    };
    let plan = start.plan(&facts(
        "8 2 0:8 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n",
        "2:cpu:/\n",
        RootMount::Directory,
    ))?;
    assert!(
        !commands(&plan)
            .iter()
            .any(|command| command.contains("cgroup")),
        "{plan}"
    );
    let container = (OsString::from("container"), OsString::from("docker"));
    assert_eq!(
        plan.outcome,
        Outcome::Become {
            command: vec!["make".into(), "test".into()],
            environment: vec![container],
        }
    );
    let plan = start.plan(&unified("0::/\n"))?;
    assert!(
        plan.changes()
            .any(|step| matches!(step.action, Action::Delegate { .. })),
        "{plan}"
    );
    Ok(())
}

#[test]
fn the_log_may_be_a_link_in_the_containers_own_directory_only() -> Result<(), Fault> {
    for own in [true, false] {
        let facts = Facts {
            log_directory_own: own,
            ..bare_v1()
        };
        let log = SHELL.engine(&facts)?.log_file;
        assert_eq!(log.map(|log| log.follow), Some(own));
    }
    Ok(())
}

#[test]
fn beside_a_shell_on_a_terminal_the_daemons_log_to_the_file() -> Result<(), Fault> {
    let logs_to_file = |start: &Start<'_>| -> Result<bool, Fault> {
        Ok(start.engine(&bare_v1())?.log_file.is_some())
    };
    assert!(logs_to_file(&SHELL)?);
    assert!(!logs_to_file(&DAEMON)?);
    assert!(!logs_to_file(&Start {
        variables: &[("LOG", "stdio")],
        ..SHELL
    })?);
    assert!(!logs_to_file(&Start {
        arguments: &["wrapdocker"],
        ..SHELL
    })?);
    assert!(logs_to_file(&Start {
        variables: &[("LOG", "file")],
        ..DAEMON
    })?);
    Ok(())
}

/// Sets of memberships that a kernel could list, and some that no kernel lists.
fn any_memberships() -> impl Strategy<Value = Vec<Hierarchy>> {
    let controllers = proptest::sample::subsequence(
        vec![
            "cpu", "cpuacct", "memory", "devices", "pids", "net_cls", "net_prio",
        ],
        1..4,
    );
    let hierarchy = prop_oneof![
        controllers.prop_map(|names| Hierarchy::Controllers(
            names.into_iter().map(str::to_owned).collect()
        )),
        "[a-z]{1,6}".prop_map(Hierarchy::Named),
        Just(Hierarchy::Unified),
    ];
    proptest::collection::vec(hierarchy, 0..8)
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let root = prop_oneof![
        Just(RootMount::Nothing),
        Just(RootMount::Directory),
        Just(RootMount::Cgroup2)
    ];
    let mounted = proptest::collection::vec(any::<bool>(), 8);
    let ro = any::<bool>();
    (
        any_memberships(),
        root,
        mounted,
        ro,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(hierarchies, root, mounted, ro, tmp_empty, security, private)| {
                let mode = if ro { "ro" } else { "rw" };
                let mut mountinfo = match root {
                    RootMount::Nothing => String::new(),
                    RootMount::Directory => {
                        format!("8 2 0:8 / /sys/fs/cgroup {mode} - tmpfs a rw\n")
                    }
                    RootMount::Cgroup2 => {
                        format!("8 2 0:8 / /sys/fs/cgroup {mode} - cgroup2 a rw\n")
                    }
                };
                for (number, (hierarchy, mounted)) in hierarchies.iter().zip(mounted).enumerate() {
                    let options = match hierarchy {
                        Hierarchy::Controllers(names) => names.join(","),
                        Hierarchy::Named(name) => format!("name={name}"),
                        Hierarchy::Unified => continue,
                    };
                    if mounted && root == RootMount::Directory {
                        mountinfo.push_str(&format!(
                            "9 8 0:9 / /sys/fs/cgroup/h{number} {mode} - cgroup a rw,{options}\n"
                        ));
                    }
                }
                let mut facts = facts(&mountinfo, "", root);
                facts.container.cgroup.memberships = hierarchies
                    .into_iter()
                    .map(|hierarchy| Membership {
                        hierarchy,
                        path: if private {
                            "/".into()
                        } else {
                            "/outer/x".into()
                        },
                    })
                    .collect();
                facts.container.tmp_empty = tmp_empty;
                facts.container.security_directory = security;
                facts.stale = vec!["/run/docker.pid".into()];
                facts.exec_root.stale = vec!["/run/docker/runtime-runc".into()];
                facts.exec_root.foreign = ro;
                if root == RootMount::Cgroup2 {
                    facts.container.cgroup.unified.controllers = BTreeSet::from(["cpu".to_owned()]);
                    facts.container.cgroup.entries.insert("cgroup.procs".into());
                }
                facts
            },
        )
}

/// Users publish the output of `dind plan` in bug reports, and it has their input in it.
#[test]
fn a_plan_has_no_forged_line_and_no_password() -> Result<(), Fault> {
    let start = Start {
        arguments: &[
            "dind",
            "--data-root=/a\nstep: forged",
            "--http-proxy",
            "me:hunter2@proxy",
            "--label=\u{1b}[2J",
        ],
        variables: &[
            (
                "DOCKER_DAEMON_ARGS",
                "--registry-mirror 'https://me:hunter 2@mirror' --log-opt splunk-token=hunter2",
            ),
            ("HTTP_PROXY", "http://me:hunter2@proxy"),
            ("DOCKER_TLS_CERTDIR", "/certs\nlisten: forged"),
        ],
        ..DAEMON
    };
    for (start, count) in [
        (start, 2),
        (
            Start {
                arguments: &[
                    "dind",
                    "docker",
                    "login",
                    "--password",
                    "hunter2",
                    "a\nforged",
                ],
                stdin: Stdin::Other,
                ..DAEMON
            },
            1,
        ),
    ] {
        let text = start.plan(&bare_v1())?.to_string();
        assert!(
            !text.contains("hunter") && !text.contains('\u{1b}'),
            "{text}"
        );
        assert!(text.contains("xxxxx"), "{text}");
        let forged = |line: &&str| line.contains("forged");
        assert!(text.lines().filter(forged).count() >= count, "{text}");
        assert!(
            text.lines().filter(forged).all(|line| line.contains("\\n")),
            "{text}"
        );
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_hierarchy_is_mounted_twice(facts in any_facts()) {
        let plan = DAEMON.plan(&facts)?;
        let existing = facts
            .container.mounts
            .mounts
            .iter()
            .filter(|mount| mount.fstype == "cgroup")
            .flat_map(|mount| mount.super_options.clone())
            .filter(|option| option != "rw");
        let mut seen: BTreeSet<String> = existing.collect();
        let mut targets: BTreeSet<PathBuf> =
            facts.container.mounts.mounts.iter().map(|mount| mount.target.clone()).collect();
        for step in plan.changes() {
            if let Action::Mount { target, fstype, data, .. } = &step.action {
                prop_assert!(targets.insert(target.clone()), "{} twice", target.display());
                if fstype == "cgroup" {
                    for name in data.split(',').filter(|name| *name != "none") {
                        prop_assert!(seen.insert(name.to_owned()), "{name} twice in\n{plan}");
                    }
                }
            }
        }
    }

    #[test]
    fn planning_again_after_applying_changes_nothing(facts in any_facts()) {
        let first = DAEMON.plan(&facts)?;
        let mut later = after(&facts, &first);
        // Once mounted, the version 2 root shows its controllers.
        if later.container.cgroup.root == RootMount::Cgroup2 {
            later.container.cgroup.entries.insert("cgroup.procs".into());
        }
        prop_assert_eq!(repeated(&DAEMON.plan(&later)?), Vec::<String>::new());
    }

    #[test]
    fn a_plan_says_what_and_why_in_single_lines(facts in any_facts()) {
        let plan = DAEMON.plan(&facts)?;
        for step in plan.changes() {
            prop_assert!(!step.why.is_empty() && !step.why.contains('\n'));
            prop_assert!(!step.action.to_string().contains('\n'));
        }
    }
}

/// Programs read codes and links, so a change of one must be noticed.
#[test]
fn every_warning_and_note_has_a_code_and_a_link_that_leads_somewhere() -> Result<(), Fault> {
    let mut amiss = bare_v1();
    amiss.pid1 = false;
    amiss.images = true;
    amiss.socket_group = None;
    amiss.hooks.not_executable = vec!["/etc/dind/pre-start.d/a".into()];
    amiss.networks.resolvers = vec![[127, 0, 0, 11].into()];
    amiss.data_root = on_overlay(NO_MEANS()).data_root;
    amiss.container.cgroup.memberships.clear();
    let mut hidden = bare_v1();
    hidden.client.certificates_hidden = true;
    hidden.container.mounts.mounts.clear();
    let tcp = Start {
        arguments: &["dind", "dockerd", "-H", "tcp://:1"],
        variables: &[("PORT", "4444")],
        ..DAEMON
    };
    let port = Start {
        arguments: &["dind", "true"],
        variables: &[("PORT", "4444")],
        ..DAEMON
    };
    let client = Start {
        arguments: &["docker-entrypoint.sh", "dockerd"],
        variables: &[("DOCKER_TLS_CERTDIR", "/certs")],
        ..DAEMON
    };
    let verify = Start {
        variables: &[("DOCKER_TLS_VERIFY", "1")],
        ..SHELL
    };
    let other = Start {
        json: r#"{"features": {"containerd-snapshotter": true}, "firewall-backend": "nftables"}"#,
        variables: &[("DOCKER_DRIVER", "overlay2")],
        ..DAEMON
    };
    let mut used = amiss.clone();
    used.image_stores = Some(ImageStores::ContainerdOnRequest);
    used.data_root.contents.graph_images = Some("overlay2".into());
    used.netfilter.forwarding = Forwarding {
        off: vec!["/proc/sys/net/ipv4/ip_forward".into()],
        host: true,
    };
    let mut incapable = Start {
        variables: &[("DOCKER_HOST", "unix:///tmp/docker.sock")],
        ..DAEMON
    };
    incapable.capabilities = of_root(CapabilitySet::ALL.without(Capability::NET_RAW));
    let mut codes = BTreeSet::new();
    let mut links = BTreeSet::new();
    for (start, facts) in [
        (&other, &used),
        (&DAEMON, &amiss),
        (&DAEMON, &hidden),
        (&tcp, &amiss),
        (&port, &amiss),
        (&client, &hidden),
        (&verify, &hidden),
        (&incapable, &amiss),
    ] {
        let plan = start.plan(facts)?;
        for finding in plan.warnings.iter().chain(&plan.notes) {
            codes.insert(finding.code);
            links.insert(finding.link);
        }
        let is = |severity| move |finding: &Finding| finding.severity == severity;
        let is_warning = |finding: &Finding| finding.severity < Severity::Note;
        assert!(plan.warnings.iter().all(is_warning), "{plan}");
        assert!(plan.notes.iter().all(is(Severity::Note)), "{plan}");
    }
    let known = [
        "capabilities",
        "client-certificates",
        "client-variables-removed",
        "data-root-filesystem",
        "data-root-volume",
        "devices-cgroup",
        "dns-forwarder",
        "docker-driver",
        "dockerd-unprepared",
        "firewall-backend",
        "forwarding",
        "hook-not-executable",
        "images-hidden",
        "images-without-socket",
        "iptables",
        "mount-left-out",
        "not-pid-1",
        "port-and-command",
        "port-unused",
        "socket-group",
        "storage-chosen",
        "tcp-without-tls",
    ];
    assert_eq!(codes, BTreeSet::from(known));
    // GitHub derives anchors from headings: lower case, a hyphen for each space, and characters
    // other than letters, digits, hyphens and underscores are dropped.
    let readme = include_str!("../../README.md");
    let headings = readme.lines().filter(|line| line.starts_with('#'));
    let anchors: BTreeSet<String> = headings
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = |character: &char| character.is_alphanumeric() || " -_".contains(*character);
            heading.chars().filter(kept).collect::<String>()
        })
        .map(|heading| heading.replace(' ', "-"))
        .collect();
    for link in links {
        let leads = match link.strip_prefix("README.md#") {
            Some(anchor) => anchors.contains(anchor),
            None => link.starts_with("https://"),
        };
        assert!(leads, "{link}");
    }
    Ok(())
}
