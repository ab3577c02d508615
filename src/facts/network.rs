//! The routes and resolvers of this network namespace, and the MTU of its default route.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::program_text;
use crate::input::config::Mtu;
use crate::sys::read;

/// In bytes: larger than any real resolv.conf(5), of which libc uses three name servers.
const RESOLV_CONF_LIMIT: u64 = 1 << 20;

/// An IPv4 network: an address and the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    /// The network's address; the host bits are zero.
    pub address: Ipv4Addr,
    /// The length of the prefix in bits, 0 to 32.
    pub prefix: u8,
}

impl Network {
    /// Whether there is an address that is in both networks.
    pub fn overlaps(self, other: Self) -> bool {
        let prefix = u32::from(self.prefix.min(other.prefix).min(32));
        let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
        (self.address.to_bits() ^ other.address.to_bits()) & mask == 0
    }
}

/// A route that is not a default route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The name of the interface.
    pub interface: String,
    /// The destination network.
    pub network: Network,
}

/// The routes, resolvers and MTU that the plan of the networks depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    /// The routes except default routes.
    pub routes: Vec<Route>,
    /// Whether another Docker engine is in this network namespace.
    pub neighbour: bool,
    /// Whether this is the network namespace that the host started with.
    pub hosts: bool,
    /// The name of this engine's default bridge beside another engine.
    pub own_bridge: String,
    /// The network that this process has claimed for a veth pair. Only a start claims one.
    pub claimed: Option<Network>,
    /// The name servers of `/etc/resolv.conf` in their order: resolv.conf(5).
    pub resolvers: Vec<IpAddr>,
    /// The words of its `options` line.
    pub resolver_options: Vec<String>,
    /// The words of its `search` line.
    pub search_domains: Vec<String>,
    /// The MTU of the default route's interface, in bytes. `None` where there is no default
    /// route, or its interface cannot be read.
    pub mtu: Option<u32>,
    /// Whether dockerd has `--default-network-opt`, which exists since 24.0. Checked only where
    /// an MTU is to be set.
    pub default_network_opt: bool,
}

/// A setting that the kernel shows in its first network namespace alone (`net_core_table` in
/// net/core/sysctl_net_core.c).
const HOST_ONLY: &str = "/proc/sys/net/core/dev_weight";

/// Whether this is the network namespace that the host started with.
pub fn is_hosts() -> bool {
    Path::new(HOST_ONLY).exists()
}

/// The MTU of Ethernet in bytes, which is also dockerd's default.
pub const USUAL_MTU: u32 = 1500;

impl Networks {
    /// The IPv4 resolvers, each as a network of its own.
    pub fn resolver_networks(&self) -> impl Iterator<Item = Network> {
        let resolvers = self.resolvers.iter();
        resolvers.filter_map(|resolver| match resolver {
            IpAddr::V4(address) => Some(Network {
                address: *address,
                prefix: 32,
            }),
            IpAddr::V6(_) => None,
        })
    }

    /// Reads the rest from `/proc/net/route`, `/sys/class/net` and `/etc/resolv.conf`. A file that cannot be
    /// read adds nothing. `dockerd` is the program that is searched for
    /// `--default-network-opt`; `asked` is the MTU that the user asked for, and `rootless` whether the
    /// engine has a network namespace of its own, with another MTU.
    pub fn read(dockerd: Option<&Path>, asked: Mtu, rootless: bool) -> Self {
        let text = |path: &str| read::kernel(path).unwrap_or_default();
        let (routes, default) = routes(&text("/proc/net/route"));
        let mtu = default.and_then(|interface| {
            let mtu = text(&format!("/sys/class/net/{interface}/mtu"));
            mtu.trim().parse().ok()
        });
        let resolv_conf = resolv_conf(Path::new("/etc/resolv.conf"));
        Self {
            routes,
            neighbour: false,
            hosts: is_hosts(),
            own_bridge: String::new(),
            claimed: None,
            resolvers: resolvers(&resolv_conf),
            resolver_options: resolver_words(&resolv_conf, "options"),
            search_domains: resolver_words(&resolv_conf, "search"),
            mtu,
            default_network_opt: match asked {
                Mtu::Off => false,
                Mtu::Bytes(_) => true,
                Mtu::Auto => rootless || mtu.is_some_and(|mtu| mtu != USUAL_MTU),
            } && dockerd
                .is_some_and(|path| program_text::has(path, [b"default-network-opt"]) == [true]),
        }
    }
}

/// The text of a resolv.conf(5). Empty where the file is not a regular file or cannot be read.
fn resolv_conf(path: &Path) -> String {
    let text = read::text(path, RESOLV_CONF_LIMIT).ok().flatten();
    text.unwrap_or_default()
}

