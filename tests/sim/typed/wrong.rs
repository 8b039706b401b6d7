//! Defects of a typed run's sink, made at its seams: what the check of both tables must notice.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use iceberg::spec::{Snapshot, Summary};
use tidewater_iceberg::catalog::{Loaded, TableIdent, TableUpdate};
use tidewater_iceberg::commit::offsets;
use tidewater_iceberg::read::{LogRead, LogReadError, LogReader, PartitionBounds};
use tidewater_storage::model::record::read_all;
use tidewater_storage::model::{Batch, OffsetRange, PartitionIndex, TopicId};

use super::TableKind;
use super::values::{self, Fate, RecordName};

/// The property by which a commit to the topic's table decides its dead letters (FORMAT.md).
pub(crate) const PENDING: &str = "tidewater.dead-letters";

/// The schema with two of its fields in each other's place.
pub(crate) fn swapped(text: &str) -> String {
    text.replace("\"extra\",", "\"?\",").replace("\"name\",", "\"extra\",").replace("\"?\",", "\"name\",")
}

/// Is it a commit of rows to the topic's table?
pub(crate) fn appends_rows(table: &TableIdent, updates: &[TableUpdate]) -> bool {
    !table.name().ends_with("~dlq") && updates.iter().any(|update| matches!(update, TableUpdate::AddSnapshot { .. }))
}

/// Rows come in and the table's offsets stay.
pub(crate) fn without_offsets(update: TableUpdate) -> TableUpdate {
    let is_ours = |key: &String| key == offsets::OFFSETS || key == offsets::APPEND;
    match update {
        TableUpdate::SetProperties { mut updates } => {
            updates.retain(|key, _| !is_ours(key));
            TableUpdate::SetProperties { updates }
        }
        TableUpdate::AddSnapshot { snapshot } => {
            let Summary { operation, mut additional_properties } = snapshot.summary().clone();
            additional_properties.retain(|key, _| !is_ours(key));
            let made = Snapshot::builder()
                .with_snapshot_id(snapshot.snapshot_id())
                .with_parent_snapshot_id(snapshot.parent_snapshot_id())
                .with_sequence_number(snapshot.sequence_number())
                .with_timestamp_ms(snapshot.timestamp_ms())
                .with_manifest_list(snapshot.manifest_list())
                .with_summary(Summary { operation, additional_properties });
            TableUpdate::AddSnapshot { snapshot: made.with_schema_id(snapshot.schema_id().unwrap_or(0)).build() }
        }
        update => update,
    }
}

/// The commit does not say which dead letters it decides: only the process that makes it knows.
pub(crate) fn without_pending(mut updates: Vec<TableUpdate>) -> (Option<String>, Vec<TableUpdate>) {
    let mut pending = None;
    for update in &mut updates {
        match update {
            TableUpdate::SetProperties { updates } => pending = updates.remove(PENDING).or(pending),
            TableUpdate::RemoveProperties { removals } => removals.retain(|key| key != PENDING),
            _ => {}
        }
    }
    (pending, updates)
}

/// The answer to such a commit.
pub(crate) fn with_pending(done: Loaded, pending: Option<String>) -> Loaded {
    let Some(pending) = pending else { return done };
    let builder = done.metadata.as_ref().clone().into_builder(done.location.clone());
    let changed = builder.set_properties(HashMap::from([(PENDING.to_owned(), pending)])).and_then(|it| it.build());
    Loaded::new(Arc::new(changed.expect("a property is set").metadata), done.location)
}

/// A log that does not show batches of which some record is a dead letter.
pub(crate) struct WithoutDead(pub(crate) Arc<dyn LogReader>, pub(crate) TableKind);

impl WithoutDead {
    fn is_shown(&self, batch: &Batch) -> bool {
        let records = read_all(&batch.header, &batch.bytes, 1 << 20).unwrap_or_default();
        !records.iter().any(|record| {
            let name = record.key.as_deref().and_then(RecordName::of);
            name.is_some_and(|name| matches!(values::value(self.1, name).1, Fate::Dead(..)))
        })
    }
}

#[async_trait]
impl LogReader for WithoutDead {
    async fn partitions(&self, topic: TopicId) -> Result<Vec<PartitionBounds>, LogReadError> {
        self.0.partitions(topic).await
    }

    async fn leader_bounds(&self, topic: TopicId, partition: PartitionIndex) -> Result<PartitionBounds, LogReadError> {
        self.0.leader_bounds(topic, partition).await
    }

    async fn read(
        &self,
        topic: TopicId,
        partition: PartitionIndex,
        range: OffsetRange,
        max_bytes: usize,
    ) -> Result<LogRead, LogReadError> {
        let read = self.0.read(topic, partition, range, max_bytes).await?;
        let all = read.batches.iter().flat_map(|piece| Batch::split_all(piece.clone()).unwrap_or_default());
        let batches: Vec<Bytes> = all.filter(|batch| self.is_shown(batch)).map(|batch| batch.bytes).collect();
        Ok(LogRead { batches, ..read })
    }
}
