//! The real disk: O_DIRECT through glommio, names and metadata through guarded blocking calls.
//!
//! Owns: the workarounds that files of glommio 0.9.0 need. (1) At the first file per thread and device it reads 512
//! bytes to find out whether polled I/O works. On an empty or unwritten file that read never reaches the device,
//! "works" is remembered, and every later read fails with EOPNOTSUPP while writes take 4 ms. So before the first file
//! on a device, a probe file with written blocks is opened for reading, or, on a full device, an existing file that has
//! some. (2) `DmaFile::create` opens write-only: files are opened read-write here. (3) Its `read_at` miscounts short
//! unaligned reads at the end of a file: only `read_at_aligned` is used. (4) `DmaFile` gets its size by path, and
//! unwraps a `statfs` of the path after opening it: a file removed in between (a dropped chunk, a trimmed segment)
//! would end the shard. So a file is opened here first, and glommio opens it again as `/proc/<pid>/fd/<n>`, a path that
//! stays valid while the first handle is held. For the helper thread's workarounds see `blocking`.
//!
//! The shard itself makes small durable writes to a fast disk, without its ring: see `pace`.
//!
//! Affinity: shard-local.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use glommio::io::{DmaFile, OpenOptions};

use super::aligned::{ALIGNMENT, AlignedBuf, align_down, align_up};
use super::blocking::blocking;
use super::disk::{DirEntry, OpenMode, is_disk_full};
use super::pace::Pace;
use super::{syscall, take_over};

/// Bytes of the probe file: enough for written blocks on every file system.
const PROBE_BYTES: usize = 64 << 10;
/// Files and directories examined on a full device to find one to probe with.
const LOOKED_AT_MAX: usize = 4096;
/// One read of [`DmaHandle::read_at`]. Bytes.
const READ_STEP: u64 = 4 << 20;
thread_local! {
    /// Devices (`st_dev`) probed on this thread: glommio keeps its answer per thread and device.
    static PROBED: RefCell<BTreeSet<u64>> = const { RefCell::new(BTreeSet::new()) };
}

static PROBE_NUMBER: AtomicU64 = AtomicU64::new(0);

/// Makes glommio find out correctly whether the device under `dir` can do polled I/O.
async fn probe(dir: PathBuf) -> io::Result<()> {
    let device = fs::metadata(&dir)?.dev();
    if PROBED.with_borrow(|probed| probed.contains(&device)) {
        return Ok(());
    }
    let number = PROBE_NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!(".probe-{}-{number}", std::process::id()));
    let write_to = path.clone();
    let written = blocking(move || {
        let mut file = fs::File::create(&write_to)?;
        file.write_all(&[0x5a; PROBE_BYTES])?;
        file.sync_all()
    })
    .await;
    let full = written.as_ref().is_err_and(is_disk_full);
    let checked = match written {
        Ok(()) => read_back(&path).await,
        Err(error) if full => match blocking(move || Ok(written_file(&dir, device))).await? {
            Some(other) => read(&other, ALIGNMENT).await.map(drop),
            None => Err(error),
        },
        failed => failed,
    };
    let removed = blocking(move || fs::remove_file(path)).await;
    checked?;
    if !full {
        removed?;
    }
    PROBED.with_borrow_mut(|probed| probed.insert(device));
    Ok(())
}

async fn read_back(path: &Path) -> io::Result<()> {
    let bytes = read(path, PROBE_BYTES).await?;
    if bytes.len() == PROBE_BYTES && bytes.iter().all(|byte| *byte == 0x5a) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "direct I/O read back other bytes than written"))
}

async fn read(path: &Path, len: usize) -> io::Result<Vec<u8>> {
    let file = DmaFile::open(path).await.map_err(io::Error::from)?;
    let read = file.read_at_aligned(0, len).await.map(|bytes| bytes.to_vec());
    file.close().await.map_err(io::Error::from)?;
    read.map_err(io::Error::from)
}

