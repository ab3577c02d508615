//! The inner engine's addresses and MTU: addresses that no route or resolver of this container
//! uses, and no larger packets than the default route's interface takes.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::Path;

use super::inputs::Inputs;
use super::own_network::OwnNetwork;
use super::rootless_driver;
use crate::facts::network::{Network, Networks, USUAL_MTU};
use crate::input::config::Mtu;
use crate::messages::finding::Finding;

/// The blocks of 65,536 addresses in the order in which levels of nesting take them, one each:
/// those of dockerd's own defaults, then some of 10.0.0.0/8 for deeper levels.
fn blocks() -> impl Iterator<Item = Network> {
    let defaults = (17..=31).map(|second| [172, second, 0, 0]);
    let deeper = (224..=255).map(|second| [10, second, 0, 0]);
    defaults.chain(deeper).map(|address| Network {
        address: address.into(),
        prefix: 16,
    })
}

/// The prefix length of an inner network: a block has 64 networks of 1022 hosts, and the first
/// is the default bridge's.
const NETWORK_PREFIX: u8 = 22;

/// Returns dockerd's arguments for addresses and MTU, without those for options that the user
/// has set.
pub fn arguments(inputs: Inputs<'_>) -> Vec<OsString> {
    let networks = &inputs.facts.networks;
    let options = inputs.options;
    let mut arguments = Vec::new();
    let block = block(networks).filter(|_| !options.addresses_set);
    if networks.neighbour && !options.addresses_set {
        // Without a bridge of its own, dockerd would take that of the other engine.
        let bridge = block.map_or("none", |_| networks.own_bridge.as_str());
        arguments.push(format!("--bridge={bridge}").into());
        for (is_set, flag) in [
            (options.iptables_set, "--iptables=false"),
            (options.ip6tables_set, "--ip6tables=false"),
        ] {
            arguments.extend((!is_set).then(|| flag.into()));
        }
        // With a pool, dockerd removes the interface docker0 when it starts again, whatever its own
        // bridge is (`configureNetworking` in moby's daemon_unix.go). Without one, it takes addresses
        // that no route has.
    } else if let Some(block) = block {
        let bridge = bridge_address(block);
        arguments.push(format!("--bip={bridge}/{NETWORK_PREFIX}").into());
        arguments.push(
            format!(
                "--default-address-pool=base={}/{},size={NETWORK_PREFIX}",
                block.address, block.prefix
            )
            .into(),
        );
    }
    if let Some(mtu) = mtu(inputs) {
        arguments.push(format!("--mtu={mtu}").into());
        if networks.default_network_opt {
            let option = "bridge=com.docker.network.driver.mtu";
            arguments.push(format!("--default-network-opt={option}={mtu}").into());
        }
    }
    arguments
}

/// Returns the default bridge of an engine beside another one. `first` is the directory that comes
/// first in the daemons' `PATH`.
pub fn own(inputs: Inputs<'_>, first: Option<&Path>) -> Option<OwnNetwork> {
    let Inputs {
        config,
        options,
        facts,
        ..
    } = inputs;
    let networks = &facts.networks;
    let beside = networks.neighbour && !options.addresses_set;
    let block = block(networks).filter(|_| beside)?;
    let mut search_path = OsString::new();
    if let Some(first) = first {
        search_path.push(first);
        search_path.push(":");
    }
    search_path.push(&config.search_path);
    Some(OwnNetwork {
        bridge: networks.own_bridge.clone(),
        address: bridge_address(block),
        prefix: NETWORK_PREFIX,
        filters: !options.iptables_set,
        filters_made: !networks.hosts,
        search_path,
    })
}

