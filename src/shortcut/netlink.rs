//! Requests to nf_tables and its answers: netlink(7), linux/netfilter/nf_tables.h,
//! linux/netfilter/nfnetlink.h.

use super::arguments::{Interface, Rule, Target};

/// The subsystem nf_tables, in the upper byte of a message's type.
const NF_TABLES: u16 = 10 << 8;
/// The subsystem that knows the extensions.
const COMPAT: u16 = 11 << 8;

/// `NFT_MSG_NEWCHAIN`: the answer to [`Request::chain`].
pub const NEW_CHAIN: u16 = NF_TABLES | 3;
const GET_CHAIN: u16 = NF_TABLES | 4;
/// `NFT_MSG_NEWRULE`: an answer to [`Request::rules`].
pub const NEW_RULE: u16 = NF_TABLES | 6;
const GET_RULE: u16 = NF_TABLES | 7;
/// `NFNL_MSG_COMPAT_GET`, question and answer.
pub const EXTENSION: u16 = COMPAT;
/// `NLMSG_ERROR`.
pub const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
pub const DONE: u16 = 3;

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

const REQUEST: u16 = 1;
/// `NLM_F_ACK`, `NLM_F_EXCL`, `NLM_F_CREATE` and `NLM_F_APPEND`.
const ACKNOWLEDGE: u16 = 4;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
const DUMP: u16 = 0x300;
/// `NLM_F_DUMP_INTR`: something changed during the dump.
const INTERRUPTED: u16 = 0x10;

/// The length of struct nlmsghdr, and that of struct nfgenmsg behind it.
const HEADER: usize = 16;
const FAMILY: usize = 4;
const ATTRIBUTE: usize = 4;

/// A request, at most as long as the longest that is made here.
#[derive(Debug)]
pub struct Request {
    bytes: [u8; 640],
    /// Where the current message begins.
    begin: usize,
    length: usize,
}

impl Request {
    /// Asks for one chain.
    pub fn chain(family: u8, table: &[u8], chain: &[u8]) -> Option<Self> {
        let mut request = Self::new(GET_CHAIN, REQUEST, family, 0)?;
        request.string(1, table)?;
        request.string(3, chain)?;
        request.finished()
    }

    /// Asks for all rules of a chain.
    pub fn rules(family: u8, table: &[u8], chain: &[u8]) -> Option<Self> {
        let mut request = Self::new(GET_RULE, REQUEST | DUMP, family, 0)?;
        request.string(1, table)?;
        request.string(2, chain)?;
        request.finished()
    }

    /// Asks for an extension in a revision, a target's or a match's.
    pub fn extension(family: u8, name: &[u8], revision: u32, target: bool) -> Option<Self> {
        let mut request = Self::new(EXTENSION, REQUEST, family, 0)?;
        request.string(1, name)?;
        request.attribute(2, &[&revision.to_be_bytes()])?;
        request.attribute(3, &[&u32::from(target).to_be_bytes()])?;
        request.finished()
    }

