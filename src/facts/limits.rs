//! The resource limits of this process, which the daemons and inner containers inherit:
//! getrlimit(2).

use super::proc;
use crate::sys::limits::{self, Limit, Resource};

/// The limits that daemons or inner containers can run into. `None` where one cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// The limit of open files.
    pub open_files: Option<Limit>,
    /// The limit of processes of a user.
    pub processes: Option<Limit>,
    /// Whether this is a user namespace, whose capabilities do not raise limits.
    pub user_namespace: bool,
}

impl Limits {
    /// Reads those of this process.
    pub fn read() -> Self {
        Self {
            open_files: limits::read(Resource::OpenFiles),
            processes: limits::read(Resource::Processes),
            user_namespace: proc::user_namespace(),
        }
    }
}
