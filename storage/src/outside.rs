//! Decoders of bytes from disk that only this crate uses, as plain functions for `tests/fuzz`.

use bytes::Bytes;

use crate::engine::records::{LaneRecord, PartitionRecord, ShardRecord};
use crate::log::persist;
use crate::model::PartitionId;

/// Decodes a record of the checkpoint as each of the three kinds. What decodes must survive encoding and decoding
/// again.
///
/// # Panics
/// If it does not.
pub fn checkpoint_records(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(lane) = LaneRecord::decode(&bytes) {
        assert!(LaneRecord::decode(&lane.encode()).is_ok_and(|again| again.state == lane.state));
    }
    if let Ok(partition) = PartitionRecord::decode(&bytes) {
        assert_eq!(PartitionRecord::decode(&partition.encode()), Ok(partition));
    }
    if let Ok(shard) = ShardRecord::decode(&bytes) {
        assert_eq!(ShardRecord::decode(&shard.encode()), Ok(shard));
    }
}

/// Decodes a log's record, and encodes what decoded.
pub fn checkpoint_log(bytes: &[u8]) {
    if let Ok(state) = persist::decode(PartitionId::default(), Bytes::copy_from_slice(bytes)) {
        let _ = persist::encode(&state);
    }
}
