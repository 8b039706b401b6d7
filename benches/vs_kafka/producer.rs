//! A producer that costs little processor time: it sends one batch, encoded beforehand, again and again.
//!
//! Owns the frames: a request is one batch for one partition, as librdkafka sends it; correlation id and partition are
//! patched into a frame that was encoded once. Each connection is a thread with a window of unanswered requests.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ProduceResponse, ResponseHeader};
use kafka_protocol::protocol::{Decodable, HeaderVersion};
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Compression, TimestampMs};

use super::contender::Work;
use super::support::wire::{PRODUCE_VERSION, frame, produce_request};

/// Unanswered requests per connection: librdkafka and the Java client allow five.
pub const WINDOW: usize = 5;

/// A batch of `records` records of `bytes` random bytes each.
pub fn batch(records: usize, bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    // The timestamp is now: retention would delete older records.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis();
    let now = TimestampMs(i64::try_from(now).expect("a date"));
    let value: Bytes = (0..bytes).map(|_| rand::random::<u8>()).collect();
    for _ in 0..records {
        builder.push(Record::new(now, None, Some(value.clone())));
    }
    builder.build()
}

/// One connection with its encoded frame.
pub struct Sender {
    stream: TcpStream,
    frame: BytesMut,
    partition_at: usize,
    buffer: Vec<u8>,
}

impl Sender {
    pub fn connect(addr: &str, topic: &str, batch: &Bytes) -> Self {
        const MARK: i32 = 0x5A17_C0DE;
        let stream = TcpStream::connect(addr).expect("the broker answers");
        stream.set_nodelay(true).expect("nodelay");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
        let whole = frame(&produce_request(topic, MARK, batch.clone()), PRODUCE_VERSION, 0).expect("encodes");
        let partition_at = whole.windows(4).position(|w| w == MARK.to_be_bytes()).expect("the partition");
        Self { stream, frame: BytesMut::from(&whole[..]), partition_at, buffer: Vec::new() }
    }

    pub fn send(&mut self, partition: i32) {
        self.frame[self.partition_at..self.partition_at + 4].copy_from_slice(&partition.to_be_bytes());
        self.stream.write_all(&self.frame).expect("the request is sent");
    }

    /// Waits for the oldest answer; an error code ends the run.
    pub fn receive(&mut self) {
        receive(&self.stream, &mut self.buffer);
    }
}

/// Reads one answer to a Produce request.
pub fn receive(mut stream: &TcpStream, buffer: &mut Vec<u8>) {
    let mut len = [0; 4];
    stream.read_exact(&mut len).expect("an answer");
    buffer.resize(u32::from_be_bytes(len) as usize, 0);
    stream.read_exact(buffer).expect("the whole answer");
    let mut body = Bytes::copy_from_slice(buffer);
    ResponseHeader::decode(&mut body, ProduceResponse::header_version(PRODUCE_VERSION)).expect("a header");
    let answer = ProduceResponse::decode(&mut body, PRODUCE_VERSION).expect("a produce response");
    for part in answer.responses.iter().flat_map(|topic| &topic.partition_responses) {
        assert_eq!(part.error_code, 0, "partition {} is refused: {:?}", part.index, part.error_message);
    }
}

/// Sends `requests` batches over the partitions in turn, by that many connections.
pub fn produce(addr: &str, topic: &str, partitions: i32, batch: &Bytes, requests: usize, connections: usize) -> Work {
    std::thread::scope(|scope| {
        for c in 0..connections {
            scope.spawn(move || {
                let mut sender = Sender::connect(addr, topic, batch);
                let mut open = 0;
                for n in (c..requests).step_by(connections) {
                    if open == WINDOW {
                        sender.receive();
                        open -= 1;
                    }
                    sender.send(i32::try_from(n).expect("few requests") % partitions);
                    open += 1;
                }
                (0..open).for_each(|_| sender.receive());
            });
        }
    });
    Work { bytes: (batch.len() * requests) as u64, ..Work::default() }
}
