//! What a veth pair with source NAT needs of this network namespace, besides CAP_NET_ADMIN; and
//! whether there is a way out by IPv6.

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use super::neighbours;
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

/// What is known against a table of nf_tables that ends with the process that has made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// Nothing: only a start asks.
    Unknown,
    /// The kernel makes none.
    Missing,
    /// There is one of that name, which is not this process's.
    Taken(Errno),
    /// The kernel refuses it for another reason.
    Refused(Errno),
}

impl Rules {
    /// What the error of the request for a socket shows. A kernel without the protocol has
    /// EPROTONOSUPPORT (`netlink_create` in net/netlink/af_netlink.c).
    pub fn without_socket(error: Errno) -> Self {
        match error {
            Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT => Self::Missing,
            error => Self::Refused(error),
        }
    }

    /// What the error of the request for the table shows. EOPNOTSUPP: the kernel has no nf_tables
    /// (`nfnetlink_rcv_batch` in net/netfilter/nfnetlink.c) or not this family. EINVAL: a table has no
    /// owner before Linux 5.12. EPERM: another socket is it. ENOENT: there is no chain for NAT, or no
    /// expression for it (`nf_tables_newtable`, `nft_table_lookup`, `nf_tables_newchain`,
    /// `nft_expr_type_get` in nf_tables_api.c).
    pub fn without_table(error: Errno) -> Self {
        match error {
            Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EINVAL | Errno::ENOENT => {
                Self::Missing
            }
            Errno::EPERM | Errno::EEXIST => Self::Taken(error),
            error => Self::Refused(error),
        }
    }
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
    /// Why nf_tables makes no table that ends with the process that has made it.
    pub rules: Rules,
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
            rules: Rules::Unknown,
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
    fn only_some_errors_show_a_kernel_without_rules() {
        for (found, expected) in [
            (
                Rules::without_socket(Errno::EPROTONOSUPPORT),
                Rules::Missing,
            ),
            (
                Rules::without_socket(Errno::EPERM),
                Rules::Refused(Errno::EPERM),
            ),
            (
                Rules::without_socket(Errno::EMFILE),
                Rules::Refused(Errno::EMFILE),
            ),
            (Rules::without_table(Errno::EOPNOTSUPP), Rules::Missing),
            (Rules::without_table(Errno::EINVAL), Rules::Missing),
            (Rules::without_table(Errno::ENOENT), Rules::Missing),
            (
                Rules::without_table(Errno::EPERM),
                Rules::Taken(Errno::EPERM),
            ),
            (
                Rules::without_table(Errno::EEXIST),
                Rules::Taken(Errno::EEXIST),
            ),
            (
                Rules::without_table(Errno::ENOMEM),
                Rules::Refused(Errno::ENOMEM),
            ),
        ] {
            assert_eq!(found, expected);
        }
    }

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
