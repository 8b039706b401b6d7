//! From what is published and the bundles after it alone, a lane is rebuilt as it was: rows, ends, log starts, leader
//! epochs, producers, live objects. At any moment; exactly, once the lane rests.

use std::collections::BTreeMap;

use tidewater_storage::model::LaneId;

use super::*;
use crate::follow::{FollowedLane, FollowedPartition, Next, Purpose, ReadPages};
use crate::format::{EpochStart, ProducerState};
use crate::manifest::{Live, PartitionManifest, decode_objects, decode_page};
use crate::store::ETag;

/// Reads the bucket as a restore does, without any other state.
fn rebuild(bench: &Bench) -> FollowedLane {
    let (indexes, objects) = (bench.reader.indexes(), bench.sim.objects());
    let object = |name: ObjectName| objects.get(name.key().as_str()).cloned();
    let mut lane = FollowedLane::new(bench.bucket.home, LaneId(1), Purpose::Restore);
    loop {
        match lane.next() {
            Next::Manifest(name) => match object(name) {
                None => lane.on_no_manifest().expect("there never was one"),
                Some(body) => {
                    let published = PublishedLane::decode(&body).expect("decodes");
                    assert!(published.objects.is_some(), "this version publishes them");
                    lane.on_manifest(published, ETag("1".into())).expect("a first base");
                }
            },
            Next::Pages { partitions, objects } => {
                let mut read = ReadPages::default();
                for page in partitions {
                    let body = object(page.page).expect("a published page is there");
                    read.partitions.insert(page.page, decode_page(&page, &body).expect("decodes"));
                }
                for page in objects {
                    let body = object(page.page).expect("a published page is there");
                    read.objects.insert(page.page, decode_objects(&page, &body).expect("decodes"));
                }
                lane.on_pages(read).expect("a first base");
            }
            Next::Bundle(name) if object(name).is_none() => return lane,
            Next::Bundle(name) => {
                let found = bench.world.block_on(indexes.at_key(name)).expect("is read");
                lane.on_bundle(&found.index, found.at, found.size).expect("continues the lane");
            }
            Next::Root(seal) => panic!("nothing sealed the lane: {seal:?}"),
        }
    }
}

/// Leader epochs that a reader from the log start on needs.
fn from_start(epochs: &[EpochStart], start: Offset) -> &[EpochStart] {
    let below = epochs.partition_point(|epoch| epoch.start <= start);
    &epochs[below.saturating_sub(1)..]
}

/// A rebuilt producer never knows more than was archived, and its last batch is the last one archived.
fn check_producers(id: PartitionId, rebuilt: &FollowedPartition, truth: &[ProducerState]) {
    for producer in rebuilt.producers().values() {
        let known = truth.iter().find(|known| known.id == producer.id).expect("wrote");
        assert_eq!(producer.epoch, known.epoch, "{id}");
        assert!(known.batches.ends_with(&producer.batches), "{id}: {producer:?} of {known:?}");
    }
}

/// At any moment: all that is archived is there, and no more.
fn check(bench: &Bench, lane: &FollowedLane) {
    for id in &bench.partitions {
        let Some((end, log_start)) = bench.lane.with_partition(*id, |m| (m.archived_end, m.log_start)) else {
            continue;
        };
        let Some(rebuilt) = lane.partitions().get(id) else {
            assert_eq!(end, Offset::ZERO, "{id} is archived and not in the bucket's manifests");
            continue;
        };
        let manifest = rebuilt.manifest();
        assert!(manifest.archived_end >= end, "{id}: the bucket is ahead of the lane's state, not behind it");
        if bench.lane.logs.borrow()[id].facts.is_none() {
            continue;
        }
        let (logs, wanted) = (bench.lane.logs.borrow(), bench.lane.wanted_log_start(*id));
        assert!(manifest.log_start <= log_start.max(wanted.unwrap_or_default()), "{id}");
        let truth = logs[id].facts_at(manifest.archived_end);
        check_producers(*id, rebuilt, &truth.producers);
        let start = manifest.log_start;
        assert_eq!(from_start(rebuilt.epochs(), start), from_start(&truth.epochs, start), "{id}");
    }
}

fn same_live(a: &Live, b: &Live) -> bool {
    (a.size, &a.parts, a.pins, a.spilled) == (b.size, &b.parts, b.pins, b.spilled)
}

