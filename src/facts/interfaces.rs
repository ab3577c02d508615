//! The network interfaces of a network namespace: which of them lead to inner networks.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::net::if_::if_indextoname;

use super::network;
use crate::sys::{bridge, read};

/// What sysfs has of the network interfaces.
const INTERFACES: &str = "/sys/class/net";

/// The interfaces that lead to inner networks.
#[derive(Debug)]
pub struct Inner {
    place: Place,
    /// What is known, by the index of the interface. None has the index of one that was there before
    /// it (`dev_new_index` in the kernel's net/core/dev.c), and a bridge remains one.
    seen: BTreeMap<u32, bool>,
}

/// Where the interfaces are.
#[derive(Debug)]
enum Place {
    /// In this network namespace. The interface of the default route leads outside, even where it is a
    /// bridge, as on a host.
    Here { outer: Option<String> },
    /// In that of a socket, in which all bridges are an engine's.
    Of(OwnedFd),
}

/// How many interfaces are remembered.
const MOST: usize = 256;

impl Inner {
    /// Those of this network namespace. Reads what does not change, or not often.
    pub fn here() -> Self {
        let (_, outer) = network::routes(&read::kernel("/proc/net/route").unwrap_or_default());
        Self::at(Place::Here { outer })
    }

    /// Those of the network namespace of a socket, which has nothing in it but an engine's networks and
    /// a way outside.
    pub fn of(socket: OwnedFd) -> Self {
        Self::at(Place::Of(socket))
    }

    fn at(place: Place) -> Self {
        Self {
            place,
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
        let outer = match &self.place {
            Place::Here { outer } => outer.as_ref(),
            Place::Of(socket) => {
                let name = bridge::interface(socket, index).ok()?;
                return Some(name == "lo" || bridge::is_one(socket, &name).ok()?);
            }
        };
        let name = if_indextoname(index).ok()?.into_string().ok()?;
        let directory = Path::new(INTERFACES).join(&name);
        let told = read::kernel(directory.join("ifindex")).ok();
        let is_known = told.and_then(|told| told.trim().parse().ok()) == Some(index);
        let is_bridge = directory.join("bridge").exists();
        let is_inner = !is_known || (outer != Some(&name) && is_bridge);
        Some(name == "lo" || is_inner)
    }
}
