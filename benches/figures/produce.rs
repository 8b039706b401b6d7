//! Produce through the socket of a real broker process: processor time per megabyte and per request.
//!
//! The client sends requests that were encoded beforehand, so that it costs little beside the broker. Every request is
//! one batch for one partition, the partitions in turn. Bytes are the bytes of record values.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use kafka_protocol::messages::ProduceResponse;
use kafka_protocol::protocol::Decodable;
use tidewater_storage::model::Compression;
use tidewater_storage::model::record::{BatchBuilder, Record};

use crate::report::{Samples, Table, mb_per_s, micros};
use crate::support::broker::{Broker, Options};
use crate::support::wire;
use crate::{Run, machine, topic};

/// The last version that names topics and has no tagged fields.
const VERSION: i16 = 8;
/// Time before the first measured request: memory is touched and files are created.
const WARM_UP: Duration = Duration::from_secs(2);

/// Shape of one load.
struct Work {
    what: &'static str,
    records: usize,
    value: usize,
    partitions: i32,
    connections: usize,
    /// Requests in flight on each.
    in_flight: usize,
}

const WORKS: [Work; 6] = [
    Work { what: "1 MB batches", records: 960, value: 1024, partitions: 4, connections: 1, in_flight: 5 },
    Work { what: "128 KiB batches", records: 120, value: 1024, partitions: 4, connections: 1, in_flight: 5 },
    Work { what: "16-record batches", records: 16, value: 1024, partitions: 4, connections: 1, in_flight: 64 },
    Work {
        what: "16-record, 1,000 partitions",
        records: 16,
        value: 1024,
        partitions: 1000,
        connections: 1,
        in_flight: 64,
    },
    Work { what: "1-record, 16 partitions", records: 1, value: 1024, partitions: 16, connections: 8, in_flight: 32 },
    Work {
        what: "1-record, 1,000 partitions",
        records: 1,
        value: 1024,
        partitions: 1000,
        connections: 8,
        in_flight: 32,
    },
];

/// No archiving, and retention below the disk budget.
const SETTINGS: [(&str, &str); 3] =
    [("remote.storage.enable", "false"), ("retention.bytes", "536870912"), ("segment.bytes", "134217728")];

pub fn run(run: &Run) {
    let table = Table::new(&[
        "1 KiB records",
        "rate",
        "broker CPU per MB",
        "per request",
        "p50",
        "p99",
        "bytes to disk per byte",
    ]);
    for work in &WORKS {
        let partitions = if run.small { work.partitions.min(8) } else { work.partitions };
        let work = Work { partitions, ..*work };
        let dir = run.dir("produce");
        let broker = broker(&dir.path().join("data"));
        topic::runtime().block_on(topic::create(&broker.kafka, partitions, &SETTINGS));
        let mut samples = measure(run, &work, &broker);
        let written = samples.1;
        let samples = &mut samples.0;
        table.row(&[
            work.what.into(),
            mb_per_s(samples.rate()),
            format!("{:.0} µs", samples.cpu.as_secs_f64() * 1e12 / samples.bytes as f64),
            micros(samples.cpu_each()),
            micros(samples.percentile(50)),
            micros(samples.percentile(99)),
            format!("{:.2}", written as f64 / samples.bytes as f64),
        ]);
        broker.stop();
    }
}

/// A broker with one shard; the topic is not archived.
fn broker(data: &Path) -> Broker {
    Broker::start(&Options::new(data).arg("--shards", "1").arg("--disk-bytes", "12GiB"))
}

/// Runs all connections; returns the samples and the bytes that the broker wrote to disk meanwhile.
fn measure(run: &Run, work: &Work, broker: &Broker) -> (Samples, u64) {
    let batch = batch(work);
    let warm_up = run.pick(WARM_UP, Duration::from_millis(50));
    let time = run.pick(Duration::from_secs(5), Duration::from_millis(100));
    let begin = Instant::now() + warm_up;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..work.connections)
            .map(|n| {
                let (batch, addr) = (batch.clone(), &broker.kafka);
                scope.spawn(move || client(addr, work, n, &batch, begin, begin + time))
            })
            .collect();
        std::thread::sleep(warm_up);
        let (cpu, disk) = (machine::cpu_of(broker.pid()), machine::written_by(broker.pid()));
        std::thread::sleep(time);
        let cpu = machine::cpu_of(broker.pid()).saturating_sub(cpu);
        let disk = machine::written_by(broker.pid()).saturating_sub(disk);
        let mut samples = Samples::default();
        for took in clients.into_iter().flat_map(|client| client.join().expect("the client ends well")) {
            samples.add(took, (work.records * work.value) as u64);
        }
        samples.cpu = cpu;
        (samples.over(time), disk)
    })
}

fn batch(work: &Work) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for record in 0..work.records {
        let value: Vec<u8> = (0..work.value).map(|n| ((n + record).wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        builder.push(Record::new(topic::now(), None, Some(Bytes::from(value))));
    }
    builder.build()
}

/// One connection: keeps its requests in flight and returns the latencies of those that ended in the measured time.
fn client(addr: &str, work: &Work, nth: usize, batch: &Bytes, begin: Instant, end: Instant) -> Vec<Duration> {
    let mut stream = TcpStream::connect(addr).expect("the broker answers");
    stream.set_nodelay(true).expect("nodelay");
    // Requests for as many partitions as fit into 64 MiB; their batches are the same.
    let kinds = (64 << 20) / batch.len().max(1) / work.connections;
    let first = i32::try_from(nth * 131).expect("few connections");
    let partitions = (0..work.partitions).map(|n| (first + n) % work.partitions).take(kinds.max(1));
    let request = |partition| wire::frame(&wire::produce_request(topic::NAME, partition, batch.clone()), VERSION, 0);
    let requests: Vec<Bytes> = partitions.map(|partition| request(partition).expect("encodes")).collect();
    let mut requests = requests.iter().cycle();
    let (mut sent, mut took) = (VecDeque::new(), Vec::new());
    let (mut buffer, mut held) = (vec![0; 64 << 10], 0);
    while Instant::now() < end {
        while sent.len() < work.in_flight {
            stream.write_all(requests.next().expect("requests never end")).expect("the request is sent");
            sent.push_back(Instant::now());
        }
        let came = stream.read(&mut buffer[held..]).expect("an answer");
        assert!(came > 0, "the broker closed the connection");
        held += came;
        let mut answers = &buffer[..held];
        while let Some(answer) = next_answer(&mut answers) {
            wire::produced(&answer).expect("one partition").expect("the batch is appended");
            let one = sent.pop_front().expect("a request for every answer");
            if one >= begin {
                took.push(one.elapsed());
            }
        }
        let rest = answers.len();
        buffer.copy_within(held - rest..held, 0);
        held = rest;
    }
    took
}

fn next_answer(bytes: &mut &[u8]) -> Option<ProduceResponse> {
    let mut rest = *bytes;
    let len = rest.try_get_u32().ok()? as usize;
    let (frame, after) = rest.split_at_checked(len)?;
    *bytes = after;
    // The correlation id comes first.
    let mut body = Bytes::copy_from_slice(frame.get(4..)?);
    Some(ProduceResponse::decode(&mut body, VERSION).expect("a produce response"))
}
