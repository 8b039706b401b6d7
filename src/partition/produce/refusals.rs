//! Batches of idempotent producers that were refused for now: [`Refusals`].
//!
//! A producer sends several batches behind each other. When the second is refused for now (no leader yet, no room) and
//! the third, which is on its way already, finds the broker ready, its sequence leaves a gap. Kafka's answer is
//! OUT_OF_ORDER_SEQUENCE_NUMBER, upon which librdkafka takes a new producer id and sends all that is not acknowledged
//! again: also a first batch that is stored and whose acknowledgement was lost, which is then stored twice. Here the
//! third is refused for now as well, and the producer sends all three again in order. To a producer that its partition
//! does not know, this is also what keeps its third batch from being taken for the first one.
//!
//! Owns: which sequences were refused, bounded in number and time. Only the proposer uses it. Shard-local.

use std::collections::VecDeque;
use std::time::Duration;

use tidewater_storage::env::Mono;
use tidewater_storage::model::{BatchHeader, PartitionId, ProducerEpoch, ProducerId};

use crate::partition::message::ProduceError;

/// A producer that has not come back after this has given up (`delivery.timeout.ms` is two minutes by default).
const KEPT: Duration = Duration::from_secs(300);
/// A gap of a producer that its partition knows cannot lose a batch: after this it is answered as what it is, to a
/// producer that left a refused batch out.
const GAP_KEPT: Duration = Duration::from_secs(60);
/// Producers remembered on one lane; the oldest go first.
const REFUSALS_MAX: usize = 1024;

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

    /// Refused for now: the batch with the sequence `expected` is still to come.
    fn early(&self, expected: i32) -> ProduceError {
        let (producer, epoch, found) = (self.producer.0, self.epoch.0, self.sequence);
        ProduceError::Early { producer, epoch, expected, found }
    }
}

/// Refused batches of one producer's epoch.
#[derive(Debug)]
struct Refused {
    partition: PartitionId,
    producer: ProducerId,
    epoch: ProducerEpoch,
    /// The least and the greatest first sequence of them.
    first: i32,
    last: i32,
    /// When the newest was refused.
    at: Mono,
}

impl Refused {
    fn is_of(&self, partition: PartitionId, producer: ProducerId) -> bool {
        self.partition == partition && self.producer == producer
    }
}

/// The refused batches of one lane.
#[derive(Debug, Default)]
pub struct Refusals {
    refused: VecDeque<Refused>,
}

impl Refusals {
    /// Notes that `batch` was refused for now.
    pub fn note(&mut self, partition: PartitionId, batch: Sequenced, at: Mono) {
        self.refused.retain(|held| at.since(held.at) < KEPT);
        let Sequenced { producer, epoch, sequence } = batch;
        let new = Refused { partition, producer, epoch, first: sequence, last: sequence, at };
        match self.refused.iter_mut().find(|held| held.is_of(partition, producer)) {
            Some(held) if held.epoch == epoch => {
                (held.first, held.last, held.at) = (held.first.min(sequence), held.last.max(sequence), at);
            }
            Some(held) => *held = new,
            None => {
                if self.refused.len() == REFUSALS_MAX {
                    self.refused.pop_front();
                }
                self.refused.push_back(new);
            }
        }
    }

    /// May this batch of a producer its partition does not know be its first?
    ///
    /// # Errors
    /// [`ProduceError::Early`]: an earlier one was refused and is still to come.
    pub fn check_first(&self, partition: PartitionId, batch: &Sequenced, now: Mono) -> Result<(), ProduceError> {
        match self.held(partition, batch) {
            Some(held) if held.first < batch.sequence && now.since(held.at) < KEPT => Err(batch.early(held.first)),
            _ => Ok(()),
        }
    }

    /// Is the batch that would follow, with the sequence `expected`, one that was refused? Then why `batch`, which
    /// leaves it out, is refused for now.
    #[must_use]
    pub fn explain_gap(
        &self,
        partition: PartitionId,
        batch: &Sequenced,
        expected: i32,
        now: Mono,
    ) -> Option<ProduceError> {
        let held = self.held(partition, batch)?;
        let explains = (held.first..=held.last).contains(&expected) && now.since(held.at) < GAP_KEPT;
        explains.then(|| batch.early(expected))
    }

