//! The journal on the real disk under a real executor.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use tidewater_storage::env::real;
use tidewater_storage::journal::{Journal, JournalConfig, JournalEntry, Payload};
use tidewater_storage::model::{EntryId, LaneId, LogIndex, Term};

fn entry(index: u64, len: usize) -> JournalEntry {
    let blob = Bytes::from(vec![index as u8; len]);
    let id = EntryId { term: Term(1), index: LogIndex(index) };
    JournalEntry { id, payload: Payload { meta: Bytes::from_static(b"m"), blobs: vec![blob], verified: false } }
}

#[test]
fn it_writes_recycles_reads_and_recovers() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("temporary directory");
    let path = dir.path().join("journal");
    let sizes = (1 << 20, 8 << 20, 64 << 10);
    let config = JournalConfig {
        file_bytes: sizes.0,
        capacity_bytes: sizes.1,
        memory_bytes: sizes.2,
        ..JournalConfig::default()
    };
    let done = Rc::new(Cell::new(0));
    let (seen, to, again) = (done.clone(), path.clone(), config.clone());
    real::run(1, |env| async move {
        let journal = Journal::open(env, &to, config).await.expect("opens");
        let log = journal.lane(LaneId(3));
        log.save_vote(Bytes::from_static(b"vote")).await.expect("votes");
        for index in 0..500 {
            let seen = seen.clone();
            let check = Box::new(move |result: Result<(), _>| {
                result.expect("appends");
                assert_eq!(seen.replace(index + 1), index, "in order");
            });
            log.append(vec![entry(index, 10_000)], check);
            if index % 50 == 49 {
                journal.flush().await.expect("flushes");
                log.purge(entry(index - 40, 0).id);
            }
        }
        journal.flush().await.expect("flushes");
        let read = log.read(LogIndex(470)..LogIndex(480), usize::MAX).await.expect("reads");
        assert_eq!(read, (470..480).map(|index| entry(index, 10_000)).collect::<Vec<_>>());
        journal.close().await.expect("closes");
        assert!(journal.usage().used_bytes < 4 << 20, "{:?}", journal.usage());
    })
    .expect("executor");
    assert_eq!(done.get(), 500);
    real::run(2, |env| async move {
        let journal = Journal::open(env, &path, again).await.expect("opens again");
        let log = journal.lane(LaneId(3));
        let state = log.state();
        assert_eq!((state.vote.as_deref(), state.last), (Some(&b"vote"[..]), Some(entry(499, 0).id)));
        let first = state.purged.expect("purged").index.next();
        let read = log.read(first..LogIndex(u64::MAX), usize::MAX).await.expect("reads");
        assert_eq!(read, (first.0..500).map(|index| entry(index, 10_000)).collect::<Vec<_>>());
    })
    .expect("executor");
}