/// A file in `dir` or beside it, on the same device, with a written first block: for a device without room for a probe.
fn written_file(dir: &Path, device: u64) -> Option<PathBuf> {
    let (mut dirs, mut left) = (VecDeque::from([dir.to_path_buf(), parent(dir)]), LOOKED_AT_MAX);
    while let Some(dir) = dirs.pop_front() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            left = left.checked_sub(1)?;
            let path = entry.path();
            let Ok(meta) = entry.metadata() else { continue };
            // A temporary file or another shard's probe may be renamed or removed before it is opened.
            let passing =
                path.extension().is_some_and(|it| it == "tmp") || path.file_stem().is_none_or(begins_with_dot);
            if passing {
                continue;
            }
            if meta.is_dir() {
                dirs.push_back(path);
            } else if meta.is_file() && meta.dev() == device && meta.len() >= ALIGNMENT as u64 && begins(&path) {
                return Some(path);
            }
        }
    }
    None
}

fn begins_with_dot(name: &OsStr) -> bool {
    name.as_encoded_bytes().first() == Some(&b'.')
}

/// Has a file's first block a byte other than zero? Then it is written, not a hole and not only reserved.
fn begins(path: &Path) -> bool {
    let mut block = [0; ALIGNMENT];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut block));
    read.is_ok() && block.iter().any(|byte| *byte != 0)
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn sync_dir_now(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// The real disk. Stateless; the state is per thread.
#[derive(Clone, Debug)]
pub(super) struct DmaDisk;

impl DmaDisk {
    pub(super) async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<DmaHandle> {
        probe(parent(path)).await?;
        let write = mode != OpenMode::Read;
        let durable = mode == OpenMode::ReadWriteDurable;
        let mut options = fs::OpenOptions::new();
        options.read(true).write(write).create_new(mode == OpenMode::CreateNew);
        if durable {
            options.custom_flags(libc::O_DIRECT | libc::O_DSYNC);
        }
        let held = options.open(path)?;
        let by_handle = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), held.as_raw_fd()));
        let mut options = OpenOptions::new();
        options.read(true).write(write);
        if durable {
            options.custom_flags(libc::O_DSYNC);
        }
        let file = options.dma_open(&by_handle).await.map_err(io::Error::from)?;
        let pace = durable.then(|| Rc::new(Pace::default()));
        Ok(DmaHandle { file: Rc::new(file), held: Rc::new(held), pace })
    }

    pub(super) async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let path = path.to_path_buf();
        blocking(move || {
            let mut missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
            missing.retain(|dir| !dir.as_os_str().is_empty());
            // The last existing directory may have been made by a process that was killed before it synced the name.
            let there = missing.last().map_or_else(|| path.clone(), |dir| parent(dir));
            match sync_dir_now(&parent(&there)) {
                // Directories above the data directory belong to others.
                Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
                _ => {}
            }
            while let Some(dir) = missing.pop() {
                match fs::create_dir(dir) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => {}
                }
                if let Err(error) = sync_dir_now(&parent(dir)) {
                    // The next attempt must not find it with its name unsynced. If others already use it, it stays.
                    let _ = fs::remove_dir(dir);
                    return Err(error);
                }
            }
            Ok(())
        })
        .await
    }

    pub(super) async fn remove_file(&self, path: &Path) -> io::Result<()> {
        let path = path.to_path_buf();
        blocking(move || fs::remove_file(path)).await
    }

    pub(super) async fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let path = path.to_path_buf();
        blocking(move || fs::remove_dir_all(path)).await
    }

    pub(super) async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_path_buf(), to.to_path_buf());
        blocking(move || fs::rename(from, to)).await
    }

    pub(super) async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let dir = dir.to_path_buf();
        blocking(move || {
            let mut entries = Vec::new();
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let meta = match entry.metadata() {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    other => other?,
                };
                if let Ok(name) = entry.file_name().into_string() {
                    let len = if meta.is_dir() { 0 } else { meta.len() };
                    entries.push(DirEntry { name, len, is_dir: meta.is_dir() });
                }
            }
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(entries)
        })
        .await
    }

    pub(super) async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_path_buf();
        blocking(move || sync_dir_now(&dir)).await
    }

    /// On a thread of its own: it may take long, and other tasks wait for the helper thread's short work.
    pub(super) async fn sync_below(&self, dir: &Path) -> io::Result<()> {
        let dir = fs::File::open(dir)?;
        let (sender, synced) = futures::channel::oneshot::channel();
        let work = move || {
            // The caller may have been dropped.
            let _ = sender.send(syscall::sync_file_system(&dir));
        };
        std::thread::Builder::new().name("sync".to_owned()).spawn(work)?;
        synced.await.unwrap_or_else(|_| Err(io::Error::other("the syncing thread ended without an answer")))
    }

    pub(super) async fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    pub(super) async fn read_all(&self, path: &Path) -> io::Result<Bytes> {
        let path = path.to_path_buf();
        blocking(move || fs::read(path)).await.map(Bytes::from)
    }

    pub(super) async fn write_atomic(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let (path, bytes) = (path.to_path_buf(), bytes.to_vec());
        blocking(move || {
            let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_os_string();
            name.push(".tmp");
            let temporary = path.with_file_name(name);
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = fs::File::create_new(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            sync_dir_now(&parent(&path))
        })
        .await
    }

    pub(super) async fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        syscall::free_bytes(path)
    }
}

