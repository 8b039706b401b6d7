//! What a command does: the pure transition, the same on every replica.
//!
//! Owns: who accepts what. Does not own: when a command is proposed. The lane decides first, from its own state; only
//! if it accepts do the partitions apply their shares, each from its own state alone. A share at or below `changed`
//! is covered and skipped: after a crash a partition's state may be newer than its lane's.

use std::collections::{BTreeMap, BTreeSet};

use tidewater_storage::disposition::Disposition;
use tidewater_storage::model::{LaneId, LogIndex, Offset, OffsetRange, PartitionId};

use super::command::{
    Bundled, Command, Deleted, NewObject, NewRow, Published, Quarantine, Replaced, Spilled, Trimmed, Unfolded,
};
use super::lane::{LaneManifest, Live, PUBLICATIONS_MAX, Pending, Publication, is_shared};
use super::partition::{PartitionManifest, QUARANTINED_MAX, Quarantined};
use super::row::{Row, Source};
use super::spill::{SpillPage, SpillRow};
use crate::keys::{Home, ObjectKind, ObjectName, Sequence};

/// What became of a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// State changed.
    Changed,
    /// The state already has it, or it is not concerned.
    Unchanged,
}

/// Why a command was refused; the state is as before (save that objects it brought may now be pending).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Not the next bundle.
    #[error("bundle {found} does not follow bundle {last}")]
    Sequence { last: Sequence, found: Sequence },
    /// The lane's archiving is stopped.
    #[error("archiving of lane {0} is stopped")]
    Stopped(LaneId),
    /// Offsets would be missing.
    #[error("{partition}: {offered} does not continue the archived end {archived_end}")]
    Gap { partition: PartitionId, archived_end: Offset, offered: OffsetRange },
    /// A replacement of what is not archived, or no longer.
    #[error("{partition}: {offered} is not within the rows {covered}")]
    Outside { partition: PartitionId, covered: OffsetRange, offered: OffsetRange },
    /// A replacement that cuts through an object of the partition's own.
    #[error("{partition}: {offered} covers {object} only in part")]
    Splits { partition: PartitionId, object: Box<ObjectName>, offered: OffsetRange },
    /// A spill or unfolding that does not fit what is resident.
    #[error("{partition}: page {page} does not match the rows it should replace")]
    Page { partition: PartitionId, page: Box<ObjectName> },
    /// An object that cannot be forgotten (not live, held, named by a spill page) or that is forgotten already.
    #[error("{0} is not free for this")]
    Named(Box<ObjectName>),
    /// A publication older than the last, or ahead of the lane.
    #[error("publication as of index {as_of}, bundle {sequence} is behind the last one or ahead of the lane")]
    Publication { as_of: LogIndex, sequence: Sequence },
    /// Fields that contradict each other.
    #[error("command is malformed: {0}")]
    Malformed(&'static str),
}

impl Rejected {
    /// Plan again from the applied state.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        Disposition::Conflict
    }
}

/// Applies a command to a lane and to those of its partitions that `partitions` holds.
///
/// # Errors
/// The lane's refusal (nothing changed), or else the first partition's (the others have applied).
pub fn apply(
    lane: &mut LaneManifest,
    partitions: &mut BTreeMap<PartitionId, PartitionManifest>,
    at: LogIndex,
    command: &Command,
) -> Result<(), Rejected> {
    lane.apply(at, command)?;
    let mut result = Ok(());
    for id in command.partitions() {
        if let Some(partition) = partitions.get_mut(&id) {
            let share = partition.apply(lane.home, lane.lane, at, command);
            result = result.and(share.map(|_| ()));
        }
    }
    result
}

