//! The sink of one topic: plan → read → translate → write → commit, one turn at a time.
//!
//! Owns: the turn, the caps on what a turn holds in memory ([`take`] keeps them), the status that `topic describe` and
//! metrics show; [`table`] finds the table or makes it (by [`make`]), marks and drops it, [`typed`] lets their columns
//! follow schemas, [`found`] finds columns in JSON without one, [`dead_letters`] has what is no row. Does not own: when
//! turns happen (root: `lakehouse`). *Message*: one task on the side runtime drives it.
//!
//! **Exactly once**: a turn begins with the table's own offsets; its commit is refused unless the table still has
//! them. **Crash, cancellation**: at any point; a dropped turn leaves garbage files at most. **Order**: each
//! partition's records in order; turns resume where the table ends. **Retries**: the caller calls again, when
//! [`Outcome`] says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use iceberg::TableIdent;
use iceberg::spec::DataFile;
use tidewater_storage::disposition::Disposition;
use tidewater_storage::model::{PartitionIndex, TimestampMs, TopicId, TopicName};
use uuid::Uuid;

use crate::catalog::{Catalog, CatalogError, Loaded};
use crate::commit::orphans::SweepLock;
use crate::commit::{Append, Bounds, CommitError, Committer, TableOwner, offsets};
use crate::files::TableFiles;
use crate::mode::{ConflictPolicy, KeyMode, TableMode};
use crate::names::Names;
use crate::partition::Partitioner;
use crate::partition::spec::PartitionChoice;
use crate::plan::{self, Offsets, Plan, PlannedRange, Situation};
use crate::properties::FileSettings;
use crate::read::{LogReader, PartitionBounds};
use crate::registry::{NoRegistry, SchemaSource, WriterSchema};
use crate::schema::file::FileSchema;
use crate::schema::system::{SystemColumns, SystemLayout};
use crate::sort::choice::SortChoice;
use crate::translate::framing::WrittenWith;
use crate::translate::{Decoding, Translation};
use crate::write::DataFileWriter;

mod adopt;
mod dead_letters;
mod detach;
mod error;
mod found;
mod make;
mod restored;
mod rewind;
mod scatter;
pub mod status;
mod table;
mod take;
#[cfg(test)]
mod tests;
mod typed;

pub use adopt::{AdoptAsk, AdoptError, AdoptFrom, Adopted};
use dead_letters::report::DeadTurn;
use dead_letters::{DeadLetters, PENDING};
pub use dead_letters::{dead_letter_table, is_dead_letter_name, is_under_own_name, topic_of_default_table};
pub use detach::Detached;
pub use error::SinkError;
pub use restored::RestoredEnds;
pub use rewind::{RewindAsk, RewindError, RewindTo, Rewound, RewoundPartition};
pub use status::{HeldBy, Outcome, PartitionStatus, PauseReason, SinkStatus, Unreadable};

