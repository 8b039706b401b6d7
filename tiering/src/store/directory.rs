//! A directory as a bucket: objects are plain files, so any engine reads them by path.
//!
//! Owns: atomic and durable puts (temporary file, fsync, link or rename, fsync of directories, then the answer), its
//! own compare-and-set (object_store's local store has none). Does not own: caches, retries.
//! Affinity: *node-wide*; every call runs on the side runtime's blocking threads.
//!
//! Conditional puts, overwrites and deletes of a key hold one of 64 lock files (`flock`), so several processes may
//! share the directory. A version ([`ETag`]) is modification time, inode and size; an overwrite sets a time strictly
//! above its predecessor's, so a version never comes back.

mod direct;
mod list;

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::channel::oneshot;
use tidewater_storage::disposition::Disposition;
use tidewater_storage::env::is_disk_full;
use tidewater_storage::model::TimestampMs;
use tokio::runtime::Handle;
use uuid::Uuid;

use self::direct::DirectWrites;
use super::open::OpenError;
use super::{
    Buffers, ByteSource, ETag, Got, Head, KeyLimits, Listed, ObjectKey, ObjectStore, PutDone, PutMode, StoreError,
};

/// Where temporary and lock files lie; no key may begin with it.
const PRIVATE: &str = ".tidewater";
const LOCKS: u32 = 64;
/// Pieces of a put that are smaller are joined before they are written.
const JOINED_BYTES: usize = 256 << 10;
/// Temporary files older than this are left over from a crash.
const LEFT_OVER: Duration = Duration::from_secs(24 * 3600);
/// How often a put makes its directory again after a delete removed it meanwhile.
const DIRECTORY_TRIES: u32 = 16;

/// Objects as files under a directory.
#[derive(Clone, Debug)]
pub struct DirectoryStore {
    root: Arc<Path>,
    /// Is there while the bucket's directory is.
    marker: Arc<Path>,
    handle: Handle,
    temporaries: Arc<AtomicU64>,
    process: Uuid,
    direct: Arc<DirectWrites>,
}

