//! The answer to a question, of what the kernel says: only no is ever answered. What is to be made
//! is made where it is as plain as a chain, or a rule with nothing but interfaces and a verdict.

use super::arguments::{Asked, Question, Rule, Table, Target};
use super::netlink::Verdict;

/// Why the answer is no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum No<'a> {
    /// The chain does not exist.
    Chain,
    /// The chain to be listed does not exist.
    Listed(Table, &'a [u8]),
    /// The chain to which the rule leads does not exist.
    Target(&'a [u8]),
    /// The chain has no such rule.
    Rule,
}

/// The outcome of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// What was asked for is not there.
    No(No<'a>),
    /// It is made. There is nothing to say.
    Made,
}

/// An extension that the real program looks for in the kernel when a rule names it, with the
/// newest revision that it knows. With an older one it would ask for more, and may warn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// `-m addrtype`.
    Addrtype,
    /// `-m conntrack`.
    Conntrack,
    /// `-j MASQUERADE`.
    Masquerade,
}

/// What is asked of the kernel. `None` is no answer, or one that is not understood.
pub trait Kernel {
    /// Whether the chain exists.
    fn has_chain(&mut self, table: Table, chain: &[u8]) -> Option<bool>;
    /// Whether the kernel has the extension. May make it load a module, as the real program does.
    fn has_extension(&mut self, extension: Extension) -> Option<bool>;
    /// Whether `holds` is true of all rules of a chain; true for a chain that does not exist.
    fn all_rules(
        &mut self,
        table: Table,
        chain: &[u8],
        holds: &dyn Fn(Verdict<'_>) -> bool,
    ) -> Option<bool>;
    /// Whether legacy tables are in use, of which the real program warns when it lists.
    fn has_legacy_tables(&mut self) -> Option<bool>;
    /// Whether the chain is the one that the real program would make under this name.
    fn is_plain(&mut self, table: Table, chain: &[u8]) -> Option<bool>;
    /// Makes the chain, if its table exists and the chain does not.
    fn make_chain(&mut self, table: Table, chain: &[u8]) -> Option<()>;
    /// Makes the rule, if everything that it names exists.
    fn make_rule(&mut self, table: Table, chain: &[u8], rule: &Rule<'_>, last: bool) -> Option<()>;
}

/// The outcome, if it is certainly the real program's. Otherwise nothing is changed.
pub fn answer<'a>(question: &Question<'a>, kernel: &mut impl Kernel) -> Option<Answer<'a>> {
    let Question {
        table,
        chain,
        asked,
    } = *question;
    match asked {
        Asked::NewChain => kernel.make_chain(table, chain)?,
        Asked::NewRule { rule, last } => {
            let is_verdict = !matches!(rule.target, None | Some(Target::Masquerade));
            let has_more = rule.addrtype || rule.conntrack || rule.addresses;
            (is_verdict && !has_more && kernel.is_plain(table, chain)?).then_some(())?;
            kernel.make_rule(table, chain, &rule, last)?;
        }
        Asked::Chain | Asked::List | Asked::Rule(_) => {
            return refusal(question, kernel).map(Answer::No);
        }
    }
    Some(Answer::Made)
}

fn refusal<'a>(question: &Question<'a>, kernel: &mut impl Kernel) -> Option<No<'a>> {
    let Question {
        table,
        chain,
        asked,
    } = *question;
    match asked {
        Asked::Chain => no(kernel.has_chain(table, chain)?, No::Chain),
        Asked::List => {
            no(kernel.has_legacy_tables()?, ())?;
            no(kernel.has_chain(table, chain)?, No::Listed(table, chain))
        }
        Asked::Rule(rule) => {
            for extension in extensions(&rule).into_iter().flatten() {
                kernel.has_extension(extension)?.then_some(())?;
            }
            if let Some(Target::Chain(target)) = rule.target
                && !kernel.has_chain(table, target)?
            {
                return Some(No::Target(target));
            }
            let holds = |verdict: Verdict<'_>| differs(verdict, rule.target);
            let none_is_the_same = kernel.all_rules(table, chain, &holds)?;
            none_is_the_same.then_some(No::Rule)
        }
        Asked::NewChain | Asked::NewRule { .. } => None,
    }
}

