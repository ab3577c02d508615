//! The arguments of `dind store`.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::input::cli;
use crate::messages::fault::Fault;

/// What is to be done with a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreRequest {
    /// Run a command beside a daemon, and publish what it leaves.
    Save(Save),
    /// Print the generations.
    List(PathBuf),
    /// Look whether all that the generations need is there.
    Check(PathBuf),
    /// Remove old generations.
    Prune(PathBuf, usize),
    /// Make a data root independent of the store that it came from.
    Detach(Option<PathBuf>),
}

/// The making of the next generation of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Save {
    /// The store: an absolute path.
    pub path: PathBuf,
    /// Whether the data root begins empty, and not with the current generation.
    pub from_nothing: bool,
    /// Whether the build cache is published, too.
    pub build_cache: bool,
    /// The arguments of the start: the command.
    pub arguments: Vec<OsString>,
}

/// How many generations `prune` keeps.
const KEPT: usize = 2;

impl StoreRequest {
    /// Parses the words after `store`.
    ///
    /// # Errors
    ///
    /// A usage fault, which names the invalid argument and what is allowed.
    pub fn parse(words: &[OsString]) -> Result<Self, Fault> {
        let matches = cli::parse("store", words)?;
        let action = matches.get_one::<String>("action").map(String::as_str);
        let path = matches.get_one::<PathBuf>("path").cloned();
        if path.as_ref().is_some_and(|path| !path.is_absolute()) {
            let what = match action {
                Some("detach") => "DATA_ROOT is not an absolute path",
                _ => "STORE is not an absolute path",
            };
            return Err(cli::usage("store", what));
        }
        let arguments = matches.get_many::<OsString>("arguments");
        let arguments: Vec<OsString> = arguments.into_iter().flatten().cloned().collect();
        let (from_nothing, no_cache) = (
            matches.get_flag("from-nothing"),
            matches.get_flag("no-build-cache"),
        );
        let kept = matches.get_one::<u64>("keep").copied();
        let is_save = action == Some("save");
        if !is_save && (from_nothing || no_cache || !arguments.is_empty()) {
            return Err(cli::usage(
                "store",
                "only save has these options and a command",
            ));
        }
        if kept.is_some() && action != Some("prune") {
            return Err(cli::usage("store", "only prune has --keep"));
        }
        if is_save && arguments.is_empty() {
            return Err(Fault::usage("store save has no command")
                .remedy("add -- and what makes the images: -- docker pull busybox"));
        }
        if action == Some("detach") {
            return Ok(Self::Detach(path));
        }
        let path = path.ok_or_else(|| cli::usage("store", "STORE is missing"))?;
        Ok(match action {
            Some("save") => Self::Save(Save {
                path,
                from_nothing,
                build_cache: !no_cache,
                arguments,
            }),
            Some("check") => Self::Check(path),
            Some("prune") => {
                let kept = kept.and_then(|kept| usize::try_from(kept).ok());
                Self::Prune(path, kept.unwrap_or(KEPT))
            }
            _ => Self::List(path),
        })
    }
}
