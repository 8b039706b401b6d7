//! Chunks of objects as files on the local disk, within a byte budget.
//!
//! Owns: the files of one directory, their index (moka, least recently used, weighed in 4 KiB blocks), the space that
//! is reserved before a write. Does not own: what a chunk is (`locate`), fetching it (`hydrate`), checking it (the
//! reader verifies run sums on every read, so a torn or foreign file is a miss and never an answer). Shard-local; the
//! index itself is `Send` because moka wants that.
//!
//! Budget: indexed bytes + reserved bytes + bytes of evicted files not yet unlinked stay within `bytes`. An eighth of
//! it (at least one chunk) is headroom for the last two. Least recently used and not TinyLFU: a scan's read-ahead would
//! be refused admission by frequency, which is exactly what must be kept for the next few hundred milliseconds.
//! The directory is listed once, at start; the name of a file says everything about it. Files are not synced: after a
//! crash a chunk may hold any bytes, which its checksums show.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tidewater_storage::env::{Env, File, OpenMode};

use crate::keys::{ObjectKey, ObjectName};

/// Files are written in blocks of this size (O_DIRECT).
const BLOCK: u64 = 4096;
/// Bytes of one write, a multiple of [`BLOCK`].
const WRITE_BYTES: usize = 512 << 10;
/// What a file of the cache ends in.
const SUFFIX: &str = ".chunk";
/// How often a file is opened that another task unlinks at the same time.
const REOPEN_TRIES: usize = 4;
/// Longest file name that ext4 and XFS take.
const NAME_BYTES_MAX: usize = 255;

/// A contiguous piece of one object. Objects are immutable and keys never used twice, so this names bytes for ever.
/// *Message*.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChunkId {
    pub object: ObjectName,
    /// Which bytes of it.
    pub bytes: Range<u64>,
}

impl ChunkId {
    /// Bytes of the chunk.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes.end.saturating_sub(self.bytes.start)
    }

    /// Is nothing inside?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `<key with ~ for />@<first byte>-<bytes>.chunk`; `None` when that is longer than a file name may be.
    fn file_name(&self) -> Option<String> {
        let name =
            format!("{}@{}-{}{SUFFIX}", self.object.key().as_str().replace('/', "~"), self.bytes.start, self.len());
        (name.len() <= NAME_BYTES_MAX).then_some(name)
    }

    fn from_file_name(name: &str) -> Option<Self> {
        let (object, place) = name.strip_suffix(SUFFIX)?.rsplit_once('@')?;
        let (start, len) = place.split_once('-')?;
        let (start, len) = (start.parse::<u64>().ok()?, len.parse::<u64>().ok()?);
        let object = ObjectName::parse(&ObjectKey::new(&object.replace('~', "/")).ok()?)?;
        let id = Self { object, bytes: start..start.checked_add(len)? };
        // Numbers have several spellings (`007`), a chunk's file has one.
        (id.file_name()? == name).then_some(id)
    }

    fn blocks(&self) -> u64 {
        self.len().div_ceil(BLOCK)
    }
}

/// The disk chunk cache of one shard. *Shard-local*, cheap to clone.
#[derive(Clone)]
pub struct ChunkCache {
    inner: Rc<Inner>,
}

struct Inner {
    env: Env,
    dir: PathBuf,
    index: Cache<ChunkId, ()>,
    /// Chunks that moka evicted and whose files are not unlinked yet. A std mutex because moka's listener must be
    /// `Sync`; it is only locked for a push or a take, on this thread.
    evicted: Arc<Mutex<Vec<ChunkId>>>,
    headroom_blocks: u64,
    /// Reserved or being unlinked.
    outstanding_blocks: Cell<u64>,
}

/// Disk space set aside for one chunk; gives it back when dropped. *Shard-local*.
pub struct Reservation {
    cache: Rc<Inner>,
    blocks: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.cache.release(self.blocks);
    }
}

