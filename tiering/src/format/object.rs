//! Builds a data object in memory: batches in, body with index and trailer out.
//!
//! Owns: cutting batches into runs with their seeded checksums, collecting what an entry says. Does not own: which
//! batches go in (the archiver), uploads. For objects too large for memory, `measure` batches
//! and send their bytes elsewhere.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidewater_storage::model::{Batch, Offset, OffsetRange, PartitionId, ProducerId, RunSum, TimestampMs, run};

use super::trailer::{Body, IndexRef, TRAILER_LEN, Trailer};
use super::{
    AbortedTransaction, DataIndex, DataKind, EpochStart, Extent, ExtentObject, PartitionEntry, PartitionProducers,
    ProducerState, Run, encode_index, follow_producers,
};
use crate::keys::ObjectName;

/// Gathers the data of an object and its index, partition after partition.
#[derive(Debug)]
pub struct ObjectBuilder {
    index: DataIndex,
    pieces: Vec<Bytes>,
    position: u64,
    open: Option<OpenRun>,
    /// Of bundles and parts: what the current partition's batches change in producers, and those of the partitions
    /// before.
    changes: BTreeMap<ProducerId, ProducerState>,
    producers: Vec<PartitionProducers>,
}

#[derive(Debug)]
struct OpenRun {
    start: Offset,
    end: Offset,
    len: u32,
    crc: u32,
    max_timestamp: TimestampMs,
}

/// A finished object.
#[derive(Clone, Debug)]
pub struct BuiltObject {
    /// Its index, decoded.
    pub index: DataIndex,
    /// Where the index lies.
    pub at: IndexRef,
    /// Bytes of the whole object.
    pub size: u64,
    /// Data pieces, index, trailer: back to back they are the object.
    pub pieces: Vec<Bytes>,
    /// Of a part: what its batches change in producers, for the index of its bundle. A bundle has it in its index.
    pub producers: Vec<PartitionProducers>,
}

impl ObjectBuilder {
    /// With everything but partitions already in `index`.
    #[must_use]
    pub fn new(index: DataIndex) -> Self {
        let (pieces, changes, producers) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { index, pieces, position: 0, open: None, changes, producers }
    }

    /// Bytes of data so far.
    #[must_use]
    pub fn data_len(&self) -> u64 {
        self.position
    }

    /// Begins the next partition; ids ascend. Its bytes begin at the object's current end.
    pub fn begin(&mut self, partition: PartitionId, start: Offset, log_start: Offset) {
        self.close_partition();
        self.assert_ascends(partition);
        self.index.partitions.push(PartitionEntry {
            partition,
            offsets: OffsetRange::new(start, start),
            log_start,
            min_timestamp: TimestampMs::NONE,
            max_timestamp: TimestampMs::NONE,
            epochs: Vec::new(),
            aborted: Vec::new(),
            extents: Vec::new(),
        });
    }

    /// Adds the current partition's next batch; it must continue what it has (a first batch may start earlier or
    /// later than [`ObjectBuilder::begin`] said: the entry then starts there).
    pub fn push(&mut self, batch: &Batch) {
        self.measure(batch);
        self.pieces.push(batch.bytes.clone());
    }

