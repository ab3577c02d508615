//! Files that an earlier start left behind, and a daemon that still runs.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::paths::{resolve, resolve_directory};
use super::processes;
use crate::input::dockerd_arguments::DockerdOptions;
use crate::sys::read;

/// How many levels of directories the search for stale files enters. containerd's pid file is
/// two directories below `/run`.
const STALE_DEPTH: usize = 4;
/// How many directory entries the search reads at most, so that a large `/run` does not delay a
/// start.
const STALE_ENTRIES: usize = 20_000;

/// In bytes: more than a number, a newline and some spaces, which is all a pid file has.
const PID_FILE_LIMIT: u64 = 32;

/// Gives the stale pid files and sockets of dockerd and containerd in the directories of
/// `options` and below `/run`; and, where one of the pid files names a running dockerd or
/// containerd, that file and the pid.
pub fn find(options: &DockerdOptions) -> (Vec<PathBuf>, Option<(PathBuf, i32)>) {
    let mut found = Vec::new();
    let directories: BTreeSet<PathBuf> = ["/run", "/var/run"]
        .iter()
        .map(|path| resolve(Path::new(path)))
        .collect();
    let mut budget = STALE_ENTRIES;
    for directory in directories {
        walk(&directory, STALE_DEPTH, &mut budget, &mut |path, kind| {
            if kind.is_file() && is_pid_file(path) {
                found.push(path.to_owned());
            }
        });
    }
    let pid_file = resolve_directory(&options.pid_file);
    let is_left =
        fs::symlink_metadata(&pid_file).is_ok_and(|found| found.is_file() || found.is_symlink());
    if is_left && !found.contains(&pid_file) {
        found.push(pid_file);
    }
    let running = found.iter().find_map(|path| {
        let pid: i32 = pid_in(path)?;
        matches!(processes::name(pid).as_str(), "dockerd" | "containerd")
            .then(|| (path.clone(), pid))
    });
    // Only in containerd's directory: `plugins` beside it has sockets of the user.
    walk(
        &resolve(&options.exec_root.join("containerd")),
        1,
        &mut budget,
        &mut |path, kind| {
            if kind.is_socket() {
                found.push(path.to_owned());
            }
        },
    );
    (found, running)
}

/// The pid in a pid file. `None` where the file is not a regular file or has no number.
fn pid_in(path: &Path) -> Option<i32> {
    let text = read::text(path, PID_FILE_LIMIT).ok()??;
    text.trim().parse().ok()
}

/// Whether a file has the name of a daemon's pid file, in upper or lower case. docker-library's
/// entrypoint deletes `docker*.pid`; a stale pid file of containerd also keeps dockerd from
/// starting.
fn is_pid_file(path: &Path) -> bool {
    let name = path
        .file_name()
        .map(OsStr::to_ascii_lowercase)
        .unwrap_or_default();
    let name = name.as_bytes();
    name.ends_with(b".pid") && (name.starts_with(b"docker") || name.starts_with(b"containerd"))
}

fn walk(
    directory: &Path,
    depth: usize,
    budget: &mut usize,
    visit: &mut dyn FnMut(&Path, fs::FileType),
) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries {
        let Some(left) = budget.checked_sub(1) else {
            return;
        };
        *budget = left;
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if !kind.is_dir() {
            visit(&entry.path(), kind);
        } else if depth > 1 {
            walk(&entry.path(), depth - 1, budget, visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_is_read_from_a_small_file_and_nothing_else() -> std::io::Result<()> {
        let path = std::env::temp_dir().join(format!("dind-pid-{}", std::process::id()));
        for (text, expected) in [
            ("4711\n", Some(4711)),
            ("", None),
            ("no pid", None),
            // Larger than the limit; the part within it would be a valid pid.
            (&format!("4711{}9", " ".repeat(40)), None),
        ] {
            fs::write(&path, text)?;
            assert_eq!(pid_in(&path), expected, "{text:?}");
        }
        fs::remove_file(&path)?;
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU)?;
        let found = pid_in(&path);
        fs::remove_file(&path)?;
        assert_eq!(found, None);
        Ok(())
    }

    #[test]
    fn knows_the_daemons_pid_files_in_any_case() {
        for name in [
            "docker.pid",
            "Docker-x.PID",
            "containerd.pid",
            "dockerd.pid",
        ] {
            assert!(is_pid_file(&Path::new("/run").join(name)), "{name}");
        }
        for name in ["sshd.pid", "docker.sock", "mydocker.pid", "pid"] {
            assert!(!is_pid_file(&Path::new("/run").join(name)), "{name}");
        }
    }
}
