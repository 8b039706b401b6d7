//! What is wrong in a bucket is a typed error, changes nothing of what is served, and passes when the bucket is right
//! again.

use tidewater_storage::model::{LaneId, Offset};

use super::reader::{Polled, Reader, etag};
use super::writer::{LANE, StoredBundle, Writer, id};
use super::*;
use crate::format::{IndexRef, LaneEvent, encode_index};
use crate::keys::{ClusterId, ObjectName};
use crate::manifest::PublishedLane;

/// A writer with some bundles, a publication in between, and a reader at its end.
fn followed() -> (Writer, Reader) {
    let mut writer = Writer::new();
    for round in 0..6 {
        (0..3).for_each(|n| writer.append(id(n), 3, 1));
        writer.bundle(u64::MAX, 1, false);
        if round == 2 {
            writer.publish();
        }
    }
    let mut reader = Reader::new(writer.home(), Purpose::Read);
    assert_eq!(reader.poll(&writer.bucket, false), Polled::NotYet);
    reader.equals_bucket(&writer, true);
    (writer, reader)
}

/// Puts a bundle that `change` altered at the next key; gives the good one.
fn put_altered(writer: &mut Writer, change: impl FnOnce(&mut StoredBundle)) -> (ObjectName, StoredBundle) {
    let object = writer.lane.next_bundle();
    (0..3).for_each(|n| writer.append(id(n), 3, 1));
    writer.bundle(u64::MAX, 1, false);
    let good = writer.bucket.bundles[&object].clone();
    let mut bad = good.clone();
    change(&mut bad);
    bad.at = IndexRef::of(9, &encode_index(&bad.index));
    writer.bucket.bundles.insert(object, bad);
    (object, good)
}

/// `change` is met as `expected`, changes nothing, and is passed once the good bundle lies there.
fn refused(change: impl FnOnce(&mut StoredBundle), expected: impl Fn(&FollowError) -> bool) {
    let (mut writer, mut reader) = followed();
    let before = reader.lane.clone();
    let (object, good) = put_altered(&mut writer, change);
    match reader.poll(&writer.bucket, false) {
        Polled::Stuck(error) => assert!(expected(&error), "{error}"),
        other => unreachable!("{other:?}"),
    }
    assert_eq!((reader.lane.partitions(), reader.lane.last()), (before.partitions(), before.last()));
    writer.bucket.bundles.insert(object, good);
    assert_eq!(reader.poll(&writer.bucket, false), Polled::NotYet);
    reader.equals_bucket(&writer, true);
}

#[test]
fn a_gap_is_never_accepted() {
    let shift = |bundle: &mut StoredBundle| {
        let entry = bundle.index.partitions.first_mut().expect("there");
        let by = |offset: &mut Offset| *offset = offset.plus(1);
        by(&mut entry.offsets.start);
        by(&mut entry.offsets.end);
        for run in entry.extents.iter_mut().flat_map(|extent| &mut extent.runs) {
            by(&mut run.sum.offsets.start);
            by(&mut run.sum.offsets.end);
        }
    };
    refused(shift, |error| matches!(error, FollowError::Gap { found, end, .. } if *found == end.next()));
}

#[test]
fn a_jump_goes_only_up_to_the_log_start_that_the_bundle_tells() {
    let (mut writer, mut reader) = followed();
    writer.append(id(0), 5, 1);
    writer.trim(id(0), Offset::new(23), false);
    writer.append(id(0), 2, 1);
    writer.bundle(1, 9, false);
    assert_eq!(reader.poll(&writer.bucket, false), Polled::NotYet);
    reader.equals_bucket(&writer, true);
    let known = &reader.lane.partitions()[&id(0)];
    assert_eq!((known.log_start(), known.high_watermark()), (Offset::new(23), Offset::new(25)));
}

#[test]
fn strangers_and_broken_chains_are_refused() {
    refused(|bundle| bundle.index.previous ^= 1, |error| matches!(error, FollowError::Chain { .. }));
    refused(|bundle| bundle.index.lane = LaneId(9), |error| matches!(error, FollowError::Foreign { .. }));
    refused(|bundle| bundle.index.sequence = Sequence(99), |error| matches!(error, FollowError::Foreign { .. }));
    let foreign = |bundle: &mut StoredBundle| bundle.index.home.cluster = ClusterId(uuid::Uuid::from_u128(9));
    refused(foreign, |error| matches!(error, FollowError::Foreign { .. }));
    let unknown = |bundle: &mut StoredBundle| {
        bundle.index.partitions.last_mut().expect("there").partition = id(77);
        bundle.index.producers = None;
    };
    refused(unknown, |error| matches!(error, FollowError::Unknown { .. }));
    let moved = |bundle: &mut StoredBundle| {
        bundle.index.events.push(LaneEvent::Departed { partition: id(0), to: LaneId(2), at: Offset::ZERO });
    };
    refused(moved, |error| matches!(error, FollowError::Moves { .. }));
}

#[test]
fn a_manifest_that_shows_before_its_pages_waits_for_them() {
    let (mut writer, mut reader) = followed();
    writer.replace(id(0), 4, true);
    writer.publish();
    let before = reader.lane.clone();
    reader.hidden = writer.bucket.pages.keys().copied().collect();
    assert_eq!(reader.poll(&writer.bucket, true), Polled::NoPage);
    assert_eq!(reader.lane.partitions(), before.partitions());
    // Bundles go on by the base before.
    writer.append(id(0), 3, 1);
    writer.bundle(1, 1, false);
    assert_eq!(reader.poll(&writer.bucket, false), Polled::NotYet);
    assert_eq!(reader.lane.partitions()[&id(0)].high_watermark(), Offset::new(21));
    reader.hidden.clear();
    assert_eq!(reader.poll(&writer.bucket, true), Polled::NotYet);
    reader.equals_bucket(&writer, true);
}

