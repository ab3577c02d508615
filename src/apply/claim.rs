//! The claim on a network for an engine, among those that start at the same time in one network namespace.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
use tracing::debug;

use crate::facts::network::Network;

/// Claims the first of these networks that is no other engine's here, for as long as the socket is open
/// that is returned. It has an abstract name, of which a network namespace has one each, and which ends
/// with it: unix(7). `None` where none can be claimed, as where another process has all the names, which
/// anybody may take. So a claim must not be needed.
pub fn first(networks: &[Network]) -> Option<(Network, OwnedFd)> {
    let flag = SockFlag::SOCK_CLOEXEC;
    let claimed = socket(AddressFamily::Unix, SockType::Stream, flag, None).and_then(|socket| {
        for network in networks {
            let name = format!("dind/{}/{}", network.address, network.prefix);
            match bind(
                socket.as_raw_fd(),
                &UnixAddr::new_abstract(name.as_bytes())?,
            ) {
                Ok(()) => return Ok((*network, socket)),
                Err(Errno::EADDRINUSE) => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::EADDRINUSE)
    });
    claimed
        .inspect_err(|errno| debug!("no network is claimed: {errno}"))
        .ok()
}