    /// As [`ObjectBuilder::push`], but the caller sends the bytes itself (`pieces` then holds only index and trailer).
    pub fn measure(&mut self, batch: &Batch) {
        let header = &batch.header;
        let position = self.position;
        if self.open.as_ref().is_some_and(|run| run.len.saturating_add(header.len) > run::RUN_BYTES_MAX) {
            self.close_run();
        }
        let entry = self.index.partitions.last_mut().expect("a partition is begun before its batches");
        if entry.extents.is_empty() {
            entry.offsets = OffsetRange::new(header.base_offset, header.base_offset);
            entry.extents.push(Extent { object: ExtentObject::Here, position, runs: Vec::new() });
        }
        assert_eq!(entry.offsets.end, header.base_offset, "a batch of {} leaves a gap", entry.partition);
        entry.offsets.end = header.next_offset();
        if entry.epochs.last().is_none_or(|last| last.epoch < header.leader_epoch) {
            entry.epochs.push(EpochStart { epoch: header.leader_epoch, start: header.base_offset });
        }
        let least = entry.min_timestamp == TimestampMs::NONE || header.base_timestamp < entry.min_timestamp;
        entry.min_timestamp = if least { header.base_timestamp } else { entry.min_timestamp };
        entry.max_timestamp = entry.max_timestamp.max(header.max_timestamp);
        let run = self.open.get_or_insert_with(|| OpenRun {
            start: header.base_offset,
            end: header.base_offset,
            len: 0,
            crc: run::seed(entry.partition, header.base_offset),
            max_timestamp: TimestampMs::NONE,
        });
        run.end = header.next_offset();
        run.len += header.len;
        run.crc = run::extend(run.crc, &batch.bytes);
        run.max_timestamp = run.max_timestamp.max(header.max_timestamp);
        self.position += u64::from(header.len);
        self.note_producer(batch);
    }

    /// Segments and gathered objects do not say it: their partition's manifest does.
    fn note_producer(&mut self, batch: &Batch) {
        if !matches!(self.index.kind, DataKind::Bundle | DataKind::Part) {
            return;
        }
        let changes = ProducerState::of(&batch.header, self.index.written);
        follow_producers(&mut self.changes, changes.as_slice());
    }

    fn close_partition(&mut self) {
        self.close_run();
        let producers: Vec<ProducerState> = std::mem::take(&mut self.changes).into_values().collect();
        if let (Some(entry), false) = (self.index.partitions.last(), producers.is_empty()) {
            self.producers.push(PartitionProducers { partition: entry.partition, producers });
        }
    }

    /// Adds what a part says about its partitions: the bytes stay in the part. Partition ids ascend.
    pub fn refer_to_part(&mut self, part: &BuiltObject, object: ObjectName) {
        self.close_partition();
        for entry in &part.index.partitions {
            self.assert_ascends(entry.partition);
            let mut entry = entry.clone();
            entry.extents.iter_mut().for_each(|extent| extent.object = ExtentObject::Part(object));
            self.index.partitions.push(entry);
        }
        self.producers.extend(part.producers.iter().cloned());
    }

    /// Notes an aborted transaction of the current partition.
    pub fn aborted(&mut self, aborted: AbortedTransaction) {
        let entry = self.index.partitions.last_mut().expect("a partition is begun before its transactions");
        entry.aborted.push(aborted);
    }

    fn assert_ascends(&self, partition: PartitionId) {
        let last = self.index.partitions.last().map(|last| last.partition);
        assert!(last < Some(partition), "partition {partition} follows {last:?}: ids ascend");
    }

    fn close_run(&mut self) {
        let Some(open) = self.open.take() else { return };
        let extent = self.index.partitions.last_mut().and_then(|entry| entry.extents.last_mut());
        let extent = extent.expect("an open run belongs to an extent");
        let offsets = OffsetRange::new(open.start, open.end);
        let sum = RunSum { offsets, len: open.len, crc: open.crc };
        extent.runs.push(Run { sum, max_timestamp: open.max_timestamp });
    }

    /// Index and trailer behind the data.
    #[must_use]
    pub fn finish(mut self) -> BuiltObject {
        self.close_partition();
        if self.index.kind == DataKind::Bundle && self.index.seal.is_none() {
            self.index.producers = Some(std::mem::take(&mut self.producers));
        }
        let bytes = encode_index(&self.index);
        let at = IndexRef::of(self.position, &bytes);
        let size = self.position + bytes.len() as u64 + TRAILER_LEN as u64;
        self.pieces.push(bytes);
        self.pieces.push(Bytes::copy_from_slice(&Trailer { index: at, body: Body::Index }.encode()));
        BuiltObject { index: self.index, at, size, pieces: self.pieces, producers: self.producers }
    }
}

impl BuiltObject {
    /// The object as one piece (copies).
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.pieces.concat().into()
    }
}
