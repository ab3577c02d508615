//! The user's hooks: programs that the hook runner runs at set times of a start and a stop.

use std::path::PathBuf;
use std::time::Duration;

use super::inputs::Inputs;
use crate::messages::fault::Fault;
use crate::messages::finding::Finding;

/// The hooks by the time at which they run, each list in the order in which they run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// Run before the daemons start. One that fails ends the start.
    pub pre_start: Vec<PathBuf>,
    /// Run when the API answers and images have been loaded.
    pub post_start: Vec<PathBuf>,
    /// Run before the daemons are stopped.
    pub pre_stop: Vec<PathBuf>,
    /// How long each hook may take: `DIND_HOOK_TIMEOUT`.
    pub timeout: Duration,
}

/// Returns the hooks that were found. A directory of hooks that cannot be read is a fault: it may
/// have a hook that the user needs before the daemons start.
pub fn plan(inputs: Inputs<'_>) -> Result<Hooks, Fault> {
    let found = &inputs.facts.hooks;
    if let Some((directory, why)) = &found.unreadable {
        return Err(Fault::failure(format!(
            "cannot read the hooks in {}: {why}",
            directory.display()
        ))
        .remedy("correct or remove it"));
    }
    Ok(Hooks {
        pre_start: found.pre_start.clone(),
        post_start: found.post_start.clone(),
        pre_stop: found.pre_stop.clone(),
        timeout: inputs.config.hook_timeout,
    })
}

/// Returns a warning for each file in a directory of hooks that is not executable.
pub fn warnings(inputs: Inputs<'_>) -> impl Iterator<Item = Finding> {
    let found = inputs.facts.hooks.not_executable.iter();
    found.map(|path| {
        let seen = format!(
            "{} is not executable and does not run as a hook",
            path.display()
        );
        Finding::warning("hook-not-executable", seen, "README.md#hooks")
            .remedy("make it executable with chmod +x, or remove it")
    })
}
