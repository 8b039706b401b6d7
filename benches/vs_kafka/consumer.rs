//! Hot fetch: consumers that read a topic from its start to its end and discard it; one of them, and eight at once.

use std::io::Write;
use std::net::TcpStream;

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, ResponseHeader, TopicName};
use kafka_protocol::protocol::{Decodable, HeaderVersion, StrBytes};

use super::Run;
use super::contender::{Contender, Field, Work};
use super::producer::{batch, produce};
use super::rows::{head, row};
use super::support::wire::{frame, hop, read_frame};

/// The last version in which topics go by name.
const VERSION: i16 = 12;
const PARTITIONS: i32 = 4;

pub fn run(run: &Run, field: &Field) {
    let (batches, passes) = run.pick((300, 4), (8, 1));
    let batch = batch(1000, 1024);
    head(field);
    for consumers in [1, 8] {
        let passes = if consumers == 1 { passes } else { (passes / 4).max(1) };
        // Producing is not measured: the figure starts with the first fetch.
        let figures = field.measure_after(
            run,
            &format!("fetch {consumers}"),
            PARTITIONS,
            |contender, topic| drop(produce(&contender.addr, topic, PARTITIONS, &batch, batches, 2)),
            |contender, topic| read(contender, topic, consumers, passes),
        );
        row(
            field,
            &format!("hot fetch, {consumers} consumer{}", if consumers == 1 { "" } else { "s" }),
            &figures,
            (1.0, 1.0),
        );
    }
}

/// How many times each consumer reads the topic.
fn read(contender: &Contender, topic: &str, consumers: usize, passes: usize) -> Work {
    let bytes = std::thread::scope(|scope| {
        let all: Vec<_> = (0..consumers)
            .map(|_| {
                scope.spawn(|| (0..passes).map(|_| Reader::connect(&contender.addr, topic).read_all()).sum::<u64>())
            })
            .collect();
        all.into_iter().map(|one| one.join().expect("a consumer ends well")).sum()
    });
    Work { bytes, ..Work::default() }
}

/// A connection that reads every partition once.
struct Reader {
    stream: TcpStream,
    topic: TopicName,
    next: Vec<u64>,
    buffer: Vec<u8>,
}

impl Reader {
    fn connect(addr: &str, topic: &str) -> Self {
        let stream = TcpStream::connect(addr).expect("the broker answers");
        stream.set_nodelay(true).expect("nodelay");
        let topic = TopicName(StrBytes::from_string(topic.to_owned()));
        Self { stream, topic, next: vec![0; PARTITIONS as usize], buffer: Vec::new() }
    }

    /// Reads to the end; returns the bytes of all batches.
    fn read_all(mut self) -> u64 {
        let mut bytes = 0;
        loop {
            match self.fetch() {
                0 => return bytes,
                more => bytes += more,
            }
        }
    }

    fn fetch(&mut self) -> u64 {
        let partition = |(n, from): (i32, &u64)| {
            FetchPartition::default()
                .with_partition(n)
                .with_current_leader_epoch(-1)
                .with_fetch_offset(i64::try_from(*from).expect("an offset"))
                .with_partition_max_bytes(1 << 20)
        };
        let topic = FetchTopic::default()
            .with_topic(self.topic.clone())
            .with_partitions((0..).zip(&self.next).map(partition).collect());
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_min_bytes(1)
            .with_max_bytes(50 << 20)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        self.stream.write_all(&frame(&request, VERSION, 0).expect("encodes")).expect("the request is sent");
        let mut body = Bytes::from(read_frame(&mut self.stream, std::mem::take(&mut self.buffer)));
        let whole = body.clone();
        ResponseHeader::decode(&mut body, FetchResponse::header_version(VERSION)).expect("a header");
        let answer = FetchResponse::decode(&mut body, VERSION).expect("a fetch response");
        let mut bytes = 0;
        for part in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
            assert_eq!(part.error_code, 0, "partition {}", part.partition_index);
            let slot = &mut self.next[usize::try_from(part.partition_index).expect("a partition")];
            bytes += hop(part.records.unwrap_or_default(), slot);
        }
        drop(body);
        self.buffer = whole.try_into_mut().map(Vec::from).unwrap_or_default();
        bytes
    }
}
