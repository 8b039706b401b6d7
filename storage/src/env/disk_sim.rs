//! An in-memory disk that loses what was not synced.
//!
//! **Fault model.**
//! - A write is visible to reads from its start and durable only after a sync that began after the write completed.
//!   Every operation takes a random virtual time; a crash may happen within it.
//! - At [`SimDisk::crash`] each write that is not durable is, by the seed, kept, lost, or torn: each sector of 512 or
//!   4096 bytes is kept or lost. Changes of length are kept or lost.
//! - Names are kept per directory: at a crash, a random prefix of the changes in a directory since its last
//!   [`super::Disk::sync_dir`] survives. A file's sync does not make its name durable. An entry whose directory did
//!   not survive is lost.
//! - On demand, by operation and part of the path: EIO on open, read, write or sync; ENOSPC when the disk's capacity
//!   is reached. After a failed sync the writes it covered never become durable by a later one (Linux drops the
//!   error and the pages). Lengths do: the file system has them in its own journal, and a file system that cannot write
//!   that accepts nothing more.
//! - On demand: bit rot in what is stored, [`SimDisk::flip_bit`] and [`SimDisk::overwrite`]; short and misdirected
//!   writes, [`SimDisk::twist`]; syncs that do nothing, [`SimDisk::lie`].
//! - On demand: every operation takes longer, [`SimDisk::set_slowness`].
//! - Not modelled: two sectors of one 512-byte block torn apart; a write of a process that was killed and that lands
//!   when the next one runs ([`super::File::take_over`] keeps the two apart).
//!
//! Owns: bytes and names of one simulated machine. It outlives the tasks: [`super::sim::World::kill_node`] ends a
//! process, `crash` cuts the power. Affinity: shard-local.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::lock::Mutex;

mod content;
mod faults;
mod state;
mod tamper;

pub use faults::{Fault, Operation, Twist, TwistKind};

use self::content::{Change, Content};
use self::state::{Inode, NameChange, SimDiskState, SimNode, absent, parent};
use super::disk::{DirEntry, OpenMode};
use super::executor_sim::Executor;
use super::rng::Rng;

/// Operations so far: for tests that crash after the n-th.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub writes: u64,
    pub syncs: u64,
    pub reads: u64,
    pub bytes_written: u64,
}

/// One simulated machine's disk. Clones share it.
#[derive(Clone)]
pub struct SimDisk {
    executor: Rc<Executor>,
    state: Rc<RefCell<SimDiskState>>,
    /// Replacements of files come one after the other, as on a shard's helper thread.
    replacing: Rc<Mutex<()>>,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimDisk")
    }
}

impl SimDisk {
    pub(super) fn new(executor: Rc<Executor>, seed: u64) -> Self {
        let state = SimDiskState {
            rng: Rng::seeded(seed),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            contents: BTreeMap::new(),
            next_inode: 1,
            capacity: u64::MAX,
            faults: Vec::new(),
            twists: Vec::new(),
            lies: Vec::new(),
            slowness: 1,
            counts: Counts::default(),
        };
        Self { executor, state: Rc::new(RefCell::new(state)), replacing: Rc::default() }
    }

    /// Cuts the power: see the fault model. Kill the node's tasks first.
    pub fn crash(&self) {
        self.state.borrow_mut().crash();
    }

    /// The device completes what it was given before the process died: a later sync covers it.
    pub(super) fn process_died(&self) {
        let mut state = self.state.borrow_mut();
        let all = state.contents.values_mut().flat_map(|content| &mut content.pending);
        all.for_each(|pending| pending.completed = true);
    }

