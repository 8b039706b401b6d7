//! The sink of one topic: plan → read → translate → write → commit, one turn at a time.
//!
//! Owns: making the table, the turn, the caps on what a turn holds in memory ([`take`] keeps them), the status that
//! `topic describe` and metrics show. Does not own: when turns happen (root: `lakehouse`). *Message*: one task on the
//! side runtime drives it.
//!
//! **Exactly once**: a turn begins with the table's own offsets; its commit is refused unless the table still has
//! them. **Crash, cancellation**: at any point; a dropped turn leaves garbage files at most. **Order**: each
//! partition's records in order; turns resume where the table ends. **Retries**: the caller calls again, when
//! [`Outcome`] says so.

use std::collections::BTreeSet;
use std::sync::Arc;

use iceberg::TableIdent;
use iceberg::spec::DataFile;
use tidewater_storage::disposition::Disposition;
use tidewater_storage::model::{PartitionIndex, TimestampMs, TopicId, TopicName};
use uuid::Uuid;

use crate::catalog::{Catalog, CatalogError, Loaded, NewTable};
use crate::commit::{Append, Bounds, CommitError, Committer, TableOwner, garbage, identity, offsets};
use crate::files::TableFiles;
use crate::names::Names;
use crate::plan::{self, Offsets, Plan, PlannedRange, Situation};
use crate::read::{LogReadError, LogReader, PartitionBounds};
use crate::schema;
use crate::write::{DataFileWriter, WriteError};

pub mod status;
mod take;
#[cfg(test)]
mod tests;

pub use status::{Outcome, PartitionStatus, PauseReason, SinkStatus};

/// The namespace of topics' tables.
pub const NAMESPACE: &str = "topics";

/// The settings of one topic's sink.
#[derive(Clone, Debug)]
pub struct SinkConfig {
    pub cluster: Uuid,
    pub topic: TopicName,
    pub topic_id: TopicId,
    /// The writer's fencing epoch: higher for every later writer of this topic.
    pub epoch: u64,
    /// Where the rows go; [`SinkConfig::default_table`] unless the topic names another.
    pub table: TableIdent,
    /// `iceberg.target.lag.ms`.
    pub target_lag_ms: i64,
    /// `iceberg.delete`: the table is marked to go when the topic is deleted.
    pub delete: bool,
    /// Bytes a turn takes, unpacked: what it holds in memory, about twice. Only a turn's first record may exceed it.
    pub turn_bytes: usize,
    /// Hour partitions a turn opens, each a data file.
    pub turn_hours: usize,
    /// What may accumulate in the table where its properties ask for nothing else.
    pub bounds: Bounds,
}

impl SinkConfig {
    /// The settings of a topic's sink with the defaults of everything else.
    #[must_use]
    pub fn new(cluster: Uuid, topic: TopicName, topic_id: TopicId, epoch: u64) -> Self {
        Self {
            cluster,
            table: Self::default_table(&topic),
            topic,
            topic_id,
            epoch,
            target_lag_ms: 30_000,
            delete: false,
            turn_bytes: 128 << 20,
            turn_hours: 256,
            bounds: Bounds::default(),
        }
    }

    /// `topics.<topic>`.
    #[must_use]
    pub fn default_table(topic: &TopicName) -> TableIdent {
        TableIdent::new(iceberg::NamespaceIdent::new(NAMESPACE.to_owned()), topic.as_str().to_owned())
    }
}

/// The first look for orphans comes this long after a sink began, so that a broker that starts again and again does
/// not list its tables each time.
const FIRST_SWEEP_MS: i64 = 6 * 60 * 1000;

/// A table that nothing is added to is loaded again after this long: a user may have dropped or changed it.
const LOOK_AGAIN_MS: i64 = 5 * 60 * 1000;

/// Why a turn failed; the next one tries again.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error(transparent)]
    Read(#[from] LogReadError),
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
            Self::Read(_) => Disposition::Retry,
            Self::Write(error) => error.disposition(),
            Self::Commit(error) => error.disposition(),
        }
    }
}

impl From<CatalogError> for SinkError {
    fn from(error: CatalogError) -> Self {
        Self::Commit(error.into())
    }
}

