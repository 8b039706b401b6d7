//! A bucket that answers a key with another object, whole in itself: readers get an error, and no request waits for
//! ever.

use std::sync::mpsc;
use std::thread;

use super::*;
use crate::fetch::RemoteRead;
use crate::format::{DataKind, Trailer, decode_index};

/// A bench whose first bundle holds `[0, 10)` of its partition and whose second holds `[10, 20)`.
fn two_bundles() -> (Bench, PartitionId) {
    let bench = Bench::new(31, Faults::default(), 1);
    let id = bench.partitions[0];
    for _ in 0..2 {
        (0..10).for_each(|_| bench.lane.append(id, 1, 40));
        bench.live_for(Duration::from_secs(2), 0);
    }
    let rows = bench.lane.with_partition(id, |m| m.rows.iter().map(|row| row.offsets.end.get()).collect::<Vec<_>>());
    assert_eq!(rows, Some(vec![10, 20]));
    (bench, id)
}

fn key(bench: &Bench, sequence: u64) -> String {
    bench.bucket.home.bundle(bench.lane.lane(), Sequence(sequence)).key().as_str().to_owned()
}

/// A reader that was never shown anything.
fn fresh(bench: &Bench) -> RemoteReader {
    let config = FetchConfig::new(PathBuf::from("/fresh"), 0);
    bench.world.block_on(RemoteReader::open(bench.env.clone(), bench.sim.store(), config)).expect("opens")
}

fn read(bench: &Bench, reader: &RemoteReader, id: PartitionId) -> Result<RemoteRead, RemoteError> {
    let view = bench.lane.with_partition(id, |m| RemoteReader::view(m, Offset::ZERO)).expect("there");
    bench.world.block_on(reader.read_batches(view, Offset::ZERO, Offset::new(20), 1 << 20))
}

/// The first bundle's own name over batches from `skipped` on; all of them belong to its partition.
fn forged(bench: &Bench, id: PartitionId, skipped: usize) -> Bytes {
    let body = &bench.sim.objects()[&key(bench, 1)];
    let at = Trailer::parse(body, body.len() as u64).expect("whole").index;
    let mut index = decode_index(&body[at.offset as usize..at.end() as usize]).expect("decodes");
    assert_eq!(index.kind, DataKind::Bundle);
    index.partitions.clear();
    let mut builder = crate::format::ObjectBuilder::new(index);
    builder.begin(id, Offset::new(skipped as u64), Offset::ZERO);
    bench.lane.logs.borrow()[&id].batches.iter().skip(skipped).for_each(|batch| builder.push(batch));
    let pieces: Vec<u8> = builder.finish().pieces.iter().flat_map(|piece| piece.to_vec()).collect();
    Bytes::from(pieces)
}

/// A test that may fail by never giving its thread back.
fn ends(test: impl FnOnce() + Send + 'static) {
    let (done, waits) = mpsc::channel();
    let thread = thread::spawn(move || {
        test();
        done.send(()).ok();
    });
    match waits.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it never ends"),
        _ => thread.join().expect("passes"),
    }
}

#[test]
fn another_bundle_under_the_key_is_an_error_and_is_not_kept() {
    ends(|| {
        let (bench, id) = two_bundles();
        let objects = bench.sim.objects();
        let (first, second) = (key(&bench, 1), key(&bench, 2));
        bench.sim.tamper(&first, Some(objects[&second].clone()));
        let reader = fresh(&bench);
        match read(&bench, &reader, id) {
            Err(RemoteError::BadIndex { reason, .. }) => assert!(reason.contains("another object"), "{reason}"),
            other => panic!("{other:?}"),
        }
        bench.sim.tamper(&first, Some(objects[&first].clone()));
        let read = read(&bench, &reader, id).expect("reads");
        assert_eq!(read.range, OffsetRange::new(Offset::ZERO, Offset::new(20)));
    });
}

#[test]
fn a_bundle_that_does_not_hold_its_row_is_a_gap() {
    for skipped in [15, 5] {
        ends(move || {
            let (bench, id) = two_bundles();
            bench.sim.tamper(&key(&bench, 1), Some(forged(&bench, id, skipped)));
            let told = read(&bench, &fresh(&bench), id);
            assert!(matches!(told, Err(RemoteError::Gap { offset: Offset::ZERO, .. })), "{skipped}: {told:?}");
        });
    }
}
