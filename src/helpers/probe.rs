//! The probe: finds out whether file systems answer that depend on a server or on another
//! process.
//!
//! A process that touches a file on one that does not answer blocks without end, and handles no
//! signal meanwhile (nfs(5), hard; fuse(4)). So a child touches them first. PID 1 waits
//! for it before its loop, and only where such a file system is mounted.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::{ForkResult, Pid, pipe2};
use tracing::info;

use super::child::{become_helper, leave_terminal};
use crate::facts::mountinfo::MountTable;
use crate::messages::fault::Fault;
use crate::messages::remedy::Remedy;
use crate::sys::clock::Clock;
use crate::sys::end::End;
use crate::sys::log;
use crate::sys::process;
use crate::sys::read::{self, Links};
use crate::sys::signals::{Signals, asks_to_end};

/// The types of file systems that depend on a server or on another process, by their beginnings:
/// filesystems(5), and the kernel's fs directory.
const REMOTE: &[&str] = &[
    "9p",
    "afs",
    "autofs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs",
    "smb",
    "virtiofs",
];

/// The most symbolic links that the kernel follows in one path: path_resolution(7).
const MOST_LINKS: u32 = 40;

/// After how long the log names the path that the start waits for.
const SILENT: Duration = Duration::from_secs(1);

/// Returns when all of the `paths` that are on such a file system have answered. The fault names
/// the first one that has not answered within `patience`, or has the exit status of a signal that
/// asks for the end. Other signals are kept for later: [`Signals::keep`].
pub fn answer<'a>(
    paths: impl IntoIterator<Item = &'a Path>,
    mounts: &MountTable,
    signals: &mut Signals,
    patience: Duration,
) -> Result<(), Fault> {
    // Most containers have no such mount, and their paths are not walked.
    if !mounts.mounts.iter().any(|mount| is_remote(&mount.fstype)) {
        return Ok(());
    }
    let remote: Vec<(&Path, &str)> = paths
        .into_iter()
        .filter_map(|path| Some((path, remote_type(path, mounts)?)))
        .collect();
    if remote.is_empty() {
        return Ok(());
    }
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .context("cannot make a pipe")
        .remedy("raise the limit of open files")?;
    let fork = process::fork()
        .context("cannot fork")
        .remedy("raise the container's pids limit")?;
    let child = match fork {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let touched = leave_terminal()
                .and_then(|()| become_helper(signals.inherited(), &[writer.as_fd()]))
                .map(|()| touch(&remote, &mut File::from(writer)));
            process::exit_child(i32::from(touched.is_err()))
        }
    };
    drop(writer);
    let answered = wait(&remote, File::from(reader), signals, patience);
    if answered.is_err() {
        end(child);
    }
    answered
}

/// The type of the first file system on the way to `path` that is one of [`REMOTE`]. Symbolic
/// links are followed as far as that touches no such file system.
fn remote_type<'a>(path: &Path, mounts: &'a MountTable) -> Option<&'a str> {
    let mut left: Vec<OsString> = names(path).collect();
    let mut place = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = left.pop() {
        if name == ".." {
            place.pop();
            continue;
        }
        let next = place.join(name);
        if let Some(mount) = mounts.at(&next) {
            let fstype = mount.fstype.as_str();
            if is_remote(fstype) {
                return Some(fstype);
            }
        }
        match fs::read_link(&next) {
            Ok(target) if links < MOST_LINKS => {
                links += 1;
                if target.is_absolute() {
                    place = PathBuf::from("/");
                }
                left.extend(names(&target));
            }
            Ok(_) | Err(_) => place = next,
        }
    }
    None
}

fn is_remote(fstype: &str) -> bool {
    REMOTE.iter().any(|begin| fstype.starts_with(begin))
}

/// The components of a path but the root, the last one first.
fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
}

/// Touches the paths one after the other, with the system calls that read the facts later, and
/// writes one byte for each. Errors count as answers: the facts have them, too.
fn touch(remote: &[(&Path, &str)], answers: &mut File) {
    for (path, _) in remote {
        // Metadata may come from a cache that a server's end does not empty: nfs(5), "Close-to-open
        // cache consistency".
        if let Ok((mut file, _)) = read::open(path, Links::Follow) {
            let _ = file.read(&mut [0]);
        }
        if let Ok(mut entries) = fs::read_dir(path) {
            entries.next();
        }
        // It fails only where PID 1 has ended the wait.
        let _ = answers.write(&[0]);
    }
}

