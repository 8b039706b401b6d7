//! What a lane's proposer has in flight for one partition. The replica holds it, so that a batch finds it without a
//! search; only the proposer reads and changes it. Shard-local.

use std::collections::{HashMap, VecDeque};

use tidewater_storage::model::{Offset, ProducerId};

use super::producers::ProducerEntry;

/// From this many producers on, those whose batches are all applied are removed.
pub(super) const PRODUCERS_KEPT: usize = 64;

/// Batches in flight and what the partition will be once they are applied.
#[derive(Debug, Default)]
pub struct InFlight {
    /// Base offsets of the batches in flight, ascending; with none, nothing else here counts.
    batches: VecDeque<Offset>,
    /// The proposer's round they belong to: a failure begins a new round, and what was in flight before counts no more.
    round: u64,
    /// The partition's end once they are applied.
    end: Offset,
    /// Producers with batches in flight, as of that end; with some whose batches are all applied.
    producers: HashMap<ProducerId, ProducerEntry>,
    /// The count of producers at which they are swept.
    sweep_at: usize,
}

impl InFlight {
    fn counts(&self, round: u64) -> bool {
        !self.batches.is_empty() && self.round == round
    }

    /// The partition's end in `round`, given the end of what is applied.
    pub(super) fn end(&self, round: u64, applied: Offset) -> Offset {
        if self.counts(round) { self.end } else { applied }
    }

    /// A producer as of the end of what is in flight; `None` if no batch in flight is its.
    pub(super) fn producer(&self, round: u64, producer: ProducerId) -> Option<&ProducerEntry> {
        if self.counts(round) { self.producers.get(&producer) } else { None }
    }

    /// Is the batch that was given `base` in flight still?
    pub(super) fn holds(&self, round: u64, base: Offset) -> bool {
        self.counts(round) && self.batches.contains(&base)
    }

    /// A batch at `base` goes into flight, up to `end`; `producer` as it will be then. The partition ends at `applied`.
    pub(super) fn add(
        &mut self,
        round: u64,
        base: Offset,
        end: Offset,
        producer: Option<(ProducerId, ProducerEntry)>,
        applied: Offset,
    ) {
        if !self.counts(round) {
            self.clear();
            self.batches.clear();
            self.round = round;
        }
        debug_assert!(self.batches.back().is_none_or(|last| *last < base) && base < end);
        self.batches.push_back(base);
        self.end = end;
        if let Some((id, entry)) = producer {
            self.note(id, entry, applied);
        }
    }

    /// The batch at `base` is applied or has failed.
    pub(super) fn landed(&mut self, round: u64, base: Offset) {
        if self.counts(round) {
            self.batches.retain(|held| *held != base);
            if self.batches.is_empty() {
                self.clear();
            }
        }
    }

    /// On a partition that is never without a batch in flight every producer would stay for ever: those of which all is
    /// applied, below `applied`, are in the partition's own table and are removed here.
    fn note(&mut self, producer: ProducerId, entry: ProducerEntry, applied: Offset) {
        if self.producers.len() >= self.sweep_at {
            let in_flight = |entry: &ProducerEntry| entry.recent.back().is_some_and(|b| b.base_offset >= applied);
            self.producers.retain(|_, entry| in_flight(entry));
            self.sweep_at = (2 * self.producers.len()).max(PRODUCERS_KEPT);
            self.producers.shrink_to(self.sweep_at);
        }
        self.producers.insert(producer, entry);
    }

    fn clear(&mut self) {
        self.producers.clear();
        self.producers.shrink_to(PRODUCERS_KEPT);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tidewater_storage::model::record::{BatchBuilder, Record};
    use tidewater_storage::model::{BatchHeader, Compression, ProducerEpoch, TimestampMs};

    use super::super::producers;
    use super::*;

    #[test]
    fn producers_whose_batches_are_applied_are_let_go() {
        let header = |producer: i64| {
            let builder = BatchBuilder::new(Compression::None);
            let mut builder = builder.producer(ProducerId(producer), ProducerEpoch(0), 0);
            builder.push(Record::new(TimestampMs(1000), None, Some(Bytes::from_static(b"v"))));
            BatchHeader::parse(&builder.build()).expect("a batch")
        };
        let entry = |n: u64| producers::noted(None, &header(n as i64), Offset::new(n), TimestampMs(1000));
        let mut in_flight = InFlight::default();
        let add = |in_flight: &mut InFlight, n: u64, applied: u64| {
            let producer = Some((ProducerId(n as i64), entry(n)));
            in_flight.add(0, Offset::new(n), Offset::new(n + 1), producer, Offset::new(applied));
        };
        // One batch is always in flight, each of another producer; the last few are not applied yet.
        for n in 0..20_000u64 {
            let applied = n.saturating_sub(20);
            add(&mut in_flight, n, applied);
            (0..applied).rev().take(2).for_each(|base| in_flight.landed(0, Offset::new(base)));
            assert!(in_flight.producers.len() <= PRODUCERS_KEPT, "{} after {n}", in_flight.producers.len());
            assert!((applied..=n).all(|n| in_flight.producer(0, ProducerId(n as i64)).is_some()), "{n}");
        }
        // Those in flight stay, however many.
        for n in 20_000..21_000u64 {
            add(&mut in_flight, n, 20_000);
        }
        assert!((20_000..21_000).all(|n| in_flight.producer(0, ProducerId(n)).is_some()));
        assert!(in_flight.producer(1, ProducerId(20_500)).is_none(), "of an earlier round");
        (19_000..21_000).for_each(|base| in_flight.landed(0, Offset::new(base)));
        assert!(in_flight.producers.is_empty() && in_flight.producers.capacity() < 1000);
    }

    #[test]
    fn a_batch_is_held_until_it_landed() {
        let mut in_flight = InFlight::default();
        in_flight.add(3, Offset::new(5), Offset::new(7), None, Offset::new(5));
        in_flight.add(3, Offset::new(7), Offset::new(8), None, Offset::new(5));
        assert_eq!(
            (in_flight.end(3, Offset::new(5)), in_flight.end(4, Offset::new(5))),
            (Offset::new(8), Offset::new(5))
        );
        assert!(in_flight.holds(3, Offset::new(5)) && !in_flight.holds(4, Offset::new(5)));
        in_flight.landed(3, Offset::new(5));
        assert!(!in_flight.holds(3, Offset::new(5)) && in_flight.holds(3, Offset::new(7)));
        in_flight.landed(3, Offset::new(7));
        assert_eq!(in_flight.end(3, Offset::new(8)), Offset::new(8));
    }
}
