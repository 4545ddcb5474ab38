//! nftables messages: tables, chains, maps and rules.
//!
//! A transaction is a list of messages between two markers; the kernel applies all or nothing
//! (`include/uapi/linux/netfilter/nf_tables.h`). Numbers are in network order here.

use super::expression::Rule;
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
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;

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
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_DATA_VALUE: u16 = 1;

const NFT_SET_MAP: u32 = 0x8;
const NF_ACCEPT: u32 = 1;
/// So many elements fit a message with room to spare: an attribute's length has sixteen bits.
const ELEMENTS_PER_MESSAGE: usize = 256;

/// Where in a packet's way a chain is, and for what.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hook {
    /// Before connections are known: for dropping.
    Raw,
    /// Destinations of what comes in.
    Prerouting,
    /// Destinations of what this host itself sends.
    Output,
    /// Sources of what leaves.
    Postrouting,
}

impl Hook {
    /// Type, number of the hook, priority.
    fn place(self) -> (&'static str, u32, i32) {
        match self {
            Hook::Raw => ("filter", 0, -300),
            Hook::Prerouting => ("nat", 0, -100),
            Hook::Output => ("nat", 3, -100),
            Hook::Postrouting => ("nat", 4, 100),
        }
    }
}

/// A part of a key or value, as `nft` shows it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    Ipv4 = 7,
    Ipv6 = 8,
    Protocol = 12,
    Port = 13,
}

impl Part {
    /// In whole words.
    fn length(self) -> u32 {
        if matches!(self, Part::Ipv6) { 16 } else { 4 }
    }
}

/// A map from keys to values, each of several parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Map {
    pub(super) name: &'static str,
    pub(super) key: &'static [Part],
    pub(super) value: &'static [Part],
}

/// `nft` writes a type of several parts as their numbers, six bits each.
fn kind(parts: &[Part]) -> u32 {
    parts.iter().fold(0, |kind, part| kind << 6 | *part as u32)
}

fn length(parts: &[Part]) -> u32 {
    parts.iter().map(|part| part.length()).sum()
}

/// A transaction that replaces a whole table of the inet family.
pub(super) struct Transaction {
    table: String,
    messages: Vec<Message>,
    maps: u32,
}

impl Transaction {
    /// Begins: whatever table of that name exists is gone when the transaction commits.
    pub(super) fn replace(table: &str) -> Self {
        // Deleting what may not exist fails, so the table is added first; all three are one commit.
        let mut this = Transaction {
            table: table.into(),
            messages: vec![marker(NFNL_MSG_BATCH_BEGIN)],
            maps: 0,
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

    /// Adds a chain.
    pub(super) fn chain(&mut self, name: &str, hook: Hook) {
        let (kind, number, priority) = hook.place();
        self.messages.push(
            request("add chain", name, NFT_MSG_NEWCHAIN, NLM_F_CREATE)
                .text(NFTA_CHAIN_TABLE, &self.table)
                .text(NFTA_CHAIN_NAME, name)
                .nest(NFTA_CHAIN_HOOK, |hook| {
                    hook.be32(NFTA_HOOK_HOOKNUM, number)
                        .attr(NFTA_HOOK_PRIORITY, &priority.to_be_bytes())
                })
                .be32(NFTA_CHAIN_POLICY, NF_ACCEPT)
                .text(NFTA_CHAIN_TYPE, kind),
        );
    }

    /// Adds a rule to the end of a chain.
    pub(super) fn rule(&mut self, chain: &str, rule: Rule) {
        self.messages.push(
            request("add rule", chain, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND)
                .text(NFTA_RULE_TABLE, &self.table)
                .text(NFTA_RULE_CHAIN, chain)
                .nest(NFTA_RULE_EXPRESSIONS, |list| rule.write(list)),
        );
    }

    /// Adds a map with its elements.
    pub(super) fn map(&mut self, map: Map, elements: &[(Vec<u8>, Vec<u8>)]) {
        self.maps += 1;
        self.messages.push(
            request("add map", map.name, NFT_MSG_NEWSET, NLM_F_CREATE)
                .text(NFTA_SET_TABLE, &self.table)
                .text(NFTA_SET_NAME, map.name)
                .be32(NFTA_SET_FLAGS, NFT_SET_MAP)
                .be32(NFTA_SET_KEY_TYPE, kind(map.key))
                .be32(NFTA_SET_KEY_LEN, length(map.key))
                .be32(NFTA_SET_DATA_TYPE, kind(map.value))
                .be32(NFTA_SET_DATA_LEN, length(map.value))
                .be32(NFTA_SET_ID, self.maps),
        );
        for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.messages.push(
                request("add elements", map.name, NFT_MSG_NEWSETELEM, NLM_F_CREATE)
                    .text(NFTA_SET_ELEM_LIST_TABLE, &self.table)
                    .text(NFTA_SET_ELEM_LIST_SET, map.name)
                    .nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                        some.iter()
                            .fold(list, |list, (key, value)| element(list, key, value))
                    }),
            );
        }
    }

    pub(super) fn commit(mut self, socket: &mut Socket) -> Result<(), Error> {
        self.messages.push(marker(NFNL_MSG_BATCH_END));
        socket.transaction(self.messages)
    }
}

fn element(list: Message, key: &[u8], value: &[u8]) -> Message {
    list.nest(NFTA_LIST_ELEM, |element| {
        element
            .nest(NFTA_SET_ELEM_KEY, |data| data.attr(NFTA_DATA_VALUE, key))
            .nest(NFTA_SET_ELEM_DATA, |data| data.attr(NFTA_DATA_VALUE, value))
    })
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
