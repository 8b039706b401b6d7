//! The request header, versions 1 and 2, and the response header, versions 0 and 1.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::reader::{FieldReader, Malformed};
use super::schema::TAGS_MAX;

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

/// Bytes of a header that may stay in memory with what is kept of its request; with a longer one the request's body is
/// copied, unless it is the greater part by far.
const KEPT_WITH_BODY_MAX: usize = 256;

/// The first 8 bytes, which every version shares: enough to answer an unknown version of `ApiVersions`.
///
/// # Errors
/// The frame is shorter.
pub fn peek(frame: &[u8]) -> Result<(i16, i16, i32), Malformed> {
    let mut reader = FieldReader::new(frame);
    Ok((reader.i16("api key")?, reader.i16("api version")?, reader.i32("correlation id")?))
}

/// Reads the header and takes it off `frame`. `flexible` says whether tagged fields follow (header version 2); the
/// client id is never compact.
///
/// # Errors
/// The header is cut short or not UTF-8.
pub fn parse(frame: &mut BytesMut, flexible: bool) -> Result<RequestHeader, Malformed> {
    let mut reader = FieldReader::new(frame);
    let api_key = reader.i16("api key")?;
    let api_version = reader.i16("api version")?;
    let correlation_id = reader.i32("correlation id")?;
    let client_id = reader.text_or_null(false, "client id")?;
    let client_id = client_id.map(|id| id.chars().take(CLIENT_ID_MAX).collect());
    reader.skip_tags(flexible, TAGS_MAX)?;
    let (at, behind) = (reader.position(), reader.remaining());
    if at > KEPT_WITH_BODY_MAX && at > behind / 4 {
        *frame = BytesMut::from(frame.get(at..).unwrap_or_default());
    } else {
        frame.advance(at);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_body_keeps_no_long_header() {
        let rest = |client_id: usize, body: usize| {
            let mut frame = BytesMut::from(&[0, 0, 0, 9, 0, 0, 0, 1][..]);
            frame.put_i16(client_id as i16);
            frame.put_bytes(b'c', client_id);
            frame.put_bytes(7, body);
            let within = frame.as_ptr_range();
            let header = parse(&mut frame, false).expect("reads");
            assert_eq!(header.client_id.map(|id| id.len()), Some(client_id.min(CLIENT_ID_MAX)));
            assert_eq!(frame, vec![7; body]);
            within.contains(&frame.as_ptr())
        };
        assert!(rest(20, 10), "the usual");
        assert!(rest(30_000, 1 << 20), "a small part");
        assert!(!rest(30_000, 100));
        assert!(!rest(300, 100));
    }
}
