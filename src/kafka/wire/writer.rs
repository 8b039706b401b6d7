//! The inverse of [`super::reader`] for the few responses written by hand.

use bytes::{BufMut, BytesMut};

/// An unsigned varint.
pub fn put_uvarint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// The length of an array; compact in flexible versions.
pub fn put_list_len(out: &mut BytesMut, compact: bool, len: usize) {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    if compact { put_uvarint(out, len.saturating_add(1)) } else { out.put_i32(i32::try_from(len).unwrap_or(i32::MAX)) }
}

/// A string; compact in flexible versions. Longer than the encoding can say is cut (no name here is).
pub fn put_text(out: &mut BytesMut, compact: bool, text: &str) {
    let bytes = text.as_bytes();
    let bytes = bytes.get(..i16::MAX as usize).unwrap_or(bytes);
    if compact {
        put_uvarint(out, bytes.len() as u32 + 1)
    } else {
        out.put_i16(bytes.len() as i16)
    }
    out.put_slice(bytes);
}

/// A string or null.
pub fn put_text_or_null(out: &mut BytesMut, compact: bool, text: Option<&str>) {
    match text {
        Some(text) => put_text(out, compact, text),
        None if compact => out.put_u8(0),
        None => out.put_i16(-1),
    }
}

/// The end of a struct of a flexible version: no tagged fields.
pub fn put_no_tags(out: &mut BytesMut, flexible: bool) {
    if flexible {
        out.put_u8(0);
    }
}
