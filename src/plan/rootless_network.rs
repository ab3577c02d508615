//! The network of an engine in a user namespace: its addresses, its resolvers, and how it is connected
//! with that of this container.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::action::{Action, OnFailure, Step};
use super::engine::{Connector, Program};
use super::inputs::Inputs;
use super::mode::LINK;
use super::namespaces::{Ends, Veth};
use super::resolver::{self, Forwarder};
use super::rootless_driver::{Choice, mtu};
use crate::facts::nat::{Ipv6, Switch};
use crate::facts::network::{Network, Networks, USUAL_MTU};
use crate::facts::rootless::Rootless;
use crate::input::config::{Config, RootlessNetwork};
use crate::messages::finding::Finding;
use crate::sys::nat::Family;

/// The network interface inside that slirp4netns and pasta make.
const TAP: &str = "tap0";

/// From so many bytes on the way, pasta takes no acknowledgement of all of them: `MAX_WINDOW`, and
/// `SEQ_GE` in `tcp_data_from_tap` (passt's tcp_internal.h and tcp.c of 2025-05 and of 2026-07). It sends
/// no more than its socket's receive buffer holds, in which every byte costs more than one.
const PASTA_WINDOW: u64 = 1 << 24;

/// The resolv.conf(5) of the namespaces, where one of this container's resolvers is out of reach.
const RESOLV_CONF: &str = "/run/dind/resolv.conf";

/// Returns the veth pair, if that is the driver.
pub fn veth(
    choice: &Choice,
    rootless: &Rootless,
    networks: &Networks,
    config: &Config,
) -> Option<Veth> {
    if choice.driver != RootlessNetwork::Veth {
        return None;
    }
    let net = Net::free(networks);
    let [here, inside] = [net.gateway(), net.address()];
    let mut addresses = vec![Ends {
        here: here.into(),
        inside: inside.into(),
        prefix: net.0.prefix,
    }];
    if has_ipv6(rootless) {
        let [here, inside] = net.ipv6();
        addresses.push(Ends {
            here: here.into(),
            inside: inside.into(),
            prefix: 64,
        });
    }
    Some(Veth {
        name: networks.own_bridge.clone(),
        inside: "eth0",
        mtu: mtu(choice, networks, config).unwrap_or(USUAL_MTU),
        addresses,
    })
}

/// The choice, for the note of a start.
pub fn shown(choice: &Choice, net: Net) -> String {
    let Choice { driver, reason, .. } = choice;
    let mut text = match driver {
        RootlessNetwork::Veth => format!("its network is {net}, a veth pair with NAT by nf_tables"),
        driver => format!("its network is {net} behind {}", driver.name()),
    };
    if let Some(reason) = reason {
        text.push_str(&format!(", and no veth pair, since {reason}"));
    }
    text
}

/// Returns the warning that connections may stall: a receive buffer holds more than pasta can count.
pub fn warning(inputs: Inputs<'_>) -> Option<Finding> {
    let (rootless, _) = inputs.rootless()?;
    let driver = inputs.rootless_network()?.driver;
    let bytes = rootless.receive_buffer?;
    let stalls = driver == RootlessNetwork::Pasta && bytes > PASTA_WINDOW;
    let seen = format!(
        "rootless: pasta may leave a fast connection to an inner container without data for good, since \
         net.ipv4.tcp_rmem lets {bytes} bytes be on the way"
    );
    stalls.then(|| {
        Finding::warning("rootless-pasta", seen, LINK).remedy(format!(
            "start the container with --sysctl 'net.ipv4.tcp_rmem=4096 131072 {PASTA_WINDOW}', or choose \
             another driver with DIND_ROOTLESS_NETWORK"
        ))
    })
}

/// Whether a veth pair has IPv6: where there is a way out that stays when this network namespace
/// forwards.
fn has_ipv6(rootless: &Rootless) -> bool {
    rootless.nat.ipv6_route == Ipv6::Set && rootless.nat.ipv6 != Switch::Fixed
}

/// The steps before a veth pair is of use: this network namespace has to forward. Where it does already,
/// what else it forwards is its owner's choice.
pub fn forwarding(choice: &Choice, rootless: &Rootless) -> Vec<Step> {
    if choice.driver != RootlessNetwork::Veth {
        return Vec::new();
    }
    let lost = "the engine's network leads nowhere without forwarding";
    let remedy = "set DIND_ROOTLESS_NETWORK=slirp4netns";
    let fatal = OnFailure::Fatal { lost, remedy };
    let ipv6 = rootless.nat.ipv6 == Switch::Off && has_ipv6(rootless);
    [
        (Family::Ipv4, rootless.nat.ipv4 == Switch::Off, fatal),
        (Family::Ipv6, ipv6, OnFailure::Warn),
    ]
    .into_iter()
    .filter(|(_, is_off, _)| *is_off)
    .map(|(family, _, on_failure)| Step {
        action: Action::Forward { family },
        on_failure,
        why: "what comes from the engine's network is forwarded".into(),
    })
    .collect()
}

