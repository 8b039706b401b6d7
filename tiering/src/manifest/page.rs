//! What is published of a lane: the lane manifest and its immutable pages of partition manifests.
//!
//! Owns: the two objects' encoding (`FORMAT.md` §4). Does not own: which pages are rewritten (`publish.rs`).

use bytes::Bytes;
use tidewater_storage::codec::{CodecError, Decoder, Encoder, Sections};
use tidewater_storage::model::{LaneId, LogIndex, PartitionId, Term, TimestampMs};

use super::codec;
use super::lane::{LaneManifest, Live, Pending, Publication};
use super::objects::{LaneObject, LaneObjectState, ObjectPageRef, put_object_page_refs, take_object_page_refs};
use super::partition::PartitionManifest;
use super::published::{LogFacts, PublishedPartition, put};
use crate::format::{Body, DecodeNames, EncodeNames, FormatError, body_only, read_whole};
use crate::keys::{Home, LineageEpoch, ObjectName, Sequence};

/// One page of a lane manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRef {
    pub page: ObjectName,
    /// Its first and last partition.
    pub first: PartitionId,
    pub last: PartitionId,
    /// How many partitions it holds.
    pub count: u32,
    /// Bytes of the object.
    pub size: u32,
    /// crc of its body (of the trailer).
    pub crc: u32,
}

/// A lane manifest as it lies in the bucket: one state of the lane as of a bundle sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedLane {
    pub home: Home,
    pub lane: LaneId,
    pub term: Term,
    /// The state's log index.
    pub as_of: LogIndex,
    /// The first bundle that is not in it; from here on bundles exist without a hole.
    pub follow_from: Sequence,
    /// Index crc of the bundle before `follow_from` (0 before the first).
    pub last_crc: u32,
    pub written: TimestampMs,
    /// Sorted by first partition; no overlap.
    pub pages: Vec<PageRef>,
    /// Pages of its live and pending objects; `None`: a version wrote this that did not publish them, and neither what
    /// [`PublishedPartition::facts`] holds.
    pub objects: Option<Vec<ObjectPageRef>>,
    /// Bundles held for partitions that moved away (R5), with the number of holds.
    pub pins: Vec<(ObjectName, u32)>,
    /// Set when a restore closed it: no later publication, so no later licence to delete (R6).
    pub closed_for: Option<LineageEpoch>,
}

const LANE: &str = "lane manifest";
const PAGE: &str = "manifest page";
const HEADER: u64 = 1;
const PAGES: u64 = 2;
const PINS: u64 = 3;
const CLOSED: u64 = 4;
const OBJECTS: u64 = 5;
const PARTITIONS: u64 = 2;

impl PublishedLane {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        out.section(HEADER, true, |out| {
            out.home(self.home);
            out.var(self.lane.0.into());
            out.var(self.term.0);
            out.var(self.as_of.0);
            out.var(self.follow_from.0);
            out.u32(self.last_crc);
            out.time(self.written);
        });
        out.section(PAGES, true, |out| codec::put_page_refs(out, &self.pages));
        if !self.pins.is_empty() {
            out.section(PINS, true, |out| {
                out.count(self.pins.len());
                for (object, holds) in &self.pins {
                    out.name(*object);
                    out.var((*holds).into());
                }
            });
        }
        if let Some(epoch) = self.closed_for {
            out.section(CLOSED, true, |out| out.u32(epoch.0));
        }
        if let Some(objects) = &self.objects {
            out.section(OBJECTS, false, |out| put_object_page_refs(out, objects));
        }
        body_only(Body::LaneManifest, &out.finish()).0
    }

    /// Reads the object.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(object: &Bytes) -> Result<Self, FormatError> {
        let (body, _) = read_whole(object, Body::LaneManifest)?;
        let mut sections = Sections::new(LANE, &body);
        let known = [HEADER, PAGES, PINS, CLOSED, OBJECTS];
        let Some((HEADER, mut header)) = sections.next(&known)? else {
            return Err(CodecError::Missing { what: LANE, tag: HEADER }.into());
        };
        let mut lane = Self {
            home: header.home()?,
            lane: header.lane()?,
            term: header.term()?,
            as_of: header.index()?,
            follow_from: header.sequence()?,
            last_crc: header.u32()?,
            written: header.time()?,
            pages: Vec::new(),
            objects: None,
            pins: Vec::new(),
            closed_for: None,
        };
        header.end()?;
        while let Some((tag, mut body)) = sections.next(&known)? {
            match tag {
                PAGES => lane.pages = codec::take_page_refs(&mut body)?,
                PINS => lane.pins = body.list(22, |body| Ok((body.name()?, body.var32()?)))?,
                CLOSED => lane.closed_for = Some(LineageEpoch(body.u32()?)),
                _ => lane.objects = Some(take_object_page_refs(&mut body)?),
            }
            body.end()?;
        }
        Ok(lane)
    }

    /// The lane's state that this publishes, given what its pages of objects hold. Log indexes of the cluster that
    /// wrote it mean nothing to others: everything is as of `at`.
    #[must_use]
    pub fn state(&self, objects: Vec<LaneObject>, at: LogIndex) -> LaneManifest {
        let mut lane = LaneManifest::new(self.home, self.lane);
        for LaneObject { object, state, parts } in objects {
            match state {
                LaneObjectState::Live { size, spilled } => {
                    lane.live.insert(object, Live { size, since: at, parts, pins: 0, spilled });
                }
                LaneObjectState::Pending => {
                    lane.pending.insert(object, Pending { intended: at, parts });
                }
            }
        }
        for (object, pins) in &self.pins {
            lane.live.entry(*object).and_modify(|live| live.pins = *pins);
        }
        lane.changed = Some(at);
        lane.last = Sequence(self.follow_from.0.saturating_sub(1));
        lane.last_crc = self.last_crc;
        lane.follow_from = self.follow_from;
        lane.pages.clone_from(&self.pages);
        lane.object_pages.clone_from(&self.objects);
        lane.publications.push_back(Publication { as_of: at, at: self.written });
        lane
    }

    /// The page that holds (or would hold) a partition.
    #[must_use]
    pub fn page_of(&self, partition: PartitionId) -> Option<&PageRef> {
        let at = self.pages.partition_point(|page| page.last < partition);
        self.pages.get(at).filter(|page| page.first <= partition)
    }
}

