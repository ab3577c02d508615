//! The scripts that this program takes the place of.
//!
//! The name that the program is started under chooses the contract, so that each
//! of the scripts it replaces can be replaced in place; `DIND_CONTRACT` overrides
//! the name.

use std::path::Path;

/// The scripts that this program stands in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    /// This project's own: all of the others at once.
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
    /// Every name that `DIND_CONTRACT` may have.
    pub const NAMES: &str =
        "dind, wrapdocker, hack-dind, dockerd-entrypoint.sh, docker-entrypoint.sh";

    /// The contract of that name, which is also the name of the program file.
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

    /// The contract's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dind => "dind",
            Self::Wrapdocker => "wrapdocker",
            Self::HackDind => "hack-dind",
            Self::DockerdEntrypoint => "dockerd-entrypoint.sh",
            Self::DockerEntrypoint => "docker-entrypoint.sh",
        }
    }

    /// The contract for a program path. moby installs its script as `hack/dind`,
    /// so there the directory decides; a name of nobody's is this project's own.
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
