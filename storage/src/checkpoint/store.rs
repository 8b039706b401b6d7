//! The checkpoint's files: opening them, reading all records once, committing changes. See the header of `checkpoint`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt;

use super::error::{CheckpointError, FormatError};
use super::page::{self, Key, Records};
use super::root::{PageRef, Root};
use super::space::Space;
use crate::env::{Disk, File, OpenMode};
use crate::segment::{BLOCK, block_ceil};

/// Average size of a bucket: a changed partition rewrites about this much. Bytes.
const BUCKET_BYTES: u64 = 16 << 10;
/// Pages read at one time when the store is opened.
const LOADS_AT_ONCE: usize = 32;
/// One write of pages; a larger page is written whole. Bytes.
const WRITE_BYTES: usize = 1 << 20;

/// What one commit wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointWritten {
    pub generation: u64,
    pub pages: u64,
    /// Bytes written, root included.
    pub bytes: u64,
}

/// The checkpoint of one shard. One commit at a time. Shard-local.
#[derive(Debug)]
pub struct CheckpointStore {
    disk: Disk,
    dir: PathBuf,
    pages: File,
    current: Root,
    /// The root in the other slot, if it is valid: its pages must not be overwritten.
    previous: Option<Root>,
    /// Length of the page file. Bytes.
    len: u64,
}

fn slot_path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("checkpoint.{}", generation % 2))
}

fn pages_path(dir: &Path) -> PathBuf {
    dir.join("checkpoint.pages")
}

fn failed(file: &Path, sync: bool) -> impl FnOnce(io::Error) -> CheckpointError {
    let file = file.to_owned();
    move |source| CheckpointError::Io { file, source, sync }
}

impl CheckpointStore {
    /// Opens the store in the existing directory `dir`, creates its files at the first start, and reads all records.
    ///
    /// # Errors
    /// [`CheckpointError`]: no valid root, an unreadable page, or a failed call.
    pub async fn open(disk: Disk, dir: &Path) -> Result<(Self, Records), CheckpointError> {
        let (zero, one) = (slot_path(dir, 0), slot_path(dir, 1));
        if !disk.exists(&zero).await.map_err(failed(&zero, false))? {
            let empty = Root::empty().encode();
            disk.write_atomic(&zero, &empty).await.map_err(failed(&zero, true))?;
        }
        // What an earlier process has begun to write is through before anything is read.
        let path = pages_path(dir);
        let pages = open_or_create(&disk, &path).await?;
        for slot in [&zero, &one] {
            take_over_slot(&disk, slot).await.map_err(failed(slot, false))?;
        }
        let first = read_slot(&disk, &zero).await;
        let second = read_slot(&disk, &one).await;
        let (current, previous) = match (first, second) {
            (Ok(a), Ok(b)) if a.generation > b.generation => (a, Some(b)),
            (Ok(a), Ok(b)) => (b, Some(a)),
            (Ok(only), Err(_)) | (Err(_), Ok(only)) => (only, None),
            (Err(first), Err(second)) => return Err(CheckpointError::NoRoot { dir: dir.into(), first, second }),
        };
        let len = pages.len().await.map_err(failed(&path, false))?;
        let mut store = Self { disk, dir: dir.into(), pages, current, previous, len };
        write_root_again(&store.disk, dir, &store.pages, &store.current).await?;
        let records = match store.load_all().await {
            Err(error) if error.is_lost_page() => store.fall_back(error).await?,
            other => other?,
        };
        Ok((store, records))
    }

    /// Leaves the files to the next process, or to the next store of this one. No commit may follow.
    ///
    /// # Errors
    /// A failed call.
    pub fn hand_over(&self) -> Result<(), CheckpointError> {
        self.pages.hand_over().map_err(failed(&pages_path(&self.dir), false))
    }