impl DirectoryStore {
    /// Makes the directory if need be and removes what a crash left over.
    ///
    /// # Errors
    /// [`OpenError::Directory`].
    pub fn open(root: PathBuf, handle: Handle) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Directory { path: root.clone(), source };
        for part in ["tmp", "locks"] {
            create_dirs(&root.join(PRIVATE).join(part)).map_err(failed)?;
        }
        remove_left_over(&root.join(PRIVATE).join("tmp")).map_err(failed)?;
        let marker = root.join(PRIVATE);
        Ok(Self::over(&root, &marker, handle))
    }

    /// For reading a directory that another process writes: makes nothing there, and removes nothing.
    ///
    /// # Errors
    /// It is no directory that can be listed.
    pub fn attach(root: PathBuf, handle: Handle) -> Result<Self, OpenError> {
        fs::read_dir(&root).map_err(|source| OpenError::Directory { path: root.clone(), source })?;
        // A copy of a bucket may lack what the store keeps for itself.
        let own = root.join(PRIVATE);
        let marker = if own.is_dir() { own } else { root.clone() };
        Ok(Self::over(&root, &marker, handle))
    }

    fn over(root: &Path, marker: &Path, handle: Handle) -> Self {
        let (root, marker) = (Arc::from(root), Arc::from(marker));
        let (temporaries, process, direct) = (Arc::default(), Uuid::new_v4(), Arc::default());
        Self { root, marker, handle, temporaries, process, direct }
    }

    /// Runs `work` on a blocking thread; errors of the disk become the store's.
    async fn run<T: Send + 'static>(
        &self,
        key: &str,
        work: impl FnOnce(&Self) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let store = self.clone();
        self.handle.spawn_blocking(move || {
            let _ = answer.send(work(&store).map_err(|failure| store.or_away(failure)));
        });
        let result = answered.await.map_err(|_| StoreError::Closed)?;
        result.map_err(|failure| failure.at(key))
    }

    /// Nothing is found under a directory that was renamed or is not mounted: that says nothing of the object.
    fn or_away(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Io(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) && !self.marker.is_dir() =>
            {
                Failure::Away(format!("{} is not the bucket's directory any more; is it mounted?", self.root.display()))
            }
            failure => failure,
        }
    }

    fn path(&self, key: &ObjectKey) -> Result<PathBuf, Failure> {
        if key.as_str().split('/').next() == Some(PRIVATE) {
            return Err(refused("keys beginning with .tidewater are the directory store's own"));
        }
        KeyLimits::DIRECTORY.check(key.as_str()).map_err(|error| refused(&error.to_string()))?;
        Ok(self.root.join(key.as_str()))
    }

    fn lock(&self, key: &ObjectKey) -> io::Result<File> {
        let number = crc32c::crc32c(key.as_str().as_bytes()) % LOCKS;
        let path = self.root.join(PRIVATE).join("locks").join(number.to_string());
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        file.lock()?;
        Ok(file)
    }

    fn temporary(&self) -> io::Result<(PathBuf, File)> {
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join(PRIVATE).join("tmp").join(format!("{}-{number}", self.process));
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok((path, file))
    }

    /// Gives a finished, synced temporary file its key, under the condition; the answer is durable.
    fn place(&self, key: &ObjectKey, temporary: &Path, file: &File, mode: &PutMode) -> Result<PutDone, Failure> {
        let path = self.path(key)?;
        let _lock = self.lock(key)?;
        let old = match fs::symlink_metadata(&path) {
            Ok(found) if found.is_file() => Some(found),
            Ok(_) => return Err(refused("a directory of that name exists: another key continues this one")),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => None,
            Err(error) => return Err(error.into()),
        };
        match (mode, &old) {
            (PutMode::IfAbsent, Some(_)) | (PutMode::IfMatch(_), None) => return Err(Failure::Taken),
            (PutMode::IfMatch(etag), Some(old)) if *etag != version(old) => return Err(Failure::Taken),
            _ => {}
        }
        file.set_times(FileTimes::new().set_modified(after(old.as_ref())))?;
        file.sync_all()?;
        let etag = version(&file.metadata()?);
        let parent = path.parent().ok_or_else(|| refused("the key has no directory"))?;
        for attempt in 0.. {
            create_dirs(parent).map_err(|error| match error.kind() {
                ErrorKind::NotADirectory | ErrorKind::AlreadyExists => refused("a part of the key is an object itself"),
                _ => error.into(),
            })?;
            let placed = match mode {
                // link(2) fails on an existing name even against writers that do not know our locks.
                PutMode::IfAbsent => fs::hard_link(temporary, &path),
                PutMode::Overwrite | PutMode::IfMatch(_) => fs::rename(temporary, &path),
            };
            match placed {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(Failure::Taken),
                Err(error) if error.kind() == ErrorKind::NotFound && attempt < DIRECTORY_TRIES => {}
                Err(error) => return Err(error.into()),
            }
        }
        sync_dir(parent)?;
        Ok(PutDone { etag })
    }

    fn put_whole(&self, key: &ObjectKey, pieces: &[Bytes], mode: &PutMode) -> Result<PutDone, Failure> {
        self.path(key)?;
        let (temporary, file) = self.temporary()?;
        let written = match self.direct.write(&temporary, pieces) {
            Ok(false) => write_all(&file, pieces),
            direct => direct.map(drop),
        };
        let done = written.map_err(Failure::from).and_then(|()| self.place(key, &temporary, &file, mode));
        remove_temporary(&temporary);
        done
    }

    fn read_file(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
        unless: Option<&ETag>,
        buffers: Option<&Buffers>,
    ) -> Result<Option<Got>, Failure> {
        let mut file = File::open(self.path(key)?)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(Failure::Io(ErrorKind::NotFound.into()));
        }
        let (etag, size) = (version(&found), found.len());
        if unless == Some(&etag) {
            return Ok(None);
        }
        let (start, end) = range.map_or((0, size), |range| (range.start, range.end));
        if (start >= end || start >= size) && !(start == 0 && size == 0 && end == 0) {
            return Err(Failure::Range { start, end });
        }
        let len = usize::try_from(end.min(size) - start).map_err(|_| refused("object too large for memory"))?;
        let body = match buffers {
            Some(buffers) => {
                let mut buffer = buffers.take(len);
                file.read_exact_at(buffer.room(), start)?;
                buffer.into_bytes()
            }
            None => {
                // Into fresh memory, which is not zeroed first.
                let mut body = Vec::with_capacity(len);
                file.seek(SeekFrom::Start(start))?;
                if file.take(len as u64).read_to_end(&mut body)? != len {
                    return Err(Failure::Io(ErrorKind::UnexpectedEof.into()));
                }
                body.into()
            }
        };
        Ok(Some(Got { body, etag, size }))
    }

    fn remove(&self, key: &ObjectKey, only: Option<&ETag>) -> Result<(), Failure> {
        let path = self.path(key)?;
        let _lock = self.lock(key)?;
        if let Some(etag) = only {
            match fs::symlink_metadata(&path) {
                Ok(found) if version(&found) != *etag => return Err(Failure::Taken),
                _ => {}
            }
        }
        match fs::remove_file(&path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
            removed => removed?,
        }
        let mut parent = path.parent();
        while let Some(directory) = parent.filter(|directory| directory.starts_with(&self.root)) {
            // The first directory that is not empty keeps the ones above it.
            if directory == &*self.root || fs::remove_dir(directory).is_err() {
                sync_dir(directory)?;
                break;
            }
            parent = directory.parent();
        }
        Ok(())
    }
}

