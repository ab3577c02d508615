//! The maker of namespaces: a user namespace for the engine, with others that belong to it, their
//! maps of ids, and the steps inside. Its end leaves descriptors of them with PID 1, which keep them:
//! no process has to stay in them.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sched::unshare;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, Uid};
use tracing::error;

use super::forwarder::{self, Sockets};
use super::run::run;
use crate::apply;
use crate::facts::rootless::Extent;
use crate::messages::fault::{FAILURE, Fault};
use crate::messages::remedy::Remedy;
use crate::plan::namespaces::{Namespaces, Veth};
use crate::sys::notify::Notify;
use crate::sys::signals::Inherited;
use crate::sys::{bridge, credentials, denied, link, namespaces, process};

/// Makes the namespaces and sends them over `socket`. The result is an exit status; the error says
/// what failed. Half of the work is a child's, which is in the new namespaces and logs its own error:
/// the maps are written from outside.
pub fn make(wanted: &Namespaces, socket: BorrowedFd<'_>, inherited: &Inherited) -> Result<u8> {
    let (mut ours, theirs) = UnixStream::pair()
        .context("cannot make a socket")
        .remedy("raise the limit of open files")?;
    let child = match process::fork()
        .context("cannot fork")
        .remedy("raise the container's pids limit")?
    {
        ForkResult::Child => {
            drop(ours);
            let done = be_inside(wanted, theirs, socket);
            if let Err(error) = &done {
                error!("{}", Fault::from(error));
            }
            process::exit_child(done.map_or(FAILURE, |()| 0).into())
        }
        ForkResult::Parent { child } => child,
    };
    drop(theirs);
    // The end of the file is the child's end, which has logged why.
    if ours.read(&mut [0]).is_ok_and(|count| count == 1) {
        // Before this process acts as another user.
        if let Some(veth) = &wanted.veth {
            connect(veth, child)
                .with_context(|| format!("cannot make the interface {}", veth.name))
                .remedy("set DIND_ROOTLESS_NETWORK=slirp4netns")?;
        }
        write_maps(wanted, child, inherited)?;
        // The child may have ended: then its status says so.
        let _ = ours.write_all(&[0]);
    }
    let end = waitpid(child, None)
        .context("cannot wait for the child in the new namespaces")
        .remedy("see waitpid(2)")?;
    match end {
        WaitStatus::Exited(_, 0) => Ok(0),
        WaitStatus::Exited(..) => Ok(FAILURE),
        end => bail!("the child in the new namespaces: {end:?}"),
    }
}

/// Makes the pair of interfaces, the other one in the network namespace of `child`, and turns the one
/// here on. One with that name is of an earlier start, which the kernel has not removed yet: this
/// process has the lock on the data root, which the name is of.
fn connect(veth: &Veth, child: Pid) -> nix::Result<()> {
    let socket = link::open()?;
    let add = || link::add_pair(&socket, &veth.name, veth.inside, child, veth.mtu);
    match add() {
        Err(Errno::EEXIST) => {
            match link::remove(&socket, &veth.name) {
                Ok(()) | Err(Errno::ENODEV) => {}
                Err(errno) => return Err(errno),
            }
            add()?;
        }
        done => done?,
    }
    for ends in &veth.addresses {
        link::add_address(&socket, &veth.name, ends.here, ends.prefix)?;
    }
    bridge::set_up(&bridge::control()?, &veth.name, true)
}

/// The same for the interface in the new network namespace, with the routes.
fn connect_inside(veth: &Veth) -> nix::Result<()> {
    let socket = link::open()?;
    for ends in &veth.addresses {
        link::add_address(&socket, veth.inside, ends.inside, ends.prefix)?;
    }
    bridge::set_up(&bridge::control()?, veth.inside, true)?;
    for ends in &veth.addresses {
        link::add_default_route(&socket, veth.inside, ends.here)?;
    }
    Ok(())
}

/// Writes the maps of the user namespace of `child`. The kernel wants a writer with the rights of the
/// namespace's owner, and CAP_SETUID and CAP_SETGID outside of it: user_namespaces(7).
fn write_maps(wanted: &Namespaces, child: Pid, inherited: &Inherited) -> Result<()> {
    let maps = [&wanted.maps.users, &wanted.maps.groups];
    if let Some(programs) = &wanted.map_programs {
        return programs
            .iter()
            .zip(maps)
            .try_for_each(|(program, map)| by_program(program, child, map, inherited));
    }
    credentials::act_as(wanted.user, wanted.group)
        .context("cannot use the rights of the engine's user")
        .remedy("start the container with --cap-add SETUID --cap-add SETGID")?;
    for (file, map) in ["uid_map", "gid_map"].into_iter().zip(maps) {
        let path = format!("/proc/{child}/{file}");
        // The kernel takes one write: user_namespaces(7).
        fs::write(&path, lines(map))
            .with_context(|| format!("cannot write {path}"))
            .remedy("start the container with --cap-add SETUID --cap-add SETGID")?;
    }
    Ok(())
}

