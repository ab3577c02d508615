//! Contracts: the scripts that this program replaces.
//!
//! The name that the program is started under chooses the contract, so that it can be installed
//! in the place of each script; `DIND_CONTRACT` overrides the name.

use std::path::Path;

/// The behaviour that the program has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    /// dind's own contract, which combines the others.
    Dind,
    /// The `wrapdocker` of jpetazzo/dind.
    Wrapdocker,
    /// `hack/dind` of moby/moby.
    HackDind,
    /// The entrypoint of the official `docker:dind` image.
    DockerdEntrypoint,
    /// The entrypoint of the official `docker:cli` image.
    DockerEntrypoint,
}

impl Contract {
    /// All values of `DIND_CONTRACT`, for errors.
    pub const NAMES: &str =
        "dind, wrapdocker, hack-dind, dockerd-entrypoint.sh, docker-entrypoint.sh";

    /// The contract with this name, which is that of the program file, too; `None` for others.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "dind" => Some(Self::Dind),
            "wrapdocker" => Some(Self::Wrapdocker),
            "hack-dind" => Some(Self::HackDind),
            "dockerd-entrypoint.sh" => Some(Self::DockerdEntrypoint),
            "docker-entrypoint.sh" => Some(Self::DockerEntrypoint),
            _ => None,
        }
    }

    /// The contract's name, which is a value of `DIND_CONTRACT`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dind => "dind",
            Self::Wrapdocker => "wrapdocker",
            Self::HackDind => "hack-dind",
            Self::DockerdEntrypoint => "dockerd-entrypoint.sh",
            Self::DockerEntrypoint => "docker-entrypoint.sh",
        }
    }

    /// The contract for the path of a program. moby installs its script as `hack/dind`, so there
    /// the directory decides. Other names are for dind's own contract.
    pub fn from_program(program: &Path) -> Self {
        let name = program.file_name().map(|name| name.to_string_lossy());
        let in_hack = program
            .parent()
            .is_some_and(|parent| parent.ends_with("hack"));
        match name.as_deref().and_then(Self::from_name) {
            Some(Self::Dind) if in_hack => Self::HackDind,
            Some(contract) => contract,
            None => Self::Dind,
        }
    }
}
