//! The user's hooks: the executable files in the directories below `/etc/dind`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::sys::search::is_executable;

/// Where the hooks are.
pub const DIRECTORY: &str = "/etc/dind";

/// The paths of the hooks. Each list is sorted by the bytes of the names, as run-parts(8) does in
/// the C locale.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HookFiles {
    /// Hooks to run before the daemons start: `pre-start.d`.
    pub pre_start: Vec<PathBuf>,
    /// Hooks to run when the API answers: `post-start.d`.
    pub post_start: Vec<PathBuf>,
    /// Hooks to run before the daemons stop: `pre-stop.d`.
    pub pre_stop: Vec<PathBuf>,
    /// Files in these directories that are not executable.
    pub not_executable: Vec<PathBuf>,
    /// A directory that cannot be read, and the error.
    pub unreadable: Option<(PathBuf, String)>,
}

impl HookFiles {
    /// Lists the hooks below `/etc/dind`. Without that directory there are none.
    pub fn read() -> Self {
        Self::read_in(Path::new(DIRECTORY))
    }

    fn read_in(directory: &Path) -> Self {
        let mut hooks = Self::default();
        if !directory.is_dir() {
            return hooks;
        }
        hooks.pre_start = hooks.list(directory.join("pre-start.d"));
        hooks.post_start = hooks.list(directory.join("post-start.d"));
        hooks.pre_stop = hooks.list(directory.join("pre-stop.d"));
        hooks
    }

    /// The executable files of one directory. Symbolic links are followed, since a mounted
    /// ConfigMap consists of them. Hidden files and editors' backup files (`NAME~`) are skipped.
    fn list(&mut self, directory: PathBuf) -> Vec<PathBuf> {
        let entries = fs::read_dir(&directory)
            .and_then(|entries| entries.collect::<io::Result<Vec<fs::DirEntry>>>());
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.unreadable = Some((directory, error.to_string()));
                }
                return Vec::new();
            }
        };
        let mut files: Vec<PathBuf> = entries
            .iter()
            .filter(|entry| {
                let name = entry.file_name();
                let name = name.as_encoded_bytes();
                !name.starts_with(b".") && !name.ends_with(b"~")
            })
            .map(fs::DirEntry::path)
            .filter(|path| !path.is_dir())
            .collect();
        files.sort();
        let (executable, others): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|path| is_executable(path));
        self.not_executable.extend(others);
        executable
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn executables_are_hooks_in_the_order_of_their_names() -> io::Result<()> {
        let directory = std::env::temp_dir().join(format!("dind-hooks-{}", std::process::id()));
        let of_stage = directory.join("pre-start.d");
        fs::create_dir_all(of_stage.join("directory"))?;
        for (name, mode) in [
            ("20-b", 0o755),
            ("10-a.sh", 0o700),
            ("9-c", 0o755),
            ("README", 0o644),
            ("..data", 0o755),
            ("10-a.sh~", 0o755),
        ] {
            let path = of_stage.join(name);
            fs::write(&path, "")?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        std::os::unix::fs::symlink("20-b", of_stage.join("30-link"))?;
        std::os::unix::fs::symlink("missing", of_stage.join("40-dangling"))?;
        let hooks = HookFiles::read_in(&directory);
        fs::remove_dir_all(&directory)?;
        let names = |paths: &[PathBuf]| -> Vec<String> {
            let names = paths.iter().filter_map(|path| path.file_name());
            names.map(|name| name.to_string_lossy().into()).collect()
        };
        assert_eq!(
            names(&hooks.pre_start),
            ["10-a.sh", "20-b", "30-link", "9-c"]
        );
        assert_eq!(names(&hooks.not_executable), ["40-dangling", "README"]);
        assert_eq!((hooks.post_start, hooks.unreadable), (Vec::new(), None));
        Ok(())
    }
}
