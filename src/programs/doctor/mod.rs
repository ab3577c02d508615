//! `dind doctor`: reports what is wrong with this host or this container for dind, and what to
//! do. It changes nothing. The same findings are logged when dockerd ends before it is ready.
//!
//! `findings` is pure. What the planner warns of too is reported with the planner's text.

mod case;
mod kernel;
mod security;
mod storage;
mod versions;

use std::fmt::Write;

use serde_json::json;

use crate::apply::netfilter;
use crate::facts::host::Host;
use crate::facts::proc;
use crate::facts::surroundings::{self, SocketState};
use crate::facts::{Facts, Known};
use crate::input::config::Config;
use crate::input::contract::Contract;
use crate::input::dockerd_arguments::DockerdArguments;
use crate::input::request::Report;
use crate::messages::fault::{FAILURE, Fault};
use crate::messages::finding::{Finding, Severity};
use crate::messages::line::one_line;
use crate::plan::inputs::{Addresses, Inputs};
use crate::plan::role;
use crate::plan::{self, CLIENT_VARIABLES};
use crate::programs::health;
use case::Case;

/// A row of the table: a check, which returns its findings.
type Row = fn(Case<'_>) -> Vec<Finding>;

/// All checks, in the order in which their findings are reported within a severity.
const TABLE: &[Row] = &[
    security::privileges,
    security::capabilities,
    socket,
    engine,
    invalid_variables,
    leaked_variables,
    security::confinement,
    kernel::cgroups,
    planned,
    storage::read_only,
    storage::space,
    storage::runtime,
    storage::store,
    leftovers,
    kernel::netfilter,
    kernel::modules,
    kernel::networks,
    kernel::quotas,
    kernel::processes,
    kernel::numbers,
    kernel::memory,
    kernel::clock,
];

/// Reads all facts, runs all checks, and returns their findings, the worst first. The fault is
/// that `/proc` cannot be read. With `ask`, as a program of its own, it runs the engine's programs
/// for their versions. Without, it runs after a start, which has asked the kernel about nf_tables
/// already, so that asking once more changes nothing.
pub fn examine(config: &Config, ask: bool) -> Result<Vec<Finding>, Fault> {
    const LINK: &str = "https://docs.docker.com/engine/daemon/";
    let contract = config.contract.unwrap_or(Contract::Dind);
    let mounts = proc::mounts()?;
    let surroundings = surroundings::read(config.socket_path(contract), &mounts, config)?;
    let (options, unreadable) = match health::options(config) {
        Ok(options) => (options, None),
        Err(fault) => (
            DockerdArguments::default().options(None)?,
            Some(Finding::fault("daemon-json", fault, LINK)),
        ),
    };
    let mut known = Known::read(&options);
    let addresses = Addresses {
        contract,
        config,
        save: None,
        options: &options,
        surroundings: &surroundings,
        group: known.socket_group,
    };
    known.rootless = addresses.is_rootless();
    let mut facts = Facts::read(mounts, &options, config, known)?.with_image_stores();
    let question = plan::netfilter_question(addresses.with(&facts));
    if !ask && (question.is_some() || options.nftables) {
        facts.netfilter.nf_tables = netfilter::ask();
    }
    let mut host = Host::read(&facts.container, &facts.data_root.path, &options, config);
    if ask {
        host.versions = versions::ask(&facts.programs, config);
    }
    let mut found = findings(addresses.with(&facts), &host);
    found.extend(unreadable);
    found.sort_by_key(|finding| finding.severity);
    Ok(found)
}

/// Runs all checks and returns their findings, the worst first.
fn findings(inputs: Inputs<'_>, host: &Host) -> Vec<Finding> {
    let case = Case { inputs, host };
    let mut found: Vec<Finding> = TABLE.iter().flat_map(|row| row(case)).collect();
    found.sort_by_key(|finding| finding.severity);
    found
}

/// The errors and warnings to log when dockerd does not start. Where the facts cannot be read,
/// that is the error.
pub fn diagnosis(config: &Config) -> Vec<Finding> {
    let found = examine(config, false)
        .unwrap_or_else(|fault| vec![Finding::fault("proc", fault, "README.md#doctor")]);
    found
        .into_iter()
        .filter(|finding| finding.severity < Severity::Note)
        .collect()
}

/// The report, as text or as JSON, and the exit status: 1 where there is an error, else 0.
pub fn report(findings: &[Finding], how: Report) -> (String, u8) {
    let count = |severity| {
        findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    };
    let [errors, warnings, notes] = [Severity::Error, Severity::Warning, Severity::Note].map(count);
    let status = if errors > 0 { FAILURE } else { 0 };
    let text = match how {
        Report::Json => json!({
            "findings": findings.iter().map(Finding::json).collect::<Vec<_>>(),
            "summary": { "errors": errors, "warnings": warnings, "notes": notes },
        })
        .to_string(),
        Report::Text => {
            let mut text = String::new();
            for finding in findings {
                let line = format!("{}: {finding} ({})", finding.severity.name(), finding.link);
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{}", one_line(&line));
            }
            let outcome = match errors {
                0 => "nothing keeps dind from working here",
                _ => "dind will not work here as it is",
            };
            let _ = write!(
                text,
                "{}, {}, {}: {outcome}",
                counted(errors, "error"),
                counted(warnings, "warning"),
                counted(notes, "note"),
            );
            text
        }
    };
    (text, status)
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// A daemon's socket that is mounted from outside, or a daemon that runs already.
fn socket(case: Case<'_>) -> Vec<Finding> {
    const LINK: &str = "https://docs.docker.com/engine/daemon/remote-access/";
    let Inputs {
        surroundings,
        facts,
        ..
    } = case.inputs;
    if !case.host.in_container {
        return Vec::new();
    }
    let running = || plan::already_running(facts);
    let fault = role::socket_taken(surroundings).or_else(running);
    let finding = fault.map(|fault| Finding::fault("daemon-running", fault, LINK));
    let finding = finding.map(|finding| match surroundings.socket_state {
        SocketState::Mounted { .. } => Finding {
            severity: Severity::Warning,
            code: "socket-mounted",
            ..finding
        },
        // A daemon that runs is not a fault of the host or the container.
        SocketState::Live | SocketState::Free => Finding {
            severity: Severity::Note,
            remedy: None,
            ..finding
        },
    });
    finding.into_iter().collect()
}

/// The engine's programs, which a container needs: whether they are there, and how old.
fn engine(case: Case<'_>) -> Vec<Finding> {
    const LINK: &str = "https://docs.docker.com/engine/install/binaries/";
    const RELEASES: &str = "https://docs.docker.com/engine/release-notes/";
    let mut found = Vec::new();
    let Inputs {
        config,
        options,
        facts,
        ..
    } = case.inputs;
    if !case.host.in_container {
        let seen = "this is not a container, so these findings are about the host";
        return vec![
            Finding::note("outside", seen, "README.md#install")
                .remedy("run dind itself in a container: docker run --privileged"),
        ];
    }
    match plan::find_dockerd(config, facts.programs.dockerd.as_deref()) {
        Err(fault) => found.push(Finding::fault("no-dockerd", fault, LINK)),
        Ok(_) if options.iptables_off => {}
        Ok(_) if options.nftables && !case.host.nft => found.push(
            Finding::warning(
                "no-nft",
                "nft is not in PATH, and with nftables a dockerd that is linked statically, as Docker's own is, does not start without it",
                LINK,
            )
            .remedy("install nftables in the image, or give dockerd --firewall-backend=iptables"),
        ),
        Ok(_) if !options.nftables && !case.host.iptables => found.push(
            Finding::error(
                "no-iptables",
                "iptables is not in PATH, and dockerd does not start without it",
                LINK,
            )
            .remedy("install iptables in the image, or give dockerd --iptables=false"),
        ),
        Ok(_) => {}
    }
    let versions = &case.host.versions;
    if !versions.is_empty() {
        let list: Vec<String> = versions
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        found.push(Finding::note("engine", list.join(", "), RELEASES));
    }
    let dockerd = versions.iter().find(|(name, _)| name == "dockerd");
    if let Some((_, version)) = dockerd
        && versions::is_older(version, versions::OLDEST)
    {
        let (major, minor) = versions::OLDEST;
        let seen =
            format!("dockerd {version} is older than every version that dind is tested with");
        let remedy = format!("use an image with {major}.{minor} or newer");
        found.push(Finding::warning("engine-version", seen, RELEASES).remedy(remedy));
    }
    found
}

/// Variables with values that end a start. Those that a start ignores are among the warnings that
/// it would log.
fn invalid_variables(case: Case<'_>) -> Vec<Finding> {
    let Inputs {
        contract, config, ..
    } = case.inputs;
    let refused = config.refused(contract).map(|invalid| {
        Finding::fault(
            "variable-invalid",
            invalid.fault.clone(),
            "README.md#variables",
        )
    });
    refused.collect()
}

/// Variables for Docker clients, which CI systems also set for their services. Only names are
/// reported: a value may be a secret.
fn leaked_variables(case: Case<'_>) -> Vec<Finding> {
    const LINK: &str = "https://docs.docker.com/reference/cli/docker/#environment-variables";
    let config = case.inputs.config;
    let is_own_socket = config
        .docker_host
        .as_deref()
        .is_some_and(|host| host.starts_with("unix://"));
    let leaked: Vec<&str> = CLIENT_VARIABLES
        .iter()
        .copied()
        .filter(|name| !(is_own_socket && *name == "DOCKER_HOST"))
        .filter(|name| {
            let mut variables = config.environment.iter();
            variables.any(|(key, value)| key == name && !value.is_empty())
        })
        .collect();
    if leaked.is_empty() {
        return Vec::new();
    }
    let names = leaked.join(", ");
    let finding = if leaked.contains(&"DOCKER_HOST") {
        let seen = format!(
            "variables for Docker clients are set: {names}; dockerd does not get them, but with a \
             command or a terminal DOCKER_HOST makes this container a client, which starts no daemon"
        );
        Finding::warning("client-variables", seen, LINK)
            .remedy("unset DOCKER_HOST to have a daemon started")
    } else {
        let seen =
            format!("variables for Docker clients are set: {names}; dockerd does not get them");
        Finding::note("client-variables", seen, LINK)
    };
    vec![finding]
}

/// The warnings that a start would log.
fn planned(case: Case<'_>) -> Vec<Finding> {
    if case.host.in_container {
        plan::warnings(None, case.inputs)
    } else {
        plan::host_warnings(case.inputs.facts)
    }
}

/// Pid files and sockets of an earlier start.
fn leftovers(case: Case<'_>) -> Vec<Finding> {
    let facts = case.inputs.facts;
    let alive =
        facts.running.is_some() || case.inputs.surroundings.socket_state != SocketState::Free;
    if alive || !case.host.in_container {
        return Vec::new();
    }
    let paths: Vec<String> = facts
        .stale
        .iter()
        .chain(&facts.exec_root.stale)
        .map(|path| path.display().to_string())
        .collect();
    if paths.is_empty() {
        return Vec::new();
    }
    let seen = format!(
        "files of an earlier start, which the next start removes: {}",
        paths.join(", ")
    );
    vec![Finding::note(
        "stale-files",
        seen,
        "https://docs.docker.com/engine/daemon/troubleshoot/",
    )]
}

#[cfg(test)]
mod tests;
