//! One connection: connect, negotiate versions, call. Calls may be pipelined: send several, then receive in order.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes, VersionRange};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::error::ClientError;

/// A larger answer than any broker sends is not Kafka.
const FRAME_MAX: usize = 512 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than any call here waits on the broker's side.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// A connected client.
#[derive(Debug)]
pub struct Client {
    addr: String,
    stream: TcpStream,
    versions: HashMap<i16, VersionRange>,
    correlation: i32,
    buffer: BytesMut,
}

/// A call that was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    correlation: i32,
    version: i16,
    api: &'static str,
}

impl Client {
    /// Connects to the first of `bootstrap` (`HOST:PORT[,HOST:PORT…]`) that answers.
    ///
    /// # Errors
    /// None answers, or it is no Kafka broker.
    pub async fn connect(bootstrap: &str) -> Result<Self, ClientError> {
        let mut last = None;
        for addr in bootstrap.split(',').map(str::trim).filter(|addr| !addr.is_empty()) {
            match Self::open(addr).await {
                Ok(client) => return Ok(client),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| ClientError::Unreachable {
            addr: bootstrap.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidInput, "no address given"),
        }))
    }

    async fn open(addr: &str) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable { addr: addr.to_owned(), source };
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(addr)).await;
        let stream = connected.map_err(|_| unreachable(io::ErrorKind::TimedOut.into()))?.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let mut client =
            Self { addr: addr.to_owned(), stream, versions: HashMap::new(), correlation: 0, buffer: BytesMut::new() };
        client.negotiate().await?;
        Ok(client)
    }

    async fn negotiate(&mut self) -> Result<(), ClientError> {
        self.versions.insert(ApiKey::ApiVersions as i16, VersionRange { min: 0, max: 0 });
        let answer = self.call(&ApiVersionsRequest::default()).await?;
        super::error::check(|| "version negotiation".to_owned(), answer.error_code, None)?;
        let served =
            answer.api_keys.iter().map(|k| (k.api_key, VersionRange { min: k.min_version, max: k.max_version }));
        self.versions.extend(served);
        Ok(())
    }

    /// Where it is connected to.
    #[must_use]
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn call<R: Request>(&mut self, request: &R) -> Result<R::Response, ClientError> {
        let sent = self.send(request).await?;
        self.receive::<R>(sent).await
    }

    /// Sends a request; answers come in the order of the requests.
    pub(super) async fn send<R: Request>(&mut self, request: &R) -> Result<Sent, ClientError> {
        let api = name_of(R::KEY);
        let version = self.version::<R>(api)?;
        self.correlation = self.correlation.wrapping_add(1);
        let sent = Sent { correlation: self.correlation, version, api };
        let frame = encode(request, sent).map_err(|why| self.malformed(api, why))?;
        self.stream.write_all(&frame).await.map_err(|source| self.lost(api, source))?;
        Ok(sent)
    }

    /// Waits for the answer to a request; they must be received in the order sent.
    pub(super) async fn receive<R: Request>(&mut self, sent: Sent) -> Result<R::Response, ClientError> {
        let read = tokio::time::timeout(CALL_TIMEOUT, read_frame(&mut self.stream, &mut self.buffer)).await;
        let timeout = || ClientError::Timeout { addr: self.addr.clone(), api: sent.api, after: CALL_TIMEOUT };
        let mut frame = read.map_err(|_| timeout())?.map_err(|source| self.lost(sent.api, source))?;
        let header = ResponseHeader::decode(&mut frame, R::Response::header_version(sent.version));
        let header = header.map_err(|e| self.malformed(sent.api, e.to_string()))?;
        if header.correlation_id != sent.correlation {
            return Err(self.malformed(sent.api, "it belongs to another request".to_owned()));
        }
        R::Response::decode(&mut frame, sent.version).map_err(|e| self.malformed(sent.api, e.to_string()))
    }

    /// The version both sides speak. Produce and Fetch stay where topics go by name.
    fn version<R: Request>(&self, api: &'static str) -> Result<i16, ClientError> {
        let cap = if R::KEY == ApiKey::Produce as i16 || R::KEY == ApiKey::Fetch as i16 { 12 } else { i16::MAX };
        let ours = R::VERSIONS;
        let both = self.versions.get(&R::KEY).map(|theirs| ours.intersect(theirs));
        match both {
            Some(both) if !both.is_empty() && both.min <= cap => Ok(both.max.min(cap)),
            _ => Err(ClientError::Unsupported { addr: self.addr.clone(), api }),
        }
    }

    fn lost(&self, api: &'static str, source: io::Error) -> ClientError {
        ClientError::Lost { addr: self.addr.clone(), api, source }
    }

    fn malformed(&self, api: &'static str, why: String) -> ClientError {
        ClientError::Malformed { addr: self.addr.clone(), api, why }
    }
}

fn encode<R: Request>(request: &R, sent: Sent) -> Result<Bytes, String> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(sent.version)
        .with_correlation_id(sent.correlation)
        .with_client_id(Some(StrBytes::from_static_str("tidewater-cli")));
    let mut frame = BytesMut::zeroed(4);
    header.encode(&mut frame, R::header_version(sent.version)).map_err(|e| e.to_string())?;
    request.encode(&mut frame, sent.version).map_err(|e| e.to_string())?;
    let len = u32::try_from(frame.len() - 4).map_err(|_| "larger than a frame can be".to_owned())?;
    frame[..4].copy_from_slice(&len.to_be_bytes());
    Ok(frame.freeze())
}

async fn read_frame(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<Bytes> {
    let len = stream.read_u32().await? as usize;
    if len > FRAME_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an answer of {len} bytes was announced")));
    }
    buffer.reserve(len);
    let mut taken = stream.take(len as u64);
    while buffer.len() < len {
        if taken.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(buffer.split_to(len).freeze())
}

fn name_of(key: i16) -> &'static str {
    match ApiKey::try_from(key) {
        Ok(ApiKey::Produce) => "Produce",
        Ok(ApiKey::Fetch) => "Fetch",
        Ok(ApiKey::ListOffsets) => "ListOffsets",
        Ok(ApiKey::Metadata) => "Metadata",
        Ok(ApiKey::OffsetCommit) => "OffsetCommit",
        Ok(ApiKey::OffsetFetch) => "OffsetFetch",
        Ok(ApiKey::DescribeGroups) => "DescribeGroups",
        Ok(ApiKey::ListGroups) => "ListGroups",
        Ok(ApiKey::ApiVersions) => "ApiVersions",
        Ok(ApiKey::CreateTopics) => "CreateTopics",
        Ok(ApiKey::DeleteTopics) => "DeleteTopics",
        Ok(ApiKey::DeleteRecords) => "DeleteRecords",
        Ok(ApiKey::InitProducerId) => "InitProducerId",
        Ok(ApiKey::DescribeConfigs) => "DescribeConfigs",
        Ok(ApiKey::CreatePartitions) => "CreatePartitions",
        Ok(ApiKey::DeleteGroups) => "DeleteGroups",
        Ok(ApiKey::IncrementalAlterConfigs) => "IncrementalAlterConfigs",
        Ok(ApiKey::DescribeCluster) => "DescribeCluster",
        _ => "a request",
    }
}
