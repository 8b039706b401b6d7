//! The journal's files: made with zeroes, put in order by generation, recycled.
//!
//! Owns: one file each and the layout that names them. A file is zeroed and synced before its first use, because
//! overwriting written blocks makes a sync several times cheaper than first writes. Affinity: shard-local.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::books::Books;
use super::layout::{LAYOUT_FILE, Layout, LayoutFile, file_name};
use crate::env::{Env, File, OpenMode};

/// A live file, or the one that will be.
#[derive(Debug)]
pub(super) struct JournalFile {
    pub(super) number: u64,
    pub(super) generation: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) bytes: u64,
    /// Bytes of records of entries that are not purged, truncated or rewritten elsewhere.
    pub(super) live: Cell<u64>,
    /// Sequence of its first commit, known once it is the head; 0 before.
    pub(super) first_sequence: Cell<u64>,
}

/// A file that waits for its next use. Its old commits are never valid again: the generation tells.
#[derive(Clone, Debug)]
pub(super) struct Spare {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) bytes: u64,
}

impl Spare {
    /// Makes a file of zeroes, durable with its name. What had the name was never in a layout.
    pub(super) async fn create(env: &Env, dir: &Path, number: u64, bytes: u64) -> io::Result<Self> {
        let path = dir.join(file_name(number));
        if env.disk.exists(&path).await? {
            env.disk.remove_file(&path).await?;
        }
        let file = env.disk.open(&path, OpenMode::CreateNew).await?;
        match Self::fill(env, dir, &path, file, bytes).await {
            Ok(file) => Ok(Self { number, path, file, bytes }),
            Err(error) => {
                // The disk is probably full: what was taken is given back before anyone tries again.
                let _ = env.disk.remove_file(&path).await;
                Err(error)
            }
        }
    }

    /// The zeroes are written with one sync behind them; commits are then durable one by one.
    async fn fill(env: &Env, dir: &Path, path: &Path, file: File, bytes: u64) -> io::Result<File> {
        file.zero(0..bytes).await?;
        file.sync().await?;
        env.disk.sync_dir(dir).await?;
        file.close().await?;
        env.disk.open(path, OpenMode::ReadWriteDurable).await
    }

    /// Its next use.
    pub(super) fn used_as(self, generation: u64) -> Rc<JournalFile> {
        let Self { number, path, file, bytes } = self;
        let (live, first_sequence) = (Cell::new(0), Cell::new(0));
        Rc::new(JournalFile { number, generation, path, file, bytes, live, first_sequence })
    }
}

impl JournalFile {
    fn row(&self) -> LayoutFile {
        LayoutFile {
            number: self.number,
            generation: self.generation,
            bytes: self.bytes,
            first_sequence: self.first_sequence.get(),
        }
    }
}

impl Books {
    /// The layout that names what the books hold, and `coming` as the next file.
    pub(super) fn layout(&self, coming: Option<&JournalFile>) -> Layout {
        let live = self.files.values().chain(&self.next).map(|file| file.row());
        let spare =
            |spare: &Spare| LayoutFile { number: spare.number, generation: 0, bytes: spare.bytes, first_sequence: 0 };
        let files = live.chain(coming.map(JournalFile::row)).chain(self.spares.iter().map(spare)).collect();
        Layout { journal: self.journal, next_generation: self.next_generation, durable: self.durable, files }
    }
}

/// Replaces the layout file.
pub(super) async fn write_layout(env: &Env, dir: &Path, layout: &Layout) -> io::Result<()> {
    env.disk.write_atomic(&dir.join(LAYOUT_FILE), &layout.encode()).await
}