impl LaneManifest {
    /// Applies the lane's share of a command.
    ///
    /// # Errors
    /// Why it is refused: then no partition may apply its share.
    pub fn apply(&mut self, at: LogIndex, command: &Command) -> Result<Applied, Rejected> {
        if self.changed.is_some_and(|changed| at <= changed) {
            return Ok(Applied::Unchanged);
        }
        let applied = match command {
            Command::Bundled(bundled) => self.bundled(at, bundled)?,
            Command::Replaced(replaced) => self.replaced(at, replaced)?,
            Command::Trimmed(trimmed) => self.trimmed(trimmed)?,
            Command::Spilled(spilled) => self.spilled(&spilled.shared),
            Command::Unfolded(unfolded) => match &unfolded.content {
                SpillPage::Rows(rows) => self.unspill(&rows.iter().map(Row::object).collect::<BTreeSet<_>>()),
                SpillPage::Pages(_) => Applied::Unchanged,
            },
            Command::Forgotten { objects } => self.forgotten(at, objects)?,
            Command::Published(published) => self.published(at, published)?,
            Command::Deleted(deleted) => self.deleted(deleted),
            Command::Stopped { reason } => {
                self.stopped.clone_from(reason);
                Applied::Changed
            }
            Command::Quarantined(_) | Command::Repaired(_) | Command::Dropped { .. } => Applied::Unchanged,
        };
        if applied == Applied::Changed {
            self.changed = Some(at);
        }
        Ok(applied)
    }

    fn bundled(&mut self, at: LogIndex, bundled: &Bundled) -> Result<Applied, Rejected> {
        if self.stopped.is_some() {
            return Err(Rejected::Stopped(self.lane));
        }
        if bundled.sequence != self.last.next() {
            return Err(Rejected::Sequence { last: self.last, found: bundled.sequence });
        }
        let sorted = bundled.ends.windows(2).all(|pair| matches!(pair, [a, b] if a.partition < b.partition));
        if !sorted || bundled.ends.iter().any(|end| end.offsets.is_empty()) {
            return Err(Rejected::Malformed("ends are not sorted or empty"));
        }
        let live = Live { size: bundled.size, since: at, parts: bundled.parts.clone(), pins: 0, spilled: 0 };
        self.live.insert(self.next_bundle(), live);
        self.last = bundled.sequence;
        self.last_crc = bundled.index.crc;
        Ok(Applied::Changed)
    }

    fn replaced(&mut self, at: LogIndex, replaced: &Replaced) -> Result<Applied, Rejected> {
        let known = |row: &NewRow| usize::try_from(row.object).is_ok_and(|object| object < replaced.objects.len());
        if !replaced.rows.iter().all(|row| known(row) && !row.offsets.is_empty() && row.len > 0) {
            return Err(Rejected::Malformed("rows are empty or name no object"));
        }
        let mut applied = Applied::Unchanged;
        for new in &replaced.objects {
            let is_free = match new.object.kind {
                ObjectKind::Bundle { .. } => false,
                ObjectKind::Part { lane, sequence, .. } => {
                    let bundle = self.live.get(&new.object.home.bundle(lane, sequence));
                    bundle.is_some_and(|live| live.parts.contains(&new.object))
                }
                _ => !self.pending.contains_key(&new.object),
            };
            if !is_free {
                return Err(Rejected::Named(Box::new(new.object)));
            }
        }
        for new in &replaced.objects {
            // A row of its own keeps the part: it no longer goes with its bundle.
            if let ObjectKind::Part { lane, sequence, .. } = new.object.kind
                && let Some(live) = self.live.get_mut(&new.object.home.bundle(lane, sequence))
            {
                live.parts.retain(|part| *part != new.object);
                applied = Applied::Changed;
            }
        }
        for new in replaced.objects.iter().filter(|new| is_shared(&new.object)) {
            let live = Live { size: new.size, since: at, parts: Vec::new(), pins: 0, spilled: 0 };
            self.live.entry(new.object).or_insert(live);
            applied = Applied::Changed;
        }
        Ok(applied)
    }

    fn trimmed(&mut self, trimmed: &Trimmed) -> Result<Applied, Rejected> {
        let of_rows = |page: &ObjectName| matches!(page.kind, ObjectKind::Spill { level: 0, .. });
        // A page of pages goes only if it is lost: then what is below it is not known.
        match trimmed.pages.iter().find(|(page, named)| !of_rows(page) && !named.is_empty()) {
            Some((page, _)) => Err(Rejected::Page { partition: trimmed.partition, page: Box::new(*page) }),
            None => Ok(self.unspill(trimmed.pages.iter().flat_map(|(_, named)| named))),
        }
    }

