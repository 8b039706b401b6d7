//! Idempotent producers of a partition: what a bundle's batches change in them, and what is published of them.
//!
//! Owns: the types, how one state follows another, their encoding (`FORMAT.md` §3 and §5). Does not own: the check of a
//! batch against them (the broker's producer table). Pure; all are *messages*.

use std::collections::BTreeMap;

use tidewater_storage::codec::{CodecError, Decoder, Encoder};
use tidewater_storage::model::{BatchHeader, Offset, OffsetRange, PartitionId, ProducerEpoch, ProducerId, TimestampMs};

/// Batches kept of a producer: as many as it may have in flight (KIP-98: `max.in.flight.requests.per.connection`).
pub const PRODUCER_BATCHES_MAX: usize = 5;
/// Least bytes of an encoded producer and of one of its batches.
const PRODUCER_MIN: usize = 8;
const BATCH_MIN: usize = 4;

/// What is known of one idempotent producer of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerState {
    pub id: ProducerId,
    pub epoch: ProducerEpoch,
    /// When it last wrote. In a bundle: when the bundle was written.
    pub seen: TimestampMs,
    /// Its last batches of this epoch, oldest first: one at least, at most [`PRODUCER_BATCHES_MAX`].
    pub batches: Vec<ProducerBatch>,
}

/// A batch of an idempotent producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerBatch {
    /// Sequence of its first record.
    pub first: i32,
    /// Sequence of its last record; less than `first` where sequences begin again at 0.
    pub last: i32,
    /// Offset of its first record.
    pub offset: Offset,
    /// Its greatest timestamp.
    pub timestamp: TimestampMs,
}

/// What a bundle changes in the producers of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionProducers {
    pub partition: PartitionId,
    /// Sorted by id: each producer with the last batches that it has in this bundle.
    pub producers: Vec<ProducerState>,
}

impl ProducerBatch {
    #[must_use]
    pub fn of(header: &BatchHeader) -> Self {
        let (first, last) = (header.base_sequence, header.last_sequence());
        Self { first, last, offset: header.base_offset, timestamp: header.max_timestamp }
    }

    /// The offset after its last record.
    #[must_use]
    pub fn end(&self) -> Offset {
        // Sequences are numbers below 2^31 and begin again at 0.
        let count = u64::from(self.last.wrapping_sub(self.first).cast_unsigned() & i32::MAX.cast_unsigned()) + 1;
        Offset::new(self.offset.get().saturating_add(count).min(Offset::MAX.get()))
    }
}

impl ProducerState {
    /// What a batch says of its producer; `None` if the producer is not idempotent.
    #[must_use]
    pub fn of(header: &BatchHeader, seen: TimestampMs) -> Option<Self> {
        let (id, epoch) = (header.producer_id?, header.producer_epoch);
        Some(Self { id, epoch, seen, batches: vec![ProducerBatch::of(header)] })
    }

    /// Goes on with what the same producer wrote later. What is known already is not taken twice.
    pub fn follow(&mut self, later: &Self) {
        debug_assert_eq!(self.id, later.id, "states of one producer");
        self.seen = self.seen.max(later.seen);
        if self.epoch != later.epoch {
            let known = self.batches.last().map(|batch| batch.offset);
            if later.batches.last().map(|batch| batch.offset) > known {
                (self.epoch, self.batches) = (later.epoch, later.batches.clone());
            }
            return;
        }
        let known = self.batches.last().map(|batch| batch.offset);
        self.batches.extend(later.batches.iter().filter(|batch| Some(batch.offset) > known));
        let surplus = self.batches.len().saturating_sub(PRODUCER_BATCHES_MAX);
        self.batches.drain(..surplus);
    }

    /// As it was when the log ended at `end`: without batches that reach beyond it. `None` if no batch is left: nothing
    /// is known of the producer then, and its next batch may have any sequence.
    #[must_use]
    pub fn cut(mut self, end: Offset) -> Option<Self> {
        self.batches.retain(|batch| batch.end() <= end);
        (!self.batches.is_empty()).then_some(self)
    }
}

