//! Opens a journal: reads all commits, rebuilds every lane's log, finds where to write next.
//!
//! Owns: the distinction between a torn last commit and corruption. At most one commit is in flight, and each carries
//! the last sequence known to be durable. So the first commit that cannot be read ends the journal, unless a valid
//! later commit of a live generation, or the layout, shows that it was durable: that is corruption, and the journal is
//! refused. The process before may have died before the last valid commit was synced; it is written again in place,
//! with the same bytes, and synced before anything builds on it. Affinity: shard-local.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;

use super::files::{JournalFile, SpareFile, open_durable, write_layout};
use super::format::{BLOCK, CommitHeader, FormatError, Located, Record};
use super::lane::{EntrySlot, LaneState, NewestStateRecords, RecordAddress};
use super::layout::{LAYOUT_FILE, Layout, LayoutFile, file_name};
use super::scan::Scanner;
use super::state::JournalState;
use super::{JournalConfig, JournalEntry, JournalOpenError, Payload};
use crate::env::{Env, OpenMode};
use crate::model::{EntryId, FilePos, LaneId, LogIndex};

/// During recovery, payloads may take this many times `memory_bytes`; the first commits evict the excess.
const KEPT_FACTOR: usize = 4;

fn io_failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> JournalOpenError + use<'a> {
    move |error| JournalOpenError::Io { action, path: path.to_path_buf(), error }
}

/// Where the last valid commit lies.
#[derive(Clone, Copy)]
struct LastCommit {
    generation: u64,
    position: u64,
    len: u64,
}

/// Decides which payloads stay in memory during recovery: those of entries that the caller applies at once, so that
/// they are not read twice.
struct PayloadsToKeep {
    /// Per lane the last entry that the checkpoint covers; `None`: no entry is applied, keep nothing.
    covered: Option<BTreeMap<LaneId, LogIndex>>,
    /// How much more may be kept. Bytes.
    left: usize,
}

impl PayloadsToKeep {
    fn payload(&mut self, lane: LaneId, index: LogIndex, payload: Payload) -> Option<Payload> {
        let covered = self.covered.as_ref()?.get(&lane);
        let fits = covered.is_none_or(|covered| *covered < index) && payload.len() <= self.left;
        self.left -= if fits { payload.len() } else { 0 };
        fits.then_some(payload)
    }
}

/// A lane rebuilt from its records, in the order of the journal.
#[derive(Default)]
struct ReplayedLane {
    purged: Option<EntryId>,
    committed: Option<EntryId>,
    vote: Option<Bytes>,
    meta: NewestStateRecords,
    entries: BTreeMap<u64, EntrySlot>,
}

impl ReplayedLane {
    fn apply(&mut self, lane: LaneId, record: Record, address: RecordAddress, keep: &mut PayloadsToKeep) {
        let mut slot = |entry: JournalEntry| {
            let payload = keep.payload(lane, entry.id.index, entry.payload);
            EntrySlot { term: entry.id.term, address: Some(address), payload }
        };
        match record {
            Record::Entry(entry) => {
                self.entries.split_off(&entry.id.index.0);
                self.entries.insert(entry.id.index.0, slot(entry));
            }
            Record::Rewritten(entry) => {
                if self.purged.is_none_or(|purged| purged.index < entry.id.index) {
                    self.entries.insert(entry.id.index.0, slot(entry));
                }
            }
            Record::Vote(vote) => {
                self.vote = Some(vote);
                self.meta.vote = address.file;
            }
            Record::TruncateAfter(keep) => {
                self.entries.split_off(&keep.map_or(0, |keep| keep.index.0.saturating_add(1)));
            }
            Record::Purge(upto) => {
                self.entries = self.entries.split_off(&upto.index.0.saturating_add(1));
                if self.purged.is_none_or(|purged| purged.index <= upto.index) {
                    self.purged = Some(upto);
                    self.meta.purged = address.file;
                }
            }
            Record::Committed(committed) => {
                self.committed = committed;
                self.meta.committed = address.file;
            }
            Record::Forget => *self = Self::default(),
        }
    }

