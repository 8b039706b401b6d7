//! Taking a topic's tables back to offsets that they had, after which the sink fills them again from the log.
//!
//! **One decision.** As with every other commit, the topic's table decides: the commit that takes it back says in
//! [`PENDING`] that the table of dead letters goes back to the same offsets. That is done after it, and no turn begins
//! before. So at any point each record below the table's offsets is in one of the two tables, and one that is read
//! again may become what it was not before: a row, or a dead letter.
//!
//! | crash, or a lost answer | then |
//! |---|---|
//! | before the commit to the topic's table | nothing has changed; files are garbage |
//! | between the two | the next turn, of any process, takes the table of dead letters back |
//! | the answer of that is lost | it counts as an append of that table, so the next turn sees that it is done |
//!
//! Owns: to where, the refusals, what is forgotten. Does not own: which files and rows (`crate::rewind`).

use std::collections::BTreeMap;

use iceberg::TableIdent;
use iceberg::spec::{Snapshot, TableMetadata};
use tidewater_storage::model::{Offset, PartitionIndex, TimestampMs};

use super::dead_letters::PENDING;
use super::{SinkError, TableSink, typed};
use crate::catalog::{CatalogError, Loaded};
use crate::commit::cut::Cut;
use crate::commit::{CommitError, Committer, offsets};
use crate::names::Names;
use crate::plan::Offsets;
use crate::rewind::{Found, Leaving, Sought, find, lowered};
use crate::translate::{Skipped, skipped};

/// To where a table goes back. Partitions that are there already, or before that, stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RewindTo {
    /// How it was then: the offsets of the newest snapshot at or before that time.
    Time(TimestampMs),
    /// These, of these partitions.
    Offsets(Offsets),
    /// The ends of the log: after a restore of the cluster the table may have more.
    Log,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewindAsk {
    pub to: RewindTo,
    /// Change nothing, only find out.
    pub is_plan: bool,
    /// Also where the log no longer has offsets that leave the table.
    pub is_forced: bool,
}

/// One partition that goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RewoundPartition {
    /// The table's next offset before.
    pub from: Offset,
    /// The one after: the sink goes on here.
    pub to: Offset,
    /// Offsets between the two that the log no longer has: no table has them any more.
    pub lost: u64,
}

/// What was done, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewound {
    pub table: TableIdent,
    /// The snapshot whose offsets it has now, if a time was asked for, and when that was made.
    pub snapshot: Option<(i64, TimestampMs)>,
    /// Those that go back. None: the table was not beyond.
    pub partitions: BTreeMap<PartitionIndex, RewoundPartition>,
    pub leaving: Leaving,
    /// The table of dead letters, if the topic has one, and what leaves it.
    pub dead_letters: Option<(TableIdent, Leaving)>,
}

/// Why a table was not taken back.
#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Sink(#[from] SinkError),
}

impl From<CommitError> for RewindError {
    fn from(error: CommitError) -> Self {
        Self::Sink(error.into())
    }
}

impl TableSink {
    /// Takes the topic's tables back, or finds out what that would change. To be called between two turns.
    ///
    /// # Errors
    /// [`RewindError`]. After a failure the tables are as they were, or the next turn finishes it.
    pub async fn rewind(&mut self, ask: &RewindAsk, now: TimestampMs) -> Result<Rewound, RewindError> {
        self.rewind_with(ask, Vec::new(), now).await
    }