    fn spilled(&mut self, shared: &[ObjectName]) -> Applied {
        let mut applied = Applied::Unchanged;
        for object in shared {
            if let Some(live) = self.live.get_mut(object) {
                live.spilled = live.spilled.saturating_add(1);
                applied = Applied::Changed;
            }
        }
        applied
    }

    fn unspill<'a>(&mut self, named: impl IntoIterator<Item = &'a ObjectName>) -> Applied {
        let mut applied = Applied::Unchanged;
        for object in named {
            if let Some(live) = self.live.get_mut(object) {
                live.spilled = live.spilled.saturating_sub(1);
                applied = Applied::Changed;
            }
        }
        applied
    }

    fn forgotten(&mut self, at: LogIndex, objects: &[ObjectName]) -> Result<Applied, Rejected> {
        let free = |object: &ObjectName| self.live.get(object).is_some_and(|live| live.pins == 0 && live.spilled == 0);
        if let Some(named) = objects.iter().find(|object| !free(object)) {
            return Err(Rejected::Named(Box::new(*named)));
        }
        for object in objects {
            if let Some(live) = self.live.remove(object) {
                self.pending.insert(*object, Pending { intended: at, parts: live.parts });
            }
        }
        Ok(if objects.is_empty() { Applied::Unchanged } else { Applied::Changed })
    }

    fn published(&mut self, at: LogIndex, published: &Published) -> Result<Applied, Rejected> {
        let behind = self.published_as_of().is_some_and(|last| published.as_of < last)
            || published.sequence.next() < self.follow_from;
        if behind || published.sequence > self.last || published.as_of >= at {
            return Err(Rejected::Publication { as_of: published.as_of, sequence: published.sequence });
        }
        let objects = published.objects.iter().flatten().map(|page| page.page);
        let kept: BTreeSet<ObjectName> = published.pages.iter().map(|page| page.page).chain(objects).collect();
        let old_objects = self.object_pages.iter().flatten().map(|page| page.page);
        for old in self.pages.iter().map(|page| page.page).chain(old_objects).filter(|old| !kept.contains(old)) {
            self.pending.insert(old, Pending { intended: at, parts: Vec::new() });
        }
        self.pages.clone_from(&published.pages);
        self.object_pages.clone_from(&published.objects);
        self.etag = Some(published.etag.clone());
        self.follow_from = published.sequence.next();
        self.publications.push_back(Publication { as_of: published.as_of, at: published.at });
        if self.publications.len() > PUBLICATIONS_MAX {
            let last = self.publications.len() - 1;
            let mut place = 0;
            self.publications.retain(|_| {
                place += 1;
                place % 2 == 1 || place > last
            });
        }
        Ok(Applied::Changed)
    }

    fn deleted(&mut self, deleted: &Deleted) -> Applied {
        let before = self.pending.len();
        for object in &deleted.lane {
            self.pending.remove(object);
        }
        if self.pending.len() == before { Applied::Unchanged } else { Applied::Changed }
    }
}

impl PartitionManifest {
    /// Applies the partition's share of a command that its lane accepted.
    ///
    /// # Errors
    /// Why it is refused; objects of its own that the command brought are then pending.
    pub fn apply(&mut self, home: Home, lane: LaneId, at: LogIndex, command: &Command) -> Result<Applied, Rejected> {
        if self.changed.is_some_and(|changed| at <= changed) {
            return Ok(Applied::Unchanged);
        }
        let result = match command {
            Command::Bundled(bundled) => self.bundled(home.bundle(lane, bundled.sequence), bundled),
            Command::Replaced(replaced) => self.replaced(at, replaced),
            Command::Trimmed(trimmed) if trimmed.partition == self.id => self.trimmed(at, trimmed),
            Command::Spilled(spilled) if spilled.partition == self.id => self.spilled(at, spilled),
            Command::Unfolded(unfolded) if unfolded.partition == self.id => self.unfolded(at, unfolded),
            Command::Quarantined(range) if range.partition == self.id => Ok(self.quarantine(range)),
            Command::Repaired(range) if range.partition == self.id => Ok(self.repaired(range)),
            Command::Deleted(deleted) => Ok(self.deleted(deleted)),
            Command::Dropped { partition } if *partition == self.id => {
                self.dropped = true;
                Ok(Applied::Changed)
            }
            _ => Ok(Applied::Unchanged),
        };
        if result != Ok(Applied::Unchanged) {
            self.changed = Some(at);
        }
        result
    }

