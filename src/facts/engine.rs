//! What the engine's programs can do, by the texts in them: a program that prints its version
//! takes ten times as long or more, and a version tells less about an engine with patches.

use std::path::Path;

use super::{build_info, program_text};

/// Which image stores a dockerd has: those of graph drivers, and that of containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageStores {
    /// Graph drivers alone: before 24.0, which ignores the feature for the other store.
    GraphDrivers,
    /// containerd's where the feature `containerd-snapshotter` is on.
    ContainerdOnRequest,
    /// containerd's unless that feature is off, a graph driver is named, or the data root is one's
    /// already: from 29.0 on.
    ContainerdByDefault,
}

impl ImageStores {
    /// All of them, the oldest dockerd first.
    pub const ALL: [Self; 3] = [
        Self::GraphDrivers,
        Self::ContainerdOnRequest,
        Self::ContainerdByDefault,
    ];

    /// Searches the program `dockerd` for the feature's name, and for the name of the choice that
    /// 29.0 added (daemon/image_store_choice.go in moby).
    pub fn read(dockerd: &Path) -> Self {
        match program_text::has(dockerd, [b"containerd-snapshotter", b"graphdriver-prior"]) {
            [_, true] => Self::ContainerdByDefault,
            [true, false] => Self::ContainerdOnRequest,
            [false, false] => Self::GraphDrivers,
        }
    }
}

/// The version of the configuration file that a containerd wants. It refuses a later one, and
/// warns of an earlier one at every start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigVersion {
    /// containerd 1.3 to 1.7.
    Two,
    /// containerd 2.0 to 2.2.
    Three,
    /// containerd 2.3 and later.
    Four,
}

impl ConfigVersion {
    /// Reads it from the import path and the version in what Go's linker has written into
    /// `containerd` about its build.
    pub fn read(containerd: &Path) -> Self {
        build_info::read(containerd).map_or(Self::Two, |lines| Self::of(&lines))
    }

    /// The version for a containerd with these lines about its build. One whose minor version is
    /// not in them, as Debian's, is taken for 2.0 to 2.2; a later one then only warns.
    fn of(lines: &str) -> Self {
        const MODULE: &str = "github.com/containerd/containerd/v2";
        if !lines.contains(&format!("path\t{MODULE}/")) {
            return Self::Two;
        }
        // The module's own version, and the one that containerd's Makefile sets.
        let marks = [
            format!("mod\t{MODULE}\tv2."),
            format!("{MODULE}/version.Version=v2."),
            format!("{MODULE}/version.Version=2."),
        ];
        let minor = marks.iter().find_map(|mark| {
            let (_, rest) = lines.split_once(mark)?;
            let end = rest.find(|letter: char| !letter.is_ascii_digit());
            rest.get(..end.unwrap_or(rest.len()))?.parse::<u32>().ok()
        });
        match minor {
            Some(3..) => Self::Four,
            Some(_) | None => Self::Three,
        }
    }

    /// The number in the file.
    pub fn number(self) -> u8 {
        match self {
            Self::Two => 2,
            Self::Three => 3,
            Self::Four => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_the_configuration_is_that_of_containerds_build() {
        for (lines, expected) in [
            (
                "path\tgithub.com/containerd/containerd/cmd/containerd\n",
                ConfigVersion::Two,
            ),
            (
                "path\tgithub.com/containerd/containerd/cmd/containerd\nmod\tgithub.com/containerd/containerd\tv1.7.28\n",
                ConfigVersion::Two,
            ),
            (
                "path\tgithub.com/containerd/containerd/v2/cmd/containerd\n",
                ConfigVersion::Three,
            ),
            (
                "path\tgithub.com/containerd/containerd/v2/cmd/containerd\nmod\tgithub.com/containerd/containerd/v2\tv2.2.1+dirty\n",
                ConfigVersion::Three,
            ),
            (
                "path\tgithub.com/containerd/containerd/v2/cmd/containerd\nmod\tgithub.com/containerd/containerd/v2\tv2.3.0\n",
                ConfigVersion::Four,
            ),
            (
                "path\tgithub.com/containerd/containerd/v2/cmd/containerd\nmod\tgithub.com/containerd/containerd/v2\t(devel)\nbuild\t-ldflags=\"-X github.com/containerd/containerd/v2/version.Version=v2.10.0-rc.1\"\n",
                ConfigVersion::Four,
            ),
            ("", ConfigVersion::Two),
        ] {
            assert_eq!(ConfigVersion::of(lines), expected, "{lines}");
        }
    }
}
