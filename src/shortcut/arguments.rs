//! What dockerd asks, of the arguments of one call. Only the forms that dockerd uses are
//! understood: what the real program may answer with another error, such as a misplaced option,
//! must not be taken for a question.

use core::net::{Ipv4Addr, Ipv6Addr};
use core::str::{FromStr, from_utf8};

/// The family of a call, by the name of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `iptables`.
    Ipv4,
    /// `ip6tables`.
    Ipv6,
}

/// A table in which dockerd has rules that are asked for at every start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// `filter`, the default.
    Filter,
    /// `nat`.
    Nat,
}

impl Table {
    /// Its name, in the kernel too.
    pub fn name(self) -> &'static [u8] {
        match self {
            Self::Filter => b"filter",
            Self::Nat => b"nat",
        }
    }
}

/// A call that changes nothing if the answer is no, or one that makes something plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'a> {
    /// The table.
    pub table: Table,
    /// The chain.
    pub chain: &'a [u8],
    /// What is asked of the chain.
    pub asked: Asked<'a>,
}

/// What is asked of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked<'a> {
    /// `-F` and `-X`: to be emptied or removed, if it is there.
    Chain,
    /// `-n -L`: its rules, if it is there.
    List,
    /// `-C` and `-D`: this rule, if it is there.
    Rule(Rule<'a>),
    /// `-N`: the chain is to be made.
    NewChain,
    /// `-A` and `-I`: the rule is to be made.
    NewRule {
        /// The rule.
        rule: Rule<'a>,
        /// Whether it comes last, not first.
        last: bool,
    },
}

/// As much of a rule as its answer depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rule<'a> {
    /// `-j`.
    pub target: Option<Target<'a>>,
    /// `-m addrtype`.
    pub addrtype: bool,
    /// `-m conntrack`.
    pub conntrack: bool,
    /// `-i`.
    pub incoming: Option<Interface<'a>>,
    /// `-o`.
    pub outgoing: Option<Interface<'a>>,
    /// `-s` or `-d`.
    pub addresses: bool,
}

/// A condition on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Whether it must be another one.
    pub inverted: bool,
}

/// What a rule does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// `ACCEPT`.
    Accept,
    /// `DROP`.
    Drop,
    /// `RETURN`.
    Return,
    /// `MASQUERADE`, an extension.
    Masquerade,
    /// A chain of dockerd's.
    Chain(&'a [u8]),
}

/// The question of a call with these arguments, which come after the program's name. `None` if
/// only the real program knows what they mean.
pub fn question<'a>(
    family: Family,
    mut arguments: impl Iterator<Item = &'a [u8]>,
) -> Option<Question<'a>> {
    let mut next = arguments.next()?;
    // The nft backend ignores it: iptables-nft(8).
    if next == b"--wait" {
        next = arguments.next()?;
    }
    let mut table = Table::Filter;
    if next == b"-t" {
        table = match arguments.next()? {
            b"filter" => Table::Filter,
            b"nat" => Table::Nat,
            _ => return None,
        };
        next = arguments.next()?;
    }
    let (chain, asked) = match next {
        b"-F" | b"-X" => (dockerds(arguments.next()?)?, Asked::Chain),
        b"-n" if arguments.next()? == b"-L" => (dockerds(arguments.next()?)?, Asked::List),
        b"-N" => (dockerds(arguments.next()?)?, Asked::NewChain),
        b"-A" | b"-I" => {
            let chain = arguments.next()?;
            // The real program makes the other ones where they are missing, as this one as well.
            if (table, chain) != (Table::Filter, b"FORWARD") {
                dockerds(chain)?;
            }
            let rule = rule(family, table, chain, &mut arguments)?;
            let last = next == b"-A";
            (chain, Asked::NewRule { rule, last })
        }
        b"-C" | b"-D" => {
            let chain = arguments.next()?;
            if !is_builtin(table, chain) {
                dockerds(chain)?;
            }
            let rule = rule(family, table, chain, &mut arguments)?;
            (chain, Asked::Rule(rule))
        }
        _ => return None,
    };
    let question = Question {
        table,
        chain,
        asked,
    };
    arguments.next().is_none().then_some(question)
}