    /// The lane's log, or, if it has a gap, the index expected and the one found.
    fn finish(self) -> Result<LaneState, (LogIndex, LogIndex)> {
        let Self { purged, committed, vote, meta, entries } = self;
        let mut lane = LaneState::with_past(purged, vote, meta);
        for (index, slot) in entries {
            if let Some(expected) = lane.expected().filter(|expected| expected.0 != index) {
                return Err((expected, LogIndex(index)));
            }
            lane.push(EntryId { term: slot.term, index: LogIndex(index) }, slot);
        }
        // The mark may name entries of a commit that was torn.
        lane.committed = match (committed, lane.last()) {
            (Some(committed), Some(last)) => Some(if committed.index > last.index { last } else { committed }),
            _ => None,
        };
        Ok(lane)
    }
}

/// Opens or makes the journal in `dir`. With `covered`, payloads of the entries after it stay in memory, within
/// [`KEPT_FACTOR`] times `memory_bytes`.
pub(super) async fn open(
    env: &Env,
    dir: &Path,
    config: JournalConfig,
    covered: Option<BTreeMap<LaneId, LogIndex>>,
) -> Result<JournalState, JournalOpenError> {
    env.disk.create_dir_all(dir).await.map_err(io_failed("making it", dir))?;
    let config = JournalConfig {
        commit_bytes: config.commit_bytes.min(usize::try_from(config.file_bytes).unwrap_or(usize::MAX)),
        ..config
    };
    let path = dir.join(LAYOUT_FILE);
    if !env.disk.exists(&path).await.map_err(io_failed("looking for it", &path))? {
        return create(env, dir, config).await;
    }
    let bytes = env.disk.read_all(&path).await.map_err(io_failed("reading", &path))?;
    let layout = Layout::decode(&bytes).map_err(|error| JournalOpenError::Layout { path, error })?;
    let keep = PayloadsToKeep { covered, left: config.memory_bytes.saturating_mul(KEPT_FACTOR) };
    recover(env, dir, config, &layout, keep).await
}

async fn create(env: &Env, dir: &Path, config: JournalConfig) -> Result<JournalState, JournalOpenError> {
    for entry in env.disk.list(dir).await.map_err(io_failed("listing", dir))? {
        if entry.name.ends_with(".journal") {
            let path = dir.join(&entry.name);
            let head = env.disk.open(&path, OpenMode::Read).await.map_err(io_failed("opening", &path))?;
            let first = head.read_at(0, BLOCK).await.map_err(io_failed("reading", &path))?;
            if CommitHeader::decode(&first).is_ok() {
                return Err(JournalOpenError::LayoutMissing { dir: dir.to_path_buf() });
            }
            env.disk.remove_file(&path).await.map_err(io_failed("removing", &path))?;
        }
    }
    let mut state = JournalState::new(env.rng.next_u64(), config);
    let spare = SpareFile::create(env, dir, state.next_number, state.next_file_bytes()).await;
    let head = spare.map_err(io_failed("making its first file", dir))?.used_as(state.next_generation);
    head.first_sequence.set(1);
    state.next_number += 1;
    state.next_generation += 1;
    state.files.insert(head.generation, head);
    write_layout(env, dir, &state.layout(None)).await.map_err(io_failed("writing its layout", dir))?;
    Ok(state)
}

