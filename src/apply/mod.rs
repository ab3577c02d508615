//! Carries out the steps of a plan. Decides nothing.

pub mod claim;
pub mod data_root;
pub mod delegate;
pub mod loops;
pub mod netfilter;
mod shortcut;
pub mod sockets;
pub mod store_file;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::geteuid;
use tracing::{debug, warn};

use crate::facts::host::Confinement;
use crate::messages::fault::Fault;
use crate::messages::remedy::Remedy;
use crate::plan::action::{Action, OPEN, OnFailure, Step};
use crate::sys::filesystem;
use crate::sys::pinned::Pinned;
use crate::sys::read::{self, Links};
use crate::sys::tree::{self, Mounts};
use crate::sys::write;
use delegate::{Attempt, Unfinished};

/// Carries out `steps` in order. Stops at the first step whose failure is fatal; the fault then
/// lists the steps that were done and are not undone. Gives the delegation of cgroup controllers
/// where it is not complete, since the cgroup still had processes.
pub fn apply(steps: &[Step]) -> Result<Option<Unfinished>, Fault> {
    let mut done: Vec<String> = Vec::new();
    let mut unfinished = None;
    for step in steps {
        debug!(step = %step.action, "{}: {}", step.action, step.why);
        match (carry_out(&step.action), step.on_failure) {
            (Ok(None), _) => done.push(step.action.to_string()),
            (Ok(busy), _) => unfinished = busy,
            (Err(error), OnFailure::Fatal { lost, remedy }) => {
                let fault = Fault::from(error.context(lost).remedy(remedy));
                return Err(if done.is_empty() {
                    fault
                } else {
                    let done = done.join(", ");
                    fault.consequence(&format!("already done and not undone: {done}"))
                });
            }
            (Err(error), OnFailure::Warn) => {
                let fault = Fault::from(error).consequence("going on without it");
                warn!(step = %step.action, "{fault}");
            }
            (Err(error), OnFailure::Ignore) => {
                let message = Fault::from(error).message;
                debug!(step = %step.action, "{message}, ignoring");
            }
        }
    }
    Ok(unfinished)
}

fn carry_out(action: &Action) -> Result<Option<Unfinished>> {
    match action {
        Action::Directory { path, mode } => directory(path, *mode).context(action.to_string()),
        Action::Mount {
            source,
            target,
            fstype,
            flags,
            data,
        } => {
            let mount = || {
                mount(
                    Some(source.as_str()),
                    target,
                    Some(fstype.as_str()),
                    *flags,
                    Some(data.as_str()),
                )
            };
            let mounted = match fstype.as_str() {
                "cgroup" | "cgroup2" => in_cgroup_namespace(mount),
                _ => mount(),
            };
            mounted.map_err(|errno| explained(action, errno))
        }
        Action::RemountWritable {
            target,
            flags,
            superblock,
        } => {
            remount_writable(target, *flags, *superblock).map_err(|errno| explained(action, errno))
        }
        Action::Share { target } => mount(
            None::<&str>,
            target,
            None::<&str>,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            None::<&str>,
        )
        .map_err(|errno| explained(action, errno)),
        Action::Bind { source, target } => {
            bind(source, target).map_err(|errno| explained(action, errno))
        }
        Action::CopyUp { path, own, later } => {
            copy_up(path, own, later).context(action.to_string())
        }
        Action::Give { path, user, alone } => give(path, *user, *alone).context(action.to_string()),
        Action::Open { path } => {
            fs::set_permissions(path, fs::Permissions::from_mode(OPEN)).context(action.to_string())
        }
        Action::Symlink { link, to } => match symlink(to, link) {
            Err(_) if fs::read_link(link).is_ok_and(|found| found == *to) => Ok(()),
            result => result.context(action.to_string()),
        },
        Action::LoadModule { name } => {
            netfilter::load_module(name);
            Ok(())
        }
        Action::Lock { path } => data_root::lock(path),
        Action::Remove { path } => match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.context(action.to_string()),
        },
        Action::RemoveTree { path } => remove_tree(path).context(action.to_string()),
        Action::Write { path, content } => write(path, content).context(action.to_string()),
        Action::Shortcut { programs } => shortcut::install(programs).context(action.to_string()),
        Action::Set { path, value } => fs::write(path, value).context(action.to_string()),
        Action::Forward { family } => netfilter::forward(*family).context(action.to_string()),
        Action::Delegate {
            remount,
            root,
            leaf,
        } => {
            if let Some(flags) = remount {
                own_cgroup_namespace(root, *flags)?;
            }
            match delegate::attempt(root, leaf)? {
                Attempt::Done(delegation) => delegation.log(),
                Attempt::Busy(unfinished) => return Ok(Some(unfinished)),
            }
            Ok(())
        }
    }
    .map(|()| None)
}

