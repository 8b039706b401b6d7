//! A restore over a store of 20 ms: the plan, the way to the first write, the first read.

use std::cell::Cell;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use tidewater_tiering::fetch::Indexes;
use tidewater_tiering::keys::Nonce;
use tidewater_tiering::manifest::Source;
use tidewater_tiering::restore::{self, LaneSeed, Restore};
use uuid::Uuid;

use crate::archive::{self, Archive, NOW};
use crate::cost::{Bench, Cost};
use crate::{Run, shapes};

/// As `tidewater restore` reads lanes.
const LANES_AT_ONCE: usize = 8;

pub fn run(run: &Run) {
    let table = Cost::table();
    for shape in shapes(run) {
        let archive = archive::make(shape);
        let bench = Bench::new(&archive);
        let (first_write, seeds) = restored(&bench, &archive, |step, cost| cost.row(&table, shape.name, step));
        let ends: usize = seeds.iter().map(|seed| seed.partitions.len()).sum();
        assert_eq!(ends, shape.partitions, "every partition comes back");
        first_write.row(&table, shape.name, "all until the first write");
        let ((), read) = bench.cost(first_read(&bench, &archive));
        read.row(&table, shape.name, "first read after it");
        bench.world.dissolve();
    }
}

/// A restore up to where the broker has all it begins with, as `tidewater restore` does it; `note` hears of each step.
fn restored(bench: &Bench, archive: &Archive, note: impl Fn(&str, &Cost)) -> (Cost, Vec<LaneSeed>) {
    let nonces = Arc::new(std::sync::atomic::AtomicU64::new(1 << 40));
    let restore = Restore {
        store: Arc::clone(&bench.store),
        name: archive.name.clone(),
        accept_damage: false,
        now: NOW,
        nonce: Arc::new(move || Nonce(nonces.fetch_add(1, std::sync::atomic::Ordering::Relaxed))),
        progress: Arc::new(|_| {}),
    };
    let all = Cell::new(Cost::default());
    let step = |name: &str, cost: Cost| {
        note(name, &cost);
        all.set(all.get().then(cost));
    };
    let (attempt, cost) = bench.cost(async {
        let root = restore.root().await.expect("there is a root");
        let attempt = restore::begin(&root, Uuid::from_u128(1), false).expect("none is under way");
        let report = restore.survey().await.expect("the source can be read");
        assert!(!report.damaged, "{:?}", report.damage());
        attempt
    });
    step("plan", cost);
    let (report, cost) = bench.cost(restore.run(&attempt));
    assert!(report.expect("restores").is_some(), "it made the switch");
    step("restore up to the switch", cost);
    let (seeds, cost) = bench.cost(async {
        let store: &Arc<_> = &bench.store;
        let catalogue = restore::read_catalogue(&**store, attempt.home()).await.expect("readable");
        let lanes = catalogue.expect("the restore wrote it").lanes;
        let reads = stream::iter(lanes).map(|lane| restore::read_lane(store, attempt.home(), lane));
        reads.buffered(LANES_AT_ONCE).try_collect::<Vec<LaneSeed>>().await.expect("readable")
    });
    step("new home read by the broker", cost);
    (all.get(), seeds)
}

/// The index and the data of one row.
async fn first_read(bench: &Bench, archive: &Archive) {
    let Some((partition, row)) = archive.readable else { return };
    let indexes = Indexes::new(Arc::clone(&bench.store), 1 << 20);
    let found = indexes.of_row(&row).await.expect("the index is there");
    let entry = found.index.partition(partition).expect("the object holds it");
    assert_eq!(entry.offsets, row.offsets);
    let Source::Object { object, start, len, .. } = row.source else { panic!("a segment object") };
    let got = bench.store.get(&object.key(), Some(start..start + len)).await.expect("the data is there");
    let run = entry.extents.first().and_then(|extent| extent.runs.first()).expect("one run");
    assert!(run.sum.matches(partition, &got.body), "and whole");
}
