//! The namespaces of an engine that runs in a user namespace.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use super::action::Step;
use super::mode::Maps;
use crate::input::docker_proxy;

/// The directory of the API of published ports. It comes first in the `PATH` of a dockerd that is told.
pub const PORTS: &str = "/run/dind/ports";

/// The namespaces of an engine, and what is done in them before the daemons start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    /// The user who makes them, and is root inside.
    pub user: u32,
    /// That user's group.
    pub group: u32,
    /// The maps of ids.
    pub maps: Maps,
    /// The programs that write the maps, for users and for groups; `None` where this process may.
    pub map_programs: Option<[PathBuf; 2]>,
    /// Whether there is a cgroup namespace, too.
    pub cgroup: bool,
    /// The pair of interfaces that connects their network; `None` where a program does.
    pub veth: Option<Veth>,
    /// The steps inside.
    pub steps: Vec<Step>,
    /// Whether dockerd is told that it runs in them: by `--rootless`, and by rootlesskit's variables, with
    /// which it does not start without that flag.
    pub is_told: bool,
    /// Where dockerd asks for published ports, inside.
    pub ports: Ports,
    /// The address of the DNS forwarder inside, which the loopback interface gets; `None` where there is
    /// none.
    pub resolver: Option<Ipv4Addr>,
}

/// The API of published ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    /// The directory of its socket, as dockerd sees it.
    pub directory: PathBuf,
    /// The name of its socket there.
    pub socket: &'static str,
    /// The address of the engine's network interface.
    pub address: Ipv4Addr,
    /// What connects that: the name of the network driver in rootlesskit's API.
    pub driver: &'static str,
}

/// A pair of interfaces, one in this container's network namespace and one in the engine's, and the
/// source NAT for what comes from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veth {
    /// The name of the interface here, and of the table of rules.
    pub name: String,
    /// That of the interface inside.
    pub inside: &'static str,
    /// The MTU of both.
    pub mtu: u32,
    /// The addresses, of IPv4 and, where this container has a way out by it, IPv6.
    pub addresses: Vec<Ends>,
}

/// The addresses of a veth pair, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The address here: the gateway.
    pub here: IpAddr,
    /// The address inside.
    pub inside: IpAddr,
    /// The length of the prefix.
    pub prefix: u8,
}

impl fmt::Display for Veth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            inside,
            mtu,
            addresses,
        } = self;
        write!(
            formatter,
            "ip link add {name} mtu {mtu} type veth peer {inside} mtu {mtu}"
        )?;
        for Ends {
            here,
            inside,
            prefix,
        } in addresses
        {
            write!(formatter, ", {here}/{prefix} and {inside}/{prefix}")?;
        }
        write!(
            formatter,
            "; nf_tables masquerades what comes from {name}, until dind ends"
        )
    }
}

/// Returns the path of this program as the one that dockerd executes for a published port. It is beside
/// the API that it asks.
pub fn proxy() -> PathBuf {
    Path::new(PORTS).join(docker_proxy::NAME)
}

impl fmt::Display for Namespaces {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [users, groups] = self.maps.lines();
        let cgroup = if self.cgroup { ",cgroup" } else { "" };
        write!(
            formatter,
            "user {} makes namespaces user,mnt,net,ipc,uts{cgroup}; uid_map {users}; gid_map {groups}",
            self.user
        )
    }
}
