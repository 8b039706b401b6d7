//! Closing the engine while upkeep works, and removing files while they are read.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::machine::{Machine, config};
use super::{Command, History, dir};
use crate::engine::*;
use crate::env::sim::World;
use crate::journal::{JournalEntry, Payload, Pressure};
use crate::log::sample;
use crate::model::{EntryId, LaneId, LogIndex, PartitionId, Term};
use crate::segment::log_path;

/// A lane that has applied everything and purges nothing, so that its journal stays under pressure.
struct Hoarder {
    applied: EntryId,
}

impl CheckpointSource for Hoarder {
    fn lane(&self, lane: LaneId) -> Option<LaneCheckpoint> {
        (lane == LaneId(1)).then(|| LaneCheckpoint { applied: self.applied, state: Bytes::new() })
    }

    fn partition(&self, _: PartitionId) -> Option<PartitionCheckpoint> {
        None
    }

    fn checkpointed(&self, _: LaneId, _: EntryId) {}
}

#[test]
fn a_stop_while_the_journal_is_relieved_is_no_failure() {
    for wait in 0..60 {
        let world = World::new(5);
        let env = world.env();
        world.block_on(async {
            let (engine, _) = Engine::open(env.clone(), dir(), config()).await.expect("opens");
            let lane = engine.lane(LaneId(1));
            let blob = sample::batch(crate::model::Offset::ZERO, 1, 40_000, 0).bytes;
            let mut at = EntryId { term: Term(1), index: LogIndex(0) };
            for index in 0..42 {
                at.index = LogIndex(index);
                let payload = Payload { meta: Bytes::new(), blobs: vec![blob.clone()], ..Payload::default() };
                lane.append(vec![JournalEntry { id: at, payload }], Box::new(|_| {}));
            }
            engine.journal().flush().await.expect("flushes");
            assert!(engine.journal().pressure() != Pressure::None);
            engine.set_source(Rc::new(Hoarder { applied: at }));
            engine.touch_lane(LaneId(1));
            engine.start();
            env.tasks.sleep(Duration::from_millis(wait)).await;
            engine.close().await;
            env.tasks.sleep(Duration::from_secs(2)).await;
            assert!(!engine.has_ended(), "stopped after {wait} ms");
        });
    }
}

#[test]
fn a_removed_segment_stays_open_for_nobody() {
    for pause in 1..40 {
        let world = World::new(5);
        let env = world.env();
        let history = Rc::new(History::default());
        let config = EngineConfig { checkpoint_interval: Duration::from_secs(3_600), open_files: 100, ..config() };
        world.block_on(async {
            let machine = Machine::open(&env, dir(), config, &history).await;
            machine.propose(&history, LaneId(1), Command::Create);
            for _ in 0..60 {
                machine.propose(&history, LaneId(1), Command::Append);
                machine.wait_for_room().await;
            }
            machine.settle().await;
            machine.engine.checkpoint().await.expect("checkpoints");
            let log = machine.engine.partition(machine.engine.partitions()[0]).expect("is there");
            let base = log.segments()[0].offsets.start;
            let path = log_path(&log.inner.dir, base);
            log.trim(log.bounds().end);
            let shared = Rc::clone(&machine.engine.inner.shared);
            shared.handles.close_all().await;
            let (reader, tasks) = (Rc::clone(&shared), env.tasks.clone());
            let reading = env.tasks.spawn("reader", async move {
                while reader.handles.existing(&path).await.is_ok() {
                    tasks.sleep(Duration::from_micros(pause)).await;
                }
            });
            machine.engine.checkpoint().await.expect("checkpoints");
            reading.await;
            assert_eq!(shared.handles.len(), 0, "a reader every {pause} µs");
        });
    }
}
