//! Stored bytes that rot, and writes that land in the wrong place: found out, never answered. A broker may refuse to
//! start, or to read; what it does answer is what was written. (The journal's last commits cannot be distinguished from
//! ones that were torn: those may be gone.)

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tidewater_storage::env::Rng;
use tidewater_storage::env::sim::{Twist, TwistKind};
use tidewater_storage::model::Offset;

use crate::faults;
use crate::plan::Plan;
use crate::seeds::{number, quietly, threads};
use crate::workload::{self, Clients};
use crate::world::World;

/// Runs of an ordinary run.
const RUNS: u64 = 60;

/// Runs a seed; was anything found out?
fn run(seed: u64) -> bool {
    let without = ["table", "groups", "topics", "readers"].map(str::to_owned);
    let mut plan = Plan::of(seed, BTreeSet::from(without));
    plan.events.clear();
    plan.rough_ms = 3_000;
    let world = Rc::new(World::new(plan));
    let served = world.machines.block_on(whole(&world));
    world.dissolve();
    !served || world.history.refusals() > 0 || world.lives() > 2
}

/// False if the broker does not serve in the end.
async fn whole(world: &Rc<World>) -> bool {
    let rng = Rng::seeded(world.plan.seed ^ 0x726f_7400);
    world.history.rot();
    world.watch_over();
    world.start();
    drop(world.serving().await);
    let clients = Clients::start(world);
    let misdirected = world.plan.seed.is_multiple_of(2);
    if misdirected {
        let path = ["/journal/", ".log", "checkpoint.pages"][below(&rng, 3)].to_owned();
        let kind = TwistKind::Misdirected(4096 * (1 + below(&rng, 8)));
        world.disk_may_fail();
        world.machines.disk().twist(Twist { path, after: u32::try_from(below(&rng, 12)).expect("small"), kind });
    }
    faults::disturb(world).await;
    clients.stop();
    world.sleep_ms(12_000).await;
    world.end(!misdirected && rng.below(2) == 0);
    if !misdirected {
        damage(world, &rng);
    }
    world.disk_may_fail();
    world.start();
    world.sleep_ms(3_000).await;
    // It may well not serve: then it said why.
    read_what_can_be_read(world).await;
    world.way().node().is_some()
}

fn below(rng: &Rng, n: usize) -> usize {
    usize::try_from(rng.below(n as u64)).expect("small")
}

/// One to four places of one or two files: a bit, a run of bytes, or a block that is another block of the shard.
fn damage(world: &World, rng: &Rng) {
    let disk = world.machines.disk();
    let files: Vec<(PathBuf, Vec<u8>)> = disk.files().into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
    for _ in 0..=rng.below(4) {
        let (path, bytes) = &files[below(rng, files.len())];
        // Where something is written: what was pre-zeroed and never used cannot rot into anything.
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
        let at = below(rng, used);
        match rng.below(3) {
            0 => drop(disk.flip_bit(path, at as u64, u8::try_from(rng.below(8)).expect("small"))),
            1 => {
                let mut junk = vec![0; (1 + below(rng, 300)).min(bytes.len() - at)];
                rng.fill(&mut junk);
                disk.overwrite(path, at as u64, &junk);
            }
            _ => {
                let (_, other) = &files[below(rng, files.len())];
                let (from, to) = (below(rng, other.len()) / 4096 * 4096, at / 4096 * 4096);
                let block = other.get(from..(from + 4096).min(other.len())).unwrap_or_default();
                let block = block.get(..block.len().min(bytes.len() - to)).unwrap_or_default();
                disk.overwrite(path, to as u64, block);
            }
        }
    }
}

/// Reads from every place that answers; each answer is held against what was sent and seen.
async fn read_what_can_be_read(world: &Rc<World>) {
    let Some(node) = world.way().node() else { return };
    let topic = world.topic();
    drop(node);
    for partition in &topic.partitions {
        let index = partition.id.index.0;
        let Some(node) = world.way().node() else { return };
        let Some(status) = node.describe(partition.id) else { continue };
        drop(node);
        let (mut from, end) = (status.log_start_offset, status.high_watermark);
        while from < end {
            let at = Offset::new(from);
            let next = workload::read(&world.clients, &world.way(), &world.history, &topic, index, at, 20_000).await;
            from = next.filter(|next| next.get() > from).map_or(from + 1, Offset::get);
        }
        world.history.with(index, |past| {
            let acked: BTreeMap<Offset, &Bytes> =
                past.sent.iter().filter_map(|(body, sent)| Some((sent.acked?, body))).collect();
            for (base, seen) in &past.seen {
                let body = crate::history::body(&seen.bytes);
                assert!(past.sent.contains_key(&body), "p{index}: no producer sent the batch read at {base}");
                let other = acked.get(base).is_some_and(|acked| **acked != body);
                assert!(!other, "p{index}: another batch was acknowledged at {base}");
            }
        });
    }
}

#[test]
fn rot_is_found_out_and_never_answered() {
    if let Some(seed) = number("TIDEWATER_SEED") {
        run(seed);
        return;
    }
    let runs = number("TIDEWATER_ROT").unwrap_or(RUNS);
    let (next, found_out, failed) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= runs {
                        return;
                    }
                    let judged = || {
                        found_out.fetch_add(u64::from(run(seed)), Ordering::Relaxed);
                    };
                    if let Some(why) = quietly(judged) {
                        let line = format!("seed {seed}: {why}\n    repeat it: TIDEWATER_SEED={seed} cargo test --release --test sim rot_is");
                        failed.lock().expect("no thread panics").push(line);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no thread panics");
    let found_out = found_out.into_inner();
    eprintln!(
        "{found_out} of {runs} brokers found their damage out; in the others it lay where nothing is read any more"
    );
    assert!(found_out * 6 >= runs, "only {found_out} of {runs} brokers found their damage out: is it any?");
    assert!(failed.is_empty(), "{} of {runs} runs failed:\n{}", failed.len(), failed.join("\n"));
}
