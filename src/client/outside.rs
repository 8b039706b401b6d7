//! The decoders of bytes from a broker as plain functions, for `tests/fuzz` only.

use bytes::Bytes;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Encodable, Request};

pub use super::answer::{Table, table};
use super::{answer, fetch, group};

/// An answer to request 7 in this version: how many bytes it is written in again, or why it cannot be read.
///
/// # Errors
/// As the call would have.
pub fn answer<R: Request>(version: i16, frame: &[u8]) -> Result<usize, String> {
    let key = ApiKey::try_from(R::KEY).map_err(|()| "no such key".to_owned())?;
    let read: R::Response = answer::decode(key, version, 7, Bytes::copy_from_slice(frame))?;
    read.compute_size(version).map_err(|error| error.to_string())
}

/// The records of a fetch answer, in `room` bytes of memory.
pub fn records(bytes: &[u8], mut room: usize) {
    let _ = fetch::open("fuzz", 0, 0, Bytes::copy_from_slice(bytes), &mut room);
}

/// The partitions that a group's member was given.
pub fn assigned(bytes: &[u8]) {
    let _ = group::assigned(&Bytes::copy_from_slice(bytes));
}