/// The sink of one topic.
pub struct TableSink {
    config: SinkConfig,
    catalog: Arc<dyn Catalog>,
    log: Arc<dyn LogReader>,
    names: Names,
    committer: Committer,
    /// An append that may be in the table: settled before anything else.
    unsettled: Option<Append>,
    last_commit: Option<TimestampMs>,
    behind: bool,
    /// The first partition that the last turn had no room for; the next turn begins with it.
    turned_away: Option<PartitionIndex>,
    sweep_at: Option<TimestampMs>,
    /// When the table was last loaded rather than known from a commit.
    looked_at: TimestampMs,
    status: SinkStatus,
}

impl TableSink {
    /// A sink that has done nothing yet.
    #[must_use]
    pub fn new(config: SinkConfig, catalog: Arc<dyn Catalog>, log: Arc<dyn LogReader>, names: Names) -> Self {
        let owner = TableOwner { cluster: config.cluster, topic: config.topic_id, epoch: config.epoch };
        let committer = Committer::new(catalog.clone(), config.table.clone(), owner, names.clone(), config.bounds);
        let status = SinkStatus::new(config.table.clone());
        Self {
            config,
            catalog,
            log,
            names,
            committer,
            unsettled: None,
            last_commit: None,
            behind: false,
            turned_away: None,
            sweep_at: None,
            looked_at: TimestampMs(0),
            status,
        }
    }

    #[must_use]
    pub fn status(&self) -> &SinkStatus {
        &self.status
    }

    /// Takes over a changed `iceberg.target.lag.ms`.
    pub fn set_target_lag_ms(&mut self, lag: i64) {
        self.config.target_lag_ms = lag;
    }

    /// Takes over a changed `iceberg.delete`.
    pub fn set_delete(&mut self, delete: bool) {
        self.config.delete = delete;
    }

    /// One turn. A failure is in the outcome and in the status.
    pub async fn run_once(&mut self, now: TimestampMs) -> Outcome {
        let outcome = match self.turn(now).await {
            Ok(outcome) => outcome,
            Err(error) => self.settle_error(error),
        };
        self.status.note(&outcome, now);
        let next_sweep = now.plus_ms(self.config.bounds.sweep_every_ms);
        // Not later than a full period from now: the clock may have been set back.
        let sweep_at = self.sweep_at.unwrap_or(now.plus_ms(FIRST_SWEEP_MS)).min(next_sweep);
        self.sweep_at = Some(sweep_at);
        if now >= sweep_at && matches!(outcome, Outcome::Committed { more: false, .. }) {
            self.sweep_at = Some(next_sweep);
            self.sweep(now).await;
        }
        outcome
    }

    /// Deletes what cut-off turns left behind. A failure leaves garbage until the next time.
    async fn sweep(&mut self, now: TimestampMs) {
        match self.committer.sweep(now).await {
            Ok(swept) if swept.files == 0 => {}
            Ok(swept) => {
                self.status.orphans += swept.files;
                let table = &self.config.table;
                tracing::info!(%table, files = swept.files, bytes = swept.bytes, "files of cut-off commits deleted");
            }
            Err(error) => tracing::warn!(table = %self.config.table, %error, "tried again in a day"),
        }
    }

    fn settle_error(&mut self, error: SinkError) -> Outcome {
        match error {
            SinkError::Commit(CommitError::Foreign(foreign)) => Outcome::Paused(PauseReason::Foreign(foreign)),
            SinkError::Commit(CommitError::Fenced { table, found, ours }) => {
                Outcome::Paused(PauseReason::Fenced { table, found, ours })
            }
            SinkError::Commit(CommitError::Unfit { table, detail }) => {
                self.committer.forget();
                Outcome::Paused(PauseReason::Unfit { table, detail })
            }
            SinkError::Commit(CommitError::Moved { .. }) => Outcome::Again,
            // Dropped or renamed by a user: the next turn makes a new table and fills it from the log.
            SinkError::Commit(error) if error.is_table_gone() => {
                let table = &self.config.table;
                tracing::info!(%table, %error, "the table is gone; a new one is made and filled from the log");
                self.committer.forget();
                Outcome::Again
            }
            error => {
                self.committer.forget();
                let table = self.config.table.clone();
                match error.disposition() {
                    Disposition::Refused | Disposition::Corrupt => {
                        Outcome::Paused(PauseReason::Refused { table, detail: error.to_string() })
                    }
                    _ => Outcome::Failed(error),
                }
            }
        }
    }

