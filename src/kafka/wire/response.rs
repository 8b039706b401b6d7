//! Frames of the responses that the generated encoders write.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::Encodable;

use super::header::{begin_response, end_response};
use super::request::LIST_OFFSETS_GENERATED_MAX;
use crate::kafka::error_code::ErrorCode;

/// A response that its encoder refuses: a field is set that the version does not have. Our mistake, never the peer's.
#[derive(Debug, thiserror::Error)]
#[error("response to {key:?} version {version} cannot be written: {why}")]
pub struct EncodeError {
    pub key: ApiKey,
    pub version: i16,
    /// The encoder's words.
    pub why: String,
}

/// Writes a whole response frame.
///
/// # Errors
/// [`EncodeError`].
pub fn encode<R: Encodable>(key: ApiKey, version: i16, correlation_id: i32, body: &R) -> Result<Bytes, EncodeError> {
    let failed = |e: &dyn std::fmt::Display| EncodeError { key, version, why: e.to_string() };
    // Version 11 of ListOffsets is written like 10, which the generated encoder ends at.
    let version = if key == ApiKey::ListOffsets { version.min(LIST_OFFSETS_GENERATED_MAX) } else { version };
    let size = body.compute_size(version).map_err(|e| failed(&e))?;
    let mut out = begin_response(correlation_id, key.response_header_version(version) >= 1, size);
    body.encode(&mut out, version).map_err(|e| failed(&e))?;
    Ok(end_response(out))
}

/// The answer to a version of `ApiVersions` that is not known: version 0, with the versions that are (KIP-511).
#[must_use]
pub fn api_versions_fallback(correlation_id: i32, apis: impl ExactSizeIterator<Item = (i16, i16, i16)>) -> Bytes {
    let mut out: BytesMut = begin_response(correlation_id, false, 6 + apis.len() * 6);
    out.put_i16(ErrorCode::UNSUPPORTED_VERSION.number());
    out.put_i32(apis.len() as i32);
    for (key, min, max) in apis {
        out.put_i16(key);
        out.put_i16(min);
        out.put_i16(max);
    }
    end_response(out)
}
