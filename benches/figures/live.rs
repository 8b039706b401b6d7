//! A table beside its topic at work: how far it is behind, and what it costs those who produce.
//!
//! One broker takes in Avro records of twenty columns at a fixed rate, open loop: once with the table, once without.
//! The lag of a moment is the age of the oldest record that is not in the table yet, of all partitions.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidewater_storage::model::Compression;
use tidewater_storage::model::record::{BatchBuilder, Record};

use crate::report::{Samples, Table, mb_per_s};
use crate::support::broker::{Broker, Options, binary, free_ports_of};
use crate::support::wire;
use crate::table::values::{Kind, avro_schema};
use crate::{Run, machine, topic};

const PARTITIONS: u32 = 4;
/// Records of a batch, of which a request has one.
const RECORDS: u64 = 500;
/// Batches a second, of 75,000 rows together: they take a fifth of a core with the table.
const RATE: u32 = 150;
/// The last version that names topics and has no tagged fields.
const VERSION: i16 = 8;
/// `iceberg.target.lag.ms`.
const TARGET_LAG: Duration = Duration::from_secs(10);

/// What one load showed.
struct Seen {
    /// From when a batch is due to its acknowledgement.
    produce: Samples,
    lag: Samples,
    /// Of a core.
    cpu: f64,
}

pub fn run(run: &Run) {
    let table = Table::new(&[
        "table",
        "rows/s",
        "values/s",
        "produce p50",
        "p99",
        "broker, of a core",
        "lag p50",
        "lag p99",
        "÷ target lag",
    ]);
    let (batch, mut p99) = (batch(), Vec::new());
    for mode in ["disabled", "value_schema_id_prefix"] {
        let mut seen = measure(run, mode, &batch.0);
        let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
        p99.push(seen.produce.percentile(99));
        let lag = |of: usize, seen: &mut Seen| match seen.lag.count() {
            0 => "–".to_owned(),
            _ => format!("{:.1} s", seen.lag.percentile(of).as_secs_f64()),
        };
        let of_target = match seen.lag.count() {
            0 => "–".to_owned(),
            _ => format!("{:.2}", seen.lag.percentile(99).as_secs_f64() / TARGET_LAG.as_secs_f64()),
        };
        table.row(&[
            mode.to_owned(),
            (u64::from(RATE) * RECORDS).to_string(),
            mb_per_s(batch.1 as f64 * f64::from(RATE)),
            ms(seen.produce.percentile(50)),
            ms(seen.produce.percentile(99)),
            format!("{:.0} %", seen.cpu * 100.0),
            lag(50, &mut seen),
            lag(99, &mut seen),
            of_target,
        ]);
    }
    println!("\nproduce p99 with the table ÷ without: **{:.2}**", p99[1].as_secs_f64() / p99[0].as_secs_f64());
}

