//! dockerd's own nftables backend in the place of iptables.

use super::*;

const NFTABLES: Start<'_> = Start {
    json: r#"{"firewall-backend": "nftables"}"#,
    ..DAEMON
};

/// A container of its own network namespace with these files at 0.
fn off(files: &[&str]) -> Facts {
    let mut facts = bare_v1();
    facts.netfilter.forwarding.off = files.iter().map(|file| (*file).into()).collect();
    facts
}

const IPV4: &str = "/proc/sys/net/ipv4/ip_forward";
const IPV6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

#[test]
fn nftables_is_no_backend_of_iptables() -> Result<(), Fault> {
    let mut facts = off(&[]);
    facts.netfilter.nf_tables = NfTables::Unknown;
    let flag = Start {
        arguments: &["dind", "--firewall-backend=nftables"],
        variables: &[("DOCKER_IPTABLES_LEGACY", "1")],
        ..DAEMON
    };
    for start in [NFTABLES, flag] {
        let plan = start.plan(&facts)?;
        let notes: Vec<_> = plan.notes.iter().map(|note| note.code).collect();
        assert_eq!(notes, ["firewall-backend"], "{plan}");
        let text = plan.to_string();
        assert!(!text.contains("iptables-legacy"), "{text}");
        assert!(!text.contains("load module"), "{text}");
    }
    assert!(DAEMON.plan(&facts)?.to_string().contains("load module"));
    Ok(())
}

/// Addresses, MTU and resolvers do not depend on it.
#[test]
fn nftables_changes_nothing_else() -> Result<(), Fault> {
    let mut facts = off(&[]);
    facts.networks.mtu = Some(1400);
    facts.networks.default_network_opt = true;
    facts.networks.resolvers = vec![[127, 0, 0, 11].into()];
    let (with, without) = (NFTABLES.engine(&facts)?, DAEMON.engine(&facts)?);
    assert_eq!(with.dockerd.arguments, without.dockerd.arguments);
    assert_eq!(with.forwarder, without.forwarder);
    assert!(with.forwarder.is_some());
    Ok(())
}

#[test]
fn forwarding_is_turned_on_where_dockerd_only_looks() -> Result<(), Fault> {
    let forwarding = |start: &Start<'_>, facts: &Facts| -> Result<Vec<String>, Fault> {
        let commands = commands(&start.plan(facts)?).into_iter();
        Ok(commands
            .filter(|command| command.contains("/proc/sys"))
            .collect())
    };
    let facts = off(&[IPV4, IPV6]);
    let both = [IPV4, IPV6].map(|path| format!("echo 1 >{path}"));
    assert_eq!(forwarding(&NFTABLES, &facts)?, both);
    assert_eq!(forwarding(&NFTABLES, &off(&[]))?, Vec::<String>::new());
    assert_eq!(forwarding(&DAEMON, &facts)?, Vec::<String>::new());
    let left = Start {
        arguments: &["dind", "--ip-forward=false"],
        ..NFTABLES
    };
    assert_eq!(forwarding(&left, &facts)?, Vec::<String>::new());
    // The host is its owner's, who is told.
    let mut host = facts;
    host.netfilter.forwarding.host = true;
    assert_eq!(forwarding(&NFTABLES, &host)?, Vec::<String>::new());
    for (start, facts, told) in [
        (&NFTABLES, &host, 1),
        (&left, &host, 0),
        (&DAEMON, &host, 0),
        (&NFTABLES, &off(&[IPV4]), 0),
    ] {
        let plan = start.plan(facts)?;
        let warnings = plan.warnings.iter();
        let found = warnings.filter(|warning| warning.code == "forwarding");
        assert_eq!(found.count(), told, "{plan}");
    }
    Ok(())
}

/// dind's program before iptables, and whether dockerd finds it first.
fn shortcut(start: &Start<'_>, facts: &Facts) -> Result<bool, Fault> {
    let plan = start.plan(facts)?;
    let is_made = commands(&plan)
        .iter()
        .any(|command| command.starts_with("answer for"));
    let engine = start.engine(facts)?;
    let found = engine.dockerd.environment.iter().any(|(name, value)| {
        name == "PATH" && value.to_string_lossy().starts_with("/run/dind-iptables:")
    });
    assert_eq!(is_made, found, "{plan}");
    let others = engine.containerd.iter().map(|program| &program.environment);
    for (name, value) in others.chain([&engine.environment]).flatten() {
        let value = value.to_string_lossy();
        assert!(!value.contains("/run/dind-iptables"), "{name:?}={value}");
    }
    Ok(is_made)
}

#[test]
fn the_shortcut_is_dockerds_alone() -> Result<(), Fault> {
    assert!(shortcut(&DAEMON, &bare_v1())?);
    Ok(())
}

#[test]
fn the_shortcut_is_only_where_its_answers_are_known() -> Result<(), Fault> {
    let with = |variable| Start {
        variables: variable,
        ..DAEMON
    };
    for start in [
        NFTABLES,
        with(&[("DIND_IPTABLES_SHORTCUT", "off")]),
        with(&[("DOCKER_IPTABLES_LEGACY", "1")]),
        with(&[("XTABLES_LIBDIR", "/opt/xtables")]),
        Start {
            arguments: &["dind", "--iptables=false"],
            ..DAEMON
        },
        Start {
            json: r#"{"iptables": false}"#,
            ..DAEMON
        },
    ] {
        assert!(!shortcut(&start, &bare_v1())?, "{:?}", start.variables);
    }
    for (version, expected) in [("1.8.9", true), ("1.8.13", true), ("1.8.14", false)] {
        let mut facts = bare_v1();
        facts.netfilter.nft_programs = Some(NftPrograms {
            version: version.into(),
            ..nft_programs()
        });
        assert_eq!(shortcut(&DAEMON, &facts)?, expected, "{version}");
    }
    let mut own = bare_v1();
    own.netfilter.nft_programs = None;
    let mut legacy = bare_v1();
    legacy.netfilter.legacy_in_use = true;
    let mut noexec = bare_v1();
    let mounts = &mut noexec.container.mounts.mounts;
    mounts.extend(MountTable::parse("9 1 0:9 / /run rw,noexec - tmpfs tmpfs rw\n").mounts);
    for facts in [own, legacy, noexec] {
        assert!(!shortcut(&DAEMON, &facts)?);
    }
    Ok(())
}
