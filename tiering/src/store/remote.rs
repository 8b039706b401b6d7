//! S3, Google Cloud Storage and Azure through the object_store crate.
//!
//! Owns: configuration by URL and environment, the hop to the side runtime (every request is a task there; the
//! answer comes back by a oneshot that any executor polls), errors in our words. Does not own: retries (`retry.rs`
//! does them for all stores alike; the crate's own are off). Affinity: *node-wide*.

mod answer;
mod s3;
pub(super) mod signer;

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;
use futures::{StreamExt, TryStreamExt};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{
    ClientOptions, GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore as Upstream, PutMultipartOptions,
    PutPayload, PutResult, RetryConfig, UpdateVersion, WriteMultipart,
};
use tidewater_storage::model::TimestampMs;
use tokio::runtime::Handle;

use super::open::OpenError;
use super::{
    Buffers, ByteSource, ETag, Got, Head, KeyLimits, Listed, ObjectKey, ObjectStore, PutDone, PutMode, StoreError,
};
use answer::store_error;
use s3::{S3, S3A, plain, s3_builder};

/// Bytes of one piece of a large put; S3 wants at least 5 MiB and at most 10,000 pieces.
const PIECE_BYTES: usize = 8 << 20;
/// Pieces of a body that are smaller are joined: one frame costs more than the copy.
const JOINED_BYTES: usize = 16 << 10;
/// Pieces of one large put in flight.
const PIECES_MAX: usize = 4;
/// One request that carries next to nothing; one with a body has longer by [`UPLINK_FLOOR`].
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes a second at which a body still arrives in time: a 64 MiB object has 316 s, five tries of it less than half of
/// the archiver's grace. With one deadline for all sizes a slower line would begin the same PUT for ever.
const UPLINK_FLOOR: u64 = 256 << 10;
/// What carries more has no longer. The client's own deadline, which covers lists, deletes and the pieces of large
/// puts, is for this.
const REQUEST_BYTES_MAX: u64 = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between the parts of a version that has two (Google's etag and generation).
const VERSION_MARK: char = '\n';

/// A cloud store, below an optional prefix.
#[derive(Clone, Debug)]
pub struct RemoteStore {
    inner: Arc<dyn Upstream>,
    prefix: Arc<str>,
    handle: Handle,
}

impl RemoteStore {
    /// Configures a client; contacts nothing. Credentials and endpoints come from the environment as each cloud's own
    /// tools read them; plain http is allowed when the endpoint says http.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(url: &str, handle: Handle) -> Result<Self, OpenError> {
        let unknown = || OpenError::Url { url: url.to_owned() };
        let (scheme, bucket, prefix) = parts(url).ok_or_else(unknown)?;
        let prefix = prefix.into();
        let inner = client(scheme, bucket)
            .ok_or_else(unknown)?
            .map_err(|error| OpenError::Configuration { url: url.to_owned(), detail: error.to_string() })?;
        Ok(Self { inner, prefix, handle })
    }

    #[cfg(test)]
    fn over(inner: Arc<dyn Upstream>, prefix: &str, handle: Handle) -> Self {
        Self { inner, prefix: prefix.into(), handle }
    }

    fn path(&self, key: &str) -> Result<Path, StoreError> {
        let refused = |detail: String| StoreError::Refused { key: key.to_owned(), detail };
        self.key_limits().check(key).map_err(|error| refused(error.to_string()))?;
        Path::parse(format!("{}{key}", self.prefix)).map_err(|error| refused(error.to_string()))
    }

    fn key(&self, path: &Path) -> Option<ObjectKey> {
        ObjectKey::new(path.as_ref().strip_prefix(&*self.prefix)?).ok()
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.handle.spawn(async move {
            let _ = answer.send(work.await);
        });
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// As [`RemoteStore::run`], given up when a body of `bytes` takes longer than [`deadline`].
    async fn run_in_time<T: Send + 'static>(
        &self,
        key: &str,
        bytes: u64,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (key, most) = (key.to_owned(), deadline(bytes));
        self.run(async move {
            let late = |_| StoreError::Unavailable { key, detail: format!("no answer in {} s", most.as_secs()) };
            tokio::time::timeout(most, work).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
        })
        .await
    }

    async fn fetch(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
        unless: Option<&ETag>,
        buffers: Option<Buffers>,
    ) -> Result<Option<Got>, StoreError> {
        if let Some(Range { start, end }) = range.clone().filter(|range| range.is_empty()) {
            return Err(StoreError::Range { key: key.to_string(), start, end });
        }
        let (path, inner, at) = (self.path(key.as_str())?, Arc::clone(&self.inner), key.clone());
        let if_none_match = unless.map(|etag| split_version(etag).0);
        let bytes = range.as_ref().map_or(0, |range| range.end - range.start);
        self.run_in_time(key.as_str(), bytes, async move {
            let options =
                GetOptions { range: range.clone().map(GetRange::Bounded), if_none_match, ..GetOptions::default() };
            let result = match inner.get_opts(&path, options).await {
                Err(object_store::Error::NotModified { .. }) => return Ok(None),
                Err(error) => return Err(past_end(&*inner, &path, &at, range, error).await),
                Ok(result) => result,
            };
            let (etag, size, expected) = (version_of(&result.meta), result.meta.size, result.range.clone());
            let expected = expected.end.saturating_sub(expected.start);
            let body = match buffers {
                Some(buffers) => read_into(result, expected, &buffers, &at).await?,
                None => result.bytes().await.map_err(|error| store_error(at.as_str(), &error))?,
            };
            let found = body.len() as u64;
            if found != expected {
                return Err(StoreError::Torn { key: at.to_string(), expected, found });
            }
            Ok(Some(Got { body, etag, size }))
        })
        .await
    }
}

