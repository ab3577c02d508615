//! Resolves symbolic links in paths that may not exist.

use std::fs;
use std::path::{Path, PathBuf};

/// `path`, or its nearest ancestor that exists. `None` where there is none.
pub fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|ancestor| ancestor.exists())
}

/// `path` with the symbolic links of its longest existing ancestor resolved, so that
/// `/var/run/x` becomes `/run/x`, as in mountinfo, even where `x` does not exist.
pub fn resolve(path: &Path) -> PathBuf {
    path.ancestors()
        .find_map(|ancestor| {
            let real = fs::canonicalize(ancestor).ok()?;
            let rest = path.strip_prefix(ancestor).ok()?;
            Some(if rest.as_os_str().is_empty() {
                real
            } else {
                real.join(rest)
            })
        })
        .unwrap_or_else(|| path.to_owned())
}

/// `path` with the symbolic links before its last component resolved. The last component is
/// kept, even where it is a link.
pub fn resolve_directory(path: &Path) -> PathBuf {
    match (path.parent(), path.file_name()) {
        (Some(directory), Some(name)) => resolve(directory).join(name),
        (Some(_) | None, _) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_links_in_front_of_a_missing_file() -> std::io::Result<()> {
        let directory = std::env::temp_dir().join(format!("dind-resolve-{}", std::process::id()));
        fs::create_dir_all(directory.join("run"))?;
        let _ = fs::remove_file(directory.join("var-run"));
        std::os::unix::fs::symlink("run", directory.join("var-run"))?;
        let resolved = resolve(&directory.join("var-run/missing/x.sock"));
        let expected = fs::canonicalize(&directory)?.join("run/missing/x.sock");
        fs::remove_dir_all(&directory)?;
        assert_eq!(resolved, expected);
        Ok(())
    }
}
