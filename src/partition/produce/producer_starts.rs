//! First batches of idempotent producers that were refused; later batches of these producers may not be stored first.
//!
//! A partition takes any first sequence from a producer it does not know (its state may have expired). If a producer's
//! first batch is refused for a while (disk full, queue full, a failed proposal) and its second batch, already sent, is
//! not, the second would be stored and the first could never follow it. Until the refused batch comes again, or the
//! producer begins a new epoch, later batches are refused as out of order; producers send those again.
//!
//! Owns: the refused first batches, bounded in number and time. Only the proposer uses it. Shard-local.

use std::collections::VecDeque;
use std::time::Duration;

use tidewater_storage::env::Mono;
use tidewater_storage::model::{BatchHeader, PartitionId, ProducerEpoch, ProducerId};

use crate::partition::message::ProduceError;

/// A producer that has not come back after this has given up (`delivery.timeout.ms` is two minutes by default).
const KEPT: Duration = Duration::from_secs(300);
/// Batches remembered on one lane; the oldest go first.
const STARTS_MAX: usize = 1024;

/// A batch of an idempotent producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequenced {
    producer: ProducerId,
    epoch: ProducerEpoch,
    sequence: i32,
}

impl Sequenced {
    /// Of a batch, if its producer is idempotent.
    #[must_use]
    pub fn of(header: &BatchHeader) -> Option<Self> {
        let producer = header.producer_id?;
        Some(Self { producer, epoch: header.producer_epoch, sequence: header.base_sequence })
    }

    #[must_use]
    pub fn producer(&self) -> ProducerId {
        self.producer
    }
}

#[derive(Debug)]
struct Refused {
    partition: PartitionId,
    batch: Sequenced,
    at: Mono,
}

impl Refused {
    fn is_of(&self, partition: PartitionId, producer: ProducerId) -> bool {
        self.partition == partition && self.batch.producer == producer
    }
}

/// The refused batches of one lane.
#[derive(Debug, Default)]
pub struct ProducerStarts {
    refused: VecDeque<Refused>,
}

impl ProducerStarts {
    /// Notes that `batch`, of a producer its partition does not know, was refused; of several of an epoch the first
    /// counts.
    pub fn note(&mut self, partition: PartitionId, batch: Sequenced, at: Mono) {
        self.refused.retain(|held| at.since(held.at) < KEPT);
        let held = self.refused.iter_mut().find(|held| held.is_of(partition, batch.producer));
        match held {
            Some(held) if held.batch.epoch == batch.epoch && held.batch.sequence <= batch.sequence => {}
            Some(held) => (held.batch, held.at) = (batch, at),
            None => {
                if self.refused.len() == STARTS_MAX {
                    self.refused.pop_front();
                }
                self.refused.push_back(Refused { partition, batch, at });
            }
        }
    }

    /// May this batch of a producer its partition does not know be its first?
    ///
    /// # Errors
    /// `OutOfOrder`: an earlier one was refused and is still to come.
    pub fn check(&self, partition: PartitionId, batch: &Sequenced, now: Mono) -> Result<(), ProduceError> {
        let held = self.refused.iter().find(|held| held.is_of(partition, batch.producer));
        let Some(Refused { batch: first, at, .. }) = held else { return Ok(()) };
        if first.epoch != batch.epoch || first.sequence >= batch.sequence || now.since(*at) >= KEPT {
            return Ok(());
        }
        Err(ProduceError::OutOfOrder {
            producer: batch.producer.0,
            epoch: batch.epoch.0,
            expected: first.sequence,
            found: batch.sequence,
        })
    }

    /// A batch of the producer is taken: no refused one is expected any more.
    pub fn taken(&mut self, partition: PartitionId, producer: ProducerId) {
        self.refused.retain(|held| !held.is_of(partition, producer));
    }
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::{Incarnation, PartitionIndex, TopicId};

    use super::*;

    const HERE: PartitionId =
        PartitionId { topic: TopicId(uuid::Uuid::nil()), index: PartitionIndex(0), incarnation: Incarnation(0) };

    fn batch(producer: i64, epoch: i16, sequence: i32) -> Sequenced {
        Sequenced { producer: ProducerId(producer), epoch: ProducerEpoch(epoch), sequence }
    }

    #[test]
    fn nothing_begins_before_what_was_refused() {
        let mut refused = ProducerStarts::default();
        for sequence in [3, 0, 5] {
            refused.note(HERE, batch(1, 0, sequence), Mono::ZERO);
        }
        let out = refused.check(HERE, &batch(1, 0, 3), Mono::ZERO);
        assert!(matches!(out, Err(ProduceError::OutOfOrder { expected: 0, found: 3, .. })), "{out:?}");
        assert_eq!(refused.check(HERE, &batch(1, 0, 0), Mono::ZERO), Ok(()));
        assert_eq!(refused.check(HERE, &batch(1, 1, 4), Mono::ZERO), Ok(()), "another epoch starts anywhere");
        assert_eq!(refused.check(HERE, &batch(2, 0, 3), Mono::ZERO), Ok(()), "another producer");
        let there = PartitionId { index: PartitionIndex(1), ..HERE };
        assert_eq!(refused.check(there, &batch(1, 0, 3), Mono::ZERO), Ok(()), "another partition");
        refused.taken(HERE, ProducerId(1));
        assert_eq!(refused.check(HERE, &batch(1, 0, 3), Mono::ZERO), Ok(()));
    }

    #[test]
    fn it_is_forgotten_in_time_and_bounded() {
        let mut refused = ProducerStarts::default();
        refused.note(HERE, batch(0, 0, 0), Mono::ZERO);
        assert!(refused.check(HERE, &batch(0, 0, 1), Mono::ZERO).is_err());
        assert!(refused.check(HERE, &batch(0, 0, 1), Mono::ZERO + KEPT).is_ok());
        for producer in 1..3000 {
            refused.note(HERE, batch(producer, 0, 0), Mono::ZERO);
        }
        assert_eq!(refused.refused.len(), STARTS_MAX);
    }
}