async fn recover(
    env: &Env,
    dir: &Path,
    config: JournalConfig,
    layout: &Layout,
    keep: PayloadsToKeep,
) -> Result<JournalState, JournalOpenError> {
    let (mut files, spares) = open_files(env, dir, layout).await?;
    if files.is_empty() {
        let error = FormatError::Field { field: "live file count", value: 0 };
        return Err(JournalOpenError::Layout { path: dir.join(LAYOUT_FILE), error });
    }
    let mut state = JournalState::new(layout.journal, config);
    state.next_generation = layout.next_generation;
    state.next_number = layout.files.iter().map(|file| file.number.saturating_add(1)).max().unwrap_or(1);
    state.spares = spares;
    let (lanes, tail) = replay(&mut state, &files, layout, keep).await?;
    for (id, lane) in lanes {
        let hole = |(expected, found)| JournalOpenError::Hole { dir: dir.to_path_buf(), lane: id, expected, found };
        let lane = lane.finish().map_err(hole)?;
        for index in lane.indexes() {
            let address = lane.slot(index).and_then(|slot| slot.address).expect("recovered entries are on disk");
            files.get(&address.file).expect("a replayed record lies in a live file").add_live(address.len);
        }
        state.adopt(id, lane);
    }
    if let Some(tail) = tail {
        let file = files.get(&tail.generation).expect("the last commit lies in a live file");
        rewrite_last(file, tail).await.map_err(io_failed("writing its last commit again", &file.path))?;
    }
    // The head holds the last commit, or is the first file. At most one file after it was prepared.
    let head = tail.map(|tail| tail.generation).or_else(|| files.first_key_value().map(|(generation, _)| *generation));
    let later = files.split_off(&head.map_or(0, |head| head + 1));
    state.position = tail.map_or(0, |tail| tail.position + tail.len);
    state.files = files;
    let mut later = later.into_values();
    state.next = later.next();
    for file in later {
        let JournalFile { number, path, file, bytes, .. } = &*file;
        state.spares.push(SpareFile { number: *number, path: path.clone(), file: file.clone(), bytes: *bytes });
    }
    // The last load needed these spares, and the next may.
    state.footprint = layout.files.iter().map(|file| file.bytes).sum();
    remove_unnamed(env, dir, layout).await?;
    Ok(state)
}

type LiveFiles = BTreeMap<u64, Rc<JournalFile>>;

async fn open_files(env: &Env, dir: &Path, layout: &Layout) -> Result<(LiveFiles, Vec<SpareFile>), JournalOpenError> {
    let (mut live, mut spares) = (LiveFiles::new(), Vec::new());
    for &LayoutFile { number, generation, bytes, first_sequence } in &layout.files {
        let path = dir.join(file_name(number));
        if generation == 0 {
            match open_durable(env, &path).await {
                Ok(file) => spares.push(SpareFile { number, path, file, bytes }),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(io_failed("opening", &path)(error));
                }
                // A missing spare is no loss: it holds nothing.
                Err(_) => {}
            }
            continue;
        }
        let file = open_durable(env, &path).await.map_err(io_failed("opening", &path))?;
        let file = SpareFile { number, path, file, bytes }.used_as(generation);
        file.first_sequence.set(first_sequence);
        if live.insert(generation, file).is_some() {
            let error = FormatError::Field { field: "file generation", value: generation };
            return Err(JournalOpenError::Layout { path: dir.join(LAYOUT_FILE), error });
        }
    }
    Ok((live, spares))
}

/// Applies every commit in order. Returns the lanes, and the last valid commit if there is one.
async fn replay(
    state: &mut JournalState,
    files: &LiveFiles,
    layout: &Layout,
    mut keep: PayloadsToKeep,
) -> Result<(BTreeMap<LaneId, ReplayedLane>, Option<LastCommit>), JournalOpenError> {
    let mut lanes: BTreeMap<LaneId, ReplayedLane> = BTreeMap::new();
    let mut tail = None;
    let mut end: Option<JournalEnd> = None;
    let first = files.values().next().map_or(1, |file| file.first_sequence.get());
    let mut expected = first;
    for file in files.values() {
        let (mut scanner, mut at) = (Scanner::new(&file.file, file.bytes), 0);
        loop {
            let read = scanner.commit(layout.journal, file.generation, at, expected).await;
            match read.map_err(io_failed("reading", &file.path))? {
                Ok((header, records)) => {
                    if at == 0 {
                        file.first_sequence.set(expected);
                    }
                    replay_commit(&mut lanes, file.generation, at, records, &mut keep);
                    let len = (header.total_len() as u64).next_multiple_of(BLOCK as u64);
                    tail = Some(LastCommit { generation: file.generation, position: at, len });
                    end = None;
                    at += len;
                    expected += 1;
                }
                Err(error) => {
                    // The journal ends here, unless it continues in the next file.
                    end.get_or_insert(JournalEnd { file: file.clone(), at, error });
                    break;
                }
            }
        }
    }
    state.durable = expected.saturating_sub(1);
    let end = end.expect("the scan of the last file ends");
    refuse_if_proven(files, layout, &end, expected).await?;
    Ok((lanes, tail))
}

