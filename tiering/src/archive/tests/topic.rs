//! One topic read from the bucket, now and in cuts, beside an archiver that gathers, trims and deletes: it ends where
//! the lane ends, or ended, and all of it is there.

use tidewater_storage::model::TopicName;

use super::cuts::{quiet_bench, with_cuts};
use super::restored::{archived, of};
use super::*;
use crate::cuts::{CutEntry, CutMaker, hold_cut};
use crate::keys::ClusterName;
use crate::manifest::{Catalogue, CatalogueCopy, CopyOrigin, check_partition};
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
    bench.world.block_on(maker.release_all(bench.env.clock.wall())).expect("releases");
    let left: Vec<u64> = bench.index().cuts.iter().map(|cut| cut.number).collect();
    assert_eq!(left, [first]);
    maker.in_use.clear();
    bench.world.block_on(maker.release_old(much_later)).expect("releases");
    assert_eq!(bench.index().cuts, []);
}

#[test]
fn a_cut_that_a_copy_is_about_to_begin_from_is_not_released() {
    let (bench, _) = with_cuts(991);
    bench.settle();
    bench.sim.set_faults(Faults::default());
    let (store, home, maker) = (bench.sim.store(), bench.bucket.home, bench.maker());
    let first = bench.index().cuts.first().expect("one").number;
    let now = bench.env.clock.wall();
    let hold = |until| bench.world.block_on(hold_cut(&*store, home, first, until));
    assert_eq!((hold(now.plus_ms(600_000)), hold(now)), (Ok(true), Ok(true)), "the longer one counts");
    bench.world.block_on(maker.release_all(now)).expect("releases");
    let left: Vec<u64> = bench.index().cuts.iter().map(|cut| cut.number).collect();
    assert_eq!(left, [first]);
    bench.world.block_on(maker.release_all(now.plus_ms(600_000))).expect("releases");
    assert_eq!((bench.index().cuts, hold(now)), (vec![], Ok(false)));
}

#[test]
fn a_cut_says_which_cuts_its_copies_need_and_they_stay_as_long_as_it_does() {
    let bench = quiet_bench(992);
    let (home, mut maker) = (bench.bucket.home, bench.maker());
    let key = home.name(ObjectKind::Catalogue).key();
    let cut = |maker: &CutMaker, copy: Option<CopyOrigin>| -> CutEntry {
        let mut catalogue = Catalogue::decode(&bench.sim.objects()[key.as_str()]).expect("reads");
        let copy = copy.map(|origin| CatalogueCopy { origin, partitions: vec![], began: TimestampMs(0) });
        catalogue.topics[0].copy = copy.map(Box::new);
        // Or there would be nothing new to make a cut of.
        catalogue.revision += 1;
        bench.sim.tamper(key.as_str(), Some(catalogue.encode()));
        bench.world.block_on(bench.cut(maker)).expect("made").newest.expect("one")
    };
    let kept = || -> Vec<u64> { bench.index().cuts.iter().map(|cut| cut.number).collect() };
    // The first of its minute stays in any case.
    let (first, copied) = (cut(&maker, None), cut(&maker, None));
    let origin = CopyOrigin {
        url: None,
        cluster_name: ClusterName::new("tidewater").expect("legal"),
        cluster: home.cluster.0,
        epoch: home.epoch.0,
        topic: name(bench.partitions[0]),
        topic_id: bench.partitions[0].topic,
        cut: Some(copied.number),
        at: copied.at,
    };
    let with_copy = cut(&maker, Some(origin));
    assert_eq!((copied.needs, &with_copy.needs), (vec![], &vec![copied.number]));
    // The copy is complete; something holds the cut in which it is not.
    maker.in_use.insert(with_copy.number);
    let last = cut(&maker, None);
    assert_eq!(kept(), [first.number, copied.number, with_copy.number, last.number]);
    maker.in_use.clear();
    let last = cut(&maker, None);
    assert_eq!(kept(), [first.number, last.number]);
}