/// Where the hierarchy is mounted before it replaces another: the kernel does not mount a file
/// system twice on one mount point (`do_add_mount` in fs/namespace.c).
const BESIDE: &str = "/run/dind/cgroup";

/// Enters a new cgroup namespace for good, and replaces the hierarchy at `root` with that of the
/// new namespace, which shows this container's cgroups only. Where the hierarchy cannot be
/// mounted, returns to the old namespace and fails.
fn own_cgroup_namespace(root: &Path, flags: MsFlags) -> Result<()> {
    let none = None::<&str>;
    let beside = Path::new(BESIDE);
    let enter = || -> Result<()> {
        directory(beside, 0o700)?;
        let before = cgroup_namespace()?;
        unshare(CloneFlags::CLONE_NEWCGROUP)?;
        if let Err(errno) = mount(Some("cgroup"), beside, Some("cgroup2"), flags, none) {
            setns(before, CloneFlags::CLONE_NEWCGROUP)?;
            return Err(errno.into());
        }
        Ok(())
    };
    enter()
        .context(
            "this container is in the cgroup namespace of its host and cannot create its own, so \
             inner containers are outside its limits",
        )
        .remedy("start it with --cgroupns=private or --privileged")?;
    // A hierarchy that cannot be unmounted is covered by the next mount.
    let _ = umount2(root, MntFlags::MNT_DETACH);
    let moved = mount(Some(beside), root, none, MsFlags::MS_BIND, none);
    // A failure is harmless: the mount point and the directory would only remain.
    let _ = umount2(beside, MntFlags::MNT_DETACH);
    let _ = fs::remove_dir(beside);
    moved
        .with_context(|| format!("cannot mount the cgroup hierarchy on {}", root.display()))
        .remedy("see mount(2)")
}

/// Runs `mount` in a new cgroup namespace and returns to the old one. In the host's cgroup
/// namespace, mount(2) would apply the options given here to the host's only superblock of
/// cgroup2, and so remove `nsdelegate` and similar options from the host
/// (`apply_cgroup_root_flags` in the kernel's kernel/cgroup/cgroup.c). The mount would also show
/// the host's whole hierarchy, and inner engines would put their containers at its root, outside
/// this container's limits. In a new namespace it shows the container's part, as Docker's own
/// mounts do.
fn in_cgroup_namespace(mount: impl FnOnce() -> nix::Result<()>) -> nix::Result<()> {
    let before = cgroup_namespace().map_err(|_| Errno::ENOENT)?;
    unshare(CloneFlags::CLONE_NEWCGROUP)?;
    let mounted = mount();
    setns(before, CloneFlags::CLONE_NEWCGROUP)?;
    mounted
}

/// The cgroup namespace of this process, for setns(2).
fn cgroup_namespace() -> io::Result<File> {
    read::open(Path::new("/proc/self/ns/cgroup"), Links::Follow).map(|(file, _)| file)
}

/// An error of mount(2) for `action`, with a remedy that depends on the error number.
fn explained(action: &Action, errno: Errno) -> anyhow::Error {
    let hint = match errno {
        Errno::EACCES if matches!(Confinement::read(), Confinement::AppArmor(_)) => {
            "AppArmor denies this mount; start the container with --privileged or with \
             --security-opt apparmor=unconfined"
        }
        Errno::EPERM | Errno::EACCES => "start the container with --privileged",
        Errno::EBUSY => {
            "it is already mounted elsewhere with other options; use the same options there"
        }
        Errno::ENODEV => "this kernel does not have this file system: load its module on the host",
        Errno::ENOENT | Errno::EINVAL => {
            "this kernel or this container does not support it: see mount(2)"
        }
        _ => "see mount(2)",
    };
    anyhow!("{action}: {}", errno.desc()).remedy(hint)
}

fn bind(source: &Path, target: &Path) -> nix::Result<()> {
    let none = None::<&str>;
    mount(
        Some(source),
        target,
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )
}

