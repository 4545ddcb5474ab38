//! How records become bytes: one byte that tells the version, then CBOR with integer keys.

use minicbor::{Decode, Encode};

/// The version of the blobs written here. Keys may be added under it; a change of meaning raises it.
const VERSION: u8 = 1;

pub(super) fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    // Writing into a vector cannot fail, and none of our types has an encoder that refuses a value.
    let Ok(()) = minicbor::encode(value, &mut bytes) else {
        unreachable!("a record refused to be encoded")
    };
    bytes
}

pub(super) fn decode<T: for<'a> Decode<'a, ()>>(blob: &[u8]) -> Option<T> {
    match blob.split_first() {
        Some((&VERSION, cbor)) => minicbor::decode(cbor).ok(),
        _ => None,
    }
}

/// Lists of byte strings.
pub mod strings {
    use minicbor::bytes::ByteVec;
    use minicbor::{Decode, Decoder, Encode, Encoder};

    /// Writes the list.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn encode<C, W: minicbor::encode::Write>(
        list: &[Vec<u8>],
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        let list: Vec<ByteVec> = list.iter().cloned().map(ByteVec::from).collect();
        list.encode(e, ctx)
    }

    /// Reads the list.
    ///
    /// # Errors
    /// When the input is something else.
    pub fn decode<'b, C>(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Vec<Vec<u8>>, minicbor::decode::Error> {
        Ok(Vec::<ByteVec>::decode(d, ctx)?
            .into_iter()
            .map(Vec::from)
            .collect())
    }
}

/// Environment variables: names are text, values are bytes.
pub mod environment {
    use minicbor::bytes::ByteVec;
    use minicbor::{Decode, Decoder, Encode, Encoder};

    /// Writes the list.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn encode<C, W: minicbor::encode::Write>(
        list: &[(String, Vec<u8>)],
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        let list: Vec<_> = list
            .iter()
            .map(|(k, v)| (k.as_str(), ByteVec::from(v.clone())))
            .collect();
        list.encode(e, ctx)
    }

    /// Reads the list.
    ///
    /// # Errors
    /// When the input is something else.
    pub fn decode<'b, C>(
        d: &mut Decoder<'b>,
        ctx: &mut C,
    ) -> Result<Vec<(String, Vec<u8>)>, minicbor::decode::Error> {
        let list = Vec::<(String, ByteVec)>::decode(d, ctx)?;
        Ok(list.into_iter().map(|(k, v)| (k, Vec::from(v))).collect())
    }
}

/// Addresses, as text.
pub mod addresses {
    use std::net::IpAddr;

    use minicbor::{Decode, Decoder, Encode, Encoder};

    /// Writes the list.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn encode<C, W: minicbor::encode::Write>(
        list: &[IpAddr],
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        list.iter()
            .map(IpAddr::to_string)
            .collect::<Vec<_>>()
            .encode(e, ctx)
    }

    /// Reads the list.
    ///
    /// # Errors
    /// When the input is something else.
    pub fn decode<'b, C>(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Vec<IpAddr>, minicbor::decode::Error> {
        Vec::<String>::decode(d, ctx)?
            .iter()
            .map(|text| {
                text.parse()
                    .map_err(|_| minicbor::decode::Error::message("not an address"))
            })
            .collect()
    }
}
