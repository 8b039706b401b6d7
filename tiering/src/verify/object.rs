//! Data objects: each is read once, every run that a row needs is checked.
//!
//! [`plan`] is pure: an index and what the object must hold give the byte ranges to read and what the index lacks. A
//! verdict falls only after several reads: a single answer may be spoiled, cut or misdirected on its way.

use std::ops::Range;

use bytes::{Buf as _, Bytes};
use futures::StreamExt as _;
use futures::stream;
use tidewater_storage::model::{BatchHeader, OffsetRange, PartitionId, RunSum};

use super::Run;
use super::damage::{Damage, DamageKind};
use super::doubt::Doubt;
use super::named::{At, Named, Wanted};
use crate::fetch::indexes::{FoundIndex, IndexError, check_name};
use crate::format::{Body, DataIndex, ExtentObject, FormatError, IndexRef, TRAILER_LEN, Trailer, decode_index};
use crate::keys::{ObjectKey, ObjectName};
use crate::store::StoreError;

/// Objects that are read at once.
const OBJECTS_AT_ONCE: usize = 16;
/// Bytes of one read; a larger run is read alone.
const READ_BYTES: u64 = 8 << 20;
/// Bytes that no row needs between two runs are read with them up to here.
const GAP_BYTES: u64 = 256 << 10;
/// Bytes read for an index whose place is not known.
const TAIL_BYTES: u64 = 64 << 10;
/// Fewer bytes are checked where they arrive: handing them to another thread would cost as much.
const CHECKED_IN_PLACE: usize = 256 << 10;
/// Reads before bytes count as damaged.
const READS: u32 = 3;

/// Is an answer final, after so many reads?
pub(super) fn is_settled<T>(answer: &Result<T, IndexError>, reads: u32) -> bool {
    reads >= READS || !matches!(answer, Err(IndexError::Format(_)))
}

/// One range of an object to read, and the runs in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) object: ObjectName,
    pub(super) bytes: Range<u64>,
    pub(super) runs: Vec<SpanRun>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SpanRun {
    pub(super) partition: PartitionId,
    /// First byte in the object.
    pub(super) start: u64,
    pub(super) sum: RunSum,
}

impl SpanRun {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.sum.len.into())
    }
}

/// What to read of an object, and the ranges that its index does not have.
pub(super) fn plan(
    object: ObjectName,
    index: &DataIndex,
    ranges: &[(PartitionId, OffsetRange)],
) -> (Vec<Span>, Vec<(PartitionId, OffsetRange)>) {
    let (mut runs, mut lacking) = (Vec::new(), Vec::new());
    for (partition, wanted) in ranges {
        let Some(entry) = index.partition(*partition) else {
            lacking.push((*partition, *wanted));
            continue;
        };
        if entry.offsets.intersect(wanted) != *wanted {
            let before = OffsetRange::new(wanted.start, wanted.end.min(entry.offsets.start));
            let after = OffsetRange::new(wanted.start.max(entry.offsets.end), wanted.end);
            lacking
                .extend([before, after].into_iter().filter(|lacks| !lacks.is_empty()).map(|lacks| (*partition, lacks)));
        }
        for extent in &entry.extents {
            let object = match extent.object {
                ExtentObject::Here => object,
                ExtentObject::Part(part) => part,
            };
            let found = extent.runs_in(*wanted);
            runs.extend(
                found.map(|(bytes, run)| (object, SpanRun { partition: *partition, start: bytes.start, sum: run.sum })),
            );
        }
    }
    runs.sort_by_key(|(object, run)| (*object, run.start));
    // Two rows may need one run.
    runs.dedup();
    let mut spans: Vec<Span> = Vec::new();
    for (object, run) in runs {
        let end = run.end();
        match spans.last_mut() {
            Some(span)
                if span.object == object
                    && run.start <= span.bytes.end.saturating_add(GAP_BYTES)
                    && end.saturating_sub(span.bytes.start) <= READ_BYTES =>
            {
                span.bytes.end = span.bytes.end.max(end);
                span.runs.push(run);
            }
            _ => spans.push(Span { object, bytes: run.start..end, runs: vec![run] }),
        }
    }
    (spans, lacking)
}

/// Why a run is not what its index says; `None` if it is.
fn fault_of(run: &SpanRun, bytes: &Bytes) -> Option<String> {
    if !run.sum.matches(run.partition, bytes) {
        return Some("bytes do not match their checksum".to_owned());
    }
    // The sum says that these bytes were written; whether they are the batches of these offsets, their headers say.
    let (mut rest, mut next) = (bytes.clone(), run.sum.offsets.start);
    while !rest.is_empty() {
        let header = match BatchHeader::parse_prefix(&rest) {
            Ok(header) => header,
            Err(error) => return Some(format!("what is at offset {next} is no batch: {error}")),
        };
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        if header.base_offset != next || len > rest.len() {
            return Some(format!(
                "the batch at offset {next} says it begins at {} with {len} bytes",
                header.base_offset
            ));
        }
        next = header.next_offset();
        rest.advance(len);
    }
    (next != run.sum.offsets.end)
        .then(|| format!("its batches end at offset {next}, its index says {}", run.sum.offsets.end))
}

