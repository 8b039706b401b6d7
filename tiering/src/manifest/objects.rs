//! What is published of a lane's live and pending objects: immutable pages of their names.
//!
//! Owns: the pages' content and encoding (`FORMAT.md` §4), which of them are written again. Does not own: the puts.
//! Without them a restore would read every spill page to learn which objects the lane still needs. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use tidewater_storage::codec::{CodecError, Decoder, Encoder, Sections};
use tidewater_storage::model::Term;

use super::codec::{NAME_MIN, put_names, take_names};
use super::lane::LaneManifest;
use crate::format::{Body, DecodeNames, EncodeNames, FormatError, body_only, read_whole};
use crate::keys::{Nonce, ObjectKind, ObjectName, Sequence};

/// Bytes at which a page is cut, by estimate.
const PAGE_BYTES: usize = 64 << 10;

const PAGE: &str = "page of objects";
const HEADER: u64 = 1;
/// Pages of partitions have tag 2 instead.
const OBJECTS: u64 = 3;

/// How a name is encoded: a bundle, a gathered object or a page of the lane after another of its kind, any object.
const ANY: u8 = 0;
const NEXT_BUNDLE: u8 = 1;
const NEXT_GATHERED: u8 = 2;
const NEXT_PAGE: u8 = 3;

/// A live or pending object of a lane, as published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneObject {
    pub object: ObjectName,
    pub state: LaneObjectState,
    /// Parts that go with it ([`super::Live::parts`]).
    pub parts: Vec<ObjectName>,
}

/// What a lane knows of one of its objects. Holds are in the lane manifest itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneObjectState {
    /// Rows may name it.
    Live {
        /// Bytes.
        size: u64,
        /// Spill pages of level 0 that name it.
        spilled: u32,
    },
    /// No row names it: it is to be deleted.
    Pending,
}

/// One page of a lane's objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectPageRef {
    pub page: ObjectName,
    /// Its first and last object, by name.
    pub first: ObjectName,
    pub last: ObjectName,
    /// How many objects it names.
    pub count: u32,
    /// Bytes of the object.
    pub size: u32,
    /// crc of its body (of the trailer).
    pub crc: u32,
}

impl LaneObject {
    /// All that a lane has, sorted by name.
    fn all_of(lane: &LaneManifest) -> Vec<Self> {
        let live = lane.live.iter().map(|(object, live)| {
            let state = LaneObjectState::Live { size: live.size, spilled: live.spilled };
            (*object, Self { object: *object, state, parts: live.parts.clone() })
        });
        let pending = lane.pending.iter().map(|(object, pending)| {
            (*object, Self { object: *object, state: LaneObjectState::Pending, parts: pending.parts.clone() })
        });
        live.chain(pending).collect::<BTreeMap<_, _>>().into_values().collect()
    }

    /// About how many bytes it takes in a page.
    fn bytes(&self) -> usize {
        24 + 60 * self.parts.len()
    }
}

/// The pages of the lane's objects, and those of them that are to be written: a page that would be the same is kept,
/// unless it is small and what comes before or after it is written again.
pub(super) fn plan_objects(
    lane: &LaneManifest,
    term: Term,
    nonce: &mut impl FnMut() -> Nonce,
) -> (Vec<(ObjectName, Bytes)>, Vec<ObjectPageRef>) {
    let all = LaneObject::all_of(lane);
    let (mut pages, mut refs) = (Vec::new(), Vec::new());
    let mut kept = same_pages(lane, &all).into_iter().peekable();
    // What is in no page that is kept, up to the page that is looked at.
    let mut from = 0;
    while let Some((old, inside)) = kept.next() {
        let next = kept.peek().map_or(all.len(), |(_, next)| next.start);
        let is_small = (old.size as usize) < PAGE_BYTES / 4;
        if is_small && (from < inside.start || inside.end < next) {
            continue;
        }
        write(lane, term, all.get(from..inside.start).unwrap_or_default(), nonce, &mut pages, &mut refs);
        refs.push(old);
        from = inside.end;
    }
    write(lane, term, all.get(from..).unwrap_or_default(), nonce, &mut pages, &mut refs);
    let listed: usize = refs.iter().map(|page| page.count as usize).sum();
    assert_eq!(listed, all.len(), "each object of {} is in one page", lane.lane);
    (pages, refs)
}

