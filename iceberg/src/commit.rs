//! Commits: files and the offsets they reach become part of a table together, once.
//!
//! Owns: fast appends over iceberg's types, the check of offsets and fencing epoch on the refreshed base, conflicts
//! and unknown answers, and, in the same commits, what keeps a table small: merging manifests, expiring snapshots
//! ([`maintain`]), then deleting what only those named ([`garbage`]); changes of the schema and files that take the
//! place of others ([`Replacement`]), which are commits of their own. Does not own: which rows (`plan`, `sink`),
//! where the pointer lies (`catalog`). *Message*; one committer per table, on the tokio side runtime.
//!
//! iceberg's own `Transaction` applies an append blindly again after a conflict: a second writer would add its rows
//! twice. Here each attempt looks at the base it will be applied to:
//!
//! | offsets of the base | meaning | what happens |
//! |---|---|---|
//! | where the append begins | no other writer came first | it is applied |
//! | where the append ends, with its append id | our own lost answer | done |
//! | anything else, or another table | another writer | [`CommitError::Moved`]: plan again from the table |
//! | any, with a greater fencing epoch | a later writer | [`CommitError::Fenced`]: this one stops |
//!
//! **Crash**: before the pointer moves, files are garbage that nothing names; after it, everything is in the table. The
//! next run reads the offsets from the table, so it neither duplicates nor loses a row.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use iceberg::spec::{DataFile, Schema, SortOrder, TableMetadata, UnboundPartitionSpec};
use iceberg::{TableIdent, TableRequirement, TableUpdate};
use tidewater_storage::disposition::Disposition;
use tidewater_storage::model::TimestampMs;
use uuid::Uuid;

use crate::catalog::{Catalog, CatalogError, Loaded, Refs};
use crate::files::{FileError, TableFiles};
use crate::names::Names;
use crate::plan::Offsets;
use crate::properties::{InvalidProperty, RetrySettings, TableSettings};
use crate::schema::system::SystemColumns;
use crate::translate::Skipped;

pub mod adopt;
pub(crate) mod cut;
mod detach;
pub mod garbage;
pub mod identity;
pub mod maintain;
pub mod offsets;
pub mod orphans;
mod replace;
pub(crate) mod snapshot;
pub mod survey;
#[cfg(test)]
mod tests;

pub use identity::{Foreign, TableOwner};
pub use maintain::Bounds;
pub use replace::Replacement;