/// What became of an object, or of a range of it.
#[derive(Default)]
struct Outcome {
    damage: Vec<Damage>,
    missing: Vec<(ObjectName, Vec<(PartitionId, OffsetRange)>)>,
    unread: Vec<(ObjectName, String)>,
    /// Bytes that were checked.
    bytes: u64,
}

impl Outcome {
    fn failed(&mut self, object: ObjectName, ranges: &[(PartitionId, OffsetRange)], error: &IndexError) {
        let damaged = |kind| Damage::new(kind, &object, error.to_string()).of(ranges.iter().copied());
        match error {
            IndexError::Store(StoreError::NotFound { .. }) => self.missing.push((object, ranges.to_vec())),
            IndexError::Store(StoreError::Range { .. }) => self.damage.push(damaged(DamageKind::Size)),
            IndexError::Store(error) => self.unread.push((object, error.to_string())),
            IndexError::Format(FormatError::Checksum { .. }) => self.damage.push(damaged(DamageKind::Checksum)),
            IndexError::Format(FormatError::Other { .. }) => self.damage.push(damaged(DamageKind::Foreign)),
            IndexError::Format(_) => self.damage.push(damaged(DamageKind::Unreadable)),
        }
    }

    fn add(&mut self, checked: Checked) {
        self.bytes += checked.bytes;
        self.damage.extend(checked.damage);
    }

    fn is_good(&self) -> bool {
        self.damage.is_empty() && self.missing.is_empty() && self.unread.is_empty()
    }
}

