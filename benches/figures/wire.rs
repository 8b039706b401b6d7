//! A client that fetches and discards: it finds out where to go on, and opens nothing.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{
    ApiKey, BrokerId, FetchRequest, FetchResponse, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use tidewater_storage::model::batch::HEADER_LEN;

/// The last version in which topics go by name.
const VERSION: i16 = 12;

/// One connection that reads partition 0 of a topic.
pub struct Fetcher {
    stream: TcpStream,
    topic: String,
    max_bytes: i32,
    buffer: Vec<u8>,
}

/// What a fetch brought.
pub struct Fetched {
    /// Bytes of the answer on the wire.
    pub wire: usize,
    /// Where to go on.
    pub next: u64,
}

impl Fetcher {
    pub fn connect(addr: &str, topic: &str, max_bytes: usize) -> Self {
        let stream = TcpStream::connect(addr).expect("the broker answers");
        stream.set_nodelay(true).expect("nodelay");
        let max_bytes = i32::try_from(max_bytes).expect("a fetch of less than 2 GiB");
        Self { stream, topic: topic.to_owned(), max_bytes, buffer: Vec::new() }
    }

    /// Fetches whole batches from `from` on; nothing is waited for.
    pub fn fetch(&mut self, from: u64) -> Fetched {
        self.stream.write_all(&self.request(from)).expect("the request is sent");
        let mut body = Bytes::from(read_frame(&mut self.stream, std::mem::take(&mut self.buffer)));
        let (wire, whole) = (body.len(), body.clone());
        ResponseHeader::decode(&mut body, FetchResponse::header_version(VERSION)).expect("a header");
        let answer = FetchResponse::decode(&mut body, VERSION).expect("a fetch response");
        assert_eq!(answer.error_code, 0, "the fetch is refused");
        let part = answer.responses.into_iter().flat_map(|topic| topic.partitions).next().expect("a partition");
        assert_eq!(part.error_code, 0, "partition 0 is refused at offset {from}, log start {}", part.log_start_offset);
        let next = next_offset(part.records.unwrap_or_default(), from);
        self.buffer = whole.try_into_mut().map(Vec::from).unwrap_or_default();
        Fetched { wire, next }
    }

    fn request(&self, from: u64) -> BytesMut {
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
        let header = RequestHeader::default()
            .with_request_api_key(ApiKey::Fetch as i16)
            .with_request_api_version(VERSION)
            .with_client_id(Some(StrBytes::from_static_str("figures")));
        let mut frame = BytesMut::zeroed(4);
        header.encode(&mut frame, FetchRequest::header_version(VERSION)).expect("encodes");
        request.encode(&mut frame, VERSION).expect("encodes");
        let len = u32::try_from(frame.len() - 4).expect("a small frame");
        (&mut frame[..4]).put_u32(len);
        frame
    }
}

/// One frame into `buffer`, its length left out.
pub fn read_frame(stream: &mut TcpStream, mut buffer: Vec<u8>) -> Vec<u8> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).expect("an answer");
    let len = u32::from_be_bytes(len) as usize;
    buffer.clear();
    buffer.reserve(len);
    stream.take(len as u64).read_to_end(&mut buffer).expect("the whole answer");
    assert_eq!(buffer.len(), len, "the answer ends early");
    buffer
}

/// Hops from batch header to batch header; a batch cut short does not count.
fn next_offset(mut batches: Bytes, from: u64) -> u64 {
    let mut next = from;
    while batches.len() >= HEADER_LEN {
        let mut header = &batches[..];
        let (base, len) = (header.get_u64(), header.get_u32() as usize + 12);
        if batches.len() < len {
            break;
        }
        // partition leader epoch, magic, crc, attributes
        header.advance(4 + 1 + 4 + 2);
        next = base + u64::from(header.get_u32()) + 1;
        batches.advance(len);
    }
    next
}