    /// What is sent.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn new(kind: u16, flags: u16, family: u8, resource: u16) -> Option<Self> {
        let mut request = Self {
            bytes: [0; 640],
            begin: 0,
            length: 0,
        };
        request.begin(kind, flags, family, resource)?;
        Some(request)
    }

    fn begin(&mut self, kind: u16, flags: u16, family: u8, resource: u16) -> Option<()> {
        self.begin = self.length;
        // The length is written at the end of the message.
        self.put(&[0; 4])?;
        self.put(&kind.to_ne_bytes())?;
        self.put(&flags.to_ne_bytes())?;
        // Sequence number, port; family, version, resource.
        self.put(&[0; 8])?;
        self.put(&[family, 0])?;
        self.put(&resource.to_be_bytes())
    }

    /// Makes a chain that does not exist in a table that does.
    pub fn new_chain(family: u8, table: &[u8], chain: &[u8]) -> Option<Self> {
        let flags = REQUEST | ACKNOWLEDGE | CREATE | EXCLUSIVE;
        Self::batch(NEW_CHAIN, flags, family, |request| {
            request.string(1, table)?;
            request.string(3, chain)
        })
    }

    /// Makes a rule with the expressions that the real program writes: the interfaces, a counter,
    /// and the verdict. `None` for a target that is none.
    pub fn new_rule(
        family: u8,
        table: &[u8],
        chain: &[u8],
        rule: &Rule<'_>,
        last: bool,
    ) -> Option<Self> {
        const INCOMING_NAME: u32 = 6;
        const OUTGOING_NAME: u32 = 7;
        let (code, target): (i32, &[u8]) = match rule.target? {
            Target::Accept => (1, b""),
            Target::Drop => (0, b""),
            Target::Return => (-5, b""),
            Target::Chain(target) => (-3, target),
            Target::Masquerade => return None,
        };
        let place = if last { APPEND } else { 0 };
        let flags = REQUEST | ACKNOWLEDGE | CREATE | place;
        Self::batch(NEW_RULE, flags, family, |request| {
            request.string(1, table)?;
            request.string(2, chain)?;
            request.nested(4, |list| {
                list.interface(INCOMING_NAME, rule.incoming)?;
                list.interface(OUTGOING_NAME, rule.outgoing)?;
                list.expression(b"counter", |counter| {
                    counter.attribute(1, &[&[0; 8]])?;
                    counter.attribute(2, &[&[0; 8]])
                })?;
                list.expression(b"immediate", |immediate| {
                    immediate.attribute(1, &[&[0; 4]])?;
                    immediate.nested(2, |data| {
                        data.nested(2, |verdict| {
                            verdict.attribute(1, &[&code.to_be_bytes()])?;
                            match target {
                                b"" => Some(()),
                                target => verdict.string(2, target),
                            }
                        })
                    })
                })
            })
        })
    }

    fn interface(&mut self, key: u32, interface: Option<Interface<'_>>) -> Option<()> {
        const REGISTER: [u8; 4] = 1_u32.to_be_bytes();
        let Some(Interface { name, inverted }) = interface else {
            return Some(());
        };
        self.expression(b"meta", |meta| {
            meta.attribute(1, &[&REGISTER])?;
            meta.attribute(2, &[&key.to_be_bytes()])
        })?;
        self.expression(b"cmp", |compare| {
            compare.attribute(1, &[&REGISTER])?;
            compare.attribute(2, &[&u32::from(inverted).to_be_bytes()])?;
            compare.nested(3, |data| data.string(1, name))
        })
    }

    fn expression(
        &mut self,
        name: &[u8],
        data: impl FnOnce(&mut Self) -> Option<()>,
    ) -> Option<()> {
        self.nested(1, |element| {
            element.string(1, name)?;
            element.nested(2, data)
        })
    }

    fn nested(&mut self, kind: u16, value: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        let start = self.length;
        self.put(&[0; 2])?;
        self.put(&(kind | NESTED).to_ne_bytes())?;
        value(self)?;
        let length = u16::try_from(self.length - start).ok()?.to_ne_bytes();
        let place = self.bytes.get_mut(start..)?.first_chunk_mut()?;
        *place = length;
        Some(())
    }

    /// One message as a transaction of nf_tables: nfnetlink.h.
    fn batch(
        kind: u16,
        flags: u16,
        family: u8,
        message: impl FnOnce(&mut Self) -> Option<()>,
    ) -> Option<Self> {
        // The resource of a batch is its subsystem.
        let mut request = Self::new(BATCH_BEGIN, REQUEST, 0, NF_TABLES >> 8)?.finished()?;
        request.begin(kind, flags, family, 0)?;
        message(&mut request)?;
        let mut request = request.finished()?;
        request.begin(BATCH_END, REQUEST, 0, NF_TABLES >> 8)?;
        request.finished()
    }

    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.length.checked_add(bytes.len())?;
        self.bytes.get_mut(self.length..end)?.copy_from_slice(bytes);
        self.length = end;
        Some(())
    }

    fn string(&mut self, kind: u16, value: &[u8]) -> Option<()> {
        self.attribute(kind, &[value, &[0]])
    }

    fn attribute(&mut self, kind: u16, value: &[&[u8]]) -> Option<()> {
        let length: usize = value.iter().map(|part| part.len()).sum();
        self.put(&u16::try_from(ATTRIBUTE + length).ok()?.to_ne_bytes())?;
        self.put(&kind.to_ne_bytes())?;
        for part in value {
            self.put(part)?;
        }
        let padding = [0; 3];
        self.put(padding.get(..length.next_multiple_of(4) - length)?)
    }

    fn finished(mut self) -> Option<Self> {
        let length = u32::try_from(self.length - self.begin).ok()?.to_ne_bytes();
        *self.bytes.get_mut(self.begin..)?.first_chunk_mut()? = length;
        Some(self)
    }
}