    /// A page of the newest root is unreadable: opens the root before, if all its pages can be read. Whether the
    /// journal still has everything since that root, `Engine::open` checks.
    async fn fall_back(&mut self, error: CheckpointError) -> Result<Records, CheckpointError> {
        // The first root ever is empty: opening it would lose everything.
        let Some(previous) = self.previous.take_if(|previous| previous.generation > 0) else { return Err(error) };
        // The damaged root stays in the other slot, and its pages are not overwritten: a start might read them.
        self.previous = Some(std::mem::replace(&mut self.current, previous));
        let Ok(records) = self.load_all().await else { return Err(error) };
        let generation = self.current.generation;
        tracing::warn!(%error, generation, "the newest checkpoint is damaged; opening the one before it");
        write_root_again(&self.disk, &self.dir, &self.pages, &self.current).await?;
        Ok(records)
    }

    async fn load_all(&self) -> Result<Records, CheckpointError> {
        let mut records = Records::new();
        let buckets = 0..self.current.pages.len();
        let mut loads = futures::stream::iter(buckets).map(|bucket| self.load(bucket)).buffered(LOADS_AT_ONCE);
        while let Some(page) = loads.next().await {
            // Not `append`: it walks through both maps, which with thousands of pages is quadratic.
            records.extend(page?);
        }
        Ok(records)
    }

