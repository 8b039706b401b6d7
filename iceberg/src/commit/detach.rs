//! Giving a table up: a commit that takes the writer's ids out of it, behind which nothing of that writer follows.
//!
//! The commit has a snapshot of its own, without any file. Each other commit of ours requires that main is at the
//! snapshot it was planned on, so one that is under way fails, looks at the table again and finds that it is no longer
//! its own. Rows, history, columns and offsets stay.
//!
//! **Crash, lost answer**: a table without an owner is one that was given up; asking again finds that.

use iceberg::TableUpdate;
use iceberg::spec::{Operation, Summary, TableMetadata};
use tidewater_storage::model::TimestampMs;

use super::identity::{CLUSTER, DELETE, DETACHED, EPOCH, TOPIC};
use super::snapshot::{FileSums, Made, Maker, on_main, totals};
use super::{CommitError, Committer, offsets};
use crate::catalog::CatalogError;

impl Committer {
    /// Gives the table up, and takes `properties` out of it in the same commit; fine if it has no owner already.
    ///
    /// # Errors
    /// See [`CommitError`]; [`CommitError::Foreign`] if it has another owner.
    pub async fn detach(&mut self, properties: &[&str], now: TimestampMs) -> Result<(), CommitError> {
        let (mut attempts, mut waited) = (0, 0);
        loop {
            let base = match self.refresh().await {
                Err(CommitError::Foreign(foreign)) if foreign.is_free() => return Ok(()),
                refreshed => refreshed?,
            };
            let settings = self.settings(&base.metadata);
            let refs = base.refs()?;
            let made = self.maker(&settings, refs).detach(&base.metadata, properties, now).await?;
            if self.put(&base, made, &mut false).await?.is_some() {
                self.current = None;
                return Ok(());
            }
            attempts += 1;
            if attempts >= settings.retry.attempts || waited >= settings.retry.total_ms {
                let detail = format!("{attempts} attempts lost against other writers");
                return Err(CatalogError::Conflict { table: self.table.clone(), detail }.into());
            }
            waited += self.wait(&settings.retry, attempts).await;
        }
    }
}

impl Maker<'_> {
    async fn detach(&self, base: &TableMetadata, properties: &[&str], now: TimestampMs) -> Result<Made, CommitError> {
        let snapshot_id = self.fresh_snapshot_id(base);
        let mut written = Vec::new();
        let manifests = self.base_manifests(base).await?;
        let summary = Summary { operation: Operation::Append, additional_properties: self.carried(base) };
        let snapshot = self.snapshot(base, snapshot_id, manifests, summary, now, &mut written).await?;
        let given_up = [(DETACHED.to_owned(), self.owner.topic.to_string())];
        let held = base.properties();
        let removals = [CLUSTER, TOPIC, DELETE].iter().chain(properties).filter(|key| held.contains_key(**key));
        let updates = vec![
            TableUpdate::AddSnapshot { snapshot },
            self.set_main(snapshot_id),
            TableUpdate::SetProperties { updates: given_up.into() },
            TableUpdate::RemoveProperties { removals: removals.map(|key| (*key).to_owned()).collect() },
        ];
        Ok(Made { requirements: on_main(base), updates, written })
    }

    /// The summary of a snapshot that changes no file: how far the table is, and its totals.
    fn carried(&self, base: &TableMetadata) -> std::collections::HashMap<String, String> {
        let keys = [offsets::OFFSETS, offsets::DEAD_LETTERS_REACHED];
        let found = keys.iter().filter_map(|key| Some(((*key).to_owned(), offsets::nearest(base, key)?.clone())));
        let mut summary: std::collections::HashMap<_, _> = found.collect();
        let previous = base.current_snapshot().map(|s| &s.summary().additional_properties);
        totals(&mut summary, previous, FileSums::default(), FileSums::default());
        summary.insert(EPOCH.to_owned(), self.owner.epoch.to_string());
        summary
    }
}
