//! Opens a store by URL: `file:///dir`, `s3://bucket/prefix`, `gs://…`, `az://…`; counted, limited, retrying.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::{
    Counted, DirectoryStore, Limited, ObjectStore, RemoteStore, RetryPolicy, Retrying, StoreStats, TokioSleeper,
};

/// What an opened store may use.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub requests_max: usize,
    /// Body bytes in flight at once.
    pub bytes_max: u64,
    pub retry: RetryPolicy,
    /// Where requests are counted.
    pub stats: Arc<StoreStats>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        let (requests_max, bytes_max) = (64, 256 << 20);
        Self { requests_max, bytes_max, retry: RetryPolicy::default(), stats: Arc::default() }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not a URL of a known kind.
    #[error(
        "bucket URL {url:?} is not one of file:///dir, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix"
    )]
    Url { url: String },
    /// The directory cannot be made or used.
    #[error("bucket directory {path} cannot be used: {source}")]
    Directory { path: PathBuf, source: std::io::Error },
    /// The cloud client refuses its configuration.
    #[error(
        "object store {url:?} is not configured: {detail}; it reads {}", variables(.url)
    )]
    Configuration {
        url: String,
        /// What the client says.
        detail: String,
    },
}

/// The environment variables that a store's client reads, the usual ones.
fn variables(url: &str) -> &'static str {
    match url.split("://").next() {
        Some("gs" | "gcs") => "GOOGLE_SERVICE_ACCOUNT, GOOGLE_SERVICE_ACCOUNT_KEY or GOOGLE_APPLICATION_CREDENTIALS",
        Some("az" | "azure" | "abfs") => {
            "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, or with AZURE_STORAGE_CLIENT_ID, AZURE_STORAGE_CLIENT_SECRET and AZURE_STORAGE_TENANT_ID"
        }
        _ => "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL",
    }
}

/// Opens the store at `url`; its I/O runs on `handle`, calls come from anywhere.
///
/// # Errors
/// [`OpenError`]. A cloud store is not contacted: [`super::prove`] does that.
pub fn open(url: &str, handle: Handle, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>, OpenError> {
    open_by(url, handle, options, DirectoryStore::open)
}

/// As [`open`], for reading what another process writes: of a directory nothing is made.
///
/// # Errors
/// [`OpenError`]; also where `url` names a directory that does not exist.
pub fn attach(url: &str, handle: Handle, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>, OpenError> {
    open_by(url, handle, options, DirectoryStore::attach)
}

fn open_by(
    url: &str,
    handle: Handle,
    options: &StoreOptions,
    directory: impl FnOnce(PathBuf, Handle) -> Result<DirectoryStore, OpenError>,
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let inner: Arc<dyn ObjectStore> = match url.strip_prefix("file://") {
        Some(path) if path.starts_with('/') => Arc::new(directory(path.into(), handle.clone())?),
        Some(_) => return Err(OpenError::Url { url: url.to_owned() }),
        None => Arc::new(RemoteStore::open(url, handle.clone())?),
    };
    let counted = Arc::new(Counted::new(inner, Arc::clone(&options.stats)));
    let limited = Arc::new(Limited::new(counted, options.requests_max, options.bytes_max));
    Ok(Arc::new(Retrying::new(limited, options.retry, Arc::new(TokioSleeper(handle)))))
}
