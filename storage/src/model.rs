//! Value types of all crates: positions, ids, times and the Kafka record batch.
//!
//! Owns: types that cannot be confused (`Offset` is Kafka's, `LogIndex` is Raft's), half-open ranges, the checked
//! record batch. Does not own: I/O, decisions. Everything here is a *message* (owned, `Send`).

pub mod batch;
pub mod compression;
pub mod crc;
pub mod ids;
pub mod offset;
pub mod position;
pub mod recompress;
pub mod record;
pub mod run;
pub mod time;
pub mod topic;

pub use batch::{Batch, BatchError, BatchHeader, TimestampType};
pub use compression::Compression;
pub use ids::{
    Incarnation, LaneId, LeaderEpoch, NodeId, PartitionId, PartitionIndex, ProducerEpoch, ProducerId, ReplicaId,
    ReplicaIncarnation, ShardId, Term, TopicId,
};
pub use offset::{Offset, OffsetRange};
pub use position::{EntryId, FilePos, LogIndex};
pub use run::RunSum;
pub use time::TimestampMs;
pub use topic::{TopicName, TopicNameError};
