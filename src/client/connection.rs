//! One connection to one broker: connect, negotiate versions, call. Calls may be pipelined: send several, then receive
//! in order.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, RequestHeader};
use kafka_protocol::protocol::{Encodable, Request, StrBytes, VersionRange};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::answer;
use super::error::ClientError;

/// A larger answer than any broker sends is not Kafka. A fetch asks for 8 MiB and gets one batch more at most.
const FRAME_MAX: usize = 128 << 20;
/// Memory is taken as bytes arrive, at most this much ahead, not as they are announced.
const AHEAD: usize = 1 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than any call here waits on the broker's side.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Connection {
    addr: String,
    stream: TcpStream,
    versions: HashMap<i16, VersionRange>,
    correlation: i32,
    /// Requests sent whose answer has not been received.
    open: usize,
    buffer: BytesMut,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    correlation: i32,
    version: i16,
    api: &'static str,
}

impl Connection {
    /// Connects to `HOST:PORT`.
    ///
    /// # Errors
    /// Nothing answers, or it is no Kafka broker.
    pub(super) async fn open(addr: &str) -> Result<Self, ClientError> {
        if addr.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
            return Err(ClientError::Address { given: addr.to_owned() });
        }
        let unreachable = |source| ClientError::Unreachable { addr: addr.to_owned(), source };
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(addr)).await;
        let stream = connected.map_err(|_| unreachable(io::ErrorKind::TimedOut.into()))?.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let mut connection = Self {
            addr: addr.to_owned(),
            stream,
            versions: HashMap::new(),
            correlation: 0,
            open: 0,
            buffer: BytesMut::new(),
        };
        connection.negotiate().await?;
        Ok(connection)
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

    /// Has every request sent had its answer? Not after a call that was dropped before its end: the connection is then
    /// of no more use.
    pub(super) fn is_settled(&self) -> bool {
        self.open == 0
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
        self.open += 1;
        // A peer that does not read would hold a large request for ever.
        let written = tokio::time::timeout(CALL_TIMEOUT, self.stream.write_all(&frame)).await;
        let timeout = || ClientError::Timeout { addr: self.addr.clone(), api, after: CALL_TIMEOUT };
        written.map_err(|_| timeout())?.map_err(|source| self.lost(api, source))?;
        Ok(sent)
    }

    /// Waits for the answer to a request; they must be received in the order sent.
    pub(super) async fn receive<R: Request>(&mut self, sent: Sent) -> Result<R::Response, ClientError> {
        let read = tokio::time::timeout(CALL_TIMEOUT, read_frame(&mut self.stream, &mut self.buffer)).await;
        let timeout = || ClientError::Timeout { addr: self.addr.clone(), api: sent.api, after: CALL_TIMEOUT };
        let frame = read.map_err(|_| timeout())?.map_err(|source| match source.kind() {
            io::ErrorKind::InvalidData => self.malformed(sent.api, source.to_string()),
            _ => self.lost(sent.api, source),
        })?;
        let key = ApiKey::try_from(R::KEY).map_err(|()| self.malformed(sent.api, "no such call".to_owned()))?;
        self.open = self.open.saturating_sub(1);
        answer::decode(key, sent.version, sent.correlation, frame).map_err(|why| self.malformed(sent.api, why))
    }

    /// The highest version that both sides speak and [`answer`] reads.
    fn version<R: Request>(&self, api: &'static str) -> Result<i16, ClientError> {
        let table = ApiKey::try_from(R::KEY).ok().and_then(answer::table);
        let read = table.map(|table| VersionRange { min: *table.versions.start(), max: *table.versions.end() });
        let theirs = self.versions.get(&R::KEY);
        match read.zip(theirs).map(|(read, theirs)| R::VERSIONS.intersect(&read).intersect(theirs)) {
            Some(both) if !both.is_empty() => Ok(both.max),
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

/// The next frame without its length; `InvalidData` when it cannot be Kafka's.
async fn read_frame(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<Bytes> {
    let len = stream.read_u32().await? as usize;
    if len > FRAME_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an answer of {len} bytes was announced")));
    }
    let mut taken = stream.take(len as u64);
    while buffer.len() < len {
        buffer.reserve((len - buffer.len()).min(AHEAD));
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
        Ok(ApiKey::FindCoordinator) => "FindCoordinator",
        _ => "a request",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client's error for a server that sends `says` after the first request and closes.
    async fn met(says: &[u8]) -> ClientError {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("bound").to_string();
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            // The whole request first: a close with bytes unread is a reset.
            let len = stream.read_u32().await.expect("a frame");
            stream.read_exact(&mut vec![0; len as usize]).await.expect("a whole one");
            stream.write_all(says).await.expect("says it");
        };
        let (met, ()) = tokio::join!(Connection::open(&addr), serve);
        met.expect_err("no Kafka broker")
    }

    #[tokio::test]
    async fn a_call_ends_with_any_program_at_the_other_end() {
        let lie = [&[0, 0, 0, 10][..], &1_i32.to_be_bytes(), &[0, 0], &i32::MAX.to_be_bytes()].concat();
        let short = [&(100_u32 << 20).to_be_bytes()[..], &[0; 1000]].concat();
        for (says, of) in [
            (&b"SSH-2.0-OpenSSH_9.6\r\n"[..], "an answer of 1397966893 bytes was announced; is another service"),
            (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "is another service listening there?"),
            (&lie, "malformed at byte 6: number of elements; is another service"),
            (&short, "broke during ApiVersions"),
            (&[0, 0, 0, 0], "malformed at byte 0"),
            (&[], "broke during ApiVersions"),
        ] {
            let error = met(says).await.to_string();
            assert!(error.contains(of), "{error}");
        }
    }

    #[tokio::test]
    async fn an_address_has_a_port() {
        for given in ["localhost", "localhost:", ":9092", "localhost:99999", ""] {
            let error = Connection::open(given).await.expect_err("no address").to_string();
            assert!(error.contains("write HOST:PORT"), "{error}");
        }
    }
}
