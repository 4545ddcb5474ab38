//! nftables messages: tables, chains and the handful of expressions that our rules are made of.
//!
//! A transaction is a list of messages between two markers; the kernel applies all or nothing
//! (`include/uapi/linux/netfilter/nf_tables.h`). Numbers are in network order here.

use super::message::{Message, NLM_F_APPEND, NLM_F_CREATE};
use super::netlink::Socket;
use crate::error::Error;

const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;

const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;

const NF_ACCEPT: u32 = 1;
const NF_INET_POST_ROUTING: u32 = 4;
const PRIORITY_SRCNAT: i32 = 100;

const REGISTER: u32 = 1;

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
    /// Name of the link the packet leaves by, 16 bytes with zeroes at the end.
    OutputLink = 7,
    /// Protocol family, one byte (`NFPROTO_*`).
    Family = 15,
}

/// The address family of a packet as `Meta::Family` loads it.
pub(super) const FAMILY_IPV4: u8 = 2;
/// Likewise.
pub(super) const FAMILY_IPV6: u8 = 10;

/// The expressions of one rule, in order.
pub(super) struct Rule(Vec<Box<dyn FnOnce(Message) -> Message>>);

impl Rule {
    pub(super) fn new() -> Self {
        Rule(Vec::new())
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
        const NFTA_META_DREG: u16 = 1;
        const NFTA_META_KEY: u16 = 2;
        self.expression("meta", move |data| {
            data.be32(NFTA_META_DREG, REGISTER)
                .be32(NFTA_META_KEY, key as u32)
        })
    }

    /// Loads `length` bytes of the network header from `offset`.
    pub(super) fn network_header(self, offset: u32, length: u32) -> Self {
        const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
        self.expression("payload", move |data| {
            data.be32(1, REGISTER)
                .be32(2, NFT_PAYLOAD_NETWORK_HEADER)
                .be32(3, offset)
                .be32(4, length)
        })
    }

    /// Keeps only the bits of `mask`.
    pub(super) fn mask(self, mask: Vec<u8>) -> Self {
        self.expression("bitwise", move |data| {
            let zeroes = vec![0; mask.len()];
            data.be32(1, REGISTER)
                .be32(2, REGISTER)
                .be32(3, u32::try_from(mask.len()).unwrap_or(16))
                .nest(4, |value| value.attr(NFTA_DATA_VALUE, &mask))
                .nest(5, |value| value.attr(NFTA_DATA_VALUE, &zeroes))
        })
    }

    pub(super) fn compare(self, how: Compare, value: Vec<u8>) -> Self {
        self.expression("cmp", move |data| {
            data.be32(1, REGISTER)
                .be32(2, how as u32)
                .nest(3, |nest| nest.attr(NFTA_DATA_VALUE, &value))
        })
    }

    pub(super) fn masquerade(self) -> Self {
        self.expression("masq", |data| data)
    }
}

/// The name of a link as `meta` loads it: 16 bytes, zeroes at the end.
pub(super) fn link_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

/// A transaction that replaces a whole table of the inet family.
pub(super) struct Transaction {
    table: String,
    messages: Vec<Message>,
}

impl Transaction {
    /// Begins: whatever table of that name exists is gone when the transaction commits.
    pub(super) fn replace(table: &str) -> Self {
        // Deleting what may not exist fails, so the table is added first; all three are one commit.
        let mut this = Transaction {
            table: table.into(),
            messages: vec![marker(NFNL_MSG_BATCH_BEGIN)],
        };
        this.add_table();
        this.messages
            .push(request("delete table", table, NFT_MSG_DELTABLE, 0).text(NFTA_TABLE_NAME, table));
        this.add_table();
        this
    }

    fn add_table(&mut self) {
        self.messages.push(
            request("add table", &self.table, NFT_MSG_NEWTABLE, NLM_F_CREATE)
                .text(NFTA_TABLE_NAME, &self.table)
                .be32(NFTA_TABLE_FLAGS, 0),
        );
    }

    /// Adds a chain that translates source addresses of what leaves the host.
    pub(super) fn postrouting_nat(&mut self, chain: &str) {
        self.messages.push(
            request("add chain", chain, NFT_MSG_NEWCHAIN, NLM_F_CREATE)
                .text(NFTA_CHAIN_TABLE, &self.table)
                .text(NFTA_CHAIN_NAME, chain)
                .nest(NFTA_CHAIN_HOOK, |hook| {
                    hook.be32(NFTA_HOOK_HOOKNUM, NF_INET_POST_ROUTING)
                        .attr(NFTA_HOOK_PRIORITY, &PRIORITY_SRCNAT.to_be_bytes())
                })
                .be32(NFTA_CHAIN_POLICY, NF_ACCEPT)
                .text(NFTA_CHAIN_TYPE, "nat"),
        );
    }

    pub(super) fn rule(&mut self, chain: &str, rule: Rule) {
        self.messages.push(
            request("add rule", chain, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND)
                .text(NFTA_RULE_TABLE, &self.table)
                .text(NFTA_RULE_CHAIN, chain)
                .nest(NFTA_RULE_EXPRESSIONS, |mut list| {
                    for expression in rule.0 {
                        list = expression(list);
                    }
                    list
                }),
        );
    }

    pub(super) fn commit(mut self, socket: &mut Socket) -> Result<(), Error> {
        self.messages.push(marker(NFNL_MSG_BATCH_END));
        socket.transaction(self.messages)
    }
}

/// Deletes the table; one that does not exist is a success.
pub(super) fn delete_table(socket: &mut Socket, table: &str) -> Result<(), Error> {
    let mut transaction = Transaction::replace(table);
    // Keep "add, delete", drop the second "add": the table is gone whether or not it existed.
    transaction.messages.pop();
    transaction.commit(socket)
}

/// Whether the table exists.
pub(super) fn table_exists(socket: &mut Socket, table: &str) -> Result<bool, Error> {
    let query = request("look up table", table, NFT_MSG_GETTABLE, 0).text(NFTA_TABLE_NAME, table);
    match socket.query(query) {
        Ok(replies) => Ok(!replies.is_empty()),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

fn marker(kind: u16) -> Message {
    Message::new("nftables transaction", "batch", kind, 0).raw(&header(NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES))
}

fn request(step: &'static str, object: &str, kind: u16, flags: u16) -> Message {
    Message::new(step, object, (NFNL_SUBSYS_NFTABLES << 8) | kind, flags).raw(&header(NFPROTO_INET, 0))
}

/// `struct nfgenmsg`: family, version 0, resource id in network order.
fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}