/// Parses the text of `/proc/net/route` into the routes, and the interface of the default route
/// with the lowest metric. Addresses are hexadecimal, in the machine's byte order
/// (`fib_route_seq_show` in the kernel's net/ipv4/fib_trie.c).
pub fn routes(text: &str) -> (Vec<Route>, Option<String>) {
    let mut routes = Vec::new();
    let mut default: Option<(u32, &str)> = None;
    for line in text.lines().skip(1) {
        let mut fields = line.split_whitespace();
        let (Some(interface), Some(address)) = (fields.next(), fields.next().and_then(hex)) else {
            continue;
        };
        // Gateway, flags, reference count and use come between.
        let mut fields = fields.skip(4);
        let metric = fields.next().and_then(|metric| metric.parse().ok());
        let (Some(metric), Some(mask)) = (metric, fields.next().and_then(hex)) else {
            continue;
        };
        let prefix = u8::try_from(u32::from(mask).count_ones()).unwrap_or(32);
        if prefix > 0 {
            routes.push(Route {
                interface: interface.to_owned(),
                network: Network { address, prefix },
            });
        } else if default.is_none_or(|(least, _)| metric < least) {
            default = Some((metric, interface));
        }
    }
    (routes, default.map(|(_, interface)| interface.to_owned()))
}

fn hex(text: &str) -> Option<Ipv4Addr> {
    let number = u32::from_str_radix(text, 16).ok()?;
    Some(Ipv4Addr::from(number.to_ne_bytes()))
}

/// The addresses of the `nameserver` lines of resolv.conf(5). An IPv6 address with a scope is
/// left out: it is valid only in this network namespace.
pub fn resolvers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|address| address.trim().parse().ok())
        .collect()
}

/// The words of the last line of resolv.conf(5) with this keyword, the line that dockerd uses
/// (`GetOptions` and similar functions in libnetwork's resolvconf).
pub fn resolver_words(text: &str, keyword: &str) -> Vec<String> {
    let mut lines = text.lines().rev();
    let last = lines.find_map(|line| {
        let words = line.trim_start().strip_prefix(keyword)?;
        words.starts_with([' ', '\t']).then_some(words)
    });
    let words = last.unwrap_or_default().split_whitespace();
    words.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    #[test]
    fn reads_the_kernels_table() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth1\t00000000\t010011AC\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
            odd\n";
        let (routes, default) = routes(text);
        assert_eq!(default.as_deref(), Some("eth0"));
        let network = Network {
            address: Ipv4Addr::new(172, 17, 0, 0),
            prefix: 16,
        };
        let route = Route {
            interface: "eth0".into(),
            network,
        };
        assert_eq!(routes, [route]);
    }

    #[test]
    fn reads_resolv_conf() {
        let text =
            "# nameserver 1.1.1.1\nnameserver 10.0.0.2\nnameserver ::1\n nameserver\t127.0.0.11\n";
        let expected: [IpAddr; 3] = [
            [10, 0, 0, 2].into(),
            Ipv6Addr::LOCALHOST.into(),
            [127, 0, 0, 11].into(),
        ];
        assert_eq!(resolvers(text), expected);
        assert_eq!(resolver_words(text, "options"), Vec::<String>::new());
        let text = "options rotate\noptional x\n options\tedns0  ndots:0 \n#options a\n";
        assert_eq!(resolver_words(text, "options"), ["edns0", "ndots:0"]);
    }

    #[test]
    fn a_fifo_instead_of_resolv_conf_names_no_resolvers() -> std::io::Result<()> {
        let path = std::env::temp_dir().join(format!("dind-resolv-{}", std::process::id()));
        fs::write(&path, "nameserver 10.0.0.2\n")?;
        assert_eq!(
            resolvers(&resolv_conf(&path)),
            [IpAddr::from([10, 0, 0, 2])]
        );
        fs::remove_file(&path)?;
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU)?;
        let text = resolv_conf(&path);
        fs::remove_file(&path)?;
        assert_eq!(text, "");
        // The same for a file without an end.
        assert_eq!(resolv_conf(Path::new("/dev/zero")), "");
        Ok(())
    }

    #[test]
    fn networks_overlap_when_one_contains_the_other() {
        let network = |address: [u8; 4], prefix| Network {
            address: address.into(),
            prefix,
        };
        let block = network([172, 17, 0, 0], 16);
        assert!(block.overlaps(network([172, 17, 4, 0], 22)));
        assert!(block.overlaps(network([172, 16, 0, 0], 12)));
        assert!(block.overlaps(network([0, 0, 0, 0], 0)));
        assert!(!block.overlaps(network([172, 18, 0, 0], 16)));
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*") {
            let _ = routes(&text);
            let _ = resolvers(&text);
            let _ = resolver_words(&text, "options");
        }
    }
}
