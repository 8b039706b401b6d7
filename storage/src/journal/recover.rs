//! Opening a journal: what is there, what it says, where to go on.
//!
//! Owns: the line between a torn tail and corruption. One commit is in flight at most and carries the last sequence
//! known durable; so the first commit that cannot be read ends the journal, unless a later one of a live generation is
//! whole, or the layout was written when more was durable: then it is corruption and the journal is refused. The last
//! commit found may have been written but never synced by a process that died; it is written again in place, with
//! the same bytes, and synced before anybody relies on it. Affinity: shard-local.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;

use super::books::Books;
use super::files::{JournalFile, Spare, write_layout};
use super::format::{BLOCK, CommitHeader, FormatError, Located, Record};
use super::lane::{LaneState, MetaPlaces, Place, Slot};
use super::layout::{LAYOUT_FILE, Layout, LayoutFile, file_name};
use super::scan::Scanner;
use super::{JournalConfig, JournalOpenError, LaneEntry, Payload};
use crate::env::{Env, OpenMode};
use crate::model::{EntryId, FilePos, LaneId, LogIndex};

/// While a journal is opened, its memory may be this many times what it is later: the first commits bring it down.
const KEPT_FACTOR: usize = 4;

fn io_failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> JournalOpenError + use<'a> {
    move |error| JournalOpenError::Io { action, path: path.to_path_buf(), error }
}

/// Where a commit lies.
#[derive(Clone, Copy)]
struct Tail {
    generation: u64,
    position: u64,
    len: u64,
}

/// Which entries' payloads stay in memory while the journal is read: those that will be applied at once, so that they
/// are not read twice.
struct Keep {
    /// Per lane the last entry whose effects are known already.
    covered: Option<BTreeMap<LaneId, LogIndex>>,
    /// How much more may stay. Bytes.
    left: usize,
}

impl Keep {
    fn payload(&mut self, lane: LaneId, index: LogIndex, payload: Payload) -> Option<Payload> {
        let covered = self.covered.as_ref()?.get(&lane);
        let fits = covered.is_none_or(|covered| *covered < index) && payload.len() <= self.left;
        self.left -= if fits { payload.len() } else { 0 };
        fits.then_some(payload)
    }
}

/// A lane as its records tell it, the later the truer.
#[derive(Default)]
struct Replayed {
    purged: Option<EntryId>,
    committed: Option<EntryId>,
    vote: Option<Bytes>,
    meta: MetaPlaces,
    entries: BTreeMap<u64, Slot>,
}

impl Replayed {
    fn apply(&mut self, lane: LaneId, record: Record, place: Place, keep: &mut Keep) {
        let mut slot = |entry: LaneEntry| {
            let payload = keep.payload(lane, entry.id.index, entry.payload);
            Slot { term: entry.id.term, place: Some(place), payload }
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
                self.meta.vote = place.file;
            }
            Record::TruncateAfter(keep) => {
                self.entries.split_off(&keep.map_or(0, |keep| keep.index.0.saturating_add(1)));
            }
            Record::Purge(upto) => {
                self.entries = self.entries.split_off(&upto.index.0.saturating_add(1));
                if self.purged.is_none_or(|purged| purged.index <= upto.index) {
                    self.purged = Some(upto);
                    self.meta.purged = place.file;
                }
            }
            Record::Committed(committed) => {
                self.committed = committed;
                self.meta.committed = place.file;
            }
            Record::Forget => *self = Self::default(),
        }
    }

    /// The lane, if it has no hole; else the index expected and the one found.
    fn finish(self) -> Result<LaneState, (LogIndex, LogIndex)> {
        let Self { purged, committed, vote, meta, entries } = self;
        let mut lane = LaneState::with_past(purged, vote, meta);
        for (index, slot) in entries {
            if let Some(expected) = lane.expected().filter(|expected| expected.0 != index) {
                return Err((expected, LogIndex(index)));
            }
            lane.push(EntryId { term: slot.term, index: LogIndex(index) }, slot);
        }
        // The mark rides along with commits and may be ahead of a torn tail.
        lane.committed = match (committed, lane.last()) {
            (Some(committed), Some(last)) => Some(if committed.index > last.index { last } else { committed }),
            _ => None,
        };
        Ok(lane)
    }
}

/// Opens or makes the journal in `dir`. With `covered`, payloads of entries behind it stay in memory as far as they fit in
/// a few times what a running journal keeps.
pub(super) async fn open(
    env: &Env,
    dir: &Path,
    config: JournalConfig,
    covered: Option<BTreeMap<LaneId, LogIndex>>,
) -> Result<Books, JournalOpenError> {
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
    let keep = Keep { covered, left: config.memory_bytes.saturating_mul(KEPT_FACTOR) };
    recover(env, dir, config, &layout, keep).await
}

async fn create(env: &Env, dir: &Path, config: JournalConfig) -> Result<Books, JournalOpenError> {
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
    let mut books = Books::new(env.rng.next_u64(), config);
    let spare = Spare::create(env, dir, books.next_number, books.next_file_bytes()).await;
    let head = spare.map_err(io_failed("making its first file", dir))?.used_as(books.next_generation);
    head.first_sequence.set(1);
    books.next_number += 1;
    books.next_generation += 1;
    books.files.insert(head.generation, head);
    write_layout(env, dir, &books.layout(None)).await.map_err(io_failed("writing its layout", dir))?;
    Ok(books)
}

