//! The capabilities of a process: capabilities(7).

use anyhow::{Context, Result};

use super::proc;
use crate::messages::remedy::Remedy;
use crate::sys::read;

/// A capability, by its number in linux/capability.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability(u8);

#[expect(
    missing_docs,
    reason = "capabilities(7) describes them under these names"
)]
impl Capability {
    pub const CHOWN: Self = Self(0);
    pub const DAC_OVERRIDE: Self = Self(1);
    pub const FOWNER: Self = Self(3);
    pub const FSETID: Self = Self(4);
    pub const KILL: Self = Self(5);
    pub const SETGID: Self = Self(6);
    pub const SETUID: Self = Self(7);
    pub const SETPCAP: Self = Self(8);
    pub const NET_BIND_SERVICE: Self = Self(10);
    pub const NET_ADMIN: Self = Self(12);
    pub const NET_RAW: Self = Self(13);
    pub const SYS_CHROOT: Self = Self(18);
    pub const SYS_ADMIN: Self = Self(21);
    pub const SYS_RESOURCE: Self = Self(24);
    pub const MKNOD: Self = Self(27);
    pub const AUDIT_WRITE: Self = Self(29);
    pub const SETFCAP: Self = Self(31);
    pub const MAC_ADMIN: Self = Self(33);
}

/// A set of capabilities, one bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// Every capability, those that the kernel does not have yet included.
    pub const ALL: Self = Self(u64::MAX);
    /// None.
    pub const NONE: Self = Self(0);

    /// Whether a capability is in it.
    pub fn has(self, Capability(number): Capability) -> bool {
        self.0 & (1 << number) != 0
    }

    /// The same set without a capability.
    #[must_use]
    pub fn without(self, Capability(number): Capability) -> Self {
        Self(self.0 & !(1 << number))
    }
}

/// The sets of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Those that the kernel checks.
    pub effective: CapabilitySet,
    /// Those that this process or its children can gain. A process of root gains all of them when
    /// it executes a program.
    pub bounding: CapabilitySet,
}

impl Capabilities {
    /// The capabilities of this process. Fails where `/proc/self/status` cannot be read or lacks
    /// them.
    pub fn read() -> Result<Self> {
        let path = "/proc/self/status";
        Self::parse(&proc::text(path)?)
            .with_context(|| format!("no CapEff or no CapBnd in {path}"))
            .remedy("the container needs its own /proc")
    }

    /// Those of the text of `/proc/PID/status`: proc_pid_status(5).
    pub fn parse(status: &str) -> Option<Self> {
        let set = |name: &str| {
            let hex = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            let bits = u64::from_str_radix(hex.trim(), 16).ok()?;
            Some(CapabilitySet(bits))
        };
        Some(Self {
            effective: set("CapEff")?,
            bounding: set("CapBnd")?,
        })
    }

    /// What a program has that the process `pid` executes. `None` where there is no such process
    /// here, or its status is hidden.
    pub fn of_programs_of(pid: i32) -> Option<CapabilitySet> {
        let status = read::kernel(format!("/proc/{pid}/status")).ok()?;
        Some(Self::parse(&status)?.of_programs(effective_user(&status)?))
    }

    /// What a program has that a process of this `user` executes, such as dockerd: root gets the
    /// bounding set, others keep the ambient ones, which are effective.
    pub fn of_programs(&self, user: u32) -> CapabilitySet {
        match user {
            0 => self.bounding,
            _ => self.effective,
        }
    }
}

/// The effective user id, the second of the line `Uid:`.
fn effective_user(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_gives_to_programs_depends_on_its_user() {
        assert_eq!(effective_user("Name: x\nUid:\t0\t1000\t0\t0\n"), Some(1000));
        assert_eq!(effective_user("Name: x\n"), None);
        assert!(Capabilities::of_programs_of(std::process::id().cast_signed()).is_some());
        assert_eq!(Capabilities::of_programs_of(0), None);
    }

    #[test]
    fn sets_are_read_by_number() {
        // Docker's default capabilities, without those of a privileged container.
        let status = "Uid:\t0\t0\t0\t0\nCapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\n";
        let found = Capabilities::parse(status);
        let Some(found) = found else {
            panic!("none in {status:?}");
        };
        let granted = [
            Capability::CHOWN,
            Capability::DAC_OVERRIDE,
            Capability::FOWNER,
            Capability::FSETID,
            Capability::KILL,
            Capability::SETGID,
            Capability::SETUID,
            Capability::SETPCAP,
            Capability::NET_BIND_SERVICE,
            Capability::NET_RAW,
            Capability::SYS_CHROOT,
            Capability::MKNOD,
            Capability::AUDIT_WRITE,
            Capability::SETFCAP,
        ];
        let rest = granted
            .into_iter()
            .fold(found.bounding, CapabilitySet::without);
        assert_eq!(rest, CapabilitySet::NONE);
        assert_eq!(found.effective, CapabilitySet::NONE);
        assert_eq!(found.of_programs(0), found.bounding);
        assert_eq!(found.of_programs(1000), CapabilitySet::NONE);
        for (text, capability) in [
            ("0000000000200000", Capability::SYS_ADMIN),
            ("0000000000001000", Capability::NET_ADMIN),
            ("0000000001000000", Capability::SYS_RESOURCE),
            ("0000000200000000", Capability::MAC_ADMIN),
        ] {
            let found = Capabilities::parse(&format!("CapEff: {text}\nCapBnd: {text}\n"));
            assert!(found.is_some_and(|found| found.effective.has(capability)));
        }
        assert_eq!(Capabilities::parse("CapEff: 0\n"), None);
        assert_eq!(Capabilities::parse("CapEff: x\nCapBnd: 0\n"), None);
    }
}
