//! Features and limits of the kernel: cgroups, netfilter, modules, networks, quotas, clock.

use super::case::Case;
use super::versions;
use crate::facts::cgroup::{Hierarchy, Layout};
use crate::facts::netfilter::{LegacyPrograms, NfTables};
use crate::facts::network::USUAL_MTU;
use crate::messages::finding::Finding;
use crate::plan;
use crate::plan::memory::size;

/// The controllers that enforce the limits of containers.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// The kernel's defaults (`inotify_user_setup` in fs/notify/inotify, key_quota_maxkeys in
/// security/keys/key.c). A lower value was set on purpose.
const USUAL_INSTANCES: u64 = 128;
const USUAL_WATCHES: u64 = 8_192;
const USUAL_KEYS: u64 = 200;

/// On two processors dockerd, containerd and PID 1 have 22 to 24 processes and threads when docker
/// is ready, each container 12 with its shim, and while one starts there are up to 40 more. With 50
/// no container of 20.10, 26.1 and 28.5 started, with 60 one did; with 20 dockerd itself ended.
const LEAST_PROCESSES: u64 = 64;
const FEW_PROCESSES: u64 = 1_000;

/// The first major version of dockerd that calls cgroup v1 deprecated (`fillPlatformInfo` in moby's
/// daemon/info_unix.go).
const WITHOUT_V1: u32 = 29;

/// The memory that dockerd and containerd use when they have just started, without that of their
/// programs' files, 110 MiB, which the kernel can read again: 40 to 45 MiB with 20.10, 26.1 and 28.5.
/// The shim of each container takes four more.
const DAEMONS_MEMORY: u64 = 50 << 20;
/// With 64 MiB the kernel kills dockerd at the first container or image, with 96 MiB it does not.
const LITTLE_MEMORY: u64 = 128 << 20;

/// Seconds since 1970 at 2025-01-01 in UTC, before this program was built.
const EARLIEST: u64 = 1_735_689_600;
/// How far, in seconds, the clocks of hosts and of machines that build images may differ.
const TOLERANCE: u64 = 24 * 60 * 60;

/// The cgroup layout, the cgroup namespace, missing controllers, and the mounts that a start
/// makes or changes: cgroups(7).
pub fn cgroups(case: Case<'_>) -> Vec<Finding> {
    const LINK: &str = "https://man7.org/linux/man-pages/man7/cgroups.7.html";
    const NAMESPACES: &str = "https://man7.org/linux/man-pages/man7/cgroup_namespaces.7.html";
    let facts = case.inputs.facts;
    let cgroup = &facts.container.cgroup;
    let layout = cgroup.layout();
    let in_container = case.host.in_container;
    let mut found = vec![Finding::note(
        "cgroup-layout",
        format!("the cgroup layout is {}", layout.name()),
        LINK,
    )];
    let mut versions = case.host.versions.iter();
    if layout != Layout::Unified
        && let Some((_, version)) = versions.find(|(name, _)| name == "dockerd")
        && versions::major(version).is_some_and(|major| major >= WITHOUT_V1)
    {
        let seen = format!(
            "dockerd {version} calls cgroup v1 deprecated, and this host's layout is {}; Docker means to remove it by May 2029",
            layout.name()
        );
        found.push(
            Finding::note("cgroup-v1", seen, "https://github.com/moby/moby/issues/51111").remedy(
                "boot the host with cgroup v2 alone: systemd.unified_cgroup_hierarchy=1 on the kernel's command line",
            ),
        );
    }
    if in_container && layout == Layout::Unified && !cgroup.private_namespace() {
        let seen = "this container has the cgroup namespace of its host, and a start enters one of its own";
        found.push(Finding::note("cgroup-namespace", seen, NAMESPACES));
    }
    // A v2 hierarchy that is not mounted does not show its controllers.
    let shown = match layout {
        Layout::Unified => cgroup.entries.contains("cgroup.controllers"),
        Layout::Legacy | Layout::Hybrid => true,
    };
    let has = |controller: &str| match layout {
        Layout::Unified => cgroup.unified.controllers.contains(controller),
        Layout::Legacy | Layout::Hybrid => cgroup.memberships.iter().any(|membership| {
            matches!(&membership.hierarchy, Hierarchy::Controllers(names)
                if names.iter().any(|name| name == controller))
        }),
    };
    let missing: Vec<&str> = CONTROLLERS
        .into_iter()
        .filter(|controller| shown && !has(controller))
        .collect();
    if !missing.is_empty() {
        let seen = format!(
            "the cgroup hierarchy here has no {} controller, so such limits of inner containers are not enforced",
            missing.join(" and no ")
        );
        found.push(Finding::warning("cgroup-controllers", seen, LINK).remedy(
            "enable it in the host's kernel (cgroup_enable=NAME on its command line), or in the cgroup above this one",
        ));
    }
    if in_container {
        let (made, writable) = plan::cgroup_mounts(facts);
        let list = |paths: &[std::path::PathBuf]| {
            let paths: Vec<String> = paths
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            paths.join(", ")
        };
        if !made.is_empty() {
            let seen = format!(
                "cgroup mounts that are missing, which a start makes: {}",
                list(&made)
            );
            found.push(Finding::note("cgroup-missing", seen, LINK));
        }
        if !writable.is_empty() {
            let seen = format!(
                "cgroup mounts that are read-only, which a start makes writable: {}",
                list(&writable)
            );
            found.push(Finding::note("cgroup-read-only", seen, LINK));
        }
    }
    found
}