fn wait(
    remote: &[(&Path, &str)],
    mut answers: File,
    signals: &mut Signals,
    patience: Duration,
) -> Result<(), Fault> {
    let clock = Clock::since(Instant::now());
    let mut answered = 0;
    let mut logged = false;
    let mut kept = Vec::new();
    let done = loop {
        let mut buffer = [0; 64];
        match answers.read(&mut buffer) {
            Ok(0) if answered >= remote.len() => break Ok(()),
            // What the child did not live to see may not answer.
            Ok(0) => break Err(unknown(remote.get(answered))),
            Ok(count) => {
                answered += count;
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => {}
        }
        let (path, fstype) = remote
            .get(answered)
            .copied()
            .unwrap_or((Path::new("/"), "?"));
        let waited = clock.now();
        if waited >= patience {
            break Err(Fault::failure(format!(
                "{} is on {fstype} and has not answered for {} s",
                path.display(),
                patience.as_secs_f64()
            ))
            .remedy("check its server, or do not mount it"));
        }
        if waited >= SILENT && !logged {
            info!(path = %path.display(), "waiting for {}, which is on {fstype}", path.display());
            logged = true;
        }
        let next = if logged {
            patience
        } else {
            SILENT.min(patience)
        };
        let mut descriptors = vec![
            PollFd::new(answers.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        descriptors.extend(log::waiting());
        // After an error, such as EINTR, a signal may have arrived.
        let _ = signals.poll(&mut descriptors, clock.timeout(Some(next)));
        log::flush();
        let mut ended = None;
        for signal in signals.arrived() {
            match asks_to_end(signal) {
                true => ended = Some(signal),
                false => kept.push(signal),
            }
        }
        if let Some(signal) = ended {
            break Err(Fault {
                status: End::Signaled(signal).status(),
                ..Fault::failure(format!(
                    "stopped while waiting for {}, which is on {fstype}",
                    path.display()
                ))
            });
        }
    };
    signals.keep(kept);
    done
}

/// What PID 1 says where the child ended before the file system answered.
fn unknown(remote: Option<&(&Path, &str)>) -> Fault {
    let (path, fstype) = remote.copied().unwrap_or((Path::new("/"), "?"));
    Fault::failure(format!(
        "cannot find out whether {} answers, which is on {fstype}",
        path.display()
    ))
    .remedy("raise the container's limits of memory and processes, or do not mount it")
}

/// SIGKILL is the only signal that ends a child that is blocked on such a file system.
fn end(child: Pid) {
    let _ = process::kill(child, libc::SIGKILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_file_system_is_found_without_touching_it() -> io::Result<()> {
        let mounts = MountTable::parse(
            "1 0 0:1 / / rw - overlay overlay rw\n\
             2 1 0:2 / /data rw - nfs4 server:/data rw\n\
             3 1 0:3 / /data/fast rw - tmpfs tmpfs rw\n\
             4 1 0:4 / /mnt/s3 rw - fuse.s3fs s3fs rw\n\
             5 1 0:5 / /var/lib/docker rw - ext4 /dev/sda rw\n",
        );
        let directory = std::env::temp_dir().join(format!("dind-probe-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        for (name, target) in [("link", "/data/docker"), ("loop", "loop")] {
            let _ = fs::remove_file(directory.join(name));
            std::os::unix::fs::symlink(target, directory.join(name))?;
        }
        let found: Vec<Option<&str>> = [
            Path::new("/data/docker"),
            Path::new("/data/fast/docker"),
            Path::new("/mnt/s3"),
            Path::new("/mnt/s4"),
            Path::new("/var/lib/docker"),
            Path::new("/var/../data"),
            &directory.join("link/below"),
            &directory.join("loop"),
        ]
        .into_iter()
        .map(|path| remote_type(path, &mounts))
        .collect();
        fs::remove_dir_all(&directory)?;
        let (nfs, fuse) = (Some("nfs4"), Some("fuse.s3fs"));
        // A path below a remote mount point is reached through it.
        assert_eq!(found, [nfs, nfs, fuse, None, None, nfs, nfs, None]);
        Ok(())
    }
}
