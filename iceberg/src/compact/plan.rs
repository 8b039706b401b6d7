//! Which small files to write again as one, decided. Pure.
//!
//! Files of one partition are put together in the order of their commits, so that each partition's records stay in the
//! order of their offsets; a group is a run of neighbours in that order. A file takes part if
//! - it is smaller than three quarters of the target size;
//! - its hour is over, and a while more: late records of an hour come in its last minutes. Only in tables by hour:
//!   days, months and partitions without a time are open for long or for ever;
//! - it is a while old: a backlog is written to hours that are long over.
//!
//! **Write amplification**: a group has a multiple of the bytes of its largest file. Of an hour that is over it is two:
//! nothing but late records comes there, so most rows are written again once. Other partitions may get rows for ever;
//! there it is four, until the group makes a file that is large enough: of files of 1 MiB and a target of 128 MiB a row
//! is written again two and a half times, and some ten small files stay.

use std::collections::BTreeSet;

use tidewater_storage::model::TimestampMs;

use crate::commit::survey::OurFile;
use crate::partition::Folder;
use crate::schema::HOUR_US;

/// Milliseconds of an hour partition.
const HOUR_MS: i64 = HOUR_US / 1000;

/// What a plan goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a file that is as large as it should be.
    pub target_bytes: u64,
    /// Files of a group at least, unless together they make a file that is large enough.
    pub min_files: usize,
    /// Milliseconds since the end of a file's hour, and since the file was added, at least.
    pub quiet_ms: i64,
    /// Bytes of all groups of a plan; the first group may exceed it.
    pub run_bytes: u64,
    /// Files of all groups of a plan, likewise.
    pub run_files: usize,
}

impl Limits {
    /// A file with fewer bytes is small.
    #[must_use]
    pub fn small_below(&self) -> u64 {
        self.target_bytes - self.target_bytes / 4
    }
}

/// Files of one partition that become one, in the order of their rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// As in [`OurFile`].
    pub partition: u32,
    pub folder: Folder,
    pub files: Vec<OurFile>,
}

impl Group {
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    #[must_use]
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.rows).sum()
    }

    /// The data sequence number of the file that it becomes.
    #[must_use]
    pub fn sequence(&self) -> i64 {
        self.files.iter().map(|file| file.sequence).max().unwrap_or_default()
    }
}

/// What to do, and what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Those with the smallest files first.
    pub groups: Vec<Group>,
    /// There are further groups.
    pub more: bool,
    /// Small files in all, those of the groups included.
    pub small: u64,
    /// Small files that are too new, or of an hour that is not over long enough.
    pub waiting: u64,
}

/// Decides. `files` are all of ours, in the order of manifests; `deletes` are partitions for which the table has
/// delete files, of which nothing is written again.
#[must_use]
pub fn plan(limits: &Limits, mut files: Vec<OurFile>, deletes: &BTreeSet<u32>, now: TimestampMs) -> Plan {
    assert!(limits.target_bytes > 0 && limits.min_files > 1, "a group has several files: {limits:?}");
    // Stable: files of one commit stay in the order of their manifest. A partition may have several folders, see
    // `survey`.
    files.sort_by_key(|file| (file.partition, file.sequence));
    let mut plan = Plan::default();
    let mut groups = Vec::new();
    for of_partition in files.chunk_by(|a, b| a.partition == b.partition) {
        let mut run: Vec<OurFile> = Vec::new();
        for file in of_partition {
            let is_small = file.bytes < limits.small_below();
            let is_quiet = is_quiet(limits, file, now);
            plan.small += u64::from(is_small);
            plan.waiting += u64::from(is_small && !is_quiet);
            let takes_part = is_small && is_quiet && !deletes.contains(&file.partition);
            let bytes: u64 = run.iter().map(|file| file.bytes).sum();
            if !takes_part || bytes.saturating_add(file.bytes) > limits.target_bytes {
                settle(limits, &run, &mut groups);
                run.clear();
            }
            if takes_part {
                run.push(*file);
            }
        }
        settle(limits, &run, &mut groups);
    }
    groups.sort_by_key(|group: &Group| (group.bytes() / group.files.len() as u64, group.folder, group.partition));
    let (mut bytes, mut count) = (0_u64, 0);
    for group in groups {
        bytes = bytes.saturating_add(group.bytes());
        count += group.files.len();
        if !plan.groups.is_empty() && (bytes > limits.run_bytes || count > limits.run_files) {
            plan.more = true;
            break;
        }
        plan.groups.push(group);
    }
    plan
}

fn is_quiet(limits: &Limits, file: &OurFile, now: TimestampMs) -> bool {
    let since = |time: TimestampMs| now.since_ms(time);
    let is_over = match file.name.folder {
        Folder::Hour(hour) => since(TimestampMs((i64::from(hour) + 1) * HOUR_MS)) >= limits.quiet_ms,
        Folder::Part(_) => true,
    };
    is_over && file.added.is_none_or(|added| since(added) >= limits.quiet_ms)
}

/// So many times the bytes of its largest file a group has at least.
fn growth(limits: &Limits, folder: Folder, bytes: u64) -> u64 {
    match folder {
        Folder::Part(_) if bytes < limits.small_below() => 4,
        Folder::Part(_) | Folder::Hour(_) => 2,
    }
}

/// Makes a group of `run`, or of what is before and after its largest file if that is too much of it.
fn settle(limits: &Limits, run: &[OurFile], groups: &mut Vec<Group>) {
    let Some((at, largest)) = run.iter().enumerate().max_by_key(|(_, file)| file.bytes) else { return };
    let bytes: u64 = run.iter().map(|file| file.bytes).sum();
    if run.len() < 2 || (run.len() < limits.min_files && bytes < limits.small_below()) {
        return;
    }
    if bytes >= largest.bytes.saturating_mul(growth(limits, largest.name.folder, bytes)) {
        groups.push(Group { partition: largest.partition, folder: largest.name.folder, files: run.to_vec() });
        return;
    }
    // Each part has fewer files, so this ends.
    let (before, rest) = run.split_at(at);
    settle(limits, before, groups);
    settle(limits, rest.get(1..).unwrap_or_default(), groups);
}

#[cfg(test)]
mod tests;
