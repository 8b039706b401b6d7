//! What to write so that the bucket's lane manifest says what the lane's state says. Pure.
//!
//! Owns: which pages are written again (those with a partition that changed, came or went), how they are cut. Does not
//! own: the puts (pages first, in any order; then the lane manifest, conditional; then the command).

use bytes::Bytes;
use tidewater_storage::model::{LogIndex, PartitionId, Term, TimestampMs};

use super::command::Published;
use super::lane::LaneManifest;
use super::objects::plan_objects;
use super::page::{PageRef, PublishedLane, encode_page, encode_record};
use super::partition::PartitionManifest;
use super::published::LogFacts;
use crate::keys::{Nonce, ObjectKind, ObjectName};
use crate::store::{ETag, PutMode};

/// Bytes at which a page is cut. A page with one partition may be larger.
pub(crate) const PAGE_BYTES: usize = 256 << 10;

/// The state to publish.
pub struct PublishRequest<'a> {
    pub lane: &'a LaneManifest,
    /// All its partitions, sorted by id.
    pub partitions: &'a [&'a PartitionManifest],
    /// Leader epochs and producers of a partition, whole: asked for those that are written.
    pub facts: &'a dyn Fn(PartitionId) -> LogFacts,
    /// What the lane had applied: state above is as of here.
    pub as_of: LogIndex,
    pub term: Term,
    pub now: TimestampMs,
}

/// What to write, in this order.
#[derive(Clone, Debug)]
pub struct PublishPlan {
    pub pages: Vec<(ObjectName, Bytes)>,
    /// The lane manifest's name.
    pub name: ObjectName,
    pub manifest: Bytes,
    /// The condition of its put.
    pub mode: PutMode,
    /// The command to propose after it, with the etag still empty.
    pub published: Published,
}

/// Plans a publication; `nonce` gives fresh random numbers.
#[must_use]
pub fn plan_publish(request: &PublishRequest<'_>, mut nonce: impl FnMut() -> Nonce) -> PublishPlan {
    let lane = request.lane;
    debug_assert!(request.partitions.is_sorted_by(|a, b| a.id < b.id), "pages are cut in the order of ids");
    let mut pages = Vec::new();
    let mut refs = Vec::new();
    let mut waiting: Vec<&PartitionManifest> = Vec::new();
    let mut rest = request.partitions;
    for old in &lane.pages {
        let below = rest.partition_point(|partition| partition.id < old.first);
        let (before, from) = rest.split_at(below);
        let (inside, after) = from.split_at(from.partition_point(|partition| partition.id <= old.last));
        rest = after;
        waiting.extend(before);
        // A page of a version that did not publish facts is written again.
        let is_whole = lane.object_pages.is_some();
        if is_whole && is_clean(lane, old, inside) && (waiting.is_empty() || old.size as usize >= PAGE_BYTES / 4) {
            write_pages(request, &mut waiting, &mut nonce, &mut pages, &mut refs);
            refs.push(*old);
        } else {
            waiting.extend(inside);
        }
    }
    waiting.extend(rest);
    write_pages(request, &mut waiting, &mut nonce, &mut pages, &mut refs);

    let listed: usize = refs.iter().map(|page| page.count as usize).sum();
    assert_eq!(listed, request.partitions.len(), "each partition of {} is in one page", lane.lane);

    let (object_pages, objects) = plan_objects(lane, request.term, &mut nonce);
    pages.extend(object_pages);

    let published = PublishedLane {
        home: lane.home,
        lane: lane.lane,
        term: request.term,
        as_of: request.as_of,
        follow_from: lane.last.next(),
        last_crc: lane.last_crc,
        written: request.now,
        pages: refs.clone(),
        objects: Some(objects.clone()),
        pins: lane.live.iter().filter(|(_, live)| live.pins > 0).map(|(object, live)| (*object, live.pins)).collect(),
        closed_for: None,
    };
    PublishPlan {
        pages,
        name: lane.home.lane_manifest(lane.lane),
        manifest: published.encode(),
        mode: lane.etag.as_deref().map_or(PutMode::IfAbsent, |etag| PutMode::IfMatch(ETag(etag.into()))),
        published: Published {
            as_of: request.as_of,
            sequence: lane.last,
            etag: String::new(),
            pages: refs,
            objects: Some(objects),
            at: request.now,
        },
    }
}

fn is_clean(lane: &LaneManifest, page: &PageRef, inside: &[&PartitionManifest]) -> bool {
    let as_of = lane.published_as_of();
    u32::try_from(inside.len()) == Ok(page.count)
        && inside.iter().all(|partition| partition.changed <= as_of)
        && inside.first().is_some_and(|first| first.id == page.first)
        && inside.last().is_some_and(|last| last.id == page.last)
}

fn write_pages(
    request: &PublishRequest<'_>,
    waiting: &mut Vec<&PartitionManifest>,
    nonce: &mut impl FnMut() -> Nonce,
    pages: &mut Vec<(ObjectName, Bytes)>,
    refs: &mut Vec<PageRef>,
) {
    let (mut open, mut records, mut bytes) = (Vec::new(), Vec::new(), 0);
    for partition in waiting.drain(..) {
        let facts = match partition.dropped {
            true => LogFacts::default(),
            false => (request.facts)(partition.id).cut(partition.archived_end),
        };
        let record = encode_record(partition, &facts);
        let more = room_for(partition).max(record.len());
        if bytes + more > PAGE_BYTES {
            write_page(request, &open, &records, nonce, pages, refs);
            (open, records, bytes) = (Vec::new(), Vec::new(), 0);
        }
        open.push(partition.id);
        records.push(record);
        bytes += more;
    }
    write_page(request, &open, &records, nonce, pages, refs);
}

/// Bytes that a page reserves for a partition whose record takes no more.
fn room_for(partition: &PartitionManifest) -> usize {
    64 + partition.rows.len() * 24 + partition.spilled.len() * 100
}

fn write_page(
    request: &PublishRequest<'_>,
    partitions: &[PartitionId],
    records: &[Bytes],
    nonce: &mut impl FnMut() -> Nonce,
    pages: &mut Vec<(ObjectName, Bytes)>,
    refs: &mut Vec<PageRef>,
) {
    let (Some(first), Some(last)) = (partitions.first(), partitions.last()) else { return };
    let (home, lane) = (request.lane.home, request.lane.lane);
    let (object, crc) = encode_page(home, lane, records);
    let page = home.name(ObjectKind::Page { lane, term: request.term, nonce: nonce() });
    refs.push(PageRef {
        page,
        first: *first,
        last: *last,
        count: u32::try_from(partitions.len()).expect("a page is cut far below 4 GiB"),
        size: u32::try_from(object.len()).expect("a page is cut far below 4 GiB"),
        crc,
    });
    pages.push((page, object));
}

#[cfg(test)]
mod tests;
