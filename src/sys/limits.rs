//! Resource limits: getrlimit(2), setrlimit(2).

use nix::sys::resource::{self, getrlimit, setrlimit};

/// A resource that has a limit in each process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// RLIMIT_NOFILE: one more than the greatest number of an open file.
    OpenFiles,
    /// RLIMIT_NPROC: the processes and threads of the process's user, on the whole host. It does
    /// not bind root of the host, nor a process with CAP_SYS_ADMIN or CAP_SYS_RESOURCE.
    Processes,
}

impl Resource {
    fn number(self) -> resource::Resource {
        match self {
            Self::OpenFiles => resource::Resource::RLIMIT_NOFILE,
            Self::Processes => resource::Resource::RLIMIT_NPROC,
        }
    }
}

/// The two values of a limit. No limit is `u64::MAX`, RLIM_INFINITY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The limit in force. A process may raise its own up to the hard one.
    pub soft: u64,
    /// The ceiling of the soft limit. Raising it takes CAP_SYS_RESOURCE.
    pub hard: u64,
}

/// Returns a limit of this process; `None` where it cannot be read.
pub fn read(resource: Resource) -> Option<Limit> {
    let (soft, hard) = getrlimit(resource.number()).ok()?;
    Some(Limit { soft, hard })
}

/// Raises a limit of this process to `wanted`, or as far as the hard limit that it has where the
/// kernel refuses another. The error is that not even this is allowed.
pub fn raise(resource: Resource, wanted: Limit) -> nix::Result<()> {
    let number = resource.number();
    setrlimit(number, wanted.soft, wanted.hard).or_else(|_| {
        let (soft, hard) = getrlimit(number)?;
        setrlimit(number, wanted.soft.clamp(soft.min(hard), hard), hard)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_the_kernel_refuses_is_raised_to_the_hard_one() {
        // More than any fs.nr_open, which binds root, too.
        let all = Limit {
            soft: u64::MAX,
            hard: u64::MAX,
        };
        let before = read(Resource::OpenFiles);
        assert_eq!(raise(Resource::OpenFiles, all), Ok(()));
        let after = read(Resource::OpenFiles);
        let hard = before.map(|limit| limit.hard);
        assert!(hard.is_some());
        assert_eq!(
            after.map(|limit| (Some(limit.soft), Some(limit.hard))),
            Some((hard, hard))
        );
    }
}
