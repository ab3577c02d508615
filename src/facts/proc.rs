//! Files of `/proc/self` that every plan depends on: proc(5).

use anyhow::{Context, Result};

use super::mountinfo::MountTable;
use crate::messages::remedy::Remedy;
use crate::sys::read;

/// The mounts of this process, from `/proc/self/mountinfo`. Fails where that cannot be read.
///
/// PID 1 reads them once, before any decision, and passes them on. They are read again only where
/// they may have changed since: by the sweeper at the end, by the diagnosis of a dockerd that has
/// exited, and by `dind nest`, a separate process, for the image of the next level.
pub fn mounts() -> Result<MountTable> {
    Ok(MountTable::parse(&text("/proc/self/mountinfo")?))
}

/// The text of a file of `/proc`; invalid UTF-8 is replaced. Fails where it cannot be read.
pub fn text(path: &str) -> Result<String> {
    read::kernel(path)
        .with_context(|| format!("cannot read {path}"))
        .remedy("the container needs its own /proc")
}

/// Whether this process is in a user namespace that maps a part of the user ids:
/// user_namespaces(7).
pub fn user_namespace() -> bool {
    is_user_namespace(&read::kernel("/proc/self/uid_map").unwrap_or_default())
}

/// Whether the text of a `uid_map` is not the identity map of all user ids:
/// user_namespaces(7).
fn is_user_namespace(uid_map: &str) -> bool {
    let mut words = uid_map.split_whitespace();
    let first: Vec<&str> = words.by_ref().take(3).collect();
    !first.is_empty() && first != ["0", "0", "4294967295"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_user_ids_is_a_user_namespace() {
        assert!(!is_user_namespace("         0          0 4294967295\n"));
        assert!(is_user_namespace("0 100000 65536\n"));
        assert!(is_user_namespace("0 1000 1\n1 100000 65536\n"));
        assert!(!is_user_namespace(""));
    }
}