impl Inner {
    fn release(&self, blocks: u64) {
        self.outstanding_blocks.set(self.outstanding_blocks.get().saturating_sub(blocks));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn take_evicted(&self) -> Vec<ChunkId> {
        match self.evicted.lock() {
            Ok(mut list) => std::mem::take(&mut *list),
            Err(poisoned) => std::mem::take(&mut *poisoned.into_inner()),
        }
    }
}

impl ChunkCache {
    /// Opens the cache in `dir` (made if absent) with a budget of `bytes`. What an earlier run left is taken into the
    /// index by its name; files with other names are removed.
    ///
    /// # Errors
    /// The directory cannot be made or listed.
    pub async fn open(env: Env, dir: &Path, bytes: u64) -> io::Result<Self> {
        env.disk.create_dir_all(dir).await?;
        let blocks = bytes / BLOCK;
        let headroom_blocks = blocks.div_ceil(8);
        let evicted = Arc::new(Mutex::new(Vec::new()));
        let listener = Arc::clone(&evicted);
        let index = Cache::builder()
            .max_capacity(blocks - headroom_blocks)
            .weigher(|id: &ChunkId, ()| u32::try_from(id.blocks()).unwrap_or(u32::MAX))
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(move |id: Arc<ChunkId>, (), cause| {
                if cause != RemovalCause::Replaced
                    && let Ok(mut list) = listener.lock()
                {
                    list.push((*id).clone());
                }
            })
            .build();
        let outstanding_blocks = Cell::new(0);
        let inner = Rc::new(Inner { env, dir: dir.to_owned(), index, evicted, headroom_blocks, outstanding_blocks });
        let cache = Self { inner };
        cache.adopt_leftovers().await?;
        Ok(cache)
    }

    async fn adopt_leftovers(&self) -> io::Result<()> {
        let inner = &self.inner;
        for entry in inner.env.disk.list(&inner.dir).await?.into_iter().filter(|e| !e.is_dir) {
            match ChunkId::from_file_name(&entry.name) {
                Some(id) if entry.len >= id.len() => inner.index.insert(id, ()),
                _ => inner.env.disk.remove_file(&inner.path(&entry.name)).await?,
            }
        }
        self.unlink_evicted().await;
        Ok(())
    }

    /// Is the chunk in the cache? Does not count as a use.
    #[must_use]
    pub fn contains(&self, id: &ChunkId) -> bool {
        self.inner.index.contains_key(id)
    }

    /// Sets disk space aside for a chunk, to be asked for before it is written. `None`: the headroom is taken (many
    /// chunks on their way, or the budget smaller than eight chunks); read without caching.
    #[must_use]
    pub fn reserve(&self, id: &ChunkId) -> Option<Reservation> {
        id.file_name()?;
        let (blocks, inner) = (id.blocks(), &self.inner);
        let taken = inner.outstanding_blocks.get().checked_add(blocks)?;
        if taken > inner.headroom_blocks || blocks > inner.index.policy().max_capacity().unwrap_or(0) {
            return None;
        }
        inner.outstanding_blocks.set(taken);
        Some(Reservation { cache: Rc::clone(inner), blocks })
    }

    /// Bytes `within` the object, which must lie inside the chunk. `None` is a miss; so is a file that is gone, short
    /// or unreadable, which is then forgotten.
    pub async fn read_cached(&self, id: &ChunkId, within: Range<u64>) -> Option<Bytes> {
        let inner = &self.inner;
        inner.index.get(id)?;
        let at = within.start.checked_sub(id.bytes.start)?;
        let len = usize::try_from(within.end.checked_sub(within.start)?).ok()?;
        match self.read_file(id, at, len).await {
            Ok(bytes) if bytes.len() == len => Some(bytes),
            Ok(_) => self.missed(id, "short").await,
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.missed(id, "gone").await,
            Err(error) => {
                tracing::warn!(%error, object = %id.object, "chunk file unreadable, reading the bucket");
                self.missed(id, "unreadable").await
            }
        }
    }

