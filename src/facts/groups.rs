//! Groups by their names.

use std::fs;

/// A group's id from `/etc/group`, or the number that the name is. Read here
/// because getgrnam(3) loads shared libraries, which a static binary cannot count
/// on.
pub fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
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
}
