//! One topic read from the bucket, now and in cuts, beside an archiver that gathers, trims and deletes: it ends where the
//! lane ends, or ended, and all of it is there.

use tidewater_storage::model::TopicName;

use super::cuts::with_cuts;
use super::restored::{archived, of};
use super::*;
use crate::manifest::check_partition;
use crate::restore::{FoundTopic, RestoreError, TopicState};

fn name(id: PartitionId) -> TopicName {
    TopicName::new(&format!("t{}", id.topic.0.as_u128())).expect("legal")
}

/// Reads all that the found topic has of the partition; its end.
async fn read(bench: &Bench, found: &FoundTopic, id: PartitionId) -> Offset {
    let (manifest, _) = found.partitions.iter().find(|(manifest, _)| manifest.id == id).expect("the partition");
    check_partition(manifest).expect("holds");
    let (mut at, end) = (manifest.log_start, manifest.archived_end);
    while at < end {
        let read = bench.reader.read_batches(RemoteReader::view(manifest, at), at, end, 1 << 20).await;
        let read = read.unwrap_or_else(|error| unreachable!("{id} at {at}: {error}"));
        assert!(read.range.start <= at && read.range.end > at, "{id} at {at}: {}", read.range);
        at = read.range.end;
    }
    assert_eq!(at, end, "{id}");
    end
}

#[test]
fn a_topic_that_is_read_alone_has_all_that_was_archived_now_and_in_each_cut() {
    let (mut topics, mut older) = (0, 0);
    for seed in 0..4 {
        let (bench, known) = with_cuts(980 + seed);
        bench.settle();
        bench.sim.set_faults(Faults::default());
        let (env, last) = (bench.world.env_of(20), archived(&bench));
        let restore = of(&bench, &env);
        for (id, end) in &last {
            let found = bench.world.block_on(restore.topic(&name(*id), TopicState::Newest)).expect("is found");
            assert_eq!((bench.world.block_on(read(&bench, &found, *id)), found.cut), (*end, None));
            let of_lane = restore.partitions_of(found.home, None, bench.lane.lane(), id.topic);
            let of_lane = bench.world.block_on(of_lane).expect("reads");
            let (manifest, _) = found.partitions.iter().find(|(found, _)| found.id == *id).expect("is there");
            assert_eq!((of_lane.get(id), of_lane.keys().all(|other| other.topic == id.topic)), (Some(manifest), true));
            topics += 1;
        }
        for cut in bench.index().cuts {
            let known = known.borrow().get(&cut.number).cloned().unwrap_or_default();
            for (id, before) in known {
                let state = TopicState::Cut(Some(cut.at));
                let found = bench.world.block_on(restore.topic(&name(id), state)).expect("is found");
                let end = bench.world.block_on(read(&bench, &found, id));
                let now = last.iter().find(|(other, _)| *other == id).map(|(_, end)| *end);
                assert!(before <= end && Some(end) <= now, "{id}: {before} <= {end} <= {now:?}");
                assert_eq!(found.cut.map(|cut| cut.number), Some(cut.number));
                older += u32::from(Some(end) < now);
            }
        }
        let nothing = TopicName::new("nothing").expect("legal");
        let missing = bench.world.block_on(restore.topic(&nothing, TopicState::Newest));
        assert!(matches!(missing, Err(RestoreError::NoTopic { ref others, .. }) if !others.is_empty()), "{missing:?}");
        let early = bench.world.block_on(restore.topic(&name(last[0].0), TopicState::Cut(Some(TimestampMs(0)))));
        assert!(matches!(early, Err(RestoreError::NoCut { .. })), "{early:?}");
    }
    assert!(topics > 0 && older > 10, "{older} partitions in cuts ended earlier than now");
}

#[test]
fn a_cut_that_is_in_use_is_not_released() {
    let (bench, _) = with_cuts(990);
    bench.settle();
    bench.sim.set_faults(Faults::default());
    let first = bench.index().cuts.first().expect("one").number;
    let mut maker = bench.maker();
    maker.in_use.insert(first);
    let much_later = TimestampMs(bench.env.clock.wall().0 + 30 * 86_400_000);
    bench.world.block_on(maker.release_old(much_later)).expect("releases");
    bench.world.block_on(maker.release_all()).expect("releases");
    let left: Vec<u64> = bench.index().cuts.iter().map(|cut| cut.number).collect();
    assert_eq!(left, [first]);
    maker.in_use.clear();
    bench.world.block_on(maker.release_old(much_later)).expect("releases");
    assert_eq!(bench.index().cuts, []);
}