fn rule<'a>(
    family: Family,
    table: Table,
    chain: &[u8],
    arguments: &mut impl Iterator<Item = &'a [u8]>,
) -> Option<Rule<'a>> {
    let mut rule = Rule::default();
    let mut seen = [false; 4];
    // The real program takes each of these once.
    let mut once = |which: usize| -> Option<()> {
        let seen = seen.get_mut(which)?;
        (!core::mem::replace(seen, true)).then_some(())
    };
    let mut inverted = false;
    while let Some(argument) = arguments.next() {
        match argument {
            b"!" if !inverted => {
                inverted = true;
                continue;
            }
            b"-i" if !matches!(chain, b"OUTPUT" | b"POSTROUTING") => {
                once(0)?;
                rule.incoming = Some(interface(arguments.next()?, inverted)?);
            }
            b"-o" if !matches!(chain, b"INPUT" | b"PREROUTING") => {
                once(1)?;
                rule.outgoing = Some(interface(arguments.next()?, inverted)?);
            }
            b"-s" => {
                once(2)?;
                address(family, arguments.next()?)?;
                rule.addresses = true;
            }
            b"-d" | b"--dst" => {
                once(3)?;
                address(family, arguments.next()?)?;
                rule.addresses = true;
            }
            b"-m" if !inverted => match arguments.next()? {
                b"addrtype" if !rule.addrtype => {
                    let kind = arguments.next()?;
                    let is_known = kind == b"--dst-type" || kind == b"--src-type";
                    (is_known && arguments.next()? == b"LOCAL").then_some(())?;
                    rule.addrtype = true;
                }
                b"conntrack" if !rule.conntrack => {
                    let is_known = arguments.next()? == b"--ctstate"
                        && arguments.next()? == b"RELATED,ESTABLISHED";
                    is_known.then_some(())?;
                    rule.conntrack = true;
                }
                _ => return None,
            },
            b"-j" if !inverted && rule.target.is_none() => {
                rule.target = Some(match arguments.next()? {
                    b"ACCEPT" => Target::Accept,
                    b"DROP" => Target::Drop,
                    b"RETURN" => Target::Return,
                    b"MASQUERADE" if table == Table::Nat => Target::Masquerade,
                    name => Target::Chain(dockerds(name)?),
                });
            }
            _ => return None,
        }
        inverted = false;
    }
    (!inverted).then_some(rule)
}

fn is_builtin(table: Table, chain: &[u8]) -> bool {
    match table {
        Table::Filter => matches!(chain, b"INPUT" | b"FORWARD" | b"OUTPUT"),
        Table::Nat => matches!(chain, b"PREROUTING" | b"INPUT" | b"OUTPUT" | b"POSTROUTING"),
    }
}

/// A name that only dockerd gives to a chain, and that no extension has. The real program refuses
/// longer ones (`XT_EXTENSION_MAXNAMELEN`).
fn dockerds(chain: &[u8]) -> Option<&[u8]> {
    let is_plain = |byte: &u8| {
        byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
    };
    let is_known = chain.starts_with(b"DOCKER") && chain.len() < 28 && chain.iter().all(is_plain);
    is_known.then_some(chain)
}

/// A name without a wildcard, and none that the real program warns of (`xtables_parse_interface`).
fn interface(name: &[u8], inverted: bool) -> Option<Interface<'_>> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_known =
        (1..16).contains(&name.len()) && !name.starts_with(b"-") && name.iter().all(is_plain);
    is_known.then_some(Interface { name, inverted })
}

