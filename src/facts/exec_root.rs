//! dockerd's exec root: the state of containers that run.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::paths::resolve;
use super::processes;
use crate::input::dockerd_arguments::DockerdOptions;

/// What dockerd puts into its exec root, beside the directories `runtime-NAME`.
const OF_DOCKERD: &[&str] = &[
    "containerd",
    "libnetwork",
    "metrics.sock",
    "netns",
    "plugins",
    "swarm",
];

/// The facts of dockerd's exec root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRoot {
    /// Its path; symbolic links are resolved as far as it exists.
    pub path: PathBuf,
    /// Whether it has anything that is not dockerd's, such as the socket of a plugin.
    pub foreign: bool,
    /// Whether containers of this exec root run.
    pub alive: bool,
    /// The directories in which containerd and runc keep the state of running containers. None
    /// where containers do run, or may run: the user has a containerd.
    pub stale: Vec<PathBuf>,
}

impl ExecRoot {
    /// Reads the facts of the exec root that `options` name.
    pub fn read(options: &DockerdOptions) -> Self {
        let path = resolve(&options.exec_root);
        let names = names(&path);
        let mut stale: Vec<PathBuf> = names
            .iter()
            .filter(|name| is_runtime(name))
            .map(|name| path.join(name))
            .chain([path.join("containerd/daemon")])
            .filter(|path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()))
            .collect();
        let alive = !stale.is_empty() && processes::has_shim();
        if options.containerd || alive {
            stale.clear();
        }
        let plugins = path.join("plugins");
        let is_known = |name: &PathBuf| {
            is_runtime(name) || OF_DOCKERD.iter().any(|known| name == Path::new(known))
        };
        Self {
            foreign: !names.iter().all(is_known)
                || !self::names(&plugins).iter().all(|name| is_id(name)),
            alive,
            stale,
            path,
        }
    }
}

/// The names in a directory. None where it cannot be read.
fn names(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into()).collect()
}

/// Whether this is the name of a directory with the state of an OCI runtime: moby's
/// daemon/runtime_unix.go.
fn is_runtime(name: &Path) -> bool {
    name.as_os_str().as_bytes().starts_with(b"runtime-")
}

/// Whether this is the id of a plugin that dockerd has installed, whose sockets are in a directory
/// with that name. Any other name in `plugins` is the user's.
fn is_id(name: &Path) -> bool {
    let name: &OsStr = name.as_os_str();
    name.len() == 64 && name.as_bytes().iter().all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::dockerd_arguments::DockerdArguments;
    use crate::messages::fault::Fault;

    #[test]
    fn what_is_not_dockerds_is_the_users() -> Result<(), Box<dyn std::error::Error>> {
        let root = std::env::temp_dir().join(format!("dind-exec-root-{}", std::process::id()));
        let id = "0".repeat(64);
        let of_dockerd = [
            "containerd/daemon/io.containerd.runtime.v2.task",
            "runtime-runc/moby",
            "netns",
            &format!("plugins/{id}"),
        ];
        let options = |root: &Path, more: &str| -> Result<DockerdOptions, Fault> {
            let root = format!("--exec-root={}", root.display());
            let words = [root.into(), more.into()];
            DockerdArguments::new(&[], &words).options(None)
        };
        for name in of_dockerd {
            fs::create_dir_all(root.join(name))?;
        }
        let root = fs::canonicalize(root)?;
        let found = ExecRoot::read(&options(&root, "--debug")?);
        assert!(!found.foreign, "{found:?}");
        assert_eq!(found.path, root);
        // A machine with a Docker engine has shims.
        if !processes::has_shim() {
            let expected = ["runtime-runc", "containerd/daemon"].map(|name| root.join(name));
            assert_eq!(found.stale, expected);
        }
        let theirs = ExecRoot::read(&options(&root, "--containerd=/run/c.sock")?);
        assert_eq!(theirs.stale, Vec::<PathBuf>::new());
        for name in ["plugins/own.sock", "own"] {
            fs::write(root.join(name), "")?;
            let found = ExecRoot::read(&options(&root, "--debug")?);
            assert!(found.foreign, "{name}: {found:?}");
            fs::remove_file(root.join(name))?;
        }
        fs::remove_dir_all(&root)?;
        let missing = ExecRoot::read(&options(&root, "--debug")?);
        assert!(!missing.foreign && missing.stale.is_empty(), "{missing:?}");
        Ok(())
    }
}