/// Where what a tmpfs covers is found, in that tmpfs.
const BELOW: &str = ".dind-below";

/// Where what is to be covered is mounted meanwhile: a directory that there is for certain, and that
/// nothing here needs then.
const ASIDE: &str = "/proc";

/// Covers a directory: see [`Action::CopyUp`]. What is covered, with all that is mounted in it, comes
/// to be in the tmpfs, and each name in it is a link. It cannot be mounted there once it is covered: a
/// recursive bind takes along what covers it, and the kernel refuses one that is not recursive, which
/// would uncover what the namespace above has covered (`has_locked_children` in fs/namespace.c).
fn copy_up(path: &Path, own: &[&str], later: &[&str]) -> Result<()> {
    let none = None::<&str>;
    bind(path, Path::new(ASIDE))?;
    // The program before iptables is executed there.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let below = path.join(BELOW);
    let moved = mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some("mode=0755"))
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(fs::create_dir(&below)?))
        .and_then(|()| Ok(mount(Some(ASIDE), &below, none, MsFlags::MS_MOVE, none)?));
    if moved.is_err() {
        let _ = umount2(ASIDE, MntFlags::MNT_DETACH);
    }
    moved?;
    let mut names: BTreeSet<OsString> = later.iter().map(OsString::from).collect();
    for entry in fs::read_dir(&below)? {
        names.insert(entry?.file_name());
    }
    for name in names {
        if !own.iter().any(|own| name == *own) {
            symlink(Path::new(BELOW).join(&name), path.join(&name))?;
        }
    }
    Ok(())
}

/// Gives a file to a user: see [`Action::Give`].
fn give(path: &Path, user: u32, alone: bool) -> Result<()> {
    let given = Pinned::open(path)?;
    if given.metadata().uid() == user {
        return Ok(());
    }
    if alone && given.metadata().is_dir() {
        let others = given.entries()?.filter_map(|entry| {
            let entry = entry.ok()?;
            let found = entry.metadata().ok()?;
            // A start binds its socket before.
            let counts = found.uid() != user
                && !found.file_type().is_socket()
                && entry.file_name() != filesystem::LOST_AND_FOUND;
            counts.then(|| (entry.file_name(), found.uid()))
        });
        if let Some((name, other)) = others.into_iter().next() {
            let name = name.to_string_lossy();
            return Err(anyhow!("{name} in it belongs to user {other}")).remedy(format!(
                "use another volume, or give this one to user {user} with all that is in it"
            ));
        }
    }
    Ok(given.give(user)?)
}

/// Makes a directory and gives it a mode: see [`Action::Directory`].
fn directory(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)?;
    if fs::metadata(path)?.mode() & 0o7777 == mode {
        return Ok(());
    }
    let made = Pinned::open(path)?;
    match made.set_mode(mode) {
        // Another user's: only its owner may, or who has CAP_FOWNER, which an engine without privileges
        // does not need.
        Err(error)
            if error.kind() == io::ErrorKind::PermissionDenied
                && made.metadata().uid() != geteuid().as_raw() =>
        {
            Ok(())
        }
        set => set,
    }
}

/// Removes a directory with all that is in it. A missing one is no error.
fn remove_tree(path: &Path) -> Result<()> {
    match tree::empty(path, Mounts::Empty).map(|left| left.first) {
        Ok(None) => Ok(fs::remove_dir(path)?),
        Ok(Some((name, errno))) => bail!("{}: {}", name.to_string_lossy(), errno.desc()),
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => bail!("{}", errno.desc()),
    }
}

/// Replaces the file at `path` with `content`. Its directory is named by the plan and may be a
/// link. The file itself is not followed, since another program may own it where `/run` is
/// mounted from outside.
fn write(path: &Path, content: &str) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::EINVAL.into());
    };
    write::replace(
        &read::directory(directory)?,
        name,
        0o644,
        content.as_bytes(),
    )
}

/// Remounts `target` writable. Per-mount flags change with MS_BIND, those of the superblock
/// without: mount(2).
fn remount_writable(target: &Path, flags: MsFlags, superblock: bool) -> nix::Result<()> {
    let remount = |extra| {
        let flags = MsFlags::MS_REMOUNT | flags | extra;
        mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
    };
    if superblock {
        remount(MsFlags::empty())?;
    }
    remount(MsFlags::MS_BIND)
}