/// One message of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its type.
    pub kind: u16,
    /// Whether it is part of a dump during which something changed.
    pub interrupted: bool,
    /// What is behind struct nlmsghdr.
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The first message in `bytes`, and what comes after it. `None` for what is no message.
    pub fn first(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let flags = u16::from_ne_bytes(*bytes.get(6..)?.first_chunk()?);
        let message = Self {
            kind,
            interrupted: flags & INTERRUPTED != 0,
            body: bytes.get(HEADER..length)?,
        };
        let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((message, rest))
    }

    /// The error number of a message of type [`ERROR`].
    pub fn error(&self) -> Option<i32> {
        let number = i32::from_ne_bytes(*self.body.first_chunk()?);
        number.checked_neg()
    }

    /// Whether this is a chain that is at no hook, or at the hook of the packets that are forwarded
    /// with the priority of the table filter, as the real program makes it.
    pub fn is_plain_chain(&self) -> Option<bool> {
        const FORWARD: [u8; 4] = 2_u32.to_be_bytes();
        let attributes = self.body.get(FAMILY..)?;
        let Some(hook) = find(attributes, 4) else {
            return Some(find(attributes, 3)?.starts_with(b"DOCKER"));
        };
        let is_at = find(hook, 1) == Some(&FORWARD) && find(hook, 2) == Some(&[0; 4]);
        Some(is_at && find(attributes, 3)?.starts_with(b"FORWARD"))
    }

    /// What a rule does, if this is a rule of the chain.
    pub fn verdict(&self, table: &[u8], chain: &[u8]) -> Option<Verdict<'a>> {
        let attributes = self.body.get(FAMILY..)?;
        // Old kernels dump the rules of all chains.
        let is_named = |kind, name: &[u8]| find(attributes, kind).map(string) == Some(name);
        (is_named(1, table) && is_named(2, chain))
            .then(|| find(attributes, 4).map_or(Verdict::Unknown, verdict))
    }
}

/// What a rule does with a packet, by the last of its expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// The packet passes.
    Accept,
    /// The packet is dropped.
    Drop,
    /// The calling chain goes on.
    Return,
    /// This chain takes over.
    Jump(&'a [u8]),
    /// A target of an extension, by its name.
    Extension(&'a [u8]),
    /// None of these, or the rule has a condition that the real program may not know.
    Unknown,
}

/// The conditions and counters of rules that the real program makes.
const CONDITIONS: [&[u8]; 6] = [
    b"meta", b"cmp", b"payload", b"bitwise", b"counter", b"match",
];

fn verdict(expressions: &[u8]) -> Verdict<'_> {
    let mut found = Verdict::Unknown;
    let mut rest = expressions;
    while let Some((_, expression, after)) = attribute(rest) {
        rest = after;
        let name = find(expression, 1).map(string).unwrap_or_default();
        let data = find(expression, 2).unwrap_or_default();
        found = match name {
            // Behind one that ends the rule, nothing is expected.
            _ if found != Verdict::Unknown => return Verdict::Unknown,
            b"immediate" => match immediate(data) {
                Some(verdict) => verdict,
                None => return Verdict::Unknown,
            },
            b"target" => match find(data, 1).map(string) {
                Some(name) => Verdict::Extension(name),
                None => return Verdict::Unknown,
            },
            name if CONDITIONS.contains(&name) => continue,
            _ => return Verdict::Unknown,
        };
    }
    found
}

/// `NFTA_IMMEDIATE_*`, for the register of verdicts.
fn immediate(data: &[u8]) -> Option<Verdict<'_>> {
    let register = u32::from_be_bytes(*find(data, 1)?.first_chunk()?);
    let verdict = find(find(data, 2)?, 2)?;
    let code = i32::from_be_bytes(*find(verdict, 1)?.first_chunk()?);
    match (register, code) {
        (0, 0) => Some(Verdict::Drop),
        (0, 1) => Some(Verdict::Accept),
        (0, -3) => find(verdict, 2).map(string).map(Verdict::Jump),
        (0, -5) => Some(Verdict::Return),
        _ => None,
    }
}

