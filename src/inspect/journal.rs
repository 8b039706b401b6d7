//! A shard's journal: the records of each lane, and how far each file can be read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tidewater_storage::env::real;
use tidewater_storage::journal::format::Record;
use tidewater_storage::journal::inspect::{SeenCommit, SeenEnd, walk};
use tidewater_storage::journal::layout::{LAYOUT_FILE, Layout, file_name};
use tidewater_storage::journal::{JournalEntry, Payload};
use tidewater_storage::model::{BatchHeader, LaneId};

use super::error::InspectError;
use super::{View, print_damage};
use crate::console::{CliError, output};

#[derive(Debug, Serialize)]
pub(super) struct JournalView {
    directory: PathBuf,
    journal: String,
    durable_commit: u64,
    last_commit: u64,
    files: Vec<FileView>,
    lanes: BTreeMap<u32, LaneView>,
    damage: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
struct FileView {
    file: String,
    generation: u64,
    bytes: u64,
    commits: u64,
    used: u64,
    ends_because: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct LaneView {
    entries: u64,
    rewritten: u64,
    first: Option<String>,
    last: Option<String>,
    batches: u64,
    records: u64,
    bytes: u64,
    votes: u64,
    truncated_after: Option<String>,
    purged: Option<String>,
    committed: Option<String>,
    forgotten: bool,
    log: Vec<EntryView>,
}

/// One record of the journal, as JSON lists them.
#[derive(Debug, Serialize)]
struct EntryView {
    kind: &'static str,
    entry: Option<String>,
    batches: usize,
    records: u64,
    bytes: usize,
    commit: u64,
    file: String,
    position: u64,
}

/// Reads the journal in `path` or `path/journal`.
pub(super) fn view(path: &Path) -> Result<JournalView, InspectError> {
    let inner = path.join("journal");
    let directory = [path, &inner].into_iter().find(|dir| dir.join(LAYOUT_FILE).exists());
    let directory = directory.ok_or_else(|| InspectError::NoJournal(path.to_owned()))?.to_owned();
    let mut seen = Seen::default();
    let walked = real::run(0, |env| {
        let (directory, seen) = (directory.clone(), &mut seen);
        async move { walk(&env, &directory, |commit| seen.take(&commit)).await }
    });
    let (layout, ends) = walked.map_err(|error| InspectError::Runtime(error.to_string()))??;
    Ok(seen.finish(directory, &layout, &ends))
}

/// Sums of the walk over all commits.
#[derive(Debug, Default)]
struct Seen {
    lanes: BTreeMap<u32, LaneView>,
    commits: BTreeMap<String, (u64, u64)>,
    last: u64,
    durable: u64,
}

impl Seen {
    fn take(&mut self, commit: &SeenCommit) {
        let file = commit.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.last = self.last.max(commit.header.sequence);
        self.durable = self.durable.max(commit.header.durable);
        let (commits, used) = self.commits.entry(file.clone()).or_default();
        (*commits, *used) = (*commits + 1, commit.at.0 + commit.header.total_len() as u64);
        for located in &commit.records {
            let LaneId(lane) = located.lane;
            let position = RecordPosition {
                file: &file,
                commit: commit.header.sequence,
                position: commit.at.0 + located.at as u64,
            };
            self.lanes.entry(lane).or_default().take(&located.record, &position);
        }
    }

