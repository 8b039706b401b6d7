//! The simulator itself: a seed is a run, and what must not be is noticed.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use tidewater_storage::model::batch::patch;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Compression, LeaderEpoch, Offset, ProducerId, TimestampMs};

use crate::history::{History, Sent};
use crate::invariants::check_past;
use crate::plan::Plan;
use crate::run::{run, run_with};
use crate::seeds::{quietly, shrink};

/// The Iceberg library draws the names of its metadata files by itself.
fn without_drawn_names(line: &str) -> &str {
    line.find("/metadata/").map_or(line, |at| &line[..at])
}

#[test]
fn the_same_seed_twice_is_the_same_run() {
    for seed in [3, 14, 16, 17] {
        let plan = Plan::of(seed, BTreeSet::new());
        let (once, again) = (run(plan.clone(), false), run(plan, false));
        let once: Vec<&str> = once.iter().map(|line| without_drawn_names(line)).collect();
        let again: Vec<&str> = again.iter().map(|line| without_drawn_names(line)).collect();
        let differ = once.iter().zip(&again).position(|(a, b)| a != b);
        let at = differ.unwrap_or(0);
        assert!(
            once == again,
            "seed {seed} differs at {at} of {} and {}: {:?} and {:?}",
            once.len(),
            again.len(),
            once.get(at),
            again.get(at)
        );
        assert!(once.len() > 10, "seed {seed} does something");
    }
}

/// A batch of two records as sent, and as it lies at `base`.
fn batch(n: u8, base: u64) -> (Bytes, Bytes) {
    let mut builder = BatchBuilder::new(Compression::None);
    for _ in 0..2 {
        builder.push(Record::new(TimestampMs(1), None, Some(Bytes::from(vec![n; 9]))));
    }
    let sent = builder.build();
    let mut lies = BytesMut::from(&sent[..]);
    patch(&mut lies, Offset::new(base), LeaderEpoch(1));
    (sent, lies.freeze())
}

/// Batches as sent (numbers), as acknowledged and as read (numbers with offsets).
fn holds(sent: &[u8], acked: &[(u8, u64)], read: &[(u8, u64)]) -> bool {
    let history = History::default();
    for n in sent {
        let producer = Some(ProducerId(1));
        history.sending(0, &batch(*n, 0).0, Sent { writer: 1, n: u64::from(*n), producer, records: 2, acked: None });
    }
    let check = || {
        acked.iter().for_each(|(n, at)| history.acknowledged(0, &batch(*n, 0).0, Some(Offset::new(*at))));
        for (n, at) in read {
            let _ = history.observed(0, &[batch(*n, *at).1]);
        }
        history.with(0, |past| check_past(0, past));
    };
    quietly(check).is_none()
}

#[test]
fn a_past_that_cannot_be_is_noticed() {
    assert!(holds(&[1, 2, 3], &[(1, 0), (2, 2)], &[(1, 0), (2, 2), (3, 4)]), "as it should be");
    assert!(!holds(&[1, 2], &[(1, 0), (2, 2)], &[(1, 0)]), "an acknowledged batch is lost");
    assert!(!holds(&[1, 2], &[(1, 0)], &[(1, 0), (1, 2)]), "a batch lies there twice");
    assert!(!holds(&[1], &[(1, 0)], &[(1, 0), (2, 2)]), "a batch that was not sent");
    assert!(!holds(&[1, 2], &[(1, 0)], &[(1, 0), (2, 4)]), "offsets have a hole");
    assert!(!holds(&[1, 2], &[], &[(2, 0), (1, 2)]), "a producer's batches change places");
    assert!(!holds(&[1, 2], &[(1, 0)], &[(2, 0)]), "another batch lies where one was acknowledged");
    assert!(!holds(&[1, 2], &[(1, 0), (1, 2)], &[(1, 0)]), "one batch is acknowledged twice");
    assert!(!holds(&[1, 2], &[], &[(1, 0), (2, 0)]), "two readers see different bytes");
}

#[test]
fn a_lost_and_a_damaged_object_are_noticed() {
    let named = |world: &crate::world::World| {
        let node = world.way().node().expect("serves");
        let rows = node.replicas(&world.topic()).into_iter().flat_map(|replica| replica.manifest().rows.clone());
        rows.last().expect("something is archived").object().key().as_str().to_owned()
    };
    let plan = || Plan::of(3, BTreeSet::new());
    let lost = || drop(run_with(plan(), false, |world| world.bucket.tamper(&named(world), None)));
    assert!(quietly(lost).is_some());
    let damaged = || {
        drop(run_with(plan(), false, |world| {
            let key = named(world);
            let mut body = world.bucket.objects().remove(&key).expect("is there").to_vec();
            let half = body.len() / 2;
            body.iter_mut().skip(half).take(64).for_each(|byte| *byte ^= 0x55);
            world.bucket.tamper(&key, Some(Bytes::from(body)));
        }));
    };
    assert!(quietly(damaged).is_some());
}

#[test]
fn a_failing_seed_is_made_smaller() {
    let culprit = "e2".to_owned();
    let has_it = |plan: Plan| plan.events.iter().any(|event| event.name == culprit);
    let run = |out: BTreeSet<String>| has_it(Plan::of(11, out)).then(|| "broken".to_owned());
    let whole = Plan::of(11, BTreeSet::new());
    assert!(whole.parts().contains(&culprit), "{:?}", whole.parts());
    let (out, why) = shrink("broken".into(), &|out| Plan::of(11, out).parts(), &run);
    assert_eq!((Plan::of(11, out).parts(), why), (vec![culprit], "broken".to_owned()));
}
