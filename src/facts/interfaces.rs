//! The network interfaces of this network namespace: which of them lead to inner networks.

use std::collections::BTreeMap;
use std::path::Path;

use nix::net::if_::if_indextoname;

use super::network;
use crate::sys::read;

/// What sysfs has of the network interfaces.
const INTERFACES: &str = "/sys/class/net";

/// The interfaces that lead to inner networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inner {
    /// The interface of the default route. It leads outside, even where it is a bridge, as on a host.
    outer: Option<String>,
    /// Whether sysfs tells the kinds of interfaces.
    known: bool,
    /// What is known, by the index of the interface. None has the index of one that was there before
    /// it (`dev_new_index` in the kernel's net/core/dev.c), and a bridge remains one.
    seen: BTreeMap<u32, bool>,
}

/// How many interfaces are remembered.
const MOST: usize = 256;

impl Inner {
    /// Reads what does not change, or not often.
    pub fn read() -> Self {
        let (_, outer) = network::routes(&read::kernel("/proc/net/route").unwrap_or_default());
        Self {
            outer,
            known: Path::new(INTERFACES).join("lo").exists(),
            seen: BTreeMap::new(),
        }
    }

    /// Whether the interface with this index is loopback, or a bridge that is not the way outside:
    /// every inner network that can reach this network namespace has a bridge in it (the drivers
    /// `bridge` and, by `docker_gwbridge`, `overlay`; from those of `macvlan` and `ipvlan` there is
    /// no way). Networks outside are joined by veth or another kind of interface. Without sysfs it
    /// is every one.
    pub fn has(&mut self, index: u32) -> bool {
        if let Some(found) = self.seen.get(&index) {
            return *found;
        }
        let found = !self.known || self.leads_inside(index);
        if self.seen.len() >= MOST {
            self.seen.clear();
        }
        self.seen.insert(index, found);
        found
    }

    fn leads_inside(&self, index: u32) -> bool {
        let name = if_indextoname(index).ok();
        let Some(name) = name.and_then(|name| name.into_string().ok()) else {
            return false;
        };
        let bridge = Path::new(INTERFACES).join(&name).join("bridge");
        name == "lo" || (self.outer.as_ref() != Some(&name) && bridge.exists())
    }
}
