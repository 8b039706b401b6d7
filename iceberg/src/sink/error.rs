//! [`SinkError`]: why a turn failed, what to do about it and what it holds up.

use std::sync::Arc;

use tidewater_storage::disposition::Disposition;
use tidewater_storage::model::{Offset, PartitionIndex};

use super::HeldBy;
use crate::catalog::CatalogError;
use crate::commit::CommitError;
use crate::read::LogReadError;
use crate::registry::SchemaSourceError;
use crate::write::WriteError;

/// What to do about a subject without a schema.
pub(super) const REGISTER_IT: &str = "register one, or set another subject or mode in iceberg.mode";
/// What to do about a schema that the columns cannot take.
pub(super) const CHOOSE: &str = "set iceberg.evolution.conflict=column for a column of their own, or dlq to make them \
     dead letters; or change the schema or the column so that the types fit";

/// Why a turn failed; the next one tries again.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error(transparent)]
    Read(#[from] LogReadError),
    /// A value's schema cannot be had now.
    #[error(transparent)]
    Schemas(#[from] SchemaSourceError),
    /// The subject whose newest schema all values have is not in the registry.
    #[error("the subject {subject} has no schema, with which values are to be read; {REGISTER_IT}")]
    NoSchema { subject: Arc<str> },
    /// `iceberg.evolution.conflict=pause`, and the schema of the value at `offset` has another type than a column.
    #[error("partition {partition}, offset {offset}: {detail}; {CHOOSE}")]
    Conflict { partition: PartitionIndex, offset: Offset, detail: String },
    /// Data files.
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl SinkError {
    /// What a caller should do about it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Read(_) | Self::Schemas(_) | Self::NoSchema { .. } | Self::Conflict { .. } => Disposition::Retry,
            Self::Write(error) => error.disposition(),
            Self::Commit(error) => error.disposition(),
        }
    }

    /// What holds the table up while this lasts.
    pub(super) fn held_by(&self) -> HeldBy {
        match self {
            Self::Read(_) => HeldBy::Log,
            Self::Schemas(_) | Self::NoSchema { .. } => HeldBy::Registry,
            Self::Conflict { .. } => HeldBy::Conflict,
            Self::Write(_) | Self::Commit(_) => HeldBy::Bucket,
        }
    }
}

impl From<CatalogError> for SinkError {
    fn from(error: CatalogError) -> Self {
        Self::Commit(error.into())
    }
}
