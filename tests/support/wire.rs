//! A blocking Kafka connection that sends whole requests or any bytes, in any version.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest, RequestHeader, ResponseHeader, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use tidewater_storage::model::batch::HEADER_LEN;
use tidewater_storage::model::{ProducerEpoch, ProducerId};

/// The version of Produce used where none is asked for: topics by name, errors with a message.
pub const PRODUCE_VERSION: i16 = 9;

#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    correlation: i32,
}

fn malformed(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

impl Wire {
    pub fn connect(addr: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        Ok(Self { stream, correlation: 0 })
    }

    /// A second handle of the connection for another thread: one sends, the other receives.
    pub fn try_clone(&self) -> Self {
        Self { stream: self.stream.try_clone().expect("a second handle"), correlation: 0 }
    }

    /// Sends bytes as they are.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a request without waiting for its answer.
    pub fn send<R: Request>(&mut self, request: &R, version: i16) -> io::Result<()> {
        self.correlation += 1;
        self.stream.write_all(&frame(request, version, self.correlation)?)
    }

    /// Receives the answer to the oldest request that has none.
    pub fn receive<R: Request>(&mut self, version: i16) -> io::Result<R::Response> {
        let mut frame = self.read_frame()?;
        ResponseHeader::decode(&mut frame, R::Response::header_version(version)).map_err(malformed)?;
        R::Response::decode(&mut frame, version).map_err(malformed)
    }

    pub fn call<R: Request>(&mut self, request: &R, version: i16) -> io::Result<R::Response> {
        self.send(request, version)?;
        self.receive::<R>(version)
    }

    /// The next frame without its length.
    pub fn read_frame(&mut self) -> io::Result<Bytes> {
        let mut len = [0; 4];
        self.stream.read_exact(&mut len)?;
        let mut frame = vec![0; u32::from_be_bytes(len) as usize];
        self.stream.read_exact(&mut frame)?;
        Ok(frame.into())
    }

    /// Waits until the broker closes the connection; returns the bytes it sent before. An error if it stays open.
    pub fn read_until_closed(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => Ok(rest),
            // Closed with bytes of ours unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(rest),
            Err(error) => Err(error),
        }
    }

    /// A new idempotent producer.
    pub fn producer(&mut self) -> io::Result<(ProducerId, ProducerEpoch)> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let answer = self.call(&request, 4)?;
        if answer.error_code != 0 {
            return Err(io::Error::other(format!("no producer id: error {}", answer.error_code)));
        }
        Ok((ProducerId(answer.producer_id.0), ProducerEpoch(answer.producer_epoch)))
    }

    /// Produces one batch; base offset, or the error's code and message.
    pub fn produce(&mut self, topic: &str, partition: i32, batch: Bytes) -> io::Result<Result<u64, (i16, String)>> {
        self.call(&produce_request(topic, partition, batch), PRODUCE_VERSION).and_then(|answer| produced(&answer))
    }
}

/// A request as a frame, length included.
pub fn frame<R: Request>(request: &R, version: i16, correlation: i32) -> io::Result<Bytes> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(StrBytes::from_static_str("test")));
    let mut frame = BytesMut::zeroed(4);
    header.encode(&mut frame, R::header_version(version)).map_err(malformed)?;
    request.encode(&mut frame, version).map_err(malformed)?;
    let len = u32::try_from(frame.len() - 4).map_err(malformed)?;
    frame[..4].copy_from_slice(&len.to_be_bytes());
    Ok(frame.freeze())
}

/// A Produce request of one batch with acks=all.
pub fn produce_request(topic: &str, partition: i32, batch: Bytes) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
    let name = TopicName(StrBytes::from_string(topic.to_owned()));
    let data = TopicProduceData::default().with_name(name).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![data])
}

/// What the answer to a [`produce_request`] says.
pub fn produced(answer: &kafka_protocol::messages::ProduceResponse) -> io::Result<Result<u64, (i16, String)>> {
    let part = answer.responses.first().and_then(|topic| topic.partition_responses.first());
    let part = part.ok_or_else(|| malformed("no partition in the answer"))?;
    if part.error_code != 0 {
        return Ok(Err((part.error_code, part.error_message.as_ref().map(ToString::to_string).unwrap_or_default())));
    }
    Ok(Ok(u64::try_from(part.base_offset).map_err(malformed)?))
}

/// One frame into `buffer`, its length left out: for clients that measure and keep their memory.
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

/// From batch header to batch header without opening one: bytes of whole batches, and where to go on.
pub fn hop(mut batches: Bytes, next: &mut u64) -> u64 {
    let mut bytes = 0;
    while batches.len() >= HEADER_LEN {
        let mut header = &batches[..];
        let (base, len) = (header.get_u64(), header.get_u32() as usize + 12);
        if batches.len() < len {
            break;
        }
        // partition leader epoch, magic, crc, attributes
        header.advance(4 + 1 + 4 + 2);
        *next = base + u64::from(header.get_u32()) + 1;
        batches.advance(len);
        bytes += len as u64;
    }
    bytes
}