    fn finish(self, directory: PathBuf, layout: &Layout, ends: &[SeenEnd]) -> JournalView {
        let durable = layout.durable.max(self.durable);
        let mut live: Vec<_> = layout.files.iter().filter(|file| file.generation > 0).collect();
        live.sort_by_key(|file| file.generation);
        let mut damage = Vec::new();
        for (row, end) in live.iter().skip(1).zip(ends) {
            if row.first_sequence > 0 && row.first_sequence != end.expected {
                damage.push(format!(
                    "{} ends at byte {} before commit {} ({}), but {} begins with commit {}",
                    end.file.display(),
                    end.at,
                    end.expected,
                    end.error,
                    file_name(row.number),
                    row.first_sequence
                ));
            }
        }
        if let (Some(last), true) = (ends.last(), self.last < durable) {
            // Only the commit itself says in which file it begins, so every file that it may begin in is named.
            let places = ends.iter().filter(|end| end.expected == last.expected);
            let places = places.map(|end| format!("byte {} of {} ({})", end.at, end.file.display(), end.error));
            damage.push(format!(
                "commit {} cannot be read at {}, yet commit {durable} was durable",
                last.expected,
                places.collect::<Vec<_>>().join(" or at ")
            ));
        }
        let files = layout.files.iter().map(|row| {
            let file = file_name(row.number);
            let (commits, used) = self.commits.get(&file).copied().unwrap_or_default();
            let end = ends.iter().find(|end| end.file.ends_with(&file));
            let ends_because = end.map(|end| end.error.to_string());
            FileView { file, generation: row.generation, bytes: row.bytes, commits, used, ends_because }
        });
        JournalView {
            journal: format!("{:016x}", layout.journal),
            durable_commit: durable,
            last_commit: self.last,
            files: files.collect(),
            lanes: self.lanes,
            damage,
            directory,
        }
    }
}

/// The address of a record in the journal.
struct RecordPosition<'a> {
    file: &'a str,
    commit: u64,
    position: u64,
}

impl LaneView {
    fn take(&mut self, record: &Record, at: &RecordPosition<'_>) {
        let (kind, entry) = match record {
            Record::Entry(entry) => {
                self.entries += 1;
                self.note(entry);
                ("entry", Some(entry))
            }
            Record::Rewritten(entry) => {
                self.rewritten += 1;
                self.note(entry);
                ("rewritten", Some(entry))
            }
            Record::Vote(_) => {
                self.votes += 1;
                ("vote", None)
            }
            Record::TruncateAfter(id) => {
                self.truncated_after = Some(id.map_or("everything".into(), |id| id.to_string()));
                ("truncate", None)
            }
            Record::Purge(id) => {
                self.purged = Some(id.to_string());
                ("purge", None)
            }
            Record::Committed(id) => {
                self.committed = id.map(|id| id.to_string());
                ("committed", None)
            }
            Record::Forget => {
                self.forgotten = true;
                ("forget", None)
            }
        };
        self.log.push(EntryView {
            kind,
            entry: entry.map(|entry| entry.id.to_string()),
            batches: entry.map_or(0, |entry| entry.payload.blobs.len()),
            records: entry.map_or(0, |entry| records(&entry.payload)),
            bytes: entry.map_or(0, |entry| entry.payload.len()),
            commit: at.commit,
            file: at.file.to_owned(),
            position: at.position,
        });
    }

    fn note(&mut self, entry: &JournalEntry) {
        let id = entry.id.to_string();
        self.first.get_or_insert_with(|| id.clone());
        self.last = Some(id);
        self.batches += entry.payload.blobs.len() as u64;
        self.records += records(&entry.payload);
        self.bytes += entry.payload.len() as u64;
    }
}

/// Kafka records, by the batch headers.
fn records(payload: &Payload) -> u64 {
    let headers = payload.blobs.iter().filter_map(|blob| BatchHeader::parse(blob).ok());
    headers.map(|header| u64::from(header.record_count)).sum()
}

impl View for JournalView {
    fn print(&self) -> Result<(), CliError> {
        output::line(&format!(
            "journal {} in {}: commits up to {}, durable up to {} at least",
            self.journal,
            self.directory.display(),
            self.last_commit,
            self.durable_commit
        ))?;
        output::line("")?;
        let mut files = output::table(&["FILE", "GENERATION", "SIZE", "COMMITS", "USED", "READING ENDS BECAUSE"]);
        for file in &self.files {
            files.add_row([
                file.file.clone(),
                if file.generation == 0 { "spare".into() } else { file.generation.to_string() },
                output::bytes(file.bytes),
                output::count(file.commits),
                output::bytes(file.used),
                file.ends_because.clone().unwrap_or_default(),
            ]);
        }
        output::print(&files)?;
        output::line("")?;
        let mut lanes = output::table(&[
            "LANE",
            "ENTRIES",
            "REWRITTEN",
            "FIRST",
            "LAST",
            "COMMITTED",
            "PURGED",
            "VOTES",
            "BATCHES",
            "RECORDS",
            "SIZE",
        ]);
        let or_dash = |text: &Option<String>| text.clone().unwrap_or("-".into());
        for (lane, view) in &self.lanes {
            lanes.add_row([
                format!("{lane}{}", if view.forgotten { " (forgotten)" } else { "" }),
                output::count(view.entries),
                output::count(view.rewritten),
                or_dash(&view.first),
                or_dash(&view.last),
                or_dash(&view.committed),
                or_dash(&view.purged),
                output::count(view.votes),
                output::count(view.batches),
                output::count(view.records),
                output::bytes(view.bytes),
            ]);
        }
        output::print(&lanes)?;
        print_damage(&self.damage)
    }

    fn damage(&self) -> &[String] {
        &self.damage
    }
}