    /// The batch is taken: with the last of those that were refused, no refused one is expected any more.
    pub fn taken(&mut self, partition: PartitionId, batch: &Sequenced) {
        if !self.refused.is_empty() {
            let is_over = |held: &Refused| held.epoch != batch.epoch || held.last <= batch.sequence;
            self.refused.retain(|held| !(held.is_of(partition, batch.producer) && is_over(held)));
        }
    }

    fn held(&self, partition: PartitionId, batch: &Sequenced) -> Option<&Refused> {
        let held = self.refused.iter().find(|held| held.is_of(partition, batch.producer))?;
        (held.epoch == batch.epoch).then_some(held)
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
        let mut refused = Refusals::default();
        for sequence in [3, 0, 5] {
            refused.note(HERE, batch(1, 0, sequence), Mono::ZERO);
        }
        let out = refused.check_first(HERE, &batch(1, 0, 3), Mono::ZERO);
        assert!(matches!(out, Err(ProduceError::Early { expected: 0, found: 3, .. })), "{out:?}");
        assert_eq!(refused.check_first(HERE, &batch(1, 0, 0), Mono::ZERO), Ok(()));
        assert_eq!(refused.check_first(HERE, &batch(1, 1, 4), Mono::ZERO), Ok(()), "another epoch starts anywhere");
        assert_eq!(refused.check_first(HERE, &batch(2, 0, 3), Mono::ZERO), Ok(()), "another producer");
        let there = PartitionId { index: PartitionIndex(1), ..HERE };
        assert_eq!(refused.check_first(there, &batch(1, 0, 3), Mono::ZERO), Ok(()), "another partition");
        refused.taken(HERE, &batch(1, 0, 0));
        assert!(refused.check_first(HERE, &batch(1, 0, 3), Mono::ZERO).is_err(), "others are still to come");
        refused.taken(HERE, &batch(1, 0, 5));
        assert_eq!(refused.check_first(HERE, &batch(1, 0, 3), Mono::ZERO), Ok(()));
    }

    #[test]
    fn a_gap_is_explained_by_what_was_refused() {
        let mut refused = Refusals::default();
        [4, 7].into_iter().for_each(|sequence| refused.note(HERE, batch(1, 0, sequence), Mono::ZERO));
        let explained = |refused: &Refusals, batch: Sequenced, expected, after| {
            refused.explain_gap(HERE, &batch, expected, Mono::ZERO + after).is_some()
        };
        let now = Duration::ZERO;
        // All that was refused is expected one after the other.
        for expected in [4, 7] {
            assert!(explained(&refused, batch(1, 0, 9), expected, now), "{expected}");
        }
        assert!(!explained(&refused, batch(1, 0, 9), 8, now), "none of 8 was refused");
        assert!(!explained(&refused, batch(1, 0, 9), 3, now), "none of 3 was refused");
        assert!(!explained(&refused, batch(1, 1, 9), 4, now), "another epoch");
        assert!(!explained(&refused, batch(2, 0, 9), 4, now), "another producer");
        assert!(!explained(&refused, batch(1, 0, 9), 4, GAP_KEPT), "the producer does not come back");
        refused.taken(HERE, &batch(1, 0, 4));
        assert!(explained(&refused, batch(1, 0, 9), 7, now));
        refused.taken(HERE, &batch(1, 0, 7));
        assert!(!explained(&refused, batch(1, 0, 9), 7, now));
    }

    #[test]
    fn it_is_forgotten_in_time_and_bounded() {
        let mut refused = Refusals::default();
        refused.note(HERE, batch(0, 0, 0), Mono::ZERO);
        assert!(refused.check_first(HERE, &batch(0, 0, 1), Mono::ZERO).is_err());
        assert!(refused.check_first(HERE, &batch(0, 0, 1), Mono::ZERO + KEPT).is_ok());
        for producer in 1..3000 {
            refused.note(HERE, batch(producer, 0, 0), Mono::ZERO);
        }
        assert_eq!(refused.refused.len(), REFUSALS_MAX);
    }
}