/// Takes the changes of a bundle into a partition's producers.
pub fn follow_producers(known: &mut BTreeMap<ProducerId, ProducerState>, changes: &[ProducerState]) {
    for change in changes {
        known.entry(change.id).and_modify(|state| state.follow(change)).or_insert_with(|| change.clone());
    }
}

/// A count, then each producer: the difference of its id to the one before's, its epoch, the difference of `seen` to
/// the one before's (of the first to `seen`), its batches. Offsets of a producer's batches count from `start`, then
/// from the batch before's end; timestamps from `seen`, then from the batch before's; sequences from the batch before's
/// last plus one.
pub(crate) fn put_producers(out: &mut Encoder, producers: &[ProducerState], start: Offset, seen: TimestampMs) {
    assert!(producers.is_sorted_by(|a, b| a.id < b.id), "producers ascend");
    let (mut id, mut seen) = (0i64, seen);
    out.count(producers.len());
    for producer in producers {
        let count = producer.batches.len();
        assert!((1..=PRODUCER_BATCHES_MAX).contains(&count), "producer {} has {count} batches", producer.id);
        out.signed(producer.id.0.wrapping_sub(id));
        out.signed(producer.epoch.0.into());
        out.signed(producer.seen.0.wrapping_sub(seen.0));
        (id, seen) = (producer.id.0, producer.seen);
        out.count(count);
        let (mut sequence, mut offset, mut timestamp) = (0i32, start, seen);
        for batch in &producer.batches {
            out.signed(batch.first.wrapping_sub(sequence).into());
            out.signed(batch.last.wrapping_sub(batch.first).into());
            out.signed(batch.offset.to_wire().wrapping_sub(offset.to_wire()));
            out.signed(batch.timestamp.0.wrapping_sub(timestamp.0));
            (sequence, offset, timestamp) = (batch.last.wrapping_add(1), batch.end(), batch.timestamp);
        }
    }
}

