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
            seen: BTreeMap::new(),
        }
    }

    /// Whether the interface with this index is loopback, or a bridge that is not the way outside:
    /// every inner network that can reach this network namespace has a bridge in it (the drivers
    /// `bridge` and, by `docker_gwbridge`, `overlay`; from those of `macvlan` and `ipvlan` there is
    /// no way). Networks outside are joined by veth or another kind of interface. Where sysfs does
    /// not have the interface it is one: with `-v /sys:/sys` it is of another network namespace.
    pub fn has(&mut self, index: u32) -> bool {
        if let Some(found) = self.seen.get(&index) {
            return *found;
        }
        let Some(found) = self.leads_inside(index) else {
            return false;
        };
        if self.seen.len() >= MOST {
            self.seen.clear();
        }
        self.seen.insert(index, found);
        found
    }

    /// `None` where there is no such interface any more, or not yet.
    fn leads_inside(&self, index: u32) -> Option<bool> {
        let name = if_indextoname(index).ok()?.into_string().ok()?;
        let directory = Path::new(INTERFACES).join(&name);
        let told = read::kernel(directory.join("ifindex")).ok();
        let is_known = told.and_then(|told| told.trim().parse().ok()) == Some(index);
        let is_bridge = directory.join("bridge").exists();
        let is_inner = !is_known || (self.outer.as_ref() != Some(&name) && is_bridge);
        Some(name == "lo" || is_inner)
    }
}
