//! Resolvers on loopback, which inner containers cannot reach. In the `resolv.conf` of containers
//! on the default bridge and of builds, dockerd replaces them by public ones (`FilterResolvDNS` in
//! moby's libnetwork/resolvconf, `GetResolvConf` in BuildKit's executor/oci). So a DNS forwarder
//! listens on the default bridge's address in this network namespace, which inner containers of
//! every network and every level below can reach.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::inputs::Inputs;
use super::network;
use crate::messages::finding::Finding;

/// The address of systemd-resolved: systemd-resolved.service(8).
const SYSTEMD: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));

const LINK: &str = "README.md#what-a-start-changes";

/// The addresses of the DNS forwarder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarder {
    /// The address that inner containers query. No interface may have it until dockerd makes its
    /// default bridge.
    pub listen: Ipv4Addr,
    /// The resolvers that inner containers cannot reach, in the order of `resolv.conf`.
    pub upstreams: Vec<IpAddr>,
}

impl fmt::Display for Forwarder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let upstreams: Vec<String> = self.upstreams.iter().map(IpAddr::to_string).collect();
        write!(
            formatter,
            "DNS queries to {} go to {}",
            self.listen,
            upstreams.join(", then ")
        )
    }
}

/// The part of a plan that is about resolvers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// The DNS forwarder that runs beside the daemons.
    pub forwarder: Option<Forwarder>,
    /// dockerd's arguments: `--dns`, `--dns-opt` and `--dns-search`.
    pub arguments: Vec<OsString>,
    /// The choice and its reason: a finding of severity note.
    pub note: Option<Finding>,
}

/// Decides whether a DNS forwarder is needed. The result is empty if no resolver is on loopback,
/// if the user has set `--dns` or `DIND_DNS=off`, or if there is no address to listen on.
pub fn plan(inputs: Inputs<'_>) -> Resolver {
    let Inputs {
        config,
        options,
        facts,
        ..
    } = inputs;
    let resolvers = &facts.networks.resolvers;
    let upstreams: Vec<IpAddr> = resolvers
        .iter()
        .copied()
        .filter(|resolver| resolver.is_loopback())
        .collect();
    // An engine in a user namespace has another one: `plan::rootless`.
    let has_own = inputs.rootless().is_some();
    if !config.dns || options.dns_set || upstreams.is_empty() || has_own {
        return Resolver::default();
    }
    let Some(listen) = address(inputs) else {
        return Resolver::default();
    };
    let mut asked: Vec<IpAddr> = Vec::new();
    for resolver in resolvers {
        let resolver = if resolver.is_loopback() {
            IpAddr::V4(listen)
        } else {
            *resolver
        };
        if !asked.contains(&resolver) {
            asked.push(resolver);
        }
    }
    let servers = asked
        .iter()
        .map(|address| format!("--dns={address}").into());
    let mut arguments: Vec<OsString> = servers.collect();
    // dockerd then reads options and search domains from systemd's other resolv.conf, which does
    // not exist in a container (`Path` in libnetwork's resolvconf).
    let elsewhere = resolvers.as_slice() == [SYSTEMD];
    if !options.dns_options_set {
        let given = resolver_options(&facts.networks.resolver_options, elsewhere);
        arguments.extend(
            given
                .iter()
                .map(|option| format!("--dns-opt={option}").into()),
        );
    }
    if elsewhere && !options.dns_search_set {
        let domains = facts.networks.search_domains.iter();
        let domains = domains.filter(|domain| is_domain(domain));
        arguments.extend(domains.map(|domain| format!("--dns-search={domain}").into()));
    }
    let names: Vec<String> = upstreams.iter().map(IpAddr::to_string).collect();
    let seen = format!(
        "dns: inner containers query the DNS forwarder on {listen}, since they cannot reach {} on loopback",
        names.join(" and ")
    );
    Resolver {
        note: Some(Finding::note("dns-forwarder", seen, LINK)),
        arguments,
        forwarder: Some(Forwarder { listen, upstreams }),
    }
}

/// Whether all resolvers are on loopback, and there is neither a DNS forwarder nor `--dns`.
pub fn is_out_of_reach(inputs: Inputs<'_>) -> bool {
    let resolvers = &inputs.facts.networks.resolvers;
    let has_other = inputs.config.dns && inputs.rootless().is_some();
    !inputs.options.dns_set
        && !has_other
        && !resolvers.is_empty()
        && resolvers.iter().all(IpAddr::is_loopback)
        && plan(inputs).forwarder.is_none()
}

/// The default bridge's address, if it is known before dockerd makes the bridge, else a private
/// address of this container. On a public one anyone could query the forwarder.
fn address(inputs: Inputs<'_>) -> Option<Ipv4Addr> {
    let Inputs { options, facts, .. } = inputs;
    let bridge = || {
        let block = network::block(&facts.networks).filter(|_| !options.addresses_set)?;
        Some(network::bridge_address(block))
    };
    let own = || {
        let mut addresses = facts.addresses.iter().filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        addresses.find(Ipv4Addr::is_private)
    };
    options.bridge_address.or_else(bridge).or_else(own)
}

/// Whether dockerd accepts a search domain. It does not start with one that it rejects, such as
/// one with an underscore (`ValidateDNSSearch` in docker's opts).
fn is_domain(domain: &str) -> bool {
    let is_label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        label.bytes().all(plain)
            && !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let has_letter = domain.bytes().any(|byte| byte.is_ascii_alphabetic());
    let mut labels = domain.strip_suffix('.').unwrap_or(domain).split('.');
    has_letter && labels.all(is_label)
}

/// The options for dockerd's `--dns-opt`. With `all`, dockerd does not see the file they are in,
/// and gets all of those in `found`; without, it gets some only if `ndots:0` is among them. Docker
/// writes `ndots:0` beside its own 127.0.0.11, and an inner dockerd that finds `ndots` of any
/// value does not forward names without a dot from its own networks (`NdotsSet` in libnetwork's
/// resolver.go), so the services of an outer project would not resolve.
pub fn resolver_options(found: &[String], all: bool) -> Vec<String> {
    let hides = |option: &&String| *option == "ndots:0";
    let hidden = found.iter().any(|option| hides(&option));
    if !hidden && !all {
        return Vec::new();
    }
    let others = found.iter().filter(|option| !hides(option));
    let mut others: Vec<String> = others.cloned().collect();
    if hidden && others.is_empty() {
        // Without any, dockerd would use those of the file. This one is the default in
        // resolv.conf(5).
        others.push("attempts:2".to_owned());
    }
    others
}
