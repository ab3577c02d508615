//! What an engine in a user namespace needs of this container: user_namespaces(7).
//!
//! Read only where this process may not mount, or where the user asks for such an engine, so that a
//! privileged start reads nothing of it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access, getegid, geteuid};

use super::cgroup::CGROUP_ROOT;
use super::host::Confinement;
use super::mountinfo::MountTable;
use super::nat::Nat;
use super::programs;
use crate::sys::search::search;
use crate::sys::{denied, read};

/// The account that owns the user namespace where root makes it: docker:dind-rootless has it.
const ACCOUNT: &str = "rootless";

/// The id of that account where `/etc/passwd` does not have it, as in docker:dind-rootless.
const ACCOUNT_ID: u32 = 1000;

/// Root's home.
pub const HOME: &str = "/root";

/// The path of this program in the image, where `/proc` does not tell.
const USUAL_PROGRAM: &str = "/usr/local/bin/dind";

/// The most that is read of `/etc/passwd`, `/etc/subuid` and `/etc/subgid`, in bytes.
const LIMIT: u64 = 1 << 20;

/// A part of a map of ids: `/proc/PID/uid_map` in user_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside.
    pub outside: u32,
    /// The number of ids.
    pub count: u32,
}

/// Consecutive ids: a line of subuid(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first id.
    pub first: u32,
    /// The number of ids.
    pub count: u32,
}

/// The user whose rights the engine has outside of its namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name; `None` where `/etc/passwd` does not have one.
    pub name: Option<String>,
    /// Its user id.
    pub user: u32,
    /// Its group id.
    pub group: u32,
}

/// A device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// There is none.
    Missing,
    /// The account may open it.
    Open,
    /// The account may not open it, by its mode.
    Closed {
        /// Its permission bits.
        mode: u32,
        /// Whether it is the container's own node, and not one that is mounted from outside, whose
        /// owner is somebody else's business.
        own: bool,
    },
}

/// Settings of the kernel that keep users from making namespaces: each with its file below
/// `/proc/sys`, and the value that does so.
const SETTINGS: [(&str, &str); 3] = [
    ("user/max_user_namespaces", "0"),
    // Debian's kernels.
    ("kernel/unprivileged_userns_clone", "0"),
    (OF_APPARMOR, "1"),
];

/// Ubuntu's, since 23.10. It is for processes that no profile confines: one of a profile may do what
/// that says (`aa_profile_ns_perm` in security/apparmor/task.c).
const OF_APPARMOR: &str = "kernel/apparmor_restrict_unprivileged_userns";

/// What an engine in a user namespace needs, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootless {
    /// The owner of the user namespace.
    pub account: Account,
    /// The user ids of the user namespace that this process is in.
    pub uid_map: Vec<Extent>,
    /// Its group ids.
    pub gid_map: Vec<Extent>,
    /// The ranges of the account in `/etc/subuid`: subuid(5).
    pub subuids: Vec<Range>,
    /// The same in `/etc/subgid`: subgid(5).
    pub subgids: Vec<Range>,
    /// The system calls that seccomp denies, of those that can be asked of here.
    pub denied: Vec<&'static str>,
    /// A path below `/proc` that is covered by another mount: then the kernel lets no inner container
    /// mount a new one (`mount_too_revealing` in fs/namespace.c).
    pub masked: Option<PathBuf>,
    /// Whether AppArmor is enabled: then most engines confine their containers by it.
    pub has_apparmor: bool,
    /// The profile of AppArmor that denies mounts here.
    pub apparmor: Option<String>,
    /// Settings of the kernel that keep users from making namespaces, as sysctl(8) names them, with
    /// their values.
    pub settings: Vec<(String, String)>,
    /// `/dev/net/tun`.
    pub tun: Device,
    /// `/dev/fuse`.
    pub fuse: Device,
    /// Whether this process may change the cgroup that is mounted on [`CGROUP_ROOT`], of version 2.
    pub cgroup: bool,
    /// Whether no program that is executed here gains rights: prctl(2), PR_SET_NO_NEW_PRIVS.
    pub no_new_privileges: bool,
    /// The path of `slirp4netns`; `None` where it is not in `PATH`.
    pub slirp4netns: Option<PathBuf>,
    /// The path of `pasta`.
    pub pasta: Option<PathBuf>,
    /// What a veth pair needs.
    pub nat: Nat,
    /// The largest receive buffer that TCP takes by itself, in bytes: the last number of
    /// `net.ipv4.tcp_rmem`, tcp(7). `None` where the kernel has it for the host only, before 4.15.
    pub receive_buffer: Option<u64>,
    /// The paths of `newuidmap` and `newgidmap`; `None` where one is not in `PATH`.
    pub map_programs: Option<[PathBuf; 2]>,
    /// Whether root's home is a directory of the container itself, and no mount.
    pub own_home: bool,
    /// The path of this program.
    pub program: PathBuf,
}

