//! Decoders of records and member metadata that nothing outside this folder needs: for `tests/fuzz` alone.

use bytes::Bytes;

use super::record::GroupRecord;
use super::subscription;

/// A record of `__consumer_offsets`.
///
/// # Panics
/// If a decoded value, encoded again, decodes to another.
pub fn record(key: &[u8], value: Option<&[u8]>) {
    let value = value.map(Bytes::copy_from_slice);
    if let Ok(record) = GroupRecord::decode(&Bytes::copy_from_slice(key), value.as_ref()) {
        let (key, value) = record.encode();
        assert_eq!(GroupRecord::decode(&key, value.as_ref()), Ok(record));
    }
}

/// A member's subscription.
pub fn subscription(metadata: &[u8]) {
    let _ = subscription::topics(&Bytes::copy_from_slice(metadata));
}
