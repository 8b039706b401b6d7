//! One condition each, on the simulated disk. Crashes at random points: `tests/journal_crash.rs`.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::env::sim::{Fault, Operation, World};
use crate::model::Term;

const DIR: &str = "/journal";

fn small() -> JournalConfig {
    JournalConfig {
        first_file_bytes: 32 << 10,
        file_bytes: 32 << 10,
        capacity_bytes: 256 << 10,
        memory_bytes: 4096,
        commit_bytes: 8192,
        spare_files: 1,
    }
}

fn entry(term: u64, index: u64, len: usize) -> JournalEntry {
    let id = EntryId { term: Term(term), index: LogIndex(index) };
    let blob = Bytes::from(vec![index as u8; len]);
    JournalEntry { id, payload: Payload { meta: Bytes::from_static(b"meta"), blobs: vec![blob], verified: false } }
}

async fn open(env: &Env) -> Result<Journal, JournalOpenError> {
    Journal::open(env.clone(), Path::new(DIR), small()).await
}

async fn append(log: &LaneLog, entries: Vec<JournalEntry>) -> Result<(), JournalError> {
    let (sender, done) = futures::channel::oneshot::channel();
    log.append(entries, Box::new(move |result| drop(sender.send(result))));
    done.await.unwrap_or(Err(JournalError::Closed))
}

const LANE: LaneId = LaneId(4);

fn with_entries(world: &World, count: u64) {
    let env = world.env();
    world.block_on(async move {
        let journal = open(&env).await.expect("opens");
        for index in 0..count {
            append(&journal.lane(LANE), vec![entry(1, index, 3000)]).await.expect("appends");
        }
    });
    world.kill();
}

fn reopened<T: 'static>(world: &World, look: impl AsyncFnOnce(Journal) -> T + 'static) -> Result<T, JournalOpenError> {
    let env = world.env();
    let result = world.block_on(async move {
        let journal = open(&env).await?;
        Ok(look(journal).await)
    });
    world.kill();
    result
}

#[test]
fn completions_come_in_order_and_share_commits() {
    let world = World::new(1);
    let env = world.env();
    let order = Rc::new(RefCell::new(Vec::new()));
    let seen = order.clone();
    let commits = world.block_on(async move {
        let journal = open(&env).await.expect("opens");
        let logs = [journal.lane(LaneId(1)), journal.lane(LaneId(2))];
        for index in 0..50 {
            for (lane, log) in logs.iter().enumerate() {
                let seen = seen.clone();
                let done = Box::new(move |result: Result<(), JournalError>| {
                    result.expect("appends");
                    seen.borrow_mut().push((index, lane));
                });
                log.append(vec![entry(1, index, 100)], done);
            }
        }
        journal.flush().await.expect("flushes");
        journal.usage().commits
    });
    let expected: Vec<_> = (0..50).flat_map(|index| [(index, 0), (index, 1)]).collect();
    assert_eq!(*order.borrow(), expected);
    assert!(commits < 10, "100 appends took {commits} commits");
}

#[test]
fn an_append_with_a_hole_or_too_large_is_refused() {
    let world = World::new(1);
    let env = world.env();
    world.block_on(async move {
        let journal = open(&env).await.expect("opens");
        let log = journal.lane(LANE);
        append(&log, vec![entry(1, 0, 10)]).await.expect("appends");
        let hole = append(&log, vec![entry(1, 2, 10)]).await;
        assert!(matches!(hole, Err(JournalError::NotContiguous { expected: LogIndex(1), .. })), "{hole:?}");
        let large = append(&log, vec![entry(1, 1, 32 << 10)]).await;
        assert!(matches!(large, Err(JournalError::EntryTooLarge { .. })), "{large:?}");
        let max = journal.entry_bytes_max() as usize - format::entry_record_len(&entry(1, 1, 0).payload);
        append(&log, vec![entry(1, 1, max)]).await.expect("the largest fits");
        assert_eq!(log.state().last, Some(entry(1, 1, 0).id));
    });
}

#[test]
fn a_failed_write_or_sync_poisons_it() {
    for operation in [Operation::Write, Operation::Sync] {
        let world = World::new(1);
        let env = world.env();
        let disk = world.disk();
        world.block_on(async move {
            let journal = open(&env).await.expect("opens");
            let log = journal.lane(LANE);
            env.tasks.sleep(Duration::from_millis(20)).await;
            append(&log, vec![entry(1, 0, 10)]).await.expect("appends");
            disk.inject(Fault { operation, path: "00000001".into(), after: 0, error: io::ErrorKind::Other });
            let failed = append(&log, vec![entry(1, 1, 10)]).await.expect_err("the disk failed");
            assert!(matches!(failed, JournalError::Poisoned { .. }), "{failed}");
            append(&log, vec![entry(1, 2, 10)]).await.expect_err("and stays so");
            log.save_vote(Bytes::from_static(b"v")).await.expect_err("for votes too");
            assert!(journal.failure().is_some());
        });
    }
}

