//! What the command line asks for, before the system is looked at.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use crate::input::config::{self, Config};
use crate::input::contract::Contract;
use crate::input::nest::Nest;
use crate::messages::fault::Fault;

/// What the command line asks for, before the system is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Print this program's help.
    Help,
    /// Print this program's version.
    Version,
    /// Print what a start with these arguments would do, and do nothing.
    Plan(Start),
    /// Ask the daemon of this container whether it answers.
    Health(Health),
    /// Say what is wrong with this host or this container.
    Doctor(Report),
    /// Make the next level of nesting, beside the daemon of this one.
    Nest(Nest),
    /// Start.
    Start(Start),
}

/// How to ask for health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// How long to wait for the answer, and whether to wait for the daemon too.
    pub wait: Option<Duration>,
}

/// How to report what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// One line a finding, for people.
    Text,
    /// One JSON object, for programs.
    Json,
}

/// A contract and the arguments that it is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The contract.
    pub contract: Contract,
    /// Its arguments, without the program's name.
    pub arguments: Vec<OsString>,
    /// The levels that are to be made inside this one.
    pub nest: Option<Nest>,
}

/// Reads the command line. Bad input is a usage fault.
///
/// `docker run IMAGE wrapdocker` gives the name of another contract as the first
/// argument of the image's own entrypoint: that contract is then the one meant.
pub fn request(config: &Config) -> Result<Request, Fault> {
    let mut start = Start {
        contract: config
            .contract
            .unwrap_or_else(|| Contract::from_program(&config.program)),
        arguments: config.arguments.clone(),
        nest: None,
    };
    let ours = start.contract == Contract::Dind;
    // A probe runs in the container's environment, and so with its DIND_CONTRACT.
    let named_dind = Contract::from_program(&config.program) == Contract::Dind;
    let first = start
        .arguments
        .first()
        .map(|first| first.to_string_lossy().into_owned());
    match first.as_deref() {
        Some("help") if ours => Ok(Request::Help),
        Some("--help" | "-h") if ours && start.arguments.len() == 1 => Ok(Request::Help),
        Some("--version" | "-V") if ours && start.arguments.len() == 1 => Ok(Request::Version),
        Some("plan") if named_dind => {
            start.arguments.remove(0);
            let start = start.nested(config)?;
            Ok(Request::Plan(start.named_contract()))
        }
        Some("health") if named_dind => {
            health(start.arguments.get(1..).unwrap_or_default()).map(Request::Health)
        }
        Some("doctor") if named_dind => {
            doctor(start.arguments.get(1..).unwrap_or_default()).map(Request::Doctor)
        }
        Some("nest") if named_dind => {
            let start = start.nested(config)?;
            Ok(match start.nest {
                Some(nest) if nest.inside => Request::Nest(nest),
                _ => Request::Start(start.named_contract()),
            })
        }
        _ => Ok(Request::Start(start.named_contract())),
    }
}

/// The arguments of `health`: `--wait SECONDS`.
fn health(arguments: &[OsString]) -> Result<Health, Fault> {
    let words: Vec<_> = arguments
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let seconds = match words.as_slice() {
        [] => return Ok(Health { wait: None }),
        ["--wait", seconds] => Some(*seconds),
        [word] => word.strip_prefix("--wait="),
        _ => None,
    };
    let seconds = seconds.ok_or_else(|| {
        Fault::usage(format!("health: {:?} is not valid", words.join(" ")))
            .remedy("allowed: nothing, or --wait SECONDS")
    })?;
    match config::seconds(seconds) {
        Some(wait) => Ok(Health { wait: Some(wait) }),
        None => Err(
            Fault::usage(format!("health: --wait {seconds:?} is not valid"))
                .remedy(format!("allowed: {}", config::SECONDS)),
        ),
    }
}

/// The arguments of `doctor`: `--json`.
fn doctor(arguments: &[OsString]) -> Result<Report, Fault> {
    match arguments {
        [] => Ok(Report::Text),
        [word] if word == "--json" => Ok(Report::Json),
        words => Err(Fault::usage(format!(
            "doctor: {:?} is not valid",
            words.join(" ".as_ref()).to_string_lossy()
        ))
        .remedy("allowed: nothing, or --json")),
    }
}

impl Start {
    /// What `nest` at the front of the arguments makes of them in this container: in the
    /// innermost level those behind `--`, in every other a command that makes the next one.
    fn nested(mut self, config: &Config) -> Result<Self, Fault> {
        let nest = match self.arguments.split_first() {
            Some((first, words)) if first == "nest" => Nest::parse(words)?,
            _ => return Ok(self),
        };
        if nest.levels_below() == 0 {
            self.arguments = nest.arguments;
            return Ok(self);
        }
        if let Some(port) = config.port {
            return Err(Fault::usage(format!(
                "PORT={port} asks for a daemon in the foreground, and nest for a command beside it"
            ))
            .remedy("drop one of them"));
        }
        self.contract = Contract::Dind;
        self.arguments = nest.inside(&config.program);
        self.nest = Some(nest);
        Ok(self)
    }

    /// Takes a contract's name off the front of the arguments, when it is there and
    /// this project's own contract is the one that reads it.
    fn named_contract(mut self) -> Self {
        if self.contract != Contract::Dind {
            return self;
        }
        let Some(first) = self.arguments.first() else {
            return self;
        };
        let named = Path::new(first)
            .file_name()
            .map(|name| name.to_string_lossy());
        match named.as_deref().and_then(Contract::from_name) {
            None | Some(Contract::Dind) => self,
            Some(contract) => {
                self.arguments.remove(0);
                self.contract = contract;
                self
            }
        }
    }
}
