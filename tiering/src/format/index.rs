//! The index of a data object: bytes ↔ [`DataIndex`].
//!
//! Layout: sections (`FORMAT.md` §3). What decoding accepts is in canonical form: entries sorted, extents and runs
//! contiguous in offsets, each run not empty.

use bytes::Bytes;
use tidewater_storage::codec::{CodecError, Decoder, Encoder, Sections};
use tidewater_storage::model::{LeaderEpoch, Offset, OffsetRange, ProducerId, RunSum, TopicName};

use super::{
    AbortedTransaction, CutMark, DataIndex, DataKind, EpochStart, Extent, ExtentObject, LaneEvent, PartitionEntry,
    PartitionProducers, Run, Seal, put_producers, take_producers,
};
use super::{DecodeNames, EncodeNames, FormatError};
use crate::keys::LineageEpoch;

const WHAT: &str = "index";
const HEADER: u64 = 1;
const PARTITIONS: u64 = 2;
const EVENTS: u64 = 3;
const SEAL: u64 = 4;
const CUT: u64 = 5;
const PRODUCERS: u64 = 6;
const KNOWN: [u64; 6] = [HEADER, PARTITIONS, EVENTS, SEAL, CUT, PRODUCERS];

/// Least bytes of an encoded entry, extent, run, event, epoch, aborted transaction, partition's list of producers.
const ENTRY_MIN: usize = 31;
const EXTENT_MIN: usize = 3;
const RUN_MIN: usize = 7;
const EVENT_MIN: usize = 25;
const EPOCH_MIN: usize = 2;
const ABORTED_MIN: usize = 3;
const PRODUCERS_MIN: usize = 2;

impl DataKind {
    fn code(self) -> u8 {
        match self {
            Self::Bundle => 1,
            Self::Part => 2,
            Self::Segment => 3,
            Self::Gathered => 4,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Bundle, Self::Part, Self::Segment, Self::Gathered].into_iter().find(|kind| kind.code() == code)
    }
}

/// The bytes of an index.
#[must_use]
pub fn encode_index(index: &DataIndex) -> Bytes {
    assert!(index.partitions.is_sorted_by(|a, b| a.partition < b.partition), "partitions of an index ascend");
    let mut out = Encoder::new();
    out.section(HEADER, true, |out| {
        out.u8(index.kind.code());
        out.home(index.home);
        out.lane(index.lane);
        out.sequence(index.sequence);
        out.term(index.term);
        out.index(index.log_index);
        out.u32(index.previous);
        out.time(index.written);
    });
    out.section(PARTITIONS, true, |out| {
        out.count(index.partitions.len());
        index.partitions.iter().for_each(|entry| put_entry(out, entry));
    });
    if !index.events.is_empty() {
        out.section(EVENTS, true, |out| {
            out.count(index.events.len());
            index.events.iter().for_each(|event| put_event(out, event));
        });
    }
    if let Some(seal) = index.seal {
        out.section(SEAL, true, |out| {
            out.u32(seal.next_epoch.0);
            out.sequence(seal.last);
        });
    }
    if let Some(cut) = index.cut {
        out.section(CUT, false, |out| {
            out.var(cut.number);
            out.option(cut.manifest, Encoder::name);
        });
    }
    if let Some(producers) = &index.producers {
        out.section(PRODUCERS, false, |out| put_changes(out, index, producers));
    }
    out.finish()
}

/// Reads an index.
///
/// # Errors
/// The first thing that is wrong.
pub fn decode_index(bytes: &[u8]) -> Result<DataIndex, FormatError> {
    let mut sections = Sections::new(WHAT, bytes);
    let mut index = match sections.next(&KNOWN)? {
        Some((HEADER, mut header)) => take_header(&mut header)?,
        _ => return Err(CodecError::Missing { what: WHAT, tag: HEADER }.into()),
    };
    while let Some((tag, mut body)) = sections.next(&KNOWN)? {
        match tag {
            PARTITIONS => index.partitions = body.list(ENTRY_MIN, take_entry)?,
            EVENTS => index.events = body.list(EVENT_MIN, take_event)?,
            SEAL => index.seal = Some(Seal { next_epoch: LineageEpoch(body.u32()?), last: body.sequence()? }),
            CUT => index.cut = Some(CutMark { number: body.var()?, manifest: body.option(Decoder::name)? }),
            _ => index.producers = Some(take_changes(&mut body, &index)?),
        }
        body.end()?;
    }
    let sorted = index.partitions.windows(2).all(|pair| matches!(pair, [a, b] if a.partition < b.partition));
    if !sorted {
        return Err(CodecError::Field { what: WHAT, field: "order of partitions", at: 0 }.into());
    }
    Ok(index)
}

