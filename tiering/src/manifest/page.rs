//! What is published of a lane: the lane manifest and its immutable pages of partition manifests.
//!
//! Owns: the two objects' encoding (`FORMAT.md` §4). Does not own: which pages are rewritten (`publish.rs`).

use bytes::Bytes;
use tidewater_storage::codec::{CodecError, Decoder, Encoder, Sections};
use tidewater_storage::model::{LaneId, LogIndex, PartitionId, Term, TimestampMs};

use super::codec;
use super::partition::PartitionManifest;
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
    /// Bundles held for partitions that moved away and for cuts (R5, R9), with the number of holds.
    pub pins: Vec<(ObjectName, u32)>,
    /// Set when a takeover closed it: no later publication, so no later licence to delete (R6).
    pub closed_for: Option<LineageEpoch>,
}

/// One partition manifest in a page: what readers need of it.
pub type PublishedPartition = PartitionManifest;

const LANE: &str = "lane manifest";
const PAGE: &str = "manifest page";
const HEADER: u64 = 1;
const PAGES: u64 = 2;
const PINS: u64 = 3;
const CLOSED: u64 = 4;
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
        body_only(Body::LaneManifest, &out.finish()).0
    }

    /// Reads the object.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(object: &Bytes) -> Result<Self, FormatError> {
        let (body, _) = read_whole(object, Body::LaneManifest)?;
        let mut sections = Sections::new(LANE, &body);
        let known = [HEADER, PAGES, PINS, CLOSED];
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
            pins: Vec::new(),
            closed_for: None,
        };
        header.end()?;
        while let Some((tag, mut body)) = sections.next(&known)? {
            match tag {
                PAGES => lane.pages = codec::take_page_refs(&mut body)?,
                PINS => lane.pins = body.list(22, |body| Ok((body.name()?, body.var32()?)))?,
                _ => lane.closed_for = Some(LineageEpoch(body.u32()?)),
            }
            body.end()?;
        }
        Ok(lane)
    }

    /// The page that holds (or would hold) a partition.
    #[must_use]
    pub fn page_of(&self, partition: PartitionId) -> Option<&PageRef> {
        let at = self.pages.partition_point(|page| page.last < partition);
        self.pages.get(at).filter(|page| page.first <= partition)
    }
}

/// The object of a page.
#[must_use]
pub(super) fn encode_page(home: Home, lane: LaneId, partitions: &[&PartitionManifest]) -> (Bytes, u32) {
    let mut out = Encoder::new();
    out.section(HEADER, true, |out| {
        out.home(home);
        out.var(lane.0.into());
    });
    out.section(PARTITIONS, true, |out| {
        out.count(partitions.len());
        partitions.iter().for_each(|partition| out.bytes(&partition.encode()));
    });
    let (object, index) = body_only(Body::Page, &out.finish());
    (object, index.crc)
}

/// Reads the object of a page that a lane manifest names.
///
/// # Errors
/// What is wrong with it.
pub fn decode_page(page: &PageRef, object: &Bytes) -> Result<Vec<PublishedPartition>, FormatError> {
    let (body, index) = read_whole(object, Body::Page)?;
    if index.crc != page.crc {
        return Err(FormatError::Checksum { what: PAGE, expected: page.crc, found: index.crc });
    }
    let mut sections = Sections::new(PAGE, &body);
    let mut partitions = Vec::new();
    while let Some((tag, mut body)) = sections.next(&[HEADER, PARTITIONS])? {
        if tag == HEADER {
            body.home()?;
            body.lane()?;
        } else {
            partitions = body.list(32, |body| PartitionManifest::decode(body.bytes()?))?;
        }
        body.end()?;
    }
    let sorted = partitions.windows(2).all(|pair| matches!(pair, [a, b] if a.id < b.id));
    let ends = partitions.first().map(|first| first.id) == Some(page.first)
        && partitions.last().map(|last| last.id) == Some(page.last);
    if !sorted || !ends || u32::try_from(partitions.len()) != Ok(page.count) {
        return Err(Decoder::new(PAGE, &body).bad("set of partitions").into());
    }
    Ok(partitions)
}
