//! The user's hooks: programs that run at their time of a start and a stop.

use std::path::PathBuf;
use std::time::Duration;

use super::inputs::Inputs;
use crate::messages::fault::Fault;
use crate::messages::finding::Finding;

/// The hooks of a container's life, each list in the order in which it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// Before the daemons start. One that fails ends the start.
    pub pre_start: Vec<PathBuf>,
    /// When the API answers and images have been loaded.
    pub post_start: Vec<PathBuf>,
    /// Before the daemons are stopped.
    pub pre_stop: Vec<PathBuf>,
    /// How long each may take.
    pub timeout: Duration,
}

/// Makes the plan. A directory that cannot be read may hold a hook without which the daemons
/// are not to start: that is a fault.
pub fn plan(inputs: Inputs<'_>) -> Result<Hooks, Fault> {
    let found = &inputs.facts.hooks;
    if let Some((directory, why)) = &found.unreadable {
        return Err(Fault::failure(format!(
            "cannot read the hooks in {}: {why}",
            directory.display()
        ))
        .remedy("correct it, or take it away"));
    }
    Ok(Hooks {
        pre_start: found.pre_start.clone(),
        post_start: found.post_start.clone(),
        pre_stop: found.pre_stop.clone(),
        timeout: inputs.config.hook_timeout,
    })
}

/// The files among the hooks that will not run: a warning for each.
pub fn warnings(inputs: Inputs<'_>) -> impl Iterator<Item = Finding> {
    let found = inputs.facts.hooks.not_executable.iter();
    found.map(|path| {
        let seen = format!("{} is no hook, for it is not executable", path.display());
        Finding::warning("hook-not-executable", seen, "README.md#hooks")
            .remedy("chmod +x it, or take it away")
    })
}
