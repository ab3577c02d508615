//! Pairs of interfaces and their rules, in network namespaces of the test's own.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use dind::apply::claim;
use dind::facts::network::Network;
use dind::sys::notify::{self, Notify};
use dind::sys::{bridge, link, namespaces, nat};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;

use crate::{in_a_child, inside};

/// What `ip` or `nft` prints.
fn shown(words: &[&str]) -> String {
    let (program, arguments) = words.split_first().unwrap();
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Makes the rules, with the socket that they end with.
fn translate(name: &str) -> nix::Result<OwnedFd> {
    let socket = nat::open()?;
    nat::translate(&socket, name).map(|()| socket)
}

/// The rules are there as long as their socket, and no other one makes a table of that name meanwhile.
#[test]
fn rules_end_with_their_socket() {
    inside("networks::rules_end_with_their_socket", || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let first = translate("dind-first").unwrap();
        let other = translate("dind-other").unwrap();
        assert_eq!(translate("dind-first").err(), Some(Errno::EPERM));
        let copy = first.try_clone().unwrap();
        drop(first);
        assert_eq!(translate("dind-first").err(), Some(Errno::EPERM));
        drop(copy);
        let again = translate("dind-first").unwrap();
        drop((again, other));
    });
}

/// A network is one engine's in a network namespace, and free again when its socket is closed. Where every
/// one is taken, there is no claim.
#[test]
fn a_claim_ends_with_its_socket() {
    inside("networks::a_claim_ends_with_its_socket", || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let networks = [2, 3].map(|third| Network {
            address: [10, 0, third, 0].into(),
            prefix: 24,
        });
        let claimed = || claim::first(&networks).unwrap();
        let (first, held) = claimed();
        let (second, other) = claimed();
        assert_eq!([first, second], networks);
        assert!(claim::first(&networks).is_none());
        drop(held);
        let (again, _held) = claimed();
        assert_eq!(again, first);
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        assert_eq!(claimed().0, first);
        drop(other);
    });
}

/// One end is here and the other in the namespace of another process, and both go with either.
#[test]
fn a_pair_has_an_end_in_another_namespace() {
    inside("networks::a_pair_has_an_end_in_another_namespace", || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let mut other = Command::new("unshare")
            .args(["-n", "sh", "-c", "echo; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0];
        let mut output = other.stdout.take().unwrap();
        std::io::Read::read_exact(&mut output, &mut ready).unwrap();
        let theirs = fs::read_link(format!("/proc/{}/ns/net", other.id())).unwrap();
        assert_ne!(own, theirs);
        let pid = Pid::from_raw(i32::try_from(other.id()).unwrap());
        let socket = link::open().unwrap();
        let add = || link::add_pair(&socket, "dind-pair", "eth0", pid, 1280);
        add().unwrap();
        assert_eq!(add(), Err(Errno::EEXIST));
        let four = [10, 0, 2, 2].into();
        let six = "fd64::2".parse().unwrap();
        for (address, prefix) in [(four, 24), (six, 64)] {
            link::add_address(&socket, "dind-pair", address, prefix).unwrap();
        }
        bridge::set_up(&bridge::control().unwrap(), "dind-pair", true).unwrap();
        link::add_default_route(&socket, "dind-pair", [10, 0, 2, 100].into()).unwrap();
        let text = shown(&["ip", "address", "show", "dev", "dind-pair"]);
        for part in ["mtu 1280", "10.0.2.2/24", "fd64::2/64"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("tentative"), "{text}");
        let routes = shown(&["ip", "route"]);
        assert!(routes.contains("default via 10.0.2.100"), "{routes}");
        assert!(if_nametoindex("eth0").is_err());
        let inside = shown(&["nsenter", "-n", "-t", &pid.to_string(), "ip", "-o", "link"]);
        assert!(
            inside.contains("eth0@") && inside.contains("mtu 1280"),
            "{inside}"
        );
        link::remove(&socket, "dind-pair").unwrap();
        assert_eq!(link::remove(&socket, "dind-pair"), Err(Errno::ENODEV));
        let inside = shown(&["nsenter", "-n", "-t", &pid.to_string(), "ip", "-o", "link"]);
        assert!(!inside.contains("eth0"), "{inside}");
        other.kill().unwrap();
        other.wait().unwrap();
    });
}

/// A socket for READY=1 that was made in the namespace of the sender is found there, whoever has it,
/// and nowhere else.
#[test]
fn ready_comes_out_of_another_network_namespace() {
    inside(
        "networks::ready_comes_out_of_another_network_namespace",
        || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let (ours, theirs) = UnixStream::pair().unwrap();
            in_a_child(|| {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                let notify = Notify::bind().unwrap();
                let made = [notify.as_fd()];
                namespaces::send(CloneFlags::CLONE_NEWNET, &made, theirs.as_fd()).unwrap();
                notify::tell_ready(&notify.address).unwrap();
            });
            let mut received = namespaces::receive(ours.as_fd(), 0).unwrap();
            let notify = Notify::try_from(received.take_socket().unwrap()).unwrap();
            assert_eq!(received.sockets().count(), 0);
            assert!(notify.ready());
            assert!(!notify.ready());
            let here = notify::tell_ready(&notify.address);
            assert_eq!(here, Err(Errno::ECONNREFUSED));
        },
    );
}