#[test]
fn damage_to_what_is_proven_durable_is_refused_and_named() {
    for (position, sequence) in [(0u64, 1u64), (4096, 2), (8192, 3)] {
        let world = World::new(position);
        with_entries(&world, 5);
        let path = Path::new(DIR).join("00000001.journal");
        assert!(world.disk().flip_bit(&path, position + 200, 3));
        let error = reopened(&world, async |_| ()).expect_err("refuses");
        match &error {
            JournalOpenError::Corrupt { file, at, sequence: missing, .. } => {
                assert_eq!((file, at.0, *missing), (&path, position, sequence));
            }
            other => unreachable!("{other}"),
        }
        assert!(error.to_string().contains("00000001.journal is corrupt at"), "{error}");
    }
}

#[test]
fn a_torn_last_commit_is_the_end() {
    let world = World::new(1);
    with_entries(&world, 5);
    assert!(world.disk().flip_bit(&Path::new(DIR).join("00000001.journal"), 4 * 4096 + 200, 3));
    let last = reopened(&world, async |journal| journal.lane(LANE).state().last).expect("opens");
    assert_eq!(last, Some(entry(1, 3, 0).id));
}

#[test]
fn a_wiped_journal_is_refused() {
    let world = World::new(1);
    with_entries(&world, 12);
    reopened(&world, async |journal| journal.flush().await.expect("flushes")).expect("opens");
    let disk = world.disk();
    for number in 1..4 {
        let path = Path::new(DIR).join(format!("{number:08}.journal"));
        let len = disk.contents(&path).map_or(0, |bytes| bytes.len());
        disk.overwrite(&path, 0, &vec![0; len]);
    }
    let error = reopened(&world, async |_| ()).expect_err("refuses");
    assert!(matches!(error, JournalOpenError::Lost { .. }), "{error}");
}

#[test]
fn a_damaged_or_missing_layout_is_refused() {
    let world = World::new(1);
    with_entries(&world, 2);
    let path = Path::new(DIR).join(layout::LAYOUT_FILE);
    assert!(world.disk().flip_bit(&path, 20, 1));
    let error = reopened(&world, async |_| ()).expect_err("refuses");
    assert!(matches!(error, JournalOpenError::Layout { .. }), "{error}");
    let env = world.env();
    world.block_on(async move { env.disk.remove_file(&path).await.expect("removes") });
    let error = reopened(&world, async |_| ()).expect_err("refuses");
    assert!(matches!(error, JournalOpenError::LayoutMissing { .. }), "{error}");
}

#[test]
fn a_layout_without_live_files_or_with_one_twice_is_refused() {
    let world = World::new(1);
    with_entries(&world, 12);
    let path = Path::new(DIR).join(layout::LAYOUT_FILE);
    let written = layout::Layout::decode(&world.disk().contents(&path).expect("a layout")).expect("decodes");
    assert!(written.files.len() > 1, "there is more than the head");
    let mut none_live = written.clone();
    none_live.files.retain(|file| file.generation == 0);
    let mut one_twice = written.clone();
    let generation = one_twice.files.iter().map(|file| file.generation).max().expect("a head");
    one_twice.files.iter_mut().for_each(|file| file.generation = generation);
    for wrong in [none_live, one_twice] {
        world.disk().place(&path, &wrong.encode());
        let error = reopened(&world, async |_| ()).expect_err("refuses");
        assert!(matches!(error, JournalOpenError::Layout { .. }), "{error}");
    }
    world.disk().place(&path, &written.encode());
    reopened(&world, async |_| ()).expect("opens with its own layout");
}

#[test]
fn an_entry_that_rotted_is_an_error_not_data() {
    let world = World::new(1);
    let env = world.env();
    let disk = world.disk();
    world.block_on(async move {
        let journal = open(&env).await.expect("opens");
        let log = journal.lane(LANE);
        for index in 0..6 {
            append(&log, vec![entry(1, index, 3000)]).await.expect("appends");
        }
        assert!(disk.flip_bit(&Path::new(DIR).join("00000001.journal"), 4096 + 1000, 0));
        let read = log.read(LogIndex(1)..LogIndex(2), 1).await;
        assert!(matches!(read, Err(JournalError::Corrupt { index: LogIndex(1), .. })), "{read:?}");
        assert_eq!(log.read(LogIndex(5)..LogIndex(9), 1).await.expect("reads").len(), 1);
    });
}