async fn recover(
    env: &Env,
    dir: &Path,
    config: JournalConfig,
    layout: &Layout,
    keep: Keep,
) -> Result<Books, JournalOpenError> {
    let (mut files, spares) = open_files(env, dir, layout).await?;
    let mut books = Books::new(layout.journal, config);
    books.next_generation = layout.next_generation;
    books.next_number = layout.files.iter().map(|file| file.number + 1).max().unwrap_or(1);
    books.spares = spares;
    let (lanes, tail) = replay(&mut books, &files, layout, keep).await?;
    for (id, lane) in lanes {
        let hole = |(expected, found)| JournalOpenError::Hole { dir: dir.to_path_buf(), lane: id, expected, found };
        let lane = lane.finish().map_err(hole)?;
        for index in lane.indexes() {
            if let Some(place) = lane.slot(index).and_then(|slot| slot.place)
                && let Some(file) = files.get(&place.file)
            {
                file.live.set(file.live.get() + u64::from(place.len));
            }
        }
        books.adopt(id, lane);
    }
    if let Some((file, tail)) = tail.and_then(|tail| Some((files.get(&tail.generation)?, tail))) {
        settle(file, tail).await.map_err(io_failed("settling its last commit", &file.path))?;
    }
    // The head is where the last commit lies, or the first file; at most one more is ready after it.
    let head = tail.map(|tail| tail.generation).or_else(|| files.first_key_value().map(|(generation, _)| *generation));
    let later = files.split_off(&head.map_or(0, |head| head + 1));
    books.position = tail.map_or(0, |tail| tail.position + tail.len);
    books.files = files;
    let mut later = later.into_values();
    books.next = later.next();
    for file in later {
        let JournalFile { number, path, file, bytes, .. } = &*file;
        books.spares.push(Spare { number: *number, path: path.clone(), file: file.clone(), bytes: *bytes });
    }
    // Spares are there because they were needed: the load may be the same again.
    books.footprint = layout.files.iter().map(|file| file.bytes).sum();
    remove_strangers(env, dir, layout).await?;
    Ok(books)
}

type LiveFiles = BTreeMap<u64, Rc<JournalFile>>;

async fn open_files(env: &Env, dir: &Path, layout: &Layout) -> Result<(LiveFiles, Vec<Spare>), JournalOpenError> {
    let (mut live, mut spares) = (LiveFiles::new(), Vec::new());
    for &LayoutFile { number, generation, bytes, first_sequence } in &layout.files {
        let path = dir.join(file_name(number));
        if generation == 0 {
            // A spare that is not there is no loss.
            if let Ok(file) = env.disk.open(&path, OpenMode::ReadWriteDurable).await {
                spares.push(Spare { number, path, file, bytes });
            }
            continue;
        }
        let file = env.disk.open(&path, OpenMode::ReadWriteDurable).await.map_err(io_failed("opening", &path))?;
        let file = Spare { number, path, file, bytes }.used_as(generation);
        file.first_sequence.set(first_sequence);
        live.insert(generation, file);
    }
    Ok((live, spares))
}

/// Applies every commit in order. Returns the lanes and the last commit.
async fn replay(
    books: &mut Books,
    files: &LiveFiles,
    layout: &Layout,
    mut keep: Keep,
) -> Result<(BTreeMap<LaneId, Replayed>, Option<Tail>), JournalOpenError> {
    let mut lanes: BTreeMap<LaneId, Replayed> = BTreeMap::new();
    let mut tail = None;
    let mut end: Option<End> = None;
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
                    tail = Some(Tail { generation: file.generation, position: at, len });
                    end = None;
                    at += len;
                    expected += 1;
                }
                Err(error) => {
                    // Where the journal ends, unless it goes on in the next file.
                    end.get_or_insert(End { file: file.clone(), at, error });
                    break;
                }
            }
        }
    }
    books.durable = expected.saturating_sub(1);
    match end {
        Some(end) => refuse_if_proven(files, layout, &end, expected).await?,
        None => debug_assert!(files.is_empty(), "every file's scan ends somewhere"),
    }
    Ok((lanes, tail))
}

/// The first commit that cannot be read.
struct End {
    file: Rc<JournalFile>,
    at: u64,
    error: FormatError,
}

fn replay_commit(
    lanes: &mut BTreeMap<LaneId, Replayed>,
    file: u64,
    commit_at: u64,
    records: Vec<Located>,
    keep: &mut Keep,
) {
    for Located { lane, record, at, len } in records {
        let place = Place { file, at: commit_at + at as u64, len: super::format::u32_of(len) };
        lanes.entry(lane).or_default().apply(lane, record, place, keep);
    }
}

/// Looks for proof that commit `missing` was durable: a later commit's header anywhere from its place on, or the
/// layout.
async fn refuse_if_proven(files: &LiveFiles, layout: &Layout, end: &End, missing: u64) -> Result<(), JournalOpenError> {
    let End { file, at, error } = end;
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

/// Writes the last commit again where it is, and syncs.
async fn settle(file: &JournalFile, tail: Tail) -> io::Result<()> {
    let len = usize::try_from(tail.len).unwrap_or(usize::MAX);
    let bytes = file.file.read_at(tail.position, len).await?;
    let mut buffer = file.file.alloc(len);
    buffer.get_mut(..bytes.len()).ok_or(io::ErrorKind::InvalidData)?.copy_from_slice(&bytes);
    file.file.write_at(buffer, tail.position).await?;
    file.file.sync().await
}

/// Removes journal files that the layout does not name: made, but never in use.
async fn remove_strangers(env: &Env, dir: &Path, layout: &Layout) -> Result<(), JournalOpenError> {
    for entry in env.disk.list(dir).await.map_err(io_failed("listing", dir))? {
        let known = layout.files.iter().any(|file| file_name(file.number) == entry.name);
        if entry.name.ends_with(".journal") && !known {
            let path = dir.join(&entry.name);
            env.disk.remove_file(&path).await.map_err(io_failed("removing", &path))?;
        }
    }
    Ok(())
}
