//! kill -9 of the real process, again and again, under idempotent load while it archives, commits a table and
//! coordinates groups. In the end: every acknowledged record once, in order, at its offset, none invented; what group
//! members read and committed agrees with it; bucket and table equal to the log.
//!
//! Brokers are killed side by side, each with its own directory, clients and histories. `TIDEWATER_KILLS=n` asks for
//! another number of kills (100), `TIDEWATER_BROKERS=n` of brokers (2), `TIDEWATER_SEED=n` for the same random choices.
#![allow(clippy::panic, clippy::disallowed_methods, unreachable_pub, reason = "a test binary")]

#[path = "../support/support.rs"]
mod support;

mod commits;
mod ledger;
mod member;
mod producer;

use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use commits::Committer;
use ledger::{Found, Ledger};
use member::{Member, Readings};
use producer::Producer;
use support::broker::{Broker, Options};
use support::dice::{Dice, number, seed};
use support::python;
use tidewater::client::{Client, NewTopic};

const TOPIC: &str = "orders";
const PARTITIONS: i32 = 4;
const PRODUCERS: u64 = 3;
const MEMBERS: u64 = 2;
const SETTINGS: &[(&str, &str)] = &[
    ("segment.bytes", "131072"),
    ("local.retention.bytes", "65536"),
    ("archive.lag.ms", "300"),
    ("iceberg.target.lag.ms", "1000"),
];
/// Records are rows as they are.
const AS_BYTES: &[(&str, &str)] = &[("iceberg.mode", "key_value")];
/// The parts of values are columns, and a value whose end is missing is a dead letter.
const AS_COLUMNS: &[(&str, &str)] = &[("iceberg.mode", "json"), ("iceberg.json.schema", COLUMNS)];
const COLUMNS: &str =
    r#"{"type":"object","properties":{"p":{"type":"integer"},"n":{"type":"integer"},"t":{"type":"string"}}}"#;
const CATCH_UP: Duration = Duration::from_secs(90);

/// WARN and ERROR lines that a kill may cause, with the reason why each is no fault of the broker.
const EXPECTED: &[&str] = &[
    // A topic's table is looked at while its partitions are still being made on their shards.
    "is not on this broker); the sink tries again",
    // `__consumer_offsets` is read while its partitions are still being made.
    "groups of a partition cannot be loaded",
    // The broker was stopped while an archiver's last command was in flight.
    "archiving of a lane starts again",
];

/// Runs a client's call to its end.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(future)
}

#[test]
fn killed_again_and_again() {
    let seed = seed();
    let kills = number("TIDEWATER_KILLS").unwrap_or(100);
    let brokers = number("TIDEWATER_BROKERS").unwrap_or(2).clamp(1, kills.max(1));
    println!("seed {seed}, {kills} kills of {brokers} brokers");
    let side_by_side: Vec<_> = (0..brokers)
        .map(|n| std::thread::spawn(move || one_broker(seed + n, kills.div_ceil(brokers), &[], AS_BYTES)))
        .collect();
    let failed = side_by_side.into_iter().map(JoinHandle::join).filter(Result::is_err).count();
    assert_eq!(failed, 0, "brokers failed, seed {seed}; see above");
}

/// Each start with another number of shards: the journals of the last are drained, its lanes assigned again. Some
/// starts are killed on the way.
#[test]
fn killed_into_other_numbers_of_shards() {
    let seed = seed();
    let kills = number("TIDEWATER_KILLS").unwrap_or(8).min(8);
    println!("seed {seed}, {kills} kills into other numbers of shards");
    one_broker(seed, kills, &[2, 1, 3], AS_BYTES);
}

/// The table and its dead letters together are the log, and no record is in both.
#[test]
fn killed_while_columns_and_dead_letters_are_written() {
    let seed = seed();
    let kills = number("TIDEWATER_KILLS").unwrap_or(30).min(30);
    println!("seed {seed}, {kills} kills beside a typed table");
    one_broker(seed, kills, &[], AS_COLUMNS);
}

/// One broker from its first start to its last check. `shards` are the numbers of shards of its starts, in turn;
/// `table` has the settings of the topic's table.
fn one_broker(seed: u64, kills: u64, shards: &[u16], table: &[(&str, &str)]) {
    let mut dice = Dice::new(seed);
    let dir = tempfile::tempdir().expect("tempdir");
    let mut options = Options::new(&dir.path().join("data"));
    options.expected = EXPECTED.iter().map(ToString::to_string).collect();
    if table == AS_COLUMNS {
        options = options.expect("records are dead letters");
    }
    ask_for(&mut options, shards, 0);
    let mut broker = Broker::start(&options);
    create(&broker, table);

    let clients = Clients::start(&broker, seed);
    for kill in 0..kills {
        let spread = if dice.below(8) == 0 { 2_000 } else { 600 };
        std::thread::sleep(Duration::from_millis(40 + dice.below(spread)));
        broker.kill();
        ask_for(&mut options, shards, kill + 1);
        if dice.below(5) == 0 {
            // Killed again before it has recovered.
            let half_up = Broker::spawn(&options);
            std::thread::sleep(Duration::from_millis(dice.below(400)));
            half_up.kill();
        }
        assert!(!clients.any_gave_up(), "a client gave up before kill {kill}, seed {seed}");
        broker = Broker::start(&options);
    }
    let Heard { ledger, committed, readings } = clients.stop(seed);
    println!("{} records acknowledged, {} left open", ledger.acknowledged(), ledger.open());
    assert!(ledger.acknowledged() as u64 > kills * 20, "too few records were written for a meaningful run");

    let found = read_all(&broker);
    ledger.check(&found, seed);
    committed.check(&broker);
    readings.check(&found);
    caught_up(&broker);
    let cold = read_all(&broker);
    assert!(cold == found, "what the bucket gives back is not what the log gave, seed {seed}");
    table_is_log(&broker, dir.path(), &found, if table == AS_BYTES { "table" } else { "typed" });
    broker.stop();
}

