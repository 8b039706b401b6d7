//! Files of tables by URI: the only way by which this crate reads and writes bytes.
//!
//! Owns: deciding whether a URI is an object of the bucket or a file beside a directory bucket, and reading, writing,
//! deleting there. [`storage`] offers the same as iceberg's `Storage`. Does not own: what is in the files.
//! *Node-wide*; cheap to clone; used on the side runtime.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use iceberg::io::{FileIO, FileIOBuilder};
use tidewater_storage::disposition::Disposition;
use tidewater_tiering::store::{ObjectKey, ObjectStore, PutMode, StoreError};

use crate::location::{FilePlace, LocationError, Warehouse};

pub mod storage;

/// What can go wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The URI cannot be used.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// The bucket refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The local file system did.
    #[error("file {path}: {source}")]
    Local { path: PathBuf, source: io::Error },
}

impl FileError {
    /// [`Disposition::Absent`]: nothing is there.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Location(_) => Disposition::Refused,
            Self::Store(error) => error.disposition(),
            Self::Local { source, .. } => Disposition::of_io(source),
        }
    }
}

/// The files of a warehouse.
#[derive(Clone)]
pub struct TableFiles {
    store: Arc<dyn ObjectStore>,
    warehouse: Warehouse,
}

impl std::fmt::Debug for TableFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableFiles").field("warehouse", &self.warehouse).finish_non_exhaustive()
    }
}