fn no<T>(exists: bool, no: T) -> Option<T> {
    (!exists).then_some(no)
}

fn extensions(rule: &Rule<'_>) -> [Option<Extension>; 3] {
    let masquerades = rule.target == Some(Target::Masquerade);
    [
        rule.addrtype.then_some(Extension::Addrtype),
        rule.conntrack.then_some(Extension::Conntrack),
        masquerades.then_some(Extension::Masquerade),
    ]
}

/// Whether a rule with this verdict is certainly not the one that is asked for: the real program
/// compares the targets, among other things (`nft_rule_cmp` in iptables/nft.c).
fn differs(verdict: Verdict<'_>, target: Option<Target<'_>>) -> bool {
    match (verdict, target) {
        (Verdict::Unknown, _) => false,
        (Verdict::Accept, Some(Target::Accept))
        | (Verdict::Drop, Some(Target::Drop))
        | (Verdict::Return, Some(Target::Return)) => false,
        (Verdict::Jump(chain), Some(Target::Chain(target))) => chain != target,
        (Verdict::Extension(name), Some(Target::Masquerade)) => name != b"MASQUERADE",
        (
            Verdict::Accept
            | Verdict::Drop
            | Verdict::Return
            | Verdict::Jump(_)
            | Verdict::Extension(_),
            _,
        ) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chains of the table filter, with their rules.
    struct Chains<'a> {
        chains: &'a [(&'a str, &'a [Verdict<'a>])],
        extensions: Option<bool>,
        legacy: Option<bool>,
    }

    impl Kernel for Chains<'_> {
        fn has_chain(&mut self, table: Table, chain: &[u8]) -> Option<bool> {
            let is_it = |(name, _): &(&str, _)| name.as_bytes() == chain;
            Some(table == Table::Filter && self.chains.iter().any(is_it))
        }

        fn has_extension(&mut self, _: Extension) -> Option<bool> {
            self.extensions
        }

        fn all_rules(
            &mut self,
            table: Table,
            chain: &[u8],
            holds: &dyn Fn(Verdict<'_>) -> bool,
        ) -> Option<bool> {
            let is_it = |(name, _): &&(&str, _)| name.as_bytes() == chain;
            let mut found = self.chains.iter().filter(|_| table == Table::Filter);
            Some(
                found
                    .find(is_it)
                    .is_none_or(|(_, rules)| rules.iter().all(|rule| holds(*rule))),
            )
        }

        fn has_legacy_tables(&mut self) -> Option<bool> {
            self.legacy
        }

        fn is_plain(&mut self, table: Table, chain: &[u8]) -> Option<bool> {
            self.has_chain(table, chain)
        }

        fn make_chain(&mut self, table: Table, chain: &[u8]) -> Option<()> {
            (!self.has_chain(table, chain)?).then_some(())
        }

        fn make_rule(
            &mut self,
            table: Table,
            chain: &[u8],
            rule: &Rule<'_>,
            _: bool,
        ) -> Option<()> {
            let target = match rule.target {
                Some(Target::Chain(name)) => self.has_chain(table, name)?,
                _ => true,
            };
            (target && self.has_chain(table, chain)?).then_some(())
        }
    }

    const JUMP: Verdict<'_> = Verdict::Jump(b"DOCKER");
    const CHAINS: Chains<'_> = Chains {
        chains: &[
            (
                "FORWARD",
                &[JUMP, Verdict::Drop, Verdict::Extension(b"LOG")],
            ),
            ("DOCKER", &[]),
            ("DOCKER-ODD", &[Verdict::Unknown]),
        ],
        extensions: Some(true),
        legacy: Some(false),
    };

    fn chain(asked: Asked<'static>, chain: &'static [u8]) -> Question<'static> {
        Question {
            table: Table::Filter,
            chain,
            asked,
        }
    }

    fn rule(name: &'static [u8], target: Option<Target<'static>>) -> Question<'static> {
        let rule = Rule {
            target,
            ..Rule::default()
        };
        chain(Asked::Rule(rule), name)
    }

    #[test]
    fn only_what_is_not_there_is_answered() {
        let target = |name| Some(Target::Chain(name));
        for (question, expected) in [
            (chain(Asked::Chain, b"DOCKER"), None),
            (chain(Asked::Chain, b"DOCKER-CT"), Some(No::Chain)),
            (chain(Asked::List, b"DOCKER"), None),
            (
                chain(Asked::List, b"DOCKER-CT"),
                Some(No::Listed(Table::Filter, b"DOCKER-CT")),
            ),
            (rule(b"FORWARD", target(b"DOCKER")), None),
            (rule(b"FORWARD", target(b"DOCKER-ODD")), Some(No::Rule)),
            (
                rule(b"FORWARD", target(b"DOCKER-CT")),
                Some(No::Target(b"DOCKER-CT")),
            ),
            (rule(b"FORWARD", Some(Target::Drop)), None),
            (rule(b"FORWARD", Some(Target::Accept)), Some(No::Rule)),
            (rule(b"FORWARD", Some(Target::Return)), Some(No::Rule)),
            (rule(b"FORWARD", None), Some(No::Rule)),
            (rule(b"DOCKER", Some(Target::Accept)), Some(No::Rule)),
            (rule(b"DOCKER-CT", Some(Target::Accept)), Some(No::Rule)),
            (rule(b"DOCKER-ODD", Some(Target::Accept)), None),
            (rule(b"DOCKER-ODD", None), None),
        ] {
            let expected = expected.map(Answer::No);
            assert_eq!(answer(&question, &mut { CHAINS }), expected, "{question:?}");
        }
    }

    #[test]
    fn what_the_kernel_does_not_answer_is_not_answered() {
        let question = Question {
            asked: Asked::Rule(Rule {
                addrtype: true,
                ..Rule::default()
            }),
            ..rule(b"DOCKER", None)
        };
        for (extensions, expected) in [
            (Some(true), Some(No::Rule)),
            (Some(false), None),
            (None, None),
        ] {
            let mut kernel = Chains {
                extensions,
                ..CHAINS
            };
            let expected = expected.map(Answer::No);
            assert_eq!(answer(&question, &mut kernel), expected, "{extensions:?}");
        }
        for legacy in [Some(true), None] {
            let mut kernel = Chains { legacy, ..CHAINS };
            let question = chain(Asked::List, b"DOCKER-CT");
            assert_eq!(answer(&question, &mut kernel), None, "{legacy:?}");
        }
    }

    #[test]
    fn only_what_is_plain_is_made() {
        let new = |name, rule| chain(Asked::NewRule { rule, last: true }, name);
        let plain = Rule {
            target: Some(Target::Accept),
            ..Rule::default()
        };
        let to = |name| Rule {
            target: Some(Target::Chain(name)),
            ..Rule::default()
        };
        let more = |change: fn(&mut Rule<'static>)| {
            let mut rule = plain;
            change(&mut rule);
            rule
        };
        for (question, made) in [
            (chain(Asked::NewChain, b"DOCKER-CT"), true),
            (chain(Asked::NewChain, b"DOCKER"), false),
            (new(b"FORWARD", plain), true),
            (new(b"FORWARD", to(b"DOCKER")), true),
            (new(b"FORWARD", to(b"DOCKER-CT")), false),
            (new(b"DOCKER-CT", plain), false),
            (new(b"FORWARD", Rule::default()), false),
            (new(b"FORWARD", more(|rule| rule.addresses = true)), false),
            (new(b"FORWARD", more(|rule| rule.conntrack = true)), false),
            (new(b"FORWARD", more(|rule| rule.addrtype = true)), false),
            (
                new(
                    b"FORWARD",
                    more(|rule| rule.target = Some(Target::Masquerade)),
                ),
                false,
            ),
        ] {
            let expected = made.then_some(Answer::Made);
            assert_eq!(answer(&question, &mut { CHAINS }), expected, "{question:?}");
        }
    }
}
