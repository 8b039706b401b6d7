//! Spill pages: old rows of a partition manifest as immutable objects, so that any retention fits in little memory.
//!
//! Owns: what a page holds, its encoding, when one is due. Does not own: reading and writing the objects.

use std::collections::BTreeSet;

use bytes::Bytes;
use tidewater_storage::codec::{CodecError, Decoder, Encoder, Sections};
use tidewater_storage::model::{OffsetRange, PartitionId, TimestampMs};

use super::codec;
use super::command::Spilled;
use super::lane::is_shared;
use super::partition::{PartitionManifest, ROWS_MAX, SPILL_PAGES_MAX, SPILL_ROWS};
use super::row::Row;
use crate::format::{Body, FormatError, IndexRef, body_only, read_whole};
use crate::keys::{Home, Nonce, ObjectKind, ObjectName};

/// Stands for a spill page in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpillRow {
    /// What the page's rows cover.
    pub offsets: OffsetRange,
    pub bytes: u64,
    pub max_timestamp: TimestampMs,
    /// The page ([`crate::keys::ObjectKind::Spill`]; its level is in the name).
    pub page: ObjectName,
    /// Bytes of the page object.
    pub size: u32,
    /// crc of its body (of the trailer).
    pub crc: u32,
}

/// What a spill page holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpillPage {
    /// Level 0.
    Rows(Vec<Row>),
    /// Above.
    Pages(Vec<SpillRow>),
}

const WHAT: &str = "spill page";
const ROWS: u64 = 2;
const PAGES: u64 = 3;
const OWNER: u64 = 1;

impl SpillRow {
    /// 0 holds rows, `n` pages of level `n - 1`.
    #[must_use]
    pub fn level(&self) -> u8 {
        match self.page.kind {
            ObjectKind::Spill { level, .. } => level,
            _ => 0,
        }
    }
}

impl SpillPage {
    /// What its rows cover, if they are contiguous and there are any.
    #[must_use]
    pub fn covers(&self) -> Option<OffsetRange> {
        let offsets: Vec<OffsetRange> = match self {
            Self::Rows(rows) => rows.iter().map(|row| row.offsets).collect(),
            Self::Pages(pages) => pages.iter().map(|page| page.offsets).collect(),
        };
        let joined = offsets.windows(2).all(|pair| matches!(pair, [a, b] if a.end == b.start));
        let range = OffsetRange::new(offsets.first()?.start, offsets.last()?.end);
        (joined && offsets.iter().all(|offsets| !offsets.is_empty())).then_some(range)
    }

    /// The objects it names, each once: for `Trimmed`.
    #[must_use]
    pub fn named(&self) -> Vec<ObjectName> {
        let names: BTreeSet<ObjectName> = match self {
            Self::Rows(rows) => rows.iter().map(Row::object).collect(),
            Self::Pages(pages) => pages.iter().map(|page| page.page).collect(),
        };
        names.into_iter().collect()
    }
}

/// The spill that is due, if any: the page object to put, and the command that puts it in place afterwards.
#[must_use]
pub fn plan_spill(partition: &PartitionManifest, home: Home, nonce: Nonce) -> Option<(Bytes, Spilled)> {
    let (level, page) = due(partition)?;
    let covered = page.covers()?;
    let kind = ObjectKind::Spill { partition: partition.id, start: covered.start, level, nonce };
    let (bytes, max_timestamp) = match &page {
        SpillPage::Rows(rows) => {
            (rows.iter().map(|row| row.bytes).sum(), rows.iter().map(|row| row.max_timestamp).max())
        }
        SpillPage::Pages(rows) => {
            (rows.iter().map(|row| row.bytes).sum(), rows.iter().map(|row| row.max_timestamp).max())
        }
    };
    let (object, index) = encode_spill(partition.id, &page);
    let row = SpillRow {
        offsets: covered,
        bytes,
        max_timestamp: max_timestamp?,
        page: home.name(kind),
        size: u32::try_from(object.len()).ok()?,
        crc: index.crc,
    };
    let shared = match level {
        0 => page.named().into_iter().filter(is_shared).collect(),
        _ => Vec::new(),
    };
    Some((object, Spilled { partition: partition.id, page: row, shared }))
}

fn due(partition: &PartitionManifest) -> Option<(u8, SpillPage)> {
    if partition.rows.len() > ROWS_MAX {
        return Some((0, SpillPage::Rows(partition.rows.iter().take(SPILL_ROWS).copied().collect())));
    }
    let highest = partition.spilled.iter().map(SpillRow::level).max()?;
    (0..=highest.min(u8::MAX - 1)).find_map(|level| {
        let of_level = || partition.spilled.iter().filter(|page| page.level() == level);
        if of_level().count() <= SPILL_PAGES_MAX {
            return None;
        }
        // Only neighbours: an opened page may have left pages of another level in between.
        let mut run: Vec<SpillRow> = Vec::new();
        for page in of_level().take(SPILL_PAGES_MAX / 2) {
            if run.last().is_none_or(|last| last.offsets.end == page.offsets.start) {
                run.push(*page);
            }
        }
        (run.len() > 1).then(|| (level + 1, SpillPage::Pages(run)))
    })
}

/// The object of a page, and where its body is.
#[must_use]
pub fn encode_spill(partition: PartitionId, page: &SpillPage) -> (Bytes, IndexRef) {
    let mut out = Encoder::new();
    out.section(OWNER, true, |out| out.partition(partition));
    match page {
        SpillPage::Rows(rows) => out.section(ROWS, true, |out| codec::put_rows(out, rows)),
        SpillPage::Pages(pages) => out.section(PAGES, true, |out| codec::put_spill_rows(out, pages)),
    }
    body_only(Body::Spill, &out.finish())
}

/// Reads the object of a page; it must be `partition`'s and of the crc its row says.
///
/// # Errors
/// What is wrong with it.
pub fn decode_spill(partition: PartitionId, crc: u32, object: &Bytes) -> Result<SpillPage, FormatError> {
    let (body, index) = read_whole(object, Body::Spill)?;
    if index.crc != crc {
        return Err(FormatError::Checksum { what: WHAT, expected: crc, found: index.crc });
    }
    let mut sections = Sections::new(WHAT, &body);
    let (mut owner, mut page) = (None, None);
    while let Some((tag, mut reader)) = sections.next(&[OWNER, ROWS, PAGES])? {
        match tag {
            OWNER => owner = Some(reader.partition()?),
            ROWS => page = Some(SpillPage::Rows(codec::take_rows(&mut reader)?)),
            _ => page = Some(SpillPage::Pages(codec::take_spill_rows(&mut reader)?)),
        }
        reader.end()?;
    }
    if owner != Some(partition) {
        return Err(Decoder::new(WHAT, &body).bad("owner").into());
    }
    let page = page.ok_or(CodecError::Missing { what: WHAT, tag: ROWS })?;
    page.covers().ok_or_else(|| Decoder::new(WHAT, &body).bad("coverage"))?;
    Ok(page)
}
