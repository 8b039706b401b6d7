//! The store against a map: random commits, power cuts at any moment, torn slots, damage.
#![allow(clippy::panic)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::page::Records;
use super::*;
use crate::disposition::Disposition;
use crate::env::Env;
use crate::env::sim::{Fault, Operation, World};
use crate::log::sample;
use crate::model::LaneId;

type Changes = BTreeMap<Key, Option<Bytes>>;

fn dir() -> PathBuf {
    "/data/0".into()
}

async fn open(env: &Env) -> Result<(CheckpointStore, Records), CheckpointError> {
    env.disk.create_dir_all(&dir()).await.expect("makes");
    CheckpointStore::open(env.disk.clone(), &dir()).await
}

fn changes(env: &Env, keys: u64, bytes: u64) -> Changes {
    let mut out = Changes::new();
    for _ in 0..1 + env.rng.below(6) {
        let n = env.rng.below(keys) as i32;
        let key = if n == 0 { Key::Lane(LaneId(7)) } else { Key::Partition(sample::partition(n)) };
        let mut blob = vec![0; env.rng.below(bytes) as usize];
        env.rng.fill(&mut blob);
        out.insert(key, (env.rng.below(5) > 0).then(|| blob.into()));
    }
    out
}

fn apply(to: &mut Records, changes: &Changes) {
    for (key, change) in changes {
        match change {
            Some(blob) => drop(to.insert(*key, blob.clone())),
            None => drop(to.remove(key)),
        }
    }
}

#[test]
fn commits_and_opens_again() {
    for seed in 0..40 {
        let world = World::new(seed);
        let env = world.env();
        world.block_on(async {
            let mut model = Records::new();
            for life in 0..4 {
                let (mut store, records) = open(&env).await.expect("opens");
                assert!(records == model, "seed {seed} life {life}");
                for _ in 0..15 {
                    let changes = changes(&env, 60, 9_000);
                    apply(&mut model, &changes);
                    store.commit(changes).await.expect("commits");
                }
            }
        });
    }
}

#[test]
fn a_power_cut_at_any_moment_leaves_the_last_commit_or_the_one_under_way() {
    for seed in 0..300 {
        let world = World::new(seed);
        let mut possible = vec![Records::new()];
        for life in 0..6 {
            let env = world.env();
            // (durable, in progress)
            let seen: Rc<RefCell<Vec<Records>>> = Rc::default();
            let task = env.tasks.spawn("committer", {
                let (env, seen, possible) = (env.clone(), seen.clone(), possible.clone());
                async move {
                    let (mut store, records) = open(&env).await.expect("opens after any crash");
                    assert!(possible.contains(&records), "seed {seed} life {life}: not a state that was committed");
                    let mut model = records;
                    seen.borrow_mut().push(model.clone());
                    loop {
                        let changes = changes(&env, 30, 6_000);
                        apply(&mut model, &changes);
                        seen.borrow_mut().push(model.clone());
                        store.commit(changes).await.expect("commits");
                        let mut seen = seen.borrow_mut();
                        let last = seen.len() - 1;
                        seen.drain(..last);
                    }
                }
            });
            world.run_for(Duration::from_micros(50 + env.rng.below(8_000)));
            drop(task);
            if env.rng.below(3) == 0 {
                world.kill()
            } else {
                world.crash()
            }
            // After a kill, a later power cut may still lose the commit: both states stay possible.
            let mut seen = seen.borrow().clone();
            if seen.is_empty() {
                seen = possible;
            }
            possible = seen;
        }
    }
}

#[test]
fn a_torn_slot_gives_way_to_the_other_and_two_are_told() {
    let world = World::new(3);
    let env = world.env();
    world.block_on(async {
        let (mut store, _) = open(&env).await.expect("opens");
        let blob = |byte| Some(Bytes::from(vec![byte; 100]));
        store.commit(Changes::from([(Key::Shard, blob(1))])).await.expect("commits");
        store.commit(Changes::from([(Key::Shard, blob(2))])).await.expect("commits");
        assert!(world.disk().flip_bit(Path::new("/data/0/checkpoint.0"), 30, 1));
        let (store, records) = open(&env).await.expect("opens");
        assert_eq!((store.generation(), records.get(&Key::Shard).cloned()), (1, blob(1)));
        assert!(world.disk().flip_bit(Path::new("/data/0/checkpoint.1"), 0, 1));
        let error = open(&env).await.expect_err("nothing is left");
        assert!(matches!(error, CheckpointError::NoRoot { .. }) && error.to_string().contains("restore"), "{error}");
    });
}

#[test]
fn a_damaged_page_is_told() {
    let world = World::new(3);
    let env = world.env();
    world.block_on(async {
        let (mut store, _) = open(&env).await.expect("opens");
        store.commit(Changes::from([(Key::Shard, Some(Bytes::from(vec![5; 9_000])))])).await.expect("commits");
        assert!(world.disk().flip_bit(Path::new("/data/0/checkpoint.pages"), 5_000, 1));
        let error = open(&env).await.expect_err("is damaged");
        assert!(matches!(error, CheckpointError::Page { bucket: 0, block: 0, .. }), "{error}");
    });
}

fn blob(byte: u8) -> Option<Bytes> {
    Some(Bytes::from(vec![byte; 100]))
}