/// The first attribute in `bytes`: its type, its value, and what comes after it. The flags that say
/// how it is to be read are not part of its type.
fn attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & 0x3fff;
    let value = bytes.get(ATTRIBUTE..length)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, value, rest))
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = bytes;
    while let Some((kind, value, after)) = attribute(rest) {
        if kind == wanted {
            return Some(value);
        }
        rest = after;
    }
    None
}

/// A string without the zero at its end.
fn string(value: &[u8]) -> &[u8] {
    value.strip_suffix(&[0]).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_is_as_the_kernel_wants_it() -> Result<(), &'static str> {
        let request = Request::chain(2, b"nat", b"DOCKER").ok_or("it fits")?;
        let (message, rest) = Message::first(request.bytes()).ok_or("a message")?;
        assert_eq!((message.kind, rest), (GET_CHAIN, &[][..]));
        assert_eq!(message.body.first(), Some(&2));
        let attributes = message.body.get(FAMILY..).ok_or("attributes")?;
        assert_eq!(find(attributes, 1), Some(&b"nat\0"[..]));
        assert_eq!(find(attributes, 3), Some(&b"DOCKER\0"[..]));
        let long = [b'a'; 640];
        assert!(Request::chain(2, b"nat", &long).is_none());
        let request = Request::extension(2, b"addrtype", 1, false).ok_or("it fits")?;
        let (message, _) = Message::first(request.bytes()).ok_or("a message")?;
        let attributes = message.body.get(FAMILY..).ok_or("attributes")?;
        assert_eq!(find(attributes, 2), Some(&[0, 0, 0, 1][..]));
        Ok(())
    }

    fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
        let value = parts.concat();
        let mut bytes = u16::try_from(4 + value.len())
            .unwrap_or_default()
            .to_ne_bytes()
            .to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(&value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn text(kind: u16, text: &str) -> Vec<u8> {
        nested(kind, &[format!("{text}\0").into_bytes()])
    }

    fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
        nested(1 | 0x8000, &[text(1, name), nested(2 | 0x8000, data)])
    }

    fn ends(code: i32, chain: &[Vec<u8>]) -> Vec<u8> {
        let code = nested(1, &[code.to_be_bytes().to_vec()]);
        let verdict = nested(
            2 | 0x8000,
            &[[vec![code], chain.to_vec()].concat().concat()],
        );
        let register = nested(1, &[vec![0; 4]]);
        expression("immediate", &[register, nested(2 | 0x8000, &[verdict])])
    }

    #[test]
    fn verdicts_are_read() {
        let condition = expression("meta", &[]);
        let jump = ends(-3, &[text(2, "DOCKER")]);
        let target = expression("target", &[text(1, "MASQUERADE")]);
        for (parts, expected) in [
            (vec![], Verdict::Unknown),
            (vec![condition.clone()], Verdict::Unknown),
            (vec![condition.clone(), ends(1, &[])], Verdict::Accept),
            (vec![ends(0, &[])], Verdict::Drop),
            (vec![ends(-5, &[])], Verdict::Return),
            (
                vec![condition.clone(), jump.clone()],
                Verdict::Jump(b"DOCKER"),
            ),
            (vec![target], Verdict::Extension(b"MASQUERADE")),
            // A goto, a queue, an expression of nft's own, something behind the end.
            (vec![ends(-4, &[text(2, "DOCKER")])], Verdict::Unknown),
            (vec![ends(3, &[])], Verdict::Unknown),
            (
                vec![expression("lookup", &[]), ends(1, &[])],
                Verdict::Unknown,
            ),
            (vec![jump, condition], Verdict::Unknown),
        ] {
            let rule = [
                text(1, "filter"),
                text(2, "FORWARD"),
                nested(4 | 0x8000, &parts),
            ];
            let body = [vec![0; FAMILY], rule.concat()].concat();
            let message = Message {
                kind: NEW_RULE,
                interrupted: false,
                body: &body,
            };
            assert_eq!(message.verdict(b"filter", b"FORWARD"), Some(expected));
            assert_eq!(message.verdict(b"filter", b"INPUT"), None);
            assert_eq!(message.verdict(b"nat", b"FORWARD"), None);
        }
    }

    proptest! {
        /// Whatever arrives is read to its end, and in steps that end.
        #[test]
        fn anything_can_arrive(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = &bytes[..];
            while let Some((message, after)) = Message::first(rest) {
                let _ = (message.error(), message.verdict(b"nat", b"DOCKER"));
                prop_assert!(after.len() < rest.len());
                rest = after;
            }
        }
    }
}