/// What one commit adds.
#[derive(Clone, Debug)]
pub struct Append {
    /// Data files; none if everything in the range was skipped or was control records.
    pub files: Vec<DataFile>,
    /// The table's partition spec that the files are of.
    pub spec_id: i32,
    /// Iceberg's id of the table it was planned for: a new table under the same name is another.
    pub table: Uuid,
    /// The table's offsets this was planned from, all partitions.
    pub from: Offsets,
    /// The offsets after it, all partitions.
    pub to: Offsets,
    pub skipped: Vec<Skipped>,
    /// Table properties to set, or to remove, in the same commit.
    pub properties: Vec<(&'static str, Option<String>)>,
    /// Further keys of the snapshot's summary.
    pub summary: Vec<(&'static str, String)>,
    /// Files in other places that go with it: deleted if the append fails for good.
    pub beside: Vec<String>,
    /// An attempt got no answer, so it may be in the table: its files must never be deleted from here on.
    pub uncertain: bool,
}

/// A change of a table's schema.
#[derive(Clone, Debug, Default)]
pub struct SchemaChange {
    pub schema: Option<Schema>,
    /// The default partition spec from then on, over columns of the schema after the change.
    pub spec: Option<UnboundPartitionSpec>,
    /// The default sort order from then on, likewise.
    pub order: Option<SortOrder>,
    /// Those to set, and those to remove.
    pub properties: Vec<(&'static str, Option<String>)>,
}

/// In place of the id of a schema, a partition spec or a sort order: the one that was added last, in the same commit.
const LAST_ADDED: i32 = -1;

/// Why an append did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The table has another owner.
    #[error(transparent)]
    Foreign(#[from] Foreign),
    /// A later writer of this table exists; this one must stop.
    #[error("table {table} is written in fencing epoch {found}; this writer has {ours} and stops")]
    Fenced { table: TableIdent, found: u64, ours: u64 },
    /// The table is not where the append was planned from; plan again.
    #[error("table {table} has moved under this append; it is planned again from the table")]
    Moved { table: TableIdent },
    /// A property or the partitioning was changed so that nothing can be appended.
    #[error("table {table} cannot be appended to: {detail}")]
    Unfit {
        table: TableIdent,
        /// What is in the way and what to do.
        detail: String,
    },
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
    /// Whether the table is gone: then nothing that was planned for it will ever be in it.
    #[must_use]
    pub fn is_table_gone(&self) -> bool {
        matches!(self, Self::Catalog(error) if error.is_table_gone())
    }

    /// After [`Disposition::Retry`] and [`Disposition::Unknown`] the same append may succeed, or already be in the
    /// table. After all others it is planned again from the table as it is then.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Foreign(_) | Self::Unfit { .. } => Disposition::Refused,
            Self::Fenced { .. } => Disposition::Fatal,
            Self::Moved { .. } => Disposition::Conflict,
            // Other writers were faster in every attempt: their load ends.
            Self::Catalog(CatalogError::Conflict { .. }) => Disposition::Retry,
            Self::Catalog(error) => error.disposition(),
            Self::Metadata(error) => crate::catalog::of_metadata(error),
            Self::File(error) => error.disposition(),
        }
    }
}

/// Commits in a row of unknown outcome after which the caller gets the catalog's own words, and waits.
const UNKNOWN_MAX: usize = 3;

/// Whether a commit that failed with `error` may be in the table: only a failed write of the pointer leaves that open.
fn may_have_happened(error: &CatalogError) -> bool {
    matches!(error, CatalogError::Unknown { .. } | CatalogError::File(_))
}

/// Commits to one table.
pub struct Committer {
    catalog: Arc<dyn Catalog>,
    table: TableIdent,
    owner: TableOwner,
    names: Names,
    bounds: Bounds,
    /// Invalid properties that the log has named.
    reported: Vec<InvalidProperty>,
    /// Commits in a row of which the catalog left open what became of them.
    unknown: usize,
    current: Option<Loaded>,
}

impl Committer {
    /// For `table`, which must carry `owner`'s ids.
    #[must_use]
    pub fn new(catalog: Arc<dyn Catalog>, table: TableIdent, owner: TableOwner, names: Names, bounds: Bounds) -> Self {
        Self { catalog, table, owner, names, bounds, reported: Vec::new(), unknown: 0, current: None }
    }

    #[must_use]
    pub fn table(&self) -> &TableIdent {
        &self.table
    }

    /// The files of the warehouse.
    pub(crate) fn files(&self) -> TableFiles {
        self.catalog.files()
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
        // Held until the catalog has looked: it does not read again what is held.
        let held = self.current.take();
        let loaded = self.catalog.load(&self.table).await?;
        drop(held);
        self.check(&loaded.metadata)?;
        self.current = Some(loaded.clone());
        Ok(loaded)
    }

    /// Deletes the table's orphans, if the table was last written in this writer's epoch: older writers are fenced.
    ///
    /// # Errors
    /// See [`orphans::SweepError`].
    pub async fn sweep(&self, now: TimestampMs) -> Result<orphans::Swept, orphans::SweepError> {
        match &self.current {
            Some(base)
                if identity::epoch(&base.metadata) == self.owner.epoch
                    && TableSettings::of(base.metadata.properties(), &self.bounds).retention.may_delete =>
            {
                let table = orphans::SweptTable { catalog: &*self.catalog, table: &self.table, owner: &self.owner };
                orphans::sweep(table, base, now.plus_ms(-self.bounds.orphan_age_ms)).await
            }
            _ => Ok(orphans::Swept::default()),
        }
    }

    /// Forgets the loaded table: the next append loads it again.
    pub fn forget(&mut self) {
        self.current = None;
    }

