//! Resolvers on loopback, which inner containers cannot reach: dockerd leaves them out of
//! the default bridge's and of builds' `resolv.conf` and takes public ones (`FilterResolvDNS`
//! in moby's libnetwork/resolvconf, `GetResolvConf` in BuildKit's executor/oci). So queries
//! are forwarded to them, from an address that inner containers of every network and every
//! level below reach: that of the default bridge, which is this network namespace's own.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::inputs::Inputs;
use super::network;
use crate::messages::finding::Finding;

/// systemd-resolved's, by systemd-resolved.service(8).
const SYSTEMD: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));

const LINK: &str = "README.md#what-a-start-changes";

/// Where DNS queries are taken, and who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarder {
    /// The address that inner containers ask. Nothing has it before dockerd makes its
    /// default bridge.
    pub listen: Ipv4Addr,
    /// The resolvers on loopback, in the order of `resolv.conf`.
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

/// What is done about the resolvers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// What runs beside the daemons.
    pub forwarder: Option<Forwarder>,
    /// dockerd's arguments for it.
    pub arguments: Vec<OsString>,
    /// What was chosen, and why: a finding of severity note.
    pub note: Option<Finding>,
}

/// Decides. Nothing, where no resolver is on loopback or the user has named others for
/// containers.
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
    if !config.dns || options.dns_set || upstreams.is_empty() {
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
    // dockerd then takes what else resolv.conf says from systemd's other file, which is not
    // in a container (`Path` in libnetwork's resolvconf).
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
        "dns: inner containers ask {listen}, and from there their queries go to {} on loopback, which they do not reach",
        names.join(" and ")
    );
    Resolver {
        note: Some(Finding::note("dns-forwarder", seen, LINK)),
        arguments,
        forwarder: Some(Forwarder { listen, upstreams }),
    }
}

/// Whether all resolvers are on loopback and nothing is done about it.
pub fn is_out_of_reach(inputs: Inputs<'_>) -> bool {
    let resolvers = &inputs.facts.networks.resolvers;
    !inputs.options.dns_set
        && !resolvers.is_empty()
        && resolvers.iter().all(IpAddr::is_loopback)
        && plan(inputs).forwarder.is_none()
}

/// The default bridge's address, where it is known before there is a bridge; else one that
/// this container has already. Only a private one: on another, everybody might ask.
fn address(inputs: Inputs<'_>) -> Option<Ipv4Addr> {
    let Inputs { options, facts, .. } = inputs;
    let ours = || {
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
    options.bridge_address.or_else(ours).or_else(own)
}

/// Whether dockerd takes a search domain: it would not start with another, as with an
/// underscore (`ValidateDNSSearch` in docker's opts).
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

/// The options for dockerd's `--dns-opt`: `all` of those found where it does not see them,
/// else none, unless names without a dot would be kept from this resolver. Docker writes
/// `ndots:0` beside its own 127.0.0.11, and an inner dockerd that finds `ndots` there, at
/// whatever number, does not forward such names from a network of its own (`NdotsSet` in
/// libnetwork's resolver.go): the services of an outer project would have no addresses.
fn resolver_options(found: &[String], all: bool) -> Vec<String> {
    let hides = |option: &&String| *option == "ndots:0";
    let hidden = found.iter().any(|option| hides(&option));
    if !hidden && !all {
        return Vec::new();
    }
    let others = found.iter().filter(|option| !hides(option));
    let mut others: Vec<String> = others.cloned().collect();
    if hidden && others.is_empty() {
        // With none dockerd would take those of the file; this is the default in
        // resolv.conf(5).
        others.push("attempts:2".to_owned());
    }
    others
}