    /// Generation of the durable root.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.current.generation
    }

    #[cfg(test)]
    pub(crate) fn newest_pages(&self) -> &[PageRef] {
        &self.current.pages
    }

    /// Bytes of all files of the store.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.len + 2 * block_ceil(self.current.encoded_len() as u64)
    }

    /// Makes all `changes` durable together, or none: a value replaces the record, `None` removes it.
    ///
    /// # Errors
    /// A failed call, or a page to be changed that is unreadable ([`CheckpointError::is_lost_page`]). The store is
    /// unchanged unless a sync failed.
    pub async fn commit(
        &mut self,
        changes: BTreeMap<Key, Option<Bytes>>,
    ) -> Result<CheckpointWritten, CheckpointError> {
        let mut next = Root { generation: self.current.generation + 1, ..self.current.clone() };
        let touched = self.merge(&mut next, changes).await?;
        self.write(next, touched).await
    }

    /// Replaces all records by `records`, without reading an old page.
    ///
    /// # Errors
    /// A failed call. The store is unchanged unless a sync failed.
    pub async fn commit_whole(&mut self, records: Records) -> Result<CheckpointWritten, CheckpointError> {
        let bytes = records.values().map(|blob| blob.len() as u64).sum();
        let wanted = buckets_for(bytes);
        let mut pages: BTreeMap<usize, Records> = (0..wanted).map(|bucket| (bucket, Records::new())).collect();
        for (key, blob) in records {
            pages.entry(key.bucket(wanted)).or_default().insert(key, blob);
        }
        let generation = self.current.generation + 1;
        self.write(Root { generation, bytes, pages: vec![PageRef::default(); wanted] }, pages).await
    }

    /// Writes these pages and the root that names them.
    async fn write(
        &mut self,
        mut next: Root,
        touched: BTreeMap<usize, Records>,
    ) -> Result<CheckpointWritten, CheckpointError> {
        let mut space = Space::beside(&[&self.current, self.previous.as_ref().unwrap_or(&self.current)]);
        let (mut writes, mut fresh) = (Writes::default(), Vec::new());
        for (bucket, records) in &touched {
            let bytes = if records.is_empty() { Vec::new() } else { page::encode(*bucket as u32, records) };
            let len = u32::try_from(bytes.len()).expect("a checkpoint page is smaller than 4 GiB");
            let mut named = PageRef { block: 0, len, crc: crc32c::crc32c(&bytes) };
            if len > 0 {
                named.block = space.take(named.blocks());
                fresh.push((named.block, named.block + named.blocks()));
                writes.add(named.block, &bytes);
            }
            let page = next.pages.get_mut(*bucket).expect("a key's bucket is one of the root's");
            *page = if len > 0 { named } else { PageRef::default() };
        }
        assert_eq!(next.generation, self.current.generation + 1, "generations follow each other");
        assert!(next.pages.len().is_power_of_two(), "keys are spread over a power of two of buckets");
        self.assert_free(&fresh);
        let mut written = self.write_pages(&writes).await?;
        written += self.write_root(&next).await?;
        let done = CheckpointWritten { generation: next.generation, pages: touched.len() as u64, bytes: written };
        self.previous = Some(std::mem::replace(&mut self.current, next));
        Ok(done)
    }

    /// C2, for block ranges in ascending order.
    fn assert_free(&self, fresh: &[(u64, u64)]) {
        assert!(fresh.windows(2).all(|pair| pair[0].1 <= pair[1].0), "pages do not overlap");
        let roots = [Some(&self.current), self.previous.as_ref()];
        for page in roots.into_iter().flatten().flat_map(|root| &root.pages).filter(|page| page.len > 0) {
            let after = fresh.partition_point(|(_, end)| *end <= page.block);
            let overlaps = fresh.get(after).is_some_and(|(start, _)| *start < page.block + page.blocks());
            assert!(!overlaps, "a page is never written to a block that a root names");
        }
    }

    /// The records of every bucket to be rewritten. If the number of buckets is wrong by a factor of four, it doubles
    /// or halves them, and that is all buckets.
    async fn merge(
        &self,
        next: &mut Root,
        changes: BTreeMap<Key, Option<Bytes>>,
    ) -> Result<BTreeMap<usize, Records>, CheckpointError> {
        let old = self.current.pages.len();
        let mut touched: BTreeMap<usize, Records> = BTreeMap::new();
        let needed: BTreeSet<usize> = changes.keys().map(|key| key.bucket(old)).collect();
        for bucket in needed {
            touched.insert(bucket, self.load(bucket).await?);
        }
        for (key, change) in changes {
            let records = touched.get_mut(&key.bucket(old)).expect("the bucket of every change was loaded");
            let (more, less) = match change {
                Some(blob) => (blob.len(), records.insert(key, blob).map_or(0, |blob| blob.len())),
                None => (0, records.remove(&key).map_or(0, |blob| blob.len())),
            };
            next.bytes = (next.bytes + more as u64).saturating_sub(less as u64);
        }
        let wanted = buckets_for(next.bytes);
        if wanted <= old * 2 && wanted * 4 >= old {
            return Ok(touched);
        }
        let mut all: BTreeMap<usize, Records> = (0..wanted).map(|bucket| (bucket, Records::new())).collect();
        for bucket in 0..old {
            let records = match touched.remove(&bucket) {
                Some(records) => records,
                None => self.load(bucket).await?,
            };
            for (key, blob) in records {
                all.entry(key.bucket(wanted)).or_default().insert(key, blob);
            }
        }
        next.pages = vec![PageRef::default(); wanted];
        Ok(all)
    }

    async fn load(&self, bucket: usize) -> Result<Records, CheckpointError> {
        let named = self.current.pages.get(bucket).expect("a bucket is one of the root's");
        if named.len == 0 {
            return Ok(Records::new());
        }
        let path = pages_path(&self.dir);
        let read = self.pages.read_at(named.block * BLOCK, named.len as usize).await;
        let bytes = read.map_err(|error| FormatError::Unreadable(error.kind()));
        let records = bytes.and_then(|bytes| page::decode(bucket as u32, named.crc, bytes));
        let (bucket, block) = (bucket as u32, named.block);
        records.map_err(|source| CheckpointError::Page { file: path, bucket, block, source })
    }

    async fn write_pages(&mut self, writes: &Writes) -> Result<u64, CheckpointError> {
        let (path, mut written) = (pages_path(&self.dir), 0);
        for (block, bytes) in &writes.runs {
            let mut buffer = self.pages.alloc(bytes.len());
            buffer[..bytes.len()].copy_from_slice(bytes);
            let len = buffer.len() as u64;
            self.pages.write_at(buffer, block * BLOCK).await.map_err(failed(&path, false))?;
            self.len = self.len.max(block * BLOCK + len);
            written += len;
        }
        if written > 0 {
            self.pages.sync().await.map_err(failed(&path, true))?;
        }
        Ok(written)
    }

    async fn write_root(&mut self, root: &Root) -> Result<u64, CheckpointError> {
        let path = slot_path(&self.dir, root.generation);
        let file = open_or_create(&self.disk, &path).await?;
        // From here on the older root may be damaged, also if the write fails. Its pages stay until the next commit.
        let len = write_slot(&file, &path, root).await?;
        // The slot's name must be durable too, also if an earlier attempt created the file and failed.
        if root.generation == 1 {
            self.disk.sync_dir(&self.dir).await.map_err(failed(&self.dir, true))?;
        }
        file.close().await.map_err(failed(&path, false))?;
        Ok(len)
    }
}

