//! Idempotent producers and their last sequences, so that a batch sent twice is stored once (KIP-98, KIP-360).
//!
//! Owns: the table of one partition and the pure check against it. The proposer checks against applied *and* in-flight
//! batches (an overlay of the same entries); the lane notes what is committed. Time is the proposal's, so every replica
//! expires alike. Shard-local.

use std::collections::{HashMap, VecDeque};

use tidewater_storage::codec::{CodecError, Decoder, Encoder};
use tidewater_storage::model::{BatchHeader, Offset, ProducerEpoch, ProducerId, TimestampMs};
use tidewater_tiering::format::{ProducerBatch, ProducerState};

use crate::limits::PRODUCERS_PER_PARTITION_MAX;
use crate::partition::message::{ActiveProducer, ProduceError};
use crate::partition::state::codec::LittleEndian;

/// Batches remembered per producer: what may be in flight at once (`max.in.flight.requests.per.connection`).
pub const BATCHES_REMEMBERED: usize = 5;
/// Bytes that an encoded producer and one of its batches take at least.
const ENTRY_LEN_MIN: usize = 4;
const BATCH_LEN_MIN: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Sequence of its first record.
    pub first: i32,
    /// Sequence of its last record.
    pub last: i32,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Its greatest timestamp; -1 when a checkpoint of an older version did not hold it.
    pub timestamp: TimestampMs,
}

impl Remembered {
    fn of(header: &BatchHeader, base_offset: Offset) -> Self {
        let (first, last) = (header.base_sequence, header.last_sequence());
        Self { first, last, base_offset, timestamp: header.max_timestamp }
    }
}

/// What is known of one producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerEntry {
    pub epoch: ProducerEpoch,
    /// Its last batches, oldest first.
    pub recent: VecDeque<Remembered>,
    /// When it last wrote, in the log's time.
    pub seen: TimestampMs,
}

impl ProducerEntry {
    /// As tools are shown it.
    #[must_use]
    pub fn active(&self, id: ProducerId) -> ActiveProducer {
        let last = self.recent.back().map(|batch| (batch.last, batch.timestamp));
        let (last_sequence, last_timestamp) = last.unwrap_or((-1, TimestampMs(-1)));
        ActiveProducer { id, epoch: self.epoch, last_sequence, last_timestamp }
    }
}

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Append,
    /// It is there already: this one.
    Duplicate(Remembered),
}

/// Is this batch the next one of its producer, a repetition, or wrong?
///
/// # Errors
/// `OutOfOrder` or `Fenced`, as Kafka's `ProducerAppendInfo` decides. A batch from before the remembered ones is out of
/// order too: whether it was ever appended is not known, and a producer that gets "duplicate" would take it for stored.
pub fn check(entry: Option<&ProducerEntry>, header: &BatchHeader) -> Result<Verdict, ProduceError> {
    let (Some(id), Some(entry)) = (header.producer_id, entry) else { return Ok(Verdict::Append) };
    let out_of_order = |expected| ProduceError::OutOfOrder {
        producer: id.0,
        epoch: header.producer_epoch.0,
        expected,
        found: header.base_sequence,
    };
    if header.producer_epoch < entry.epoch {
        return Err(ProduceError::Fenced { producer: id.0, current: entry.epoch.0, found: header.producer_epoch.0 });
    }
    if header.producer_epoch > entry.epoch {
        return if header.base_sequence == 0 { Ok(Verdict::Append) } else { Err(out_of_order(0)) };
    }
    let last = header.last_sequence();
    if let Some(known) = entry.recent.iter().find(|r| r.first == header.base_sequence && r.last == last) {
        return Ok(Verdict::Duplicate(*known));
    }
    let Some(newest) = entry.recent.back() else { return Ok(Verdict::Append) };
    let expected = if newest.last == i32::MAX { 0 } else { newest.last + 1 };
    if header.base_sequence == expected {
        return Ok(Verdict::Append);
    }
    Err(out_of_order(expected))
}

/// Notes an appended batch in a producer's entry.
#[must_use]
pub fn noted(entry: Option<&ProducerEntry>, header: &BatchHeader, base: Offset, at: TimestampMs) -> ProducerEntry {
    let mut next = match entry {
        Some(entry) if entry.epoch == header.producer_epoch => entry.clone(),
        _ => ProducerEntry { epoch: header.producer_epoch, recent: VecDeque::new(), seen: at },
    };
    if next.recent.len() == BATCHES_REMEMBERED {
        next.recent.pop_front();
    }
    next.recent.push_back(Remembered::of(header, base));
    next.seen = next.seen.max(at);
    next
}

/// The producers of one partition, as committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerTable {
    entries: HashMap<ProducerId, ProducerEntry>,
    expired_at: TimestampMs,
}