fn measure(run: &Run, mode: &str, batch: &Bytes) -> Seen {
    let dir = run.dir("live");
    let (broker, registry) = broker(dir.path());
    register(dir.path(), &registry);
    let target_lag = run.pick(TARGET_LAG, Duration::from_secs(1)).as_millis().to_string();
    let settings = [("iceberg.mode", mode), ("iceberg.target.lag.ms", &target_lag), ("archive.lag.ms", "1000")];
    let partitions = i32::try_from(PARTITIONS).expect("few");
    topic::runtime().block_on(topic::create(&broker.kafka, partitions, &settings));
    let (warm, time) = run.pick((20, 60), (1, 2));
    let (warm, time) = (Duration::from_secs(warm), Duration::from_secs(time));
    let begin = Instant::now();
    let load = Load { begin, counted: begin + warm, end: begin + warm + time };
    let seen = std::thread::scope(|scope| {
        let produced = scope.spawn(|| load.produce(&broker.kafka, batch));
        std::thread::sleep(warm);
        let cpu = machine::cpu_of(broker.pid());
        let mut lag = Samples::default();
        while Instant::now() < load.end {
            if mode != "disabled" {
                load.look(&broker, &mut lag);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let cpu = machine::cpu_of(broker.pid()).saturating_sub(cpu);
        let produce = produced.join().expect("the producer ends well");
        Seen { produce, lag, cpu: cpu.as_secs_f64() / time.as_secs_f64() }
    });
    broker.stop();
    seen
}

/// A broker of one shard with a bucket, and the address of its registry.
fn broker(dir: &Path) -> (Broker, String) {
    let registry = format!("127.0.0.1:{}", free_ports_of(1)[0]);
    let mut options = Options::new(&dir.join("data")).arg("--shards", "1").arg("--disk-bytes", "8GiB");
    options.envs.push(("TIDEWATER_SCHEMA_ADDR".to_owned(), registry.clone()));
    options.bucket = Some(topic::bucket(dir, "live"));
    (Broker::start(&options), registry)
}

/// Registers the schema of the values, the first one of the registry.
fn register(dir: &Path, registry: &str) {
    let file = dir.join("row.avsc");
    std::fs::write(&file, avro_schema()).expect("writable");
    let (subject, file) = (format!("{}-value", topic::NAME), file.display().to_string());
    let words = ["schema", "register", &subject, &file, "--registry", registry, "--json"];
    let output = Command::new(binary()).args(words).output().expect("the command runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["id"], Kind::Avro.id(), "{answer}");
}

/// A batch, and the bytes of its values.
fn batch() -> (Bytes, u64) {
    let (mut builder, mut bytes) = (BatchBuilder::new(Compression::Lz4), 0);
    for row in 0..RECORDS {
        let value = Kind::Avro.value(row);
        bytes += value.len() as u64;
        builder.push(Record::new(topic::now(), Some(Bytes::from(format!("flight-{row}"))), Some(value)));
    }
    (builder.build(), bytes)
}

/// Batches that are due at fixed times, for the partitions in turn.
struct Load {
    begin: Instant,
    /// Those due before warm the broker up.
    counted: Instant,
    end: Instant,
}

impl Load {
    fn due(&self, batch: u32) -> Instant {
        self.begin + Duration::from_secs(1) * batch / RATE
    }

    /// Sends what falls due until the end; the latencies of what is counted.
    fn produce(&self, addr: &str, batch: &Bytes) -> Samples {
        let mut stream = TcpStream::connect(addr).expect("the broker answers");
        stream.set_nodelay(true).expect("nodelay");
        let reading = stream.try_clone().expect("clone");
        let requests: Vec<Bytes> = (0..PARTITIONS)
            .map(|partition| {
                let partition = i32::try_from(partition).expect("few");
                wire::frame(&wire::produce_request(topic::NAME, partition, batch.clone()), VERSION, 0).expect("encodes")
            })
            .collect();
        let (sent, answers) = sync_channel::<Instant>(1 << 16);
        std::thread::scope(|scope| {
            let took = scope.spawn(|| self.answers(reading, answers));
            for (n, request) in (0..).zip(requests.iter().cycle()) {
                let due = self.due(n);
                if due >= self.end {
                    break;
                }
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                stream.write_all(request).expect("the request is sent");
                sent.send(due).expect("answers are read");
            }
            drop(sent);
            took.join().expect("all answers came")
        })
    }

    fn answers(&self, mut stream: TcpStream, sent: Receiver<Instant>) -> Samples {
        let (mut took, mut buffer) = (Samples::default(), Vec::new());
        for due in sent {
            buffer = wire::read_frame(&mut stream, buffer);
            let mut body = Bytes::copy_from_slice(&buffer[4..]);
            let answer = kafka_protocol::protocol::Decodable::decode(&mut body, VERSION).expect("a produce response");
            wire::produced(&answer).expect("one partition").expect("the batch is appended");
            if due >= self.counted {
                took.add(due.elapsed(), 0);
            }
        }
        took
    }

    /// Notes how far the table is behind now.
    fn look(&self, broker: &Broker, lag: &mut Samples) {
        let status = broker.topic(topic::NAME);
        let now = Instant::now();
        let partitions = status["partitions"].as_array().expect("partitions");
        let behind = partitions.iter().zip(0..).map(|(partition, index)| {
            let next = u32::try_from(partition["table_offset"].as_u64().unwrap_or(0) / RECORDS).expect("a short run");
            now.saturating_duration_since(self.due(next * PARTITIONS + index))
        });
        lag.add(behind.max().expect("the topic has partitions"), 0);
    }
}
