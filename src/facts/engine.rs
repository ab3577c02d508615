//! What the engine's programs can do, by the texts in them: a program that prints its version
//! takes ten times as long, and a version tells less about an engine with patches.

use std::path::Path;

use super::program_text;

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
    /// Searches the program `containerd` for the names of two plugins, which 2.0 and 2.3 brought
    /// together with those versions, up to a message about plugins that every version has.
    pub fn read(containerd: &Path) -> Self {
        let texts: [&[u8]; 2] = [
            b"io.containerd.cri.v1.images",
            b"io.containerd.server.v1.grpc",
        ];
        let end = b"invalid disabled plugin URI %q expect io.containerd.x.vx";
        match program_text::has_before(containerd, texts, Some(end)) {
            [_, true] => Self::Four,
            [true, false] => Self::Three,
            [false, false] => Self::Two,
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
