//! The image for the next level: this container's own root file system.

use std::path::{Path, PathBuf};
use std::time::Instant;

use tracing::info;

use super::docker::Docker;
use super::tree::Tree;
use crate::facts::mountinfo::MountTable;
use crate::facts::storage::IN_CONTAINER;
use crate::input::config::{Config, LOG_FILE};
use crate::messages::fault::Fault;

/// Where the images are in a daemon. The tag is the tree's fingerprint, so that a tree that
/// is there already is not stored a second time.
const REPOSITORY: &str = "dind-nest";

/// What is of this container and of no other: what runs, what the daemon has stored, its
/// log, keys. Of directories, their content.
fn left_out(config: &Config, data_root: &Path) -> Vec<PathBuf> {
    let mut paths = vec![
        PathBuf::from("/run"),
        PathBuf::from("/.dockerenv"),
        PathBuf::from(LOG_FILE),
        PathBuf::from(IN_CONTAINER),
        data_root.to_owned(),
    ];
    paths.extend(config.tls_directory.clone());
    paths
}

/// Walks the root file system, without what is mounted into it: `mounts` are those of this
/// process.
pub fn tree(config: &Config, data_root: &Path, mounts: &MountTable) -> Result<Tree, Fault> {
    Ok(Tree::walk(
        Path::new("/"),
        mounts,
        &left_out(config, data_root),
    )?)
}

/// Gives the daemon an image of `tree`, unless it has it, and returns the image's name.
/// Those of other trees go, where no container uses them. `whose` is for messages.
pub fn give(
    docker: &mut Docker<'_>,
    tree: &Tree,
    config: &Config,
    data_root: &Path,
    whose: &str,
) -> Result<String, Fault> {
    let began = Instant::now();
    let name = format!("{REPOSITORY}:{:016x}", tree.fingerprint());
    let there = docker.output(&["images", "--format={{.Repository}}:{{.Tag}}", REPOSITORY])?;
    if there.lines().any(|image| image == name) {
        return Ok(name);
    }
    for other in there.lines() {
        docker.attempt(&["image", "rm", other])?;
    }
    let program = serde_json::json!([config.program.to_string_lossy()]);
    let volume = serde_json::json!([data_root.to_string_lossy()]);
    let changes = [
        format!("ENTRYPOINT {program}"),
        format!("VOLUME {volume}"),
        format!(
            "ENV PATH={}",
            serde_json::json!(config.search_path.to_string_lossy())
        ),
    ];
    let mut words = vec!["import"];
    for change in &changes {
        words.extend(["--change", change]);
    }
    words.extend(["-", &name]);
    docker.feed(&words, whose, tree.bytes(), |output| tree.write(output))?;
    let (bytes, seconds) = (tree.bytes(), began.elapsed().as_secs_f64());
    info!(
        image = name.as_str(),
        bytes,
        seconds,
        "{whose}: an image of {} MB, in {seconds:.1} s",
        bytes / 1_000_000
    );
    Ok(name)
}
