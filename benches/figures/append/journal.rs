//! The journal alone: one lane's entries, each durable before the next.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use futures::channel::oneshot;
use tidewater::shard::executor;
use tidewater_storage::engine::{Engine, EngineConfig};
use tidewater_storage::env::Env;
use tidewater_storage::journal::{JournalEntry, LaneLog, Payload};
use tidewater_storage::model::{EntryId, LaneId, LogIndex, ShardId, Term};

use super::{Until, WARM_UP, shard};
use crate::machine;
use crate::report::Samples;

/// Commits between two purges, so that the journal is released as in a broker.
const PURGE_EVERY: u64 = 64;

/// Runs the loop on an executor of its own.
pub fn measure(dir: &Path, bytes: usize, until: Until) -> Samples {
    let (sender, samples) = flume::bounded(1);
    let dir = dir.to_owned();
    let main = move || async move {
        let opened = Engine::open(Env::real(1), dir, EngineConfig::default()).await;
        let (engine, _) = opened.expect("the engine opens");
        engine.start();
        let _ = sender.send(commits(&engine.lane(LaneId(1)), bytes, until).await);
        engine.close().await;
    };
    executor::spawn(ShardId(0), main).expect("an executor").join().expect("the shard ends well");
    samples.recv().expect("samples")
}

async fn commits(lane: &LaneLog, bytes: usize, until: Until) -> Samples {
    let blob = shard::batch(bytes).1.freeze();
    let (mut samples, mut warm, mut index) = (Samples::default(), 0, 0);
    let (mut start, mut cpu) = (Instant::now(), machine::cpu_of_thread());
    while warm < WARM_UP || !until.done(start, &samples) {
        index += 1;
        let id = EntryId { term: Term(1), index: LogIndex(index) };
        let payload = Payload { meta: Bytes::new(), blobs: vec![blob.clone()], verified: false };
        let one = Instant::now();
        let (sender, durable) = oneshot::channel();
        let done = move |done: Result<(), _>| {
            // The receiver is dropped only at the end of the run.
            let _ = sender.send(done.is_ok());
        };
        lane.append(vec![JournalEntry { id, payload }], Box::new(done));
        assert!(durable.await.expect("an answer"), "the commit is durable");
        samples.add(one.elapsed(), bytes as u64);
        if index % PURGE_EVERY == 0 {
            lane.purge(id);
        }
        warm += 1;
        if warm == WARM_UP {
            (samples, start, cpu) = (Samples::default(), Instant::now(), machine::cpu_of_thread());
        }
    }
    samples.cpu = machine::cpu_of_thread().saturating_sub(cpu);
    samples
}