impl ProducerTable {
    /// As published in the bucket.
    #[must_use]
    pub fn published(producers: Vec<ProducerState>) -> Self {
        let entry = |producer: ProducerState| {
            let batch = |batch: &ProducerBatch| Remembered {
                first: batch.first,
                last: batch.last,
                base_offset: batch.offset,
                timestamp: batch.timestamp,
            };
            let recent = producer.batches.iter().map(batch).collect();
            (producer.id, ProducerEntry { epoch: producer.epoch, recent, seen: producer.seen })
        };
        Self { entries: producers.into_iter().map(entry).collect(), expired_at: TimestampMs::NONE }
    }

    #[must_use]
    pub fn get(&self, id: ProducerId) -> Option<&ProducerEntry> {
        self.entries.get(&id)
    }

    /// How many producers are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ProducerId, &ProducerEntry)> {
        self.entries.iter()
    }

    /// Notes a committed batch; forgets producers silent for `expiration_ms` (checked ten times in that period).
    pub fn note(&mut self, header: &BatchHeader, base: Offset, at: TimestampMs, expiration_ms: i64) {
        let Some(id) = header.producer_id else { return };
        match self.entries.get_mut(&id) {
            Some(entry) if entry.epoch == header.producer_epoch => {
                if entry.recent.len() == BATCHES_REMEMBERED {
                    entry.recent.pop_front();
                }
                entry.recent.push_back(Remembered::of(header, base));
                entry.seen = entry.seen.max(at);
            }
            other => {
                let entry = noted(other.as_deref(), header, base, at);
                self.entries.insert(id, entry);
            }
        }
        if at.since_ms(self.expired_at) > expiration_ms / 10 {
            self.expired_at = at;
            self.entries.retain(|_, entry| at.since_ms(entry.seen) <= expiration_ms);
        }
        if self.entries.len() > PRODUCERS_PER_PARTITION_MAX {
            self.forget_silent();
        }
    }

    /// Forgets the tenth that was silent longest, the same on every replica.
    fn forget_silent(&mut self) {
        let mut by_age: Vec<_> = self.entries.iter().map(|(id, entry)| (entry.seen, *id)).collect();
        by_age.sort_unstable();
        by_age.truncate(PRODUCERS_PER_PARTITION_MAX / 10);
        by_age.iter().for_each(|(_, id)| drop(self.entries.remove(id)));
    }

    /// For the checkpoint; sorted, so that equal tables have equal bytes.
    pub fn encode(&self, out: &mut Encoder) {
        out.time(self.expired_at);
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_unstable_by_key(|(id, _)| **id);
        out.list(entries.into_iter(), |out, (id, entry)| {
            assert!(entry.recent.len() <= BATCHES_REMEMBERED, "producer {id} has {} batches", entry.recent.len());
            out.signed(id.0);
            out.signed(entry.epoch.0.into());
            out.time(entry.seen);
            out.list(entry.recent.iter(), |out, batch| {
                out.signed(batch.first.into());
                out.signed(batch.last.into());
                out.offset(batch.base_offset);
                out.time(batch.timestamp);
            });
        });
    }

    /// The inverse of [`ProducerTable::encode`].
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let expired_at = from.time()?;
        let entries = from.list(ENTRY_LEN_MIN, |from| {
            let id = ProducerId(from.signed()?);
            let epoch = i16::try_from(from.signed()?).map_err(|_| from.bad("producer epoch"))?;
            let seen = from.time()?;
            let recent = from.list(BATCH_LEN_MIN, |from| {
                let (first, last) = (from.signed32()?, from.signed32()?);
                Ok(Remembered { first, last, base_offset: from.offset()?, timestamp: from.time()? })
            })?;
            if recent.len() > BATCHES_REMEMBERED {
                return Err(from.bad("count of remembered batches"));
            }
            Ok((id, ProducerEntry { epoch: ProducerEpoch(epoch), recent: recent.into(), seen }))
        })?;
        if !entries.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Err(from.bad("order of producers"));
        }
        Ok(Self { entries: entries.into_iter().collect(), expired_at })
    }

    /// Of a checkpoint from before sections; `timed`: batches are remembered with their timestamps.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode_positional(from: &mut LittleEndian<'_>, timed: bool) -> Result<Self, CodecError> {
        let expired_at = TimestampMs(from.i64()?);
        let count = from.u32()?;
        let mut entries = HashMap::new();
        for _ in 0..count {
            let id = ProducerId(from.i64()?);
            let epoch = ProducerEpoch(from.i16()?);
            let seen = TimestampMs(from.i64()?);
            let mut recent = VecDeque::new();
            for _ in 0..from.u8()? {
                let (first, last) = (from.i32()?, from.i32()?);
                let base_offset = Offset::new(from.u64()?);
                let timestamp = TimestampMs(if timed { from.i64()? } else { -1 });
                recent.push_back(Remembered { first, last, base_offset, timestamp });
            }
            entries.insert(id, ProducerEntry { epoch, recent, seen });
        }
        Ok(Self { entries, expired_at })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use tidewater_storage::model::Compression;
    use tidewater_storage::model::record::{BatchBuilder, Record};

    use super::*;

    const DAY: i64 = 86_400_000;

    fn batch(epoch: i16, sequence: i32, count: usize) -> BatchHeader {
        let mut builder = BatchBuilder::new(Compression::None).producer(ProducerId(9), ProducerEpoch(epoch), sequence);
        for _ in 0..count {
            builder.push(Record::new(TimestampMs(1), None, Some(Bytes::from_static(b"v"))));
        }
        BatchHeader::parse(&builder.build()).expect("parses")
    }

    fn table(batches: &[(BatchHeader, u64)]) -> ProducerTable {
        let mut table = ProducerTable::default();
        for (header, base) in batches {
            table.note(header, Offset::new(*base), TimestampMs(1000), DAY);
        }
        table
    }

    fn duplicate(first: i32, last: i32, base: u64) -> Result<Verdict, ProduceError> {
        let base_offset = Offset::new(base);
        Ok(Verdict::Duplicate(Remembered { first, last, base_offset, timestamp: TimestampMs(1) }))
    }

    fn verdict(table: &ProducerTable, header: &BatchHeader) -> Result<Verdict, ProduceError> {
        check(table.get(ProducerId(9)), header)
    }

    #[test]
    fn next_duplicate_gap() {
        let table = table(&[(batch(0, 0, 3), 10), (batch(0, 3, 2), 13)]);
        assert_eq!(verdict(&table, &batch(0, 5, 1)), Ok(Verdict::Append));
        assert_eq!(verdict(&table, &batch(0, 0, 3)), duplicate(0, 2, 10));
        assert_eq!(verdict(&table, &batch(0, 3, 2)), duplicate(3, 4, 13));
        assert!(matches!(verdict(&table, &batch(0, 7, 1)), Err(ProduceError::OutOfOrder { expected: 5, .. })));
    }

    #[test]
    fn a_new_epoch_begins_at_zero_and_fences_the_old() {
        let table = table(&[(batch(0, 0, 3), 0), (batch(1, 0, 1), 3)]);
        assert!(matches!(verdict(&table, &batch(0, 3, 1)), Err(ProduceError::Fenced { current: 1, .. })));
        assert!(matches!(verdict(&table, &batch(2, 4, 1)), Err(ProduceError::OutOfOrder { expected: 0, .. })));
        assert_eq!(verdict(&table, &batch(2, 0, 1)), Ok(Verdict::Append));
    }

    #[test]
    fn beyond_five_batches_the_offset_is_forgotten() {
        let batches: Vec<_> = (0..7).map(|n| (batch(0, n, 1), n as u64)).collect();
        let table = table(&batches);
        assert!(matches!(verdict(&table, &batch(0, 0, 1)), Err(ProduceError::OutOfOrder { expected: 7, .. })));
        assert_eq!(verdict(&table, &batch(0, 2, 1)), duplicate(2, 2, 2));
    }

    #[test]
    fn an_unknown_producer_may_begin_anywhere() {
        assert_eq!(verdict(&ProducerTable::default(), &batch(3, 77, 1)), Ok(Verdict::Append));
    }

    #[test]
    fn sequences_wrap() {
        let table = table(&[(batch(0, i32::MAX, 1), 0)]);
        assert_eq!(verdict(&table, &batch(0, 0, 1)), Ok(Verdict::Append));
    }

    #[test]
    fn silent_producers_expire_in_log_time() {
        let mut table = table(&[(batch(0, 0, 1), 0)]);
        let mut other = batch(0, 0, 1);
        other.producer_id = Some(ProducerId(10));
        table.note(&other, Offset::new(1), TimestampMs(2 * DAY), DAY);
        assert_eq!((table.get(ProducerId(9)), table.len()), (None, 1));
    }

    #[test]
    fn beyond_the_cap_those_silent_longest_are_forgotten() {
        let mut table = ProducerTable::default();
        let count = PRODUCERS_PER_PARTITION_MAX as i64 + 1;
        for n in 0..count {
            let mut header = batch(0, 0, 1);
            header.producer_id = Some(ProducerId(n));
            table.note(&header, Offset::new(n as u64), TimestampMs(n), DAY);
        }
        assert_eq!(table.len(), PRODUCERS_PER_PARTITION_MAX + 1 - PRODUCERS_PER_PARTITION_MAX / 10);
        assert!(table.get(ProducerId(0)).is_none() && table.get(ProducerId(count - 1)).is_some());
    }

    #[test]
    fn a_batch_may_cross_the_greatest_sequence() {
        let table = table(&[(batch(0, i32::MAX - 1, 4), 0)]);
        assert_eq!(verdict(&table, &batch(0, 2, 1)), Ok(Verdict::Append));
        assert_eq!(verdict(&table, &batch(0, i32::MAX - 1, 4)), duplicate(i32::MAX - 1, 1, 0));
        assert!(matches!(verdict(&table, &batch(0, 3, 1)), Err(ProduceError::OutOfOrder { expected: 2, .. })));
    }

    #[test]
    fn the_table_round_trips() {
        let table = table(&[(batch(0, 0, 3), 10), (batch(0, 3, 2), 13)]);
        let mut out = Encoder::new();
        table.encode(&mut out);
        let bytes = out.finish();
        assert_eq!(ProducerTable::decode(&mut Decoder::new("table", &bytes)), Ok(table));
        for cut in 0..bytes.len() {
            assert!(ProducerTable::decode(&mut Decoder::new("table", &bytes[..cut])).is_err());
        }
    }

    #[test]
    fn a_producer_is_shown_with_the_time_of_its_last_batch() {
        let table = table(&[(batch(0, 0, 3), 10)]);
        let active = table.get(ProducerId(9)).expect("is known").active(ProducerId(9));
        assert_eq!((active.last_sequence, active.last_timestamp), (2, TimestampMs(1)));
    }

    /// One connection's round: the whole window is sent in order, some of it arrives, one batch may be refused for a
    /// while, and a prefix of the answers comes back.
    #[derive(Clone, Copy, Debug)]
    struct Round {
        fresh: usize,
        count: usize,
        arrive: usize,
        refuse: Option<usize>,
        answered: usize,
    }

    fn round() -> impl Strategy<Value = Round> {
        (0usize..=5, 1usize..4, 0usize..=5, proptest::option::weighted(0.3, 0usize..5), 0usize..=5)
            .prop_map(|(fresh, count, arrive, refuse, answered)| Round { fresh, count, arrive, refuse, answered })
    }

    proptest! {
        /// With losses, refusals and repeats, five batches in flight and sequences that wrap: every batch is stored
        /// once, in order, and a repetition is answered with the offset of the first.
        #[test]
        fn a_producer_that_retries_is_stored_once_and_in_order(
            from in prop_oneof![Just(0), Just(i32::MAX - 20)],
            rounds in proptest::collection::vec(round(), 1..60),
        ) {
            let mut table = ProducerTable::default();
            let (mut next, mut end) = (from, 0u64);
            let mut window: VecDeque<BatchHeader> = VecDeque::new();
            let mut stored: Vec<(i32, i32, u64)> = Vec::new();
            let last = Round { fresh: 0, count: 1, arrive: 5, refuse: None, answered: 5 };
            for Round { fresh, count, arrive, refuse, answered } in rounds.into_iter().chain([last]) {
                for _ in 0..fresh.min(BATCHES_REMEMBERED - window.len()) {
                    let header = batch(0, next, count);
                    next = if header.last_sequence() == i32::MAX { 0 } else { header.last_sequence() + 1 };
                    window.push_back(header);
                }
                let mut fine = Vec::new();
                for (n, header) in window.iter().take(arrive).enumerate() {
                    let said = verdict(&table, header);
                    // A partition that does not know the producer takes any beginning.
                    if refuse == Some(n) && said == Ok(Verdict::Append) && !table.is_empty() {
                        fine.push(false);
                        continue;
                    }
                    let key = (header.base_sequence, header.last_sequence());
                    fine.push(said.is_ok());
                    match said {
                        Ok(Verdict::Append) => {
                            table.note(header, Offset::new(end), TimestampMs(1), DAY);
                            stored.push((key.0, key.1, end));
                            end += u64::from(header.record_count);
                        }
                        Ok(Verdict::Duplicate(known)) => {
                            prop_assert!(stored.contains(&(key.0, key.1, known.base_offset.get())));
                        }
                        Err(ProduceError::OutOfOrder { .. }) => prop_assert!(fine.iter().rev().skip(1).any(|fine| !fine)),
                        Err(error) => prop_assert!(false, "{error}"),
                    }
                }
                let acked = fine.iter().take(answered).take_while(|fine| **fine).count();
                drop(window.drain(..acked));
            }
            prop_assert!(window.is_empty());
            let mut expected = from;
            for (first, last, _) in stored {
                prop_assert_eq!(first, expected);
                expected = if last == i32::MAX { 0 } else { last + 1 };
            }
            prop_assert_eq!(expected, next);
        }
    }
}