    /// Operations so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state.borrow().counts
    }

    async fn delay(&self, min_us: u64, spread_us: u64) {
        let micros = {
            let state = self.state.borrow();
            (min_us + state.rng.below(spread_us)) * state.slowness
        };
        let mut sleep = self.executor.sleep_until(self.executor.now() + Duration::from_micros(micros));
        std::future::poll_fn(|cx| sleep.poll_sleep(cx)).await;
    }

    pub(super) async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<SimHandle> {
        self.delay(5, 20).await;
        let mut state = self.state.borrow_mut();
        state.fault(Operation::Open, path)?;
        let inode = match (state.file(path), mode) {
            (Ok(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Err(_), OpenMode::CreateNew) => state.create(path)?,
            (found, _) => found?,
        };
        let (writable, durable) = (mode != OpenMode::Read, mode == OpenMode::ReadWriteDurable);
        Ok(SimHandle { disk: self.clone(), inode, path: Rc::from(path), writable, durable })
    }

    pub(super) async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.delay(5, 20).await;
        let mut state = self.state.borrow_mut();
        let mut dirs: Vec<&Path> = path.ancestors().filter(|dir| !dir.as_os_str().is_empty()).collect();
        while let Some(dir) = dirs.pop() {
            if state.require_dir(dir).is_err() {
                if state.names.contains_key(dir) {
                    return Err(io::ErrorKind::NotADirectory.into());
                }
                state.do_name(parent(dir), NameChange::Put(dir.to_path_buf(), SimNode::Dir));
                state.sync_dir(&parent(dir));
            }
        }
        Ok(())
    }

    pub(super) async fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.delay(5, 20).await;
        let mut state = self.state.borrow_mut();
        state.file(path)?;
        state.do_name(parent(path), NameChange::Remove(path.to_path_buf()));
        Ok(())
    }

    pub(super) async fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.delay(5, 20).await;
        let mut state = self.state.borrow_mut();
        if state.names.get(path) != Some(&SimNode::Dir) {
            return Err(absent(path));
        }
        let mut below: Vec<PathBuf> = state.names.keys().filter(|name| name.starts_with(path)).cloned().collect();
        while let Some(name) = below.pop() {
            state.do_name(parent(&name), NameChange::Remove(name));
        }
        Ok(())
    }

    pub(super) async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.delay(5, 20).await;
        let mut state = self.state.borrow_mut();
        state.file(from)?;
        state.require_dir(&parent(to))?;
        state.do_name(parent(to), NameChange::Rename(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    pub(super) async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.delay(5, 20).await;
        let state = self.state.borrow();
        state.require_dir(dir)?;
        let inside = state.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        let entries = inside.map(|(path, node)| DirEntry {
            name: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            len: match node {
                SimNode::Dir => 0,
                SimNode::File(inode) => state.contents.get(inode).map_or(0, |content| content.live.len() as u64),
            },
            is_dir: *node == SimNode::Dir,
        });
        Ok(entries.collect())
    }

    pub(super) async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.delay(10, 100).await;
        let mut state = self.state.borrow_mut();
        state.fault(Operation::SyncDir, dir)?;
        state.require_dir(dir)?;
        if !state.lies_about(dir) {
            state.sync_dir(dir);
        }
        Ok(())
    }

    pub(super) async fn sync_below(&self, dir: &Path) -> io::Result<()> {
        let covered: Vec<(Inode, BTreeSet<u64>)> = {
            let state = self.state.borrow();
            let below = state.names.iter().filter(|(path, _)| path.starts_with(dir) && !state.lies_about(path));
            let inodes =
                below.filter_map(|(_, node)| if let SimNode::File(inode) = node { Some(*inode) } else { None });
            let contents = inodes.filter_map(|inode| Some((inode, state.contents.get(&inode)?)));
            contents.map(|(inode, content)| (inode, content.covered())).collect()
        };
        self.delay(100, 2000).await;
        let mut state = self.state.borrow_mut();
        state.counts.syncs += 1;
        let failed = state.fault(Operation::Sync, dir);
        for (inode, covered) in covered {
            match state.contents.get_mut(&inode) {
                Some(content) if failed.is_ok() => content.make_durable(&covered),
                Some(content) => content.doom(&covered),
                None => {}
            }
        }
        if failed.is_ok() {
            let dirs: BTreeSet<PathBuf> = state.name_changes.iter().map(|(dir, _)| dir.clone()).collect();
            dirs.iter().filter(|changed| changed.starts_with(dir)).for_each(|changed| state.sync_dir(changed));
        }
        failed
    }

    pub(super) async fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.state.borrow().names.contains_key(path))
    }

    pub(super) async fn read_all(&self, path: &Path) -> io::Result<Bytes> {
        let file = self.open(path, OpenMode::Read).await?;
        let len = file.len().await?;
        file.read_at(0, usize::try_from(len).unwrap_or(usize::MAX)).await
    }

    pub(super) async fn write_atomic(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_os_string();
        name.push(".tmp");
        let temporary = path.with_file_name(name);
        let _alone = self.replacing.lock().await;
        if self.exists(&temporary).await? {
            self.remove_file(&temporary).await?;
        }
        let file = self.open(&temporary, OpenMode::CreateNew).await?;
        // As `write_all`: continue after a short write.
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            written += file.write_at(rest, written as u64).await?;
        }
        file.sync().await?;
        self.rename(&temporary, path).await?;
        self.sync_dir(&parent(path)).await
    }

    pub(super) async fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let state = self.state.borrow();
        Ok(state.capacity.saturating_sub(state.used()))
    }
}

