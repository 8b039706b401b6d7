//! Taking on a table that another program made: one commit gives it the columns that it lacks, an owner and the offsets
//! at which its topic goes on.
//!
//! The commit has a snapshot of its own, without any file, whose summary has the offsets: what earlier snapshots say of
//! offsets, if the table was another topic's, is behind it. Rows, history and the files of others stay as they are.
//!
//! **Crash, lost answer**: a table that has the owner was adopted; asking again finds that.

use std::collections::HashMap;

use iceberg::spec::{Operation, Schema, Summary, TableMetadata};
use iceberg::{TableRequirement, TableUpdate};
use tidewater_storage::model::TimestampMs;

use super::identity::{DETACHED, EPOCH};
use super::snapshot::{FileSums, Made, Maker, on_main, totals};
use super::{CommitError, Committer, LAST_ADDED, offsets};
use crate::catalog::Loaded;
use crate::plan::Offsets;

/// What a table gets when it is adopted.
#[derive(Clone, Debug)]
pub struct Adoption {
    /// With the columns that it lacks; `None`: it has all.
    pub schema: Option<Schema>,
    /// Beside those of the owner.
    pub properties: HashMap<String, String>,
    /// Where the topic goes on; a partition that is not there begins at the start of its log.
    pub offsets: Offsets,
}

impl Adoption {
    /// The changes of schema and properties.
    #[must_use]
    pub fn updates(&self, base: &TableMetadata) -> Vec<TableUpdate> {
        let mut updates = Vec::new();
        if let Some(schema) = self.schema.clone() {
            updates.push(TableUpdate::AddSchema { schema });
            updates.push(TableUpdate::SetCurrentSchema { schema_id: LAST_ADDED });
        }
        updates.push(TableUpdate::SetProperties { updates: self.properties.clone() });
        if base.properties().contains_key(DETACHED) {
            updates.push(TableUpdate::RemoveProperties { removals: vec![DETACHED.to_owned()] });
        }
        updates
    }
}

impl Committer {
    /// Adopts the table as it is in `base`.
    ///
    /// # Errors
    /// See [`CommitError`]; [`CommitError::Moved`] if the table was changed meanwhile, or if it is not known whether it
    /// was adopted.
    pub async fn adopt(&mut self, base: &Loaded, adoption: &Adoption, now: TimestampMs) -> Result<Loaded, CommitError> {
        let settings = self.settings(&base.metadata);
        let refs = base.refs()?;
        let made = self.maker(&settings, refs).adopt(&base.metadata, adoption, now).await?;
        let done = self.put(base, made, &mut false).await?;
        done.ok_or_else(|| CommitError::Moved { table: self.table.clone() })
    }
}

impl Maker<'_> {
    async fn adopt(&self, base: &TableMetadata, adoption: &Adoption, now: TimestampMs) -> Result<Made, CommitError> {
        let snapshot_id = self.fresh_snapshot_id(base);
        let mut written = Vec::new();
        let manifests = self.base_manifests(base).await?;
        let mut summary = HashMap::new();
        let previous = base.current_snapshot().map(|s| &s.summary().additional_properties);
        totals(&mut summary, previous, FileSums::default(), FileSums::default());
        summary.insert(offsets::OFFSETS.to_owned(), offsets::encode(&adoption.offsets));
        summary.insert(EPOCH.to_owned(), self.owner.epoch.to_string());
        let summary = Summary { operation: Operation::Append, additional_properties: summary };
        let snapshot = self.snapshot(base, snapshot_id, manifests, summary, now, &mut written).await?;
        let mut updates = vec![TableUpdate::AddSnapshot { snapshot }, self.set_main(snapshot_id)];
        updates.extend(adoption.updates(base));
        let mut requirements = on_main(base);
        requirements.extend([
            TableRequirement::CurrentSchemaIdMatch { current_schema_id: base.current_schema_id() },
            TableRequirement::LastAssignedFieldIdMatch { last_assigned_field_id: base.last_column_id() },
            TableRequirement::DefaultSpecIdMatch { default_spec_id: base.default_partition_spec_id() },
        ]);
        Ok(Made { requirements, updates, written })
    }
}