#[test]
fn purged_files_are_recycled_and_the_journal_stays_small() {
    let world = World::new(1);
    let env = world.env();
    world.block_on(async move {
        let journal = open(&env).await.expect("opens");
        let log = journal.lane(LANE);
        journal.lane(LaneId(9)).save_vote(Bytes::from_static(b"kept")).await.expect("votes");
        for index in 0..400 {
            append(&log, vec![entry(1, index, 3000)]).await.expect("appends");
            if index > 5 {
                log.purge(entry(1, index - 5, 0).id);
            }
            assert_eq!(journal.pressure(), Pressure::None);
        }
        env.tasks.sleep(Duration::from_millis(50)).await;
        assert!(journal.usage().disk_bytes <= 5 * small().file_bytes, "{:?}", journal.usage());
        let files = env.disk.list(Path::new(DIR)).await.expect("lists").len();
        assert!(files <= 6, "{files} files");
    });
    world.crash();
    let (vote, last) =
        reopened(&world, async |journal| (journal.lane(LaneId(9)).state().vote, journal.lane(LANE).state().last))
            .expect("opens");
    assert_eq!((vote.as_deref(), last), (Some(&b"kept"[..]), Some(entry(1, 399, 0).id)));
}

#[test]
fn files_that_a_load_needs_are_kept_and_given_up_when_the_disk_is_short() {
    let world = World::new(1);
    let env = world.env();
    world.block_on(async move {
        let journal = open(&env).await.expect("opens");
        let log = journal.lane(LANE);
        // Five files between any two purges.
        for index in 0..600 {
            append(&log, vec![entry(1, index, 3000)]).await.expect("appends");
            if index % 40 == 39 {
                log.purge(entry(1, index - 1, 0).id);
                journal.flush().await.expect("flushes");
                env.tasks.sleep(Duration::from_millis(20)).await;
            }
        }
        let names: Vec<String> =
            env.disk.list(Path::new(DIR)).await.expect("lists").into_iter().map(|e| e.name).collect();
        let made = names.iter().filter(|name| name.ends_with(".journal")).max().expect("a file");
        assert!(made.as_str() <= "00000008.journal", "the load goes on in the files it has: {names:?}");
        let held = journal.usage().disk_bytes;
        assert!(held >= 5 * small().file_bytes && held <= 8 * small().file_bytes, "{held}");
        journal.give_up_spares();
        env.tasks.sleep(Duration::from_millis(20)).await;
        assert!(journal.usage().disk_bytes <= 4 * small().file_bytes, "{:?}", journal.usage());
        append(&log, vec![entry(1, 600, 3000)]).await.expect("goes on");
    });
    world.crash();
    let last = reopened(&world, async |journal| journal.lane(LANE).state().last).expect("opens");
    assert_eq!(last, Some(entry(1, 600, 0).id));
}

#[test]
fn what_will_be_applied_is_read_once() {
    let world = World::new(1);
    with_entries(&world, 8);
    let (env, disk) = (world.env(), world.disk());
    world.block_on(async move {
        let covered = BTreeMap::from([(LANE, LogIndex(3))]);
        let journal = Journal::open_behind(env.clone(), Path::new(DIR), small(), Some(covered)).await.expect("opens");
        let log = journal.lane(LANE);
        assert_eq!(journal.usage().memory_bytes, 4 * 3004, "those behind the third");
        disk.overwrite(&Path::new(DIR).join("00000001.journal"), 4 * 4096, &[0; 4 * 4096]);
        let read = log.read(LogIndex(4)..LogIndex(8), usize::MAX).await.expect("from memory");
        assert_eq!(read, (4..8).map(|index| entry(1, index, 3000)).collect::<Vec<_>>());
        append(&log, vec![entry(1, 8, 3000)]).await.expect("appends");
        assert!(journal.usage().memory_bytes <= 4096, "as much as ever: {:?}", journal.usage());
    });
}

#[test]
fn what_pins_the_oldest_file_is_rewritten_at_the_head() {
    let world = World::new(1);
    let env = world.env();
    world.block_on(async move {
        let journal = open(&env).await.expect("opens");
        let (slow, fast) = (journal.lane(LaneId(1)), journal.lane(LaneId(2)));
        append(&slow, vec![entry(7, 0, 500), entry(7, 1, 500)]).await.expect("appends");
        for index in 0..300 {
            append(&fast, vec![entry(1, index, 3000)]).await.expect("appends");
            fast.purge(entry(1, index, 0).id);
        }
        env.tasks.sleep(Duration::from_millis(50)).await;
        assert!(journal.usage().used_bytes < small().capacity_bytes, "{:?}", journal.usage());
        let read = slow.read(LogIndex(0)..LogIndex(2), 10_000).await.expect("reads");
        assert_eq!(read, [entry(7, 0, 500), entry(7, 1, 500)]);
    });
    world.crash();
    let read = reopened(&world, async |journal| journal.lane(LaneId(1)).read(LogIndex(0)..LogIndex(9), 10_000).await);
    assert_eq!(read.expect("opens").expect("reads"), [entry(7, 0, 500), entry(7, 1, 500)]);
}

