//! What connects the network of an engine in a user namespace with that of this container, and the
//! MTU that follows from it.
//!
//! A veth pair with source NAT is the fastest, then slirp4netns, then pasta, each with the MTU with which it
//! is: README.md has the figures.
//!
//! pasta comes last since to a server on the same host, such as a cache beside it, inner containers send a
//! tenth or less of what they do by slirp4netns, with every MTU that was tried. It announces the server's
//! window, not what its own socket has room for (`tcp_rtt_dst_low` in `tcp_update_seqack_wnd`, passt's
//! tcp.c). What `sendmsg` does not take is dropped. Nothing but a timeout of 0.2 s and more brings it
//! again: there is no SACK, and the ACK that would ask for it is left out where the last eight bits of the
//! sequence number are those of the time before, as they are with its segments of whole pages
//! (`seq_dup_ack_approx`). A segment that has been overtaken, as happens between a veth pair's two
//! processors, ends the same way (`tcp_data_from_tap`). So it is in passt of 2025-05 and of 2026-07. Larger
//! socket buffers, `net.core.rps_default_mask` and odd segments help in part.

use std::fmt;
use std::path::PathBuf;

use nix::errno::Errno;

use crate::facts::capabilities::Capability;
use crate::facts::nat::{Nat, Rules, Switch};
use crate::facts::network::{Networks, USUAL_MTU};
use crate::facts::rootless::Rootless;
use crate::facts::surroundings::Surroundings;
use crate::input::config::{Config, Mtu, RootlessNetwork};

/// The largest MTU of slirp4netns and pasta, in bytes: the most that pasta takes, and all but one of the
/// most that slirp4netns does.
const LARGEST_MTU: u32 = 65_520;

/// The MTU of slirp4netns, in bytes: three full segments are all of its window of 65,535 bytes, which it
/// does not scale (`TCP_MAXWIN` in libslirp's src/tcp.h). It says that the window is open again when that
/// has grown by two segments (`tcp_output` in tcp_output.c). With segments of half the window, which are
/// the largest that it has, that is all of it but a byte, and inner containers that send wait for their
/// timers.
const SLIRP4NETNS_MTU: u32 = 65_535 / 3 + 40;

/// What connects the networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The driver.
    pub driver: RootlessNetwork,
    /// The path of its program; `None` for a veth pair.
    pub program: Option<PathBuf>,
    /// Why it is no veth pair, where this process has CAP_NET_ADMIN and nobody has chosen.
    pub reason: Option<NoVeth>,
}

/// Why there is no veth pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoVeth {
    /// What is missing, as a clause.
    seen: &'static str,
    /// How it is given.
    pub remedy: &'static str,
    /// The kernel's answer, where it is not that it has no such thing.
    pub error: Option<Errno>,
}

impl fmt::Display for NoVeth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.seen)?;
        match self.error {
            Some(error) => write!(formatter, " ({})", error.desc()),
            None => Ok(()),
        }
    }
}

/// Something that a driver needs and that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// What a veth pair needs.
    Veth(NoVeth),
    /// `/dev/net/tun`, or the right to open it; and why there is no veth pair, where this process has
    /// CAP_NET_ADMIN and nobody has chosen.
    Tun(Option<NoVeth>),
    /// One of these programs in `PATH`.
    Program(&'static str),
}

/// Chooses what connects the networks. The error is what the preferred one lacks.
pub fn choose(
    surroundings: &Surroundings,
    rootless: &Rootless,
    config: &Config,
) -> Result<Choice, Vec<Lack>> {
    let no_veth = lacks_veth(surroundings, rootless);
    let reason = match (config.rootless_network, no_veth) {
        (None | Some(RootlessNetwork::Veth), None) => {
            return Ok(Choice {
                driver: RootlessNetwork::Veth,
                program: None,
                reason: None,
            });
        }
        (Some(RootlessNetwork::Veth), Some(reason)) => {
            return Err(vec![Lack::Veth(reason)]);
        }
        (None, Some(reason)) => Some(reason).filter(|_| may_administer(surroundings)),
        (Some(_), _) => None,
    };
    let programs = [
        (RootlessNetwork::Slirp4netns, &rootless.slirp4netns),
        (RootlessNetwork::Pasta, &rootless.pasta),
    ];
    let mut allowed = programs
        .into_iter()
        .filter(|(driver, _)| config.rootless_network.is_none_or(|asked| asked == *driver));
    let wanted = allowed.clone().next();
    let found = allowed.find_map(|(driver, path)| Some((driver, path.clone()?)));
    let mut lacks = Vec::new();
    if !rootless.tun.is_for(surroundings.user) {
        lacks.push(Lack::Tun(reason));
    }
    match found {
        Some((driver, program)) if lacks.is_empty() => Ok(Choice {
            driver,
            program: Some(program),
            reason,
        }),
        Some(_) => Err(lacks),
        None => {
            let name = wanted.map_or("slirp4netns", |(driver, _)| driver.name());
            lacks.push(Lack::Program(name));
            Err(lacks)
        }
    }
}

