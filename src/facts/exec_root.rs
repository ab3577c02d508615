//! dockerd's exec root: the state of containers that run.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::paths::resolve;
use super::processes;
use crate::input::dockerd_arguments::DockerdOptions;
use crate::sys::nonblocking;

/// What dockerd puts into its exec root, beside the directories `runtime-NAME`.
const OF_DOCKERD: &[&str] = &[
    "containerd",
    "libnetwork",
    "metrics.sock",
    "netns",
    "plugins",
    "swarm",
];

/// containerd's state in the exec root. What it keeps from boot to boot has the same name in the
/// data root: `Start` in moby's libcontainerd/supervisor/remote_daemon.go.
const OF_CONTAINERD: &str = "containerd/daemon";

/// The facts of dockerd's exec root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRoot {
    /// Its path; symbolic links are resolved as far as it exists.
    pub path: PathBuf,
    /// Whether it has anything that is not dockerd's, such as the socket of a plugin.
    pub foreign: bool,
    /// Whether containers of this exec root run, or an engine that could start them. It may be in
    /// another container, where the exec root is a volume.
    pub alive: bool,
    /// The directories in which containerd and runc keep the state of running containers, and that
    /// may be removed. None where containers do run, or may run: the user has a containerd.
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
            .chain([path.join(OF_CONTAINERD)])
            .filter(|path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()))
            .collect();
        let alive = !stale.is_empty() && (processes::has_shim() || is_served(&path));
        if options.containerd || alive {
            stale.clear();
        }
        if !stale.is_empty() {
            let persistent = [
                resolve(&options.data_root),
                resolve(&options.data_root.join(OF_CONTAINERD)),
            ];
            stale.retain(|path| is_apart(path, &persistent));
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

/// Whether a containerd listens on its socket in this exec root.
fn is_served(path: &Path) -> bool {
    let connected = nonblocking::connect(&socket(path));
    // EAGAIN: it listens, and many wait: connect(2).
    matches!(connected, Ok(_) | Err(Errno::EAGAIN))
}

/// Whether the containerd has ended whose exec root this is: it has left a socket that refuses, or
/// its configuration without a socket. `false` where that cannot be seen, as by a user who may not
/// enter the directory.
pub fn has_lost_containerd(path: &Path) -> bool {
    match nonblocking::connect(&socket(path)) {
        Err(Errno::ECONNREFUSED) => true,
        // dockerd gives the file the same name as a plan here: moby's libcontainerd/supervisor.
        Err(Errno::ENOENT) => path.join("containerd/containerd.toml").exists(),
        Ok(_) | Err(_) => false,
    }
}

/// The socket of the containerd in this exec root.
pub fn socket(path: &Path) -> PathBuf {
    path.join("containerd/containerd.sock")
}

/// Whether no symbolic link leads to this directory, and none of the `persistent` directories is
/// it, is in it or has it: the exec root and the data root may be one directory.
fn is_apart(directory: &Path, persistent: &[PathBuf]) -> bool {
    fs::canonicalize(directory).is_ok_and(|real| {
        real == directory
            && !persistent
                .iter()
                .any(|kept| real.starts_with(kept) || kept.starts_with(&real))
    })
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
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

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

    #[test]
    fn persistent_data_is_not_stale() -> Result<(), Box<dyn std::error::Error>> {
        let root = std::env::temp_dir().join(format!("dind-apart-{}", std::process::id()));
        fs::create_dir_all(root.join("data/containerd/daemon"))?;
        fs::create_dir_all(root.join("run/containerd/daemon"))?;
        fs::create_dir_all(root.join("linked"))?;
        let root = fs::canonicalize(root)?;
        symlink("../data/containerd", root.join("linked/containerd"))?;
        symlink("../run/containerd", root.join("linked/other"))?;
        let rows = [
            // The directory, the data root, and whether the one may be removed.
            ("run/containerd/daemon", "data", true),
            ("run/containerd/daemon", "run", false),
            ("run/containerd/daemon", "run/containerd/daemon", false),
            ("run/containerd/daemon", "run/containerd/daemon/data", false),
            ("run/containerd/daemon", "run/containerd/daemon-2", true),
            ("linked/containerd/daemon", "data", false),
            ("linked/containerd/daemon", "elsewhere", false),
            ("linked/other/daemon", "data", false),
            ("missing", "data", false),
        ];
        let seen = rows.map(|(directory, data, _)| {
            let apart = is_apart(&root.join(directory), &[root.join(data)]);
            (directory, data, apart)
        });
        let data_root = root.join("data");
        let options = |exec_root: &str| -> Result<DockerdOptions, Fault> {
            let words = [
                format!("--data-root={}", data_root.display()).into(),
                format!("--exec-root={}", root.join(exec_root).display()).into(),
            ];
            DockerdArguments::new(&[], &words).options(None)
        };
        let of_data =
            ["data", "linked"].map(|exec_root| Some(ExecRoot::read(&options(exec_root).ok()?)));
        // containerd's directory in the data root is elsewhere, and the exec root is there.
        fs::rename(root.join("data/containerd"), root.join("containerd"))?;
        symlink("../containerd", root.join("data/containerd"))?;
        let above = ExecRoot::read(&options("")?);
        fs::remove_dir_all(&root)?;
        assert_eq!(seen, rows);
        for found in of_data.into_iter().chain([Some(above)]) {
            assert_eq!(found.map(|found| found.stale), Some(Vec::new()));
        }
        Ok(())
    }

    #[test]
    fn what_an_engine_uses_is_not_stale() -> Result<(), Box<dyn std::error::Error>> {
        let root = std::env::temp_dir().join(format!("dind-served-{}", std::process::id()));
        fs::create_dir_all(root.join(OF_CONTAINERD))?;
        assert!(!is_served(&root));
        let listener = UnixListener::bind(root.join("containerd/containerd.sock"))?;
        assert!(is_served(&root));
        let word = format!("--exec-root={}", root.display());
        let options = DockerdArguments::new(&[], &[word.into()]).options(None)?;
        let found = ExecRoot::read(&options);
        drop(listener);
        let refused = is_served(&root);
        fs::remove_dir_all(&root)?;
        assert!(found.alive && found.stale.is_empty(), "{found:?}");
        assert!(!refused);
        Ok(())
    }
}