/// The packet filter. Without CAP_NET_ADMIN the kernel does not answer, and there is no finding.
/// Only the diagnosis of a failed start knows whether nf_tables is missing, as the start has asked
/// the kernel. `dind doctor` does not ask, since the question loads the module.
pub fn netfilter(case: Case<'_>) -> Vec<Finding> {
    const LINK: &str = "https://docs.docker.com/engine/network/packet-filtering-firewalls/";
    if !case.host.status.network_admin {
        return Vec::new();
    }
    let netfilter = &case.inputs.facts.netfilter;
    let mut found = Vec::new();
    if case.host.in_container {
        found.push(plan::iptables_note(case.inputs));
    }
    let options = case.inputs.options;
    if options.nftables && netfilter.nf_tables == NfTables::Missing {
        let seen = "the kernel has no nf_tables, which dockerd's firewall-backend needs";
        found.push(Finding::warning("no-netfilter", seen, LINK).remedy(
            "load it on the host: modprobe nf_tables; or give dockerd --firewall-backend=iptables",
        ));
    }
    let missing =
        netfilter.nf_tables == NfTables::Missing && !netfilter.legacy_in_use && !options.nftables;
    if missing && !options.iptables_off {
        if !case.host.modules.ip_tables {
            let seen = "the kernel shows neither nf_tables nor the legacy ip_tables, and dockerd needs one of them";
            found.push(
                Finding::warning("no-netfilter", seen, LINK)
                    .remedy("load one on the host: modprobe nf_tables, or modprobe ip_tables"),
            );
        }
        if case.host.in_container && netfilter.legacy_programs == LegacyPrograms::Missing {
            let seen = "the kernel has no nf_tables, and this image has no iptables-legacy, which would use ip_tables";
            found.push(
                Finding::warning("no-iptables-legacy", seen, LINK)
                    .remedy("load nf_tables on the host: modprobe nf_tables; or use an image with the legacy programs"),
            );
        }
    }
    found
}

