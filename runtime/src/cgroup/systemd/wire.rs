//! D-Bus messages as bytes: what four calls to systemd need of the D-Bus specification's "Marshaling".
//!
//! ```text
//!   'l' kind flags 1 │ body length │ serial │ header fields a(yv) │ pad to 8 │ body
//! ```
//! Every value is aligned to its size, counted from the start of the message; an array's length leaves out the padding
//! before its first element. Only little-endian messages are read: a service manager and its clients share a machine.

use super::bus::BusError;

/// Larger messages than this are none that we asked for.
pub(super) const MESSAGE_MAX: usize = 1 << 20;
/// What precedes the header fields: kind to serial, and the length of the fields.
pub(super) const PREFIX: usize = 16;

/// Codes of header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Call = 1,
    Return = 2,
    Error = 3,
    Signal = 4,
}

/// The value of a unit's property, or of any other variant that we send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cgroup) enum Value {
    Text(String),
    Flag(bool),
    Number(u64),
    /// `au`.
    Numbers(Vec<u32>),
    /// `ay`.
    Bytes(Vec<u8>),
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Value::Text(_) => "s",
            Value::Flag(_) => "b",
            Value::Number(_) => "t",
            Value::Numbers(_) => "au",
            Value::Bytes(_) => "ay",
        }
    }
}

/// A unit's properties by name, as `a(sv)`.
pub(in crate::cgroup) type Properties = Vec<(&'static str, Value)>;

/// A message under construction.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, size: usize) {
        self.0.resize(self.0.len().next_multiple_of(size), 0);
    }

    pub(super) fn number(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    /// Strings and object paths look the same.
    pub(super) fn text(&mut self, text: &str) {
        self.number(length(text.len()));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// An array of elements that `fill` writes, each aligned to `alignment`.
    pub(super) fn array(&mut self, alignment: usize, fill: impl FnOnce(&mut Self)) {
        self.number(0);
        let place = self.0.len() - 4;
        self.align(alignment);
        let begin = self.0.len();
        fill(self);
        let filled = length(self.0.len() - begin);
        self.0[place..place + 4].copy_from_slice(&filled.to_le_bytes());
    }

    pub(super) fn variant(&mut self, value: &Value) {
        self.signature(value.signature());
        match value {
            Value::Text(text) => self.text(text),
            Value::Flag(flag) => self.number(u32::from(*flag)),
            Value::Number(number) => {
                self.align(8);
                self.0.extend(number.to_le_bytes());
            }
            Value::Numbers(numbers) => {
                self.array(4, |writer| {
                    numbers.iter().for_each(|number| writer.number(*number));
                });
            }
            Value::Bytes(bytes) => self.array(1, |writer| writer.0.extend(bytes)),
        }
    }

    pub(super) fn properties(&mut self, properties: &Properties) {
        self.array(8, |writer| {
            for (name, value) in properties {
                writer.align(8);
                writer.text(name);
                writer.variant(value);
            }
        });
    }

    fn field(&mut self, code: u8, signature: &str, write: impl FnOnce(&mut Self)) {
        self.align(8);
        self.0.push(code);
        self.signature(signature);
        write(self);
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Lengths of what we send are far below four gigabytes.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The head of a message: whom it is for and what it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) path: String,
    pub(super) interface: String,
    pub(super) member: String,
    pub(super) destination: String,
    pub(super) error: String,
    pub(super) reply_to: Option<u32>,
    pub(super) signature: String,
}

/// A whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) serial: u32,
    pub(super) head: Head,
    pub(super) body: Vec<u8>,
}

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer(vec![b'l', self.kind as u8, 0, 1]);
        writer.number(length(self.body.len()));
        writer.number(self.serial);
        let head = &self.head;
        writer.array(8, |writer| {
            for (code, signature, text) in [
                (PATH, "o", &head.path),
                (INTERFACE, "s", &head.interface),
                (MEMBER, "s", &head.member),
                (ERROR_NAME, "s", &head.error),
                (DESTINATION, "s", &head.destination),
            ] {
                if !text.is_empty() {
                    writer.field(code, signature, |writer| writer.text(text));
                }
            }
            if let Some(serial) = head.reply_to {
                writer.field(REPLY_SERIAL, "u", |writer| writer.number(serial));
            }
            if !head.signature.is_empty() {
                writer.field(SIGNATURE, "g", |writer| writer.signature(&head.signature));
            }
        });
        writer.align(8);
        let mut bytes = writer.finish();
        bytes.extend(&self.body);
        bytes
    }

    /// How many bytes a message has, by its first [`PREFIX`] bytes.
    pub(super) fn size(prefix: &[u8; PREFIX]) -> Result<usize, BusError> {
        if prefix[0] != b'l' || prefix[3] != 1 {
            return Err(BusError::Malformed("byte order or version"));
        }
        let mut reader = Reader::new(prefix);
        reader.skip(4)?;
        let body = reader.number()? as usize;
        reader.skip(4)?;
        let fields = reader.number()? as usize;
        if body > MESSAGE_MAX || fields > MESSAGE_MAX {
            return Err(BusError::Malformed("length"));
        }
        Ok((PREFIX + fields).next_multiple_of(8) + body)
    }

    /// Reads a whole message, as long as [`size`](Self::size) said. One of a kind that is none of ours is `None`.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Message>, BusError> {
        let mut reader = Reader::new(bytes);
        reader.skip(1)?;
        let kind = match reader.byte()? {
            1 => Kind::Call,
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => return Ok(None),
        };
        reader.skip(2)?;
        let body = reader.number()? as usize;
        let serial = reader.number()?;
        let end = reader.number()? as usize + PREFIX;
        let mut head = Head::default();
        while reader.at < end {
            reader.field(&mut head)?;
        }
        let begin = end.next_multiple_of(8);
        let body = bytes
            .get(begin..begin + body)
            .ok_or(BusError::Malformed("body"))?
            .to_vec();
        Ok(Some(Message {
            kind,
            serial,
            head,
            body,
        }))
    }
}

