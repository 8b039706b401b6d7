//! [`TableFiles`] in the shape iceberg wants (`Storage`, `StorageFactory`), so that no second storage stack exists.
//!
//! iceberg asks that a storage can be serialised; ours holds an open store and cannot be, so what comes back from a
//! deserialisation refuses every call. *Node-wide*.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use iceberg::io::{FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage, StorageConfig, StorageFactory};
use iceberg::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::{FileError, TableFiles};

/// Makes [`StoreStorage`]s.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Factory {
    #[serde(skip)]
    files: Option<TableFiles>,
}

impl Factory {
    /// For these files.
    #[must_use]
    pub fn new(files: TableFiles) -> Self {
        Self { files: Some(files) }
    }
}

#[typetag::serde(name = "tidewater")]
impl StorageFactory for Factory {
    fn build(&self, _: &StorageConfig) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(StoreStorage { files: self.files.clone() }))
    }
}

/// iceberg's `Storage` over our files.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StoreStorage {
    #[serde(skip)]
    files: Option<TableFiles>,
}

impl StoreStorage {
    fn files(&self) -> Result<&TableFiles> {
        self.files.as_ref().ok_or_else(|| Error::new(ErrorKind::Unexpected, "a deserialised storage has no bucket"))
    }
}

fn outward(error: FileError) -> Error {
    let passes = error.disposition().passes();
    Error::new(ErrorKind::Unexpected, error.to_string()).with_retryable(passes).with_source(error)
}

#[async_trait]
#[typetag::serde(name = "tidewater")]
impl Storage for StoreStorage {
    async fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.files()?.size(path).await.map_err(outward)?.is_some())
    }

    async fn metadata(&self, path: &str) -> Result<FileMetadata> {
        let size = self.files()?.size(path).await.map_err(outward)?;
        let size = size.ok_or_else(|| Error::new(ErrorKind::Unexpected, format!("{path} does not exist")))?;
        Ok(FileMetadata { size })
    }

    async fn read(&self, path: &str) -> Result<Bytes> {
        self.files()?.read(path).await.map_err(outward)
    }

    async fn reader(&self, path: &str) -> Result<Box<dyn FileRead>> {
        Ok(Box::new(FileReader { files: self.files()?.clone(), uri: path.to_owned() }))
    }

    async fn write(&self, path: &str, bs: Bytes) -> Result<()> {
        self.files()?.write(path, bs).await.map_err(outward)
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn FileWrite>> {
        Ok(Box::new(WholeFileWriter {
            files: self.files()?.clone(),
            uri: path.to_owned(),
            body: Some(BytesMut::new()),
        }))
    }

    async fn delete(&self, path: &str) -> Result<()> {
        self.files()?.delete(&[path.to_owned()]).await.map_err(outward)
    }

    async fn delete_prefix(&self, path: &str) -> Result<()> {
        Err(Error::new(ErrorKind::FeatureUnsupported, format!("nothing is deleted by prefix here: {path}")))
    }

    async fn delete_stream(&self, mut paths: BoxStream<'static, String>) -> Result<()> {
        while let Some(path) = paths.next().await {
            self.delete(&path).await?;
        }
        Ok(())
    }

    fn new_input(&self, path: &str) -> Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), path.to_owned()))
    }

    fn new_output(&self, path: &str) -> Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), path.to_owned()))
    }
}

struct FileReader {
    files: TableFiles,
    uri: String,
}

#[async_trait]
impl FileRead for FileReader {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.files.read_range(&self.uri, range).await.map_err(outward)
    }
}

/// Gathers a file in memory and puts it whole: files are bounded by rolling, and a half-written one never shows.
struct WholeFileWriter {
    files: TableFiles,
    uri: String,
    body: Option<BytesMut>,
}

#[async_trait]
impl FileWrite for WholeFileWriter {
    async fn write(&mut self, bs: Bytes) -> Result<()> {
        let body = self.body.as_mut().ok_or_else(|| Error::new(ErrorKind::Unexpected, "file is closed already"))?;
        body.extend_from_slice(&bs);
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        let body = self.body.take().ok_or_else(|| Error::new(ErrorKind::Unexpected, "file is closed already"))?;
        self.files.write(&self.uri, body.freeze()).await.map_err(outward)
    }
}
