//! Open handles of segment files, at most so many a shard: an idle partition holds none.
//!
//! Owns: opening, reuse in least-recently-used order, closing. Does not own: syncs; what was written through a handle
//! that has been given back is synced through a new one (fdatasync is of the file, not of the handle). Shard-local.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use crate::env::{Disk, File, OpenMode};

/// A bounded set of open files. Shard-local.
#[derive(Debug)]
pub struct Handles {
    disk: Disk,
    max: usize,
    /// Least recently used first. Searched from the end: a few hundred entries, most hits near it.
    open: RefCell<VecDeque<(PathBuf, File)>>,
}

impl Handles {
    /// At most `max` files stay open between uses.
    #[must_use]
    pub fn new(disk: Disk, max: usize) -> Self {
        Self { disk, max: max.max(1), open: RefCell::default() }
    }

    /// The existing file at `path`.
    ///
    /// # Errors
    /// The system's; `NotFound` if there is none.
    pub async fn existing(&self, path: &Path) -> io::Result<File> {
        if let Some(file) = self.take(path) {
            return Ok(file);
        }
        let file = self.disk.open(path, OpenMode::ReadWrite).await?;
        self.keep(path, file.clone()).await;
        Ok(file)
    }

    /// The file at `path`, made if it is not there. True if it was made: its directory must then be synced.
    ///
    /// # Errors
    /// The system's.
    pub async fn or_create(&self, path: &Path) -> io::Result<(File, bool)> {
        match self.existing(path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = self.disk.open(path, OpenMode::CreateNew).await?;
                self.keep(path, file.clone()).await;
                Ok((file, true))
            }
            other => other.map(|file| (file, false)),
        }
    }

    /// Lets go of the handle of a file about to be removed.
    pub async fn forget(&self, path: &Path) {
        let gone = {
            let mut open = self.open.borrow_mut();
            let at = open.iter().rposition(|(p, _)| p == path);
            at.and_then(|at| open.remove(at))
        };
        if let Some((_, file)) = gone {
            close(file).await;
        }
    }

    /// Lets go of the handles of all files below a directory about to be removed.
    pub async fn forget_below(&self, dir: &Path) {
        let gone: Vec<File> = {
            let mut open = self.open.borrow_mut();
            let (gone, stay) = std::mem::take(&mut *open).into_iter().partition(|(path, _)| path.starts_with(dir));
            *open = stay;
            let gone: VecDeque<(PathBuf, File)> = gone;
            gone.into_iter().map(|(_, file)| file).collect()
        };
        for file in gone {
            close(file).await;
        }
    }

    /// How many are open now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Is none open?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.borrow().is_empty()
    }

    /// Closes all.
    pub async fn close_all(&self) {
        let all = std::mem::take(&mut *self.open.borrow_mut());
        for (_, file) in all {
            close(file).await;
        }
    }

    fn take(&self, path: &Path) -> Option<File> {
        let mut open = self.open.borrow_mut();
        let at = open.iter().rposition(|(p, _)| p == path)?;
        let entry = open.remove(at)?;
        let file = entry.1.clone();
        open.push_back(entry);
        Some(file)
    }

    async fn keep(&self, path: &Path, file: File) {
        let over = {
            let mut open = self.open.borrow_mut();
            open.push_back((path.to_owned(), file));
            if open.len() > self.max { open.pop_front() } else { None }
        };
        if let Some((_, file)) = over {
            close(file).await;
        }
    }
}

/// Nothing unsynced hangs on a close: writes were awaited, syncs go through any handle. So its error is only told.
async fn close(file: File) {
    if let Err(error) = file.close().await {
        tracing::warn!(%error, "a segment file did not close cleanly; what was synced is safe");
    }
}
