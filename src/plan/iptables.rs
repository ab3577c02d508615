//! Which of the two backends of iptables the daemon uses. Two at once would each hold
//! half of the rules, so where legacy tables are in use already they are used here too:
//! docker-library's choice, and its words for it, `DOCKER_IPTABLES_LEGACY`.

use std::path::{Path, PathBuf};

use super::action::{Action, OnFailure, Step};
use crate::facts::netfilter::{LegacyPrograms, Netfilter, NfTables};
use crate::input::config::Config;
use crate::messages::finding::Finding;

/// Where Debian's legacy programs get the names that dockerd looks for.
const DIRECTORY: &str = "/run/dind/iptables-legacy";

/// The programs that dockerd and its plugins call, as they are called there.
const PROGRAMS: &[&str] = &[
    "iptables",
    "iptables-restore",
    "iptables-save",
    "ip6tables",
    "ip6tables-restore",
    "ip6tables-save",
];

const LINK: &str = "https://docs.docker.com/engine/network/packet-filtering-firewalls/";

/// The module whose tables the nft backend fills.
pub const NF_TABLES: &str = "nf_tables";

/// What is said where only a start finds out.
const UNKNOWN: &str =
    "iptables: nft if the kernel has nf_tables, else legacy; a start loads it and asks";

/// The choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iptables {
    /// The choice and its reason, for the log: a finding of severity note.
    pub note: Finding,
    /// What it takes.
    pub steps: Vec<Step>,
    /// What comes first in the daemons' `PATH`.
    pub directory: Option<PathBuf>,
}

/// The step that comes before the kernel is asked about nf_tables, where the choice depends on
/// the answer and nothing that can be read gives it. A start carries it out, asks and plans
/// anew; `dind plan` shows it.
pub fn netfilter_question(config: &Config, netfilter: &Netfilter) -> Option<Step> {
    let is_open = config.iptables_legacy.is_none()
        && !netfilter.legacy_in_use
        && netfilter.nf_tables == NfTables::Unknown;
    is_open.then(|| Step {
        action: Action::LoadModule {
            name: NF_TABLES.to_owned(),
        },
        on_failure: OnFailure::Ignore,
        why: "the choice of iptables depends on it, and it is not loaded or it is built in".into(),
    })
}

/// Chooses. Before the [`netfilter_question`] is answered nothing is chosen.
pub fn plan(config: &Config, netfilter: &Netfilter) -> Iptables {
    let note = |seen: String| Finding::note("iptables", seen, LINK);
    let (legacy, why) = match config.iptables_legacy {
        Some(true) => (true, "DOCKER_IPTABLES_LEGACY asks for it"),
        Some(false) => (false, "DOCKER_IPTABLES_LEGACY is empty"),
        None if netfilter.legacy_in_use => (true, "legacy tables are in use here"),
        None => match netfilter.nf_tables {
            NfTables::Present => (false, "the kernel has nf_tables"),
            NfTables::Missing => (true, "the kernel has no nf_tables"),
            NfTables::Unknown => {
                return Iptables {
                    note: note(UNKNOWN.to_owned()),
                    steps: Vec::new(),
                    directory: None,
                };
            }
        },
    };
    if !legacy {
        return Iptables {
            note: note(format!("iptables: nft, since {why}")),
            steps: Vec::new(),
            directory: None,
        };
    }
    let mut steps: Vec<Step> = ["ip_tables", "ip6_tables"].map(load).into();
    let (directory, missing) = match &netfilter.legacy_programs {
        LegacyPrograms::Directory(directory) => (Some(directory.clone()), ""),
        LegacyPrograms::Suffixed(programs) => {
            steps.extend(links(programs));
            (Some(PathBuf::from(DIRECTORY)), "")
        }
        LegacyPrograms::Missing => (
            None,
            "; this image has no iptables-legacy, so dockerd takes the iptables in PATH",
        ),
    };
    Iptables {
        note: note(format!("iptables: legacy, since {why}{missing}")),
        steps,
        directory,
    }
}

fn load(module: &str) -> Step {
    Step {
        action: Action::LoadModule {
            name: module.to_owned(),
        },
        on_failure: OnFailure::Ignore,
        why: "the legacy iptables needs it, and may not load it from in here".into(),
    }
}

fn links(programs: &Path) -> Vec<Step> {
    let directory = Path::new(DIRECTORY);
    let why = "dockerd looks for iptables in PATH, and this is the legacy one";
    let mut steps = vec![Step {
        action: Action::Directory {
            path: directory.to_owned(),
            mode: 0o755,
        },
        on_failure: OnFailure::Warn,
        why: why.into(),
    }];
    steps.extend(PROGRAMS.iter().map(|name| {
        let (tool, applet) = match name.split_once('-') {
            Some((tool, applet)) => (tool, format!("-{applet}")),
            None => (*name, String::new()),
        };
        Step {
            action: Action::Symlink {
                link: directory.join(name),
                to: programs.join(format!("{tool}-legacy{applet}")),
            },
            on_failure: OnFailure::Warn,
            why: why.into(),
        }
    }));
    steps
}