/// Pages of the last publication that would be written as they are, each with its part of `all`.
fn same_pages(lane: &LaneManifest, all: &[LaneObject]) -> Vec<(ObjectPageRef, Range<usize>)> {
    let is_same = |old: &ObjectPageRef| {
        let start = all.partition_point(|object| object.object < old.first);
        let end = all.partition_point(|object| object.object <= old.last);
        let inside = all.get(start..end).filter(|inside| u32::try_from(inside.len()) == Ok(old.count))?;
        let (object, crc) = encode(lane, inside);
        (crc == old.crc && u32::try_from(object.len()) == Ok(old.size)).then_some((*old, start..end))
    };
    lane.object_pages.iter().flatten().filter_map(is_same).collect()
}

fn write(
    lane: &LaneManifest,
    term: Term,
    mut left: &[LaneObject],
    nonce: &mut impl FnMut() -> Nonce,
    pages: &mut Vec<(ObjectName, Bytes)>,
    refs: &mut Vec<ObjectPageRef>,
) {
    while !left.is_empty() {
        let mut bytes = 0;
        let fitting = left.iter().take_while(|object| {
            bytes += object.bytes();
            bytes <= PAGE_BYTES
        });
        let (now, later) = left.split_at(fitting.count().max(1));
        left = later;
        let (Some(first), Some(last)) = (now.first(), now.last()) else { return };
        let (object, crc) = encode(lane, now);
        let page = lane.home.name(ObjectKind::Page { lane: lane.lane, term, nonce: nonce() });
        refs.push(ObjectPageRef {
            page,
            first: first.object,
            last: last.object,
            count: u32::try_from(now.len()).expect("a page is cut far below 4 GiB"),
            size: u32::try_from(object.len()).expect("a page is cut far below 4 GiB"),
            crc,
        });
        pages.push((page, object));
    }
}

fn encode(lane: &LaneManifest, objects: &[LaneObject]) -> (Bytes, u32) {
    assert!(objects.is_sorted_by(|a, b| a.object < b.object), "objects of a page ascend");
    let mut out = Encoder::new();
    out.section(HEADER, true, |out| {
        out.home(lane.home);
        out.lane(lane.lane);
    });
    out.section(OBJECTS, true, |out| {
        let mut before = None;
        out.list(objects.iter(), |out, object| {
            put_name_after(out, object.object, before);
            before = Some(object.object);
            out.option(
                match object.state {
                    LaneObjectState::Live { size, spilled } => Some((size, spilled)),
                    LaneObjectState::Pending => None,
                },
                |out, (size, spilled)| {
                    out.var(size);
                    out.var(spilled.into());
                },
            );
            put_names(out, &object.parts);
        });
    });
    let (object, index) = body_only(Body::Page, &out.finish());
    (object, index.crc)
}

/// Reads the object of a page that a lane manifest names.
///
/// # Errors
/// What is wrong with it.
pub fn decode_objects(page: &ObjectPageRef, object: &Bytes) -> Result<Vec<LaneObject>, FormatError> {
    let (body, index) = read_whole(object, Body::Page)?;
    if index.crc != page.crc {
        return Err(FormatError::Checksum { what: PAGE, expected: page.crc, found: index.crc });
    }
    let mut sections = Sections::new(PAGE, &body);
    let mut objects: Vec<LaneObject> = Vec::new();
    while let Some((tag, mut body)) = sections.next(&[HEADER, OBJECTS])? {
        if tag == HEADER {
            body.home()?;
            body.lane()?;
        } else {
            objects = take_objects(&mut body)?;
        }
        body.end()?;
    }
    let sorted = objects.is_sorted_by(|a, b| a.object < b.object);
    let ends = objects.first().map(|first| first.object) == Some(page.first)
        && objects.last().map(|last| last.object) == Some(page.last);
    if !sorted || !ends || u32::try_from(objects.len()) != Ok(page.count) {
        return Err(Decoder::new(PAGE, &body).bad("set of objects").into());
    }
    Ok(objects)
}

