//! Partitions: what a Kafka partition is on top of a lane's log. Knows no Kafka request.
//!
//! The parts, in the order in which a batch passes through them:
//! 1. [`router`] sends each part of a request ([`message`]) to the shard that owns the partition; [`shard`] serves it
//!    there.
//! 2. [`produce`] queues the batch, checks its producer's sequence, assigns its offset and proposes an entry to the
//!    lane.
//! 3. [`state`] applies committed entries: batches are appended to their partition's replica, commands change it.
//! 4. [`read`] answers reads from the local log or from the bucket, and wakes readers that wait at a partition's end.
//!
//! Beside them, [`sums`] adds up a topic's partitions for metrics, and [`superseded`] knows whether the cluster was
//! restored elsewhere: then nothing is appended any more.
//!
//! Invariants:
//! 1. Only the proposer of the leading lane assigns offsets, and only to batches that continue the partition behind
//!    everything in flight.
//! 2. State changes only where an entry is applied, in the order of the lane's log. The effect is a function of the log
//!    alone: replicas that have applied the same entries have equal checkpoint blobs.
//! 3. A batch that does not continue its partition is refused when it is applied, so a wrong offset cannot be stored.
//! 4. A producer gets success only after the entry with its batch is applied (with acks=0 it gets no answer); the high
//!    watermark is the end of what is applied. Only the leader answers readers, while no other broker can lead.
//! 5. A reader sees offsets from the log start to the high watermark, each once, wherever they lie.
//! 6. While a topic is archived, its local bytes stay until the archived end has passed them: in a bundle, or because
//!    they are below the log start. Those of a deleted topic do not wait for the bucket.
//! 7. An entry that this version does not understand stops its lane; nothing behind it is applied.

#[cfg(test)]
pub(crate) mod fixture;
pub mod follow;
pub mod message;
pub mod produce;
pub mod read;
pub mod router;
pub mod shard;
pub mod state;
pub mod sums;
pub mod superseded;
#[cfg(test)]
pub(crate) mod three;