    /// As [`TableSink::rewind`]; the commit to the topic's table sets `marks` as well.
    pub(super) async fn rewind_with(
        &mut self,
        ask: &RewindAsk,
        marks: Vec<(&'static str, Option<String>)>,
        now: TimestampMs,
    ) -> Result<Rewound, RewindError> {
        let base = self.settle(now).await?;
        self.dead.forget_absence();
        self.look_for_dead().await?;
        let (to, snapshot) = self.target(&ask.to, &base).await?;
        let partitions = self.steps(&base, &to, ask.is_forced).await?;
        let to: Offsets = partitions.iter().map(|(at, step)| (*at, step.to)).collect();
        let table = self.config.table.clone();
        let mut done = Rewound { table, snapshot, partitions, leaving: Leaving::default(), dead_letters: None };
        if let Some(dead) = self.dead.committer.current().cloned() {
            let found = look(&mut self.dead.committer, &dead, &to, offsets::DEAD_LETTERS_REACHED, None).await?;
            done.dead_letters = Some((self.dead.table.clone(), found.leaving));
        }
        if ask.is_plan || to.is_empty() {
            done.leaving = look(&mut self.committer, &base, &to, offsets::OFFSETS, None).await?.leaving;
            return Ok(done);
        }
        done.leaving = self.take_back(base, &to, marks, now).await?;
        // What the registry said and how schemas were judged held for what was read then.
        (self.schemas, self.decoding, self.of_all) = (typed::KnownSchemas::new(), None, None);
        self.behind = true;
        if let Some(base) = self.committer.current() {
            let held = offsets::of(&self.config.table, &base.metadata)?;
            self.status.see(
                &self.log.partitions(self.config.topic_id).await.map_err(SinkError::from)?,
                &held,
                &base.metadata,
            );
        }
        Ok(done)
    }

    /// Commits both tables' return, the topic's first.
    async fn take_back(
        &mut self,
        base: Loaded,
        to: &Offsets,
        marks: Vec<(&'static str, Option<String>)>,
        now: TimestampMs,
    ) -> Result<Leaving, RewindError> {
        let table = base.metadata.uuid();
        let (mut base, mut leaving, mut attempts) = (base, Leaving::default(), 0);
        loop {
            let held = offsets::of(&self.config.table, &base.metadata)?;
            // An attempt whose answer was lost may have done it.
            let lowered = lowered(&held, to);
            if base.metadata.uuid() != table || lowered == held {
                break;
            }
            let back = self.decide_return(to).await?;
            let mut properties = skipped_below(&base.metadata, to);
            properties.push((PENDING, back));
            properties.extend(marks.iter().cloned());
            let cut = Cut { offsets: lowered, properties, summary: Vec::new() };
            let names = self.names.clone();
            let found = look(&mut self.committer, &base, to, offsets::OFFSETS, Some(&names)).await?;
            leaving = found.leaving;
            match self.committer.cut(&base, &found, &cut, now).await? {
                Some(_) => break,
                None => attempts += 1,
            }
            if attempts >= self.config.bounds.commit_attempts {
                let detail = format!("{attempts} attempts lost against other writers");
                return Err(
                    CommitError::from(CatalogError::Conflict { table: self.config.table.clone(), detail }).into()
                );
            }
            base = self.committer.refresh().await?;
        }
        let base = self.committer.refresh().await?;
        self.settle_dead(&base, now).await?;
        Ok(leaving)
    }

    /// The offsets that are meant, and the snapshot that they are of.
    async fn target(&self, to: &RewindTo, base: &Loaded) -> Result<(Offsets, Option<(i64, TimestampMs)>), RewindError> {
        match to {
            RewindTo::Offsets(offsets) => {
                let held = offsets::of(&self.config.table, &base.metadata)?;
                if let Some(at) = offsets.keys().find(|at| !held.contains_key(at)) {
                    return Err(RewindError::Refused(format!("the table has nothing of a partition {at}")));
                }
                Ok((offsets.clone(), None))
            }
            RewindTo::Time(at) => {
                let (snapshot, offsets) = snapshot_at(&base.metadata, *at).map_err(RewindError::Refused)?;
                // Partitions that came later had nothing then.
                let mut to = offsets::of(&self.config.table, &base.metadata)?;
                to.iter_mut().for_each(|(at, next)| *next = offsets.get(at).copied().unwrap_or(Offset::ZERO));
                Ok((to, Some((snapshot.snapshot_id(), TimestampMs(snapshot.timestamp_ms())))))
            }
            RewindTo::Log => {
                let mut ends = Offsets::new();
                for bounds in self.log.partitions(self.config.topic_id).await.map_err(SinkError::from)? {
                    let newest = self.log.leader_bounds(self.config.topic_id, bounds.index).await;
                    ends.insert(bounds.index, newest.map_err(SinkError::from)?.offsets.end);
                }
                Ok((ends, None))
            }
        }
    }

    /// What each partition that goes back goes through; refused where records would be lost, unless that is forced.
    async fn steps(
        &self,
        base: &Loaded,
        to: &Offsets,
        is_forced: bool,
    ) -> Result<BTreeMap<PartitionIndex, RewoundPartition>, RewindError> {
        let held = offsets::of(&self.config.table, &base.metadata)?;
        let log = self.log.partitions(self.config.topic_id).await.map_err(SinkError::from)?;
        let mut steps = BTreeMap::new();
        for (at, from) in &held {
            let Some(to) = to.get(at).filter(|to| *to < from) else { continue };
            let bounds = log.iter().find(|bounds| bounds.index == *at);
            let start = bounds.map_or(*from, |bounds| bounds.offsets.start).min(*from);
            // What the table lacked already, because retention was faster, is not lost now.
            let lost = start.since(*to).unwrap_or(0);
            if lost > 0 && !is_forced {
                let why = match bounds {
                    Some(_) => format!("the log begins at {start}"),
                    None => "its log cannot be read now".to_owned(),
                };
                return Err(RewindError::Refused(format!(
                    "partition {at} would go back from {from} to {to}, but {why}: the rows of {lost} offsets would be in \
                     no table any more. Name offsets that the log has with --to, or give them up with --force"
                )));
            }
            steps.insert(*at, RewoundPartition { from: *from, to: *to, lost });
        }
        Ok(steps)
    }
}

/// Finds what leaves a table; with `names`, files of which rows stay are written again.
async fn look(
    committer: &mut Committer,
    base: &Loaded,
    to: &Offsets,
    reach: &'static str,
    names: Option<&Names>,
) -> Result<Found, CommitError> {
    let settings = committer.settings(&base.metadata).files;
    let (files, table) = (committer.files(), committer.table().clone());
    let write = names.map(|names| (names, &settings));
    find(&Sought { files: &files, table: &table, base: &base.metadata, to, reach, write }).await
}

impl TableSink {
    /// Takes the table of dead letters back, unless that is done.
    pub(super) async fn take_dead_back(
        &mut self,
        dead: Loaded,
        (to, append): (&Offsets, u64),
        now: TimestampMs,
    ) -> Result<(), SinkError> {
        let (mut dead, mut attempts) = (dead, 0);
        while !self.dead.has_append(&dead, append)? {
            let reached = encoded_reach(&self.dead.reached(&dead)?, to);
            let names = self.names.clone();
            let found = look(&mut self.dead.committer, &dead, to, offsets::DEAD_LETTERS_REACHED, Some(&names)).await?;
            let cut = Cut {
                offsets: super::dead_letters::counted(append),
                properties: vec![(offsets::DEAD_LETTERS_REACHED, Some(reached.clone()))],
                summary: vec![(offsets::DEAD_LETTERS_REACHED, reached)],
            };
            if self.dead.committer.cut(&dead, &found, &cut, now).await?.is_none() {
                attempts += 1;
                if attempts >= self.config.bounds.commit_attempts {
                    let detail = format!("{attempts} attempts lost against other writers");
                    return Err(CatalogError::Conflict { table: self.dead.table.clone(), detail }.into());
                }
            }
            dead = self.dead.committer.refresh().await?;
        }
        Ok(())
    }
}

fn encoded_reach(reached: &Offsets, to: &Offsets) -> String {
    offsets::encode(&lowered(reached, to))
}

/// The newest snapshot of main at or before `at`, and the offsets that it had; else why there is none.
fn snapshot_at(metadata: &TableMetadata, at: TimestampMs) -> Result<(&Snapshot, Offsets), String> {
    let mut kept = offsets::lineage(metadata).peekable();
    let newest = kept.peek().map(|snapshot| snapshot.snapshot_id());
    let Some(newest) = newest else { return Err("the table has no snapshot".to_owned()) };
    let mut oldest = None;
    let mut found: Option<&Snapshot> = None;
    for snapshot in kept {
        oldest = Some(snapshot);
        if found.is_none() && snapshot.timestamp_ms() <= at.0 {
            found = Some(snapshot);
        }
        let text = found.and_then(|_| snapshot.summary().additional_properties.get(offsets::OFFSETS));
        if let (Some(found), Some(text)) = (found, text) {
            let reached = offsets::decode(text);
            let bad = || format!("the {} of snapshot {} cannot be read", offsets::OFFSETS, snapshot.snapshot_id());
            return Ok((found, reached.ok_or_else(bad)?));
        }
    }
    let oldest = oldest.map_or(0, Snapshot::timestamp_ms);
    Err(format!(
        "no snapshot that the table keeps is of that time or before it: the newest is {newest}, the oldest was made {} ms \
         after that time. Name offsets with --to",
        oldest.saturating_sub(at.0)
    ))
}

/// The table's property of ranges that were left out, without what is at or above `to`.
fn skipped_below(metadata: &TableMetadata, to: &Offsets) -> Vec<(&'static str, Option<String>)> {
    let (ranges, count) = offsets::skipped(metadata);
    let (mut kept, mut gone): (Vec<Skipped>, u64) = (Vec::new(), 0);
    for mut range in ranges {
        let before = range.count();
        if let Some(to) = to.get(&PartitionIndex(range.partition)) {
            range.end = range.end.min(to.get());
        }
        let left = if range.end > range.start { range.count() } else { 0 };
        gone += before - left;
        if left > 0 {
            skipped::join(&mut kept, range);
        }
    }
    if gone == 0 {
        return Vec::new();
    }
    let text = serde_json::to_string(&kept).expect("numbers and strings are JSON");
    let count = count.saturating_sub(gone).to_string();
    vec![(offsets::SKIPPED, Some(text)), (offsets::SKIPPED_COUNT, Some(count))]
}