/// The first of the networks that an interface may have.
const FIRST: Network = Network {
    address: Ipv4Addr::new(10, 0, 2, 0),
    prefix: 24,
};

/// Returns the networks that an interface may have, best first: those that are free.
pub fn candidates(networks: &Networks) -> Vec<Network> {
    let taken = |candidate: &Network| {
        let routes = networks.routes.iter().map(|route| route.network);
        let mut used = routes.chain(networks.resolver_networks());
        used.any(|used| candidate.overlaps(used))
    };
    let all = (2..=255).map(|third| Network {
        address: Ipv4Addr::new(10, 0, third, 0),
        ..FIRST
    });
    let free: Vec<Network> = all.clone().filter(|candidate| !taken(candidate)).collect();
    match free.is_empty() {
        // Where a route leads to all of 10.0.0.0/8, the interface's own is the narrower one.
        true => all.collect(),
        false => free,
    }
}

/// The network of the interface: one in which neither a route nor a resolver of this container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net(Network);

impl Net {
    /// The one that is claimed, else the first one that is free.
    pub fn free(networks: &Networks) -> Self {
        let first = || candidates(networks).first().copied();
        Self(networks.claimed.or_else(first).unwrap_or(FIRST))
    }

    /// The address of the interface inside.
    pub fn address(self) -> Ipv4Addr {
        self.host(100)
    }

    /// The address of the way out.
    fn gateway(self) -> Ipv4Addr {
        self.host(2)
    }

    /// The address at which the DNS forwarder answers. slirp4netns would do so there, too, and ask one
    /// resolver, if it has an IPv4 address (`get_dns_addr` in libslirp's src/slirp.c).
    fn resolver(self) -> Ipv4Addr {
        self.host(3)
    }

    /// The addresses of the gateway and of the interface inside, of a network of IPv6 that no other
    /// engine here has: RFC 4193.
    fn ipv6(self) -> [Ipv6Addr; 2] {
        let [_, _, third, _] = self.0.address.octets();
        let prefix = [0xfd64, 0x696e, 0x6400, u16::from(third)];
        let [a, b, c, d] = prefix;
        [2, 0x100].map(|host| Ipv6Addr::new(a, b, c, d, 0, 0, 0, host))
    }

    fn host(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0.address.to_bits() | number)
    }
}

impl fmt::Display for Net {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.0.address, self.0.prefix)
    }
}

/// Returns the program that connects the networks; `None` for a veth pair.
pub fn connector(
    choice: &Choice,
    rootless: &Rootless,
    networks: &Networks,
    config: &Config,
    environment: &[(OsString, OsString)],
) -> Option<Connector> {
    let path = choice.program.clone()?;
    let net = Net::free(networks);
    let mtu = mtu(choice, networks, config).unwrap_or(USUAL_MTU);
    let has_ipv6 = rootless.nat.ipv6_route != Ipv6::None;
    let on_standard = choice.driver == RootlessNetwork::Pasta;
    let arguments = match on_standard {
        true => pasta(net, mtu),
        false => slirp4netns(net, mtu, has_ipv6),
    };
    Some(Connector {
        program: Program {
            path,
            arguments: arguments.into_iter().map(OsString::from).collect(),
            environment: environment.to_vec(),
            oom_score_adj: 0,
        },
        on_standard,
    })
}

fn slirp4netns(net: Net, mtu: u32, has_ipv6: bool) -> Vec<String> {
    let mut arguments = vec!["--configure".to_owned()];
    arguments.extend(has_ipv6.then(|| "--enable-ipv6".to_owned()));
    arguments.extend([
        format!("--mtu={mtu}"),
        format!("--cidr={net}"),
        // Else the gateway's address leads to what listens on loopback here.
        "--disable-host-loopback".to_owned(),
        "--netns-type=path".to_owned(),
        "--userns-path=/proc/self/fd/3".to_owned(),
        "/proc/self/fd/4".to_owned(),
        TAP.to_owned(),
    ]);
    arguments
}

