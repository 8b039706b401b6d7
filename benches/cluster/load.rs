//! `load`: batches of one record of 1 KiB with acks=all over 1,000 partitions, and over 16 in turn with it.
//!
//! Each broker gets connections that send to the partitions it leads, with as many requests open as [`IN_FLIGHT`]
//! says. Requests are encoded beforehand, so that the client costs little beside the brokers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::ProduceRequest;
use tidewater_storage::model::Compression;
use tidewater_storage::model::record::{BatchBuilder, Record};

use crate::paced::now;
use crate::report::{Samples, Table, micros, ratio};
use crate::support::cluster::Cluster;
use crate::support::wire::{PRODUCE_VERSION, Wire, frame, produce_request, produced};
use crate::{BROKERS, Line, PATIENCE, Run, leaders, ms, process, topics, wire};

const RECORD: usize = 1024;
/// Connections to each broker, and open requests on each: about 256 in all.
const CONNECTIONS: usize = 2;
const IN_FLIGHT: usize = 42;
/// How soon a connection asks again who leads what, after a refusal.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// No archiving, and retention below the disk budget.
const SETTINGS: [(&str, &str); 3] =
    [("remote.storage.enable", "false"), ("retention.bytes", "536870912"), ("segment.bytes", "134217728")];

/// One topic under load.
struct Work<'a> {
    cluster: &'a Cluster,
    topic: &'a str,
    batch: &'a Bytes,
    begin: Instant,
    end: Instant,
}

/// What a connection saw.
#[derive(Default)]
struct Seen {
    /// Latencies of the requests that were acknowledged in the measured time.
    took: Vec<Duration>,
    refused: u64,
}

pub fn run(run: &Run) -> Vec<Line> {
    let counts: [i32; 2] = if run.small { [4, 24] } else { [16, 1000] };
    let rounds = run.number("--rounds", 3, 1);
    let warm_up = Duration::from_secs(if run.small { 0 } else { 3 });
    let window = run.seconds("--seconds", 10, 1);
    let dir = run.dir("cluster-load");
    let cluster = run.cluster(dir.path());
    let mut wire = wire(&cluster);
    let names = counts.map(|count| format!("of-{count}"));
    for (name, count) in names.iter().zip(counts) {
        topics::one(&mut wire, name, count, &SETTINGS);
        cluster.wait_balanced(name, PATIENCE);
    }
    let batch = batch();
    let table = Table::new(&[
        "partitions",
        "records/s",
        "p50",
        "p99",
        "processor per record, all brokers",
        "refused",
        "elections",
    ]);
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for ((name, count), rates) in names.iter().zip(counts).zip(&mut rates) {
            let terms = cluster.terms();
            let begin = Instant::now() + warm_up;
            let work = Work { cluster: &cluster, topic: name, batch: &batch, begin, end: begin + window };
            let (mut samples, refused) = measure(&work);
            assert!(samples.count() > 0, "no record was acknowledged\n{}", cluster.logs());
            rates.push(samples.per_second());
            table.row(&[
                count.to_string(),
                format!("{:.0}", samples.per_second()),
                ms(samples.percentile(50)),
                ms(samples.percentile(99)),
                micros(samples.cpu_each()),
                refused.to_string(),
                leaders::elections(&terms, &cluster.terms()).to_string(),
            ]);
        }
    }
    let [few, many] = rates.map(median);
    println!(
        "\nIn words: three brokers take {many:.0} records a second over {} partitions, {:.2} of the \
         {few:.0} over {} (aim: 0.7).",
        counts[1],
        many / few,
        counts[0]
    );
    vec![Line {
        what: format!("1 KiB records, acks=all, over {} partitions", counts[1]),
        figure: format!("{many:.0} records/s"),
        beside: format!("over {} partitions: {few:.0}", counts[0]),
        ratio: ratio(many, few),
    }]
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn batch() -> Bytes {
    let value: Vec<u8> = (0..RECORD).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(Record::new(now(), None, Some(value.into())));
    builder.build()
}

/// All connections; samples of the measured time, and refused requests.
fn measure(work: &Work<'_>) -> (Samples, u64) {
    let cpu = || (0..BROKERS).map(|n| process::cpu(work.cluster.broker(n).pid())).sum::<Duration>();
    std::thread::scope(|scope| {
        let connections = (0..BROKERS * CONNECTIONS).map(|n| scope.spawn(move || work.connection(n)));
        let connections: Vec<_> = connections.collect();
        std::thread::sleep(work.begin.saturating_duration_since(Instant::now()));
        let before = cpu();
        std::thread::sleep(work.end.saturating_duration_since(Instant::now()));
        let used = cpu().saturating_sub(before);
        let (mut samples, mut refused) = (Samples::default(), 0);
        for seen in connections.into_iter().map(|one| one.join().expect("a connection ends well")) {
            seen.took.into_iter().for_each(|took| samples.add(took, RECORD as u64));
            refused += seen.refused;
        }
        samples.cpu = used;
        (samples.over(work.end - work.begin), refused)
    })
}

impl Work<'_> {
    /// Requests for the partitions that a broker leads.
    fn requests(&self, broker: usize) -> Vec<Bytes> {
        let led = leaders::by_leader(self.cluster, self.topic).remove(&broker).into_iter().flatten();
        let request =
            |partition| frame(&produce_request(self.topic, partition, self.batch.clone()), PRODUCE_VERSION, 0);
        led.map(|partition| request(partition).expect("encodes")).collect()
    }

    fn connection(&self, nth: usize) -> Seen {
        let broker = nth % BROKERS;
        let mut wire = Wire::connect(&self.cluster.broker(broker).kafka).expect("connects");
        let (mut requests, mut asked) = (self.requests(broker), Instant::now());
        let (mut open, mut seen, mut turn) = (VecDeque::new(), Seen::default(), nth * 131);
        loop {
            let over = Instant::now() >= self.end;
            while !over && open.len() < IN_FLIGHT && !requests.is_empty() {
                wire.send_bytes(&requests[turn % requests.len()]).expect("the request is sent");
                open.push_back(Instant::now());
                turn += 1;
            }
            let mut moved = requests.is_empty();
            if let Some(sent) = open.pop_front() {
                let answer = wire.receive::<ProduceRequest>(PRODUCE_VERSION).expect("an answer");
                let at = Instant::now();
                match produced(&answer).expect("a partition") {
                    Ok(_) if (self.begin..self.end).contains(&at) => seen.took.push(at - sent),
                    Ok(_) => {}
                    Err(_) => (seen.refused, moved) = (seen.refused + 1, true),
                }
            } else if over {
                return seen;
            } else {
                // The broker leads none of the partitions.
                std::thread::sleep(ASK_AGAIN);
            }
            if moved && asked.elapsed() >= ASK_AGAIN {
                (requests, asked) = (self.requests(broker), Instant::now());
            }
        }
    }
}