    async fn read_file(&self, id: &ChunkId, at: u64, len: usize) -> io::Result<Bytes> {
        let name = id.file_name().ok_or(io::ErrorKind::NotFound)?;
        let file = self.inner.env.disk.open(&self.inner.path(&name), OpenMode::Read).await?;
        let bytes = file.read_at(at, len).await;
        file.close().await?;
        bytes
    }

    async fn missed(&self, id: &ChunkId, why: &'static str) -> Option<Bytes> {
        tracing::debug!(object = %id.object, why, "chunk dropped from the cache");
        self.forget(id).await;
        None
    }

    /// Keeps a chunk. An error of the disk only means that it is not kept.
    pub async fn store(&self, id: &ChunkId, bytes: &Bytes, reservation: Reservation) {
        if bytes.len() as u64 != id.len() {
            return;
        }
        match self.write_file(id, bytes).await {
            Ok(()) => {
                self.inner.index.insert(id.clone(), ());
                drop(reservation);
            }
            // The cache's own unlinking was faster: the chunk is fetched again when it is wanted.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::debug!(%error, object = %id.object, "chunk not kept: its file was removed meanwhile");
            }
            Err(error) => {
                tracing::warn!(
                    %error, object = %id.object, dir = %self.inner.dir.display(),
                    "chunk not kept: the cache's disk refused it; reads go to the bucket until it has room"
                );
                if let Some(name) = id.file_name() {
                    self.inner.env.disk.remove_file(&self.inner.path(&name)).await.ok();
                }
            }
        }
        self.unlink_evicted().await;
    }

    async fn write_file(&self, id: &ChunkId, bytes: &Bytes) -> io::Result<()> {
        let name = id.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let path = self.inner.path(&name);
        let file = self.open_to_write(&path).await?;
        let wrote = write_steps(&file, bytes).await;
        file.close().await?;
        wrote
    }

    /// A file that is there may be one that was evicted and is being unlinked just now: then it is made again.
    async fn open_to_write(&self, path: &Path) -> io::Result<File> {
        let disk = &self.inner.env.disk;
        for _ in 0..REOPEN_TRIES {
            match disk.open(path, OpenMode::CreateNew).await {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other,
            }
            match disk.open(path, OpenMode::ReadWrite).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// Removes a chunk (its sums did not hold, its object is gone).
    pub async fn forget(&self, id: &ChunkId) {
        self.inner.index.invalidate(id);
        self.unlink_evicted().await;
    }

    /// Bytes of the indexed chunks, in whole blocks.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.inner.index.run_pending_tasks();
        self.inner.index.weighted_size() * BLOCK
    }

    /// Lets moka evict what is over, then unlinks it. Until a file is unlinked its blocks count as outstanding.
    async fn unlink_evicted(&self) {
        let inner = &self.inner;
        inner.index.run_pending_tasks();
        let gone = inner.take_evicted();
        let blocks: u64 = gone.iter().map(ChunkId::blocks).sum();
        inner.outstanding_blocks.set(inner.outstanding_blocks.get() + blocks);
        let _counted = Reservation { cache: Rc::clone(inner), blocks };
        for name in gone.iter().filter(|id| !inner.index.contains_key(*id)).filter_map(ChunkId::file_name) {
            if let Err(error) = inner.env.disk.remove_file(&inner.path(&name)).await
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, name, "evicted chunk file not removed; the next start removes it");
            }
        }
    }
}

/// Writes a chunk step by step, so that copying it never keeps the shard from its other work for long.
async fn write_steps(file: &File, bytes: &Bytes) -> io::Result<()> {
    for (n, step) in bytes.chunks(WRITE_BYTES).enumerate() {
        let padded = step.len().next_multiple_of(BLOCK as usize);
        let mut buf = file.alloc(padded);
        buf.get_mut(..step.len()).ok_or(io::ErrorKind::OutOfMemory)?.copy_from_slice(step);
        if file.write_at(buf, (n * WRITE_BYTES) as u64).await? != padded {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