fn lines(map: &[Extent]) -> String {
    let lines = map.iter().map(|extent| {
        let Extent {
            inside,
            outside,
            count,
        } = extent;
        format!("{inside} {outside} {count}\n")
    });
    lines.collect()
}

/// Has a program write a map: newuidmap(1), newgidmap(1).
fn by_program(program: &Path, child: Pid, map: &[Extent], inherited: &Inherited) -> Result<()> {
    let mut words = vec![child.to_string()];
    for extent in map {
        words
            .extend([extent.inside, extent.outside, extent.count].map(|number| number.to_string()));
    }
    let shown = program.display();
    match run(program, &words, inherited)? {
        (WaitStatus::Exited(_, 0), _) => Ok(()),
        (_, output) => Err(anyhow::anyhow!("{shown}: {}", output.trim())).remedy(format!(
            "give {shown} the file capability that it needs in the place of the set-user-ID bit (setcap(8)), or start the container with --user 0"
        )),
    }
}

/// The child's part.
fn be_inside(wanted: &Namespaces, mut parent: UnixStream, socket: BorrowedFd<'_>) -> Result<()> {
    if Uid::effective().as_raw() != wanted.user {
        credentials::become_user(wanted.user, wanted.group)
            .context("cannot become the engine's user")
            .remedy("start the container with --cap-add SETUID --cap-add SETGID")?;
    }
    let kinds = namespaces::kinds(wanted.cgroup);
    let made = unshare(kinds);
    // AppArmor's answer, since Linux 6.7: `apparmor_userns_create` in security/apparmor/lsm.c.
    let remedy = match made {
        Err(Errno::EACCES) => {
            "give the profile of AppArmor that confines this container the rule 'userns,', or start it \
             with --security-opt apparmor=unconfined"
        }
        _ => "see user.max_user_namespaces on the host, and 'dind doctor'",
    };
    made.context("cannot make a user namespace")
        .remedy(remedy)?;
    parent
        .write_all(&[0])
        .and_then(|()| parent.read_exact(&mut [0]))
        .context("the maps of ids were not written")
        .remedy("see the line before")?;
    namespaces::become_root()
        .context("cannot become root in the new user namespace")
        .remedy("check the maps of ids in 'dind plan'")?;
    let denied = denied::inside();
    if !denied.is_empty() {
        return Err(anyhow::anyhow!(
            "seccomp denies {}, without which no inner container starts",
            denied.join(" and ")
        ))
        .remedy("start the container with --security-opt seccomp=dind.json, which 'docker run --rm dind seccomp >dind.json' makes, or with --security-opt seccomp=unconfined");
    }
    apply::apply(&wanted.steps)?;
    bridge::control()
        .and_then(|control| {
            bridge::set_up(&control, "lo", true)?;
            match wanted.resolver {
                // A label, which makes it another address beside that of the interface.
                Some(address) => bridge::configure(&control, "lo:dns", address, 32),
                None => Ok(()),
            }
        })
        .context("cannot configure the interface lo")
        .remedy("see netdevice(7)")?;
    if let Some(veth) = &wanted.veth {
        connect_inside(veth)
            .with_context(|| format!("cannot configure the interface {}", veth.inside))
            .remedy("set DIND_ROOTLESS_NETWORK=slirp4netns")?;
    }
    let resolver = wanted.resolver.map(forwarder::open).transpose()?;
    let ports = wanted.ports.directory.join(wanted.ports.socket);
    let listener = UnixListener::bind(ports)
        .context("cannot make the socket for published ports")
        .remedy("see unix(7)")?;
    // dockerd looks its name up in the network namespace that it is in.
    let notify = Notify::bind()?;
    // In the order in which the supervisor takes them.
    let mut made = vec![notify.as_fd(), listener.as_fd()];
    made.extend(resolver.iter().flat_map(Sockets::descriptors));
    namespaces::send(kinds, &made, socket)
        .context("cannot hand the namespaces over")
        .remedy("see unix(7)")
}
