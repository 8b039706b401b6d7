//! [`FileRanges`]: a data file of which only the footer and the chunks of wanted columns are read.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::rewrite::RewriteError;
use crate::files::{FileError, TableFiles};

/// See the header.
pub(super) struct FileRanges {
    pub(super) files: TableFiles,
    pub(super) path: String,
    /// Of the file, as its manifest entry says.
    pub(super) bytes: u64,
}

impl FileRanges {
    /// What an error of a reader of this file is.
    pub(super) fn failed(path: &str, error: ParquetError) -> RewriteError {
        let path = path.to_owned();
        let source = match error {
            ParquetError::External(inner) => match inner.downcast::<FileError>() {
                Ok(source) => return RewriteError::File { path, source: *source },
                Err(inner) => ParquetError::External(inner),
            },
            other => other,
        };
        RewriteError::Parquet { path, source }
    }
}

impl AsyncFileReader for FileRanges {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        async move {
            if range.end > self.bytes {
                return Err(ParquetError::EOF(format!("bytes {range:?} of a file of {}", self.bytes)));
            }
            let read = self.files.read_range(&self.path, range.clone()).await;
            let read = read.map_err(|error| ParquetError::External(Box::new(error)))?;
            match range.end - range.start == read.len() as u64 {
                true => Ok(read),
                false => Err(ParquetError::EOF(format!("bytes {range:?} are {} bytes", read.len()))),
            }
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        let bytes = self.bytes;
        ParquetMetaDataReader::new().load_and_finish(self, bytes).map(|read| read.map(Arc::new)).boxed()
    }
}
