//! The open segment files of a shard, bounded in number: an idle partition needs none.
//!
//! Owns: opening, reuse, closing the least recently used. Does not own: syncs. What was written through a closed handle
//! is synced through a new one (fdatasync acts on the file, not on the handle). Shard-local.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::rc::Rc;

use crate::env::{Disk, File, OpenMode};

/// A bounded set of open files. Shard-local.
#[derive(Debug)]
pub struct Handles {
    disk: Disk,
    max: usize,
    open: RefCell<OpenFiles>,
}

/// The open files, by path and by last use.
#[derive(Debug, Default)]
struct OpenFiles {
    files: HashMap<Rc<Path>, (File, u64)>,
    used: BTreeMap<u64, Rc<Path>>,
    /// Number of uses so far, which orders them.
    now: u64,
}

impl OpenFiles {
    /// The file, which becomes the most recently used.
    fn touch(&mut self, path: &Path) -> Option<File> {
        let (file, used) = self.files.get_mut(path)?;
        let name = self.used.remove(used)?;
        self.now += 1;
        *used = self.now;
        self.used.insert(self.now, name);
        Some(file.clone())
    }

    /// Adds a file; returns the one that had its path.
    fn insert(&mut self, path: &Path, file: File) -> Option<File> {
        let before = self.remove(path);
        let path: Rc<Path> = Rc::from(path);
        self.now += 1;
        self.used.insert(self.now, Rc::clone(&path));
        self.files.insert(path, (file, self.now));
        debug_assert_eq!(self.files.len(), self.used.len(), "every open file has one last use");
        before
    }

    fn remove(&mut self, path: &Path) -> Option<File> {
        let (file, used) = self.files.remove(path)?;
        self.used.remove(&used);
        Some(file)
    }

    fn remove_oldest(&mut self) -> Option<File> {
        let (_, path) = self.used.pop_first()?;
        self.files.remove(&path).map(|(file, _)| file)
    }
}

impl Handles {
    /// At most `max` files, and at least one, stay open between uses.
    #[must_use]
    pub fn new(disk: Disk, max: usize) -> Self {
        Self { disk, max: max.max(1), open: RefCell::default() }
    }

    /// The existing file at `path`.
    ///
    /// # Errors
    /// The system's error; `NotFound` if there is none.
    pub async fn existing(&self, path: &Path) -> io::Result<File> {
        let open = self.open.borrow_mut().touch(path);
        if let Some(file) = open {
            return Ok(file);
        }
        let file = self.disk.open(path, OpenMode::ReadWrite).await?;
        self.keep(path, file.clone()).await;
        Ok(file)
    }

    /// The file at `path`, created if absent. True if it was created: its directory must then be synced.
    ///
    /// # Errors
    /// The system's error.
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

    /// Closes a file that is about to be removed.
    pub async fn forget(&self, path: &Path) {
        let gone = self.open.borrow_mut().remove(path);
        if let Some(file) = gone {
            close(file).await;
        }
    }

    /// Closes all files below a directory that is about to be removed.
    pub async fn forget_below(&self, dir: &Path) {
        let gone: Vec<File> = {
            let mut open = self.open.borrow_mut();
            let below: Vec<Rc<Path>> = open.used.values().filter(|path| path.starts_with(dir)).cloned().collect();
            below.iter().filter_map(|path| open.remove(path)).collect()
        };
        for file in gone {
            close(file).await;
        }
    }

    /// Number of open files.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.borrow().files.len()
    }

    /// Is no file open?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.borrow().files.is_empty()
    }

    /// Closes all, the least recently used first.
    pub async fn close_all(&self) {
        loop {
            let next = self.open.borrow_mut().remove_oldest();
            match next {
                Some(file) => close(file).await,
                None => return,
            }
        }
    }

    async fn keep(&self, path: &Path, file: File) {
        let over = {
            let mut open = self.open.borrow_mut();
            let before = open.insert(path, file);
            if open.files.len() > self.max { open.remove_oldest() } else { before }
        };
        if let Some(file) = over {
            close(file).await;
        }
    }
}

/// No data depends on a close: writes were awaited, and syncs go through any handle. So an error is only logged.
async fn close(file: File) {
    if let Err(error) = file.close().await {
        tracing::warn!(%error, "a segment file did not close cleanly; what was synced is safe");
    }
}
