//! Privileges of the container, and what restricts them.

use super::case::Case;
use super::versions;
use crate::facts::host::Confinement;
use crate::facts::netfilter::NfTables;
use crate::input::contract::Contract;
use crate::messages::finding::{Finding, Severity};
use crate::plan::inputs::Inputs;
use crate::plan::mode::{self, Missing, Mode};
use crate::plan::{self, role};

const PRIVILEGED: &str = "https://docs.docker.com/engine/containers/run/";

/// The first kernel whose nf_tables has tables that end with their process: `NFT_TABLE_F_OWNER` in
/// linux/netfilter/nf_tables.h.
const OWNED_TABLES: (u32, u32) = (5, 12);

/// CAP_SYS_ADMIN and the user namespace: capabilities(7), user_namespaces(7).
pub fn privileges(case: Case<'_>) -> Vec<Finding> {
    let surroundings = case.inputs.surroundings;
    let mut found = Vec::new();
    let (is_possible, missing) = match mode::decide(surroundings, case.inputs.config) {
        Mode::Privileged => (false, Vec::new()),
        Mode::Rootless(..) => {
            let seen =
                "this container has no CAP_SYS_ADMIN, and an engine can run in a user namespace";
            found.push(Finding::note("rootless", seen, mode::LINK));
            (true, Vec::new())
        }
        Mode::Impossible { missing, .. } if !case.host.in_container => (false, missing),
        Mode::Impossible {
            missing,
            asked: true,
        } => {
            found.extend(missing.iter().map(Missing::finding));
            found.extend(lines(case, &missing, true));
            (true, Vec::new())
        }
        Mode::Impossible { missing, .. } => {
            found.extend(lines(case, &missing, false));
            (false, missing)
        }
    };
    // In the words of dind's own contract: those of wrapdocker's have no remedy.
    let fault = role::unprivileged(Contract::Dind, surroundings).filter(|_| !is_possible);
    if let Some(fault) = fault {
        let fault = match missing.is_empty() || role::lacks_root_only(surroundings) {
            true => fault,
            false => mode::or_rootless(fault, &missing),
        };
        found.push(match case.host.in_container {
            true if role::lacks_root_only(surroundings) => {
                Finding::fault("not-root", fault, PRIVILEGED)
            }
            true => Finding::fault("privileges", fault, PRIVILEGED),
            false => Finding::note(
                "privileges",
                "this process has no CAP_SYS_ADMIN, so some checks were not possible",
                PRIVILEGED,
            )
            .remedy("run it as root for all checks"),
        });
    }
    if case.host.user_namespace {
        let seen = "this is a user namespace, whose root is not the host's root: it can neither load kernel modules nor make device nodes";
        found.push(
            Finding::warning(
                "user-namespace",
                seen,
                "https://man7.org/linux/man-pages/man7/user_namespaces.7.html",
            )
            .remedy("start the container with --userns=host, where its engine allows it"),
        );
    }
    found
}

/// The command lines with all flags that an engine in a user namespace needs: the shortest, and one with
/// a faster network.
fn lines(case: Case<'_>, missing: &[Missing], asked: bool) -> Vec<Finding> {
    let Inputs {
        surroundings,
        config,
        facts,
        ..
    } = case.inputs;
    let rootless = surroundings.rootless.as_ref();
    let shortest = rootless.and_then(|rootless| mode::shortest(rootless, missing, asked));
    let tables = match versions::is_older(&case.host.kernel, OWNED_TABLES) {
        true => NfTables::Missing,
        false => facts.netfilter.nf_tables,
    };
    let fastest = mode::fastest(surroundings, config, missing, asked, tables);
    shortest.into_iter().chain(fastest).collect()
}

/// Capabilities without which dockerd does not start. Those without which containers do not start
/// are among the warnings that a start would log.
pub fn capabilities(case: Case<'_>) -> Vec<Finding> {
    let judged = case.host.in_container && role::may_mount(case.inputs.surroundings);
    let fault = plan::incapable(case.inputs).filter(|_| judged);
    let finding = fault.map(|fault| Finding::fault("capabilities", fault, PRIVILEGED));
    finding.into_iter().collect()
}

/// seccomp, no_new_privs and security modules. Without CAP_SYS_ADMIN they are not reported: they
/// make no difference then.
pub fn confinement(case: Case<'_>) -> Vec<Finding> {
    const SECCOMP: &str = "https://docs.docker.com/engine/security/seccomp/";
    const APPARMOR: &str = "https://docs.docker.com/engine/security/apparmor/";
    const SELINUX: &str = "https://man7.org/linux/man-pages/man8/selinux.8.html";
    const NO_NEW_PRIVILEGES: &str = "https://docs.kernel.org/userspace-api/no_new_privs.html";
    let status = case.host.status;
    let mut found = Vec::new();
    if case.host.in_container && role::may_mount(case.inputs.surroundings) {
        if status.seccomp_filter {
            let seen = "a seccomp profile filters system calls, for inner containers too";
            found.push(Finding::warning("seccomp", seen, SECCOMP).remedy(
                "start the container with --privileged or --security-opt seccomp=unconfined",
            ));
        }
        if status.no_new_privileges {
            let seen = "no_new_privs is set, so neither su nor sudo works in inner containers";
            found.push(
                Finding::warning("no-new-privileges", seen, NO_NEW_PRIVILEGES)
                    .remedy("start the container without --security-opt no-new-privileges"),
            );
        }
        match &case.host.confinement {
            Confinement::None => {}
            Confinement::AppArmor(profile) => {
                let seen =
                    format!("AppArmor enforces the profile {profile} here, which denies mounts");
                found.push(Finding::warning("apparmor", seen, APPARMOR).remedy(
                    "start the container with --privileged or --security-opt apparmor=unconfined",
                ));
            }
            Confinement::Selinux(context) => {
                let seen = format!("SELinux confines this container as {context}");
                found.push(Finding::warning("selinux", seen, SELINUX).remedy(
                    "start the container with --privileged or --security-opt label=disable",
                ));
            }
        }
    }
    if case.host.in_container && case.inputs.facts.apparmor {
        let finding = if case.host.apparmor_parser {
            let seen = "AppArmor is enabled, and inner containers are confined by it";
            Finding::note("apparmor-inside", seen, APPARMOR)
        } else {
            let seen = "AppArmor is enabled but /sbin/apparmor_parser is missing, so inner containers are not confined by it";
            Finding::note("apparmor-inside", seen, APPARMOR)
                .severity(Severity::Warning)
                .remedy("install apparmor in the image")
        };
        found.push(finding);
    }
    found
}
