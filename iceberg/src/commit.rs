//! Commits: files and the offsets they reach become part of a table together, once.
//!
//! Owns: fast appends over iceberg's types, the check of offsets and fencing epoch on the refreshed base, conflicts
//! and unknown answers, and, in the same commits, what keeps a table small: merging manifests, expiring snapshots
//! ([`maintain`]), then deleting what only those named ([`garbage`]). Does not own: which rows (`plan`, `sink`),
//! where the pointer lies (`catalog`). *Message*; one committer per table, on the tokio side runtime.
//!
//! iceberg's own `Transaction` applies an append blindly again after a conflict: a second writer would add its rows
//! twice. Here each attempt looks at the base it will be applied to:
//!
//! | offsets of the base | meaning | what happens |
//! |---|---|---|
//! | where the append begins | nobody was faster | it is applied |
//! | where the append ends, epoch and append id ours | our own lost answer | done |
//! | anything else, or another table | another writer | [`CommitError::Moved`]: plan again from the table |
//!
//! **Crash**: before the pointer moves, files are garbage nobody names; after it, everything is in the table. The
//! next run reads the offsets from the table, so neither duplicates nor loses a row.

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::spec::{DataFile, MAIN_BRANCH, TableMetadata};
use iceberg::{TableIdent, TableRequirement, TableUpdate};
use tidewater_storage::model::TimestampMs;
use uuid::Uuid;

use crate::catalog::{Catalog, CatalogError, Loaded};
use crate::files::FileError;
use crate::names::Names;
use crate::plan::Offsets;
use crate::translate::Skipped;

pub mod garbage;
pub mod identity;
pub mod maintain;
pub mod offsets;
pub mod orphans;
pub mod snapshot;
#[cfg(test)]
mod tests;

pub use identity::{Foreign, TableOwner};
pub use maintain::Bounds;

/// An append is tried this often against others (engines' maintenance, users' changes) that win the race.
const ATTEMPTS: usize = 20;

/// What one commit adds.
#[derive(Clone, Debug)]
pub struct Append {
    /// Data files; none if everything in the range was skipped or was control records.
    pub files: Vec<DataFile>,
    /// The table it was planned for, by Iceberg's id: one made anew under the same name is another.
    pub table: Uuid,
    /// The table's offsets this was planned from, all partitions.
    pub from: Offsets,
    /// The offsets after it, all partitions.
    pub to: Offsets,
    /// Offsets left out.
    pub skipped: Vec<Skipped>,
    /// An attempt got no answer, so it may be in the table: its files must not be deleted whatever happens next.
    pub uncertain: bool,
}

/// Why an append did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The table is someone else's.
    #[error(transparent)]
    Foreign(#[from] Foreign),
    /// A later writer of this table exists; this one must stop.
    #[error("table {table} is written in fencing epoch {found}; this writer has {ours} and stops")]
    Fenced {
        /// Which table.
        table: TableIdent,
        /// The table's.
        found: u64,
        /// This writer's.
        ours: u64,
    },
    /// The table is not where the append was planned from; plan again.
    #[error("table {table} has moved under this append; it is planned again from the table")]
    Moved {
        /// Which table.
        table: TableIdent,
    },
    /// A property or the partitioning was changed so that nothing can be appended.
    #[error("table {table} cannot be appended to: {detail}")]
    Unfit {
        /// Which table.
        table: TableIdent,
        /// What is in the way and what to do.
        detail: String,
    },
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A manifest could not be read or written.
    #[error(transparent)]
    Metadata(#[from] iceberg::Error),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl CommitError {
    /// Is there no such table any more? Then nothing that was planned for it will ever be in it.
    #[must_use]
    pub fn is_table_gone(&self) -> bool {
        matches!(self, Self::Catalog(CatalogError::NoSuchTable(_) | CatalogError::NoSuchNamespace(_)))
    }

    /// May the same append succeed later? If not, it is planned again from the table as it is then.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Catalog(CatalogError::Unknown { .. } | CatalogError::Conflict { .. } | CatalogError::Busy { .. }) => {
                true
            }
            Self::Catalog(CatalogError::File(error)) | Self::File(error) => !error.is_absent(),
            Self::Catalog(CatalogError::Metadata(error)) | Self::Metadata(error) => error.retryable(),
            _ => false,
        }
    }
}

/// May a commit that failed so be in the table all the same? Only a pointer write says so; what fails before one does
/// not.
fn may_have_happened(error: &CatalogError) -> bool {
    matches!(error, CatalogError::Unknown { .. } | CatalogError::File(_))
}

/// The one who commits to a table.
pub struct Committer {
    catalog: Arc<dyn Catalog>,
    table: TableIdent,
    owner: TableOwner,
    names: Names,
    bounds: Bounds,
    current: Option<Loaded>,
}

impl Committer {
    /// For `table`, which must carry `owner`'s ids.
    #[must_use]
    pub fn new(catalog: Arc<dyn Catalog>, table: TableIdent, owner: TableOwner, names: Names, bounds: Bounds) -> Self {
        Self { catalog, table, owner, names, bounds, current: None }
    }

    /// The table's state as last seen, if any.
    #[must_use]
    pub fn current(&self) -> Option<&Loaded> {
        self.current.as_ref()
    }