/// Kernel modules that are not loaded, and that only the host can load.
pub fn modules(case: Case<'_>) -> Vec<Finding> {
    const OVERLAY: &str = "https://docs.kernel.org/filesystems/overlayfs.html";
    const BRIDGE: &str = "https://docs.docker.com/engine/network/drivers/bridge/";
    let mut found = Vec::new();
    if !case.host.modules.overlay {
        let seen =
            "the kernel shows no overlay file system, so dockerd may use a slower storage driver";
        found.push(
            Finding::warning("no-overlay", seen, OVERLAY)
                .remedy("load it on the host: modprobe overlay"),
        );
    }
    if !case.host.modules.bridge_filter {
        let seen = "br_netfilter is not loaded, so --icc=false does not isolate containers on the same bridge";
        found.push(
            Finding::note("no-br-netfilter", seen, BRIDGE)
                .remedy("if you need that, load it on the host: modprobe br_netfilter"),
        );
    }
    found
}

/// Resolvers, addresses and the MTU of inner networks.
pub fn networks(case: Case<'_>) -> Vec<Finding> {
    const DNS: &str = "https://docs.docker.com/engine/network/#dns-services";
    const BRIDGE: &str = "https://docs.docker.com/engine/network/drivers/bridge/";
    let networks = &case.inputs.facts.networks;
    let mut found = Vec::new();
    if let Some(first) = networks.resolvers.first()
        && plan::resolvers_out_of_reach(case.inputs)
        && case.host.in_container
    {
        let seen = format!(
            "the resolver is {first}, which inner containers cannot reach, so they query public resolvers (8.8.8.8)"
        );
        found.push(Finding::warning("resolver-on-loopback", seen, DNS).remedy(
            "set DIND_DNS=on, or give dockerd a resolver that they can reach: --dns ADDRESS",
        ));
    }
    if plan::addresses_exhausted(case.inputs) {
        let seen = "every address block for inner networks overlaps with a route or a resolver";
        found.push(
            Finding::warning("addresses", seen, BRIDGE)
                .remedy("choose other addresses with dockerd's --bip and --default-address-pool"),
        );
    }
    if let Some(mtu) = networks.mtu
        && mtu != USUAL_MTU
    {
        let whose = if plan::mtu(case.inputs) == Some(mtu) {
            "inner networks use the same"
        } else {
            "that of inner networks is your choice"
        };
        let seen = format!("the interface of the default route has an MTU of {mtu}, and {whose}");
        if case.host.in_container {
            found.push(Finding::note("mtu", seen, BRIDGE));
        }
    }
    found
}

/// The quotas of inotify(7) and keyrings(7). They count per user on the whole host, and root in a
/// container is usually the host's root.
pub fn quotas(case: Case<'_>) -> Vec<Finding> {
    const INOTIFY: &str = "https://man7.org/linux/man-pages/man7/inotify.7.html";
    const KEYRINGS: &str = "https://man7.org/linux/man-pages/man7/keyrings.7.html";
    let quotas = case.host.quotas;
    let rows = [
        (
            "inotify",
            "fs.inotify.max_user_instances",
            quotas.inotify_instances,
            USUAL_INSTANCES,
            512,
            INOTIFY,
        ),
        (
            "inotify",
            "fs.inotify.max_user_watches",
            quotas.inotify_watches,
            USUAL_WATCHES,
            524_288,
            INOTIFY,
        ),
        (
            "keyring",
            "kernel.keys.maxkeys",
            quotas.keys,
            USUAL_KEYS,
            2_000,
            KEYRINGS,
        ),
    ];
    rows.into_iter()
        .filter_map(|(code, name, value, usual, enough, link)| {
            let value = value.filter(|value| *value <= usual)?;
            let seen =
                format!("{name} is {value}, which all containers of a user on this host share");
            let finding = if value < usual {
                Finding::warning(code, seen, link)
            } else {
                Finding::note(code, seen, link)
            };
            Some(finding.remedy(format!(
                "where many containers run, raise it on the host: sysctl -w {name}={enough}"
            )))
        })
        .collect()
}

