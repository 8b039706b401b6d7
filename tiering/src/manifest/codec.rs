//! Manifest state ↔ bytes: checkpoint blobs, page records, and the pieces that spills and commands share.
//!
//! Rows are written as differences: a bundle row after one of the same lane takes about eight bytes, so that a
//! partition that trickles costs a checkpoint little. Layout: `FORMAT.md` §5.

use bytes::Bytes;
use tidewater_storage::codec::{CodecError, Decoder, Encoder, Sections};
use tidewater_storage::model::{LogIndex, Offset, OffsetRange, TimestampMs};

use super::lane::{LaneManifest, Live, Pending, Publication};
use super::objects::{put_object_page_refs, take_object_page_refs};
use super::page::PageRef;
use super::partition::{PartitionManifest, Quarantined};
use super::row::{Row, Source};
use super::spill::SpillRow;
use crate::format::{DecodeNames, EncodeNames, IndexRef};
use crate::keys::{ObjectKind, ObjectName, Sequence};

const PARTITION: &str = "partition manifest";
const LANE: &str = "lane state";
const HEADER: u64 = 1;
const SPILLED: u64 = 2;
const ROWS: u64 = 3;
const QUARANTINED: u64 = 4;
const PENDING: u64 = 5;
const LIVE: u64 = 2;
const LANE_PENDING: u64 = 3;
const PAGES: u64 = 4;
const PUBLICATIONS: u64 = 5;
const OBJECT_PAGES: u64 = 6;

/// How a row's object is encoded: the bundle after an earlier row's, any bundle, any object.
const ROW_NEXT_BUNDLE: u8 = 0;
const ROW_BUNDLE: u8 = 1;
const ROW_OBJECT: u8 = 2;
const ROW_SAME_OBJECT: u8 = 3;

const ROW_MIN: usize = 5;
const SPILL_ROW_MIN: usize = 40;
pub(super) const NAME_MIN: usize = 21;

