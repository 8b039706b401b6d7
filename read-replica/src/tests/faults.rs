//! A bucket that shows damaged, newer, missing or early objects: the error names the object, what was followed is
//! served still, and following goes on when the bucket is right again.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidewater_storage::model::Offset;
use tidewater_tiering::follow::FollowedPartition;
use tidewater_tiering::keys::{ObjectName, Sequence};
use tidewater_tiering::manifest::Root;
use tidewater_tiering::restore::{self, Restore};
use tidewater_tiering::store::Faults;
use uuid::Uuid;

use super::bench::{Bench, FOLLOWER, name};
use crate::{ReplicaConfig, ReplicaError, Source, SourceParts, TopicPattern, WaitsFor};

/// A source whose archiver rests, followed to its end.
fn followed(seed: u64) -> Bench {
    let bench = Bench::new(seed, Faults::default(), 2);
    bench.live_for(Duration::from_secs(5), 4);
    bench.lane.append(bench.partitions[0], 2, 100);
    bench.live_for(Duration::from_secs(5), 0);
    bench.world.run_for(Duration::from_secs(10));
    bench.equals_source();
    bench
}

/// Archives a little more in one bundle while the follower sees nothing; gives the bundle.
fn one_more(bench: &Bench) -> ObjectName {
    let object = bench.bucket.home.bundle(bench.follower.lane(), bench.follower.status().sequence.next());
    bench.sim.set_faults_for(FOLLOWER, Some(Faults { down: true, ..Faults::default() }));
    bench.lane.append(bench.partitions[0], 2, 100);
    bench.live_for(Duration::from_millis(600), 0);
    assert!(bench.sim.objects().contains_key(object.key().as_str()), "archived");
    object
}

/// What is wrong with an object is shown, and passes once the object is as it was.
fn damaged(seed: u64, expected: &str, change: impl FnOnce(&Bytes) -> Option<Bytes>) {
    let bench = followed(seed);
    let before = bench.follower.status();
    let object = one_more(&bench).key();
    let good = bench.sim.objects()[object.as_str()].clone();
    bench.sim.tamper(object.as_str(), change(&good));
    bench.sim.set_faults_for(FOLLOWER, None);
    bench.world.run_for(Duration::from_secs(4));
    let status = bench.follower.status();
    assert_eq!(status.sequence, before.sequence);
    let error = status.error.expect("shown");
    assert!(error.contains(expected), "{error}");
    bench.reads_back(bench.partitions[1]);
    bench.sim.tamper(object.as_str(), Some(good));
    bench.world.run_for(Duration::from_secs(15));
    assert_eq!(bench.follower.status().error, None);
    bench.equals_source();
}

#[test]
fn a_damaged_bundle_is_named_and_passed_once_it_is_whole() {
    let flip = |good: &Bytes, from_end: usize| {
        let mut body = BytesMut::from(&good[..]);
        let at = body.len() - from_end;
        body[at] ^= 1;
        Some(body.freeze())
    };
    damaged(41, "checksum", |good| flip(good, 60));
    damaged(42, "Tidewater trailer", |good| Some(good.slice(..good.len() / 2)));
}

#[test]
fn a_bundle_of_a_newer_version_asks_for_an_update() {
    let newer = |good: &Bytes| {
        let mut body = BytesMut::from(&good[..]);
        let trailer = body.len() - 32;
        body[trailer + 17] = 99;
        let crc = crc32c::crc32c(&body[trailer..trailer + 20]);
        body[trailer + 20..trailer + 24].copy_from_slice(&crc.to_be_bytes());
        Some(body.freeze())
    };
    damaged(43, "update this one", newer);
}

#[test]
fn a_bucket_that_is_away_changes_nothing_but_the_lag() {
    let bench = followed(44);
    let before = bench.follower.status();
    one_more(&bench);
    bench.world.run_for(Duration::from_secs(60));
    let status = bench.follower.status();
    assert_eq!((status.sequence, status.partitions), (before.sequence, before.partitions));
    assert!(status.lag_ms.is_some_and(|lag| lag >= 60_000), "{status:?}");
    assert!(status.error.is_some());
    bench.sim.set_faults_for(FOLLOWER, None);
    bench.world.run_for(Duration::from_secs(15));
    bench.equals_source();
}