impl Run<'_> {
    /// Reads every object; those that are not there.
    pub(super) async fn read_objects(&self, named: Named) -> Vec<Doubt> {
        let reads = stream::iter(named.into_objects()).map(async |(object, wanted)| {
            let outcome = self.read_object(object, &wanted).await;
            self.advance(|progress| progress.objects += 1);
            (object, wanted, outcome)
        });
        let mut reads = std::pin::pin!(reads.buffer_unordered(OBJECTS_AT_ONCE));
        let mut missing = Vec::new();
        while let Some((named, wanted, outcome)) = reads.next().await {
            outcome.damage.into_iter().for_each(|damage| self.find(damage));
            outcome.unread.iter().for_each(|(object, error)| self.unread(object, error));
            for (object, ranges) in outcome.missing {
                missing.push(Doubt::missing(object, named, Wanted { ranges, ..wanted }));
            }
        }
        missing
    }

    /// As often as it takes to be sure of damage.
    async fn read_object(&self, object: ObjectName, wanted: &Wanted) -> Outcome {
        let mut reads = 0;
        loop {
            reads += 1;
            let outcome = self.read_object_once(object, wanted).await;
            if outcome.damage.is_empty() || reads >= READS {
                return outcome;
            }
        }
    }

    async fn read_object_once(&self, object: ObjectName, wanted: &Wanted) -> Outcome {
        let mut out = Outcome::default();
        let (found, whole) = match self.index_and_bytes(object, wanted.at).await {
            Ok(found) => found,
            Err(error) => {
                out.failed(object, &wanted.ranges, &error);
                return out;
            }
        };
        let (spans, lacking) = plan(object, &found.index, &wanted.ranges);
        if !lacking.is_empty() {
            let reason = "its index does not have offsets that a row says are in it";
            out.damage.push(Damage::new(DamageKind::Contradiction, &object, reason).of(lacking));
        }
        for span in spans {
            let bytes = match (&whole, span.object == object) {
                (Some(whole), true) => Ok((slice(whole, &span.bytes, 0), None)),
                _ => self.read_span(&span).await.map(|(bytes, permit)| (bytes, Some(permit))),
            };
            match bytes {
                Ok((bytes, _permit)) => {
                    let of = span.object;
                    match self.check(span, bytes).await {
                        Ok(checked) => out.add(checked),
                        Err(error) => out.unread.push((of, error.to_string())),
                    }
                }
                Err(error) => {
                    let ranges: Vec<_> = span.runs.iter().map(|run| (run.partition, run.sum.offsets)).collect();
                    out.failed(span.object, &ranges, &IndexError::Store(error));
                }
            }
        }
        if out.is_good() {
            let bytes = out.bytes;
            self.advance(|progress| progress.bytes += bytes);
        }
        out
    }

    /// The object's index, and its bytes if it is small. Holds its permits only while bodies are on their way: the
    /// bytes of at most [`OBJECTS_AT_ONCE`] small objects are kept beyond that.
    async fn index_and_bytes(&self, object: ObjectName, at: At) -> Result<(FoundIndex, Option<Bytes>), IndexError> {
        let key = object.key();
        let known = match at {
            At::Index(index) => Some(index),
            At::Bundle | At::Part | At::Page => None,
        };
        let size = known.map(|index| index.end().saturating_add(TRAILER_LEN as u64));
        let (head, size) = match size {
            Some(size) if size > READ_BYTES => (None, size),
            _ => {
                let (bytes, found) = self.read(&key, 0..size.unwrap_or(READ_BYTES)).await?;
                (Some(bytes), found)
            }
        };
        let whole = head.filter(|head| head.len() as u64 == size);
        let from = match (known, &whole) {
            (_, Some(_)) => 0,
            (Some(index), None) => index.offset,
            (None, None) => size.saturating_sub(TAIL_BYTES),
        };
        let tail = match &whole {
            Some(whole) => whole.clone(),
            None => self.read(&key, from..size).await?.0,
        };
        let trailer = Trailer::parse(&tail, size)?;
        trailer.expect(Body::Index)?;
        if known.is_some_and(|known| known != trailer.index) {
            let reason = FormatError::Trailer { size, found: "its index is not the one that the row names" };
            return Err(reason.into());
        }
        let body = self.body(&key, trailer.index, &tail, from).await?;
        trailer.index.verify(&body)?;
        let index = decode_index(&body)?;
        check_name(object, &index)?;
        Ok((FoundIndex { index, at: trailer.index, size }, whole))
    }

    /// The index's bytes: in `tail`, which begins at `from`, or read by themselves.
    async fn body(&self, key: &ObjectKey, at: IndexRef, tail: &Bytes, from: u64) -> Result<Bytes, IndexError> {
        if at.offset >= from {
            return Ok(slice(tail, &(at.offset..at.end()), from));
        }
        Ok(self.read(key, at.offset..at.end()).await?.0)
    }

    /// A range of an object, and the object's size. Waits for room.
    async fn read(&self, key: &ObjectKey, bytes: Range<u64>) -> Result<(Bytes, u64), StoreError> {
        let _permit = self.room_for(&bytes).await;
        let got = self.store.get_into(key, bytes, &self.buffers).await?;
        Ok((got.body, got.size))
    }

    async fn read_span(&self, span: &Span) -> Result<(Bytes, Option<tokio::sync::SemaphorePermit<'_>>), StoreError> {
        let permit = self.room_for(&span.bytes).await;
        let got = self.store.get_into(&span.object.key(), span.bytes.clone(), &self.buffers).await?;
        Ok((got.body, permit))
    }

    /// Permits for so many bytes; for more than there are, all.
    async fn room_for(&self, bytes: &Range<u64>) -> Option<tokio::sync::SemaphorePermit<'_>> {
        let len = bytes.end.saturating_sub(bytes.start).clamp(1, super::BYTES_IN_FLIGHT as u64);
        // The semaphore is never closed.
        self.room.acquire_many(u32::try_from(len).unwrap_or(u32::MAX)).await.ok()
    }

    /// Checks what was read, on a thread of the runtime beside the reads of other objects.
    async fn check(&self, span: Span, bytes: Bytes) -> Result<Checked, StoreError> {
        match &self.threads {
            Some(threads) if bytes.len() >= CHECKED_IN_PLACE => {
                match threads.spawn_blocking(move || check_span(&span, &bytes)).await {
                    Ok(checked) => Ok(checked),
                    Err(ended) => match ended.try_into_panic() {
                        Ok(panic) => std::panic::resume_unwind(panic),
                        Err(_) => Err(StoreError::Closed),
                    },
                }
            }
            _ => Ok(check_span(&span, &bytes)),
        }
    }
}

/// What a check of a span found.
struct Checked {
    /// Bytes that were checked.
    bytes: u64,
    damage: Option<Damage>,
}

fn check_span(span: &Span, bytes: &Bytes) -> Checked {
    let mut bad: Vec<(&SpanRun, String)> = Vec::new();
    let mut checked = 0;
    for run in &span.runs {
        let part = slice(bytes, &(run.start..run.end()), span.bytes.start);
        if let Some(fault) = fault_of(run, &part) {
            bad.push((run, fault));
        }
        checked += u64::from(run.sum.len);
    }
    let damage = bad.first().map(|(first, reason)| {
        let reason = format!("bytes {}..{}: {reason}", first.start, first.end());
        let ranges = bad.iter().map(|(run, _)| (run.partition, run.sum.offsets));
        Damage::new(DamageKind::Checksum, &span.object, reason).of(ranges)
    });
    Checked { bytes: checked, damage }
}

/// `wanted` of an object whose bytes from `from` on are `bytes`; what they do not have is left out.
fn slice(bytes: &Bytes, wanted: &Range<u64>, from: u64) -> Bytes {
    let at = |byte: u64| usize::try_from(byte.saturating_sub(from)).unwrap_or(usize::MAX).min(bytes.len());
    let (start, end) = (at(wanted.start), at(wanted.end));
    bytes.slice(start..end.max(start))
}
