//! Which of the two iptables backends dockerd uses, unless it uses nftables itself. With both in use each would hold half of
//! the rules, so where legacy tables are in use, legacy is chosen. The choice and the variable
//! `DOCKER_IPTABLES_LEGACY` are those of docker-library's `dockerd-entrypoint.sh`.

use std::path::{Path, PathBuf};

use super::action::{Action, OnFailure, Step};
use crate::facts::mountinfo::MountTable;
use crate::facts::netfilter::{Forwarding, LegacyPrograms, Netfilter, NfTables};
use crate::input::config::Config;
use crate::input::dockerd_arguments::DockerdOptions;
use crate::messages::finding::Finding;
use crate::shortcut::{self, place};

/// Directory of symbolic links to Debian's legacy programs, under the names that dockerd looks
/// for.
const DIRECTORY: &str = "/run/dind-iptables-legacy";

/// The names under which dockerd and its plugins call the programs.
const PROGRAMS: &[&str] = &[
    "iptables",
    "iptables-restore",
    "iptables-save",
    "ip6tables",
    "ip6tables-restore",
    "ip6tables-save",
];

const LINK: &str = "https://docs.docker.com/engine/network/packet-filtering-firewalls/";

/// The kernel module that the nft backend needs.
pub const NF_TABLES: &str = "nf_tables";

/// The note where only a start can find out whether the kernel has nf_tables.
const UNKNOWN: &str =
    "iptables: nft if the kernel has nf_tables, else legacy; a start loads the module and checks";

/// The chosen backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iptables {
    /// The backend and the reason, for the log: a finding of severity note.
    pub note: Finding,
    /// The steps that make dockerd use it: modules to load, and symbolic links.
    pub steps: Vec<Step>,
    /// The directory that comes first in the daemons' `PATH`, if any.
    pub directory: Option<PathBuf>,
}

/// Returns the step that loads nf_tables, if the backend depends on it and no file of the kernel
/// shows whether it has nf_tables. A start asks the kernel, has it load the module where that is
/// needed, and plans again; `dind plan` only prints the step.
pub fn netfilter_question(
    config: &Config,
    options: &DockerdOptions,
    netfilter: &Netfilter,
) -> Option<Step> {
    let is_open = config.iptables_legacy.is_none()
        && !options.nftables
        && !netfilter.legacy_in_use
        && netfilter.nf_tables == NfTables::Unknown;
    is_open.then(|| Step {
        action: Action::LoadModule {
            name: NF_TABLES.to_owned(),
        },
        on_failure: OnFailure::Ignore,
        why: "the iptables backend depends on it, and it is either not loaded or built in".into(),
    })
}

