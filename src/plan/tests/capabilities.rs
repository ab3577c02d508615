//! What a plan makes of missing capabilities.

use super::*;
use crate::plan::capabilities::containers;

/// Docker's defaults, in the order of `DefaultCapabilities` in moby's daemon/pkg/oci/caps.
const DEFAULTS: [(Capability, &str); 14] = [
    (Capability::CHOWN, "CHOWN"),
    (Capability::DAC_OVERRIDE, "DAC_OVERRIDE"),
    (Capability::FSETID, "FSETID"),
    (Capability::FOWNER, "FOWNER"),
    (Capability::MKNOD, "MKNOD"),
    (Capability::NET_RAW, "NET_RAW"),
    (Capability::SETGID, "SETGID"),
    (Capability::SETUID, "SETUID"),
    (Capability::SETFCAP, "SETFCAP"),
    (Capability::SETPCAP, "SETPCAP"),
    (Capability::NET_BIND_SERVICE, "NET_BIND_SERVICE"),
    (Capability::SYS_CHROOT, "SYS_CHROOT"),
    (Capability::KILL, "KILL"),
    (Capability::AUDIT_WRITE, "AUDIT_WRITE"),
];

fn without(capabilities: &[Capability]) -> Start<'static> {
    let all = CapabilitySet::ALL;
    let left = capabilities
        .iter()
        .fold(all, |left, capability| left.without(*capability));
    Start {
        capabilities: of_root(left),
        ..DAEMON
    }
}

/// The findings about capabilities.
fn found(start: &Start<'_>, facts: &Facts) -> Result<Vec<Finding>, Fault> {
    let mut warnings = start.plan(facts)?.warnings;
    warnings.retain(|finding| finding.code == "capabilities");
    Ok(warnings)
}

#[test]
fn each_of_dockers_defaults_and_what_dockerd_needs_is_missed() -> Result<(), Fault> {
    let facts = bare_v1();
    assert_eq!(found(&DAEMON, &facts)?, []);
    let dockerds = [
        (Capability::NET_ADMIN, "NET_ADMIN"),
        (Capability::DAC_OVERRIDE, "DAC_OVERRIDE"),
        // The socket has the group docker.
        (Capability::CHOWN, "CHOWN"),
    ];
    for (capability, name) in dockerds {
        let fault = without(&[capability]).fault(&facts);
        assert_eq!(fault.status, FAILURE);
        let seen = format!("this container has no CAP_{name}, so no daemon can run in it");
        assert_eq!(fault.message, seen);
        let remedy = fault.remedy.unwrap_or_default();
        let flag = format!("--privileged, or with --cap-add {name}");
        assert!(remedy.contains(&flag), "{remedy}");
    }
    for (capability, name) in DEFAULTS {
        if dockerds.contains(&(capability, name)) {
            continue;
        }
        let start = without(&[capability]);
        let follows = match name {
            "SETGID" => "no inner container starts".to_owned(),
            _ => "no inner container starts without --cap-drop ALL".to_owned(),
        };
        let seen = format!("this container has no CAP_{name}, so {follows}");
        let said = found(&start, &facts)?;
        let [finding] = said.as_slice() else {
            panic!("one is wanted without {name}: {said:?}");
        };
        assert_eq!((&finding.seen, finding.severity), (&seen, Severity::Error));
        let text = start.plan(&facts)?.to_string();
        assert!(
            text.contains(&format!("\nerror: {seen}; start it with ")),
            "{text}"
        );
    }
    Ok(())
}

#[test]
fn several_that_are_missing_are_one_finding() -> Result<(), Fault> {
    let facts = bare_v1();
    let start = without(&[Capability::NET_RAW, Capability::KILL, Capability::MKNOD]);
    let said = found(&start, &facts)?;
    let text: Vec<String> = said.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "this container has no CAP_MKNOD, CAP_NET_RAW and CAP_KILL, so no inner container starts \
          without --cap-drop ALL; start it with --privileged, \
          or with --cap-add MKNOD --cap-add NET_RAW --cap-add KILL"
        ]
    );
    // What stops every container is what counts.
    let start = without(&[Capability::NET_RAW, Capability::SETGID]);
    let said = found(&start, &facts)?;
    assert!(
        said.iter()
            .all(|finding| finding.seen.contains("no CAP_SETGID, so")),
        "{said:?}"
    );
    let fault = without(&[Capability::NET_ADMIN, Capability::SETGID]).fault(&facts);
    assert!(
        fault.message.contains("no CAP_NET_ADMIN, so no daemon"),
        "{fault}"
    );
    Ok(())
}

/// dockerd starts all the same with some options, and then no container does.
#[test]
fn what_dockerd_needs_depends_on_its_options() -> Result<(), Fault> {
    let facts = bare_v1();
    let alone = Start {
        arguments: &["dind", "--iptables=false", "--bridge=none"],
        ..without(&[Capability::NET_ADMIN])
    };
    let said = found(&alone, &facts)?;
    assert!(
        said.iter()
            .all(|found| found.seen.ends_with("so no inner container starts"))
    );
    assert_eq!(said.len(), 1);
    let groupless = Facts {
        socket_group: None,
        ..bare_v1()
    };
    let said = found(&without(&[Capability::CHOWN]), &groupless)?;
    assert!(
        said.iter()
            .all(|found| found.seen.contains("no CAP_CHOWN, so no inner container"))
    );
    assert_eq!(said.len(), 1);
    Ok(())
}

/// A process that is not root's executes programs with what it has itself.
#[test]
fn the_bounding_set_counts_for_root_only() {
    let sets = Capabilities {
        effective: CapabilitySet::ALL.without(Capability::MKNOD),
        bounding: CapabilitySet::ALL,
    };
    assert_eq!(containers(sets.of_programs(0)), None);
    let said = containers(sets.of_programs(1000)).map(|(seen, _)| seen);
    assert!(said.is_some_and(|seen| seen.contains("no CAP_MKNOD")));
}

/// A container that is prepared, or a client, starts none.
#[test]
fn roles_without_a_daemon_need_none_of_them() -> Result<(), Fault> {
    let start = Start {
        arguments: &["hack-dind", "true"],
        ..without(&[Capability::NET_ADMIN, Capability::NET_RAW])
    };
    assert_eq!(start.plan(&bare_v1())?.warnings, []);
    Ok(())
}
