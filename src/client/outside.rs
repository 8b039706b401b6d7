//! What a broker sends this client, as plain functions over its bytes: for `tests/fuzz` alone.

use bytes::Bytes;

use super::fetch;

/// The records of a fetch answer.
pub fn records(bytes: &[u8]) {
    let _ = fetch::open("fuzz", 0, 0, Bytes::copy_from_slice(bytes));
}