/// Reads values one after another.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], BusError> {
        let taken = self
            .at
            .checked_add(count)
            .and_then(|end| self.bytes.get(self.at..end));
        self.at = self.at.saturating_add(count);
        taken.ok_or(BusError::Malformed("end"))
    }

    fn skip(&mut self, count: usize) -> Result<(), BusError> {
        self.take(count).map(drop)
    }

    fn align(&mut self, size: usize) -> Result<(), BusError> {
        self.skip(self.at.next_multiple_of(size) - self.at)
    }

    fn byte(&mut self) -> Result<u8, BusError> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn number(&mut self) -> Result<u32, BusError> {
        self.align(4)?;
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4)?);
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn text(&mut self) -> Result<&'a str, BusError> {
        let length = self.number()? as usize;
        self.terminated(length)
    }

    pub(super) fn signature(&mut self) -> Result<&'a str, BusError> {
        let length = usize::from(self.byte()?);
        self.terminated(length)
    }

    fn terminated(&mut self, length: usize) -> Result<&'a str, BusError> {
        let text = self.take(length)?;
        match (std::str::from_utf8(text), self.byte()?) {
            (Ok(text), 0) => Ok(text),
            _ => Err(BusError::Malformed("text")),
        }
    }

    /// A variant that holds text.
    pub(super) fn text_variant(&mut self) -> Result<&'a str, BusError> {
        match self.signature()? {
            "s" => self.text(),
            _ => Err(BusError::Malformed("type")),
        }
    }

    fn field(&mut self, head: &mut Head) -> Result<(), BusError> {
        self.align(8)?;
        let code = self.byte()?;
        match (code, self.signature()?) {
            (REPLY_SERIAL, "u") => head.reply_to = Some(self.number()?),
            (SIGNATURE, "g") => head.signature = self.signature()?.to_owned(),
            (_, "s" | "o") => {
                let text = self.text()?;
                let place = match code {
                    PATH => &mut head.path,
                    INTERFACE => &mut head.interface,
                    MEMBER => &mut head.member,
                    ERROR_NAME => &mut head.error,
                    DESTINATION => &mut head.destination,
                    // The sender, or what a later version of the protocol has.
                    _ => return Ok(()),
                };
                text.clone_into(place);
            }
            (_, "u") => drop(self.number()?),
            (_, "g") => drop(self.signature()?),
            _ => return Err(BusError::Malformed("header field")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values() -> impl Strategy<Value = Value> {
        prop_oneof![
            "[ -~]{0,20}".prop_map(Value::Text),
            any::<bool>().prop_map(Value::Flag),
            any::<u64>().prop_map(Value::Number),
            proptest::collection::vec(any::<u32>(), 0..5).prop_map(Value::Numbers),
            proptest::collection::vec(any::<u8>(), 0..9).prop_map(Value::Bytes),
        ]
    }

    /// Reads what [`Writer::variant`] wrote, by the rules of the specification and not by the writer's.
    fn read(reader: &mut Reader<'_>) -> Value {
        match reader.signature().unwrap() {
            "s" => Value::Text(reader.text().unwrap().to_owned()),
            "b" => Value::Flag(reader.number().unwrap() == 1),
            "t" => {
                reader.align(8).unwrap();
                Value::Number(u64::from_le_bytes(reader.take(8).unwrap().try_into().unwrap()))
            }
            "au" => {
                let end = reader.number().unwrap() as usize + reader.at;
                let mut numbers = Vec::new();
                while reader.at < end {
                    numbers.push(reader.number().unwrap());
                }
                Value::Numbers(numbers)
            }
            "ay" => {
                let length = reader.number().unwrap() as usize;
                Value::Bytes(reader.take(length).unwrap().to_vec())
            }
            other => panic!("{other}"),
        }
    }

    proptest! {
        #[test]
        fn properties_are_read_as_they_were_written(list in proptest::collection::vec(values(), 0..6), before in "[a-z]{0,9}") {
            let properties: Properties = list.into_iter().map(|value| ("Name", value)).collect();
            let mut writer = Writer::default();
            writer.text(&before);
            writer.properties(&properties);
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.text().unwrap(), before);
            let length = reader.number().unwrap() as usize;
            reader.align(8).unwrap();
            prop_assert_eq!(reader.at + length, bytes.len());
            for (name, value) in properties {
                reader.align(8).unwrap();
                prop_assert_eq!(reader.text().unwrap(), name);
                prop_assert_eq!(read(&mut reader), value);
            }
        }

        #[test]
        fn a_message_survives_the_wire(
            kind in prop_oneof![Just(Kind::Call), Just(Kind::Return), Just(Kind::Error), Just(Kind::Signal)],
            texts in proptest::collection::vec("[a-zA-Z./:]{0,30}", 5),
            reply_to in proptest::option::of(any::<u32>()),
            serial in 1u32..,
            body in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let [path, interface, member, destination, error] = <[String; 5]>::try_from(texts).unwrap();
            let head = Head { path, interface, member, destination, error, reply_to, signature: "sa(sv)".into() };
            let message = Message { kind, serial, head, body };
            let bytes = message.encode();
            let prefix: &[u8; PREFIX] = bytes[..PREFIX].try_into().unwrap();
            prop_assert_eq!(Message::size(prefix).unwrap(), bytes.len());
            prop_assert_eq!(Message::decode(&bytes).unwrap(), Some(message));
        }

        #[test]
        fn no_bytes_upset_the_reader(mut bytes in proptest::collection::vec(any::<u8>(), PREFIX..200), honest in any::<bool>()) {
            if honest {
                bytes[..4].copy_from_slice(&[b'l', 2, 0, 1]);
                bytes[13..16].fill(0);
            }
            let prefix: &[u8; PREFIX] = bytes[..PREFIX].try_into().unwrap();
            if let Ok(size) = Message::size(prefix) {
                prop_assert!(size <= 2 * MESSAGE_MAX + PREFIX + 8);
            }
            let _ = Message::decode(&bytes);
        }
    }

    /// Worked out by hand from the specification.
    #[test]
    fn the_first_call_is_what_a_bus_expects() {
        let head = Head {
            path: "/a".into(),
            member: "Hi".into(),
            ..Head::default()
        };
        let message = Message {
            kind: Kind::Call,
            serial: 1,
            head,
            body: Vec::new(),
        };
        let expected = [
            &b"l\x01\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00\x1b\x00\x00\x00"[..],
            b"\x01\x01o\x00\x02\x00\x00\x00/a\x00\x00\x00\x00\x00\x00",
            b"\x03\x01s\x00\x02\x00\x00\x00Hi\x00\x00\x00\x00\x00\x00",
        ]
        .concat();
        assert_eq!(message.encode(), expected);
    }
}