    fn bundled(&mut self, bundle: ObjectName, bundled: &Bundled) -> Result<Applied, Rejected> {
        let found = bundled.ends.binary_search_by_key(&self.id, |end| end.partition);
        let Some(end) = found.ok().and_then(|at| bundled.ends.get(at)) else { return Ok(Applied::Unchanged) };
        if self.dropped || end.offsets.end <= self.archived_end {
            return Ok(Applied::Unchanged);
        }
        let (partition, archived_end, offered) = (self.id, self.archived_end, end.offsets);
        if offered.start > archived_end {
            return Err(Rejected::Gap { partition, archived_end, offered });
        }
        let row = Row {
            offsets: offered,
            bytes: end.bytes,
            max_timestamp: end.max_timestamp,
            source: Source::Bundle(bundle),
        };
        // Overlap (the log start was moved past what was not archived yet) is clipped.
        self.rows.extend(row.clip(OffsetRange::new(archived_end, offered.end)));
        self.archived_end = offered.end;
        Ok(Applied::Changed)
    }

    fn replaced(&mut self, at: LogIndex, replaced: &Replaced) -> Result<Applied, Rejected> {
        let mut result = Ok(Applied::Unchanged);
        let id = self.id;
        for new in replaced.rows.iter().filter(|row| row.partition == id) {
            let object = usize::try_from(new.object).ok().and_then(|object| replaced.objects.get(object));
            let Some(object) = object else { continue };
            let one = self.replace(at, new, object);
            if one.is_err() {
                self.release(at, [object.object]);
            }
            result = match (result, one) {
                (Err(first), _) => Err(first),
                (Ok(Applied::Changed), Ok(_)) => Ok(Applied::Changed),
                (Ok(_), one) => one,
            };
        }
        result
    }

    fn replace(&mut self, at: LogIndex, new: &NewRow, object: &NewObject) -> Result<Applied, Rejected> {
        let (partition, offered) = (self.id, new.offsets);
        let first = self.rows.first().map_or(self.archived_end, |row| row.offsets.start);
        let covered = OffsetRange::new(first, self.archived_end);
        let within = offered.intersect(&covered);
        if within.is_empty() || offered.end > self.archived_end || self.dropped {
            return Err(Rejected::Outside { partition, covered, offered });
        }
        let is_pending = |object| self.pending.iter().any(|(other, _)| *other == object);
        // Shared objects are pending in the lane, which has looked.
        if !is_shared(&object.object) && is_pending(object.object) {
            return Err(Rejected::Named(Box::new(object.object)));
        }
        let touched = |row: &&Row| !row.offsets.intersect(&within).is_empty();
        let split = |row: &&Row| !is_shared(&row.object()) && row.offsets.intersect(&within) != row.offsets;
        if let Some(row) = self.rows.iter().filter(touched).find(split) {
            return Err(Rejected::Splits { partition, object: Box::new(row.object()), offered });
        }
        let (start, len, index) = (new.start, new.len, object.index);
        let source = Source::Object { object: object.object, start, len, index };
        let row = Row { offsets: offered, bytes: len, max_timestamp: new.max_timestamp, source };
        let Some(row) = row.clip(within) else { return Err(Rejected::Outside { partition, covered, offered }) };
        let below = OffsetRange::new(Offset::ZERO, within.start);
        let above = OffsetRange::new(within.end, Offset::MAX);
        let old = std::mem::take(&mut self.rows);
        self.rows.extend(old.iter().filter_map(|row| row.clip(below)));
        self.rows.push(row);
        self.rows.extend(old.iter().filter_map(|row| row.clip(above)));
        let below = self.drop_below();
        self.release(at, old.iter().chain(&below).map(Row::object));
        Ok(Applied::Changed)
    }