#[test]
fn a_full_disk_stalls_and_goes_on_when_there_is_room() {
    let world = World::new(1);
    let env = world.env();
    let disk = world.disk();
    disk.set_capacity(70 << 10);
    world.block_on(async move {
        let journal = open(&env).await.expect("opens");
        let log = journal.lane(LANE);
        env.tasks.sleep(Duration::from_millis(20)).await;
        for index in 0..15 {
            append(&log, vec![entry(1, index, 3000)]).await.expect("two files have room");
        }
        log.append(vec![entry(1, 15, 3000), entry(1, 16, 3000)], Box::new(|result| result.expect("at last")));
        log.append(vec![entry(1, 17, 3000)], Box::new(|result| result.expect("at last")));
        env.tasks.sleep(Duration::from_secs(2)).await;
        assert!(journal.usage().waiting_bytes > 0, "it waits for room");
        assert!(journal.failure().is_none());
        disk.set_capacity(1 << 20);
        journal.flush().await.expect("goes on");
        assert_eq!(log.state().last, Some(entry(1, 17, 0).id));
    });
}

#[test]
fn a_full_disk_does_not_hold_up_the_end() {
    let world = World::new(1);
    let (env, disk) = (world.env(), world.disk());
    disk.set_capacity(70 << 10);
    world.block_on(async move {
        let journal = open(&env).await.expect("opens");
        let log = journal.lane(LANE);
        for index in 0..15 {
            append(&log, vec![entry(1, index, 3000)]).await.expect("two files have room");
        }
        assert!(journal.is_durable(LANE, LogIndex(14)));
        log.append(vec![entry(1, 15, 3000), entry(1, 16, 3000)], Box::new(drop));
        let (sender, done) = futures::channel::oneshot::channel();
        log.append(vec![entry(1, 17, 3000)], Box::new(move |result| drop(sender.send(result))));
        env.tasks.sleep(Duration::from_secs(2)).await;
        assert!(!journal.is_durable(LANE, LogIndex(17)), "waits for room");
        assert!(matches!(journal.close().await, Err(JournalError::Closed)));
        assert!(matches!(done.await, Ok(Err(JournalError::Closed))), "was never acknowledged");
    });
}

#[test]
fn names_of_purged_entries_do_not_pile_up() {
    let world = World::new(1);
    let env = world.env();
    world.block_on(async move {
        let config = JournalConfig { memory_bytes: 1 << 20, ..small() };
        let journal = Journal::open(env.clone(), Path::new(DIR), config).await.expect("opens");
        let (slow, fast) = (journal.lane(LaneId(1)), journal.lane(LaneId(2)));
        append(&slow, vec![entry(7, 0, 10)]).await.expect("appends");
        for index in 0..20_000 {
            fast.append(vec![entry(1, index, 10)], Box::new(drop));
            if index % 100 == 99 {
                journal.flush().await.expect("durable");
                fast.purge(entry(1, index, 0).id);
            }
        }
        journal.flush().await.expect("durable");
        let names = journal.inner.state.borrow().resident_names();
        assert!(names < 1_500, "{names} names of 1 entry");
        assert_eq!(journal.usage().memory_bytes, 14, "the slow lane's entry");
    });
}

#[test]
fn a_forgotten_lane_is_gone() {
    let world = World::new(1);
    with_entries(&world, 3);
    let env = world.env();
    world.block_on(async move {
        let journal = open(&env).await.expect("opens");
        journal.forget(LANE);
        journal.flush().await.expect("flushes");
        journal.close().await.expect("closes");
        assert!(append(&journal.lane(LANE), vec![entry(1, 0, 1)]).await.is_err());
    });
    world.crash();
    assert_eq!(reopened(&world, async |journal| journal.lanes()).expect("opens"), []);
}

#[test]
fn inspection_sees_every_commit() {
    let world = World::new(1);
    with_entries(&world, 12);
    let env = world.env();
    let (commits, entries) = world.block_on(async move {
        let (mut commits, mut entries) = (0, 0);
        let walked = inspect::walk(&env, Path::new(DIR), |commit| {
            commits += 1;
            entries += commit.records.iter().filter(|r| matches!(r.record, format::Record::Entry(_))).count();
        });
        walked.await.expect("walks");
        (commits, entries)
    });
    assert_eq!((commits, entries), (12, 12));
}
