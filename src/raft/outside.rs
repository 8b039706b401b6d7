//! Decoders of bytes from journal and checkpoint that nothing outside this folder needs: for `tests/fuzz` alone.

use bytes::Bytes;
use tidewater_storage::journal::{JournalEntry, Payload};
use tidewater_storage::model::EntryId;

use super::codec;

/// A vote, a stored membership, an entry's kind and content.
///
/// # Panics
/// If a decoded value, encoded again, decodes to another.
pub fn decode(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(vote) = codec::decode_vote(&bytes)
        && let Ok(written) = codec::encode_vote(&vote)
    {
        assert_eq!(codec::decode_vote(&written), Ok(vote));
    }
    if let Ok(stored) = codec::decode_stored(&bytes) {
        assert_eq!(codec::decode_stored(&codec::encode_stored(&stored)), Ok(stored));
    }
    let entry = JournalEntry { id: EntryId::default(), payload: Payload { meta: bytes, ..Payload::default() } };
    if let Ok(entry) = codec::from_lane_entry(entry) {
        let _ = codec::to_lane_entry(entry);
    }
}
