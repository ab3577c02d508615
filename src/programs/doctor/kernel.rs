//! What the kernel offers, and what it allows.

use super::case::Case;
use crate::facts::cgroup::{Hierarchy, Layout};
use crate::facts::netfilter::{LegacyPrograms, NfTables};
use crate::facts::network::USUAL_MTU;
use crate::messages::finding::Finding;
use crate::plan;

/// The controllers that hold containers' limits.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// The kernel's own defaults (`inotify_user_setup` in fs/notify/inotify, key_quota_maxkeys
/// in security/keys/key.c); with less a host was made scarce on purpose.
const USUAL_INSTANCES: u64 = 128;
const USUAL_WATCHES: u64 = 8_192;
const USUAL_KEYS: u64 = 200;

/// dockerd, containerd and PID 1 have some fifty threads, and each container's shim about
/// ten more.
const FEW_PROCESSES: u64 = 1_000;

/// This program is not older than that: 2025-01-01 in UTC.
const EARLIEST: u64 = 1_735_689_600;
/// Clocks in containers and on the machines that build images differ a little.
const TOLERANCE: u64 = 24 * 60 * 60;

/// The layout of the cgroups, and what is missing of it.
pub fn cgroups(case: Case<'_>) -> Vec<Finding> {
    const LINK: &str = "https://man7.org/linux/man-pages/man7/cgroups.7.html";
    const NAMESPACES: &str = "https://man7.org/linux/man-pages/man7/cgroup_namespaces.7.html";
    let facts = case.inputs.facts;
    let cgroup = &facts.container.cgroup;
    let layout = cgroup.layout();
    let in_container = case.host.in_container;
    let mut found = vec![Finding::note(
        "cgroup-layout",
        format!("the layout of cgroups is {}", layout.name()),
        LINK,
    )];
    if in_container && layout == Layout::Unified && !cgroup.private_namespace() {
        let seen = "this container has the cgroup namespace of its host, and enters one of its own when it starts";
        found.push(Finding::note("cgroup-namespace", seen, NAMESPACES));
    }
    // Before something is mounted, a v2 hierarchy does not show what it has.
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
            "cgroups here have no {} controller, so such limits of inner containers do not hold",
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
            let seen = format!("not mounted yet, and mounted by a start: {}", list(&made));
            found.push(Finding::note("cgroup-missing", seen, LINK));
        }
        if !writable.is_empty() {
            let seen = format!(
                "mounted read-only, and made writable by a start: {}",
                list(&writable)
            );
            found.push(Finding::note("cgroup-read-only", seen, LINK));
        }
    }
    found
}

/// The packet filter. Who has no CAP_NET_ADMIN gets no answer about it. Whether it is missing
/// is known only after a start, which asks the kernel.
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
    let missing = netfilter.nf_tables == NfTables::Missing && !netfilter.legacy_in_use;
    if missing && !case.inputs.options.iptables_off {
        if !case.host.modules.ip_tables {
            let seen = "the kernel shows neither nf_tables nor the legacy ip_tables, and dockerd needs one of them";
            found.push(
                Finding::warning("no-netfilter", seen, LINK)
                    .remedy("load one on the host: modprobe nf_tables, or modprobe ip_tables"),
            );
        }
        if case.host.in_container && netfilter.legacy_programs == LegacyPrograms::Missing {
            let seen =
                "the kernel has no nf_tables, and this image no iptables-legacy for its ip_tables";
            found.push(
                Finding::warning("no-iptables-legacy", seen, LINK)
                    .remedy("load nf_tables on the host: modprobe nf_tables; or use an image with the legacy programs"),
            );
        }
    }
    found
}

/// Modules that only the host can load.
pub fn modules(case: Case<'_>) -> Vec<Finding> {
    const OVERLAY: &str = "https://docs.kernel.org/filesystems/overlayfs.html";
    const BRIDGE: &str = "https://docs.docker.com/engine/network/drivers/bridge/";
    let mut found = Vec::new();
    if !case.host.modules.overlay {
        let seen =
            "the kernel shows no overlay file system, so dockerd may take a slower storage driver";
        found.push(
            Finding::warning("no-overlay", seen, OVERLAY)
                .remedy("load it on the host: modprobe overlay"),
        );
    }
    if !case.host.modules.bridge_filter {
        let seen = "br_netfilter is not loaded, so containers on one bridge are not kept apart by --icc=false";
        found.push(
            Finding::note("no-br-netfilter", seen, BRIDGE)
                .remedy("load it on the host where that matters: modprobe br_netfilter"),
        );
    }
    found
}

/// Resolvers, addresses, MTU.
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
            "the resolver is {first}, which inner containers cannot reach, so they ask public ones (8.8.8.8)"
        );
        found.push(
            Finding::warning("resolver-on-loopback", seen, DNS)
                .remedy("set DIND_DNS=on, or name one that they reach: dockerd's --dns ADDRESS"),
        );
    }
    if plan::addresses_exhausted(case.inputs) {
        let seen =
            "every block of addresses for inner networks is in sight of a route or a resolver";
        found.push(
            Finding::warning("addresses", seen, BRIDGE)
                .remedy("choose others: dockerd's --bip and --default-address-pool"),
        );
    }
    if let Some(mtu) = networks.mtu
        && mtu != USUAL_MTU
    {
        let whose = if plan::mtu(case.inputs) == Some(mtu) {
            "so have inner networks"
        } else {
            "what inner networks have is your choice"
        };
        let seen = format!("the way out has an MTU of {mtu}, and {whose}");
        if case.host.in_container {
            found.push(Finding::note("mtu", seen, BRIDGE));
        }
    }
    found
}

/// inotify and keyrings: the quotas are of a user on the whole host, and root inside is
/// mostly root outside.
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
                format!("{name} is {value}, for all containers of a user on this host together");
            let finding = if value < usual {
                Finding::warning(code, seen, link)
            } else {
                Finding::note(code, seen, link)
            };
            Some(finding.remedy(format!(
                "where many run, set it on the host: sysctl -w {name}={enough}"
            )))
        })
        .collect()
}

/// The limit of processes.
pub fn processes(case: Case<'_>) -> Vec<Finding> {
    const LINK: &str = "https://docs.kernel.org/admin-guide/cgroup-v2.html#pid";
    let limit = case.host.processes.as_ref();
    let few = limit.filter(|found| found.limit < FEW_PROCESSES);
    few.map(|found| {
        let seen = format!(
            "{} allows {} processes and threads, of which the daemons take about fifty and each inner container ten and its own",
            found.cgroup.display(),
            found.limit
        );
        Finding::warning("pids-limit", seen, LINK)
            .remedy("start the container with a higher --pids-limit, or -1")
    })
    .into_iter()
    .collect()
}

/// A clock that is behind: no certificate is valid yet.
pub fn clock(case: Case<'_>) -> Vec<Finding> {
    const LINK: &str = "https://man7.org/linux/man-pages/man7/time.7.html";
    let clock = case.host.clock;
    let written = clock.written.unwrap_or_default();
    let behind = if clock.now < EARLIEST {
        Some(format!(
            "the clock is {} s after 1970, before dind was made",
            clock.now
        ))
    } else if clock.now.saturating_add(TOLERANCE) < written {
        let hours = (written - clock.now) / 3600;
        Some(format!(
            "the clock is {hours} h behind the time when this dind's file was written"
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