    /// Changes the schema, and with it the property that says what its columns hold. Refused with
    /// [`CommitError::Moved`] if another writer changed the schema, or added a snapshot, first.
    ///
    /// # Errors
    /// The catalog. After [`Disposition::Unknown`] the change may be in the table: planning again finds out.
    pub async fn change_schema(&mut self, base: &Loaded, change: SchemaChange) -> Result<Loaded, CommitError> {
        self.current = None;
        let mut requirements = snapshot::on_main(&base.metadata);
        requirements.extend([
            TableRequirement::CurrentSchemaIdMatch { current_schema_id: base.metadata.current_schema_id() },
            TableRequirement::LastAssignedFieldIdMatch { last_assigned_field_id: base.metadata.last_column_id() },
        ]);
        let mut updates = Vec::new();
        if let Some(schema) = change.schema {
            updates.push(TableUpdate::AddSchema { schema });
            updates.push(TableUpdate::SetCurrentSchema { schema_id: LAST_ADDED });
        }
        if let Some(spec) = change.spec {
            let default_spec_id = base.metadata.default_partition_spec_id();
            requirements.push(TableRequirement::DefaultSpecIdMatch { default_spec_id });
            updates.push(TableUpdate::AddSpec { spec });
            updates.push(TableUpdate::SetDefaultSpec { spec_id: LAST_ADDED });
        }
        if let Some(sort_order) = change.order {
            let default_sort_order_id = base.metadata.default_sort_order_id();
            requirements.push(TableRequirement::DefaultSortOrderIdMatch { default_sort_order_id });
            updates.push(TableUpdate::AddSortOrder { sort_order });
            updates.push(TableUpdate::SetDefaultSortOrder { sort_order_id: LAST_ADDED.into() });
        }
        let (set, removed): (Vec<_>, Vec<_>) = change.properties.into_iter().partition(|(_, value)| value.is_some());
        if !set.is_empty() {
            let properties = set.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
            updates.push(TableUpdate::SetProperties { updates: properties.collect() });
        }
        if !removed.is_empty() {
            let removals = removed.into_iter().map(|(key, _)| key.to_owned()).collect();
            updates.push(TableUpdate::RemoveProperties { removals });
        }
        match self.catalog.commit(&self.table, requirements, updates).await {
            Ok(loaded) => {
                self.check(&loaded.metadata)?;
                self.current = Some(loaded.clone());
                Ok(loaded)
            }
            Err(CatalogError::Conflict { .. }) => Err(CommitError::Moved { table: self.table.clone() }),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets a property of the table as it was last seen; refused if rows came meanwhile.
    ///
    /// # Errors
    /// The catalog.
    pub async fn set_property(&mut self, base: &Loaded, key: &str, value: &str) -> Result<Loaded, CommitError> {
        self.set_properties(base, HashMap::from([(key.to_owned(), value.to_owned())])).await
    }

    /// The same of several, in one commit.
    ///
    /// # Errors
    /// The catalog.
    pub async fn set_properties(
        &mut self,
        base: &Loaded,
        updates: HashMap<String, String>,
    ) -> Result<Loaded, CommitError> {
        self.current = None;
        let requirements = snapshot::on_main(&base.metadata);
        let loaded =
            self.catalog.commit(&self.table, requirements, vec![TableUpdate::SetProperties { updates }]).await?;
        self.current = Some(loaded.clone());
        Ok(loaded)
    }

    fn check(&self, metadata: &TableMetadata) -> Result<(), CommitError> {
        self.owner.check(&self.table, metadata)?;
        SystemColumns::check(metadata).map_err(|detail| CommitError::Unfit { table: self.table.clone(), detail })?;
        let found = identity::epoch(metadata);
        if found > self.owner.epoch {
            return Err(CommitError::Fenced { table: self.table.clone(), found, ours: self.owner.epoch });
        }
        Ok(())
    }

    /// Commits `append`. When this returns `Ok`, its rows are in the table exactly once.
    ///
    /// # Errors
    /// See [`CommitError`]. After [`Disposition::Unknown`] or [`Disposition::Retry`] the append may be in the table:
    /// calling again with the same append finds out.
    pub async fn append(&mut self, append: &mut Append, now: TimestampMs) -> Result<Loaded, CommitError> {
        let id = append_id(append);
        let (mut attempts, mut waited) = (0, 0);
        loop {
            // Loaded each time: main's retention is copied from it, and the owner may have changed that.
            let base = self.refresh().await?;
            let held = offsets::of(&self.table, &base.metadata)?;
            if held != append.from || base.metadata.uuid() != append.table {
                if self.is_done(&base.metadata, append, &held, &id) {
                    return Ok(base);
                }
                self.current = None;
                return Err(CommitError::Moved { table: self.table.clone() });
            }
            let settings = self.settings(&base.metadata);
            if let Some(done) = self.attempt(&base, &settings, append, &id, now).await? {
                return Ok(done);
            }
            attempts += 1;
            if attempts >= settings.retry.attempts || waited >= settings.retry.total_ms {
                let detail = format!("{attempts} attempts lost against other writers");
                return Err(CatalogError::Conflict { table: self.table.clone(), detail }.into());
            }
            waited += self.wait(&settings.retry, attempts).await;
        }
    }

    /// Waits before attempt `attempts` + 1. Returns for how many milliseconds.
    async fn wait(&self, retry: &RetrySettings, attempts: usize) -> u64 {
        let doubled = retry.min_wait_ms.saturating_mul(1 << (attempts - 1).min(20));
        let ms = doubled.min(retry.max_wait_ms);
        // Without a runtime, as in tests that run on no timer, there is nothing to wait with.
        if ms > 0 && tokio::runtime::Handle::try_current().is_ok() {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        ms
    }

    /// What the table's properties ask for; each invalid value is logged once for as long as it stays.
    pub fn settings(&mut self, metadata: &TableMetadata) -> TableSettings {
        let settings = TableSettings::of(metadata.properties(), &self.bounds);
        for invalid in settings.invalid.iter().filter(|invalid| !self.reported.contains(invalid)) {
            tracing::warn!(
                table = %self.table, property = invalid.name, value = %invalid.value, expected = %invalid.expected,
                "a table's property is not valid; the default is used"
            );
        }
        self.reported.clone_from(&settings.invalid);
        settings
    }

    /// Whether an earlier attempt of this very append reached the table.
    fn is_done(&self, metadata: &TableMetadata, append: &Append, held: &Offsets, id: &str) -> bool {
        *held == append.to && offsets::append_id(metadata).as_deref() == Some(id)
    }

    /// One attempt on one base; `None` if the base was not current any more.
    async fn attempt(
        &mut self,
        base: &Loaded,
        settings: &TableSettings,
        append: &mut Append,
        id: &str,
        now: TimestampMs,
    ) -> Result<Option<Loaded>, CommitError> {
        let made = self.maker(settings, base.refs()?).make(&base.metadata, append, id, now).await?;
        let done = self.put(base, made, &mut append.uncertain).await?;
        if let Some(loaded) = &done {
            let held = offsets::of(&self.table, &loaded.metadata)?;
            assert_eq!(held, append.to, "a commit leaves the table at the offsets that its append reaches");
        }
        Ok(done)
    }

    fn maker<'a>(&'a self, settings: &'a TableSettings, refs: &'a Refs) -> snapshot::Maker<'a> {
        snapshot::Maker {
            files: self.catalog.files(),
            names: &self.names,
            table: &self.table,
            owner: &self.owner,
            bounds: &self.bounds,
            settings,
            refs,
        }
    }

    /// Commits what was made on `base`, and deletes what only the snapshots that it expires named. `None` if the base
    /// was not current any more, or if that is not known. `uncertain` is set where the commit may take effect after
    /// this call.
    async fn put(
        &mut self,
        base: &Loaded,
        made: snapshot::Made,
        uncertain: &mut bool,
    ) -> Result<Option<Loaded>, CommitError> {
        let unknown = std::mem::take(&mut self.unknown);
        let expires = made.updates.iter().any(|update| matches!(update, TableUpdate::RemoveSnapshots { .. }));
        let answer = self.catalog.commit(&self.table, made.requirements, made.updates).await;
        if let Err(error) = &answer {
            *uncertain |= may_have_happened(error) || !self.catalog.refusals_are_final();
        }
        match answer {
            Ok(loaded) => {
                self.current = Some(loaded.clone());
                // A catalog that does not show all snapshots has not lost the others.
                if expires {
                    garbage::collect(&self.catalog.files(), &base.metadata, &loaded).await;
                }
                Ok(Some(loaded))
            }
            Err(CatalogError::Conflict { .. }) => {
                self.current = None;
                self.take_back(&made.written).await;
                Ok(None)
            }
            // A catalog that applied the updates to a later base, whose main is the same: a commit to another branch,
            // say.
            Err(error @ CatalogError::Invalid { .. }) => {
                self.current = None;
                let now = self.catalog.load(&self.table).await?;
                if now.location == base.location {
                    return Err(error.into());
                }
                self.take_back(&made.written).await;
                Ok(None)
            }
            // The outcome may be unknown: the next attempt, or the next call, looks at the table.
            Err(error) => {
                self.current = None;
                if !matches!(error, CatalogError::Unknown { .. }) {
                    return Err(error.into());
                }
                self.unknown = unknown + 1;
                if self.unknown < UNKNOWN_MAX { Ok(None) } else { Err(error.into()) }
            }
        }
    }

    /// Deletes what a refused commit was to name. Where it may still take effect, the sweep of orphans deletes it.
    async fn take_back(&self, written: &[String]) {
        if self.catalog.refusals_are_final() {
            self.catalog.files().take_back(written).await;
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
