//! What a veth pair with source NAT needs of this network namespace, besides CAP_NET_ADMIN; and
//! whether there is a way out by IPv6.

use nix::unistd::{AccessFlags, access};

use super::neighbours;
use super::netfilter::NfTables;
use super::network::is_hosts;
use crate::sys::nat::Family;
use crate::sys::read;

/// A setting of the kernel that is on or off: sysctl(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// It is on.
    On,
    /// It is off, and this process may turn it on.
    Off,
    /// It is off, and its file cannot be written: `/proc/sys` is read-only.
    Fixed,
}

/// The default route of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6 {
    /// There is none.
    None,
    /// A router has announced it. The kernel forgets such a route where it forwards (`accept_ra` in
    /// ip-sysctl.rst).
    Announced,
    /// It was set.
    Set,
}

/// What a veth pair with source NAT needs, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nat {
    /// Whether IPv4 is forwarded.
    pub ipv4: Switch,
    /// Whether IPv6 is.
    pub ipv6: Switch,
    /// The default route of IPv6.
    pub ipv6_route: Ipv6,
    /// Whether nf_tables makes a table that ends with the process that has made it. Only a start asks.
    pub rules: NfTables,
    /// Whether this is the network namespace that the host started with, whose firewall is the
    /// host's business.
    pub hosts: bool,
    /// Whether a dockerd is in this network namespace: it may drop what it does not know.
    pub dockerd: bool,
}

/// Turns forwarding of IPv4 on.
pub const IPV4: &str = "/proc/sys/net/ipv4/ip_forward";

/// Turns forwarding of IPv6 on.
pub const IPV6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// Returns the file of the kernel that turns forwarding on.
pub fn switch(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => IPV4,
        Family::Ipv6 => IPV6,
    }
}

impl Nat {
    /// Reads `/proc`. What cannot be read counts as not being there.
    pub fn read() -> Self {
        let routes = read::kernel("/proc/net/ipv6_route").unwrap_or_default();
        Self {
            ipv4: Switch::read(IPV4),
            ipv6: Switch::read(IPV6),
            ipv6_route: Ipv6::of(&routes),
            rules: NfTables::Unknown,
            hosts: is_hosts(),
            dockerd: neighbours::has_dockerd() || neighbours::has_bridge_in_use(),
        }
    }
}

impl Switch {
    fn read(path: &str) -> Self {
        match read::kernel(path) {
            Ok(value) if value.trim() != "0" => Self::On,
            Ok(_) if access(path, AccessFlags::W_OK).is_ok() => Self::Off,
            Ok(_) | Err(_) => Self::Fixed,
        }
    }
}

impl Ipv6 {
    /// Parses the text of `/proc/net/ipv6_route` (`rt6_info_route` in the kernel's net/ipv6/route.c).
    /// A kernel without a route shows one to loopback that refuses.
    fn of(text: &str) -> Self {
        /// `RTF_REJECT` of linux/route.h, and `RTF_ADDRCONF` of linux/ipv6_route.h.
        const REJECT: u32 = 0x200;
        const ANNOUNCED: u32 = 0x4_0000;
        let mut found = text.lines().filter_map(|line| {
            let mut fields = line.split_whitespace();
            let is_all = fields.next()?.bytes().all(|byte| byte == b'0') && fields.next()? == "00";
            // Source and its prefix, gateway, metric, reference count and use come between.
            let flags = u32::from_str_radix(fields.nth(6)?, 16).ok()?;
            let leads_out = fields.next()? != "lo" && flags & REJECT == 0;
            (is_all && leads_out).then_some(flags & ANNOUNCED != 0)
        });
        match found.next() {
            None => Self::None,
            Some(true) => Self::Announced,
            Some(false) => Self::Set,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_default_route_leads_out() {
        let zero = "00000000000000000000000000000000";
        let gateway = "fd000000000000000000000000000001";
        let line = |prefix: &str, flags: &str, name: &str| {
            format!(
                "{zero} {prefix} {zero} 00 {gateway} 00000400 00000001 00000000 {flags} {name:>8}\n"
            )
        };
        let refused = line("00", "00200200", "lo");
        for (more, expected) in [
            (String::new(), Ipv6::None),
            (line("40", "00000003", "eth0"), Ipv6::None),
            (line("00", "00000003", "eth0"), Ipv6::Set),
            (line("00", "00450003", "eth0"), Ipv6::Announced),
        ] {
            assert_eq!(
                Ipv6::of(&format!("{refused}{more}odd\n")),
                expected,
                "{more}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*") {
            let _ = Ipv6::of(&text);
        }
    }
}