/// The namespace of the tables of topics that name no other.
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
    /// `iceberg.mode`.
    pub mode: TableMode,
    /// `iceberg.key.mode`.
    pub key: KeyMode,
    /// `iceberg.evolution.conflict`.
    pub conflict: ConflictPolicy,
    /// `iceberg.target.lag.ms`.
    pub target_lag_ms: i64,
    /// `iceberg.delete`: the table is marked to go when the topic is deleted.
    pub delete: bool,
    /// `iceberg.layout`.
    pub layout: SystemLayout,
    /// `iceberg.partition.spec`: that of a table that is made, once it has the columns. One that is there keeps its
    /// own.
    pub partition: PartitionChoice,
    /// `iceberg.sort.order`: the table gets it when it changes, and its columns with the schemas that bring them.
    pub sort: SortChoice,
    /// `iceberg.table.properties`: given to the tables that are made, and to the topic's own whenever it has others.
    pub properties: BTreeMap<String, String>,
    /// Bytes a turn takes, unpacked: what it holds in memory, about twice. Only a turn's first record may exceed it.
    pub turn_bytes: usize,
    /// Partitions of the table that a turn opens, each a data file.
    pub turn_files: usize,
    /// The cluster was restored from its bucket.
    pub restored: Option<RestoredEnds>,
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
            mode: TableMode::KeyValue,
            key: KeyMode::default(),
            conflict: ConflictPolicy::default(),
            target_lag_ms: 30_000,
            delete: false,
            layout: SystemLayout::default(),
            partition: PartitionChoice::default(),
            sort: SortChoice::default(),
            properties: BTreeMap::new(),
            turn_bytes: 128 << 20,
            turn_files: 256,
            restored: None,
            bounds: Bounds::default(),
        }
    }

    /// Whether keys or values are decoded, and records of which one cannot be are dead letters.
    #[must_use]
    pub fn has_dead_letters(&self) -> bool {
        self.mode.is_typed() || self.key != KeyMode::Binary
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

/// The sink of one topic.
pub struct TableSink {
    config: SinkConfig,
    catalog: Arc<dyn Catalog>,
    log: Arc<dyn LogReader>,
    names: Names,
    committer: Committer,
    source: Arc<dyn SchemaSource>,
    /// What the registry gave.
    schemas: typed::KnownSchemas,
    /// The schema of all values in this turn, where they name none.
    of_all: Option<(WrittenWith, Arc<WriterSchema>)>,
    /// Decoders of the last turn.
    decoding: Option<Decoding>,
    dead: DeadLetters,
    /// An append that may be in the table, and its dead letters: settled before anything else.
    unsettled: Option<(Append, DeadTurn)>,
    last_commit: Option<TimestampMs>,
    /// How long before the target lag is over a turn begins, so that its rows are in the table by then.
    head_start_ms: i64,
    behind: bool,
    /// The first partition that the last turn had no room for; the next turn begins with it.
    turned_away: Option<PartitionIndex>,
    /// Partitions that stopped in the last turn because they would have opened too many files. They come last in the
    /// next one, when others have opened most of them.
    short_of_files: BTreeSet<PartitionIndex>,
    scatter: scatter::Scatter,
    sweep_at: Option<TimestampMs>,
    sweep_lock: SweepLock,
    /// When the table was last loaded rather than known from a commit.
    looked_at: TimestampMs,
    /// Properties of the setting that the catalog has in its own words.
    reworded: table::Reworded,
    status: SinkStatus,
}

impl TableSink {
    /// A sink that has done nothing yet. It has no registry: [`TableSink::with_schemas`] gives it one.
    #[must_use]
    pub fn new(config: SinkConfig, catalog: Arc<dyn Catalog>, log: Arc<dyn LogReader>, names: Names) -> Self {
        let owner = TableOwner { cluster: config.cluster, topic: config.topic_id, epoch: config.epoch };
        let committer = |table| Committer::new(catalog.clone(), table, owner.clone(), names.clone(), config.bounds);
        let dead = DeadLetters::new(&config, committer(dead_letter_table(&config.table)));
        let committer = committer(config.table.clone());
        let status = SinkStatus::new(config.table.clone());
        Self {
            config,
            catalog,
            log,
            names,
            committer,
            source: Arc::new(NoRegistry),
            schemas: typed::KnownSchemas::new(),
            of_all: None,
            decoding: None,
            dead,
            unsettled: None,
            last_commit: None,
            head_start_ms: 0,
            behind: false,
            turned_away: None,
            short_of_files: BTreeSet::new(),
            scatter: scatter::Scatter::default(),
            sweep_at: None,
            sweep_lock: SweepLock::default(),
            looked_at: TimestampMs(0),
            reworded: table::Reworded::default(),
            status,
        }
    }

    /// Where the schemas of values come from.
    #[must_use]
    pub fn with_schemas(mut self, source: Arc<dyn SchemaSource>) -> Self {
        self.source = source;
        self
    }

    /// The lock that this table's compaction holds.
    #[must_use]
    pub fn with_sweep_lock(mut self, lock: SweepLock) -> Self {
        self.sweep_lock = lock;
        self
    }

    #[must_use]
    pub fn status(&self) -> &SinkStatus {
        &self.status
    }

    /// Takes over a changed `iceberg.target.lag.ms`.
    pub fn set_target_lag_ms(&mut self, lag: i64) {
        self.config.target_lag_ms = lag;
    }

    /// How long a turn takes, from the caller's decision to begin it to its commit. The next ones begin that much, and
    /// a quarter of it, before the target lag is over, at most half of it: so that it holds for records that come just
    /// after a turn has begun.
    pub fn expect_turn_ms(&mut self, ms: i64) {
        self.head_start_ms = ms.saturating_add(ms / 4).clamp(0, self.config.target_lag_ms / 2);
    }

    /// Takes over a changed `iceberg.delete`.
    pub fn set_delete(&mut self, delete: bool) {
        self.config.delete = delete;
    }

    /// Takes over a changed `iceberg.evolution.conflict`: schemas are judged again. Dead letters stay what they are.
    pub fn set_conflict(&mut self, conflict: ConflictPolicy) {
        if self.config.conflict != conflict {
            self.config.conflict = conflict;
            self.decoding = None;
        }
    }

    /// The next turn takes what there is, and does not wait for the target lag.
    pub fn hurry(&mut self) {
        self.behind = true;
    }

    /// One turn. A failure is in the outcome and in the status.
    pub async fn run_once(&mut self, now: TimestampMs) -> Outcome {
        // Large: every step of a turn is in it.
        let outcome = match Box::pin(self.turn(now)).await {
            Ok(outcome) => outcome,
            Err(error) => self.settle_error(error),
        };
        self.status.note(&outcome, now);
        self.report_dead(now);
        let next_sweep = now.plus_ms(self.config.bounds.sweep_every_ms);
        // Not later than a full period from now: the clock may have been set back.
        let sweep_at = self.sweep_at.unwrap_or(now.plus_ms(FIRST_SWEEP_MS)).min(next_sweep);
        self.sweep_at = Some(sweep_at);
        if now >= sweep_at && matches!(outcome, Outcome::Committed { more: false, .. }) {
            let lock = Arc::clone(&self.sweep_lock);
            // While the table is compacted, the next commit tries again.
            if let Ok(_held) = lock.try_lock() {
                self.sweep_at = Some(next_sweep);
                self.sweep(now).await;
            }
        }
        outcome
    }

    /// Deletes what cut-off turns left behind. A failure leaves garbage until the next time.
    async fn sweep(&mut self, now: TimestampMs) {
        for committer in [&self.committer, &self.dead.committer] {
            let table = committer.table();
            match committer.sweep(now).await {
                Ok(swept) if swept.files == 0 => {}
                Ok(swept) => {
                    self.status.orphans += swept.files;
                    tracing::info!(%table, files = swept.files, bytes = swept.bytes, "files of cut-off commits deleted");
                }
                Err(error) => tracing::warn!(%table, %error, "tried again in a day"),
            }
        }
    }

    fn settle_error(&mut self, error: SinkError) -> Outcome {
        match error {
            SinkError::NoSchema { subject } => {
                Outcome::Paused(PauseReason::NoSchema { table: self.config.table.clone(), subject })
            }
            SinkError::Conflict { partition, offset, detail } => {
                // The owner may change the column.
                self.committer.forget();
                let table = self.config.table.clone();
                Outcome::Paused(PauseReason::Conflict { table, partition, offset, detail })
            }
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
        if let Some((append, dead)) = self.unsettled.take() {
            return self.commit(append, 0, dead, now).await;
        }
        let mut log = self.log.partitions(self.config.topic_id).await?;
        let base = self.base(now).await?;
        if let Some(outcome) = self.return_to_restored(&base, now).await? {
            return Ok(outcome);
        }
        self.settle_dead(&base, now).await?;
        if self.config.has_dead_letters() {
            self.look_for_dead().await?;
        }
        let base = self.mark(base).await?;
        let base = self.give_properties(base).await?;
        let base = self.fit_to_layout(base).await?;
        let base = self.fit_to_mode(base).await?;
        let base = self.fit_to_order(base).await?;
        let table = offsets::of(&self.config.table, &base.metadata)?;
        let mut asked = BTreeSet::new();
        let plan = loop {
            let plan = plan::plan(&Situation {
                now,
                last_commit,
                target_lag_ms: self.config.target_lag_ms.saturating_sub(self.head_start_ms),
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
            Plan::Run { .. } if self.scatter.rests() => {
                let (table, detail) = (self.config.table.clone(), self.scatter.to_string());
                Ok(Outcome::Paused(PauseReason::Unfit { table, detail }))
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
        let translation = self.translation(ranges, &from, base).await?;
        let mut taken = self.take(ranges, &from, translation).await?;
        let (rows, dead_rows) = (taken.translation.rows(), taken.translation.dead_rows());
        self.scatter.note(&taken, self.config.turn_files);
        self.decoding = taken.translation.take_decoding();
        if taken.to == from {
            return Ok(Outcome::Idle);
        }
        // The turn may have changed the table's columns.
        let base = self.committer.current().unwrap_or(base).clone();
        let settings = self.committer.settings(&base.metadata).files;
        let spec_id = taken.translation.partitioner().spec_id();
        let writer = self.writer(&base, spec_id, settings);
        let key_value = FileSchema::key_value(SystemColumns::of(&base.metadata)).map_err(CatalogError::from)?;
        let schema = self.decoding.as_ref().map_or(&key_value, Decoding::file_schema);
        let files = match taken.translation.take_mixed() {
            Some(mixed) => writer.write_mixed(schema, mixed).await?,
            None => writer.write(schema, taken.translation.take_rows()).await?,
        };
        let written: u64 = files.iter().map(DataFile::record_count).sum();
        assert_eq!(written, rows, "every row that was taken is in a data file");
        let (mut pending, mut beside) = (None, Vec::new());
        let dead = DeadTurn { rows: dead_rows, first: taken.translation.first_dead().cloned() };
        if dead_rows > 0 {
            let prepared = self.prepare_dead(&mut taken.translation).await?;
            (pending, beside) = (Some(prepared.property), prepared.files);
        }
        let append = Append {
            files,
            spec_id,
            table: base.metadata.uuid(),
            from,
            to: taken.to,
            skipped: taken.translation.take_skipped(),
            properties: self.config.restored.iter().map(RestoredEnds::mark).chain([(PENDING, pending)]).collect(),
            summary: Vec::new(),
            beside,
            uncertain: false,
        };
        self.behind = taken.behind;
        let outcome = self.commit(append, rows, dead, now).await?;
        if let Some(base) = self.committer.current() {
            let table = offsets::of(&self.config.table, &base.metadata)?;
            self.status.see(log, &table, &base.metadata);
        }
        Ok(outcome)
    }

    /// What the turn's records are translated with.
    async fn translation(
        &mut self,
        ranges: &[PlannedRange],
        from: &Offsets,
        base: &Loaded,
    ) -> Result<Translation, SinkError> {
        let no_spec = || self.no_spec(&self.config.table);
        let by = Partitioner::of_table(&base.metadata).ok_or_else(no_spec)?;
        if !self.config.has_dead_letters() {
            return Ok(Translation::new(by));
        }
        let dead = self.known_dead(ranges, from).await?;
        let namings = self.namings(ranges, base).await?;
        let mut decoding = self.decoding(base)?;
        let ends = ranges.iter().map(|range| (range.partition, range.offsets.end)).collect();
        decoding.begin_turn(ends, namings, dead);
        Ok(Translation::typed(by, decoding))
    }

    fn no_spec(&self, table: &TableIdent) -> CommitError {
        let detail = "its partition spec is over columns by which it cannot be written, and it has none by hour; give it a spec \
                      that iceberg.partition.spec could have"
            .to_owned();
        CommitError::Unfit { table: table.clone(), detail }
    }

    fn writer(&self, base: &Loaded, spec_id: i32, settings: FileSettings) -> DataFileWriter {
        let (files, location) = (self.catalog.files(), base.metadata.location());
        DataFileWriter::new(files, self.names.clone(), location, spec_id, settings)
    }

    async fn commit(
        &mut self,
        mut append: Append,
        rows: u64,
        dead: DeadTurn,
        now: TimestampMs,
    ) -> Result<Outcome, SinkError> {
        match self.committer.append(&mut append, now).await {
            Ok(base) => {
                self.last_commit = Some(now);
                self.status.skip(&append.skipped);
                self.note_dead(dead);
                let files = append.files.len();
                // What fails here is reported by the next turn, which begins with it.
                let settled = self.settle_dead(&base, now).await;
                if let Err(error) = &settled {
                    tracing::debug!(table = %self.dead.table, %error, "dead letters are not there yet");
                }
                Ok(Outcome::Committed { rows, files, more: self.behind || settled.is_err() })
            }
            Err(error) if matches!(error.disposition(), Disposition::Retry | Disposition::Unknown) => {
                self.unsettled = Some((append, dead));
                Err(error.into())
            }
            // An earlier attempt may have reached the table before another writer continued from there.
            Err(error) if append.uncertain => Err(error.into()),
            Err(error) => {
                let mut files: Vec<_> = append.files.iter().map(|file| file.file_path().to_owned()).collect();
                files.append(&mut append.beside);
                self.catalog.files().take_back(&files).await;
                Err(error.into())
            }
        }
    }

    /// The files of the warehouse.
    #[must_use]
    pub fn files(&self) -> TableFiles {
        self.catalog.files()
    }
}
