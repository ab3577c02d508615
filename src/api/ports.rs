//! What the requests ask for and what the answers say: `port.Spec`, `port.Status` and `api.Info` of
//! rootlesskit's pkg/port/port.go and pkg/api/api.go. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// The version of rootlesskit's API that is served: `Version` in its pkg/api/api.go.
const API_VERSION: &str = "1.1.1";

/// The status of the answer where IPv6 is asked for and there is none outside.
pub const NO_IPV6: u16 = 501;

/// A protocol that is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// The protocol.
    pub protocol: Protocol,
    /// The address outside, on which clients find it.
    pub parent: SocketAddr,
    /// The address inside.
    pub child: SocketAddr,
}

impl Spec {
    /// Parses the content of `POST /v1/ports`.
    pub fn parse(content: &[u8]) -> Result<Self> {
        let value: Value = serde_json::from_slice(content).context("the content is not JSON")?;
        let text = |name: &str| match value.get(name) {
            None | Some(Value::Null) => Ok(""),
            Some(Value::String(text)) => Ok(text.as_str()),
            Some(_) => bail!("{name} is not a string"),
        };
        let port = |name: &str| -> Result<u16> {
            let number = value.get(name).and_then(Value::as_u64);
            let number = number.and_then(|number| u16::try_from(number).ok());
            number
                .filter(|number| *number != 0)
                .with_context(|| format!("{name} is not a port from 1 to 65535"))
        };
        let address = |name: &str| -> Result<Option<IpAddr>> {
            match text(name)? {
                "" => Ok(None),
                address => {
                    let parsed: IpAddr = address
                        .parse()
                        .ok()
                        .with_context(|| format!("{name} is not an IP address: {address:?}"))?;
                    Ok(Some(parsed.to_canonical()))
                }
            }
        };
        let (protocol, version) = protocol(text("proto")?)?;
        let parent = address("parentIP")?;
        // As Go's net.Listen for tcp4, whatever the address is written as.
        let parent = match (version, parent) {
            (Some(6), None) => Ipv6Addr::UNSPECIFIED.into(),
            (_, None) => Ipv4Addr::UNSPECIFIED.into(),
            (Some(4), Some(IpAddr::V6(address))) => {
                bail!("{}4 cannot have the address {address}", protocol.name())
            }
            (Some(6), Some(IpAddr::V4(address))) => {
                bail!("{}6 cannot have the address {address}", protocol.name())
            }
            (_, Some(parent)) => parent,
        };
        let loopback = match parent {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        Ok(Self {
            protocol,
            parent: (parent, port("parentPort")?).into(),
            child: (address("childIP")?.unwrap_or(loopback), port("childPort")?).into(),
        })
    }

    /// The content of `POST /v1/ports`.
    pub fn json(&self) -> Value {
        json!({
            "proto": self.network(),
            "parentIP": self.parent.ip().to_string(),
            "parentPort": self.parent.port(),
            "childIP": self.child.ip().to_string(),
            "childPort": self.child.port(),
        })
    }

    /// A `port.Status`, the answer to `POST /v1/ports`.
    pub fn status(&self, id: u64) -> Value {
        json!({ "id": id, "spec": self.json() })
    }

    /// The network's name in Go: `tcp4`.
    pub fn network(&self) -> String {
        let version = if self.parent.is_ipv4() { 4 } else { 6 };
        format!("{}{version}", self.protocol.name())
    }
}

/// A protocol and the version of IP, if it has one, by rootlesskit's name.
fn protocol(name: &str) -> Result<(Protocol, Option<u8>)> {
    Ok(match name {
        "tcp" => (Protocol::Tcp, None),
        "tcp4" => (Protocol::Tcp, Some(4)),
        "tcp6" => (Protocol::Tcp, Some(6)),
        "udp" => (Protocol::Udp, None),
        "udp4" => (Protocol::Udp, Some(4)),
        "udp6" => (Protocol::Udp, Some(6)),
        other => bail!("the protocol {other:?} is not forwarded"),
    })
}

/// What `GET /v1/info` says of this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The directory of the API's socket, as dockerd sees it.
    pub state: String,
    /// A process inside.
    pub child: i32,
    /// The network driver, by rootlesskit's name. dockerd 20.10 and later look at it without
    /// asking whether there is one (`fillRootlessVersion` in moby's daemon/info_unix.go), and run
    /// `slirp4netns --version` for that name.
    pub network: &'static str,
    /// The address inside that is not on loopback, if there is one.
    pub address: Option<IpAddr>,
}