#[async_trait]
impl ObjectStore for RemoteStore {
    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        self.put_pieces(key, vec![body], mode).await
    }

    async fn put_pieces(&self, key: &ObjectKey, pieces: Vec<Bytes>, mode: PutMode) -> Result<PutDone, StoreError> {
        let (path, inner, at) = (self.path(key.as_str())?, Arc::clone(&self.inner), key.clone());
        let mode = match mode {
            PutMode::Overwrite => object_store::PutMode::Overwrite,
            PutMode::IfAbsent => object_store::PutMode::Create,
            PutMode::IfMatch(etag) => {
                let (e_tag, version) = split_version(&etag);
                object_store::PutMode::Update(UpdateVersion { e_tag: Some(e_tag), version })
            }
        };
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        self.run_in_time(key.as_str(), bytes as u64, async move {
            let payload: PutPayload = join_small(pieces).into_iter().collect();
            let put = inner.put_opts(&path, payload, mode.into()).await;
            put.map(|done| PutDone { etag: version_put(&done) }).map_err(|error| store_error(at.as_str(), &error))
        })
        .await
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Got, StoreError> {
        self.fetch(key, range, None, None).await?.ok_or_else(|| StoreError::NotFound { key: key.to_string() })
    }

    async fn get_into(&self, key: &ObjectKey, range: Range<u64>, buffers: &Buffers) -> Result<Got, StoreError> {
        let got = self.fetch(key, Some(range), None, Some(buffers.clone())).await?;
        got.ok_or_else(|| StoreError::NotFound { key: key.to_string() })
    }

    fn key_limits(&self) -> KeyLimits {
        KeyLimits::object_store(&self.prefix)
    }

    async fn get_if_changed(&self, key: &ObjectKey, etag: &ETag) -> Result<Option<Got>, StoreError> {
        self.fetch(key, None, Some(etag), None).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Head, StoreError> {
        let (path, inner, at) = (self.path(key.as_str())?, Arc::clone(&self.inner), key.clone());
        self.run_in_time(key.as_str(), 0, async move {
            let options = GetOptions { head: true, ..GetOptions::default() };
            let found = inner.get_opts(&path, options).await.map_err(|error| store_error(at.as_str(), &error))?;
            let (etag, modified) = (version_of(&found.meta), found.meta.last_modified.timestamp_millis());
            Ok(Head { size: found.meta.size, etag, modified: TimestampMs(modified) })
        })
        .await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<Listed>, StoreError> {
        // The crate lists by whole path segments: list the folder, keep what begins with the prefix.
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let folder = Path::from(format!("{}{folder}", self.prefix));
        let folder = (!folder.as_ref().is_empty()).then_some(folder);
        let offset = after.filter(|after| !after.is_empty()).map(|after| Path::from(format!("{}{after}", self.prefix)));
        let (store, wanted) = (self.clone(), prefix.to_owned());
        self.run(async move {
            let mut found = match &offset {
                Some(offset) => store.inner.list_with_offset(folder.as_ref(), offset),
                None => store.inner.list(folder.as_ref()),
            };
            let mut out = Vec::new();
            while out.len() < max {
                let Some(meta) = found.try_next().await.map_err(|error| store_error(&wanted, &error))? else { break };
                let Some(key) = store.key(&meta.location).filter(|key| key.as_str().starts_with(&wanted)) else {
                    continue;
                };
                out.push(Listed { key, size: meta.size, modified: TimestampMs(meta.last_modified.timestamp_millis()) });
            }
            out.sort_by(|a, b| a.key.cmp(&b.key));
            Ok(out)
        })
        .await
    }

    async fn delete(&self, keys: Vec<ObjectKey>) -> Result<(), StoreError> {
        let Some(first) = keys.first().cloned() else { return Ok(()) };
        let paths: Result<Vec<Path>, StoreError> = keys.iter().map(|key| self.path(key.as_str())).collect();
        let (paths, inner) = (paths?, Arc::clone(&self.inner));
        self.run(async move {
            let mut gone = inner.delete_stream(futures::stream::iter(paths.into_iter().map(Ok)).boxed());
            while let Some(one) = gone.next().await {
                match one {
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(store_error(first.as_str(), &error)),
                }
            }
            Ok(())
        })
        .await
    }

    async fn put_large(&self, key: &ObjectKey, size: u64, mut source: ByteSource) -> Result<PutDone, StoreError> {
        let (path, inner, at) = (self.path(key.as_str())?, Arc::clone(&self.inner), key.to_string());
        self.run(async move {
            let failed = |detail: String| StoreError::Source { key: at.clone(), detail };
            let upload = inner.put_multipart_opts(&path, PutMultipartOptions::default()).await;
            let upload = upload.map_err(|error| store_error(&at, &error))?;
            let mut upload = WriteMultipart::new_with_chunk_size(upload, PIECE_BYTES);
            let mut brought = 0;
            let sent = loop {
                match source.next().await {
                    None if brought == size => break Ok(()),
                    None => break Err(failed(format!("it brought {brought} bytes, {size} were announced"))),
                    Some(Err(error)) => break Err(failed(error.to_string())),
                    Some(Ok(piece)) => {
                        brought += piece.len() as u64;
                        if let Err(error) = upload.wait_for_capacity(PIECES_MAX).await {
                            break Err(store_error(&at, &error));
                        }
                        upload.put(piece);
                    }
                }
            };
            match sent {
                Ok(()) => upload
                    .finish()
                    .await
                    .map(|done| PutDone { etag: version_put(&done) })
                    .map_err(|error| store_error(&at, &error)),
                Err(error) => {
                    // What cannot be taken back now, the bucket's rule for unfinished uploads takes later.
                    let _ = upload.abort().await;
                    Err(error)
                }
            }
        })
        .await
    }
}

/// Joins neighbours that are smaller than [`JOINED_BYTES`]; larger pieces stay as they are.
fn join_small(pieces: Vec<Bytes>) -> Vec<Bytes> {
    let mut out = Vec::new();
    for group in pieces.chunk_by(|a, b| a.len() < JOINED_BYTES && b.len() < JOINED_BYTES) {
        match group {
            [one] => out.push(one.clone()),
            several => out.push(several.concat().into()),
        }
    }
    out
}

/// Reads a body of `expected` bytes into memory of `buffers`, frame by frame as it comes.
async fn read_into(result: GetResult, expected: u64, buffers: &Buffers, key: &ObjectKey) -> Result<Bytes, StoreError> {
    let torn = |found| StoreError::Torn { key: key.to_string(), expected, found };
    let len = usize::try_from(expected).map_err(|_| torn(0))?;
    let (mut buffer, mut frames, mut filled) = (buffers.take(len), result.into_stream(), 0);
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|error| store_error(key.as_str(), &error))?;
        let end = filled + frame.len();
        let room = buffer.room().get_mut(filled..end).ok_or_else(|| torn(end as u64))?;
        room.copy_from_slice(&frame);
        filled = end;
    }
    if filled == len { Ok(buffer.into_bytes()) } else { Err(torn(filled as u64)) }
}

