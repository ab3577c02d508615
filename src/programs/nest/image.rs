//! The image for the next level: the root file system of this container.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use tracing::info;

use super::docker::Docker;
use super::raw_frame::RawFrame;
use super::tree::Tree;
use crate::facts::mountinfo::MountTable;
use crate::facts::storage::IN_CONTAINER;
use crate::input::config::{Config, LOG_FILE};
use crate::messages::fault::Fault;

/// The repository of the images in a daemon. The tag is the tree's fingerprint, so that an
/// unchanged tree is not stored a second time.
const REPOSITORY: &str = "dind-nest";

/// The form in which the daemon gets the archive of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A tar as it is, which a graph driver unpacks while it comes.
    Tar,
    /// A tar in a [`RawFrame`], for containerd's image store.
    RawFrame,
}

impl Form {
    /// Returns the form that is imported fastest. `driver_status` is `DriverStatus` of the
    /// daemon's `GET /info`, in JSON: with containerd's image store it has the type of the
    /// snapshotter plugin (`LayerStoreStatus` in moby's daemon/containerd/service.go).
    pub fn fastest(driver_status: &str) -> Self {
        if driver_status.contains(r#"["driver-type","io.containerd.snapshotter."#) {
            Self::RawFrame
        } else {
            Self::Tar
        }
    }
}

/// The paths that belong to this container only: runtime files, the daemon's data, its log, keys.
/// Of a directory the content is left out.
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

/// Walks the root file system, without the content of other mounts: `mounts` is the mount table
/// of this process. The fault names a directory that cannot be listed.
pub fn tree(config: &Config, data_root: &Path, mounts: &MountTable) -> Result<Tree, Fault> {
    Ok(Tree::walk(
        Path::new("/"),
        mounts,
        &left_out(config, data_root),
    )?)
}

/// Imports `tree` into the daemon as an image, in `form`, unless it is there, and returns its name. Images of
/// other trees are removed where no container uses them. `whose` names the level in messages. The
/// faults are those of [`Docker`] and of [`Tree::write`].
pub fn give(
    docker: &mut Docker<'_>,
    tree: &Tree,
    config: &Config,
    data_root: &Path,
    form: Form,
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
    docker.feed(&words, whose, tree.bytes(), |output| match form {
        Form::Tar => tree.write(output),
        Form::RawFrame => {
            let mut frame = RawFrame::begin(output).context("cannot begin the archive")?;
            tree.write(&mut frame)?;
            frame.finish().context("cannot finish the archive")
        }
    })?;
    let (bytes, seconds) = (tree.bytes(), began.elapsed().as_secs_f64());
    info!(
        image = name.as_str(),
        bytes,
        seconds,
        "{whose}: imported an image of {} MB in {seconds:.1} s",
        bytes / 1_000_000
    );
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What engines say: 20.10 and 26.1, and 28.5 with containerd's image store.
    #[test]
    fn the_form_follows_from_the_image_store() {
        for (driver_status, expected) in [
            (
                r#"[["Backing Filesystem","extfs"],["Supports d_type","true"],["Native Overlay Diff","true"]]"#,
                Form::Tar,
            ),
            ("null", Form::Tar),
            (
                r#"[["driver-type","io.containerd.snapshotter.v1"]]"#,
                Form::RawFrame,
            ),
        ] {
            assert_eq!(Form::fastest(driver_status), expected, "{driver_status}");
        }
    }
}