/// Whether this process may make interfaces and rules in its network namespace.
fn may_administer(surroundings: &Surroundings) -> bool {
    surroundings.user == 0
        && surroundings
            .capabilities
            .effective
            .has(Capability::NET_ADMIN)
}

/// What a veth pair lacks.
fn lacks_veth(surroundings: &Surroundings, rootless: &Rootless) -> Option<NoVeth> {
    let lacks = |seen, remedy| {
        Some(NoVeth {
            seen,
            remedy,
            error: None,
        })
    };
    match () {
        () if surroundings.user != 0 => lacks("this process is not root", "start it with --user 0"),
        () if !may_administer(surroundings) => lacks(
            "it has no CAP_NET_ADMIN",
            "start it with --cap-add NET_ADMIN",
        ),
        () => lacks_nat(&rootless.nat),
    }
}

/// Whether a veth pair may be possible with CAP_NET_ADMIN, as far as can be known without it, where
/// `/proc/sys` will be writable if it can be.
pub fn may_be_veth(surroundings: &Surroundings, rootless: &Rootless, config: &Config) -> bool {
    let nat = Nat {
        ipv4: match rootless.nat.ipv4 {
            // The flag that uncovers what is below /proc leaves nothing of it read-only.
            Switch::Fixed if rootless.masked.is_some() => Switch::Off,
            ipv4 => ipv4,
        },
        ..rootless.nat.clone()
    };
    let is_wanted = matches!(config.rootless_network, None | Some(RootlessNetwork::Veth));
    surroundings.user == 0 && is_wanted && lacks_nat(&nat).is_none()
}

/// What source NAT lacks in this network namespace.
fn lacks_nat(nat: &Nat) -> Option<NoVeth> {
    let (seen, remedy, error) = match nat.rules {
        _ if nat.hosts => (
            "this container has the host's network",
            "give it a network of its own",
            None,
        ),
        _ if nat.dockerd => (
            "another Docker engine filters this network namespace",
            "give this container a network of its own",
            None,
        ),
        _ if nat.ipv4 == Switch::Fixed => (
            "net.ipv4.ip_forward is 0 and /proc/sys is read-only",
            "start it with --sysctl net.ipv4.ip_forward=1",
            None,
        ),
        Rules::Missing => (
            "nf_tables makes no rules here that end with their process",
            "use Linux 5.12 with nf_tables",
            None,
        ),
        Rules::Taken(error) => (
            "the table of nf_tables for this data root is not to be had, as beside an engine that uses it",
            "stop the other container, or use another volume",
            Some(error),
        ),
        Rules::Refused(error) => (
            "nf_tables makes no rules here",
            "allow netlink(7) for nf_tables in this container",
            Some(error),
        ),
        Rules::Unknown => return None,
    };
    Some(NoVeth {
        seen,
        remedy,
        error,
    })
}

