//! Reads and searches of a partition whose records lie on disk, in the bucket, or in both.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::poll;
use tidewater_storage::env::Env;
use tidewater_storage::env::sim::World;

use super::*;
use crate::partition::fixture::Fixture;
use crate::partition::state::replica::Replica;

const RECORDS: u64 = 40;

/// The time of record `n`: ascending, but for one near the beginning that is the greatest.
fn time(n: u64) -> TimestampMs {
    TimestampMs(if n == 4 { 9000 } else { 1000 + n as i64 * 10 })
}

/// Partition `n` of the fixture, filled, in small segments.
async fn filled(shard: &Fixture, n: i32) -> Rc<Replica> {
    let replica = shard.in_small_segments(n);
    let parts = (0..RECORDS).map(|record| shard.record(n, time(record))).collect();
    assert!(shard.router.produce(parts).await.iter().all(Result::is_ok));
    assert!(replica.log.segments().len() > 8, "{:?}", replica.log.segments());
    replica
}

/// The same, all of it in the bucket, too.
async fn archived(env: &Env, shard: &Fixture) -> Rc<Replica> {
    let replica = filled(shard, 0).await;
    while replica.manifest().archived_end < Offset::new(RECORDS) {
        env.tasks.sleep(Duration::from_millis(100)).await;
    }
    replica
}

fn in_world(act: impl AsyncFnOnce(&World, &Env, &Fixture)) {
    let world = World::new(5);
    let env = world.env();
    world.block_on(async {
        let shard = Fixture::with_bucket(&env).await;
        act(&world, &env, &shard).await;
    });
}

async fn offset_of(shard: &Fixture, replica: &Replica, spec: OffsetSpec) -> Option<u64> {
    let found = list_offset(replica, shard.partitions.remote().as_ref(), spec).await.expect("finds");
    found.map(|found| found.offset.get())
}

#[test]
fn no_search_answers_below_a_log_start_that_the_manifest_does_not_have_yet() {
    in_world(async |_, env, shard| {
        let replica = archived(env, shard).await;
        assert_eq!(offset_of(shard, &replica, OffsetSpec::MaxTimestamp).await, Some(4));
        assert_eq!(offset_of(shard, &replica, OffsetSpec::AtTime(time(0))).await, Some(0));
        for local_start in [0, 6] {
            replica.log.trim(replica.log.segments()[local_start].offsets.start);
            let to = Offset::new(5 + local_start as u64);
            assert_eq!(shard.router.trim(shard.address(0), to).await, Ok(to));
            assert!(replica.manifest().log_start < to, "the manifest gets it later");
            assert_eq!(offset_of(shard, &replica, OffsetSpec::AtTime(time(0))).await, Some(to.get()));
            assert_eq!(offset_of(shard, &replica, OffsetSpec::AtTime(time(20))).await, Some(20));
            assert_eq!(offset_of(shard, &replica, OffsetSpec::MaxTimestamp).await, Some(RECORDS - 1));
        }
    });
}

#[test]
fn a_search_passes_over_nothing_that_is_trimmed_meanwhile() {
    in_world(async |_, env, shard| {
        let replica = archived(env, shard).await;
        let segments: Vec<_> = replica.log.segments().iter().map(|segment| segment.offsets.start).collect();
        let (first, then) = (segments[3], segments[7]);
        let wanted = segments[5].next();
        replica.log.trim(first);
        let spec = OffsetSpec::AtTime(time(wanted.get()));
        let remote = shard.partitions.remote();
        // Record 4 is later than the time asked for, unless it is deleted.
        assert_eq!(shard.router.trim(shard.address(0), Offset::new(5)).await, Ok(Offset::new(5)));
        let mut search = Box::pin(list_offset(&*replica, remote.as_ref(), spec));
        assert!(poll!(&mut search).is_pending(), "the bucket is asked");
        replica.log.trim(then);
        let found = search.await.expect("finds").expect("is there");
        assert_eq!((found.offset, found.timestamp), (wanted, Some(time(wanted.get()))));
    });
}

#[test]
fn what_rots_on_disk_is_read_from_the_bucket() {
    in_world(async |world, env, shard| {
        let overrides = BTreeMap::from([("remote.storage.enable".to_owned(), "false".to_owned())]);
        shard.create(2, overrides).await;
        let (kept, lost) = (archived(env, shard).await, filled(shard, 1).await);
        env.tasks.sleep(Duration::from_secs(60)).await;
        for (path, bytes) in world.disk().files() {
            if path.extension().is_some_and(|extension| extension == "log") && !bytes.is_empty() {
                assert!(world.disk().flip_bit(&path, 100, 3));
            }
        }
        let remote = shard.partitions.remote();
        let mut next = Offset::ZERO;
        while next < Offset::new(RECORDS) {
            let (_, range) = batches(&*kept, remote.as_ref(), next, Offset::new(RECORDS), 1).await.expect("reads");
            assert!(range.contains(next), "{range}");
            next = range.end;
        }
        let error = batches(&*lost, remote.as_ref(), Offset::ZERO, Offset::new(RECORDS), 1).await;
        assert!(matches!(error, Err(ReadError::Corrupt(_))), "there is no other copy: {error:?}");
        let error = batches(&*kept, None, Offset::ZERO, Offset::new(RECORDS), 1).await;
        assert!(matches!(error, Err(ReadError::Corrupt(_))), "no bucket: {error:?}");
    });
}