    /// Takes out rows wholly below the log start, unless pages are still before them.
    fn drop_below(&mut self) -> Vec<Row> {
        let below = self.rows.partition_point(|row| row.offsets.end <= self.log_start);
        self.rows.drain(..if self.spilled.is_empty() { below } else { 0 }).collect()
    }

    fn trimmed(&mut self, at: LogIndex, trimmed: &Trimmed) -> Result<Applied, Rejected> {
        let log_start = trimmed.log_start.max(self.log_start);
        let below = self.spilled.iter().take_while(|page| page.offsets.end <= log_start);
        let gone: Vec<ObjectName> = below.map(|page| page.page).collect();
        let folded = self.spilled.iter().take(gone.len()).find(|page| page.level() > 0 && !self.dropped);
        let listed = gone.len() == trimmed.pages.len() && gone.iter().zip(&trimmed.pages).all(|(a, (b, _))| a == b);
        if let Some(page) = folded.map(|page| page.page).or_else(|| gone.first().copied().filter(|_| !listed)) {
            return Err(Rejected::Page { partition: self.id, page: Box::new(page) });
        }
        if !listed {
            return Err(Rejected::Malformed("trimming lists pages that stay"));
        }
        let kept = self.rows.partition_point(|row| row.offsets.end <= log_start);
        if log_start == self.log_start && gone.is_empty() && kept == 0 {
            return Ok(Applied::Unchanged);
        }
        self.log_start = log_start;
        self.archived_end = self.archived_end.max(log_start);
        self.spilled.drain(..gone.len());
        let rows: Vec<Row> = self.rows.drain(..kept).collect();
        self.quarantined.retain(|range| range.offsets.end > log_start);
        self.release(at, rows.iter().map(Row::object));
        self.release(at, trimmed.pages.iter().flat_map(|(page, named)| named.iter().copied().chain([*page])));
        Ok(Applied::Changed)
    }

    fn spilled(&mut self, at: LogIndex, spilled: &Spilled) -> Result<Applied, Rejected> {
        let page = spilled.page;
        let mismatch = Rejected::Page { partition: self.id, page: Box::new(page.page) };
        let matches = |covered: &[OffsetRange]| {
            covered.first().map(|first| first.start) == Some(page.offsets.start)
                && covered.last().map(|last| last.end) == Some(page.offsets.end)
        };
        let inside = |offsets: &OffsetRange| offsets.intersect(&page.offsets) == *offsets;
        if page.level() == 0 {
            let count = self.rows.iter().take_while(|row| inside(&row.offsets)).count();
            let covered: Vec<OffsetRange> = self.rows.iter().take(count).map(|row| row.offsets).collect();
            if !matches(&covered) {
                self.release(at, [page.page]);
                return Err(mismatch);
            }
            self.rows.drain(..count);
            self.spilled.push(page);
            return Ok(Applied::Changed);
        }
        let start = self.spilled.partition_point(|row| row.offsets.end <= page.offsets.start);
        let count = self.spilled.iter().skip(start).take_while(|row| inside(&row.offsets)).count();
        let run: Vec<SpillRow> = self.spilled.iter().skip(start).take(count).copied().collect();
        let covered: Vec<OffsetRange> = run.iter().map(|row| row.offsets).collect();
        if !matches(&covered) || run.iter().any(|row| row.level().checked_add(1) != Some(page.level())) {
            self.release(at, [page.page]);
            return Err(mismatch);
        }
        self.spilled.splice(start..start + count, [page]);
        Ok(Applied::Changed)
    }

