//! A client that fetches and discards: it reads the next offset from batch headers and unpacks nothing.

use std::io::Write;
use std::net::TcpStream;

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, ResponseHeader, TopicName};
use kafka_protocol::protocol::{Decodable, HeaderVersion, StrBytes};

use crate::support::wire::{frame, hop, read_frame};

/// The last version that names topics.
const VERSION: i16 = 12;

/// One connection that reads partition 0 of a topic.
pub struct Fetcher {
    stream: TcpStream,
    topic: String,
    max_bytes: i32,
    buffer: Vec<u8>,
}

/// Result of a fetch.
pub struct Fetched {
    /// Bytes of the answer on the wire.
    pub wire: usize,
    /// The offset of the next fetch.
    pub next: u64,
}

impl Fetcher {
    pub fn connect(addr: &str, topic: &str, max_bytes: usize) -> Self {
        let stream = TcpStream::connect(addr).expect("the broker answers");
        stream.set_nodelay(true).expect("nodelay");
        let max_bytes = i32::try_from(max_bytes).expect("a fetch of less than 2 GiB");
        Self { stream, topic: topic.to_owned(), max_bytes, buffer: Vec::new() }
    }

    /// Fetches whole batches from `from` on, with no wait for more bytes.
    pub fn fetch(&mut self, from: u64) -> Fetched {
        self.stream.write_all(&self.request(from)).expect("the request is sent");
        let mut body = Bytes::from(read_frame(&mut self.stream, std::mem::take(&mut self.buffer)));
        let (wire, whole) = (body.len(), body.clone());
        ResponseHeader::decode(&mut body, FetchResponse::header_version(VERSION)).expect("a header");
        let answer = FetchResponse::decode(&mut body, VERSION).expect("a fetch response");
        assert_eq!(answer.error_code, 0, "the fetch is refused");
        let part = answer.responses.into_iter().flat_map(|topic| topic.partitions).next().expect("a partition");
        assert_eq!(part.error_code, 0, "partition 0 is refused at offset {from}, log start {}", part.log_start_offset);
        let mut next = from;
        hop(part.records.unwrap_or_default(), &mut next);
        self.buffer = whole.try_into_mut().map(Vec::from).unwrap_or_default();
        Fetched { wire, next }
    }

    fn request(&self, from: u64) -> Bytes {
        let partition = FetchPartition::default()
            .with_partition(0)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(i64::try_from(from).expect("an offset"))
            .with_partition_max_bytes(self.max_bytes);
        let topic = TopicName(StrBytes::from_string(self.topic.clone()));
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(0)
            .with_min_bytes(1)
            .with_max_bytes(self.max_bytes)
            .with_session_epoch(-1)
            .with_topics(vec![FetchTopic::default().with_topic(topic).with_partitions(vec![partition])]);
        frame(&request, VERSION, 0).expect("encodes")
    }
}