impl TableFiles {
    /// Files of `warehouse` in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, warehouse: Warehouse) -> Self {
        Self { store, warehouse }
    }

    #[must_use]
    pub fn warehouse(&self) -> &Warehouse {
        &self.warehouse
    }

    #[must_use]
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// iceberg's view of the same files.
    #[must_use]
    pub fn io(&self) -> FileIO {
        FileIOBuilder::new(Arc::new(storage::Factory::new(self.clone()))).build()
    }

    /// The whole file.
    ///
    /// # Errors
    /// [`Disposition::Absent`] if it is not there.
    pub async fn read(&self, uri: &str) -> Result<Bytes, FileError> {
        match self.warehouse.locate(uri)? {
            FilePlace::Object(key) => Ok(self.store.get(&key, None).await?.body),
            FilePlace::Local(path) => blocking(path, |path| std::fs::read(path).map(Bytes::from)).await,
        }
    }

    /// Bytes `range` of the file.
    ///
    /// # Errors
    /// As [`TableFiles::read`].
    pub async fn read_range(&self, uri: &str, range: Range<u64>) -> Result<Bytes, FileError> {
        match self.warehouse.locate(uri)? {
            FilePlace::Object(key) => Ok(self.store.get(&key, Some(range)).await?.body),
            FilePlace::Local(path) => {
                let whole = blocking(path, |path| std::fs::read(path).map(Bytes::from)).await?;
                let end = usize::try_from(range.end).unwrap_or(usize::MAX).min(whole.len());
                let start = usize::try_from(range.start).unwrap_or(usize::MAX).min(end);
                Ok(whole.slice(start..end))
            }
        }
    }

    /// Its length in bytes; `None` if it is not there.
    ///
    /// # Errors
    /// Anything but absence.
    pub async fn size(&self, uri: &str) -> Result<Option<u64>, FileError> {
        let found = match self.warehouse.locate(uri)? {
            FilePlace::Object(key) => self.store.head(&key).await.map(|head| head.size).map_err(FileError::from),
            FilePlace::Local(path) => blocking(path, |path| std::fs::metadata(path).map(|m| m.len())).await,
        };
        match found {
            Ok(size) => Ok(Some(size)),
            Err(e) if e.disposition() == Disposition::Absent => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes the whole file. Names are unique, so a repeated write carries the same bytes.
    ///
    /// # Errors
    /// If it is not certain that the file is there.
    pub async fn write(&self, uri: &str, body: Bytes) -> Result<(), FileError> {
        match self.warehouse.locate(uri)? {
            FilePlace::Object(key) => {
                self.store.put(&key, body, PutMode::Overwrite).await?;
                Ok(())
            }
            FilePlace::Local(path) => blocking(path, move |path| write_local(path, &body)).await,
        }
    }

    /// Deletes files that a table's metadata names; absent ones are fine. Any client may write metadata, so being named
    /// gives no right to delete: what is not below the warehouse is left alone.
    ///
    /// # Errors
    /// The first failure.
    pub async fn delete(&self, uris: &[String]) -> Result<(), FileError> {
        let mut keys: Vec<ObjectKey> = Vec::with_capacity(uris.len());
        for uri in uris {
            match self.warehouse.locate(uri) {
                Ok(FilePlace::Object(key)) => keys.push(key),
                _ => tracing::info!(%uri, "a file outside the bucket is not deleted"),
            }
        }
        self.delete_keys(keys).await
    }

    /// Deletes objects as [`TableFiles::delete`] does files.
    ///
    /// # Errors
    /// The first failure.
    pub async fn delete_keys(&self, mut keys: Vec<ObjectKey>) -> Result<(), FileError> {
        keys.retain(|key| {
            let held = self.warehouse.holds(key);
            if !held {
                let warehouse = self.warehouse.uri();
                tracing::info!(%key, %warehouse, "an object outside the warehouse is not deleted");
            }
            held
        });
        if let Some(bucket) = self.warehouse.directory() {
            let home = bucket.join(self.warehouse.key_prefix());
            keys = blocking(home, move |home| Ok(without_detours(&bucket, home, keys))).await?;
        }
        if !keys.is_empty() {
            self.store.delete(keys).await?;
        }
        Ok(())
    }

    /// Deletes files that this process has just written and that nothing names, wherever the table lies. A failure
    /// leaves garbage and is only logged.
    pub async fn take_back(&self, uris: &[String]) {
        let mut keys: Vec<ObjectKey> = Vec::with_capacity(uris.len());
        for uri in uris {
            match self.warehouse.locate(uri) {
                Ok(FilePlace::Object(key)) => keys.push(key),
                Ok(FilePlace::Local(path)) => match blocking(path, |path| std::fs::remove_file(path)).await {
                    Err(error) if error.disposition() != Disposition::Absent => {
                        tracing::warn!(%error, "an unused file could not be deleted");
                    }
                    _ => {}
                },
                Err(error) => tracing::warn!(%error, "an unused file could not be deleted"),
            }
        }
        if !keys.is_empty()
            && let Err(error) = self.store.delete(keys).await
        {
            tracing::warn!(%error, "unused files could not be deleted");
        }
    }

    /// Makes the directories of a staged table, which some engines (DuckDB) expect to exist in a `file://` warehouse.
    ///
    /// # Errors
    /// What the file system says.
    pub async fn make_directories(&self, location: &str) -> Result<(), FileError> {
        if !self.warehouse.is_directory() {
            return Ok(());
        }
        let uri = crate::location::normalise(location)?;
        let Some(path) = uri.strip_prefix("file://") else { return Ok(()) };
        for name in ["metadata", "data"] {
            blocking(Path::new(path).join(name), |path| std::fs::create_dir_all(path)).await?;
        }
        Ok(())
    }
}

/// The keys whose directory is really below `home`: an engine that may write there could have made a symbolic link.
fn without_detours(bucket: &Path, home: &Path, mut keys: Vec<ObjectKey>) -> Vec<ObjectKey> {
    let Ok(home) = home.canonicalize() else { return keys };
    let mut seen: HashMap<PathBuf, bool> = HashMap::new();
    keys.retain(|key| {
        let path = bucket.join(key.as_str());
        let Some(dir) = path.parent() else { return false };
        *seen.entry(dir.to_owned()).or_insert_with_key(|dir| match dir.canonicalize() {
            Ok(found) => found.starts_with(&home),
            // Nothing is there that could be deleted.
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        })
    });
    keys
}

/// File, then directory, as a crash must not take back what a pointer names.
fn write_local(path: &Path, body: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    std::fs::create_dir_all(dir)?;
    let mut file = std::fs::File::create(path)?;
    file.write_all(body)?;
    file.sync_data()?;
    std::fs::File::open(dir)?.sync_data()
}

async fn blocking<T: Send + 'static>(
    path: PathBuf,
    act: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, FileError> {
    let shown = path.clone();
    let done = tokio::task::spawn_blocking(move || act(&path)).await;
    done.map_err(io::Error::other).and_then(|r| r).map_err(|source| FileError::Local { path: shown, source })
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;

    #[test]
    fn a_symbolic_link_below_the_warehouse_leads_nowhere() {
        let dir = std::env::temp_dir().join(format!("tidewater-files-{}", uuid::Uuid::new_v4()));
        let (home, log) = (dir.join("lake"), dir.join("cluster/lanes"));
        std::fs::create_dir_all(home.join("t/data")).expect("made");
        std::fs::create_dir_all(&log).expect("made");
        std::os::unix::fs::symlink(&log, home.join("t/link")).expect("linked");
        let keys = ["lake/t/data/x", "lake/t/link/1", "lake/gone/x"].map(|key| ObjectKey::new(key).expect("legal"));
        let left = without_detours(&dir, &home, keys.to_vec());
        std::fs::remove_dir_all(&dir).expect("removed");
        assert_eq!(left, [keys[0].clone(), keys[2].clone()]);
    }

    #[test]
    fn names_in_metadata_are_no_right_to_delete() {
        block_on(async {
            let store = crate::fixture::MemoryStore::default();
            let warehouse = Warehouse::new("s3://bucket", "name/warehouse").expect("legal");
            let files = TableFiles::new(Arc::new(store.clone()), warehouse);
            let others = ["c1/0000000001/lanes/0/1", "name/root", "name/warehouse/catalog/tables/topics/t.json"];
            for key in others.into_iter().chain(["name/warehouse/topics/t-1/data/x"]) {
                let key = ObjectKey::new(key).expect("legal");
                store.put(&key, Bytes::from_static(b"x"), PutMode::Overwrite).await.expect("put");
            }
            let mut uris: Vec<_> = store.keys().into_iter().map(|(key, _)| format!("s3://bucket/{key}")).collect();
            uris.extend(
                ["s3://bucket/name/warehouse/../root", "s3a://bucket/name/root", "file:///etc/hosts"]
                    .map(str::to_owned),
            );
            uris.push("s3://bucket/name/warehouse/%2e%2e/root".to_owned());
            files.delete(&uris).await.expect("deleted");
            let left: Vec<_> = store.keys().into_iter().map(|(key, _)| key).collect();
            assert_eq!(left, others);
        });
    }
}