/// Chooses the backend, for an engine in a user namespace if `rootless`. While the
/// [`netfilter_question`] is open, none is chosen: the result has a note, and no steps.
pub fn plan(
    config: &Config,
    options: &DockerdOptions,
    netfilter: &Netfilter,
    mounts: &MountTable,
    rootless: bool,
) -> Iptables {
    if options.nftables {
        let seen =
            "firewall: nftables, since dockerd's firewall-backend is set; iptables is not used";
        return Iptables {
            note: Finding::note("firewall-backend", seen, LINK),
            steps: forwarding(options, &netfilter.forwarding),
            directory: None,
        };
    }
    let note = |seen: String| Finding::note("iptables", seen, LINK);
    let (legacy, why) = match config.iptables_legacy {
        Some(true) => (true, "DOCKER_IPTABLES_LEGACY is set"),
        Some(false) => (false, "DOCKER_IPTABLES_LEGACY is empty"),
        None if netfilter.legacy_in_use => (true, "legacy tables are in use here"),
        None => match netfilter.nf_tables {
            NfTables::Present => (false, "the kernel has nf_tables"),
            NfTables::Missing => (true, "the kernel has no nf_tables"),
            NfTables::Unknown if rootless => (false, "a user namespace has no other"),
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
        let shortcut = shortcut(config, options, netfilter, mounts);
        return Iptables {
            note: note(format!("iptables: nft, since {why}")),
            directory: shortcut.is_some().then(|| place::DIRECTORY.into()),
            steps: shortcut.into_iter().collect(),
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
            "; this image has no iptables-legacy, so dockerd uses the iptables in PATH",
        ),
    };
    Iptables {
        note: note(format!("iptables: legacy, since {why}{missing}")),
        steps,
        directory,
    }
}

/// Variables that lead the real programs to other extensions: iptables(8), `xtables_init` in
/// libxtables/xtables.c.
const LIBRARIES: [&str; 3] = ["XTABLES_LIBDIR", "IPTABLES_LIB_DIR", "IP6TABLES_LIB_DIR"];

/// Returns the step that puts the shortcut before the real programs, unless they are none whose
/// answers are known, or dockerd calls none.
fn shortcut(
    config: &Config,
    options: &DockerdOptions,
    netfilter: &Netfilter,
    mounts: &MountTable,
) -> Option<Step> {
    let programs = netfilter.nft_programs.as_ref()?;
    let has_own_libraries = config
        .environment
        .iter()
        .any(|(name, _)| LIBRARIES.iter().any(|library| name == library));
    let runs_programs = !mounts
        .mount_point(Path::new(place::DIRECTORY))
        .and_then(|point| mounts.at(point))
        .is_some_and(|mount| mount.options.iter().any(|option| option == "noexec"));
    let is_possible = config.iptables_shortcut
        && !options.iptables_off
        && !has_own_libraries
        && runs_programs
        && !shortcut::PROGRAM.is_empty()
        && shortcut::KNOWN.contains(&programs.version.as_str());
    is_possible.then(|| Step {
        action: Action::Shortcut {
            programs: programs.clone(),
        },
        on_failure: OnFailure::Warn,
        why:
            "most of dockerd's calls of iptables ask for what is not there, which the kernel says \
              in a fraction of the time"
                .into(),
    })
}

/// Returns the steps that turn forwarding on. With iptables dockerd does it itself, and drops what
/// is not for containers. With nftables it cannot drop that, and so it makes no network where
/// forwarding is off (`checkIPv4Forwarding` in moby's bridge driver). In a network namespace of
/// this container there is nothing but containers to forward for; the host's is the user's.
fn forwarding(options: &DockerdOptions, forwarding: &Forwarding) -> Vec<Step> {
    if options.ip_forward_off || forwarding.host {
        return Vec::new();
    }
    let steps = forwarding.off.iter().map(|path| Step {
        action: Action::Set {
            path: path.clone(),
            value: "1",
        },
        on_failure: OnFailure::Warn,
        why: "with nftables dockerd wants forwarding to be on already, for networks of that kind"
            .into(),
    });
    steps.collect()
}

/// The warning that dockerd will make no network, since the host does not forward.
pub fn warning(options: &DockerdOptions, netfilter: &Netfilter) -> Option<Finding> {
    let Forwarding { off, host } = &netfilter.forwarding;
    let paths: Vec<String> = off.iter().map(|path| path.display().to_string()).collect();
    let matters = options.nftables && !options.ip_forward_off && *host && !off.is_empty();
    matters.then(|| {
        let seen = format!(
            "this container has the host's network, which does not forward ({} is 0), and with nftables dockerd then makes no such network",
            paths.join(", ")
        );
        Finding::warning("forwarding", seen, LINK)
            .remedy("turn it on on the host, behind a firewall; or give dockerd --ip-forward=false")
    })
}

fn load(module: &str) -> Step {
    Step {
        action: Action::LoadModule {
            name: module.to_owned(),
        },
        on_failure: OnFailure::Ignore,
        why: "iptables-legacy needs it, and may fail to load it inside a container".into(),
    }
}

fn links(programs: &Path) -> Vec<Step> {
    let directory = Path::new(DIRECTORY);
    let why = "dockerd looks for iptables in PATH, and must find the legacy programs";
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