impl Rootless {
    /// Reads the facts. `mounts` are the mounts of this process. What cannot be read counts as
    /// not being there.
    pub fn read(mounts: &MountTable, search_path: &OsStr) -> Self {
        let account = Account::read();
        let map =
            |name: &str| extents(&read::kernel(format!("/proc/self/{name}")).unwrap_or_default());
        let ranges = |name: &str| ranges(&text(name), &account);
        let device = |path: &str| Device::read(Path::new(path), &account, mounts);
        let program = |name: &str| search(name, search_path);
        Self {
            uid_map: map("uid_map"),
            gid_map: map("gid_map"),
            subuids: ranges("/etc/subuid"),
            subgids: ranges("/etc/subgid"),
            denied: denied::outside(),
            masked: masked(mounts),
            has_apparmor: programs::has_apparmor(),
            apparmor: match Confinement::of_mounts() {
                Confinement::AppArmor(profile) => Some(profile),
                Confinement::None | Confinement::Selinux(_) => None,
            },
            settings: settings(
                |file| read::kernel(format!("/proc/sys/{file}")).ok(),
                &read::kernel("/proc/self/attr/current").unwrap_or_default(),
            ),
            tun: device("/dev/net/tun"),
            fuse: device("/dev/fuse"),
            cgroup: ["", "cgroup.procs", "cgroup.subtree_control"]
                .iter()
                .all(|name| access(&Path::new(CGROUP_ROOT).join(name), AccessFlags::W_OK).is_ok()),
            no_new_privileges: read::kernel("/proc/self/status")
                .is_ok_and(|status| status.lines().any(|line| line == "NoNewPrivs:\t1")),
            slirp4netns: program("slirp4netns"),
            pasta: program("pasta"),
            nat: Nat::read(),
            receive_buffer: read::kernel("/proc/sys/net/ipv4/tcp_rmem")
                .ok()
                .and_then(|sizes| sizes.split_whitespace().last()?.parse().ok()),
            map_programs: program("newuidmap")
                .zip(program("newgidmap"))
                .map(|(users, groups)| [users, groups]),
            own_home: Path::new(HOME).is_dir() && mounts.at(Path::new(HOME)).is_none(),
            program: fs::read_link("/proc/self/exe").unwrap_or_else(|_| USUAL_PROGRAM.into()),
            account,
        }
    }
}

/// The settings that keep this process from making a user namespace. `value` gives the text of a file
/// below `/proc/sys`; `label` is that of `/proc/self/attr/current`.
fn settings(value: impl Fn(&str) -> Option<String>, label: &str) -> Vec<(String, String)> {
    let confined = label.trim_end_matches(['\0', '\n']) != "unconfined";
    SETTINGS
        .iter()
        .filter(|(file, _)| *file != OF_APPARMOR || !confined)
        .filter(|(file, closed)| value(file).is_some_and(|value| value.trim() == *closed))
        .map(|(file, closed)| (file.replace('/', "."), (*closed).to_owned()))
        .collect()
}

impl Account {
    /// This user; for root the account [`ACCOUNT`], or its usual ids where there is none.
    fn read() -> Self {
        let passwd = text("/etc/passwd");
        match geteuid().as_raw() {
            0 => Self::named(ACCOUNT, &passwd).unwrap_or(Self {
                name: None,
                user: ACCOUNT_ID,
                group: ACCOUNT_ID,
            }),
            user => Self {
                name: name_of(user, &passwd),
                user,
                group: getegid().as_raw(),
            },
        }
    }

    /// The account of this name in the text of a passwd(5).
    fn named(name: &str, passwd: &str) -> Option<Self> {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let is_it = fields.next() == Some(name);
            // The password comes between.
            let mut numbers = fields.skip(1);
            let mut number = || numbers.next()?.parse().ok();
            is_it.then_some(())?;
            Some(Self {
                name: Some(name.to_owned()),
                user: number()?,
                group: number()?,
            })
        })
    }
}

/// The name of a user in the text of a passwd(5).
fn name_of(user: u32, passwd: &str) -> Option<String> {
    let user = user.to_string();
    let mut lines = passwd.lines();
    lines.find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == user).then(|| name.to_owned())
    })
}

impl Device {
    /// Whether the engine may open it where PID 1 is this user: root opens the container's own node to
    /// the account.
    pub fn is_for(self, user: u32) -> bool {
        match self {
            Self::Open => true,
            Self::Closed { own, .. } => own && user == 0,
            Self::Missing => false,
        }
    }

    fn read(path: &Path, account: &Account, mounts: &MountTable) -> Self {
        let found = fs::metadata(path).ok();
        let Some(found) = found.filter(|found| found.file_type().is_char_device()) else {
            return Self::Missing;
        };
        let bits = match () {
            () if found.uid() == account.user => found.mode() >> 6,
            () if found.gid() == account.group => found.mode() >> 3,
            () => found.mode(),
        };
        match bits & 0o6 == 0o6 {
            true => Self::Open,
            false => Self::Closed {
                mode: found.mode() & 0o7777,
                own: mounts.at(path).is_none(),
            },
        }
    }
}

