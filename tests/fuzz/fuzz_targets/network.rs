//! `/proc/net/route` and `resolv.conf`: before the first line `==` the one, after it the
//! other. The inner engine's addresses follow from them.

#![no_main]

use dind::facts::network::{Network, resolver_words, resolvers, routes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (table, resolv_conf) = text.split_once("==\n").unwrap_or((&text, ""));
    let (found, default) = routes(table);
    assert!(found.len() + usize::from(default.is_some()) <= table.lines().count());
    let default = default.iter().map(String::as_str);
    for interface in found
        .iter()
        .map(|route| route.interface.as_str())
        .chain(default)
    {
        assert!(table.split_whitespace().any(|word| word == interface));
    }
    for route in &found {
        assert!((1..=32).contains(&route.network.prefix), "{route:?}");
        assert!(route.network.overlaps(route.network));
        let everything = Network {
            address: [0, 0, 0, 0].into(),
            prefix: 0,
        };
        assert!(everything.overlaps(route.network) && route.network.overlaps(everything));
        for other in &found {
            let overlaps = route.network.overlaps(other.network);
            assert_eq!(overlaps, other.network.overlaps(route.network));
        }
    }
    let servers = resolvers(resolv_conf);
    for server in &servers {
        // One of IPv6 may be written in another way.
        assert!(
            server.is_ipv6() || resolv_conf.contains(&server.to_string()),
            "{server}"
        );
    }
    for option in resolver_words(resolv_conf, "options") {
        assert!(resolv_conf.contains(&option), "{option:?}");
    }
    let written: String = servers
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    assert_eq!(resolvers(&written), servers);
});