/// The limit on processes and threads: pids.max.
pub fn processes(case: Case<'_>) -> Vec<Finding> {
    const LINK: &str = "https://docs.kernel.org/admin-guide/cgroup-v2.html#pid";
    let Some(found) = &case.host.processes else {
        return Vec::new();
    };
    // Those of daemons that run are what the limit is for.
    let taken = match case.inputs.facts.running {
        Some(_) => 0,
        None => found.used,
    };
    let room = found.limit.saturating_sub(taken);
    if found.limit >= FEW_PROCESSES && room >= LEAST_PROCESSES && found.refused == 0 {
        return Vec::new();
    }
    let mut seen = format!(
        "{} allows {} processes and threads, and {} are there",
        found.cgroup.display(),
        found.limit,
        found.used
    );
    if found.refused > 0 {
        seen.push_str(&format!("; {} were refused", found.refused));
    }
    seen.push_str("; ");
    seen.push_str(NEEDED_PROCESSES);
    vec![
        few_processes("pids-limit", room, seen, LINK)
            .remedy("start the container with a higher --pids-limit, or -1"),
    ]
}

const NEEDED_PROCESSES: &str =
    "the daemons need at least 25, and each inner container 12, and 40 more while it starts";

/// What there are as numbers for processes and threads: all containers of the host share them.
pub fn numbers(case: Case<'_>) -> Vec<Finding> {
    const LINK: &str = "https://man7.org/linux/man-pages/man5/proc_sys_kernel.5.html";
    let Some(found) = case.host.numbers else {
        return Vec::new();
    };
    let room = found.limit.saturating_sub(found.used);
    if room >= FEW_PROCESSES {
        return Vec::new();
    }
    let (name, limit, used) = (found.name, found.limit, found.used);
    let seen = format!(
        "{name} is {limit}, and this host has {used} processes and threads; {NEEDED_PROCESSES}"
    );
    let remedy = format!("raise it on the host: sysctl -w {name}=4194304");
    vec![few_processes("pid-max", room, seen, LINK).remedy(remedy)]
}

fn few_processes(code: &'static str, room: u64, seen: String, link: &'static str) -> Finding {
    match room {
        ..LEAST_PROCESSES => Finding::error(code, seen, link),
        _ => Finding::warning(code, seen, link),
    }
}

/// The limit on memory: memory.max or memory.limit_in_bytes.
pub fn memory(case: Case<'_>) -> Vec<Finding> {
    const LINK: &str = "https://docs.docker.com/engine/containers/resource_constraints/";
    let limit = case.host.memory.as_ref();
    let little = limit.filter(|limit| limit.bytes < LITTLE_MEMORY);
    little
        .map(|limit| {
            let seen = format!(
                "{} has a limit of {} of memory, and the daemons alone use about {}",
                limit.cgroup.display(),
                size(limit.bytes),
                size(DAEMONS_MEMORY)
            );
            Finding::warning("memory-limit", seen, LINK)
                .remedy("start the container with a higher --memory, or the kernel may kill them")
        })
        .into_iter()
        .collect()
}

/// A clock that is behind, by which certificates are not valid yet.
pub fn clock(case: Case<'_>) -> Vec<Finding> {
    const LINK: &str = "https://man7.org/linux/man-pages/man7/time.7.html";
    let clock = case.host.clock;
    let written = clock.written.unwrap_or_default();
    let behind = if clock.now < EARLIEST {
        Some(format!(
            "the clock is {} s after 1970, before dind was built",
            clock.now
        ))
    } else if clock.now.saturating_add(TOLERANCE) < written {
        let hours = (written - clock.now) / 3600;
        Some(format!(
            "the clock is {hours} h behind the time when the file of dind was written"
        ))
    } else {
        None
    };
    behind
        .map(|seen| {
            Finding::warning(
                "clock",
                format!("{seen}, so TLS refuses certificates"),
                LINK,
            )
            .remedy("set the host's clock")
        })
        .into_iter()
        .collect()
}
