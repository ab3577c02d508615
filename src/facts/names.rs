//! What this container is called, and where it can be reached.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

/// The addresses of this network namespace: getifaddrs(3). None where they cannot be
/// read.
pub fn addresses() -> BTreeSet<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return BTreeSet::new();
    };
    interfaces
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|found| found.ip().into());
            v4.or_else(|| address.as_sockaddr_in6().map(|found| found.ip().into()))
        })
        .collect()
}

/// The host name, and what `/etc/hostname` says, each also up to its first dot.
pub fn host_names() -> BTreeSet<String> {
    let kernel = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    let file = fs::read_to_string("/etc/hostname").ok();
    [kernel, file]
        .into_iter()
        .flatten()
        .flat_map(|name| {
            let full = name.trim().to_owned();
            let short = full.split('.').next().unwrap_or_default().to_owned();
            [full, short]
        })
        .filter(|name| !name.is_empty())
        .collect()
}
