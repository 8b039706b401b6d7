//! What was asked of the broker and what it answered: the only thing that properties are checked against.
//!
//! A batch is known by its bytes from the attributes on: all that producers write and brokers may not change.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use tidewater_storage::model::{Batch, Offset, OffsetRange, ProducerId};

/// First byte of a batch that its broker does not patch: after offset, length, epoch, magic and CRC.
pub(crate) const BODY: usize = 21;

/// What a producer sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) writer: u32,
    /// Counts the writer's batches to this partition.
    pub(crate) n: u64,
    pub(crate) producer: Option<ProducerId>,
    pub(crate) records: u64,
    /// The answer that said where it is.
    pub(crate) acked: Option<Offset>,
}

/// A batch as a client read it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) offsets: OffsetRange,
    pub(crate) bytes: Bytes,
}

#[derive(Debug, Default)]
pub(crate) struct Past {
    pub(crate) sent: BTreeMap<Bytes, Sent>,
    /// By base offset; the same for every reader, for ever.
    pub(crate) seen: BTreeMap<Offset, Seen>,
    /// Ends of acknowledged batches: no later answer may show less.
    pub(crate) acked_end: Offset,
    /// The furthest log start that was asked for, and that was answered.
    pub(crate) trim_asked: Offset,
    pub(crate) trim_done: Offset,
    /// The greatest that was ever shown.
    pub(crate) high_watermark: Offset,
    pub(crate) log_start: Offset,
    pub(crate) archived_end: Offset,
}

/// The run's past, shared by everything that watches. Partitions by number.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    partitions: Rc<RefCell<BTreeMap<i32, Past>>>,
    trace: Rc<RefCell<Vec<String>>>,
    aloud: Rc<Cell<bool>>,
    rotten: Rc<Cell<bool>>,
    refused: Rc<Cell<u64>>,
}

/// The part of a batch by which it is known.
pub(crate) fn body(batch: &Bytes) -> Bytes {
    batch.slice(BODY.min(batch.len())..)
}

impl History {
    pub(crate) fn with<T>(&self, partition: i32, act: impl FnOnce(&mut Past) -> T) -> T {
        act(self.partitions.borrow_mut().entry(partition).or_default())
    }

    /// Notes something that must come out the same when the seed is run again.
    pub(crate) fn note(&self, what: String) {
        if self.aloud.get() {
            eprintln!("{what}");
        }
        self.keep(what);
    }

    /// As [`History::note`], but never printed.
    pub(crate) fn keep(&self, what: String) {
        self.trace.borrow_mut().push(what);
    }

    /// Shall notes be printed as they come?
    pub(crate) fn print(&self, aloud: bool) {
        self.aloud.set(aloud);
    }

    /// Stored bytes were damaged on purpose: what is damaged may be refused, never answered.
    pub(crate) fn rot(&self) {
        self.rotten.set(true);
    }

    pub(crate) fn is_rotten(&self) -> bool {
        self.rotten.get()
    }

    /// Damaged bytes were refused.
    pub(crate) fn refused(&self) {
        self.refused.set(self.refused.get() + 1);
    }

    pub(crate) fn refusals(&self) -> u64 {
        self.refused.get()
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.trace.borrow().clone()
    }

    pub(crate) fn sending(&self, partition: i32, batch: &Bytes, sent: Sent) {
        self.with(partition, |past| {
            past.sent.insert(body(batch), sent);
        });
    }

    /// A batch was acknowledged, at `base` if that was said.
    pub(crate) fn acknowledged(&self, partition: i32, batch: &Bytes, base: Option<Offset>) {
        self.with(partition, |past| {
            let sent = past.sent.get_mut(&body(batch)).expect("was sent");
            let Some(base) = base else { return };
            let before = *sent.acked.get_or_insert(base);
            assert_eq!(before, base, "p{partition}: {sent:?} is acknowledged at two offsets");
            past.acked_end = past.acked_end.max(Offset::new(base.get() + sent.records));
        });
    }

    /// A reader got these bytes. Fails if another reader got others.
    pub(crate) fn observed(&self, partition: i32, pieces: &[Bytes]) -> Option<OffsetRange> {
        let mut covered: Option<OffsetRange> = None;
        for piece in pieces {
            let batches = Batch::split_all(piece.clone()).expect("whole batches");
            for batch in batches {
                let offsets = batch.header.offsets();
                batch.header.verify_crc(&batch.bytes).expect("its sum holds");
                let before = covered.map_or(offsets.start, |range| range.end);
                assert_eq!(before, offsets.start, "p{partition}: a read leaves a hole");
                covered = Some(OffsetRange::new(covered.map_or(offsets.start, |range| range.start), offsets.end));
                self.with(partition, |past| past.observe(partition, offsets, batch.bytes));
            }
        }
        covered
    }

    /// The partition was deleted: nothing is asked of it any more.
    pub(crate) fn forget(&self, partition: i32) {
        self.partitions.borrow_mut().remove(&partition);
    }

    pub(crate) fn partitions(&self) -> BTreeSet<i32> {
        self.partitions.borrow().keys().copied().collect()
    }
}

impl Past {
    /// In a line: how much was sent, acknowledged and read, and where everything ended.
    pub(crate) fn summary(&self) -> String {
        let acked = self.sent.values().filter(|sent| sent.acked.is_some()).count();
        let (sent, seen, start, end) = (self.sent.len(), self.seen.len(), self.log_start, self.high_watermark);
        format!(
            "{sent} batches sent, {acked} acknowledged, {seen} read, log {start}..{end}, asked to trim to {}",
            self.trim_asked
        )
    }

    fn observe(&mut self, partition: i32, offsets: OffsetRange, bytes: Bytes) {
        let seen = self.seen.entry(offsets.start).or_insert_with(|| Seen { offsets, bytes: bytes.clone() });
        assert!(
            seen.offsets == offsets && seen.bytes == bytes,
            "p{partition}: {offsets} was {} before and has other bytes now",
            seen.offsets
        );
    }
}
