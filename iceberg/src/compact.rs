//! Compaction: small data files of a partition, in tables by hour of one that is over, become few large ones with the
//! same rows.
//!
//! A commit every 30 seconds makes at least one file each; a query opens every one of them. A run does, for one table:
//! 1. [`crate::commit::survey`] reads the manifests of the current snapshot;
//! 2. [`mod@plan`] (pure) picks groups of small files;
//! 3. `rewrite` reads the files of a group and writes their rows in the same order, or in the table's sort order
//!    (`order`), in the columns that the table has now (`project`), with the settings of any data file;
//! 4. [`Committer::replace`] puts the new files in the place of the old ones, in one snapshot.
//!
//! The old files stay until the snapshots that name them expire ([`crate::commit::garbage`]).
//!
//! Owns: runs over one table, and what is done about a group that cannot be written again. Does not own: when runs
//! happen (root: `lakehouse`). *Message*; one task on the side runtime, beside that of the table's sink.
//!
//! **Sink**: its commits and these do not wait for each other. An append between the survey and the commit does not
//! matter, since it replaces no file; where both commit at once, the loser repeats its commit, not its files. **Crash,
//! cancellation**: at any point; files that no snapshot names are orphans ([`crate::commit::orphans`]), which are not
//! swept during a run. **Only ours**: files with our names, of the spec with which the table is written, of tables of
//! format 2. A format 3 table gives each row an id, which iceberg 0.10 does not show of existing files.

use std::collections::BTreeSet;
use std::sync::Arc;

use iceberg::TableIdent;
use iceberg::spec::{DataFile, FormatVersion};
use tidewater_storage::disposition::Disposition;
use tidewater_storage::model::TimestampMs;

use crate::catalog::{Catalog, Loaded};
use crate::commit::orphans::SweepLock;
use crate::commit::survey::{self, Survey};
use crate::commit::{Bounds, CommitError, Committer, Replacement, TableOwner};
use crate::names::Names;
use crate::partition::Partitioner;
use crate::properties::TableSettings;
use crate::sort::TableOrder;
use crate::write::DataFileWriter;

mod order;
mod part;
pub mod plan;
mod project;
mod ranges;
mod rewrite;
#[cfg(test)]
mod tests;

pub(crate) use part::FilePart;
use plan::{Group, Limits, Plan};
pub use rewrite::RewriteError;

/// The largest file that compaction makes, also where the table's target size is larger: a run holds four times as many
/// bytes.
pub const FILE_BYTES_MAX: u64 = 128 << 20;

const NO_SPEC: &str = "its partition spec is not one with which it can be written";

/// What a table's files are like. *Message*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableFilesSeen {
    /// Data files, engines' too, and their bytes.
    pub files: u64,
    pub bytes: u64,
    /// Those of ours that are smaller than they should be.
    pub small: u64,
    /// Small files that are not written again yet: too new, or of an hour that is not over.
    pub waiting: u64,
    /// Files that a run would write again.
    pub due: u64,
    /// Bytes of a file that is as large as it should be.
    pub target_bytes: u64,
}

/// How far a run is. *Message*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub files: u64,
    pub files_read: u64,
    pub bytes: u64,
    pub bytes_read: u64,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The table before it.
    pub seen: TableFilesSeen,
    /// Files that were replaced, and their bytes.
    pub files_in: u64,
    pub bytes_in: u64,
    /// Files that replaced them.
    pub files_out: u64,
    pub bytes_out: u64,
    pub rows: u64,
    /// There is more to do: run again.
    pub more: bool,
    /// Why nothing of the table is written again.
    pub obstacle: Option<String>,
    /// Why groups were left as they are.
    pub left: Vec<String>,
}

/// Why a run failed; the table is as it was unless the commit's answer was lost.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
}

impl CompactError {
    /// Whether another run may succeed: the bucket did not answer, or another writer was faster.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Commit(error) => error.disposition().passes() || error.disposition() == Disposition::Conflict,
            Self::Rewrite(error) => error.passes(),
        }
    }
}