/// A lane that rests: the bucket says exactly what the lane's replicated state says.
fn check_exactly(bench: &Bench, lane: &FollowedLane) {
    bench.lane.with_manifests(|state, partitions| {
        let rebuilt = lane.state().expect("for a restore");
        assert_eq!((rebuilt.last, rebuilt.last_crc), (state.last, state.last_crc));
        assert!(rebuilt.live.keys().eq(state.live.keys()), "{:?} {:?}", rebuilt.live.keys(), state.live.keys());
        assert!(rebuilt.live.values().zip(state.live.values()).all(|(a, b)| same_live(a, b)));
        // Pages that the last publication replaced are pending since.
        let of_before = |object: &&ObjectName| !matches!(object.kind, ObjectKind::Page { .. });
        let forgotten = state.pending.keys().filter(of_before).find(|object| !rebuilt.pending.contains_key(object));
        assert_eq!(forgotten, None, "it would stay in the bucket");
        let living: BTreeMap<PartitionId, &PartitionManifest> =
            partitions.iter().filter(|m| !m.dropped).map(|m| (m.id, *m)).collect();
        for followed in lane.partitions().values().filter(|followed| !followed.is_dropped()) {
            let state = living[&followed.id()];
            let found = followed.manifest();
            // What was deleted since may still be listed.
            assert!(state.pending.iter().all(|(object, _)| found.pending.iter().any(|(known, _)| known == object)));
            let (changed, pending) = (state.changed, state.pending.clone());
            let rebuilt = PartitionManifest { changed, pending, ..found.clone() };
            assert!(rebuilt == *state, "{rebuilt:?} is not {state:?}");
            let truth = bench.lane.logs.borrow()[&state.id].facts_at(state.archived_end);
            check_producers(state.id, followed, &truth.producers);
            // A trim may have passed batches that were never archived, with what they say of their producers.
            let is_archived =
                |known: &&ProducerState| known.batches.iter().all(|batch| batch.offset >= state.log_start);
            let lacking =
                |known: &&ProducerState| followed.producers().get(&known.id).is_none_or(|p| p.batches != known.batches);
            let lost: Vec<_> = truth.producers.iter().filter(is_archived).filter(lacking).collect();
            assert_eq!(lost, Vec::<&ProducerState>::new(), "{}", state.id);
        }
        let rebuilt = lane.partitions().values().filter(|p| !p.is_dropped()).map(FollowedPartition::id);
        let unknown: Vec<_> = living.values().filter(|m| !lane.partitions().contains_key(&m.id)).collect();
        assert!(unknown.iter().all(|m| m.archived_end == Offset::ZERO), "{unknown:?}");
        assert!(rebuilt.count() + unknown.len() == living.len());
    });
}

#[test]
fn the_bucket_alone_says_what_the_lane_is() {
    let mut met = [0u64; 3];
    for seed in 0..20 {
        let bench = Bench::new(900 + seed, Faults::rough(), 4);
        let retained = bench.partitions[1];
        if let Some(facts) = bench.lane.logs.borrow_mut().get_mut(&retained).and_then(|log| log.facts.as_mut()) {
            facts.retention = RetentionPolicy { retention_ms: None, retention_bytes: Some(9_000) };
        }
        let rng = &bench.env.rng;
        for life in 0..2 + rng.below(5) {
            bench.sim.set_faults(Faults::rough());
            bench.live_for(Duration::from_millis(300 + rng.below(9_000)), 8);
            let id = bench.partitions[rng.below(2) as usize];
            if rng.below(3) == 0 && bench.lane.with_partition(id, |m| !m.dropped) == Some(true) {
                let (end, archived) = {
                    let logs = bench.lane.logs.borrow();
                    (logs[&id].end(), bench.lane.with_partition(id, |m| m.archived_end).expect("there"))
                };
                let to = Offset::new(rng.below(end.get() + 1));
                met[0] += u64::from(to > archived);
                bench.lane.delete_records(id, to);
            }
            if life == 2 && rng.below(2) == 0 {
                bench.lane.drop_topic(bench.partitions[3].topic);
                met[1] += 1;
            }
            bench.sim.set_faults(Faults::default());
            check(&bench, &rebuild(&bench));
        }
        bench.settle();
        let rebuilt = rebuild(&bench);
        check(&bench, &rebuilt);
        check_exactly(&bench, &rebuilt);
        met[2] += rebuilt.partitions().values().map(|followed| followed.producers().len() as u64).sum::<u64>();
    }
    assert!(met.iter().all(|met| *met > 0), "trims past the archive, dropped topics, producers: {met:?}");
}