#[test]
fn a_manifest_that_shows_before_its_pages_is_taken_over_later() {
    let bench = followed(45);
    let object = bench.follower.status().sequence.next();
    one_more(&bench);
    bench.live_for(Duration::from_secs(4), 0);
    let pages: Vec<(String, Bytes)> =
        bench.sim.objects().into_iter().filter(|(key, _)| key.contains("/pages/")).collect();
    pages.iter().for_each(|(key, _)| bench.sim.tamper(key, None));
    bench.sim.set_faults_for(FOLLOWER, None);
    bench.world.run_for(Duration::from_secs(8));
    let status = bench.follower.status();
    assert!(status.error.as_ref().is_none_or(|error| error.contains("not in the bucket yet")), "{status:?}");
    assert_eq!(status.sequence, object, "bundles go on by the base before");
    pages.into_iter().for_each(|(key, body)| bench.sim.tamper(&key, Some(body)));
    bench.world.run_for(Duration::from_secs(15));
    assert_eq!(bench.follower.status().error, None);
    bench.equals_source();
}

#[test]
fn a_root_that_cannot_be_used_keeps_what_is_known() {
    let bench = followed(46);
    let changed = Rc::new(std::cell::Cell::new(0));
    let heard = Rc::clone(&changed);
    let source = Source::new(SourceParts {
        env: bench.world.env_of(30),
        store: bench.sim.store_for(FOLLOWER),
        name: name(),
        topics: "t1".parse::<TopicPattern>().expect("legal"),
        config: ReplicaConfig::default(),
        changed: Rc::new(move || heard.set(heard.get() + 1)),
    });
    bench.world.block_on(source.look()).expect("good");
    let state = source.state().expect("known");
    assert_eq!((state.home, state.topics.len()), (bench.bucket.home, 1), "of two topics");
    let key = name().root_key();
    let good = bench.sim.objects()[key.as_str()].clone();
    let text = String::from_utf8(good.to_vec()).expect("JSON");
    let error = |body: Option<Bytes>| {
        bench.sim.tamper(key.as_str(), body);
        bench.world.block_on(source.look()).expect_err("refused")
    };
    let newer = error(Some(text.replace("\"format\": 1", "\"format\": 99").into()));
    assert!(newer.to_string().contains("update this one"), "{newer}");
    let other =
        error(Some(text.replace(&bench.bucket.home.cluster.to_string(), &Uuid::from_u128(9).to_string()).into()));
    assert!(other.to_string().contains("create it again"), "{other}");
    assert!(matches!(error(Some(Bytes::from_static(b"{"))), ReplicaError::Pointer { .. }));
    assert!(matches!(error(None), ReplicaError::NoCluster { .. }));
    assert_eq!(source.state(), Some(state));
    bench.sim.tamper(key.as_str(), Some(good));
    bench.world.block_on(source.look()).expect("good again");
    let before = source.status().requests.roots;
    bench.world.block_on(source.look()).expect("good again");
    assert_eq!((source.status().requests.roots - before, changed.get()), (2, 1), "root and catalogue, nothing new");
}

#[test]
fn a_restored_source_is_followed_in_its_new_epoch() {
    let bench = followed(47);
    bench.lane.append(bench.partitions[0], 5, 100);
    let machine = bench.world.env_of(50);
    let nonces = Arc::new(std::sync::atomic::AtomicU64::new(1 << 40));
    let restore = Restore {
        store: bench.sim.store_for(50),
        name: name(),
        accept_damage: false,
        now: machine.clock.wall(),
        nonce: Arc::new(move || {
            tidewater_tiering::keys::Nonce(nonces.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
        }),
        progress: Arc::new(|_| {}),
    };
    let attempt = bench.world.block_on(async {
        let root = restore.root().await.expect("reads");
        let attempt = restore::begin(&root, Uuid::from_u128(1), false).expect("begins");
        restore.run(&attempt).await.expect("restored");
        attempt
    });
    bench.world.run_for(Duration::from_secs(20));
    let status = bench.follower.status();
    assert_eq!((status.home, status.error.clone()), (attempt.home(), None));
    assert_eq!(status.waits_for, WaitsFor::Bundle(Sequence(1)));
    let root = Root::decode(&bench.sim.objects()[name().root_key().as_str()]).expect("decodes");
    assert_eq!(root.home(), attempt.home());
    bench.equals_source();
    let epochs = bench.follower.with_partition(bench.partitions[0], FollowedPartition::leader_epoch);
    assert!(epochs.flatten().is_some(), "known from the restored pages");
    assert!(bench.follower.partition(bench.partitions[0]).high_watermark() > Offset::ZERO);
}