/// An address in numbers, with or without the length of a prefix. The real program would look up a
/// name.
fn address(family: Family, text: &[u8]) -> Option<()> {
    let text = from_utf8(text).ok()?;
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let most = match family {
        Family::Ipv4 => Ipv4Addr::from_str(address).map(|_| 32).ok()?,
        Family::Ipv6 => Ipv6Addr::from_str(address).map(|_| 128).ok()?,
    };
    let Some(length) = length else {
        return Some(());
    };
    let is_number = length.len() < 4 && length.bytes().all(|byte| byte.is_ascii_digit());
    let length: u8 = length.parse().ok().filter(|_| is_number)?;
    (length <= most).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(family: Family, text: &str) -> Option<Question<'_>> {
        question(family, text.split(' ').map(str::as_bytes))
    }

    #[test]
    fn what_dockerd_asks_is_understood() {
        let chain = |table, asked| Some((table, "DOCKER", asked));
        let interface = |name: &'static str, inverted| Interface {
            name: name.as_bytes(),
            inverted,
        };
        let bridge = interface("docker0", false);
        let other = interface("docker0", true);
        let rule = |table, chain, rule| Some((table, chain, Asked::Rule(rule)));
        let none = Rule::default();
        let to = |target| Rule {
            target: Some(target),
            ..none
        };
        let docker = Target::Chain(b"DOCKER");
        for (text, expected) in [
            ("--wait -t nat -F DOCKER", chain(Table::Nat, Asked::Chain)),
            ("-t filter -X DOCKER", chain(Table::Filter, Asked::Chain)),
            ("--wait -n -L DOCKER", chain(Table::Filter, Asked::List)),
            ("-t nat -N DOCKER", chain(Table::Nat, Asked::NewChain)),
            (
                "--wait -t nat -D PREROUTING",
                rule(Table::Nat, "PREROUTING", none),
            ),
            (
                "--wait -t nat -C OUTPUT -m addrtype --dst-type LOCAL -j DOCKER ! --dst 127.0.0.0/8",
                rule(
                    Table::Nat,
                    "OUTPUT",
                    Rule {
                        addrtype: true,
                        addresses: true,
                        ..to(docker)
                    },
                ),
            ),
            (
                "--wait -t nat -C POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
                rule(
                    Table::Nat,
                    "POSTROUTING",
                    Rule {
                        outgoing: Some(other),
                        addresses: true,
                        ..to(Target::Masquerade)
                    },
                ),
            ),
            (
                "-C DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                rule(
                    Table::Filter,
                    "DOCKER-CT",
                    Rule {
                        conntrack: true,
                        outgoing: Some(bridge),
                        ..to(Target::Accept)
                    },
                ),
            ),
            (
                "--wait -I FORWARD -i docker0 ! -o docker0 -j DROP",
                Some((
                    Table::Filter,
                    "FORWARD",
                    Asked::NewRule {
                        rule: Rule {
                            incoming: Some(bridge),
                            outgoing: Some(other),
                            ..to(Target::Drop)
                        },
                        last: false,
                    },
                )),
            ),
            (
                "-t nat -A DOCKER -i docker0 -j RETURN",
                chain(
                    Table::Nat,
                    Asked::NewRule {
                        rule: Rule {
                            incoming: Some(bridge),
                            ..to(Target::Return)
                        },
                        last: true,
                    },
                ),
            ),
        ] {
            let found = of(Family::Ipv4, text);
            let expected = expected.map(|(table, chain, asked)| Question {
                table,
                chain: chain.as_bytes(),
                asked,
            });
            assert_eq!(found, expected, "{text}");
        }
    }

    /// What changes something, what the real program refuses, and what dockerd does not say.
    #[test]
    fn all_else_is_the_real_programs() {
        for text in [
            "",
            "--version",
            "--wait",
            "-t",
            "-t mangle -F DOCKER",
            "-P FORWARD DROP",
            "-N",
            "-N docker",
            "-N FORWARD",
            "-A",
            "-A INPUT -j DROP",
            "-t nat -A OUTPUT -j DOCKER",
            "-I FORWARD 1 -j DROP",
            "-E DOCKER DOCKER-USER",
            "-F",
            "-F FORWARD",
            "-F docker",
            "-F DOCKER more",
            "-X DOCKER-THAT-HAS-A-VERY-LONG-NAME",
            "-L DOCKER",
            "-n -F DOCKER",
            "-n -L FORWARD",
            "-C",
            "-C PREROUTING",
            "-C FORWARD -j LOG",
            "-C FORWARD -j MASQUERADE",
            "-C FORWARD ! -j ACCEPT",
            "-C FORWARD !",
            "-C FORWARD ! ! -i docker0",
            "-C FORWARD -i",
            "-C FORWARD -i br+",
            "-C FORWARD -i a -i b",
            "-C FORWARD -j DROP -j ACCEPT",
            "-C OUTPUT -i docker0",
            "-t nat -C PREROUTING -o docker0",
            "-C FORWARD -s 1.2.3.4/33",
            "-C FORWARD -s 1.2.3.4/+8",
            "-C FORWARD -s host",
            "-C FORWARD -s ::1",
            "-C FORWARD -p tcp",
            "-C FORWARD -m set --match-set docker-ext-bridges-v4 dst -j DOCKER",
            "-C FORWARD -m addrtype --dst-type BROADCAST",
            "-C FORWARD -m conntrack --ctstate NEW",
        ] {
            assert_eq!(of(Family::Ipv4, text), None, "{text}");
        }
    }

    #[test]
    fn addresses_are_of_the_family() {
        for (text, ipv4, ipv6) in [
            ("127.0.0.0/8", true, false),
            ("10.0.0.1", true, false),
            ("::1/128", false, true),
            ("fd00::/64", false, true),
            ("::1/129", false, false),
        ] {
            for (family, expected) in [(Family::Ipv4, ipv4), (Family::Ipv6, ipv6)] {
                let call = format!("-C FORWARD -d {text}");
                assert_eq!(of(family, &call).is_some(), expected, "{family:?} {text}");
            }
        }
    }

    proptest! {
        /// A call of one known command, and of no other, is all that is ever taken.
        #[test]
        fn nothing_else_is_a_question(
            words in prop::collection::vec(
                prop::sample::select(vec![
                    "--wait", "-t", "nat", "filter", "-F", "-X", "-n", "-L", "-C", "-D", "-N", "-A",
                    "-I", "-P", "-R", "DOCKER", "FORWARD", "OUTPUT", "!", "-i", "-o", "docker0", "-j",
                    "ACCEPT", "-m", "addrtype", "--dst-type", "LOCAL", "-s", "10.0.0.0/8",
                ]),
                0..12,
            )
        ) {
            let asked = question(Family::Ipv4, words.iter().map(|word| word.as_bytes()));
            let known = ["-F", "-X", "-L", "-C", "-D", "-N", "-A", "-I"];
            let commands = words.iter().filter(|word| known.contains(word)).count();
            let others = words.contains(&"-P") || words.contains(&"-R");
            prop_assert!(asked.is_none() || (commands == 1 && !others), "{words:?}");
        }
    }
}