/// pasta closes all descriptors but the first three (`close_open_files` in its util.c). IPv6 is there
/// where this container has it.
fn pasta(net: Net, mtu: u32) -> Vec<String> {
    let mut arguments = ["--foreground", "--quiet", "--config-net"]
        .map(str::to_owned)
        .to_vec();
    // No port of either side is forwarded to the other, nor the gateway's address to loopback here.
    for flag in ["--tcp-ports", "--udp-ports", "--tcp-ns", "--udp-ns"] {
        arguments.extend([flag.to_owned(), "none".to_owned()]);
    }
    arguments.push("--no-map-gw".to_owned());
    for (flag, value) in [
        ("--mtu", mtu.to_string()),
        ("--address", net.address().to_string()),
        ("--netmask", net.0.prefix.to_string()),
        ("--gateway", net.gateway().to_string()),
        ("--ns-ifname", TAP.to_owned()),
        ("--userns", "/proc/self/fd/0".to_owned()),
        ("--netns", "/proc/self/fd/1".to_owned()),
    ] {
        arguments.extend([flag.to_owned(), value]);
    }
    arguments.push("--no-netns-quit".to_owned());
    arguments
}

/// Returns the DNS forwarder, which listens in the namespaces and asks outside of them; `None` where
/// every resolver can be reached from inside.
pub fn forwarder(networks: &Networks, config: &Config) -> Option<Forwarder> {
    let resolvers = networks.resolvers.iter().copied();
    let upstreams: Vec<IpAddr> = resolvers.filter(is_out_of_reach).collect();
    let is_needed = config.dns && !upstreams.is_empty();
    is_needed.then(|| Forwarder {
        listen: Net::free(networks).resolver(),
        upstreams,
    })
}

/// Whether a resolver is asked from outside: one on loopback, and one of IPv6, which there may be no
/// way to from inside.
fn is_out_of_reach(resolver: &IpAddr) -> bool {
    resolver.is_loopback() || resolver.is_ipv6()
}

/// What is said of it.
pub fn forwards(forwarder: &Forwarder) -> Finding {
    let Forwarder { listen, upstreams } = forwarder;
    let names: Vec<String> = upstreams.iter().map(IpAddr::to_string).collect();
    let seen = format!(
        "dns: the engine and inner containers query the DNS forwarder on {listen}, since they cannot reach {}",
        names.join(" and ")
    );
    Finding::note("dns-forwarder", seen, LINK)
}

/// The steps inside that give the namespaces a resolv.conf(5) with the forwarder.
pub fn resolvers(forwarder: &Forwarder, networks: &Networks) -> Vec<Step> {
    let path = Path::new(RESOLV_CONF);
    let actions = [
        Action::Directory {
            path: path.parent().unwrap_or(path).to_owned(),
            mode: 0o755,
        },
        Action::Write {
            path: path.to_owned(),
            content: resolv_conf(forwarder, networks),
        },
        Action::Bind {
            source: path.to_owned(),
            target: "/etc/resolv.conf".into(),
        },
    ];
    let steps = actions.map(|action| Step {
        action,
        on_failure: OnFailure::Warn,
        why: "the DNS forwarder asks the resolvers that cannot be reached from another network namespace".into(),
    });
    steps.into()
}