/// The root in a slot, or why there is none. An absent slot counts as empty, an unreadable one as damaged.
async fn read_slot(disk: &Disk, path: &Path) -> Result<Root, FormatError> {
    match disk.read_all(path).await {
        Ok(bytes) => Root::decode(&bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FormatError::Length),
        Err(error) => Err(FormatError::Unreadable(error.kind())),
    }
}

async fn open_or_create(disk: &Disk, path: &Path) -> Result<File, CheckpointError> {
    let opened = match disk.open(path, OpenMode::ReadWrite).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk.open(path, OpenMode::CreateNew).await,
        other => other,
    };
    let file = opened.map_err(failed(path, false))?;
    file.take_over().await.map_err(failed(path, false))?;
    Ok(file)
}

/// Waits for writes of an earlier process in a slot. One that is absent or does not open has none; its reader says what
/// that means.
async fn take_over_slot(disk: &Disk, path: &Path) -> io::Result<()> {
    let Ok(file) = disk.open(path, OpenMode::ReadWrite).await else { return Ok(()) };
    file.take_over().await?;
    file.close().await
}

async fn write_slot(file: &File, path: &Path, root: &Root) -> Result<u64, CheckpointError> {
    let bytes = root.encode();
    let mut buffer = file.alloc(bytes.len());
    buffer[..bytes.len()].copy_from_slice(&bytes);
    let len = buffer.len() as u64;
    file.write_at(buffer, 0).await.map_err(failed(path, false))?;
    file.sync().await.map_err(failed(path, true))?;
    Ok(len)
}

/// Makes the root durable before anything builds on it: a killed process may have left one that is readable and not
/// durable. A sync alone is not enough: after a failed sync, no later one makes the same bytes durable. So the root is
/// written again, the same bytes at the same position.
async fn write_root_again(disk: &Disk, dir: &Path, pages: &File, current: &Root) -> Result<(), CheckpointError> {
    pages.sync().await.map_err(failed(&pages_path(dir), true))?;
    let path = slot_path(dir, current.generation);
    let slot = open_or_create(disk, &path).await?;
    write_slot(&slot, &path, current).await?;
    slot.close().await.map_err(failed(&path, false))?;
    disk.sync_dir(dir).await.map_err(failed(dir, true))
}

fn buckets_for(bytes: u64) -> usize {
    let buckets = usize::try_from(bytes / BUCKET_BYTES).unwrap_or(usize::MAX);
    buckets.clamp(1, super::root::BUCKETS_MAX).next_power_of_two()
}

/// Pages to write; neighbours are joined into one write.
#[derive(Debug, Default)]
struct Writes {
    runs: Vec<(u64, Vec<u8>)>,
}

impl Writes {
    fn add(&mut self, block: u64, page: &[u8]) {
        let padded = block_ceil(page.len() as u64) as usize;
        match self.runs.last_mut() {
            Some((first, run)) if *first + run.len() as u64 / BLOCK == block && run.len() + padded <= WRITE_BYTES => {
                run.extend_from_slice(page);
                run.resize(run.len() + padded - page.len(), 0);
            }
            _ => {
                let mut run = page.to_vec();
                run.resize(padded, 0);
                self.runs.push((block, run));
            }
        }
    }
}
