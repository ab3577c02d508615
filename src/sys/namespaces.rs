//! Namespaces by descriptor, which keep them when no process is in them: namespaces(7).

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::unistd::{Gid, Uid, seteuid, setgroups, setresgid, setresuid};

use super::descriptors;

/// The kinds that there can be beside the user namespace, which comes first.
const OTHERS: [(&str, CloneFlags); 5] = [
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
];

/// The most descriptors that are sent: the namespaces, and sockets that were made in them.
const MOST: usize = 1 + OTHERS.len() + MOST_MADE;
const MOST_MADE: usize = 4;

/// A user namespace, and the others that belong to it.
#[derive(Debug)]
pub struct Namespaces {
    /// The user namespace.
    user: OwnedFd,
    /// The network namespace.
    network: OwnedFd,
    /// The others.
    others: Vec<OwnedFd>,
    /// Sockets that were made in them.
    sockets: VecDeque<OwnedFd>,
    /// The user id, in the namespace above, that has made it, and so has every capability in it:
    /// user_namespaces(7).
    owner: u32,
}

/// The kinds of namespaces that are made: with `cgroup` that of cgroups, too.
pub fn kinds(cgroup: bool) -> CloneFlags {
    let all = OTHERS.map(|(_, flag)| flag);
    let kinds = all
        .into_iter()
        .fold(CloneFlags::CLONE_NEWUSER, CloneFlags::union);
    match cgroup {
        true => kinds,
        false => kinds.difference(CloneFlags::CLONE_NEWCGROUP),
    }
}

/// Sends the namespaces of this process that are among `kinds` over a Unix socket, and with them
/// `made`, sockets, four at most: unix(7), SCM_RIGHTS.
pub fn send(kinds: CloneFlags, made: &[BorrowedFd<'_>], socket: BorrowedFd<'_>) -> io::Result<()> {
    let count = u8::try_from(made.len()).map_err(|_| Errno::EMSGSIZE)?;
    let open = |name: &str| File::open(format!("/proc/self/ns/{name}"));
    let mut files = vec![open("user")?, open("net")?];
    for (name, flag) in OTHERS {
        if kinds.contains(flag) && flag != CloneFlags::CLONE_NEWNET {
            files.push(open(name)?);
        }
    }
    let mut numbers: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
    numbers.extend(made.iter().map(AsRawFd::as_raw_fd));
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(&[count])],
        &[ControlMessage::ScmRights(&numbers)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Receives, without waiting, what [`send`] has sent. `owner` is the user whose child it was.
pub fn receive(socket: BorrowedFd<'_>, owner: u32) -> io::Result<Namespaces> {
    let mut control = cmsg_space!([libc::c_int; MOST]);
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let received = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut found = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            found.extend(numbers.into_iter().map(descriptors::own));
        }
    }
    let [made] = byte;
    let place = found.len().checked_sub(made.into()).ok_or(Errno::ENODATA)?;
    let sockets = found.split_off(place).into();
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(user), Some(network)) => Ok(Namespaces {
            user,
            network,
            others: found.collect(),
            sockets,
            owner,
        }),
        _ => Err(Errno::ENODATA.into()),
    }
}

impl Namespaces {
    /// Enters them, as their root. Before, a child of root must be the owner for the kernel, which
    /// asks for no capability then: `cap_capable` in the kernel's security/commoncap.c.
    pub fn enter(&self) -> nix::Result<()> {
        let owner = Uid::from_raw(self.owner);
        if Uid::effective() != owner {
            seteuid(owner)?;
        }
        setns(self.user.as_fd(), CloneFlags::CLONE_NEWUSER)?;
        for namespace in std::iter::once(&self.network).chain(&self.others) {
            setns(namespace.as_fd(), CloneFlags::empty())?;
        }
        become_root()
    }

    /// The user and the network namespace, for a program that joins them by itself.
    pub fn for_network(&self) -> [BorrowedFd<'_>; 2] {
        [self.user.as_fd(), self.network.as_fd()]
    }

    /// Takes the first of the sockets that were sent with them.
    pub fn take_socket(&mut self) -> Option<OwnedFd> {
        self.sockets.pop_front()
    }

    /// The sockets that were sent with them and not taken, in their order.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(AsFd::as_fd)
    }

    /// The descriptors of the namespaces.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let first = self.for_network().into_iter();
        first.chain(self.others.iter().map(AsFd::as_fd))
    }
}

/// Becomes the root of the user namespace that this process is in, without supplementary groups.
pub fn become_root() -> nix::Result<()> {
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)
}