/// Reads the list of a page's section 3.
///
/// # Errors
/// What is wrong with it.
pub fn take_objects(body: &mut Decoder<'_>) -> Result<Vec<LaneObject>, CodecError> {
    let mut before = None;
    // The shortest: a bundle after another, pending, without parts.
    body.list(4, |body| {
        let object = take_name_after(body, before)?;
        before = Some(object);
        let state = body.option(|body| Ok((body.var()?, body.var32()?)))?;
        let state = state.map(|(size, spilled)| LaneObjectState::Live { size, spilled });
        let state = state.unwrap_or(LaneObjectState::Pending);
        Ok(LaneObject { object, state, parts: take_names(body)? })
    })
}

/// A name; of a bundle, gathered object or page of the same lane as the name before only what may differ.
fn put_name_after(out: &mut Encoder, name: ObjectName, before: Option<ObjectName>) {
    use ObjectKind::{Bundle, Gathered, Page};
    let before = before.filter(|before| before.home == name.home).map(|before| before.kind);
    match (before, name.kind) {
        (Some(Bundle { lane: a, sequence: from }), Bundle { lane, sequence }) if a == lane && from <= sequence => {
            out.u8(NEXT_BUNDLE);
            out.var(sequence.0 - from.0);
        }
        (Some(Gathered { lane: a, first: from, .. }), Gathered { lane, first, term, nonce })
            if a == lane && from <= first =>
        {
            out.u8(NEXT_GATHERED);
            out.var(first.0 - from.0);
            out.term(term);
            out.u64(nonce.0);
        }
        (Some(Page { lane: a, .. }), Page { lane, term, nonce }) if a == lane => {
            out.u8(NEXT_PAGE);
            out.term(term);
            out.u64(nonce.0);
        }
        _ => {
            out.u8(ANY);
            out.name(name);
        }
    }
}

fn take_name_after(body: &mut Decoder<'_>, before: Option<ObjectName>) -> Result<ObjectName, CodecError> {
    use ObjectKind::{Bundle, Gathered, Page};
    let tag = body.u8()?;
    if tag == ANY {
        return body.name();
    }
    let before = before.ok_or_else(|| body.bad("name of an object"))?;
    let kind = match (tag, before.kind) {
        (NEXT_BUNDLE, Bundle { lane, sequence }) => Bundle { lane, sequence: after(body, sequence)? },
        (NEXT_GATHERED, Gathered { lane, first, .. }) => {
            Gathered { lane, first: after(body, first)?, term: body.term()?, nonce: Nonce(body.u64()?) }
        }
        (NEXT_PAGE, Page { lane, .. }) => Page { lane, term: body.term()?, nonce: Nonce(body.u64()?) },
        _ => return Err(body.bad("name of an object")),
    };
    Ok(before.home.name(kind))
}

fn after(body: &mut Decoder<'_>, from: Sequence) -> Result<Sequence, CodecError> {
    let next = from.0.checked_add(body.var()?);
    next.map(Sequence).ok_or_else(|| body.bad("sequence of an object"))
}

pub(super) fn put_object_page_refs(out: &mut Encoder, pages: &[ObjectPageRef]) {
    out.list(pages.iter(), |out, page| {
        out.name(page.page);
        out.name(page.first);
        out.name(page.last);
        out.var(page.count.into());
        out.u32(page.size);
        out.u32(page.crc);
    });
}

pub(super) fn take_object_page_refs(body: &mut Decoder<'_>) -> Result<Vec<ObjectPageRef>, CodecError> {
    body.list(3 * NAME_MIN + 9, |body| {
        Ok(ObjectPageRef {
            page: body.name()?,
            first: body.name()?,
            last: body.name()?,
            count: body.var32()?,
            size: body.u32()?,
            crc: body.u32()?,
        })
    })
}

#[cfg(test)]
mod tests;