/// Returns the warning about another engine in this network namespace.
pub fn warning(inputs: Inputs<'_>) -> Option<Finding> {
    const LINK: &str = "README.md#troubleshooting";
    const REMEDY: &str = "give this container a network of its own: no --network=host, no --network=container:…, a pod for each engine";
    let Inputs { options, facts, .. } = inputs;
    let networks = &facts.networks;
    let seen = match own(inputs, None) {
        Some(OwnNetwork {
            bridge,
            filters: true,
            filters_made,
            ..
        }) => {
            let made = match filters_made {
                true => "networks are not isolated from each other",
                false => "networks that you make have no way out",
            };
            format!(
                "another Docker engine is in this network namespace, so one that starts here uses the bridge {bridge} and makes no iptables rules: docker-proxy serves published ports, and {made}"
            )
        }
        Some(OwnNetwork { bridge, .. }) if options.iptables_off => format!(
            "another Docker engine is in this network namespace, so one that starts here uses the bridge {bridge}"
        ),
        Some(OwnNetwork { bridge, .. }) => format!(
            "another Docker engine is in this network namespace, so one that starts here uses the bridge {bridge}; as you chose iptables, both use the same chains, and each empties them when it starts"
        ),
        None if networks.neighbour && !options.addresses_set => "another Docker engine is in this network namespace, and a route leads to every block of addresses, so one that starts here has no default bridge and makes no iptables rules".to_owned(),
        None if options.iptables_off => return None,
        None => "another Docker engine is in this network namespace, and both use the same iptables chains, and each empties them when it starts".to_owned(),
    };
    networks
        .neighbour
        .then(|| Finding::warning("engine-beside", seen, LINK).remedy(REMEDY))
}

/// Returns the MTU for inner networks, in bytes. `None` where the user has set it for dockerd,
/// or dockerd's default is right.
pub fn mtu(inputs: Inputs<'_>) -> Option<u32> {
    let Inputs { config, facts, .. } = inputs;
    let networks = &facts.networks;
    let mtu = match (inputs.rootless_network(), config.mtu) {
        (Some(choice), _) => rootless_driver::mtu(&choice, networks, config),
        (None, Mtu::Off) => None,
        (None, Mtu::Bytes(bytes)) => Some(bytes.into()),
        (None, Mtu::Auto) => networks.mtu.filter(|mtu| *mtu != USUAL_MTU),
    };
    mtu.filter(|_| !inputs.options.mtu_set)
}

/// Returns the default bridge's address in `block`: the first host address.
pub fn bridge_address(block: Network) -> Ipv4Addr {
    Ipv4Addr::from_bits(block.address.to_bits() | 1)
}