/// An open simulated file. It stays readable after its name is removed, until the crash.
#[derive(Clone, Debug)]
pub(super) struct SimHandle {
    disk: SimDisk,
    inode: Inode,
    path: Rc<Path>,
    writable: bool,
    /// A write ends with a sync.
    durable: bool,
}

impl SimHandle {
    fn content<T>(&self, act: impl FnOnce(&mut Content) -> T) -> io::Result<T> {
        let mut state = self.disk.state.borrow_mut();
        state.contents.get_mut(&self.inode).map(act).ok_or_else(|| absent(&self.path))
    }

    async fn change(&self, change: Change, grows_to: u64) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        {
            let mut state = self.disk.state.borrow_mut();
            state.fault(Operation::Write, &self.path)?;
            let len = state.contents.get(&self.inode).map_or(0, |content| content.live.len() as u64);
            if state.used().saturating_add(grows_to.saturating_sub(len)) > state.capacity {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.counts.writes += 1;
            if let Change::Write { bytes, .. } = &change {
                state.counts.bytes_written += bytes.len() as u64;
            }
        }
        let number = self.content(|content| content.start(change))?;
        self.disk.delay(10, 200).await;
        self.content(|content| content.complete(number))
    }

    pub(super) async fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        let mut place = usize::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut bytes = bytes;
        let twist = self.disk.state.borrow_mut().twist(&self.path);
        match twist {
            Some(TwistKind::Short) => bytes = bytes.get(..bytes.len() / 1024 * 512).unwrap_or_default(),
            Some(TwistKind::Misdirected(by)) => {
                let len = self.content(|content| content.live.len())?;
                let further = place + by;
                place = if further + bytes.len() <= len { further } else { place.saturating_sub(by) };
            }
            None => {}
        }
        let change = Change::Write { at: place, bytes: bytes.to_vec() };
        self.change(change, (place + bytes.len()) as u64).await?;
        if self.durable {
            self.sync().await?;
        }
        Ok(bytes.len())
    }

    pub(super) async fn set_len(&self, len: u64) -> io::Result<()> {
        let change = Change::SetLen(usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?);
        self.change(change, len).await
    }

    pub(super) async fn read_at(&self, at: u64, len: usize) -> io::Result<Bytes> {
        self.disk.delay(10, 100).await;
        {
            let mut state = self.disk.state.borrow_mut();
            state.fault(Operation::Read, &self.path)?;
            state.counts.reads += 1;
        }
        let at = usize::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.content(|content| {
            let start = at.min(content.live.len());
            let end = start.saturating_add(len).min(content.live.len());
            Bytes::copy_from_slice(&content.live[start..end])
        })
    }

    pub(super) async fn sync(&self) -> io::Result<()> {
        let lies = self.disk.state.borrow().lies_about(&self.path);
        let covered = if lies { BTreeSet::new() } else { self.content(|content| content.covered())? };
        self.disk.delay(10, 300).await;
        let failed = {
            let mut state = self.disk.state.borrow_mut();
            state.counts.syncs += 1;
            state.fault(Operation::Sync, &self.path)
        };
        self.content(|content| {
            if failed.is_ok() {
                content.make_durable(&covered);
            } else {
                content.doom(&covered);
            }
        })?;
        failed
    }

    pub(super) async fn len(&self) -> io::Result<u64> {
        self.content(|content| content.live.len() as u64)
    }
}

#[cfg(test)]
mod tests;
