//! The catalog seam: holds the pointer to a table's current metadata and moves it by compare-and-set.
//!
//! Owns: the trait, its types and errors. [`object_store`] is the built-in one, whose state is objects of the bucket;
//! [`ReadOnlyCatalog`] reads that of another cluster; [`rest`] is a catalog of another vendor, over its Iceberg REST
//! routes; [`wire`] has the JSON of the routes that this process serves. Does not own: serving HTTP, what is in a
//! commit.
//!
//! Contract of [`Catalog::commit`]. **Atomicity**: all updates or none. **Ordering**: commits of a table are totally
//! ordered; requirements are checked on the state the updates are applied to. **Retries**: an implementation may
//! retry by itself as long as the requirements hold. **Lost answers**: [`CatalogError::Unknown`] means the commit
//! may have happened; the caller loads and compares. **Crash**: a commit that did not answer happened wholly or not.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use iceberg::spec::{FormatVersion, Schema, SortOrder, TableMetadata, UnboundPartitionSpec};
pub use iceberg::{NamespaceIdent, TableIdent, TableRequirement, TableUpdate};
use tidewater_storage::disposition::Disposition;
use tidewater_tiering::store::StoreError;
use uuid::Uuid;

use crate::files::{FileError, TableFiles};
use crate::location::LocationError;

mod creation;
mod entries;
mod json;
mod keys;
mod members;
mod namespaces;
pub mod object_store;
mod own;
mod pointer;
mod purge;
mod raw;
mod read_only;
mod refs;
mod rename;
mod requirement;
pub mod rest;
mod schemas;
#[cfg(test)]
mod tests;
mod transactions;
mod views;
pub mod wire;

pub use namespaces::PropertyChange;
pub use object_store::ObjectStoreCatalog;
pub use raw::RawLoaded;
pub use read_only::ReadOnlyCatalog;
pub use refs::Refs;
pub use rest::RestCatalog;
pub use transactions::TableCommit;
pub use views::{LoadedView, NewView, ViewRequirement, ViewUpdate};

/// A table's state at one commit. *Message*.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub metadata: Arc<TableMetadata>,
    /// URI of the file it is in; `None` for a table that is only staged.
    pub location: Option<String>,
    /// Of this very metadata; found at the first request, unless the writer of the metadata knew them already.
    refs: Arc<OnceLock<Refs>>,
}

impl Loaded {
    #[must_use]
    pub fn new(metadata: Arc<TableMetadata>, location: Option<String>) -> Self {
        Self { metadata, location, refs: Arc::default() }
    }

    /// Branches and tags.
    ///
    /// # Errors
    /// If the metadata cannot be written as JSON and read back: a defect of iceberg's. Nothing may expire then.
    pub fn refs(&self) -> iceberg::Result<&Refs> {
        if let Some(known) = self.refs.get() {
            return Ok(known);
        }
        let found = refs::of(&self.metadata)?;
        Ok(self.refs.get_or_init(|| found))
    }
}

/// A table to be made.
#[derive(Clone, Debug)]
pub struct NewTable {
    /// Columns; ids are assigned afresh.
    pub schema: Schema,
    /// Partitioning; `None` for none.
    pub spec: Option<UnboundPartitionSpec>,
    /// Order of rows; `None` for none.
    pub order: Option<SortOrder>,
    /// `None` lets the catalog choose.
    pub location: Option<String>,
    pub properties: HashMap<String, String>,
    pub format: FormatVersion,
}