/// How long a request with a body of `bytes` may take.
fn deadline(bytes: u64) -> Duration {
    REQUEST_TIMEOUT + Duration::from_secs(bytes.min(REQUEST_BYTES_MAX) / UPLINK_FLOOR)
}

/// Scheme, bucket and prefix of a URL; the prefix is empty or ends with a slash.
fn parts(url: &str) -> Option<(&str, &str, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_matches('/');
    if bucket.is_empty() || (!prefix.is_empty() && ObjectKey::new(prefix).is_err()) {
        return None;
    }
    Some((scheme, bucket, if prefix.is_empty() { String::new() } else { format!("{prefix}/") }))
}

fn options(http: bool) -> ClientOptions {
    let options = ClientOptions::new().with_timeout(deadline(REQUEST_BYTES_MAX)).with_connect_timeout(CONNECT_TIMEOUT);
    options.with_allow_http(http)
}

/// [`super::retry`] does retries.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn client(scheme: &str, bucket: &str) -> Option<object_store::Result<Arc<dyn Upstream>>> {
    let retry = no_retries();
    Some(match scheme {
        S3 | S3A => s3_builder(bucket).build().map(|client| Arc::new(client) as _),
        "gs" | "gcs" => {
            let client = GoogleCloudStorageBuilder::from_env().with_client_options(options(false)).with_retry(retry);
            client.with_bucket_name(bucket).build().map(|client| Arc::new(client) as _)
        }
        "az" | "azure" | "abfs" => {
            let http = plain("AZURE_STORAGE_ENDPOINT") || plain("AZURE_ENDPOINT");
            let client = MicrosoftAzureBuilder::from_env().with_client_options(options(http)).with_retry(retry);
            client.with_container_name(bucket).build().map(|client| Arc::new(client) as _)
        }
        _ => return None,
    })
}

