//! Source NAT for what comes from one interface, by a table of nf_tables that ends with its socket, and
//! a table that has nothing else forwarded: linux/netfilter/nf_tables.h.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::netlink::{self, APPEND, Messages, NEW};

/// The subsystem nf_tables, in the upper byte of a message's type.
const NF_TABLES: u16 = 10;
const NEW_TABLE: u16 = NF_TABLES << 8;
const NEW_CHAIN: u16 = NF_TABLES << 8 | 3;
const NEW_RULE: u16 = NF_TABLES << 8 | 6;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

/// `NFPROTO_INET`: IPv4 and IPv6.
const INET: u8 = 1;

/// `NFT_TABLE_F_OWNER`: only this socket changes the table, and the kernel removes it when the socket
/// is closed, also where its process was killed (`nft_rcv_nl_event` in
/// net/netfilter/nf_tables_api.c). Since Linux 5.12.
const OWNER: u32 = 2;

/// `NF_INET_FORWARD` and `NF_INET_POST_ROUTING`, and the priorities of filters and of source NAT:
/// linux/netfilter_ipv4.h.
const FORWARD: (u32, i32) = (2, 0);
const POSTROUTING: (u32, i32) = (4, 100);

/// `NFT_META_IIFNAME` and `NFT_META_OIFNAME`.
const INCOMING_NAME: u32 = 6;
const OUTGOING_NAME: u32 = 7;

/// `NFT_META_IIFKIND` and `NFT_META_OIFKIND`.
const INCOMING_KIND: u32 = 26;
const OUTGOING_KIND: u32 = 27;

/// `NF_DROP` and `NF_ACCEPT`: linux/netfilter.h.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// `NFT_CMP_EQ` and `NFT_CMP_NEQ`.
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;

/// The bits of a connection's state: `NF_CT_STATE_INVALID_BIT` and `NF_CT_STATE_BIT` in
/// linux/netfilter/nf_conntrack_common.h.
const INVALID: u32 = 1;
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;

/// The name of the table, and those of its chains.
const CHAIN_OUT: &str = "postrouting";
const CHAIN_THROUGH: &str = "forward";

/// The table by which nothing but an engine's is forwarded.
pub const TABLE_FORWARDING: &str = "dind-forwarding";

/// What the name of each engine's interface begins with.
const ENGINES: &[u8] = b"dind-";

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// What nft(8) calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
        }
    }

    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
    fn number(self) -> u8 {
        match self {
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }
}

/// Makes a table by which nothing is forwarded from one interface to another, but from and to engines'
/// interfaces and bridges: whoever makes a bridge filters it. It has no owner and stays, as does
/// the kernel's setting that it is for. It may be there already: then every engine's rules are in it. The
/// error is the kernel's.
pub fn close(family: Family) -> nix::Result<()> {
    let socket = open()?;
    let family = family.number();
    let mut batch = Messages::default();
    batch.mark(BATCH_BEGIN, |message| header(message, 0, NF_TABLES));
    batch.message(NEW_TABLE, NEW, |message| {
        header(message, family, 0);
        message.string(1, TABLE_FORWARDING);
    });
    chain(
        &mut batch,
        family,
        TABLE_FORWARDING,
        CHAIN_THROUGH,
        |chain| {
            hook(chain, FORWARD);
            number(chain, 5, DROP);
            chain.string(7, "filter");
        },
    );
    for (key, value) in [
        (INCOMING_NAME, ENGINES),
        (OUTGOING_NAME, ENGINES),
        (INCOMING_KIND, b"bridge\0"),
        (OUTGOING_KIND, b"bridge\0"),
    ] {
        rule(
            &mut batch,
            family,
            TABLE_FORWARDING,
            CHAIN_THROUGH,
            |list| {
                meta(list, key, value);
                verdict(list, ACCEPT);
            },
        );
    }
    batch.mark(BATCH_END, |message| header(message, 0, NF_TABLES));
    match netlink::ask(&socket, &batch) {
        Err(Errno::EEXIST) => Ok(()),
        done => done,
    }
}

/// A socket for the requests of this file. The error is that of socket(2).
pub fn open() -> nix::Result<OwnedFd> {
    netlink::open(SockProtocol::NetlinkNetFilter)
}