#[async_trait]
impl ObjectStore for DirectoryStore {
    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        let at = key.clone();
        self.run(key.as_str(), move |store| store.put_whole(&at, &[body], &mode)).await
    }

    async fn put_pieces(&self, key: &ObjectKey, pieces: Vec<Bytes>, mode: PutMode) -> Result<PutDone, StoreError> {
        let at = key.clone();
        self.run(key.as_str(), move |store| store.put_whole(&at, &pieces, &mode)).await
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Got, StoreError> {
        let at = key.clone();
        let got = self.run(key.as_str(), move |store| store.read_file(&at, range, None, None)).await?;
        got.ok_or_else(|| StoreError::NotFound { key: key.to_string() })
    }

    async fn get_into(&self, key: &ObjectKey, range: Range<u64>, buffers: &Buffers) -> Result<Got, StoreError> {
        let (at, buffers) = (key.clone(), buffers.clone());
        let read = move |store: &Self| store.read_file(&at, Some(range), None, Some(&buffers));
        let got = self.run(key.as_str(), read).await?;
        got.ok_or_else(|| StoreError::NotFound { key: key.to_string() })
    }

    fn key_limits(&self) -> KeyLimits {
        KeyLimits::DIRECTORY
    }

    async fn get_if_changed(&self, key: &ObjectKey, etag: &ETag) -> Result<Option<Got>, StoreError> {
        let (at, etag) = (key.clone(), etag.clone());
        self.run(key.as_str(), move |store| store.read_file(&at, None, Some(&etag), None)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Head, StoreError> {
        let at = key.clone();
        let work = move |store: &Self| {
            let found = fs::metadata(store.path(&at)?)?;
            if !found.is_file() {
                return Err(Failure::Io(ErrorKind::NotFound.into()));
            }
            Ok(Head { size: found.len(), etag: version(&found), modified: modified(&found) })
        };
        self.run(key.as_str(), work).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<Listed>, StoreError> {
        let (wanted, after) = (prefix.to_owned(), after.map(str::to_owned));
        let work = move |store: &Self| Ok(list::list(&store.root, &wanted, after.as_deref(), max)?);
        self.run(prefix, work).await
    }

    async fn delete(&self, keys: Vec<ObjectKey>) -> Result<(), StoreError> {
        for key in keys {
            let at = key.clone();
            self.run(key.as_str(), move |store| store.remove(&at, None)).await?;
        }
        Ok(())
    }

    async fn delete_if(&self, key: &ObjectKey, etag: &ETag) -> Result<(), StoreError> {
        let (at, etag) = (key.clone(), etag.clone());
        self.run(key.as_str(), move |store| store.remove(&at, Some(&etag))).await
    }

    async fn put_large(&self, key: &ObjectKey, size: u64, mut source: ByteSource) -> Result<PutDone, StoreError> {
        let (temporary, file) = self.run(key.as_str(), |store| Ok(store.temporary()?)).await?;
        let guard = Remove(temporary.clone());
        let file = Arc::new(file);
        let failed = |detail: String| StoreError::Source { key: key.to_string(), detail };
        let mut brought = 0;
        while let Some(piece) = source.next().await {
            let piece = piece.map_err(|error| failed(error.to_string()))?;
            brought += piece.len() as u64;
            let file = Arc::clone(&file);
            self.run(key.as_str(), move |_| Ok((&*file).write_all(&piece)?)).await?;
        }
        if brought != size {
            return Err(failed(format!("it brought {brought} bytes, {size} were announced")));
        }
        let at = key.clone();
        let work = move |store: &Self| {
            let done = store.place(&at, &temporary, &file, &PutMode::Overwrite);
            drop(guard);
            done
        };
        self.run(key.as_str(), work).await
    }
}

/// Writes `pieces` back to back. Small ones are joined first; larger ones go to the file as they are.
fn write_all(file: &File, pieces: &[Bytes]) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(JOINED_BYTES, file);
    pieces.iter().try_for_each(|piece| out.write_all(piece))?;
    out.flush()
}

/// Removes a temporary file when a large put is abandoned.
struct Remove(PathBuf);

impl Drop for Remove {
    fn drop(&mut self) {
        remove_temporary(&self.0);
    }
}

enum Failure {
    Io(io::Error),
    Taken,
    Range { start: u64, end: u64 },
    Refused(String),
    Away(String),
}

fn refused(why: &str) -> Failure {
    Failure::Refused(why.to_owned())
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Failure {
    fn at(self, key: &str) -> StoreError {
        let key = key.to_owned();
        match self {
            Self::Taken => StoreError::Taken { key },
            Self::Range { start, end } => StoreError::Range { key, start, end },
            Self::Refused(detail) => StoreError::Refused { key, detail },
            Self::Away(detail) => StoreError::Unavailable { key, detail },
            Self::Io(error) => {
                let (detail, kind) = (error.to_string(), error.kind());
                match Disposition::of_io(&error) {
                    Disposition::Absent => StoreError::NotFound { key },
                    Disposition::Refused
                        if matches!(kind, ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) =>
                    {
                        StoreError::Denied { key, detail }
                    }
                    Disposition::Refused => StoreError::Refused { key, detail },
                    _ if is_disk_full(&error) => StoreError::NoSpace { key },
                    _ => StoreError::Unavailable { key, detail },
                }
            }
        }
    }
}

fn version(found: &fs::Metadata) -> ETag {
    ETag(format!("{:x}-{:x}-{:x}-{:x}", found.mtime(), found.mtime_nsec(), found.ino(), found.len()).into())
}

fn modified(found: &fs::Metadata) -> TimestampMs {
    TimestampMs(found.mtime().saturating_mul(1000).saturating_add(found.mtime_nsec() / 1_000_000))
}

/// Now, but above the predecessor's time: by 1 µs, the coarsest step of the file systems in use.
#[allow(clippy::disallowed_methods, reason = "compared with times that the file system sets")]
fn after(old: Option<&fs::Metadata>) -> SystemTime {
    let now = SystemTime::now();
    let above = old.and_then(|old| {
        let since = Duration::new(u64::try_from(old.mtime()).ok()?, u32::try_from(old.mtime_nsec()).ok()?);
        UNIX_EPOCH.checked_add(since + Duration::from_micros(1))
    });
    above.map_or(now, |above| now.max(above))
}

fn sync_dir(path: &Path) -> io::Result<()> {
    match File::open(path) {
        // Removed meanwhile, with everything in it.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        opened => opened?.sync_all(),
    }
}

/// Makes a directory and those above it, each durable in its parent.
fn create_dirs(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_dir),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create_dirs(path.parent().ok_or(error)?)?;
            match fs::create_dir(path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                // The directory above was removed again: the caller's loop comes back.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                made => made?,
            }
            path.parent().map_or(Ok(()), sync_dir)
        }
        Err(error) => Err(error),
    }
}

fn remove_temporary(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::debug!(path = %path.display(), %error, "temporary file stays until the next start");
    }
}

fn remove_left_over(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let age = entry.metadata().and_then(|found| found.modified()).map(|time| time.elapsed().unwrap_or_default());
        if age.is_ok_and(|age| age > LEFT_OVER) {
            remove_temporary(&entry.path());
        }
    }
    Ok(())
}
