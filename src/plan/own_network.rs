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
    /// The directories in which `iptables` is searched.
    pub search_path: OsString,
}

/// Every bridge of a network that a user has made, of both engines.
const MADE: &str = "br-+";

/// The bit of a packet's mark that says that it comes from an inner network.
const MARK: &str = "0x40/0x40";

impl OwnNetwork {
    /// Returns the rules, each as the table, the chain, and the rest. They come last in their
    /// chains, so those of the other engine for its own networks come first.
    pub fn rules(&self) -> Vec<Vec<String>> {
        if !self.filters {
            return Vec::new();
        }
        let own = self.bridge.as_str();
        let mut rules: Vec<Vec<&str>> = Vec::new();
        for bridge in [own, MADE] {
            // A rule of POSTROUTING cannot ask for the interface that a packet came from.
            rules.push(vec![
                "mangle",
                "FORWARD",
                "-i",
                bridge,
                "!",
                "-o",
                bridge,
                "-j",
                "MARK",
                "--set-xmark",
                MARK,
            ]);
            rules.push(vec!["filter", "FORWARD", "-i", bridge, "-j", "ACCEPT"]);
            rules.push(vec![
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
            ]);
        }
        rules.push(vec![
            "nat",
            "POSTROUTING",
            "-m",
            "mark",
            "--mark",
            MARK,
            "-j",
            "MASQUERADE",
        ]);
        let words = |rule: Vec<&str>| rule.into_iter().map(str::to_owned).collect();
        rules.into_iter().map(words).collect()
    }
}