/// The first mount below `/proc` that hides a part of it. The kernel does not mind one on a
/// directory that is always empty, such as that of binfmt_misc.
fn masked(mounts: &MountTable) -> Option<PathBuf> {
    let mut below = mounts.below(Path::new("/proc")).into_iter();
    below.find(|path| path != Path::new("/proc/sys/fs/binfmt_misc"))
}

fn text(path: &str) -> String {
    let text = read::text(Path::new(path), LIMIT).ok().flatten();
    text.unwrap_or_default()
}

/// The lines of a map of ids: user_namespaces(7).
pub fn extents(text: &str) -> Vec<Extent> {
    let extent = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse);
        let mut number = || numbers.next()?.ok();
        Some(Extent {
            inside: number()?,
            outside: number()?,
            count: number()?,
        })
    };
    text.lines().filter_map(extent).collect()
}

/// The ranges of an account, by its name or its number, in the text of a subuid(5).
pub fn ranges(text: &str, account: &Account) -> Vec<Range> {
    let user = account.user.to_string();
    let range = |line: &str| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let is_its = Some(owner) == account.name.as_deref() || owner == user;
        let mut number = || fields.next()?.trim().parse().ok();
        let range = Range {
            first: number()?,
            count: number()?,
        };
        is_its.then_some(range)
    };
    text.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        broken:x:y:0::/:\n\
        rootless:x:1234:1235:Rootless:/home/rootless:/bin/sh\n";

    #[test]
    fn apparmors_setting_is_for_what_no_profile_confines() {
        let all = |file: &str| Some(format!("{}\n", u8::from(file == OF_APPARMOR)));
        for (label, expected) in [
            ("unconfined\n", 3),
            ("docker-default (enforce)\n", 2),
            ("own (unconfined)\n", 2),
            ("", 2),
        ] {
            assert_eq!(settings(all, label).len(), expected, "{label}");
        }
        assert_eq!(settings(|_| Some("7\n".into()), "unconfined"), []);
        assert_eq!(settings(|_| None, "unconfined"), []);
    }

    #[test]
    fn an_account_is_found_by_its_name_and_its_number() {
        let account = Account::named("rootless", PASSWD);
        let expected = Account {
            name: Some("rootless".into()),
            user: 1234,
            group: 1235,
        };
        assert_eq!(account, Some(expected));
        assert_eq!(
            Account::named("root", PASSWD).map(|root| root.user),
            Some(0)
        );
        for missing in ["broken", "rootles", ""] {
            assert_eq!(Account::named(missing, PASSWD), None, "{missing}");
        }
        assert_eq!(name_of(1234, PASSWD).as_deref(), Some("rootless"));
        assert_eq!(name_of(1235, PASSWD), None);
    }

    #[test]
    fn ranges_are_those_of_the_account() {
        let account = |name: Option<&str>, user| Account {
            name: name.map(str::to_owned),
            user,
            group: user,
        };
        let text =
            "dockremap:165536:65536\nrootless:100000:65536\n1000:300000:1000\nrootless:x:1\n";
        let found = |name, user| -> Vec<(u32, u32)> {
            let found = ranges(text, &account(name, user));
            found
                .iter()
                .map(|range| (range.first, range.count))
                .collect()
        };
        assert_eq!(found(Some("rootless"), 7), [(100_000, 65_536)]);
        assert_eq!(
            found(Some("rootless"), 1000),
            [(100_000, 65_536), (300_000, 1000)]
        );
        assert_eq!(found(None, 1000), [(300_000, 1000)]);
        assert_eq!(found(None, 7), []);
    }

    #[test]
    fn maps_are_read_as_the_kernel_shows_them() {
        let found =
            extents("         0       1000          1\n         1     100000      65536\nodd\n");
        let expected =
            [(0, 1000, 1), (1, 100_000, 65_536)].map(|(inside, outside, count)| Extent {
                inside,
                outside,
                count,
            });
        assert_eq!(found, expected);
    }

    #[test]
    fn a_covered_proc_is_seen() {
        let mounts = |more: &str| {
            MountTable::parse(&format!(
                "1 0 0:1 / / rw - overlay a rw\n2 1 0:2 / /proc rw - proc proc rw\n{more}"
            ))
        };
        assert_eq!(masked(&mounts("")), None);
        let binfmt = "3 2 0:3 / /proc/sys/fs/binfmt_misc rw - binfmt_misc b rw\n";
        assert_eq!(masked(&mounts(binfmt)), None);
        let kcore = format!("{binfmt}4 2 0:4 /null /proc/kcore rw - tmpfs t rw\n");
        assert_eq!(masked(&mounts(&kcore)), Some("/proc/kcore".into()));
    }
}
