//! The source under load, the follower under readers, both with kills.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::clients::{Clients, PARTITIONS, Program, Role, TOPIC, read_all};
use super::pair::{Pair, Side};
use super::support::broker::http_get;
use super::support::dice::{Dice, number, seed};

const WRITERS: &[Role] =
    &[("p1", Program::Confluent, false), ("p2", Program::Confluent, false), ("j1", Program::Java, false)];
const READERS: &[Role] =
    &[("c1", Program::Confluent, true), ("c2", Program::Confluent, true), ("jc", Program::Java, true)];
/// Small segments and much gathering, and local bytes that go soon.
const SETTINGS: &[&str] = &["segment.bytes=131072", "local.retention.bytes=65536", "archive.lag.ms=300"];
/// Between faults.
const CALM: Duration = Duration::from_secs(4);
const CATCH_UP: Duration = Duration::from_secs(120);

/// Looks at the replica's ends all the time.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(usize, Vec<u64>)>,
}

fn offsets(admin: &str, key: &str) -> Option<Vec<u64>> {
    let (status, body) = http_get(admin, &format!("/v1/topics/{TOPIC}"))?;
    let answer: Value = serde_json::from_str(&body).ok().filter(|_| status == 200)?;
    let partitions = answer["partitions"].as_array()?;
    (partitions.len() == usize::try_from(PARTITIONS).ok()?)
        .then(|| partitions.iter().filter_map(|p| p[key].as_u64()).collect())
}

impl Watch {
    /// Ends of the replica never fall and never pass those of the source. (They may pass its archived ends: a source
    /// that was killed after a PUT learns of that bundle a little later.) Also keeps the lags.
    fn start(pair: &Pair) -> Self {
        let [source, replica] = [&pair.options[0], &pair.options[1]].map(|o| format!("127.0.0.1:{}", o.ports[1]));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut last, mut looks, mut lags) = (Vec::new(), 0, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
                let Some(shown) = offsets(&replica, "high_watermark") else { continue };
                assert!(last.iter().zip(&shown).all(|(before, now)| before <= now), "{shown:?} after {last:?}");
                last.clone_from(&shown);
                let lag = http_get(&replica, "/v1/replicas").and_then(|(_, body)| {
                    let sources: Value = serde_json::from_str(&body).ok()?;
                    sources[0]["lag_ms"].as_u64()
                });
                lags.extend(lag);
                // The source is asked later, and its ends never fall.
                let Some(held) = offsets(&source, "high_watermark") else { continue };
                assert!(shown.iter().zip(&held).all(|(shown, held)| shown <= held), "{shown:?} of {held:?}");
                looks += 1;
            }
            lags.sort_unstable();
            (looks, lags)
        });
        Self { stop, thread }
    }

    fn stop(self) -> (usize, Vec<u64>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no look failed")
    }
}

fn follow_under_load(on_s3: bool) {
    let (seed, faults) = (seed(), number("TIDEWATER_FAULTS").unwrap_or(6));
    println!("seed {seed}, {faults} faults");
    let mut dice = Dice::new(seed);
    let dir = tempfile::tempdir().expect("tempdir");
    let mut pair = Pair::start(dir.path(), on_s3);
    let partitions = PARTITIONS.to_string();
    let mut create = vec!["topic", "create", TOPIC, "--partitions", &partitions];
    SETTINGS.iter().for_each(|setting| create.extend(["--set", setting]));
    pair.source().cli(&create);
    let mut writers = Clients::start(&pair.source().kafka, &dir.path().join("writers"), WRITERS, PARTITIONS);
    pair.source().wait_topic(TOPIC, "something is archived", CATCH_UP, |partitions| {
        partitions.iter().all(|p| p["archived_end_offset"].as_u64() > Some(0))
    });
    pair.follow("ord*");
    let mut readers = Clients::start(&pair.replica().kafka, &dir.path().join("readers"), READERS, PARTITIONS);
    let watch = Watch::start(&pair);
    for _ in 0..faults {
        std::thread::sleep(CALM);
        let side = if dice.below(2) == 0 { Side::Source } else { Side::Replica };
        println!("{side:?} is killed: {} acknowledged, {} read", writers.acknowledged(), readers.read());
        pair.kill(side);
        std::thread::sleep(Duration::from_millis(dice.below(2000)));
        pair.start_again(side);
        writers.check_running();
        readers.check_running();
    }
    std::thread::sleep(CALM);
    let mut history = writers.stop();
    pair.wait_equal(TOPIC);
    let log = read_all(&pair.source().kafka, TOPIC, PARTITIONS);
    assert_eq!(read_all(&pair.replica().kafka, TOPIC, PARTITIONS), log, "the same records at the same offsets");
    let (all, begun) = (log.iter().map(Vec::len).sum::<usize>(), Instant::now());
    while readers.read() < all {
        readers.check_running();
        assert!(begun.elapsed() < CATCH_UP, "{} of {all} read\n{}", readers.read(), pair.replica().log());
        std::thread::sleep(Duration::from_millis(200));
    }
    let (looks, lags) = watch.stop();
    readers.stop();
    for (name, _, _) in READERS {
        history.add(name, &dir.path().join("readers").join(format!("{name}.history")));
    }
    history.check(&log, seed);
    assert_eq!(history.read(), all, "every record was read");
    let at = |share: usize| lags.get(lags.len() * share / 100).copied().unwrap_or_default();
    println!("{all} records read, {looks} looks at the ends, lag p50 {} ms, p99 {} ms", at(50), at(99));
    assert!(looks > 20, "the ends were looked at {looks} times");
    pair.stop();
}

#[test]
fn a_directory_is_followed_under_load_and_kills() {
    follow_under_load(false);
}

#[test]
fn a_bucket_on_s3_is_followed_under_load_and_kills() {
    follow_under_load(true);
}
