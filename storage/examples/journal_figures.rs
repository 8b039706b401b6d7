//! Append-to-durable in process against a raw loop of O_DIRECT write + fdatasync of the same commit sizes, both on
//! the same executor and directory: `cargo run --release -p tidewater-storage --example journal_figures -- <dir>`.
//!
//! Each line: bytes per append, appends in flight, raw commits/s, journal commits/s, and their ratio by bytes.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tidewater_storage::env::{Env, OpenMode, real};
use tidewater_storage::journal::{Journal, JournalConfig, LaneEntry, LaneLog, Payload};
use tidewater_storage::model::{EntryId, LaneId, LogIndex, Term};

const TIME: Duration = Duration::from_secs(2);
const FILE: u64 = 64 << 20;

async fn raw(env: &Env, dir: &Path, bytes: usize) -> io::Result<f64> {
    let path = dir.join("raw");
    let file = env.disk.open(&path, OpenMode::CreateNew).await?;
    file.zero(0..FILE).await?;
    file.sync().await?;
    let (start, mut at, mut commits) = (env.clock.now(), 0u64, 0u64);
    while env.clock.now().since(start) < TIME {
        let mut buffer = file.alloc_dirty(bytes);
        buffer.fill(7);
        let len = file.write_at(buffer, at).await? as u64;
        file.sync().await?;
        at = if at + 2 * len > FILE { 0 } else { at + len };
        commits += 1;
    }
    let seconds = env.clock.now().since(start).as_secs_f64();
    file.close().await?;
    env.disk.remove_file(&path).await?;
    Ok(commits as f64 / seconds)
}

struct Writer {
    log: LaneLog,
    next: Cell<u64>,
    stop: Cell<bool>,
    blob: Bytes,
    acked: Cell<u64>,
}

fn submit(writer: &Rc<Writer>) {
    let index = writer.next.replace(writer.next.get() + 1);
    let id = EntryId { term: Term(1), index: LogIndex(index) };
    let payload = Payload { meta: Bytes::from_static(b"figures"), blobs: vec![writer.blob.clone()], verified: false };
    let again = writer.clone();
    let done = move |result: Result<(), _>| {
        if result.is_ok() && !again.stop.get() {
            again.acked.set(again.acked.get() + 1);
            submit(&again);
        }
    };
    writer.log.append(vec![LaneEntry { id, payload }], Box::new(done));
    if index % 64 == 63 {
        writer.log.purge(EntryId { term: Term(1), index: LogIndex(index.saturating_sub(256)) });
    }
}

async fn journal(env: &Env, dir: &Path, bytes: usize, in_flight: usize) -> io::Result<(f64, f64)> {
    let dir = dir.join("journal");
    let opened = Journal::open(env.clone(), &dir, JournalConfig::default()).await;
    let journal = opened.map_err(io::Error::other)?;
    env.tasks.sleep(Duration::from_millis(300)).await;
    let blob = Bytes::from(vec![7; bytes]);
    let (stop, acked) = (Cell::new(false), Cell::new(0));
    let writer = Rc::new(Writer { log: journal.lane(LaneId(1)), next: Cell::new(0), stop, blob, acked });
    let (start, before) = (env.clock.now(), journal.durable_sequence());
    (0..in_flight).for_each(|_| submit(&writer));
    env.tasks.sleep(TIME).await;
    let seconds = env.clock.now().since(start).as_secs_f64();
    let figures = (writer.acked.get() as f64 / seconds, (journal.durable_sequence() - before) as f64 / seconds);
    writer.stop.set(true);
    journal.close().await.map_err(io::Error::other)?;
    env.disk.remove_dir_all(&dir).await?;
    Ok(figures)
}

fn main() -> io::Result<()> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| ".".into()));
    real::run(1, |env| async move {
        println!(
            "{:>10} {:>9} {:>12} {:>12} {:>12} {:>7}",
            "bytes", "in flight", "raw/s", "appends/s", "commits/s", "ratio"
        );
        for (bytes, in_flight) in [(4000, 1), (4000, 16), (65_000, 1), (65_000, 16), (1_040_000, 1), (1_040_000, 4)] {
            let (appends, commits) = journal(&env, &dir, bytes, in_flight).await?;
            // The raw loop writes commits of the size the journal's were.
            let size = (appends / commits * bytes as f64) as usize;
            let raw = raw(&env, &dir, size).await?;
            println!("{bytes:>10} {in_flight:>9} {raw:>12.0} {appends:>12.0} {commits:>12.0} {:>7.2}", commits / raw);
        }
        Ok(())
    })?
}