/// The clients of a broker that is killed.
struct Clients {
    stop: Arc<AtomicBool>,
    producers: Vec<JoinHandle<Ledger>>,
    committer: JoinHandle<Committer>,
    members: Vec<JoinHandle<()>>,
    readings: Arc<Mutex<Readings>>,
}

/// The answers they got.
struct Heard {
    ledger: Ledger,
    committed: Committer,
    readings: Readings,
}

impl Clients {
    fn start(broker: &Broker, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let readings = Arc::new(Mutex::new(Readings::default()));
        let producers = (0..PRODUCERS).map(|n| {
            let (addr, stop) = (broker.kafka.clone(), Arc::clone(&stop));
            std::thread::spawn(move || Producer::new(n, addr, seed).run(&stop))
        });
        let producers = producers.collect();
        let (addr, stopped) = (broker.kafka.clone(), Arc::clone(&stop));
        let committer = std::thread::spawn(move || Committer::new(addr).run(&stopped));
        let members = (0..MEMBERS).map(|_| {
            let (member, stop) = (Member::new(broker.kafka.clone(), Arc::clone(&readings)), Arc::clone(&stop));
            std::thread::spawn(move || member.run(&stop))
        });
        let members = members.collect();
        Self { stop, producers, committer, members, readings }
    }

    fn any_gave_up(&self) -> bool {
        self.producers.iter().any(JoinHandle::is_finished)
            || self.members.iter().any(JoinHandle::is_finished)
            || self.committer.is_finished()
    }

    fn stop(self, seed: u64) -> Heard {
        self.stop.store(true, Ordering::Relaxed);
        let mut ledger = Ledger::default();
        for producer in self.producers {
            ledger.add(producer.join().unwrap_or_else(|_| panic!("a producer failed, seed {seed}; see above")));
        }
        let committed =
            self.committer.join().unwrap_or_else(|_| panic!("the committer failed, seed {seed}; see above"));
        for member in self.members {
            member.join().unwrap_or_else(|_| panic!("a group's member failed, seed {seed}; see above"));
        }
        let readings = std::mem::take(&mut *self.readings.lock().expect("no member panicked"));
        Heard { ledger, committed, readings }
    }
}

/// The number of shards of the nth start.
fn ask_for(options: &mut Options, shards: &[u16], start: u64) {
    if let Some(shards) = shards.get(usize::try_from(start).expect("small") % shards.len().max(1)) {
        options.args = vec!["--shards".to_owned(), shards.to_string()];
    }
}

fn create(broker: &Broker, table: &[(&str, &str)]) {
    let configs = SETTINGS.iter().chain(table).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let topic = NewTopic { name: TOPIC.to_owned(), partitions: Some(PARTITIONS), configs, ..NewTopic::default() };
    run(async { Client::connect(&broker.kafka).await?.create_topic(&topic).await }).expect("topic is made");
}

/// The records of every partition from offset 0.
fn read_all(broker: &Broker) -> Vec<Vec<Found>> {
    run(async {
        let mut client = Client::connect(&broker.kafka).await.expect("connects");
        let mut all = Vec::new();
        for partition in 0..PARTITIONS {
            let (mut at, mut found) = (0, Vec::new());
            loop {
                let fetched = client.fetch(TOPIC, &[(partition, at)], 1000, 4 << 20).await.expect("fetch");
                let fetched = fetched.into_iter().next().expect("a partition");
                assert_eq!(fetched.log_start, 0);
                for record in fetched.records {
                    assert_eq!(
                        record.offset.get(),
                        found.len() as u64,
                        "offsets of partition {partition} leave no gap"
                    );
                    found.push(Found::of(&record));
                }
                at = fetched.next_offset;
                if at >= fetched.high_watermark {
                    break;
                }
            }
            all.push(found);
        }
        all
    })
}

fn caught_up(broker: &Broker) {
    broker.wait_topic(TOPIC, "archive, disk and table have caught up", CATCH_UP, |partitions| {
        partitions.len() == PARTITIONS as usize
            && partitions.iter().all(|p| {
                p["archived_end_offset"] == p["high_watermark"]
                    && p["table_offset"] == p["high_watermark"]
                    && p["local_start_offset"].as_u64() > Some(0)
                    && p["quarantined"].as_array().is_some_and(Vec::is_empty)
                    && p["table_skipped"].as_array().is_some_and(Vec::is_empty)
            })
    });
}

/// Every row of the table against every record of the log, with PyIceberg.
fn table_is_log(broker: &Broker, dir: &Path, found: &[Vec<Found>], script: &str) {
    let mut lines = String::new();
    for (partition, records) in found.iter().enumerate() {
        for (offset, record) in records.iter().enumerate() {
            writeln!(lines, "{partition}\t{offset}\t{}\t{}", record.key, record.value).expect("text");
        }
    }
    let log = dir.join("log.tsv");
    std::fs::write(&log, lines).expect("file");
    let catalog = format!("http://{}", broker.catalog);
    let said = python::script(&format!("crash/{script}.py"), &[&catalog, TOPIC, &log.display().to_string()], &[]);
    println!("{}", said.trim());
}