fn resolv_conf(forwarder: &Forwarder, networks: &Networks) -> String {
    let mut resolvers: Vec<IpAddr> = Vec::new();
    for resolver in &networks.resolvers {
        let resolver = match is_out_of_reach(resolver) {
            true => forwarder.listen.into(),
            false => *resolver,
        };
        if !resolvers.contains(&resolver) {
            resolvers.push(resolver);
        }
    }
    let mut text: String = resolvers
        .iter()
        .map(|resolver| format!("nameserver {resolver}\n"))
        .collect();
    let options = resolver::resolver_options(&networks.resolver_options, true);
    for (keyword, words) in [("search", &networks.search_domains), ("options", &options)] {
        if !words.is_empty() {
            text.push_str(&format!("{keyword} {}\n", words.join(" ")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::network::Route;
    use crate::plan::mode::tests::enough;

    fn choice(driver: RootlessNetwork) -> Choice {
        Choice {
            driver,
            program: (driver != RootlessNetwork::Veth).then(|| "/usr/bin/program".into()),
            reason: None,
        }
    }

    fn networks() -> Networks {
        Networks {
            routes: vec![Route {
                interface: "eth0".into(),
                network: Network {
                    address: [10, 0, 2, 0].into(),
                    prefix: 24,
                },
            }],
            resolvers: vec![[127, 0, 0, 11].into(), [192, 0, 2, 1].into()],
            own_bridge: "dind-0a1b2c3d".into(),
            mtu: Some(1400),
            ..Networks::default()
        }
    }

    fn with_ipv6(route: Ipv6, forwards: Switch) -> Rootless {
        let mut rootless = enough();
        (rootless.nat.ipv6_route, rootless.nat.ipv6) = (route, forwards);
        rootless
    }

    #[test]
    fn a_veth_pair_has_addresses_of_its_own() {
        let config = Config::read([], []);
        let choice = choice(RootlessNetwork::Veth);
        let shown = |rootless: &Rootless| {
            let veth = veth(&choice, rootless, &networks(), &config);
            veth.map(|veth| veth.to_string()).unwrap_or_default()
        };
        let start = "ip link add dind-0a1b2c3d mtu 1400 type veth peer eth0 mtu 1400, 10.0.3.2/24 and 10.0.3.100/24";
        let end = "; nf_tables masquerades what comes from dind-0a1b2c3d, until dind ends";
        let more = ", fd64:696e:6400:3::2/64 and fd64:696e:6400:3::100/64";
        for (route, forwards, expected) in [
            (Ipv6::None, Switch::On, ""),
            (Ipv6::Announced, Switch::On, ""),
            (Ipv6::Set, Switch::Fixed, ""),
            (Ipv6::Set, Switch::Off, more),
        ] {
            let found = shown(&with_ipv6(route, forwards));
            assert_eq!(found, format!("{start}{expected}{end}"));
        }
    }

    #[test]
    fn a_network_that_is_claimed_is_the_one() {
        let network = |third| Network {
            address: [10, 0, third, 0].into(),
            prefix: 24,
        };
        let mut networks = networks();
        let found = candidates(&networks);
        assert_eq!(found.first(), Some(&network(3)));
        assert_eq!((found.len(), found.last()), (253, Some(&network(255))));
        assert_eq!(Net::free(&networks), Net(network(3)));
        networks.claimed = Some(network(7));
        assert_eq!(Net::free(&networks), Net(network(7)));
        networks.claimed = None;
        for route in &mut networks.routes {
            route.network.prefix = 8;
        }
        assert_eq!(candidates(&networks).len(), 254);
        assert_eq!(Net::free(&networks), Net(network(2)));
    }

    #[test]
    fn forwarding_is_turned_on_where_it_is_off() {
        let steps = |driver, ipv4, route| {
            let mut rootless = with_ipv6(route, Switch::Off);
            rootless.nat.ipv4 = ipv4;
            let steps = forwarding(&choice(driver), &rootless).into_iter();
            steps.map(|step| step.action).collect::<Vec<_>>()
        };
        let [ipv4, ipv6] = [Family::Ipv4, Family::Ipv6].map(|family| Action::Forward { family });
        let veth = RootlessNetwork::Veth;
        assert_eq!(steps(veth, Switch::Off, Ipv6::None), [ipv4]);
        assert_eq!(steps(veth, Switch::On, Ipv6::Set), [ipv6]);
        assert_eq!(steps(veth, Switch::On, Ipv6::None), []);
        let other = RootlessNetwork::Pasta;
        assert_eq!(steps(other, Switch::Off, Ipv6::Set), []);
    }

    #[test]
    fn programs_get_the_network_and_the_namespaces() {
        let config = Config::read([], []);
        let words = |driver, route| {
            let rootless = with_ipv6(route, Switch::Off);
            let choice = choice(driver);
            let connector = connector(&choice, &rootless, &networks(), &config, &[]);
            connector.map(|connector| {
                let words = connector.program.arguments.iter();
                let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
                (connector.on_standard, words.join(" "))
            })
        };
        let slirp4netns = "--mtu=21885 --cidr=10.0.3.0/24 --disable-host-loopback --netns-type=path --userns-path=/proc/self/fd/3 /proc/self/fd/4 tap0";
        assert_eq!(
            words(RootlessNetwork::Slirp4netns, Ipv6::None),
            Some((false, format!("--configure {slirp4netns}")))
        );
        assert_eq!(
            words(RootlessNetwork::Slirp4netns, Ipv6::Announced),
            Some((false, format!("--configure --enable-ipv6 {slirp4netns}")))
        );
        let pasta = "--foreground --quiet --config-net --tcp-ports none --udp-ports none --tcp-ns none --udp-ns none --no-map-gw --mtu 65520 --address 10.0.3.100 --netmask 24 --gateway 10.0.3.2 --ns-ifname tap0 --userns /proc/self/fd/0 --netns /proc/self/fd/1 --no-netns-quit";
        assert_eq!(
            words(RootlessNetwork::Pasta, Ipv6::Set),
            Some((true, pasta.to_owned()))
        );
        assert_eq!(words(RootlessNetwork::Veth, Ipv6::Set), None);
    }

    #[test]
    fn queries_for_a_resolver_out_of_reach_go_to_the_forwarder() {
        let found = forwarder(&networks(), &Config::read([], []));
        let expected = Forwarder {
            listen: [10, 0, 3, 3].into(),
            upstreams: vec![[127, 0, 0, 11].into()],
        };
        assert_eq!(found, Some(expected.clone()));
        let text = resolv_conf(&expected, &networks());
        assert_eq!(text, "nameserver 10.0.3.3\nnameserver 192.0.2.1\n");
        let reachable = Networks {
            resolvers: vec![[192, 0, 2, 1].into()],
            ..networks()
        };
        assert_eq!(forwarder(&reachable, &Config::read([], [])), None);
    }
}
