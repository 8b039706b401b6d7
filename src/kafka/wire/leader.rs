//! Where the leader is, beside an error that says that it is not here (KIP-951): a tagged field of a partition of a
//! Produce or Fetch response, and one of the response with the addresses of the brokers that are named so.

use bytes::{BufMut, BytesMut};

use super::writer::{put_list_len, put_no_tags, put_text, put_text_or_null, put_uvarint};

/// The leader of a partition as this broker knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurrentLeader {
    pub leader: i32,
    pub epoch: i32,
}

/// A broker that a hint names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEndpoint {
    pub id: i32,
    pub host: String,
    pub port: u16,
    pub rack: Option<String>,
}

/// Bytes of a hint: leader, epoch, no tags.
const HINT_LEN: u8 = 9;

/// The hint as tagged field number `tag`, without the number of fields before it.
pub fn put_hint(out: &mut BytesMut, tag: u8, hint: CurrentLeader) {
    out.put_u8(tag);
    out.put_u8(HINT_LEN);
    out.put_i32(hint.leader);
    out.put_i32(hint.epoch);
    out.put_u8(0);
}

/// The end of a flexible response: tagged field 0 with the brokers, or no field if there are none.
pub fn put_endpoints(out: &mut BytesMut, nodes: &[NodeEndpoint]) {
    if nodes.is_empty() {
        return put_no_tags(out, true);
    }
    let mut field = BytesMut::new();
    put_list_len(&mut field, true, nodes.len());
    for node in nodes {
        field.put_i32(node.id);
        put_text(&mut field, true, &node.host);
        field.put_i32(node.port.into());
        put_text_or_null(&mut field, true, node.rack.as_deref());
        put_no_tags(&mut field, true);
    }
    out.put_u8(1);
    out.put_u8(0);
    put_uvarint(out, u32::try_from(field.len()).unwrap_or(u32::MAX));
    out.put_slice(&field);
}
