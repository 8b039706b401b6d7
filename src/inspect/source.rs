//! A file of this machine or an object of a bucket, read in pieces.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tidewater_tiering::keys::{ObjectKey, ObjectName};
use tidewater_tiering::store::{self, ObjectStore, StoreOptions};
use tokio::runtime::Handle;

use super::error::InspectError;

#[derive(Debug)]
pub(super) struct Source {
    /// As given on the command line.
    pub(super) name: String,
    /// Bytes.
    pub(super) size: u64,
    from: From,
}

#[derive(Debug)]
enum From {
    File(File),
    Object(Arc<dyn ObjectStore>, ObjectKey),
}

impl Source {
    pub(super) fn file(path: &Path) -> Result<Self, InspectError> {
        let failed = |source| InspectError::File { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(std::io::ErrorKind::IsADirectory.into()));
        }
        Ok(Self { name: path.display().to_string(), size: metadata.len(), from: From::File(file) })
    }

    pub(super) async fn object(bucket: &str, key: &str) -> Result<Self, InspectError> {
        let key = ObjectKey::new(key)?;
        // Opening the store would create a missing directory.
        if let Some(directory) = bucket.strip_prefix("file://") {
            std::fs::metadata(directory).map_err(|source| InspectError::File { path: directory.into(), source })?;
        }
        let store = store::open(bucket, Handle::current(), &StoreOptions::default())?;
        let size = store.head(&key).await?.size;
        Ok(Self { name: key.to_string(), size, from: From::Object(store, key) })
    }

    /// Up to `len` bytes from `at` on; fewer only at the end.
    pub(super) async fn read(&self, at: u64, len: u64) -> Result<Bytes, InspectError> {
        let len = len.min(self.size.saturating_sub(at));
        if len == 0 {
            return Ok(Bytes::new());
        }
        match &self.from {
            From::File(file) => {
                let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
                let failed = |source| InspectError::File { path: self.name.clone().into(), source };
                file.read_exact_at(&mut bytes, at).map_err(failed)?;
                Ok(bytes.into())
            }
            From::Object(store, key) => Ok(store.get(key, Some(at..at + len)).await?.body),
        }
    }

    /// The name that the end of its path or key stands for in the bucket's layout, if any.
    pub(super) fn object_name(&self) -> Option<ObjectName> {
        let parts: Vec<&str> = self.name.split('/').collect();
        (0..parts.len()).find_map(|from| ObjectName::parse(&ObjectKey::new(&parts.get(from..)?.join("/")).ok()?))
    }
}