    /// Loads the table afresh and checks that it is ours to write.
    ///
    /// # Errors
    /// The catalog; [`CommitError::Foreign`]; [`CommitError::Fenced`].
    pub async fn refresh(&mut self) -> Result<Loaded, CommitError> {
        self.current = None;
        let loaded = self.catalog.load(&self.table).await?;
        self.check(&loaded.metadata)?;
        self.current = Some(loaded.clone());
        Ok(loaded)
    }

    /// Deletes the table's orphans, if the table was last written in this writer's epoch: nobody older can come back.
    ///
    /// # Errors
    /// See [`orphans::SweepError`].
    pub async fn sweep(&self, now: TimestampMs) -> Result<orphans::Swept, orphans::SweepError> {
        match &self.current {
            Some(base) if identity::epoch(&base.metadata) == self.owner.epoch => {
                orphans::sweep(&self.catalog.files(), &base.metadata, now.plus_ms(-self.bounds.orphan_age_ms)).await
            }
            _ => Ok(orphans::Swept::default()),
        }
    }

    /// Forgets what was seen: the next append looks again.
    pub fn forget(&mut self) {
        self.current = None;
    }

    /// Sets a property of the table as it was last seen; refused if rows came meanwhile.
    ///
    /// # Errors
    /// The catalog.
    pub async fn set_property(&mut self, base: &Loaded, key: &str, value: &str) -> Result<Loaded, CommitError> {
        self.current = None;
        let requirements = vec![
            TableRequirement::UuidMatch { uuid: base.metadata.uuid() },
            TableRequirement::RefSnapshotIdMatch {
                r#ref: MAIN_BRANCH.to_owned(),
                snapshot_id: base.metadata.current_snapshot_id(),
            },
        ];
        let updates = HashMap::from([(key.to_owned(), value.to_owned())]);
        let loaded =
            self.catalog.commit(&self.table, requirements, vec![TableUpdate::SetProperties { updates }]).await?;
        self.current = Some(loaded.clone());
        Ok(loaded)
    }

    fn check(&self, metadata: &TableMetadata) -> Result<(), CommitError> {
        self.owner.check(&self.table, metadata)?;
        let found = identity::epoch(metadata);
        if found > self.owner.epoch {
            return Err(CommitError::Fenced { table: self.table.clone(), found, ours: self.owner.epoch });
        }
        Ok(())
    }

    /// Commits `append`. When this returns `Ok`, its rows are in the table exactly once.
    ///
    /// # Errors
    /// See [`CommitError`]. Where [`CommitError::may_pass`] the append may or may not be in the table: calling again
    /// with the same append finds out.
    pub async fn append(&mut self, append: &mut Append, now: TimestampMs) -> Result<Loaded, CommitError> {
        let id = append_id(append);
        for _ in 0..ATTEMPTS {
            let base = match self.current.clone() {
                Some(base) => base,
                None => self.refresh().await?,
            };
            let held = offsets::of(&self.table, &base.metadata)?;
            if held != append.from || base.metadata.uuid() != append.table {
                if self.is_done(&base.metadata, append, &held, &id) {
                    return Ok(base);
                }
                self.current = None;
                return Err(CommitError::Moved { table: self.table.clone() });
            }
            if let Some(done) = self.attempt(&base, append, &id, now).await? {
                return Ok(done);
            }
        }
        let detail = format!("{ATTEMPTS} attempts lost against other writers");
        Err(CatalogError::Conflict { table: self.table.clone(), detail }.into())
    }

    /// Did an earlier attempt of this very append reach the table?
    fn is_done(&self, metadata: &TableMetadata, append: &Append, held: &Offsets, id: &str) -> bool {
        *held == append.to && offsets::append_id(metadata).as_deref() == Some(id)
    }

    /// One attempt on one base; `None` if the base was not current any more.
    async fn attempt(
        &mut self,
        base: &Loaded,
        append: &mut Append,
        id: &str,
        now: TimestampMs,
    ) -> Result<Option<Loaded>, CommitError> {
        let maker = snapshot::Maker {
            files: self.catalog.files(),
            names: &self.names,
            table: &self.table,
            owner: &self.owner,
            bounds: &self.bounds,
        };
        let made = maker.make(&base.metadata, append, id, now).await?;
        match self.catalog.commit(&self.table, made.requirements, made.updates).await {
            Ok(loaded) => {
                self.current = Some(loaded.clone());
                garbage::collect(&self.catalog.files(), &base.metadata, &loaded.metadata).await;
                Ok(Some(loaded))
            }
            Err(CatalogError::Conflict { .. }) => {
                self.current = None;
                self.catalog.files().take_back(&made.written).await;
                Ok(None)
            }
            // Nobody knows: the next attempt, or the next call, looks at the table.
            Err(error) => {
                self.current = None;
                append.uncertain |= may_have_happened(&error);
                if matches!(error, CatalogError::Unknown { .. }) { Ok(None) } else { Err(error.into()) }
            }
        }
    }
}

/// Names an append by what it is made of, so that a repeated one recognises itself: its first file, whose name is
/// unique, or its offsets.
fn append_id(append: &Append) -> String {
    match append.files.first() {
        Some(file) => file.file_path().rsplit('/').next().unwrap_or_default().to_owned(),
        None => offsets::encode(&append.to),
    }
}