/// The MTU of both ends and of inner networks, in bytes. `None` where dockerd chooses that of inner
/// networks, and the ends have the usual one.
pub fn mtu(choice: &Choice, networks: &Networks, config: &Config) -> Option<u32> {
    let asked = match (config.mtu, config.rootless_mtu) {
        (Mtu::Off, _) => return None,
        (Mtu::Bytes(bytes), _) | (Mtu::Auto, Some(bytes)) => Some(u32::from(bytes)),
        (Mtu::Auto, None) => None,
    };
    match choice.driver {
        // What is larger than what the way out takes would be cut into pieces there.
        RootlessNetwork::Veth => asked.or(networks.mtu.filter(|mtu| *mtu != USUAL_MTU)),
        RootlessNetwork::Slirp4netns => Some(asked.unwrap_or(SLIRP4NETNS_MTU).min(LARGEST_MTU)),
        RootlessNetwork::Pasta => Some(asked.unwrap_or(LARGEST_MTU).min(LARGEST_MTU)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::capabilities::{Capabilities, CapabilitySet};
    use crate::facts::nat::Ipv6;
    use crate::facts::rootless::Device;
    use crate::facts::surroundings::{SocketState, Stdin};
    use crate::plan::mode::tests::enough;

    /// The facts of a container in which every driver is possible.
    fn all() -> Rootless {
        Rootless {
            pasta: Some("/usr/bin/pasta".into()),
            nat: Nat {
                ipv4: Switch::On,
                ipv6: Switch::Off,
                ipv6_route: Ipv6::None,
                rules: Rules::Unknown,
                hosts: false,
                dockerd: false,
            },
            ..enough()
        }
    }

    fn surroundings(user: u32, effective: CapabilitySet) -> Surroundings {
        Surroundings {
            stdin: Stdin::Null,
            capabilities: Capabilities {
                effective,
                bounding: CapabilitySet::ALL,
            },
            user,
            socket: "/var/run/docker.sock".into(),
            socket_state: SocketState::Free,
            rootless: None,
        }
    }

    fn chosen(
        rootless: &Rootless,
        asked: &str,
        user: u32,
        effective: CapabilitySet,
    ) -> Result<Choice, Vec<Lack>> {
        let variable = ("DIND_ROOTLESS_NETWORK".into(), asked.into());
        let config = Config::read([], [variable]);
        choose(&surroundings(user, effective), rootless, &config)
    }

    const WITH: CapabilitySet = CapabilitySet::ALL;
    fn without() -> CapabilitySet {
        CapabilitySet::ALL.without(Capability::NET_ADMIN)
    }

    #[test]
    fn the_fastest_is_chosen_of_what_is_possible() {
        use RootlessNetwork::{Pasta, Slirp4netns, Veth};
        type Change = fn(&mut Rootless);
        let closed: Change = |facts| {
            facts.tun = Device::Open;
            facts.nat.ipv4 = Switch::Fixed;
        };
        let without_slirp4netns: Change = |facts| facts.slirp4netns = None;
        let cases: [(Change, &str, CapabilitySet, RootlessNetwork, &str); 14] = [
            (|_| {}, "", WITH, Veth, ""),
            (|facts| facts.nat.ipv4 = Switch::Off, "", WITH, Veth, ""),
            (|facts| facts.tun = Device::Missing, "auto", WITH, Veth, ""),
            (|_| {}, "veth", WITH, Veth, ""),
            (|_| {}, "", without(), Slirp4netns, ""),
            (closed, "", WITH, Slirp4netns, "/proc/sys is read-only"),
            (
                |facts| facts.nat.hosts = true,
                "",
                WITH,
                Slirp4netns,
                "host's network",
            ),
            (
                |facts| facts.nat.dockerd = true,
                "",
                WITH,
                Slirp4netns,
                "another Docker engine",
            ),
            (
                |facts| facts.nat.rules = Rules::Missing,
                "",
                WITH,
                Slirp4netns,
                "that end with their process",
            ),
            (
                |facts| facts.nat.rules = Rules::Taken(Errno::EEXIST),
                "",
                WITH,
                Slirp4netns,
                "an engine that uses it (File exists)",
            ),
            (
                |facts| facts.nat.rules = Rules::Refused(Errno::EPERM),
                "",
                WITH,
                Slirp4netns,
                "no rules here (Operation not permitted)",
            ),
            (without_slirp4netns, "", without(), Pasta, ""),
            (|_| {}, "pasta", WITH, Pasta, ""),
            (|_| {}, "slirp4netns", WITH, Slirp4netns, ""),
        ];
        for (change, asked, effective, driver, reason) in cases {
            let mut facts = all();
            change(&mut facts);
            let found = chosen(&facts, asked, 0, effective);
            let name = found.as_ref().map(|choice| choice.driver);
            assert_eq!(name, Ok(driver), "{asked} {reason}");
            let choice = found.unwrap_or_else(|lacks| panic!("{lacks:?}"));
            assert_eq!(choice.program.is_some(), driver != Veth);
            let said = choice
                .reason
                .map(|reason| reason.to_string())
                .unwrap_or_default();
            assert!(
                said.contains(reason) && said.is_empty() == reason.is_empty(),
                "{said}"
            );
        }
    }

    #[test]
    fn the_driver_by_hand_has_two_names() {
        use RootlessNetwork::{Pasta, Slirp4netns};
        for (own, rootlesskits, expected) in [
            ("", "pasta", Some(Pasta)),
            ("slirp4netns", "pasta", Some(Slirp4netns)),
            ("auto", "pasta", None),
            ("", "auto", None),
            ("", "vpnkit", None),
        ] {
            let variables = [
                ("DIND_ROOTLESS_NETWORK".into(), own.into()),
                (
                    "DOCKERD_ROOTLESS_ROOTLESSKIT_NET".into(),
                    rootlesskits.into(),
                ),
            ];
            let found = Config::read([], variables).rootless_network;
            assert_eq!(found, expected, "{own} {rootlesskits}");
        }
    }

    #[test]
    fn what_is_missing_is_what_the_wanted_one_needs() {
        let without_tun = Rootless {
            tun: Device::Missing,
            ..all()
        };
        let bare = Rootless {
            slirp4netns: None,
            pasta: None,
            ..without_tun.clone()
        };
        let mut without_rules = bare.clone();
        without_rules.slirp4netns = all().slirp4netns;
        without_rules.nat.rules = Rules::Missing;
        let no_rules = Some(NoVeth {
            seen: "nf_tables makes no rules here that end with their process",
            remedy: "use Linux 5.12 with nf_tables",
            error: None,
        });
        let no_pasta = vec![Lack::Tun(None), Lack::Program("pasta")];
        for (facts, asked, user, effective, expected) in [
            (&without_tun, "", 0, without(), vec![Lack::Tun(None)]),
            (&without_rules, "", 0, WITH, vec![Lack::Tun(no_rules)]),
            (&without_rules, "pasta", 0, WITH, no_pasta.clone()),
            (
                &bare,
                "",
                0,
                without(),
                vec![Lack::Tun(None), Lack::Program("slirp4netns")],
            ),
            (&bare, "pasta", 0, WITH, no_pasta),
            (&all(), "", 1000, WITH, vec![Lack::Tun(None)]),
        ] {
            let found = chosen(facts, asked, user, effective);
            assert_eq!(found, Err(expected), "{asked} {user}");
        }
        for (user, effective, flag) in [
            (0, without(), "start it with --cap-add NET_ADMIN"),
            (1000, WITH, "start it with --user 0"),
        ] {
            match chosen(&all(), "veth", user, effective) {
                Err(lacks) => assert!(
                    matches!(lacks.as_slice(), [Lack::Veth(found)] if found.remedy == flag),
                    "{lacks:?}"
                ),
                Ok(choice) => panic!("{choice:?}"),
            }
        }
    }

    /// Without CAP_NET_ADMIN the kernel answers no question about nf_tables.
    #[test]
    fn a_veth_pair_may_be_possible_where_nothing_is_against_it() {
        type Change = fn(&mut Rootless);
        let cases: [(Change, &str, u32, bool); 9] = [
            (|_| {}, "", 0, true),
            (|_| {}, "veth", 0, true),
            (|_| {}, "pasta", 0, false),
            (|_| {}, "", 1000, false),
            (|facts| facts.nat.hosts = true, "", 0, false),
            (|facts| facts.nat.dockerd = true, "", 0, false),
            (|facts| facts.nat.rules = Rules::Missing, "", 0, false),
            (|facts| facts.nat.ipv4 = Switch::Fixed, "", 0, false),
            (
                |facts| {
                    facts.nat.ipv4 = Switch::Fixed;
                    facts.masked = Some("/proc/kcore".into());
                },
                "",
                0,
                true,
            ),
        ];
        for (number, (change, asked, user, expected)) in cases.into_iter().enumerate() {
            let mut facts = all();
            change(&mut facts);
            let variable = ("DIND_ROOTLESS_NETWORK".into(), asked.into());
            let config = Config::read([], [variable]);
            let surroundings = surroundings(user, without());
            let found = may_be_veth(&surroundings, &facts, &config);
            assert_eq!(found, expected, "case {number}");
        }
    }

    /// A window that is too small for a segment is opened again: what is lacking of it is two segments.
    #[test]
    fn no_window_of_slirp4netns_stays_too_small_for_a_segment() {
        let opens = |segment: u32| 65_535 - (segment - 1) >= 2 * segment;
        let segment = SLIRP4NETNS_MTU - 40;
        assert!(opens(segment));
        assert!(!opens(segment + 1));
    }

    #[test]
    fn the_mtu_is_that_with_which_each_driver_is_fastest() {
        use RootlessNetwork::{Pasta, Slirp4netns, Veth};
        for (driver, outside, asked, expected) in [
            (Veth, Some(1500), "", None),
            (Veth, Some(1400), "", Some(1400)),
            (Veth, None, "", None),
            (Veth, Some(1400), "9000", Some(9000)),
            (Slirp4netns, Some(1400), "", Some(21_885)),
            (Slirp4netns, None, "65535", Some(65_520)),
            (Pasta, Some(1400), "", Some(65_520)),
            (Pasta, Some(1400), "65535", Some(65_520)),
            (Pasta, None, "1280", Some(1280)),
            (Slirp4netns, None, "off", None),
        ] {
            let choice = Choice {
                driver,
                program: None,
                reason: None,
            };
            let networks = Networks {
                mtu: outside,
                ..Networks::default()
            };
            let config = Config::read([], [("DIND_MTU".into(), asked.into())]);
            let found = mtu(&choice, &networks, &config);
            assert_eq!(found, expected, "{driver:?} {asked}");
            let rootlesskits = ("DOCKERD_ROOTLESS_ROOTLESSKIT_MTU".into(), "1300".into());
            let config = Config::read([], [("DIND_MTU".into(), asked.into()), rootlesskits]);
            let found = mtu(&choice, &networks, &config);
            let expected = if asked.is_empty() {
                Some(1300)
            } else {
                expected
            };
            assert_eq!(found, expected, "{driver:?} {asked}");
        }
    }
}