/// Why a catalog refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("Namespace does not exist: {0}")]
    NoSuchNamespace(NamespaceIdent),
    #[error("Namespace already exists: {0}")]
    NamespaceExists(NamespaceIdent),
    #[error("Namespace is not empty: {0}; drop its tables and views first")]
    NamespaceNotEmpty(NamespaceIdent),
    #[error("Table does not exist: {0}")]
    NoSuchTable(TableIdent),
    #[error("Table already exists: {0}")]
    TableExists(TableIdent),
    #[error("View does not exist: {0}")]
    NoSuchView(TableIdent),
    #[error("View already exists: {0}")]
    ViewExists(TableIdent),
    /// A table and a view cannot share a name.
    #[error("{by} with same name already exists: {name}")]
    NameTaken {
        name: TableIdent,
        /// What has the name.
        by: &'static str,
    },
    #[error("Cannot rename {from} to {to}. {by} already exists")]
    RenameTaken {
        from: TableIdent,
        to: TableIdent,
        /// What has the name.
        by: &'static str,
    },
    /// Another writer committed first; load again and decide again.
    #[error("{detail} ({table}); load the table again and retry")]
    Conflict { table: TableIdent, detail: String },
    /// The commit may or may not have happened.
    #[error("Commit to {table} got no answer ({detail}); load the table to see whether it happened")]
    Unknown { table: TableIdent, detail: String },
    /// The request makes no sense.
    #[error("{detail}")]
    Invalid {
        /// What is wrong and what to do.
        detail: String,
    },
    /// The description of a view makes no sense; clients know it by this name.
    #[error("{detail}")]
    IllegalArgument { detail: String },
    /// The commit would write the metadata without them.
    #[error(
        "the metadata of {name} has members that this version does not know and would lose: {members}; change it with \
         what wrote them, or upgrade"
    )]
    UnknownMembers { name: TableIdent, members: String },
    /// The file the pointer names is gone.
    #[error("Failed to open input stream for file: {location}, the metadata of {table}; restore it or drop the table")]
    MetadataMissing { table: TableIdent, location: String },
    /// The table's files are not where this catalog reads.
    #[error(
        "{table} is at {location}, which is not in {bucket}: its files are named as its own cluster reaches its bucket; \
         use that URL"
    )]
    Elsewhere { table: TableIdent, location: String, bucket: String },
    /// The request contradicts itself.
    #[error("{detail}")]
    Unprocessable { detail: String },
    /// Other writers win every attempt; try again.
    #[error("{detail}")]
    Busy { detail: String },
    /// An object of the catalog is not what was written there.
    #[error(
        "catalog object {key} is damaged: {detail}; put it back from the store's versions or a copy; if there is none, delete it: \
         the table is dropped then"
    )]
    Damaged {
        key: String,
        /// What is wrong with it.
        detail: String,
    },
    /// An external catalog refuses, or does something that a table of Tidewater cannot live with. Nothing was changed.
    #[error("{detail}")]
    Refused {
        /// What it refuses and what to do.
        detail: String,
    },
    /// A read of an external catalog got an answer that is none of the Iceberg REST API.
    #[error("{detail}")]
    BadAnswer { detail: String },
    /// A metadata file does not parse, or an update does not apply.
    #[error(transparent)]
    Metadata(#[from] iceberg::Error),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl CatalogError {
    /// Whether there is no such table.
    #[must_use]
    pub fn is_table_gone(&self) -> bool {
        matches!(self, Self::NoSuchTable(_) | Self::NoSuchNamespace(_))
    }

    /// What a caller should do about it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::NoSuchNamespace(_) | Self::NoSuchTable(_) | Self::NoSuchView(_) | Self::MetadataMissing { .. } => {
                Disposition::Absent
            }
            Self::NamespaceExists(_) | Self::TableExists(_) | Self::ViewExists(_) | Self::Conflict { .. } => {
                Disposition::Conflict
            }
            Self::Unknown { .. } => Disposition::Unknown,
            Self::NamespaceNotEmpty(_)
            | Self::Invalid { .. }
            | Self::IllegalArgument { .. }
            | Self::UnknownMembers { .. }
            | Self::NameTaken { .. }
            | Self::RenameTaken { .. }
            | Self::Elsewhere { .. }
            | Self::Refused { .. }
            | Self::Unprocessable { .. } => Disposition::Refused,
            Self::Busy { .. } | Self::BadAnswer { .. } => Disposition::Retry,
            Self::Damaged { .. } => Disposition::Corrupt,
            Self::Metadata(error) => of_metadata(error),
            Self::File(error) => error.disposition(),
        }
    }
}

/// What an error of the iceberg crate means: what the error of ours at its root does, which iceberg and Parquet wrap;
/// without one, what iceberg says.
pub(crate) fn of_metadata(error: &iceberg::Error) -> Disposition {
    let mut causes = std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |e| e.source());
    match causes.find_map(|cause| cause.downcast_ref::<FileError>()) {
        Some(error) => error.disposition(),
        None if error.retryable() => Disposition::Retry,
        None => Disposition::Refused,
    }
}

impl From<StoreError> for CatalogError {
    fn from(error: StoreError) -> Self {
        Self::File(error.into())
    }
}

impl From<LocationError> for CatalogError {
    fn from(error: LocationError) -> Self {
        Self::Invalid { detail: error.to_string() }
    }
}

/// Holds tables' pointers. *Node-wide*; used on the tokio side runtime.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// The files of its tables.
    fn files(&self) -> TableFiles;

    /// Makes the namespace unless it is there.
    ///
    /// # Errors
    /// If it cannot be known to be there.
    async fn ensure_namespace(&self, namespace: &NamespaceIdent) -> Result<(), CatalogError>;

    /// A table's current state.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchTable`], or it cannot be read now.
    async fn load(&self, table: &TableIdent) -> Result<Loaded, CatalogError>;

    /// Makes a table.
    ///
    /// # Errors
    /// [`CatalogError::TableExists`] and others; after [`CatalogError::Unknown`] it may be there.
    async fn create(&self, table: &TableIdent, new: NewTable) -> Result<Loaded, CatalogError>;

    /// Whether a commit that was refused never takes effect later. If not, what it was to name may not be deleted then.
    fn refusals_are_final(&self) -> bool {
        true
    }

    /// Applies `updates` if all `requirements` hold. See the module for the contract.
    ///
    /// # Errors
    /// [`CatalogError::Conflict`], [`CatalogError::Unknown`] and others.
    async fn commit(
        &self,
        table: &TableIdent,
        requirements: Vec<TableRequirement>,
        updates: Vec<TableUpdate>,
    ) -> Result<Loaded, CatalogError>;

    /// Drops the table of that name, with `purge` its files too: the one with this uuid, if one is given.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchTable`], also when the name is another table's by now; [`CatalogError::Busy`] against a
    /// writer that commits all the time; and others.
    async fn drop_one(&self, table: &TableIdent, uuid: Option<Uuid>, purge: bool) -> Result<(), CatalogError>;

    /// Drops the table that has the name now; with `purge` its files too.
    ///
    /// # Errors
    /// As [`Catalog::drop_one`].
    async fn drop_table(&self, table: &TableIdent, purge: bool) -> Result<(), CatalogError> {
        self.drop_one(table, None, purge).await
    }
}