fn take_header(body: &mut Decoder<'_>) -> Result<DataIndex, CodecError> {
    let code = body.u8()?;
    let kind = DataKind::from_code(code).ok_or_else(|| body.bad("kind"))?;
    let index = DataIndex {
        kind,
        home: body.home()?,
        lane: body.lane()?,
        sequence: body.sequence()?,
        term: body.term()?,
        log_index: body.index()?,
        previous: body.u32()?,
        written: body.time()?,
        partitions: Vec::new(),
        events: Vec::new(),
        producers: None,
        seal: None,
        cut: None,
    };
    body.end()?;
    Ok(index)
}

fn put_entry(out: &mut Encoder, entry: &PartitionEntry) {
    let ends = entry.extents.iter().flat_map(|extent| &extent.runs).try_fold(entry.offsets.start, |at, run| {
        let continues = run.sum.offsets.start == at && !run.sum.offsets.is_empty() && run.sum.len > 0;
        continues.then_some(run.sum.offsets.end)
    });
    assert_eq!(ends, Some(entry.offsets.end), "runs of {} do not cover {:?}", entry.partition, entry.offsets);
    assert!(entry.extents.iter().all(|extent| !extent.runs.is_empty()), "an extent of {} is empty", entry.partition);
    out.partition(entry.partition);
    out.offset(entry.offsets.start);
    out.offset(entry.log_start);
    out.time(entry.min_timestamp);
    out.time(entry.max_timestamp);
    out.count(entry.epochs.len());
    for epoch in &entry.epochs {
        out.signed(epoch.epoch.0.into());
        out.offset(epoch.start);
    }
    out.count(entry.aborted.len());
    for aborted in &entry.aborted {
        out.signed(aborted.producer.0);
        out.offset(aborted.first);
        out.offset(aborted.last);
    }
    out.count(entry.extents.len());
    for extent in &entry.extents {
        match extent.object {
            ExtentObject::Here => out.u8(0),
            ExtentObject::Part(part) => {
                out.u8(1);
                out.name(part);
            }
        }
        out.var(extent.position);
        out.count(extent.runs.len());
        for run in &extent.runs {
            out.var(run.sum.offsets.count());
            out.var(run.sum.len.into());
            out.u32(run.sum.crc);
            out.time(run.max_timestamp);
        }
    }
}

fn take_entry(body: &mut Decoder<'_>) -> Result<PartitionEntry, CodecError> {
    let partition = body.partition()?;
    let start = body.offset()?;
    let (log_start, min_timestamp, max_timestamp) = (body.offset()?, body.time()?, body.time()?);
    let epochs =
        body.list(EPOCH_MIN, |body| Ok(EpochStart { epoch: LeaderEpoch(body.signed32()?), start: body.offset()? }))?;
    let aborted = body.list(ABORTED_MIN, |body| {
        Ok(AbortedTransaction { producer: ProducerId(body.signed()?), first: body.offset()?, last: body.offset()? })
    })?;
    let mut at = start;
    let extents = body.list(EXTENT_MIN, |body| take_extent(body, &mut at))?;
    let offsets = OffsetRange::new(start, at);
    Ok(PartitionEntry { partition, offsets, log_start, min_timestamp, max_timestamp, epochs, aborted, extents })
}