impl PartitionManifest {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        self.put_with(&mut out, &self.pending);
        out.finish()
    }

    /// Reads a blob.
    ///
    /// # Errors
    /// What is wrong with it; rows that leave a gap or overlap are.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        Self::take(bytes, &[], |_, _, _| Ok(()))
    }

    /// As [`PartitionManifest::decode`]; sections of the tags in `further`, which come after its own, are given to
    /// `read`.
    pub(super) fn take(
        bytes: &[u8],
        further: &[u64],
        read: impl FnMut(&Self, u64, &mut Decoder<'_>) -> Result<(), CodecError>,
    ) -> Result<Self, CodecError> {
        let manifest = Self::take_unchecked(bytes, further, read)?;
        match super::invariants::check_partition(&manifest) {
            Ok(()) => Ok(manifest),
            Err(_) => Err(Decoder::new(PARTITION, bytes).bad("coverage")),
        }
    }

    /// As [`PartitionManifest::take`]; whether rows leave a gap is for the caller to check.
    pub(super) fn take_unchecked(
        bytes: &[u8],
        further: &[u64],
        mut read: impl FnMut(&Self, u64, &mut Decoder<'_>) -> Result<(), CodecError>,
    ) -> Result<Self, CodecError> {
        let mut sections = Sections::new(PARTITION, bytes);
        let known = [&[HEADER, SPILLED, ROWS, QUARANTINED, PENDING], further].concat();
        let Some((HEADER, mut header)) = sections.next(&known)? else {
            return Err(CodecError::Missing { what: PARTITION, tag: HEADER });
        };
        let mut manifest = take_partition_header(&mut header)?;
        while let Some((tag, mut body)) = sections.next(&known)? {
            match tag {
                SPILLED => manifest.spilled = take_spill_rows(&mut body)?,
                ROWS => manifest.rows = take_rows(&mut body)?,
                QUARANTINED => {
                    manifest.quarantined =
                        body.list(3, |body| Ok(Quarantined { offsets: body.offsets()?, reason: body.text()? }))?;
                }
                PENDING => manifest.pending = body.list(NAME_MIN + 1, |body| Ok((body.name()?, body.index()?)))?,
                further => read(&manifest, further, &mut body)?,
            }
            body.end()?;
        }
        Ok(manifest)
    }

    /// Writes all but the pending objects, and `pending` for those.
    pub(super) fn put_with(&self, out: &mut Encoder, pending: &[(ObjectName, LogIndex)]) {
        out.section(HEADER, true, |out| {
            out.partition(self.id);
            out.option(self.changed, |out, index| out.var(index.0));
            out.offset(self.log_start);
            out.offset(self.archived_end);
            out.u8(u8::from(self.dropped));
        });
        if !self.spilled.is_empty() {
            out.section(SPILLED, true, |out| put_spill_rows(out, &self.spilled));
        }
        if !self.rows.is_empty() {
            out.section(ROWS, true, |out| put_rows(out, &self.rows));
        }
        if !self.quarantined.is_empty() {
            out.section(QUARANTINED, false, |out| {
                out.count(self.quarantined.len());
                for range in &self.quarantined {
                    out.offsets(range.offsets);
                    out.text(&range.reason);
                }
            });
        }
        if !pending.is_empty() {
            out.section(PENDING, false, |out| {
                out.count(pending.len());
                for (object, intended) in pending {
                    out.name(*object);
                    out.var(intended.0);
                }
            });
        }
    }
}

fn take_partition_header(header: &mut Decoder<'_>) -> Result<PartitionManifest, CodecError> {
    let manifest = PartitionManifest {
        id: header.partition()?,
        changed: header.option(Decoder::index)?,
        log_start: header.offset()?,
        archived_end: header.offset()?,
        dropped: header.flag()?,
        spilled: Vec::new(),
        rows: Vec::new(),
        quarantined: Vec::new(),
        pending: Vec::new(),
    };
    header.end()?;
    Ok(manifest)
}

/// The row before, which the next one is encoded against.
#[derive(Default)]
struct Before {
    end: Offset,
    max_timestamp: TimestampMs,
    bundle: Option<ObjectName>,
    object: Option<(ObjectName, IndexRef)>,
}

pub(super) fn put_rows(out: &mut Encoder, rows: &[Row]) {
    out.count(rows.len());
    let mut before = Before::default();
    for row in rows {
        // Rows follow each other, so the distance is 0 for all but the first; kept general, checked when read.
        out.signed(row.offsets.start.to_wire().wrapping_sub(before.end.to_wire()));
        out.var(row.offsets.count());
        out.var(row.bytes);
        out.signed(row.max_timestamp.0.wrapping_sub(before.max_timestamp.0));
        match row.source {
            Source::Bundle(bundle) => put_bundle(out, bundle, &mut before),
            Source::Object { object, start, len, index } => {
                if before.object == Some((object, index)) {
                    out.u8(ROW_SAME_OBJECT);
                } else {
                    out.u8(ROW_OBJECT);
                    out.name(object);
                    put_index_ref(out, index);
                    before.object = Some((object, index));
                }
                out.var(start);
                out.var(len);
            }
        }
        (before.end, before.max_timestamp) = (row.offsets.end, row.max_timestamp);
    }
}

fn put_bundle(out: &mut Encoder, bundle: ObjectName, before: &mut Before) {
    let step = before.bundle.and_then(|last| match (last.kind, bundle.kind) {
        (ObjectKind::Bundle { lane: a, sequence: from }, ObjectKind::Bundle { lane: b, sequence: to })
            if a == b && last.home == bundle.home =>
        {
            to.0.checked_sub(from.0)
        }
        _ => None,
    });
    match step {
        Some(step) => {
            out.u8(ROW_NEXT_BUNDLE);
            out.var(step);
        }
        None => {
            out.u8(ROW_BUNDLE);
            out.name(bundle);
        }
    }
    before.bundle = Some(bundle);
}

pub(super) fn take_rows(body: &mut Decoder<'_>) -> Result<Vec<Row>, CodecError> {
    let mut before = Before::default();
    body.list(ROW_MIN, |body| {
        let start = before.end.to_wire().checked_add(body.signed()?).and_then(Offset::from_wire);
        let start = start.ok_or_else(|| body.bad("row start"))?;
        let end = start.get().checked_add(body.var()?).filter(|end| *end <= Offset::MAX.get());
        let end = Offset::new(end.ok_or_else(|| body.bad("row end"))?);
        let bytes = body.var()?;
        let max_timestamp = TimestampMs(before.max_timestamp.0.wrapping_add(body.signed()?));
        let source = take_source(body, &mut before)?;
        (before.end, before.max_timestamp) = (end, max_timestamp);
        Ok(Row { offsets: OffsetRange::new(start, end), bytes, max_timestamp, source })
    })
}

fn take_source(body: &mut Decoder<'_>, before: &mut Before) -> Result<Source, CodecError> {
    let tag = body.u8()?;
    let bundle = match (tag, before.bundle) {
        (ROW_NEXT_BUNDLE, Some(ObjectName { home, kind: ObjectKind::Bundle { lane, sequence } })) => {
            let next = sequence.0.checked_add(body.var()?).ok_or_else(|| body.bad("bundle of a row"))?;
            Some(home.bundle(lane, Sequence(next)))
        }
        (ROW_BUNDLE, _) => Some(body.name()?),
        _ => None,
    };
    if let Some(bundle) = bundle {
        if !matches!(bundle.kind, ObjectKind::Bundle { .. }) {
            return Err(body.bad("bundle of a row"));
        }
        before.bundle = Some(bundle);
        return Ok(Source::Bundle(bundle));
    }
    let (object, index) = match (tag, before.object) {
        (ROW_OBJECT, _) => (body.name()?, take_index_ref(body)?),
        (ROW_SAME_OBJECT, Some(same)) => same,
        _ => return Err(body.bad("kind of row")),
    };
    before.object = Some((object, index));
    Ok(Source::Object { object, start: body.var()?, len: body.var()?, index })
}

pub(super) fn put_index_ref(out: &mut Encoder, index: IndexRef) {
    out.var(index.offset);
    out.var(index.len.into());
    out.u32(index.crc);
}

pub(super) fn take_index_ref(body: &mut Decoder<'_>) -> Result<IndexRef, CodecError> {
    Ok(IndexRef { offset: body.var()?, len: body.var32()?, crc: body.u32()? })
}

pub(super) fn put_spill_row(out: &mut Encoder, row: &SpillRow) {
    out.offsets(row.offsets);
    out.var(row.bytes);
    out.time(row.max_timestamp);
    out.name(row.page);
    out.u32(row.size);
    out.u32(row.crc);
}

pub(super) fn take_spill_row(body: &mut Decoder<'_>) -> Result<SpillRow, CodecError> {
    let row = SpillRow {
        offsets: body.offsets()?,
        bytes: body.var()?,
        max_timestamp: body.time()?,
        page: body.name()?,
        size: body.u32()?,
        crc: body.u32()?,
    };
    match row.page.kind {
        ObjectKind::Spill { .. } => Ok(row),
        _ => Err(body.bad("spill page")),
    }
}

pub(super) fn put_spill_rows(out: &mut Encoder, rows: &[SpillRow]) {
    out.count(rows.len());
    rows.iter().for_each(|row| put_spill_row(out, row));
}

pub(super) fn take_spill_rows(body: &mut Decoder<'_>) -> Result<Vec<SpillRow>, CodecError> {
    body.list(SPILL_ROW_MIN, take_spill_row)
}

pub(super) fn put_names(out: &mut Encoder, names: &[ObjectName]) {
    out.count(names.len());
    names.iter().for_each(|name| out.name(*name));
}

pub(super) fn take_names(body: &mut Decoder<'_>) -> Result<Vec<ObjectName>, CodecError> {
    body.list(NAME_MIN, Decoder::name)
}

pub(super) fn put_page_refs(out: &mut Encoder, pages: &[PageRef]) {
    out.count(pages.len());
    for page in pages {
        out.name(page.page);
        out.partition(page.first);
        out.partition(page.last);
        out.var(page.count.into());
        out.u32(page.size);
        out.u32(page.crc);
    }
}

pub(super) fn take_page_refs(body: &mut Decoder<'_>) -> Result<Vec<PageRef>, CodecError> {
    body.list(NAME_MIN + 57, |body| {
        Ok(PageRef {
            page: body.name()?,
            first: body.partition()?,
            last: body.partition()?,
            count: body.var32()?,
            size: body.u32()?,
            crc: body.u32()?,
        })
    })
}

impl LaneManifest {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        out.section(HEADER, true, |out| {
            out.home(self.home);
            out.var(self.lane.0.into());
            out.option(self.changed, |out, index| out.var(index.0));
            out.var(self.last.0);
            out.u32(self.last_crc);
            out.var(self.follow_from.0);
            out.option(self.etag.as_deref(), Encoder::text);
            out.option(self.stopped.as_deref(), Encoder::text);
        });
        out.section(LIVE, true, |out| {
            out.count(self.live.len());
            for (object, live) in &self.live {
                out.name(*object);
                out.var(live.size);
                out.var(live.since.0);
                put_names(out, &live.parts);
                out.var(live.pins.into());
                out.var(live.spilled.into());
            }
        });
        out.section(LANE_PENDING, true, |out| {
            out.count(self.pending.len());
            for (object, pending) in &self.pending {
                out.name(*object);
                out.var(pending.intended.0);
                put_names(out, &pending.parts);
            }
        });
        out.section(PAGES, true, |out| put_page_refs(out, &self.pages));
        out.section(PUBLICATIONS, true, |out| {
            out.count(self.publications.len());
            for publication in &self.publications {
                out.var(publication.as_of.0);
                out.time(publication.at);
            }
        });
        if let Some(pages) = &self.object_pages {
            out.section(OBJECT_PAGES, true, |out| put_object_page_refs(out, pages));
        }
        out.finish()
    }

    /// Reads a blob.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut sections = Sections::new(LANE, bytes);
        let known = [HEADER, LIVE, LANE_PENDING, PAGES, PUBLICATIONS, OBJECT_PAGES];
        let Some((HEADER, mut header)) = sections.next(&known)? else {
            return Err(CodecError::Missing { what: LANE, tag: HEADER });
        };
        let mut state = Self::new(header.home()?, header.lane()?);
        state.changed = header.option(Decoder::index)?;
        state.last = header.sequence()?;
        state.last_crc = header.u32()?;
        state.follow_from = header.sequence()?;
        state.etag = header.option(Decoder::text)?;
        state.stopped = header.option(Decoder::text)?;
        header.end()?;
        while let Some((tag, mut body)) = sections.next(&known)? {
            match tag {
                LIVE => state.live = body.list(NAME_MIN + 5, take_live)?.into_iter().collect(),
                LANE_PENDING => {
                    let take = |body: &mut Decoder<'_>| {
                        let object = body.name()?;
                        Ok((object, Pending { intended: body.index()?, parts: take_names(body)? }))
                    };
                    state.pending = body.list(NAME_MIN + 2, take)?.into_iter().collect();
                }
                PAGES => state.pages = take_page_refs(&mut body)?,
                OBJECT_PAGES => state.object_pages = Some(take_object_page_refs(&mut body)?),
                _ => {
                    let take = |body: &mut Decoder<'_>| Ok(Publication { as_of: body.index()?, at: body.time()? });
                    state.publications = body.list(2, take)?.into();
                }
            }
            body.end()?;
        }
        Ok(state)
    }
}

fn take_live(body: &mut Decoder<'_>) -> Result<(ObjectName, Live), CodecError> {
    let object = body.name()?;
    let live = Live {
        size: body.var()?,
        since: body.index()?,
        parts: take_names(body)?,
        pins: body.var32()?,
        spilled: body.var32()?,
    };
    Ok((object, live))
}

#[cfg(test)]
pub(crate) mod tests;