    async fn turn(&mut self, now: TimestampMs) -> Result<Outcome, SinkError> {
        let first = self.last_commit.is_none();
        // A clock that was set back must not make the table wait until that time comes again.
        let last_commit = self.last_commit.map_or(now, |last| last.min(now));
        self.last_commit = Some(last_commit);
        if let Some(append) = self.unsettled.take() {
            return self.commit(append, 0, now).await;
        }
        let mut log = self.log.partitions(self.config.topic_id).await?;
        let base = self.base(now).await?;
        let base = self.mark(base).await?;
        let table = offsets::of(&self.config.table, &base.metadata)?;
        let mut asked = BTreeSet::new();
        let plan = loop {
            let plan = plan::plan(&Situation {
                now,
                last_commit,
                target_lag_ms: self.config.target_lag_ms,
                behind: self.behind || first,
                log: &log,
                table: &table,
            });
            // The committer before this one may have read a replica that is ahead of this broker's.
            let Plan::Ahead { partition, .. } = plan else { break plan };
            if !asked.insert(partition) {
                break plan;
            }
            let newest = self.log.leader_bounds(self.config.topic_id, partition).await?;
            log.iter_mut().filter(|held| held.index == partition).for_each(|held| *held = newest);
        };
        self.status.see(&log, &table, &base.metadata);
        match plan {
            Plan::Idle => {
                self.status.unreadable.clear();
                Ok(Outcome::Idle)
            }
            Plan::Wait { until } => Ok(Outcome::Wait { until }),
            Plan::Ahead { partition, table, log } => {
                self.committer.forget();
                Ok(Outcome::Paused(PauseReason::Ahead { partition, table, log }))
            }
            Plan::Run { ranges } => self.take_and_commit(&ranges, &log, table, &base, now).await,
        }
    }

    async fn take_and_commit(
        &mut self,
        ranges: &[PlannedRange],
        log: &[PartitionBounds],
        from: Offsets,
        base: &Loaded,
        now: TimestampMs,
    ) -> Result<Outcome, SinkError> {
        let mut taken = self.take(ranges, &from).await?;
        let rows = taken.translation.rows();
        if taken.to == from {
            return Ok(Outcome::Idle);
        }
        let files = self.writer(base)?.write(taken.translation.take_hours()).await?;
        let written: u64 = files.iter().map(DataFile::record_count).sum();
        assert_eq!(written, rows, "every row that was taken is in a data file");
        let skipped = taken.translation.take_skipped();
        let append = Append { files, table: base.metadata.uuid(), from, to: taken.to, skipped, uncertain: false };
        self.behind = taken.behind;
        let outcome = self.commit(append, rows, now).await?;
        if let Some(base) = self.committer.current() {
            let table = offsets::of(&self.config.table, &base.metadata)?;
            self.status.see(log, &table, &base.metadata);
        }
        Ok(outcome)
    }

    fn writer(&mut self, base: &Loaded) -> Result<DataFileWriter, SinkError> {
        let spec = schema::find_hour_spec(&base.metadata).ok_or_else(|| CommitError::Unfit {
            table: self.config.table.clone(),
            detail: "its partition spec by hour was removed; add hour(tidewater.timestamp) again".to_owned(),
        })?;
        let (files, location) = (self.catalog.files(), base.metadata.location());
        let settings = self.committer.settings(&base.metadata).files;
        Ok(DataFileWriter::new(files, self.names.clone(), location, spec.spec_id(), settings))
    }