impl From<iceberg::Error> for CompactError {
    fn from(error: iceberg::Error) -> Self {
        Self::Commit(error.into())
    }
}

/// Compaction of one table.
pub struct Compactor {
    catalog: Arc<dyn Catalog>,
    committer: Committer,
    names: Names,
    bounds: Bounds,
    sweep_lock: SweepLock,
}

impl Compactor {
    /// For `table`, which must carry `owner`'s ids.
    #[must_use]
    pub fn new(catalog: Arc<dyn Catalog>, table: TableIdent, owner: TableOwner, names: Names, bounds: Bounds) -> Self {
        let committer = Committer::new(Arc::clone(&catalog), table, owner, names.clone(), bounds);
        Self { catalog, committer, names, bounds, sweep_lock: SweepLock::default() }
    }

    /// The lock that the sweeps of this table's sink hold.
    #[must_use]
    pub fn with_sweep_lock(mut self, lock: SweepLock) -> Self {
        self.sweep_lock = lock;
        self
    }

    /// What the table's files are like, without a change.
    ///
    /// # Errors
    /// The table cannot be read, or is not ours.
    pub async fn look(&mut self, now: TimestampMs) -> Result<TableFilesSeen, CompactError> {
        let base = self.committer.refresh().await?;
        let settings = self.committer.settings(&base.metadata);
        let (plan, survey, target) = self.plan(&base, &settings, now).await?;
        Ok(seen(&plan, &survey, target))
    }

    /// Writes small files again, no more than [`Bounds::compact_bytes`]. `report` hears how far it is.
    ///
    /// # Errors
    /// The first failure that concerns the whole table.
    pub async fn run(&mut self, now: TimestampMs, report: impl Fn(Progress)) -> Result<Run, CompactError> {
        let lock = Arc::clone(&self.sweep_lock);
        let _held = lock.lock().await;
        let base = self.committer.refresh().await?;
        let settings = self.committer.settings(&base.metadata);
        let (plan, survey, target) = self.plan(&base, &settings, now).await?;
        let mut run = Run { seen: seen(&plan, &survey, target), more: plan.more, ..Run::default() };
        run.obstacle = obstacle(&base, &settings, &survey);
        if run.obstacle.is_some() || plan.groups.is_empty() {
            run.more = false;
            return Ok(run);
        }
        let mut replacement = Replacement {
            table: base.metadata.uuid(),
            schema_id: base.metadata.current_schema_id(),
            spec_id: self.spec_id(&base)?,
            removed: BTreeSet::new(),
            added: Vec::new(),
            uncertain: false,
        };
        self.rewrite(&base, &settings, (&plan.groups, &survey), &mut replacement, &mut run, report).await?;
        if replacement.removed.is_empty() {
            run.more = false;
            return Ok(run);
        }
        match self.committer.replace(&mut replacement, now).await {
            Ok(_) => {
                let files = replacement.added.iter().map(|(file, _)| file);
                run.files_out = replacement.added.len() as u64;
                run.bytes_out = files.clone().map(DataFile::file_size_in_bytes).sum();
                run.rows = files.map(DataFile::record_count).sum();
                Ok(run)
            }
            Err(error) => {
                self.give_up(&replacement).await;
                Err(error.into())
            }
        }
    }

    /// Expires the snapshots that the table's settings no longer keep, and deletes what only they named. Returns how
    /// many.
    ///
    /// # Errors
    /// The catalog; the table is not ours.
    pub async fn expire(&mut self, now: TimestampMs) -> Result<u64, CompactError> {
        Ok(self.committer.expire(now).await?)
    }

    async fn plan(
        &self,
        base: &Loaded,
        settings: &TableSettings,
        now: TimestampMs,
    ) -> Result<(Plan, Survey, u64), CompactError> {
        let target_bytes = (settings.files.file_bytes as u64).clamp(1, FILE_BYTES_MAX);
        let limits = Limits {
            target_bytes,
            min_files: self.bounds.compact_files,
            quiet_ms: self.bounds.compact_quiet_ms,
            run_bytes: self.bounds.compact_bytes,
            run_files: self.bounds.manifest_files,
        };
        let Some(by) = Partitioner::of_table(&base.metadata) else {
            return Ok((Plan::default(), Survey::blocked(NO_SPEC), target_bytes));
        };
        let mut survey = survey::survey(&self.catalog.files(), &base.metadata, &by).await?;
        let plan = plan::plan(&limits, std::mem::take(&mut survey.files), &survey.deletes, now);
        Ok((plan, survey, target_bytes))
    }

