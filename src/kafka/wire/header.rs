//! The request header, versions 1 and 2, and the response header, versions 0 and 1.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::reader::{Malformed, Reader};
use super::schema::TAGS_MAX;

/// Who asks what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Kafka's number of the API.
    pub api_key: i16,
    /// Version of the request.
    pub api_version: i16,
    /// Echoed in the response.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<String>,
}

/// Longest client id kept; the rest is cut.
const CLIENT_ID_MAX: usize = 256;

/// The first 8 bytes, which every version shares: enough to answer an unknown version of `ApiVersions`.
///
/// # Errors
/// The frame is shorter.
pub fn peek(frame: &[u8]) -> Result<(i16, i16, i32), Malformed> {
    let mut reader = Reader::new(frame);
    Ok((reader.i16("api key")?, reader.i16("api version")?, reader.i32("correlation id")?))
}

/// Reads the header and advances `frame` past it. `flexible` says whether tagged fields follow (header version 2); the
/// client id is never compact.
///
/// # Errors
/// The header is cut short or not UTF-8.
pub fn parse(frame: &mut BytesMut, flexible: bool) -> Result<RequestHeader, Malformed> {
    let mut reader = Reader::new(frame);
    let api_key = reader.i16("api key")?;
    let api_version = reader.i16("api version")?;
    let correlation_id = reader.i32("correlation id")?;
    let client_id = reader.text_or_null(false, "client id")?;
    let client_id = client_id.map(|id| id.chars().take(CLIENT_ID_MAX).collect());
    reader.skip_tags(flexible, TAGS_MAX)?;
    let at = reader.position();
    frame.advance(at);
    Ok(RequestHeader { api_key, api_version, correlation_id, client_id })
}

/// Begins a response: room for the length prefix, the header. `flexible` is header version 1.
#[must_use]
pub fn begin_response(correlation_id: i32, flexible: bool, capacity: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(capacity + 16);
    out.put_i32(0);
    out.put_i32(correlation_id);
    if flexible {
        out.put_u8(0);
    }
    out
}

/// Ends a response that lies in one piece: writes the length prefix.
#[must_use]
pub fn end_response(mut out: BytesMut) -> Bytes {
    let len = out.len().saturating_sub(4) as u32;
    if let Some(prefix) = out.get_mut(..4) {
        prefix.copy_from_slice(&len.to_be_bytes());
    }
    out.freeze()
}