fn take_extent(body: &mut Decoder<'_>, at: &mut Offset) -> Result<Extent, CodecError> {
    let object = if body.flag()? { ExtentObject::Part(body.name()?) } else { ExtentObject::Here };
    let position = body.var()?;
    let mut end = position;
    let runs = body.list(RUN_MIN, |body| {
        let count = body.var()?;
        let len = body.var32()?;
        let next = at.get().checked_add(count).filter(|next| *next <= Offset::MAX.get()).map(Offset::new);
        let (Some(next), true) = (next, count > 0 && len > 0) else { return Err(body.bad("run")) };
        end = end.checked_add(len.into()).ok_or_else(|| body.bad("run"))?;
        let sum = RunSum { offsets: OffsetRange::new(*at, next), len, crc: body.u32()? };
        *at = next;
        Ok(Run { sum, max_timestamp: body.time()? })
    })?;
    if runs.is_empty() {
        return Err(body.bad("extent without runs"));
    }
    Ok(Extent { object, position, runs })
}

/// A partition is written as the distance of its entry from the one named before.
fn put_changes(out: &mut Encoder, index: &DataIndex, producers: &[PartitionProducers]) {
    let mut next = 0;
    out.list(producers.iter(), |out, changes| {
        let at = index.partitions.binary_search_by_key(&changes.partition, |entry| entry.partition);
        let entry = at.ok().filter(|at| *at >= next).and_then(|at| Some((at, index.partitions.get(at)?)));
        let (at, entry) = entry.expect("producers are of partitions of the index, ascending");
        out.count(at - next);
        next = at + 1;
        put_producers(out, &changes.producers, entry.offsets.start, index.written);
    });
}

fn take_changes(body: &mut Decoder<'_>, index: &DataIndex) -> Result<Vec<PartitionProducers>, CodecError> {
    let mut next = 0usize;
    body.list(PRODUCERS_MIN, |body| {
        let step = usize::try_from(body.var()?).ok();
        let at = step.and_then(|step| next.checked_add(step));
        let found = at.and_then(|at| Some((at, index.partitions.get(at)?)));
        let (at, entry) = found.ok_or_else(|| body.bad("partition of producers"))?;
        next = at + 1;
        let producers = take_producers(body, entry.offsets.start, entry.offsets, index.written)?;
        Ok(PartitionProducers { partition: entry.partition, producers })
    })
}

fn put_event(out: &mut Encoder, event: &LaneEvent) {
    match event {
        LaneEvent::Created { partition, topic, configs, start, epoch_base } => {
            out.u8(1);
            out.partition(*partition);
            out.text(topic.as_str());
            out.offset(*start);
            out.signed(epoch_base.0.into());
            out.count(configs.len());
            for (key, value) in configs {
                out.text(key);
                out.text(value);
            }
        }
        LaneEvent::Dropped { partition } => {
            out.u8(2);
            out.partition(*partition);
        }
        LaneEvent::LogStartMoved { partition, to } => {
            out.u8(3);
            out.partition(*partition);
            out.offset(*to);
        }
        LaneEvent::Departed { partition, to, at } => {
            out.u8(4);
            out.partition(*partition);
            out.lane(*to);
            out.offset(*at);
        }
        LaneEvent::Arrived { partition, from, at } => {
            out.u8(5);
            out.partition(*partition);
            out.lane(*from);
            out.offset(*at);
        }
    }
}

fn take_event(body: &mut Decoder<'_>) -> Result<LaneEvent, CodecError> {
    let code = body.u8()?;
    let partition = body.partition()?;
    Ok(match code {
        1 => LaneEvent::Created {
            partition,
            topic: TopicName::new(&body.text()?).map_err(|_| body.bad("topic name"))?,
            start: body.offset()?,
            epoch_base: LeaderEpoch(body.signed32()?),
            configs: body.list(2, |body| Ok((body.text()?, body.text()?)))?,
        },
        2 => LaneEvent::Dropped { partition },
        3 => LaneEvent::LogStartMoved { partition, to: body.offset()? },
        4 => LaneEvent::Departed { partition, to: body.lane()?, at: body.offset()? },
        5 => LaneEvent::Arrived { partition, from: body.lane()?, at: body.offset()? },
        _ => return Err(body.bad("event")),
    })
}

#[cfg(test)]
mod tests;