    async fn commit(&mut self, mut append: Append, rows: u64, now: TimestampMs) -> Result<Outcome, SinkError> {
        match self.committer.append(&mut append, now).await {
            Ok(_) => {
                self.last_commit = Some(now);
                self.status.skip(&append.skipped);
                let files = append.files.len();
                Ok(Outcome::Committed { rows, files, more: self.behind })
            }
            Err(error) if matches!(error.disposition(), Disposition::Retry | Disposition::Unknown) => {
                self.unsettled = Some(append);
                Err(error.into())
            }
            // An earlier attempt may have reached the table before another writer continued from there.
            Err(error) if append.uncertain => Err(error.into()),
            Err(error) => {
                let files: Vec<_> = append.files.iter().map(|file| file.file_path().to_owned()).collect();
                self.catalog.files().take_back(&files).await;
                Err(error.into())
            }
        }
    }

    /// The table as last seen, or loaded; made if it is not there.
    async fn base(&mut self, now: TimestampMs) -> Result<Loaded, SinkError> {
        let fresh = (0..LOOK_AGAIN_MS).contains(&now.since_ms(self.looked_at));
        if let Some(base) = self.committer.current().filter(|_| fresh) {
            return Ok(base.clone());
        }
        self.looked_at = now;
        let known = self.committer.current().is_some();
        match self.committer.refresh().await {
            Ok(base) => {
                if !known {
                    garbage::recover(&self.catalog.files(), &base.metadata).await;
                }
                Ok(base)
            }
            Err(CommitError::Catalog(CatalogError::NoSuchTable(_))) => {
                self.make_table().await?;
                Ok(self.committer.refresh().await?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sets the table's mark by which it is dropped with its topic, if it differs from the setting.
    async fn mark(&mut self, base: Loaded) -> Result<Loaded, SinkError> {
        if identity::goes_with_topic(&base.metadata) == self.config.delete {
            return Ok(base);
        }
        let value = if self.config.delete { "true" } else { "false" };
        Ok(self.committer.set_property(&base, identity::DELETE, value).await?)
    }

    async fn make_table(&self) -> Result<(), SinkError> {
        self.catalog.ensure_namespace(&self.config.table.namespace).await?;
        let owner = TableOwner { cluster: self.config.cluster, topic: self.config.topic_id, epoch: self.config.epoch };
        let mut properties = owner.properties();
        properties.extend(
            [
                (identity::TOPIC_NAME, self.config.topic.as_str()),
                (identity::DELETE, if self.config.delete { "true" } else { "false" }),
                ("write.metadata.delete-after-commit.enabled", "true"),
                ("write.metadata.previous-versions-max", &self.config.bounds.metadata_kept.to_string()),
                ("write.parquet.compression-codec", "zstd"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        let new = NewTable {
            schema: schema::table_schema().map_err(CatalogError::from)?,
            spec: Some(schema::hour_spec().map_err(CatalogError::from)?),
            order: None,
            location: None,
            properties,
            format: iceberg::spec::FormatVersion::V2,
        };
        match self.catalog.create(&self.config.table, new).await {
            Ok(_) | Err(CatalogError::TableExists(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Drops the topic's table with its files (`iceberg.delete=true`). Another owner's table is left alone, also one
    /// that took the name after this one was loaded.
    ///
    /// # Errors
    /// The catalog; [`CommitError::Foreign`].
    pub async fn drop_table(&mut self) -> Result<(), SinkError> {
        let dropped = match self.committer.refresh().await {
            Ok(base) => self.catalog.drop_one(&self.config.table, Some(base.metadata.uuid()), true).await,
            Err(CommitError::Catalog(error)) => Err(error),
            Err(error) => return Err(error.into()),
        };
        match dropped {
            Ok(()) | Err(CatalogError::NoSuchTable(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the mark by which the table is dropped with its topic: no sink keeps it up to date from here on.
    ///
    /// # Errors
    /// The catalog; the table is another's.
    pub async fn unmark(&mut self) -> Result<(), SinkError> {
        self.config.delete = false;
        match self.committer.refresh().await {
            Ok(base) => self.mark(base).await.map(drop),
            Err(error) if error.is_table_gone() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The files of the warehouse.
    #[must_use]
    pub fn files(&self) -> TableFiles {
        self.catalog.files()
    }
}
