//! The handful of nftables expressions that our rules are made of (`include/uapi/linux/netfilter/nf_tables.h`).
//!
//! An expression loads into registers, compares them, or acts. Registers are sixteen words of four bytes; a value that
//! ends within a word is followed by zeroes, so a key of several parts is those parts in words of their own.

use super::message::Message;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;

/// The register of the verdict.
const VERDICT: u32 = 0;
/// The first of the words.
const FIRST_WORD: u32 = 8;

/// A register: one of the sixteen words, and those behind it as far as a value goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word(pub(super) u32);

impl Word {
    fn number(self) -> u32 {
        FIRST_WORD + self.0
    }
}

/// How a comparison reads.
#[derive(Debug, Clone, Copy)]
pub(super) enum Compare {
    /// Equal.
    Is = 0,
    /// Not equal.
    IsNot = 1,
}

/// What of a packet `meta` loads.
#[derive(Debug, Clone, Copy)]
pub(super) enum Meta {
    /// Name of the link the packet came by, 16 bytes with zeroes at the end.
    InputLink = 6,
    /// Name of the link the packet leaves by, likewise.
    OutputLink = 7,
    /// Protocol family, one byte (`NFPROTO_*`).
    Family = 15,
    /// Transport protocol, one byte (`IPPROTO_*`).
    Transport = 16,
}

/// The address family of a packet as `Meta::Family` loads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Ipv4 = 2,
    Ipv6 = 10,
}

impl Family {
    /// Length of an address.
    pub(super) fn length(self) -> u32 {
        match self {
            Family::Ipv4 => 4,
            Family::Ipv6 => 16,
        }
    }

    /// Where the source address stands in the header (RFC 791, RFC 8200).
    pub(super) fn source(self) -> u32 {
        match self {
            Family::Ipv4 => 12,
            Family::Ipv6 => 8,
        }
    }

    /// Where the destination address stands.
    pub(super) fn destination(self) -> u32 {
        self.source() + self.length()
    }
}

/// Which header an offset counts from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Header {
    Network = 1,
    Transport = 2,
}

type Expression = Box<dyn FnOnce(Message) -> Message>;

/// The expressions of one rule, in order.
pub(super) struct Rule(Vec<Expression>);

impl Rule {
    /// A rule for packets of one family.
    pub(super) fn of(family: Family) -> Self {
        Rule(Vec::new())
            .meta(Meta::Family)
            .compare(Compare::Is, vec![family as u8])
    }

    /// Appends the expressions to a rule's message.
    pub(super) fn write(self, message: Message) -> Message {
        self.0
            .into_iter()
            .fold(message, |message, expression| expression(message))
    }

    fn expression(mut self, name: &'static str, fill: impl FnOnce(Message) -> Message + 'static) -> Self {
        self.0.push(Box::new(move |message: Message| {
            message.nest(NFTA_LIST_ELEM, |element| {
                element.text(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, fill)
            })
        }));
        self
    }

    pub(super) fn meta(self, key: Meta) -> Self {
        self.meta_to(key, Word(0))
    }

    pub(super) fn meta_to(self, key: Meta, word: Word) -> Self {
        const NFTA_META_DREG: u16 = 1;
        const NFTA_META_KEY: u16 = 2;
        self.expression("meta", move |data| {
            data.be32(NFTA_META_DREG, word.number())
                .be32(NFTA_META_KEY, key as u32)
        })
    }

    /// Loads `length` bytes of a header from `offset`.
    pub(super) fn load(self, header: Header, offset: u32, length: u32) -> Self {
        self.load_to(header, offset, length, Word(0))
    }

    pub(super) fn load_to(self, header: Header, offset: u32, length: u32, word: Word) -> Self {
        self.expression("payload", move |data| {
            data.be32(1, word.number())
                .be32(2, header as u32)
                .be32(3, offset)
                .be32(4, length)
        })
    }

    /// Loads the type of the destination address: is it one of this host's, on whichever link?
    pub(super) fn destination_is_local(self) -> Self {
        const FLAG_DESTINATION: u32 = 1 << 1;
        const RESULT_ADDRESS_TYPE: u32 = 3;
        const RTN_LOCAL: u32 = 2;
        self.expression("fib", |data| {
            data.be32(1, Word(0).number())
                .be32(2, RESULT_ADDRESS_TYPE)
                .be32(3, FLAG_DESTINATION)
        })
        .compare(Compare::Is, RTN_LOCAL.to_ne_bytes().to_vec())
    }

    /// Goes on only with packets whose destination was translated.
    pub(super) fn translated(self) -> Self {
        const KEY_STATUS: u32 = 2;
        const IPS_DST_NAT: u32 = 1 << 5;
        self.expression("ct", |data| data.be32(1, Word(0).number()).be32(2, KEY_STATUS))
            .mask(IPS_DST_NAT.to_ne_bytes().to_vec())
            .compare(Compare::IsNot, vec![0; 4])
    }

    /// Keeps only the bits of `mask`.
    pub(super) fn mask(self, mask: Vec<u8>) -> Self {
        self.expression("bitwise", move |data| {
            let zeroes = vec![0; mask.len()];
            data.be32(1, Word(0).number())
                .be32(2, Word(0).number())
                .be32(3, u32::try_from(mask.len()).unwrap_or(16))
                .nest(4, |value| value.attr(NFTA_DATA_VALUE, &mask))
                .nest(5, |value| value.attr(NFTA_DATA_VALUE, &zeroes))
        })
    }

    pub(super) fn compare(self, how: Compare, value: Vec<u8>) -> Self {
        self.expression("cmp", move |data| {
            data.be32(1, Word(0).number())
                .be32(2, how as u32)
                .nest(3, |nest| nest.attr(NFTA_DATA_VALUE, &value))
        })
    }

    /// Replaces the key in the words from the first on by what a map has for it; goes on only if it has something.
    pub(super) fn look_up(self, map: &'static str) -> Self {
        self.expression("lookup", move |data| {
            data.text(1, map)
                .be32(2, Word(0).number())
                .be32(3, Word(0).number())
        })
    }

    /// Translates the destination to the address in the first words and the port in the word behind it.
    pub(super) fn translate_destination(self, family: Family) -> Self {
        const NAT_DESTINATION: u32 = 1;
        self.expression("nat", move |data| {
            data.be32(1, NAT_DESTINATION)
                .be32(2, family as u32)
                .be32(3, Word(0).number())
                .be32(5, Word(family.length() / 4).number())
        })
    }

    pub(super) fn masquerade(self) -> Self {
        self.expression("masq", |data| data)
    }

    pub(super) fn drop(self) -> Self {
        const NF_DROP: u32 = 0;
        const NFTA_VERDICT_CODE: u16 = 1;
        self.expression("immediate", |data| {
            data.be32(1, VERDICT).nest(2, |value| {
                value.nest(NFTA_DATA_VERDICT, |verdict| {
                    verdict.be32(NFTA_VERDICT_CODE, NF_DROP)
                })
            })
        })
    }
}

/// The name of a link as `meta` loads it: 16 bytes, zeroes at the end.
pub(super) fn link_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}