/// Returns the block for this level: the first after every block that a route or a resolver is
/// in. The levels above took their blocks in the same order, so theirs come before the block of
/// this container's own network, and stay reachable although no route here shows them. The same
/// routes give the same block at each restart. `None` where all blocks are taken.
pub fn block(networks: &Networks) -> Option<Network> {
    let routes: Vec<Network> = networks
        .routes
        .iter()
        // Without another engine here, these are bridges of an earlier start.
        .filter(|route| {
            networks.neighbour
                || (route.interface != "docker0"
                    && !["br-", "dind-"]
                        .iter()
                        .any(|start| route.interface.starts_with(start)))
        })
        .map(|route| route.network)
        .collect();
    let resolvers = networks.resolver_networks();
    let in_sight: Vec<Network> = resolvers.chain(routes.iter().copied()).collect();
    let is_taken = |block: &Network| in_sight.iter().any(|network| block.overlaps(*network));
    let blocks: Vec<Network> = blocks().collect();
    // The bridge of an earlier start keeps its addresses.
    let own = networks
        .routes
        .iter()
        .find(|route| networks.neighbour && route.interface == networks.own_bridge);
    let kept = |block: &&Network| own.is_some_and(|own| block.overlaps(own.network));
    if let Some(block) = blocks.iter().find(kept) {
        return Some(*block);
    }
    // Only routes within a block show a level: a resolver may be in any block, and a route
    // to all private addresses covers many.
    let level = blocks.iter().rposition(|block| {
        routes
            .iter()
            .any(|network| network.prefix >= block.prefix && block.overlaps(*network))
    });
    let after = level.map_or(0, |level| level + 1);
    let mut free = blocks.iter().skip(after).filter(|block| !is_taken(block));
    free.next()
        .copied()
        .or_else(|| blocks.into_iter().find(|block| !is_taken(block)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::network::Route;
    use proptest::prelude::*;

    fn seen(networks: &[([u8; 4], u8)]) -> Networks {
        Networks {
            routes: networks
                .iter()
                .map(|(address, prefix)| Route {
                    interface: "eth0".into(),
                    network: Network {
                        address: (*address).into(),
                        prefix: *prefix,
                    },
                })
                .collect(),
            ..Networks::default()
        }
    }

    fn base(networks: &Networks) -> Option<Ipv4Addr> {
        block(networks).map(|block| block.address)
    }

    #[test]
    fn a_level_comes_after_the_one_that_it_is_in() {
        for (networks, expected) in [
            (seen(&[]), [172, 17, 0, 0]),
            (seen(&[([172, 17, 0, 0], 16)]), [172, 18, 0, 0]),
            (seen(&[([172, 18, 0, 0], 22)]), [172, 19, 0, 0]),
            (
                seen(&[([172, 20, 8, 0], 22), ([172, 18, 0, 0], 16)]),
                [172, 21, 0, 0],
            ),
            (seen(&[([172, 31, 0, 0], 22)]), [10, 224, 0, 0]),
            (seen(&[([172, 16, 0, 0], 12)]), [10, 224, 0, 0]),
            (seen(&[([192, 168, 1, 0], 24)]), [172, 17, 0, 0]),
        ] {
            assert_eq!(base(&networks), Some(expected.into()), "{networks:?}");
        }
        let mut resolver = seen(&[([172, 17, 0, 0], 16)]);
        resolver.resolvers = vec![[172, 18, 0, 53].into()];
        assert_eq!(base(&resolver), Some(Ipv4Addr::new(172, 19, 0, 0)));
        resolver.resolvers = vec![[10, 255, 255, 53].into()];
        assert_eq!(base(&resolver), Some(Ipv4Addr::new(172, 18, 0, 0)));
        assert_eq!(base(&seen(&[([128, 0, 0, 0], 1), ([0, 0, 0, 0], 1)])), None);
    }

    #[test]
    fn forty_levels_have_blocks_of_their_own() {
        let mut levels = vec![seen(&[([172, 17, 0, 0], 16)])];
        let mut taken = std::collections::BTreeSet::new();
        while levels.len() < 40 {
            let block = levels.last().and_then(block);
            let Some(block) = block else {
                panic!("no block at level {}", levels.len());
            };
            assert!(taken.insert(block), "{block:?} twice");
            levels.push(seen(&[(block.address.octets(), NETWORK_PREFIX)]));
        }
    }

    #[test]
    fn beside_another_engine_its_bridges_are_taken_and_the_own_one_stays() {
        let route = |interface: &str, second| Route {
            interface: interface.into(),
            network: Network {
                address: [172, second, 0, 0].into(),
                prefix: 22,
            },
        };
        let mut networks = Networks {
            routes: vec![route("docker0", 17), route("br-0123456789ab", 18)],
            neighbour: true,
            own_bridge: "dind-0".into(),
            ..Networks::default()
        };
        assert_eq!(base(&networks), Some(Ipv4Addr::new(172, 19, 0, 0)));
        networks.routes.push(route("dind-0", 19));
        networks.routes.push(route("br-0123456789ac", 20));
        assert_eq!(base(&networks), Some(Ipv4Addr::new(172, 19, 0, 0)));
        networks.own_bridge = "dind-1".into();
        assert_eq!(base(&networks), Some(Ipv4Addr::new(172, 21, 0, 0)));
    }

    #[test]
    fn the_bridges_of_an_earlier_start_are_its_own() {
        let mut networks = seen(&[([172, 17, 0, 0], 16), ([172, 18, 0, 0], 22)]);
        for (route, interface) in networks
            .routes
            .iter_mut()
            .zip(["docker0", "br-0123456789ab"])
        {
            route.interface = interface.into();
        }
        assert_eq!(base(&networks), Some(Ipv4Addr::new(172, 17, 0, 0)));
    }

    proptest! {
        #[test]
        fn a_block_never_overlaps_a_route(networks in proptest::collection::vec((any::<[u8; 4]>(), 1_u8..=32), 0..6)) {
            let networks = seen(&networks);
            if let Some(block) = block(&networks) {
                for route in &networks.routes {
                    prop_assert!(!block.overlaps(route.network));
                }
            }
        }
    }
}
