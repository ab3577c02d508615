//! How a level makes the next: the image, and `docker run`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::docker::Docker;
use super::limits::{self, Image, Room};
use super::{image, level};
use crate::facts::{Facts, proc, surroundings};
use crate::input::config::Config;
use crate::input::nest::Nest;
use crate::messages::fault::Fault;
use crate::messages::finding::Finding;
use crate::plan::stop_budget::StopBudget;
use crate::sys::signals::Signals;
use crate::sys::spawn;

/// Checks, in the outermost level and before anything is started, whether there are enough
/// resources for all levels. An image is stored `copies` times for a container, and `archives`
/// times as it came. With `probe`, pid namespaces are created to count how many can be nested;
/// without, nothing is changed, and a note is returned that says so. The fault names every
/// resource that will run out.
pub fn check(
    nest: &Nest,
    config: &Config,
    facts: &Facts,
    copies: u64,
    archives: u64,
    probe: bool,
) -> Result<Option<Finding>, Fault> {
    if nest.level > 1 {
        return Ok(None);
    }
    let data_root = &facts.data_root.path;
    let tree = image::tree(config, data_root, &facts.container.mounts)?;
    let image = Image {
        bytes: tree.bytes(),
        files: tree.files(),
        copies,
        archives,
    };
    let mut room = Room::read(data_root)?;
    if probe {
        room.pid_namespaces = limits::pid_namespaces()?;
    }
    limits::check(nest.depth, image, room)?;
    Ok((!probe).then(|| {
        let seen = "nest: pid namespaces are probed when nest runs";
        Finding::note("nest-not-probed", seen, "README.md#nesting")
    }))
}

/// Makes the level below this one and becomes the docker CLI that waits for it. Returns only on
/// failure.
pub fn run(
    nest: &Nest,
    config: &Config,
    mut signals: Signals,
) -> Result<std::convert::Infallible, Fault> {
    let mut environment = config.environment.clone();
    let variables = level::environment(
        &mut environment,
        StopBudget::new(config.stop_timeout, nest.levels_below(), false),
    );
    let variables: Vec<OsString> = variables.into_iter().map(OsStr::to_owned).collect();
    let mut docker = Docker::find(config, &environment, &mut signals)?;
    let info = docker.output(&[
        "info",
        "--format={{json .DriverStatus}}{{println}}{{.DockerRootDir}}",
    ])?;
    let (driver_status, data_root) = info.trim_end().split_once('\n').unwrap_or_default();
    let data_root = PathBuf::from(data_root);
    let tree = image::tree(config, &data_root, &proc::mounts()?)?;
    let form = image::Form::fastest(driver_status);
    let whose = format!("level {} of {}", nest.level.saturating_add(1), nest.depth);
    let image = image::give(&mut docker, &tree, config, &data_root, form, &whose)?;
    drop(tree);
    let variables: Vec<&OsStr> = variables.iter().map(OsString::as_os_str).collect();
    let words = level::docker_run(nest, &image, surroundings::stdin(), &variables);
    let arguments: Vec<&OsStr> = std::iter::once(OsStr::new("docker"))
        .chain(words.iter().map(OsString::as_os_str))
        .collect();
    let docker = docker.path().to_owned();
    let inherited = signals.inherited();
    let error = spawn::become_program(&docker, &arguments, &environment, inherited);
    Err(error.fault(docker.as_os_str()))
}