    /// The spec with which the table is written.
    fn spec_id(&self, base: &Loaded) -> Result<i32, CommitError> {
        let unfit = || CommitError::Unfit { table: self.committer.table().clone(), detail: NO_SPEC.to_owned() };
        Ok(Partitioner::of_table(&base.metadata).ok_or_else(unfit)?.spec_id())
    }

    /// Writes the groups again. One that cannot be is left as it is; if the bucket does not answer, all are given up.
    async fn rewrite(
        &self,
        base: &Loaded,
        settings: &TableSettings,
        (groups, survey): (&[Group], &Survey),
        replacement: &mut Replacement,
        run: &mut Run,
        report: impl Fn(Progress),
    ) -> Result<(), CompactError> {
        let files = self.catalog.files();
        let mut settings = settings.files.clone();
        settings.file_bytes = settings.file_bytes.min(usize::try_from(FILE_BYTES_MAX).unwrap_or(usize::MAX));
        let (names, location) = (self.names.clone(), base.metadata.location());
        let writer = DataFileWriter::new(files.clone(), names, location, replacement.spec_id, settings);
        let mut progress = Progress {
            files: groups.iter().map(|group| group.files.len() as u64).sum(),
            bytes: groups.iter().map(Group::bytes).sum(),
            ..Progress::default()
        };
        report(progress);
        let order = TableOrder::of(&base.metadata).unwrap_or_else(|why| {
            tracing::info!(table = %self.committer.table(), %why, "compacted files are not sorted");
            None
        });
        for group in groups {
            let of = (group, survey.partition(group.partition));
            let written = rewrite::rewrite(&files, &base.metadata, &writer, order.as_ref(), of, |file| {
                progress.files_read += 1;
                progress.bytes_read += file.bytes;
                report(progress);
            });
            match written.await {
                Ok(written) => {
                    run.files_in += group.files.len() as u64;
                    run.bytes_in += group.bytes();
                    replacement.removed.extend(group.files.iter().map(|file| file.name));
                    replacement.added.extend(written.into_iter().map(|file| (file, group.sequence())));
                }
                Err(error) if error.passes() => {
                    self.give_up(replacement).await;
                    return Err(error.into());
                }
                Err(error) => {
                    let table = self.committer.table();
                    tracing::warn!(%table, folder = %group.folder, %error, "small files are not written again");
                    run.left.push(error.to_string());
                }
            }
        }
        Ok(())
    }

    /// Deletes the files of a replacement that is certainly not in the table.
    async fn give_up(&self, replacement: &Replacement) {
        if replacement.uncertain {
            return;
        }
        let paths: Vec<_> = replacement.added.iter().map(|(file, _)| file.file_path().to_owned()).collect();
        self.catalog.files().take_back(&paths).await;
    }
}

fn seen(plan: &Plan, survey: &Survey, target_bytes: u64) -> TableFilesSeen {
    TableFilesSeen {
        files: survey.data_files,
        bytes: survey.data_bytes,
        small: plan.small,
        waiting: plan.waiting,
        due: plan.groups.iter().map(|group| group.files.len() as u64).sum(),
        target_bytes,
    }
}

/// Why nothing of the table may be written again.
fn obstacle(base: &Loaded, settings: &TableSettings, survey: &Survey) -> Option<String> {
    if base.metadata.format_version() != FormatVersion::V2 {
        return Some(format!("it has format {}; only format 2 is compacted", base.metadata.format_version()));
    }
    if !settings.retention.may_delete {
        return Some("gc.enabled is false, so the files that are replaced would stay for ever".to_owned());
    }
    survey.obstacle.clone()
}
