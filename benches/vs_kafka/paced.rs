//! Latency at a fixed rate: records of 1 KiB, 10 MB/s, linger 0, open loop.
//!
//! Each record is due at a fixed time that does not depend on the broker; its latency is the time from then to its
//! acknowledgement. A connection sends due records at once, as real clients do. While five of its requests are open it
//! collects records; the next request then carries one batch for each partition with records due.

use std::collections::VecDeque;
use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::protocol::StrBytes;

use super::Run;
use super::contender::{Contender, Field, Figure, Work};
use super::producer::{WINDOW, batch, receive};
use super::support::wire::{PRODUCE_VERSION, frame};

const RECORD: usize = 1024;
const RATE: u32 = 10_000;
const PARTITIONS: i32 = 16;
const CONNECTIONS: usize = 4;
/// Records of one partition in a request at most; the rest go with the next request.
const BATCH_MAX: usize = 512;

pub fn run(run: &Run, field: &Field) {
    let batches: Vec<Bytes> = (1..=BATCH_MAX).map(|records| batch(records, RECORD)).collect();
    let (warm, measured) = run.pick((2, 10), (0, 1));
    let figures = field.measure(run, "paced", PARTITIONS, |contender, topic| {
        pace(contender, topic, &batches, Duration::from_secs(warm), Duration::from_secs(measured))
    });
    println!(
        "10 MB/s of 1 KiB records over {PARTITIONS} partitions, {CONNECTIONS} connections; p99 is to be at most a"
    );
    println!("tenth of Kafka flushed and below Kafka as shipped\n");
    println!("| | p50 | p99 | p99.9 | greatest | processor |\n|---|---|---|---|---|---|");
    for (contender, figure) in field.contenders.iter().zip(&figures) {
        println!("| {} | {} | {:.1} % of a core |", contender.name, latencies(figure), share(figure));
    }
}

/// Table cells: p50, p99, p99.9 and the maximum.
pub fn latencies(figure: &Figure) -> String {
    let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
    [500, 990, 999, 1000].map(|of| ms(figure.per_mille(of))).join(" | ")
}

fn share(figure: &Figure) -> f64 {
    100.0 * figure.cpu.as_secs_f64() / figure.wall.as_secs_f64()
}

fn pace(contender: &Contender, topic: &str, batches: &[Bytes], warm: Duration, measured: Duration) -> Work {
    let begin = Instant::now() + Duration::from_millis(20);
    let mut took: Vec<Duration> = std::thread::scope(|scope| {
        let pace = |c| {
            let line =
                Line { addr: &contender.addr, topic, batches, connection: c, begin, end: begin + warm + measured };
            scope.spawn(move || line.run(begin + warm))
        };
        let lines: Vec<_> = (0..CONNECTIONS).map(pace).collect();
        lines.into_iter().flat_map(|line| line.join().expect("a connection ends well")).collect()
    });
    took.sort_unstable();
    Work { bytes: u64::from(RATE) * RECORD as u64 * (warm + measured).as_secs(), wall: Some(warm + measured), took }
}

/// One connection.
struct Line<'a> {
    addr: &'a str,
    topic: &'a str,
    batches: &'a [Bytes],
    connection: usize,
    begin: Instant,
    end: Instant,
}

impl Line<'_> {
    /// Sends its share of the records as they fall due; returns the latencies of those due at or after `count_from`.
    fn run(self, count_from: Instant) -> Vec<Duration> {
        let stream = TcpStream::connect(self.addr).expect("the broker answers");
        stream.set_nodelay(true).expect("nodelay");
        let reading = stream.try_clone().expect("clone");
        // The records of each open request, in the order of the answers, and a permit for each request that may be
        // open.
        let (sent, answers) = sync_channel::<Vec<Instant>>(WINDOW);
        let (free, slots) = sync_channel::<()>(WINDOW);
        (0..WINDOW).for_each(|_| free.send(()).expect("room for every slot"));
        let reader = std::thread::spawn(move || {
            let (mut took, mut buffer) = (Vec::new(), Vec::new());
            while let Ok(due) = answers.recv() {
                receive(&reading, &mut buffer);
                let now = Instant::now();
                // The writer may have ended.
                let _ = free.send(());
                took.extend(due.into_iter().filter(|due| *due >= count_from).map(|due| now - due));
            }
            took
        });
        self.write(stream, &sent, &slots);
        drop(sent);
        reader.join().expect("the reader ends well")
    }

    /// When record `n` of all connections together is due.
    fn due(&self, n: usize) -> Instant {
        self.begin + Duration::from_secs(1) * u32::try_from(n).expect("a short run") / RATE
    }

    fn write(&self, mut stream: TcpStream, sent: &SyncSender<Vec<Instant>>, slots: &Receiver<()>) {
        let mut next = self.connection;
        // Partition n belongs to connection n modulo the number of connections.
        let mut queues: Vec<VecDeque<Instant>> = (0..PARTITIONS).map(|_| VecDeque::new()).collect();
        while self.due(next) < self.end {
            std::thread::sleep(self.due(next).saturating_duration_since(Instant::now()));
            self.fall_due(&mut queues, &mut next);
            while queues.iter().any(|queue| !queue.is_empty()) {
                slots.recv().expect("the reader reads on");
                self.fall_due(&mut queues, &mut next);
                let (request, due) = self.gather(&mut queues);
                let whole = frame(&request, PRODUCE_VERSION, 0).expect("encodes");
                sent.send(due).expect("the reader reads on");
                stream.write_all(&whole).expect("the request is sent");
            }
        }
    }

    /// Queues the records that are due.
    fn fall_due(&self, queues: &mut [VecDeque<Instant>], next: &mut usize) {
        let now = Instant::now();
        while self.due(*next) <= now && self.due(*next) < self.end {
            queues[*next % PARTITIONS as usize].push_back(self.due(*next));
            *next += CONNECTIONS;
        }
    }

    /// A request with a batch for every partition that has records due.
    fn gather(&self, queues: &mut [VecDeque<Instant>]) -> (ProduceRequest, Vec<Instant>) {
        let (mut data, mut due) = (Vec::new(), Vec::new());
        for (partition, queue) in (0..).zip(queues) {
            let count = queue.len().min(self.batches.len());
            if let Some(batch) = count.checked_sub(1).and_then(|n| self.batches.get(n)) {
                data.push(PartitionProduceData::default().with_index(partition).with_records(Some(batch.clone())));
                due.extend(queue.drain(..count));
            }
        }
        let name = kafka_protocol::messages::TopicName(StrBytes::from_string(self.topic.to_owned()));
        let topic = TopicProduceData::default().with_name(name).with_partition_data(data);
        (ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic]), due)
    }
}