/// Makes the table `name`, by which what comes from the interface of that name leaves with an address
/// of the interface that it leaves by. Only answers come back, and what belongs to no connection does
/// not leave. The table is there as long as the socket. The error is the kernel's: EPERM where another
/// socket has one of that name, EOPNOTSUPP where tables cannot have an owner.
pub fn translate(socket: &OwnedFd, name: &str) -> nix::Result<()> {
    let mut batch = Messages::default();
    batch.mark(BATCH_BEGIN, |message| header(message, 0, NF_TABLES));
    batch.message(NEW_TABLE, NEW, |message| {
        header(message, INET, 0);
        message.string(1, name);
        number(message, 2, OWNER);
    });
    for (own, kind, place) in [
        (CHAIN_OUT, "nat", POSTROUTING),
        (CHAIN_THROUGH, "filter", FORWARD),
    ] {
        chain(&mut batch, INET, name, own, |chain| {
            hook(chain, place);
            chain.string(7, kind);
        });
    }
    rule(&mut batch, INET, name, CHAIN_OUT, |list| {
        interface(list, INCOMING_NAME, name);
        expression(list, "masq", |_| {});
    });
    for (key, bits, comparison) in [
        (INCOMING_NAME, INVALID, UNEQUAL),
        (OUTGOING_NAME, ESTABLISHED_OR_RELATED, EQUAL),
    ] {
        rule(&mut batch, INET, name, CHAIN_THROUGH, |list| {
            interface(list, key, name);
            state(list, bits, comparison);
            verdict(list, DROP);
        });
    }
    batch.mark(BATCH_END, |message| header(message, 0, NF_TABLES));
    netlink::ask(socket, &batch)
}

/// struct nfgenmsg.
fn header(message: &mut Messages, family: u8, resource: u16) {
    message.put(&[family, 0]);
    message.put(&resource.to_be_bytes());
}

fn number(message: &mut Messages, kind: u16, value: u32) {
    message.attribute(kind, &value.to_be_bytes());
}

fn chain(
    batch: &mut Messages,
    family: u8,
    table: &str,
    name: &str,
    rest: impl FnOnce(&mut Messages),
) {
    batch.message(NEW_CHAIN, NEW, |message| {
        header(message, family, 0);
        message.string(1, table);
        message.string(3, name);
        rest(message);
    });
}

/// Where a chain gets its packets.
fn hook(chain: &mut Messages, (hook, priority): (u32, i32)) {
    chain.nested(4, |place| {
        number(place, 1, hook);
        place.attribute(2, &priority.to_be_bytes());
    });
}

fn rule(
    batch: &mut Messages,
    family: u8,
    table: &str,
    chain: &str,
    list: impl FnOnce(&mut Messages),
) {
    batch.message(NEW_RULE, NEW | APPEND, |message| {
        header(message, family, 0);
        message.string(1, table);
        message.string(2, chain);
        message.nested(4, list);
    });
}

fn expression(list: &mut Messages, name: &str, data: impl FnOnce(&mut Messages)) {
    list.nested(1, |element| {
        element.string(1, name);
        element.nested(2, data);
    });
}

/// The packet's interface is this one.
fn interface(list: &mut Messages, key: u32, name: &str) {
    meta(list, key, &[name.as_bytes(), &[0]].concat());
}

/// What the kernel knows of the packet by this key begins with these bytes.
fn meta(list: &mut Messages, key: u32, value: &[u8]) {
    expression(list, "meta", |meta| {
        number(meta, 1, 1);
        number(meta, 2, key);
    });
    expression(list, "cmp", |compare| {
        number(compare, 1, 1);
        number(compare, 2, EQUAL);
        compare.nested(3, |data| data.attribute(1, value));
    });
}

/// The state of the packet's connection has none of these bits (`EQUAL`), or one (`UNEQUAL`).
fn state(list: &mut Messages, bits: u32, comparison: u32) {
    const NONE: [u8; 4] = [0; 4];
    expression(list, "ct", |state| {
        number(state, 1, 1);
        number(state, 2, 0);
    });
    expression(list, "bitwise", |bitwise| {
        number(bitwise, 1, 1);
        number(bitwise, 2, 1);
        number(bitwise, 3, 4);
        bitwise.nested(4, |data| data.attribute(1, &bits.to_ne_bytes()));
        bitwise.nested(5, |data| data.attribute(1, &NONE));
    });
    expression(list, "cmp", |compare| {
        number(compare, 1, 1);
        number(compare, 2, comparison);
        compare.nested(3, |data| data.attribute(1, &NONE));
    });
}

fn verdict(list: &mut Messages, code: u32) {
    expression(list, "immediate", |immediate| {
        number(immediate, 1, 0);
        immediate.nested(2, |data| {
            data.nested(2, |verdict| number(verdict, 1, code));
        });
    });
}