#[test]
fn a_damaged_page_of_the_newest_root_gives_way_to_the_one_before() {
    let world = World::new(3);
    let env = world.env();
    world.block_on(async {
        let (mut store, _) = open(&env).await.expect("opens");
        for byte in 1..4 {
            store.commit(Changes::from([(Key::Shard, blob(byte))])).await.expect("commits");
        }
        let block = store.newest_pages()[0].block;
        assert!(world.disk().flip_bit(Path::new("/data/0/checkpoint.pages"), block * 4096 + 50, 1));
        for byte in 4..9 {
            let (mut store, records) = open(&env).await.expect("opens");
            let want = if byte == 4 { blob(2) } else { blob(byte - 1) };
            assert_eq!(records.get(&Key::Shard).cloned(), want);
            store.commit(Changes::from([(Key::Shard, blob(byte))])).await.expect("commits");
        }
    });
}

#[test]
fn a_page_that_rots_is_told_apart_and_a_whole_commit_does_without_it() {
    for unreadable in [false, true] {
        let world = World::new(3);
        let env = world.env();
        world.block_on(async {
            let (mut store, _) = open(&env).await.expect("opens");
            store.commit(Changes::from([(Key::Shard, blob(1))])).await.expect("commits");
            let path = "checkpoint.pages".to_owned();
            if unreadable {
                let error = std::io::ErrorKind::Other;
                world.disk().inject(Fault { operation: Operation::Read, path, after: 0, error });
            } else {
                assert!(world.disk().flip_bit(&dir().join(path), 50, 1));
            }
            let lost = store.commit(Changes::from([(Key::Lane(LaneId(7)), blob(2))])).await.expect_err("is lost");
            assert!(lost.is_lost_page(), "{lost}");
            let all = || {
                let many = (0..900).map(|n| (Key::Partition(sample::partition(n)), Bytes::from(vec![1; 3_000])));
                many.chain(blob(3).map(|blob| (Key::Shard, blob))).collect::<Records>()
            };
            store.commit_whole(all()).await.expect("commits");
            store.commit(Changes::from([(Key::Shard, blob(4))])).await.expect("commits");
            let mut want = all();
            want.insert(Key::Shard, blob(4).expect("some"));
            assert!(open(&env).await.expect("opens").1 == want);
        });
    }
}

#[test]
fn a_slot_that_cannot_be_read_is_as_good_as_a_torn_one() {
    let world = World::new(3);
    let env = world.env();
    world.block_on(async {
        let (mut store, _) = open(&env).await.expect("opens");
        store.commit(Changes::from([(Key::Shard, blob(1))])).await.expect("commits");
        for (slot, generation) in [("checkpoint.0", 1), ("checkpoint.1", 0)] {
            let error = std::io::ErrorKind::Other;
            world.disk().inject(Fault { operation: Operation::Read, path: slot.into(), after: 0, error });
            assert_eq!(open(&env).await.expect("opens").0.generation(), generation);
        }
    });
}

#[test]
fn what_did_not_change_is_not_written_again() {
    let world = World::new(3);
    let env = world.env();
    world.block_on(async {
        let (mut store, _) = open(&env).await.expect("opens");
        let all = (0..2_000).map(|n| (Key::Partition(sample::partition(n)), Some(Bytes::from(vec![1; 3_000]))));
        let first = store.commit(all.collect()).await.expect("commits");
        let one = Changes::from([(Key::Partition(sample::partition(7)), Some(Bytes::from(vec![2; 3_000])))]);
        for _ in 0..100 {
            let next = store.commit(one.clone()).await.expect("commits");
            assert!(next.pages == 1 && next.bytes < 100_000, "{next:?}");
        }
        assert!(store.disk_bytes() < first.bytes + (2 << 20), "{} after {}", store.disk_bytes(), first.bytes);
    });
}

#[test]
fn a_failed_write_leaves_the_store_as_it_was() {
    for path in ["checkpoint.pages", "checkpoint.0"] {
        let world = World::new(3);
        let env = world.env();
        world.block_on(async {
            let (mut store, _) = open(&env).await.expect("opens");
            let changes = |byte| Changes::from([(Key::Shard, Some(Bytes::from(vec![byte; 100])))]);
            store.commit(changes(1)).await.expect("commits");
            let error = std::io::ErrorKind::StorageFull;
            world.disk().inject(Fault { operation: Operation::Write, path: path.into(), after: 0, error });
            let failed = store.commit(changes(2)).await.expect_err("the disk is full");
            assert_eq!(failed.disposition(), Disposition::Retry, "{failed}");
            world.disk().clear_faults();
            store.commit(changes(3)).await.expect("commits");
            assert_eq!(open(&env).await.expect("opens").1, BTreeMap::from([(Key::Shard, Bytes::from(vec![3; 100]))]));
        });
    }
}

proptest! {
    #[test]
    fn hostile_roots_and_pages_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), seal in any::<bool>()) {
        if seal && bytes.len() >= 48 {
            let root = Root { generation: 5, bytes: 0, pages: vec![PageRef::default()] }.encode();
            bytes[..8].copy_from_slice(&root[..8]);
            bytes[24..28].copy_from_slice(&root[24..28]);
            let crc = crc32c::crc32c(&bytes[..44]);
            bytes[44..48].copy_from_slice(&crc.to_be_bytes());
        }
        let bytes = Bytes::from(bytes);
        let _ = Root::decode(&bytes);
        let _ = page::decode(0, crc32c::crc32c(&bytes), bytes.clone());
        let mut page = page::MAGIC.to_be_bytes().to_vec();
        page.extend_from_slice(&bytes);
        let _ = page::decode(0, crc32c::crc32c(&page), page.into());
    }

    #[test]
    fn every_flip_in_a_root_is_seen(at in 0usize..100, bit in 0u8..8) {
        let pages = vec![PageRef { block: 3, len: 77, crc: 9 }; 2];
        let mut bytes = Root { generation: 5, bytes: 10, pages }.encode();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(Root::decode(&bytes.into()).is_err());
    }
}