#[test]
fn an_older_manifest_and_a_missing_one_change_nothing() {
    let (mut writer, mut reader) = followed();
    let name = writer.home().lane_manifest(LANE);
    let old = writer.bucket.manifests[&name].clone();
    writer.publish();
    assert_eq!(reader.poll(&writer.bucket, true), Polled::NotYet);
    let before = reader.lane.clone();
    let new = writer.bucket.manifests.insert(name, old).expect("there");
    assert!(matches!(reader.poll(&writer.bucket, true), Polled::Stuck(FollowError::Older { .. })));
    writer.bucket.manifests.remove(&name);
    assert!(matches!(reader.poll(&writer.bucket, true), Polled::Stuck(FollowError::Gone { .. })));
    assert_eq!(reader.lane.partitions(), before.partitions());
    writer.bucket.manifests.insert(name, new);
    assert_eq!(reader.poll(&writer.bucket, true), Polled::NotYet);
    reader.equals_bucket(&writer, true);
}

#[test]
fn only_pages_that_changed_are_read_again() {
    let (mut writer, mut reader) = followed();
    (0..20).for_each(|_| writer.create());
    writer.bundle(0, 1, false);
    writer.publish();
    assert_eq!(reader.poll(&writer.bucket, true), Polled::NotYet);
    let before = reader.pages_read;
    writer.append(id(8), 3, 1);
    writer.bundle(1 << 8, 1, false);
    writer.publish();
    assert_eq!(reader.poll(&writer.bucket, true), Polled::NotYet);
    assert_eq!(reader.pages_read - before, 1, "of twelve");
    reader.equals_bucket(&writer, true);
}

#[test]
fn a_tail_that_no_publication_ends_is_bounded() {
    let (mut writer, mut reader) = followed();
    let version = etag(1000);
    let weight = reader.lane.tail.back().expect("there").weight();
    reader.lane.tail_entries = TAIL_ENTRIES_MAX - weight;
    writer.append(id(0), 3, 1);
    writer.bundle(u64::MAX, 1, false);
    writer.bundle(u64::MAX, 1, false);
    assert_eq!(reader.poll(&writer.bucket, false), Polled::Stuck(FollowError::TailFull));
    assert_eq!(reader.lane.last(), Sequence(7), "one had room");
    writer.publish();
    assert_eq!(reader.poll(&writer.bucket, false), Polled::NotYet, "a publication ends it");
    assert_eq!((reader.lane.tail_entries(), reader.lane.last()), (0, Sequence(8)));
    assert_ne!(reader.lane.base_version(), Some(&version));
}

#[test]
fn a_lane_that_ended_is_served_until_a_restore_has_switched() {
    let (mut writer, mut reader) = followed();
    writer.append(id(0), 7, 1);
    let root = writer.bucket.root.clone();
    writer.take_over(read_for_restore);
    let switched = std::mem::replace(&mut writer.bucket.root, root);
    let before = reader.lane.clone();
    assert_eq!(reader.poll(&writer.bucket, true), Polled::Sealed);
    assert_eq!(reader.lane.partitions(), before.partitions());
    assert!(reader.lane.closed_for().is_some());
    writer.bucket.root = switched;
    assert_eq!(reader.poll(&writer.bucket, true), Polled::NotYet);
    assert_eq!(reader.lane.home(), writer.home());
    reader.equals_bucket(&writer, true);
    assert_eq!(reader.lane.partitions()[&id(0)].high_watermark(), Offset::new(18), "what was not archived is gone");
    let published = &writer.bucket.manifests[&writer.home().lane_manifest(LANE)].0;
    assert_eq!(PublishedLane::decode(published).expect("good").follow_from, Sequence(1));
}

#[test]
fn a_dead_leaders_bundle_that_arrives_late_is_left_behind() {
    let (mut writer, mut reader) = followed();
    [0, 2].into_iter().for_each(|n| writer.append(id(n), 3, 1));
    writer.bundle(1, 1, true);
    let late = writer.home().bundle(LANE, Sequence(7));
    writer.publish();
    writer.replace(id(0), 9, true);
    writer.publish();
    writer.delete(true);
    assert!(writer.bucket.bundles[&late].index.partition(id(2)).is_some(), "the dead leader's");
    // It follows bundle 6, so it counts for a reader that is there: its records are committed ones.
    assert_eq!(reader.poll(&writer.bucket, false), Polled::NotYet);
    let known = |reader: &Reader| {
        let known = &reader.lane.partitions()[&id(2)];
        (known.manifest().archived_end, known.high_watermark())
    };
    assert_eq!(known(&reader), (Offset::new(21), Offset::new(21)));
    writer.append(id(0), 3, 1);
    writer.bundle(1, 1, false);
    assert_eq!(reader.poll(&writer.bucket, false), Polled::NotYet, "the chain breaks, and the manifest is ahead");
    assert_eq!(reader.lane.last(), Sequence(8));
    assert_eq!(known(&reader), (Offset::new(18), Offset::new(21)), "what was answered stays, until it is found again");
    reader.equals_bucket(&writer, false);
    writer.bundle(1 << 2, 1, false);
    assert_eq!(reader.poll(&writer.bucket, false), Polled::NotYet);
    reader.equals_bucket(&writer, true);
}