/// The record of a partition in a page.
pub(super) fn encode_record(manifest: &PartitionManifest, facts: &LogFacts) -> Bytes {
    let mut record = Encoder::new();
    put(&mut record, manifest, facts);
    record.finish()
}

/// The object of a page, of its partitions' records.
#[must_use]
pub(super) fn encode_page(home: Home, lane: LaneId, records: &[Bytes]) -> (Bytes, u32) {
    let mut out = Encoder::new();
    out.section(HEADER, true, |out| {
        out.home(home);
        out.var(lane.0.into());
    });
    out.section(PARTITIONS, true, |out| {
        out.count(records.len());
        for record in records {
            out.bytes(record);
        }
    });
    let (object, index) = body_only(Body::Page, &out.finish());
    (object, index.crc)
}

/// Reads the object of a page that a lane manifest names.
///
/// # Errors
/// What is wrong with it.
pub fn decode_page(page: &PageRef, object: &Bytes) -> Result<Vec<PublishedPartition>, FormatError> {
    decode_page_as(page, object, PublishedPartition::decode)
}

/// As [`decode_page`]; whether rows leave gaps is for the caller to check.
///
/// # Errors
/// What is wrong with it.
pub fn decode_page_unchecked(page: &PageRef, object: &Bytes) -> Result<Vec<PublishedPartition>, FormatError> {
    decode_page_as(page, object, PublishedPartition::decode_unchecked)
}

fn decode_page_as(
    page: &PageRef,
    object: &Bytes,
    decode: fn(&[u8]) -> Result<PublishedPartition, CodecError>,
) -> Result<Vec<PublishedPartition>, FormatError> {
    let (body, index) = read_whole(object, Body::Page)?;
    if index.crc != page.crc {
        return Err(FormatError::Checksum { what: PAGE, expected: page.crc, found: index.crc });
    }
    let mut sections = Sections::new(PAGE, &body);
    let mut partitions: Vec<PublishedPartition> = Vec::new();
    while let Some((tag, mut body)) = sections.next(&[HEADER, PARTITIONS])? {
        if tag == HEADER {
            body.home()?;
            body.lane()?;
        } else {
            partitions = body.list(32, |body| decode(body.bytes()?))?;
        }
        body.end()?;
    }
    let sorted = partitions.is_sorted_by(|a, b| a.manifest.id < b.manifest.id);
    let ends = partitions.first().map(|first| first.manifest.id) == Some(page.first)
        && partitions.last().map(|last| last.manifest.id) == Some(page.last);
    if !sorted || !ends || u32::try_from(partitions.len()) != Ok(page.count) {
        return Err(Decoder::new(PAGE, &body).bad("set of partitions").into());
    }
    Ok(partitions)
}
