//! The default bridge of an engine beside another one in the same network namespace.

use std::ffi::OsString;
use std::net::Ipv4Addr;

/// The default bridge of an engine beside another one, and its rules in the packet filter. dockerd
/// makes no rules there: those of both would be in the same chains, which each of them empties when
/// it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnNetwork {
    /// The name of the bridge.
    pub bridge: String,
    /// The bridge's address.
    pub address: Ipv4Addr,
    /// The length of the prefix of its network.
    pub prefix: u8,
    /// Whether the rules are made here.
    pub filters: bool,
    /// Whether networks that users make get rules, too. Their bridges are known by the beginning of
    /// their names only, and on the host's own network others have such names.
    pub filters_made: bool,
    /// The directories in which `iptables` is searched.
    pub search_path: OsString,
}

/// Every bridge of a network that a user has made, of both engines.
const MADE: &str = "br-+";

/// The bit of a packet's mark that says that it comes from a network that a user has made.
const MARK: &str = "0x40/0x40";

impl OwnNetwork {
    /// Returns the rules of the default bridge, each as the table, the chain, and the rest. They
    /// come last in their chains, so those of the other engine for its own networks come first.
    /// They go when the engine ends.
    pub fn rules(&self) -> Vec<Vec<String>> {
        if !self.filters {
            return Vec::new();
        }
        let own = self.bridge.as_str();
        let network = format!("{}/{}", self.address, self.prefix);
        let [way_out, answers] = forwarding(own);
        let masquerade = [
            "nat",
            "POSTROUTING",
            "-s",
            &network,
            "!",
            "-o",
            own,
            "-j",
            "MASQUERADE",
        ];
        vec![words(&way_out), words(&answers), words(&masquerade)]
    }

    /// Returns the rules of the networks that users make. They stay: another engine may have the
    /// same ones.
    pub fn rules_of_made(&self) -> Vec<Vec<String>> {
        if !self.filters || !self.filters_made {
            return Vec::new();
        }
        let [way_out, answers] = forwarding(MADE);
        // A rule of POSTROUTING cannot ask for the interface that a packet came from.
        let mark = [
            "mangle",
            "FORWARD",
            "-i",
            MADE,
            "!",
            "-o",
            MADE,
            "-j",
            "MARK",
            "--set-xmark",
            MARK,
        ];
        let masquerade = [
            "nat",
            "POSTROUTING",
            "-m",
            "mark",
            "--mark",
            MARK,
            "-j",
            "MASQUERADE",
        ];
        vec![
            words(&mark),
            words(&way_out),
            words(&answers),
            words(&masquerade),
        ]
    }
}

/// The rules by which packets leave `bridge`, and by which the answers come back.
fn forwarding(bridge: &str) -> [Vec<&str>; 2] {
    [
        vec!["filter", "FORWARD", "-i", bridge, "-j", "ACCEPT"],
        vec![
            "filter",
            "FORWARD",
            "-o",
            bridge,
            "-m",
            "conntrack",
            "--ctstate",
            "RELATED,ESTABLISHED",
            "-j",
            "ACCEPT",
        ],
    ]
}

fn words(rule: &[&str]) -> Vec<String> {
    rule.iter().copied().map(str::to_owned).collect()
}
