//! The command line of `rootlesskit-docker-proxy`, which dockerd 20.10 and 26.1 execute in the place
//! of docker-proxy for each published port (`newProxyCommand` in moby's libnetwork/portmapper).

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::Path;

use crate::messages::fault::Fault;

/// The name that dockerd executes: `RootlessKitDockerProxyBinary` in moby's pkg/rootless.
pub const NAME: &str = "rootlesskit-docker-proxy";

/// A port to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The address outside.
    pub host: (IpAddr, u16),
    /// The address of the container.
    pub container: (IpAddr, u16),
    /// All of the arguments, for docker-proxy itself.
    pub arguments: Vec<OsString>,
}

impl Proxy {
    /// Whether a program of this path is asked for by dockerd.
    pub fn is_asked(program: &Path) -> bool {
        program.file_name().is_some_and(|name| name == NAME)
    }

    /// Parses the arguments. The error is a usage fault.
    pub fn parse(arguments: &[OsString]) -> Result<Self, Fault> {
        let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
        let text = |name: &str| {
            let place = words.iter().position(|word| *word == name);
            let value = place.and_then(|place| words.get(place.saturating_add(1)));
            value
                .copied()
                .ok_or_else(|| Fault::usage(format!("{name} is missing")))
        };
        let address = |ip: &str, port: &str| {
            let (ip, port) = (text(ip)?, text(port)?);
            match (ip.parse(), port.parse()) {
                (Ok(ip), Ok(port)) => Ok((ip, port)),
                _ => Err(Fault::usage(format!("{ip}:{port} is not an address"))),
            }
        };
        Ok(Self {
            protocol: text("-proto")?.to_owned(),
            host: address("-host-ip", "-host-port")?,
            container: address("-container-ip", "-container-port")?,
            arguments: arguments.to_owned(),
        })
    }

    /// The arguments of docker-proxy, which serves loopback inside: containers with `--network host`
    /// find the port there.
    pub fn inside(&self) -> Vec<OsString> {
        let loopback = match self.host.0 {
            IpAddr::V4(_) => "127.0.0.1",
            IpAddr::V6(_) => "::1",
        };
        let mut is_host = false;
        let arguments = self.arguments.iter().map(|word| {
            let was_host = std::mem::replace(&mut is_host, word == "-host-ip");
            if was_host {
                loopback.into()
            } else {
                word.clone()
            }
        });
        arguments.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn what_dockerd_executes_is_understood() -> Result<(), Fault> {
        let line =
            "-proto tcp -host-ip :: -host-port 8080 -container-ip 172.17.0.2 -container-port 80";
        let proxy = Proxy::parse(&words(line))?;
        assert_eq!(proxy.protocol, "tcp");
        assert_eq!(proxy.host, (IpAddr::from([0; 8]), 8080));
        assert_eq!(proxy.container, ([172, 17, 0, 2].into(), 80));
        let inside = line.replace("-host-ip ::", "-host-ip ::1");
        assert_eq!(proxy.inside(), words(&inside));
        let v4 = line.replace("-host-ip ::", "-host-ip 0.0.0.0");
        let inside = line.replace("-host-ip ::", "-host-ip 127.0.0.1");
        assert_eq!(Proxy::parse(&words(&v4))?.inside(), words(&inside));
        assert!(Proxy::is_asked(Path::new(
            "/run/dind/rootlesskit-docker-proxy"
        )));
        assert!(!Proxy::is_asked(Path::new("/usr/local/bin/dind")));
        Ok(())
    }

    #[test]
    fn what_is_missing_is_named() {
        for (line, expected) in [
            ("", "-proto is missing"),
            ("-proto tcp -host-ip", "-host-ip is missing"),
            (
                "-proto tcp -host-ip x -host-port 1 -container-ip ::1 -container-port 1",
                "x:1 is not an address",
            ),
        ] {
            let error = Proxy::parse(&words(line)).map_err(|fault| fault.message);
            assert_eq!(error, Err(expected.to_owned()), "{line:?}");
        }
    }
}
