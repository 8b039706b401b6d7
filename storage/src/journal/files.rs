//! The journal's files, and the layout that names them.
//!
//! A file is filled with zeroes and synced before its first use: a durable write over written blocks is several times
//! cheaper than a first write. Affinity: shard-local.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::JournalError;
use super::commit::poisoned;
use super::layout::{LAYOUT_FILE, Layout, LayoutFile, file_name};
use super::state::JournalState;
use crate::env::{Env, File, OpenMode};

/// A live file, or the prepared next one.
#[derive(Debug)]
pub(super) struct JournalFile {
    pub(super) number: u64,
    pub(super) generation: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) bytes: u64,
    /// Bytes of the records of live entries: not purged, truncated or rewritten elsewhere.
    pub(super) live: Cell<u64>,
    /// Sequence of its first commit; 0 until it is the head.
    pub(super) first_sequence: Cell<u64>,
}

/// A file to be used again. Its old commits carry an old generation, so they are never taken for valid.
#[derive(Clone, Debug)]
pub(super) struct SpareFile {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) bytes: u64,
}

impl SpareFile {
    /// Makes a file of zeroes, durable with its name. An existing file of that name was never in a layout.
    pub(super) async fn create(env: &Env, dir: &Path, number: u64, bytes: u64) -> io::Result<Self> {
        let path = dir.join(file_name(number));
        if env.disk.exists(&path).await? {
            env.disk.remove_file(&path).await?;
        }
        let file = env.disk.open(&path, OpenMode::CreateNew).await?;
        match Self::fill(env, dir, &path, file, bytes).await {
            Ok(file) => Ok(Self { number, path, file, bytes }),
            Err(error) => {
                // The disk is probably full: free what this attempt took before the next one.
                let _ = env.disk.remove_file(&path).await;
                Err(error)
            }
        }
    }

    /// Writes the zeroes with one sync, then opens the file so that each later write is durable.
    async fn fill(env: &Env, dir: &Path, path: &Path, file: File, bytes: u64) -> io::Result<File> {
        file.zero(0..bytes).await?;
        file.sync().await?;
        env.disk.sync_dir(dir).await?;
        file.close().await?;
        open_durable(env, path).await
    }

    /// Begins its next use.
    pub(super) fn used_as(self, generation: u64) -> Rc<JournalFile> {
        assert!(generation > 0, "generation 0 marks a spare file");
        let Self { number, path, file, bytes } = self;
        let (live, first_sequence) = (Cell::new(0), Cell::new(0));
        Rc::new(JournalFile { number, generation, path, file, bytes, live, first_sequence })
    }
}

/// Opens a file for commits, once no earlier process has a write under way in it.
pub(super) async fn open_durable(env: &Env, path: &Path) -> io::Result<File> {
    let file = env.disk.open(path, OpenMode::ReadWriteDurable).await?;
    file.take_over().await?;
    Ok(file)
}

impl JournalFile {
    pub(super) fn add_live(&self, bytes: u32) {
        self.live.set(self.live.get() + u64::from(bytes));
        assert!(self.live.get() <= self.bytes, "live records fit in their file {}", self.path.display());
    }

    pub(super) fn remove_live(&self, bytes: u32) {
        let live = self.live.get().checked_sub(u64::from(bytes));
        self.live.set(live.expect("a record is freed once, in the file that counted it"));
    }

    fn row(&self) -> LayoutFile {
        LayoutFile {
            number: self.number,
            generation: self.generation,
            bytes: self.bytes,
            first_sequence: self.first_sequence.get(),
        }
    }
}

impl JournalState {
    /// Leaves all files to the next process, or to the next journal of this one. No write may follow.
    pub(super) fn hand_over_files(&self) -> Result<(), JournalError> {
        let live = self.files.values().chain(&self.next).map(|file| (&file.file, &file.path));
        let free = self.spares.iter().chain(&self.dropping).map(|spare| (&spare.file, &spare.path));
        for (file, path) in live.chain(free) {
            file.hand_over().map_err(|error| poisoned("unlocking", path, error))?;
        }
        Ok(())
    }

    /// The layout of all files as they are now, with `coming` as the next one.
    pub(super) fn layout(&self, coming: Option<&JournalFile>) -> Layout {
        let live = self.files.values().chain(&self.next).map(|file| file.row());
        let spare = |spare: &SpareFile| LayoutFile {
            number: spare.number,
            generation: 0,
            bytes: spare.bytes,
            first_sequence: 0,
        };
        let files = live.chain(coming.map(JournalFile::row)).chain(self.spares.iter().map(spare)).collect();
        Layout { journal: self.journal, next_generation: self.next_generation, durable: self.durable, files }
    }
}

/// Replaces the layout file.
pub(super) async fn write_layout(env: &Env, dir: &Path, layout: &Layout) -> io::Result<()> {
    env.disk.write_atomic(&dir.join(LAYOUT_FILE), &layout.encode()).await
}