    fn unfolded(&mut self, at: LogIndex, unfolded: &Unfolded) -> Result<Applied, Rejected> {
        let mismatch = Rejected::Page { partition: self.id, page: Box::new(unfolded.page) };
        let Some(place) = self.spilled.iter().position(|row| row.page == unfolded.page) else { return Err(mismatch) };
        let page = self.spilled.get(place).copied().ok_or(mismatch.clone())?;
        if unfolded.content.covers() != Some(page.offsets) {
            return Err(mismatch);
        }
        match &unfolded.content {
            SpillPage::Rows(rows) if place + 1 == self.spilled.len() && page.level() == 0 => {
                self.spilled.pop();
                self.rows.splice(0..0, rows.iter().copied());
            }
            SpillPage::Pages(pages) if page.level() > 0 => {
                self.spilled.splice(place..=place, pages.iter().copied());
            }
            _ => return Err(mismatch),
        }
        let below = self.drop_below();
        self.release(at, below.iter().map(Row::object).chain([unfolded.page]));
        Ok(Applied::Changed)
    }

    fn quarantine(&mut self, range: &Quarantine) -> Applied {
        if range.offsets.is_empty() {
            return Applied::Unchanged;
        }
        let new = Quarantined { offsets: range.offsets, reason: range.reason.clone() };
        let place = self.quarantined.partition_point(|other| other.offsets.start < new.offsets.start);
        self.quarantined.insert(place, new);
        let mut joined: Vec<Quarantined> = Vec::with_capacity(self.quarantined.len());
        let crowded = self.quarantined.len() > QUARANTINED_MAX;
        for (nth, range) in self.quarantined.drain(..).enumerate() {
            match joined.last_mut() {
                Some(last) if range.offsets.start < last.offsets.end || (crowded && nth % 2 == 1) => {
                    last.offsets.end = last.offsets.end.max(range.offsets.end);
                }
                _ => joined.push(range),
            }
        }
        self.quarantined = joined;
        Applied::Changed
    }

    /// Takes the range out of what is quarantined; what reaches beyond it stays so. A range that would fall in two
    /// stays whole while there are too many to keep apart.
    fn repaired(&mut self, range: &Quarantine) -> Applied {
        let crowded = self.quarantined.len() >= QUARANTINED_MAX;
        let left = |bad: &Quarantined| -> Vec<Quarantined> {
            if bad.offsets.intersect(&range.offsets).is_empty() {
                return vec![bad.clone()];
            }
            let below = OffsetRange::new(bad.offsets.start, range.offsets.start.max(bad.offsets.start));
            let above = OffsetRange::new(range.offsets.end.min(bad.offsets.end), bad.offsets.end);
            if crowded && !below.is_empty() && !above.is_empty() {
                return vec![bad.clone()];
            }
            let parts = [below, above].into_iter().filter(|offsets| !offsets.is_empty());
            parts.map(|offsets| Quarantined { offsets, reason: bad.reason.clone() }).collect()
        };
        let after: Vec<Quarantined> = self.quarantined.iter().flat_map(left).collect();
        let changed = after != self.quarantined;
        self.quarantined = after;
        if changed { Applied::Changed } else { Applied::Unchanged }
    }

    fn deleted(&mut self, deleted: &Deleted) -> Applied {
        let before = self.pending.len();
        let own = deleted.partitions.iter().filter(|(id, _)| *id == self.id);
        let gone: BTreeSet<&ObjectName> = own.flat_map(|(_, objects)| objects).collect();
        if !gone.is_empty() {
            self.pending.retain(|(object, _)| !gone.contains(object));
        }
        if self.pending.len() == before { Applied::Unchanged } else { Applied::Changed }
    }

    /// Intends to delete those of `objects` that are this partition's own and that nothing names any more. An object of
    /// another partition, which a row may name after a fork, is not this one's to delete.
    fn release(&mut self, at: LogIndex, objects: impl IntoIterator<Item = ObjectName>) {
        let is_own = |object: &ObjectName| object.owner() == Some(self.id);
        let unnamed = self.unnamed(objects.into_iter().filter(is_own).collect());
        self.pending.extend(unnamed.into_iter().map(|object| (object, at)));
    }
}

#[cfg(test)]
mod tests;
