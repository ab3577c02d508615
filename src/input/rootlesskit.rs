//! rootlesskit's flags, as docker:dind-rootless and moby's contrib/dockerd-rootless.sh pass them on
//! from `DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS`: a shell splits them at blanks, and knows no quotes there.

use std::net::IpAddr;

/// rootlesskit's flags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// The ports of the engine's network that are to be open outside of it: `--publish`.
    pub published: Vec<Published>,
    /// The other flags.
    pub others: Vec<Flag>,
}

/// A flag, with or without a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Its name without the dashes.
    pub name: String,
    /// Its value; empty for none.
    pub value: String,
}

/// A port that is open outside of the engine's network: `ParsePortSpec` in rootlesskit's
/// pkg/port/portutil.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// As the user wrote it.
    pub text: String,
    /// The address outside; `None` for every one.
    pub address: Option<IpAddr>,
    /// The port outside.
    pub port: u16,
    /// The port in the engine's network.
    pub inside: u16,
    /// Whether it is one of TCP.
    pub tcp: bool,
}

impl Flags {
    /// Parses the words of the variable. `None` where rootlesskit would end with an error: a word that
    /// is no flag, a flag without its name, a port that is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut flags = Self::default();
        let mut words = text.split_whitespace().peekable();
        while let Some(word) = words.next() {
            // One dash does what two do: the package flag of Go, which urfave/cli uses.
            let dashed = word.strip_prefix('-')?;
            let dashed = dashed.strip_prefix('-').unwrap_or(dashed);
            let (name, value) = match dashed.split_once('=') {
                Some((name, value)) => (name, value),
                // No value of its flags begins with a dash, and no flag that has none is before a word.
                None => {
                    let value = words.next_if(|next| !next.starts_with('-'));
                    (dashed, value.unwrap_or_default())
                }
            };
            if name.is_empty() {
                return None;
            }
            match name {
                // A flag of a list of strings takes several at once.
                "p" | "publish" => {
                    for port in value.split(',') {
                        flags.published.push(Published::parse(port)?);
                    }
                }
                _ => flags.others.push(Flag {
                    name: name.to_owned(),
                    value: value.to_owned(),
                }),
            }
        }
        Some(flags)
    }
}

impl Published {
    /// Parses `IP:PORT:PORT/PROTOCOL` and `IP:PORT:IP:PORT/PROTOCOL`, with IPv6 addresses in brackets.
    fn parse(text: &str) -> Option<Self> {
        const PROTOCOLS: [&str; 9] = [
            "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "sctp", "sctp4", "sctp6",
        ];
        let (ports, protocol) = text.rsplit_once('/')?;
        let (outside, inside) = ports.rsplit_once(':')?;
        let (address, rest) = address(outside)?;
        let rest = rest.strip_prefix(':')?;
        // Whatever the address inside is: one of the engine's network.
        let port = match rest.split_once(':') {
            Some((port, inner)) => match self::address(inner)? {
                (_, "") => port,
                _ => return None,
            },
            None => rest,
        };
        let number = |text: &str| text.parse().ok().filter(|port: &u16| *port > 0);
        PROTOCOLS.contains(&protocol).then_some(())?;
        Some(Self {
            text: text.to_owned(),
            address,
            port: number(port)?,
            inside: number(inside)?,
            tcp: protocol.starts_with("tcp"),
        })
    }
}

/// The address at the beginning of a text, and what follows it.
fn address(text: &str) -> Option<(Option<IpAddr>, &str)> {
    let (address, rest) = match text.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    match address {
        "" => Some((None, rest)),
        _ => Some((Some(address.parse().ok()?), rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ports_are_read_as_rootlesskit_reads_them() {
        for (text, expected) in [
            ("0.0.0.0:2376:2376/tcp", Some(("0.0.0.0", 2376, 2376, true))),
            (
                "127.0.0.1:8080:10.0.2.100:80/tcp4",
                Some(("127.0.0.1", 8080, 80, true)),
            ),
            ("[::1]:8080:[::2]:80/udp", Some(("::1", 8080, 80, false))),
            ("[::]:1:2/sctp", Some(("::", 1, 2, false))),
            (":8080:80/tcp", Some(("", 8080, 80, true))),
            ("8080:80/tcp", None),
            ("0.0.0.0:8080:80", None),
            ("0.0.0.0:8080:80/icmp", None),
            ("0.0.0.0:0:80/tcp", None),
            ("0.0.0.0:8080:0/tcp", None),
            ("0.0.0.0:8080:65536/tcp", None),
            ("0.0.0.0:8080:name:80/tcp", None),
            ("[::1:8080:80/tcp", None),
            ("", None),
        ] {
            let found = Published::parse(text).map(|found| {
                let address = found.address.map(|address| address.to_string());
                assert_eq!(found.text, text);
                (
                    address.unwrap_or_default(),
                    found.port,
                    found.inside,
                    found.tcp,
                )
            });
            let expected = expected
                .map(|(address, port, inside, tcp)| (address.to_owned(), port, inside, tcp));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn flags_have_one_dash_or_two_and_a_value_behind_them_or_in_them() {
        let port = "0.0.0.0:1:2/tcp";
        for text in [
            "-p 0.0.0.0:1:2/tcp",
            "-p=0.0.0.0:1:2/tcp",
            "--publish 0.0.0.0:1:2/tcp",
            " --publish=0.0.0.0:1:2/tcp\n",
        ] {
            let flags = Flags::parse(text).unwrap_or_default();
            let texts: Vec<&str> = flags
                .published
                .iter()
                .map(|one| one.text.as_str())
                .collect();
            assert_eq!(texts, [port], "{text}");
            assert_eq!(flags.others, [], "{text}");
        }
        let flags = Flags::parse("--pidns --net pasta -debug --ipv6=false -p :1:2/udp,:3:4/tcp");
        let flags = flags.unwrap_or_default();
        let others: Vec<(&str, &str)> = flags
            .others
            .iter()
            .map(|flag| (flag.name.as_str(), flag.value.as_str()))
            .collect();
        let expected = [
            ("pidns", ""),
            ("net", "pasta"),
            ("debug", ""),
            ("ipv6", "false"),
        ];
        assert_eq!(others, expected);
        assert_eq!(flags.published.len(), 2);
        for text in ["word", "-p", "--", "- x", "--=x", "-p :1:2/tcp word"] {
            assert_eq!(Flags::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-p \\[\\]:/.0-9a-z=,]{0,40}") {
            let _ = Flags::parse(&text);
        }
    }
}