/// The first commit that cannot be read.
struct JournalEnd {
    file: Rc<JournalFile>,
    at: u64,
    error: FormatError,
}

fn replay_commit(
    lanes: &mut BTreeMap<LaneId, ReplayedLane>,
    file: u64,
    commit_at: u64,
    records: Vec<Located>,
    keep: &mut PayloadsToKeep,
) {
    for Located { lane, record, at, len } in records {
        let address = RecordAddress { file, at: commit_at + at as u64, len: super::format::u32_of(len) };
        lanes.entry(lane).or_default().apply(lane, record, address, keep);
    }
}

/// Fails if commit `missing`, which cannot be read, was durable. A later commit's header anywhere after it proves that,
/// or the layout.
async fn refuse_if_proven(
    files: &LiveFiles,
    layout: &Layout,
    end: &JournalEnd,
    missing: u64,
) -> Result<(), JournalOpenError> {
    let JournalEnd { file, at, error } = end;
    for later in files.range(file.generation..).map(|(_, later)| later) {
        let mut scanner = Scanner::new(&later.file, later.bytes);
        let mut look = if later.generation == file.generation { at + BLOCK as u64 } else { 0 };
        while look + BLOCK as u64 <= later.bytes {
            let header = scanner.header(layout.journal, later.generation, look).await;
            if let Ok(header) = header.map_err(io_failed("reading", &later.path))?
                && header.sequence > missing
                && header.durable >= missing
            {
                return Err(JournalOpenError::Corrupt {
                    file: file.path.clone(),
                    at: FilePos(*at),
                    sequence: missing,
                    error: error.clone(),
                    proof: header.sequence,
                    proof_file: later.path.clone(),
                });
            }
            look += BLOCK as u64;
        }
    }
    if layout.durable >= missing {
        return Err(JournalOpenError::Lost { file: file.path.clone(), expected: missing, error: error.clone() });
    }
    Ok(())
}

/// Writes the last commit again in place, and syncs: it may be readable and not durable.
async fn rewrite_last(file: &JournalFile, tail: LastCommit) -> io::Result<()> {
    let len = usize::try_from(tail.len).unwrap_or(usize::MAX);
    let bytes = file.file.read_at(tail.position, len).await?;
    let mut buffer = file.file.alloc(len);
    buffer.get_mut(..bytes.len()).ok_or(io::ErrorKind::InvalidData)?.copy_from_slice(&bytes);
    file.file.write_at(buffer, tail.position).await?;
    file.file.sync().await
}

/// Removes journal files that the layout does not name: they were made but never used.
async fn remove_unnamed(env: &Env, dir: &Path, layout: &Layout) -> Result<(), JournalOpenError> {
    for entry in env.disk.list(dir).await.map_err(io_failed("listing", dir))? {
        let known = layout.files.iter().any(|file| file_name(file.number) == entry.name);
        if entry.name.ends_with(".journal") && !known {
            let path = dir.join(&entry.name);
            env.disk.remove_file(&path).await.map_err(io_failed("removing", &path))?;
        }
    }
    Ok(())
}