/// An open file.
#[derive(Clone, Debug)]
pub(super) struct DmaHandle {
    file: Rc<DmaFile>,
    /// Keeps the path valid under which `file` was opened. The shard's own writes to a durable file go through it.
    held: Rc<fs::File>,
    /// Only of a durable file.
    pace: Option<Rc<Pace>>,
}

impl DmaHandle {
    pub(super) fn alloc(&self, len: usize) -> AlignedBuf {
        AlignedBuf::dma(self.file.alloc_dma_buffer(len))
    }

    pub(super) async fn write_at(&self, buffer: AlignedBuf, at: u64) -> io::Result<usize> {
        if let Some(pace) = self.pace.as_ref().filter(|pace| pace.is_quick(buffer.len())) {
            #[allow(clippy::disallowed_methods, reason = "measures the real disk")]
            let start = Instant::now();
            let written = self.held.write_at(&buffer, at);
            pace.took(start.elapsed());
            return written;
        }
        match buffer.into_dma() {
            Some(buffer) => self.file.write_at(buffer, at).await.map_err(io::Error::from),
            None => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "buffer of a simulated file written to a real one"))
            }
        }
    }

    /// The lock is on the description that the ring's requests hold, not on that of `held`.
    pub(super) async fn take_over(&self) -> io::Result<()> {
        take_over::take_over(&*self.file).await
    }

    pub(super) fn hand_over(&self) -> io::Result<()> {
        syscall::unlock(&*self.file)
    }

    pub(super) async fn read_at(&self, at: u64, len: usize) -> io::Result<Bytes> {
        let end = at.saturating_add(len as u64);
        let mut out = BytesMut::with_capacity(len);
        let mut from = align_down(at);
        while from < end {
            let step = align_up(end - from).min(READ_STEP);
            let Ok(size) = usize::try_from(step) else { break };
            let read = self.file.read_at_aligned(from, size).await.map_err(io::Error::from)?;
            let skip = usize::try_from(at.saturating_sub(from)).unwrap_or(usize::MAX);
            let fresh = read.get(skip..).unwrap_or_default();
            out.extend_from_slice(fresh.get(..len - out.len()).unwrap_or(fresh));
            // A short read is the end of the file, or (never seen on a local file) a read cut at a block boundary.
            if read.len() < size && (read.is_empty() || !read.len().is_multiple_of(ALIGNMENT)) {
                break;
            }
            from += read.len() as u64;
        }
        Ok(out.freeze())
    }

    pub(super) async fn sync(&self) -> io::Result<()> {
        self.file.fdatasync().await.map_err(io::Error::from)
    }

    pub(super) async fn set_len(&self, len: u64) -> io::Result<()> {
        let file = self.held.try_clone()?;
        blocking(move || file.set_len(len)).await
    }

    pub(super) async fn len(&self) -> io::Result<u64> {
        self.file.file_size().await.map_err(io::Error::from)
    }

    /// Reserves contiguous blocks up to `end` if the file system can. glommio does not pass on the error for "not
    /// supported", so every error except a full disk is ignored: the writes will find blocks.
    pub(super) async fn allocate(&self, end: u64) -> io::Result<()> {
        match self.file.pre_allocate(end, false).await.map_err(io::Error::from) {
            Err(error) if is_disk_full(&error) => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) async fn close(self) -> io::Result<()> {
        self.file.close_rc().await.map(|_| ()).map_err(io::Error::from)
    }
}
