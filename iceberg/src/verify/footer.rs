//! Rows of a Parquet file, as its footer says. One request unless the footer is large.

use parquet::errors::ParquetError;
use parquet::file::metadata::{FooterTail, ParquetMetaDataReader};

use crate::files::{FileError, TableFiles};

/// Bytes read from the end at first: more than the footers of files that this crate writes.
const TAIL_BYTES: u64 = 32 << 10;
/// Bytes at the very end: length of the footer, and the format's mark.
const MARK_BYTES: u64 = 8;

#[derive(Debug, thiserror::Error)]
pub(super) enum FooterError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Parquet(#[from] ParquetError),
}

/// The number of rows of a file of `size` bytes.
pub(super) async fn rows(files: &TableFiles, path: &str, size: u64) -> Result<u64, FooterError> {
    let short = || ParquetError::General(format!("a file of {size} bytes has no footer"));
    let from = size.saturating_sub(TAIL_BYTES);
    let tail = files.read_range(path, from..size).await?;
    let mark: &[u8; MARK_BYTES as usize] = tail.last_chunk().ok_or_else(short)?;
    let len = FooterTail::try_new(mark)?.metadata_length() as u64;
    let start = size.checked_sub(MARK_BYTES).and_then(|end| end.checked_sub(len)).ok_or_else(short)?;
    let body = if start >= from {
        let at = |byte: u64| usize::try_from(byte - from).unwrap_or(usize::MAX).min(tail.len());
        tail.slice(at(start)..at(size - MARK_BYTES))
    } else {
        files.read_range(path, start..size - MARK_BYTES).await?
    };
    let metadata = ParquetMetaDataReader::decode_metadata(&body)?;
    Ok(u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(u64::MAX))
}