impl Info {
    /// The answer. `ipv6` is whether ports can be published on IPv6 addresses: dockerd warns that
    /// it discards what is not among `protos`, and goes on.
    pub fn json(&self, ipv6: bool) -> Value {
        let mut protocols = vec!["tcp", "tcp4", "udp", "udp4"];
        if ipv6 {
            protocols.extend(["tcp6", "udp6"]);
        }
        let address = self.address.map(|address| address.to_string());
        json!({
            "apiVersion": API_VERSION,
            "version": env!("CARGO_PKG_VERSION"),
            "stateDir": self.state,
            "childPID": self.child,
            "networkDriver": { "driver": self.network, "childIP": address },
            // dockerd does without the API for "none" and "implicit" (`NewPortDriverClient` in
            // moby's rlkclient). This one does what rootlesskit's builtin driver does.
            "portDriver": { "driver": "builtin", "protos": protocols },
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_dockerd_asks_for_is_understood() -> Result<()> {
        for (content, network, parent, child) in [
            // 28.5: `AddPort` in its rlkclient.
            (
                r#"{"proto":"tcp4","parentIP":"0.0.0.0","parentPort":80,"childPort":80,"childIP":"127.0.0.1"}"#,
                "tcp4",
                "0.0.0.0:80",
                "127.0.0.1:80",
            ),
            (
                r#"{"proto":"udp6","parentIP":"::","parentPort":53,"childPort":53,"childIP":"::1"}"#,
                "udp6",
                "[::]:53",
                "[::1]:53",
            ),
            // rootlessctl add-ports leaves out what has a default.
            (
                r#"{"proto":"tcp","parentPort":8080,"childPort":80}"#,
                "tcp4",
                "0.0.0.0:8080",
                "127.0.0.1:80",
            ),
            (
                r#"{"proto":"tcp6","parentPort":8080,"childPort":80}"#,
                "tcp6",
                "[::]:8080",
                "[::1]:80",
            ),
            (
                r#"{"proto":"tcp","parentIP":"::ffff:10.0.0.1","parentPort":1,"childIP":null,"childPort":65535}"#,
                "tcp4",
                "10.0.0.1:1",
                "127.0.0.1:65535",
            ),
            // A container without IPv6.
            (
                r#"{"proto":"tcp6","parentIP":"::","parentPort":80,"childIP":"172.17.0.2","childPort":80}"#,
                "tcp6",
                "[::]:80",
                "172.17.0.2:80",
            ),
        ] {
            let spec = Spec::parse(content.as_bytes())?;
            assert_eq!(spec.network(), network);
            assert_eq!((spec.parent, spec.child), (parent.parse()?, child.parse()?));
            // What is listed is what was asked for.
            assert_eq!(Spec::parse(spec.json().to_string().as_bytes())?, spec);
        }
        Ok(())
    }

    #[test]
    fn what_cannot_be_served_is_named() {
        for (content, expected) in [
            ("", "the content is not JSON"),
            ("[]", "the protocol \"\" is not forwarded"),
            (
                r#"{"proto":"sctp4"}"#,
                "the protocol \"sctp4\" is not forwarded",
            ),
            (r#"{"proto":4}"#, "proto is not a string"),
            (
                r#"{"proto":"tcp"}"#,
                "parentPort is not a port from 1 to 65535",
            ),
            (
                r#"{"proto":"tcp","parentPort":65536}"#,
                "parentPort is not a port from 1 to 65535",
            ),
            (
                r#"{"proto":"tcp","parentPort":1,"childPort":0}"#,
                "childPort is not a port from 1 to 65535",
            ),
            (
                r#"{"proto":"tcp","parentIP":"localhost"}"#,
                "parentIP is not an IP address: \"localhost\"",
            ),
            (
                r#"{"proto":"tcp4","parentIP":"::"}"#,
                "tcp4 cannot have the address ::",
            ),
            (
                r#"{"proto":"udp6","parentIP":"0.0.0.0"}"#,
                "udp6 cannot have the address 0.0.0.0",
            ),
        ] {
            let error = Spec::parse(content.as_bytes()).map_err(|error| error.to_string());
            assert_eq!(error, Err(expected.to_owned()), "{content}");
        }
    }

    #[test]
    fn the_info_has_what_dockerd_looks_at() {
        let info = Info {
            state: "/run/dind".into(),
            child: 7,
            network: "slirp4netns",
            address: Some(Ipv4Addr::new(10, 0, 2, 100).into()),
        };
        let found = info.json(true);
        for (pointer, expected) in [
            ("/apiVersion", json!("1.1.1")),
            ("/stateDir", json!("/run/dind")),
            ("/childPID", json!(7)),
            ("/networkDriver/driver", json!("slirp4netns")),
            ("/networkDriver/childIP", json!("10.0.2.100")),
            ("/portDriver/driver", json!("builtin")),
            (
                "/portDriver/protos",
                json!(["tcp", "tcp4", "udp", "udp4", "tcp6", "udp6"]),
            ),
        ] {
            assert_eq!(found.pointer(pointer), Some(&expected), "{pointer}");
        }
        let found = info.json(false);
        let expected = json!(["tcp", "tcp4", "udp", "udp4"]);
        assert_eq!(found.pointer("/portDriver/protos"), Some(&expected));
    }

    proptest! {
        #[test]
        fn never_panics(content: Vec<u8>) {
            let _ = Spec::parse(&content);
        }
    }
}