fn version(e_tag: Option<&String>, version: Option<&String>) -> ETag {
    let etag = e_tag.map_or("", String::as_str);
    ETag(version.map_or_else(|| etag.into(), |version| format!("{etag}{VERSION_MARK}{version}").into()))
}

fn version_of(meta: &ObjectMeta) -> ETag {
    version(meta.e_tag.as_ref(), meta.version.as_ref())
}

fn version_put(done: &PutResult) -> ETag {
    version(done.e_tag.as_ref(), done.version.as_ref())
}

fn split_version(etag: &ETag) -> (String, Option<String>) {
    match etag.0.split_once(VERSION_MARK) {
        Some((etag, version)) => (etag.to_owned(), Some(version.to_owned())),
        None => (etag.0.to_string(), None),
    }
}

/// A range that starts past the end is an ordinary client error to the crate: look whether that is what it was.
async fn past_end(
    inner: &dyn Upstream,
    path: &Path,
    key: &ObjectKey,
    range: Option<Range<u64>>,
    error: object_store::Error,
) -> StoreError {
    let error = store_error(key.as_str(), &error);
    let may_be_range = matches!(error, StoreError::Unavailable { .. } | StoreError::Refused { .. });
    let (Some(Range { start, end }), true) = (range, may_be_range) else { return error };
    let options = GetOptions { head: true, ..GetOptions::default() };
    match inner.get_opts(path, options).await {
        Ok(found) if start >= found.meta.size => StoreError::Range { key: key.to_string(), start, end },
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use object_store::aws::AmazonS3Builder;

    use super::*;

    #[test]
    fn a_large_body_has_the_time_that_a_slow_line_takes() {
        assert_eq!(deadline(0), REQUEST_TIMEOUT);
        assert_eq!(deadline(64 << 20), Duration::from_secs(60 + 256), "64 MiB at 256 KiB/s, and the minute");
        assert_eq!(deadline(u64::MAX), deadline(64 << 20));
        let grace = crate::archive::ArchiveConfig::default().delete_grace;
        let attempts = crate::store::RetryPolicy::default().attempts_max;
        assert!(deadline(u64::MAX) * attempts < grace / 2, "no PUT is on its way when the sweeper looks");
    }

    /// Processor time of this thread so far.
    fn cpu() -> Duration {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel counts it");
        let nanos = stat.split_whitespace().next().and_then(|n| n.parse().ok()).expect("nanoseconds");
        Duration::from_nanos(nanos)
    }

    /// Takes PUTs on one connection after another and throws their bodies away.
    fn drain() -> String {
        use std::io::{BufRead, BufReader, Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut reader = BufReader::with_capacity(1 << 20, stream.expect("a client"));
                let mut len = 0;
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        len = value.trim().parse().expect("a number");
                    }
                    if line == "\r\n" {
                        std::io::copy(&mut reader.by_ref().take(len), &mut std::io::sink()).expect("a body");
                        let answer = b"HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 0\r\n\r\n";
                        reader.get_mut().write_all(answer).expect("sent");
                    }
                    line.clear();
                }
            }
        });
        url
    }

    /// Prints what the sum over a body for the signature costs; run by hand with `--ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn what_signing_a_body_costs() {
        const PUTS: u64 = 64;
        let body = Bytes::from(vec![7; 16 << 20]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        for (what, unsigned) in [("warm-up", true), ("signed", false), ("unsigned", true)] {
            let client = AmazonS3Builder::new()
                .with_endpoint(drain())
                .with_region("here")
                .with_bucket_name("bucket")
                .with_access_key_id("key")
                .with_secret_access_key("secret")
                .with_unsigned_payload(unsigned)
                .with_client_options(ClientOptions::new().with_allow_http(true))
                .build()
                .expect("configured");
            let began = cpu();
            runtime.block_on(async {
                for _ in 0..PUTS {
                    let payload = PutPayload::from_bytes(body.clone());
                    client.put_opts(&Path::from("key"), payload, Default::default()).await.expect("put");
                }
            });
            let spent = (cpu() - began).as_secs_f64() * 1e9 / (PUTS * body.len() as u64) as f64;
            println!("{what}: {spent:.3} ns a byte of the client's thread");
        }
    }
}