/// The inverse of [`put_producers`]; every batch must lie in `within`.
pub(crate) fn take_producers(
    body: &mut Decoder<'_>,
    start: Offset,
    within: OffsetRange,
    seen: TimestampMs,
) -> Result<Vec<ProducerState>, CodecError> {
    let (mut before, mut seen) = (None, seen);
    body.list(PRODUCER_MIN, |body| {
        let id = before.unwrap_or(0i64).wrapping_add(body.signed()?);
        if before.is_some_and(|before| before >= id) {
            return Err(body.bad("order of producers"));
        }
        before = Some(id);
        let epoch = i16::try_from(body.signed()?).map_err(|_| body.bad("producer epoch"))?;
        seen = TimestampMs(seen.0.wrapping_add(body.signed()?));
        let (mut sequence, mut offset, mut timestamp, mut known) = (0i32, start, seen, None);
        let batches = body.list(BATCH_MIN, |body| {
            let first = sequence.wrapping_add(body.signed32()?);
            let last = first.wrapping_add(body.signed32()?);
            let at = offset.to_wire().checked_add(body.signed()?).and_then(Offset::from_wire);
            let at = at.filter(|at| within.contains(*at) && Some(*at) > known);
            let at = at.ok_or_else(|| body.bad("offset of a producer's batch"))?;
            let batch = ProducerBatch {
                first,
                last,
                offset: at,
                timestamp: TimestampMs(timestamp.0.wrapping_add(body.signed()?)),
            };
            known = Some(at);
            (sequence, offset, timestamp) = (last.wrapping_add(1), batch.end(), batch.timestamp);
            Ok(batch)
        })?;
        if batches.is_empty() || batches.len() > PRODUCER_BATCHES_MAX {
            return Err(body.bad("count of a producer's batches"));
        }
        Ok(ProducerState { id: ProducerId(id), epoch: ProducerEpoch(epoch), seen, batches })
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A batch of a producer: id, does a new epoch begin with it, records.
    fn any_log() -> impl Strategy<Value = Vec<(i64, bool, i32)>> {
        vec((0..4i64, prop::bool::weighted(0.1), 1..9), 0..60)
    }

    /// The states that single batches say, and the offset after each.
    fn states(log: &[(i64, bool, i32)]) -> Vec<(ProducerState, Offset)> {
        let mut next: BTreeMap<i64, (i16, i32)> = BTreeMap::new();
        let mut end = Offset::ZERO;
        let state = |&(id, begins, count): &(i64, bool, i32)| {
            let (epoch, first) = next.entry(id).or_insert((0, i32::MAX - 20));
            (*epoch, *first) = if begins { (*epoch + 1, 0) } else { (*epoch, *first) };
            let last = (i64::from(*first) + i64::from(count) - 1) % (1 << 31);
            let timestamp = TimestampMs(end.to_wire() * 7);
            let batch = ProducerBatch { first: *first, last: last as i32, offset: end, timestamp };
            let (id, epoch) = (ProducerId(id), ProducerEpoch(*epoch));
            *first = ((last + 1) % (1 << 31)) as i32;
            end = end.plus(count as u64);
            assert_eq!(batch.end(), end, "sequences begin again at 0 and the end is right");
            (ProducerState { id, epoch, seen: timestamp, batches: vec![batch] }, end)
        };
        log.iter().map(state).collect()
    }

    fn table(states: &[(ProducerState, Offset)]) -> BTreeMap<ProducerId, ProducerState> {
        let mut known = BTreeMap::new();
        states.iter().for_each(|(state, _)| follow_producers(&mut known, std::slice::from_ref(state)));
        known
    }

    proptest! {
        /// A reader that knows any beginning and takes the rest in pieces, some twice, comes to what the writer has.
        #[test]
        fn pieces_lead_to_the_writers_table(log in any_log(), cuts in vec(any::<prop::sample::Index>(), 0..6)) {
            let states = states(&log);
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(states.len() + 1)).collect();
            at.push(states.len());
            at.sort_unstable();
            let mut from = at[0];
            let mut known = table(&states[..from]);
            for to in at {
                // What a bundle says of its range, which overlaps the one before by two batches.
                let changes: Vec<ProducerState> = table(&states[from.saturating_sub(2)..to]).into_values().collect();
                follow_producers(&mut known, &changes);
                from = to;
            }
            prop_assert_eq!(known, table(&states));
        }

        /// A cut leaves what was known at its end, as far as the batches remembered reach back.
        #[test]
        fn a_cut_is_what_was_known_then(log in any_log(), at in any::<prop::sample::Index>()) {
            let states = states(&log);
            let at = at.index(states.len() + 1);
            let (then, end) = (table(&states[..at]), states[..at].last().map_or(Offset::ZERO, |(_, end)| *end));
            for state in table(&states).into_values() {
                let Some(cut) = state.cut(end) else { continue };
                let then = &then[&cut.id];
                prop_assert_eq!(cut.epoch, then.epoch);
                prop_assert!(then.batches.ends_with(&cut.batches), "{:?} of {:?}", cut, then);
            }
        }

        #[test]
        fn a_list_comes_back(log in any_log(), seen in any::<i64>()) {
            let states = states(&log);
            let producers: Vec<ProducerState> = table(&states).into_values().collect();
            let end = states.last().map_or(Offset::ZERO, |(_, end)| *end);
            for (start, seen) in [(Offset::ZERO, TimestampMs(seen)), (end, TimestampMs(0))] {
                let mut out = Encoder::new();
                put_producers(&mut out, &producers, start, seen);
                let bytes = out.finish();
                let within = OffsetRange::new(Offset::ZERO, end);
                let mut body = Decoder::new("test", &bytes);
                prop_assert_eq!(take_producers(&mut body, start, within, seen), Ok(producers.clone()));
                let _ = take_producers(&mut Decoder::new("test", &bytes[..bytes.len() / 2]), start, within, seen);
                let none = OffsetRange::new(end, end);
                let outside = take_producers(&mut Decoder::new("test", &bytes), start, none, seen);
                prop_assert!(producers.is_empty() || outside.is_err(), "batches lie in their range");
            }
        }
    }
}
