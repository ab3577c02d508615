//! The ids of groups: group(5).

use std::path::Path;

use crate::sys::read;

/// In bytes: larger than any real `/etc/group`, even one exported from a directory service.
const LIMIT: u64 = 16 << 20;

/// The id of the group `name` in `/etc/group`, or `name` itself where it is a number. The file is
/// parsed here because getgrnam(3) loads shared libraries, which may be missing for a static
/// binary.
pub fn group_id(name: &str) -> Option<u32> {
    group_id_from(Path::new("/etc/group"), name)
}

/// [`group_id`] from another file. A file that cannot be read has no groups.
fn group_id_from(file: &Path, name: &str) -> Option<u32> {
    let groups = read::text(file, LIMIT).ok().flatten().unwrap_or_default();
    group_id_in(&groups, name).or_else(|| name.parse().ok())
}

fn group_id_in(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let id = fields.nth(1)?.parse().ok()?;
        found.then_some(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_groups_id() {
        let groups = "root:x:0:\ndocker:x:998:me\nodd\n";
        assert_eq!(group_id_in(groups, "docker"), Some(998));
        assert_eq!(group_id_in(groups, "wheel"), None);
    }

    #[test]
    fn a_fifo_instead_of_the_file_has_no_groups() -> std::io::Result<()> {
        let path = std::env::temp_dir().join(format!("dind-group-{}", std::process::id()));
        std::fs::write(&path, "docker:x:998:\n")?;
        assert_eq!(group_id_from(&path, "docker"), Some(998));
        std::fs::remove_file(&path)?;
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU)?;
        let found = [group_id_from(&path, "docker"), group_id_from(&path, "7")];
        std::fs::remove_file(&path)?;
        assert_eq!(found, [None, Some(7)]);
        Ok(())
    }
}
