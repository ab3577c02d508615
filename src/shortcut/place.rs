//! Where the program is, where it finds the real ones, and what it must know of them.

/// The directory that comes first in dockerd's `PATH`.
pub const DIRECTORY: &str = "/run/dind-iptables";

/// The symbolic link to the real `iptables`, in [`DIRECTORY`].
pub const REAL_IPTABLES: &str = "real/iptables";

/// The symbolic link to the real `ip6tables`, in [`DIRECTORY`].
pub const REAL_IP6TABLES: &str = "real/ip6tables";

/// A symbolic link to nothing, in [`DIRECTORY`], that is the version of the real ones: the program
/// reads it with one system call.
pub const VERSION: &str = "real/version";
