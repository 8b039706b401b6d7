//! Checks that this machine can run shards, before an executor is made: with io_uring forbidden, glommio panics in the
//! executor's thread, and on a kernel that is too old it ends the process.
//!
//! Owns: the checks, and their error texts: what is wrong, where, what to do. Does not own: ports, locks on the data
//! directory, printing. Affinity: any thread; no executor is needed.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::aligned::ALIGNMENT;
use super::disk::is_disk_full;
use super::syscall;

/// Below this glommio refuses to make an executor. Bytes.
pub const MEMLOCK_MIN: u64 = 512 << 10;

/// Why shards cannot run on this machine. Each text says what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// `kernel.io_uring_disabled` forbids it.
    #[error(
        "io_uring is switched off on this machine (kernel.io_uring_disabled={setting}); \
         switch it on with `sysctl kernel.io_uring_disabled=0`"
    )]
    IoUringDisabled {
        /// The sysctl's value: 1 for unprivileged processes, 2 for all.
        setting: u8,
    },
    /// A seccomp filter or similar forbids it.
    #[error(
        "io_uring is forbidden here ({error}); in a container allow it, \
         e.g. `--security-opt seccomp=unconfined` or a profile with io_uring_setup, io_uring_enter, io_uring_register"
    )]
    IoUringForbidden { error: io::Error },
    /// The kernel does not have it.
    #[error("this kernel has no io_uring; Linux 5.8 or newer is needed")]
    IoUringAbsent,
    /// Another failure of the call.
    #[error("io_uring cannot be set up: {error}")]
    IoUring { error: io::Error },
    /// Too little memory may be locked.
    #[error(
        "only {limit} bytes of memory may be locked, at least {MEMLOCK_MIN} are needed; \
         raise it with `ulimit -l unlimited`, LimitMEMLOCK=infinity (systemd) or `--ulimit memlock=-1` (container)"
    )]
    Memlock {
        /// RLIMIT_MEMLOCK. Bytes.
        limit: u64,
    },
    /// The file system has no direct I/O.
    #[error("{} is on a file system without direct I/O (O_DIRECT): {error}; choose a directory on ext4, xfs or btrfs", path.display())]
    DirectIo { path: PathBuf, error: io::Error },
    /// The file system has no free block to try it on.
    #[error("{} has no room for 4 KiB: {error}; free some space there or choose another directory", path.display())]
    NoRoom { path: PathBuf, error: io::Error },
    /// The directory cannot be created or written.
    #[error("{} cannot be written: {error}; check its owner, mode and mount", path.display())]
    Directory { path: PathBuf, error: io::Error },
}

/// Checks that a ring can be set up.
///
/// # Errors
/// Why it cannot.
pub fn io_uring() -> Result<(), Unfit> {
    let setting = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    io_uring_verdict(setting.trim().parse().unwrap_or(0), syscall::try_io_uring())
}

fn io_uring_verdict(setting: u8, attempt: io::Result<()>) -> Result<(), Unfit> {
    let Err(error) = attempt else { return Ok(()) };
    Err(match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) if setting > 0 => Unfit::IoUringDisabled { setting },
        Some(libc::EPERM | libc::EACCES) => Unfit::IoUringForbidden { error },
        Some(libc::ENOSYS) => Unfit::IoUringAbsent,
        _ => Unfit::IoUring { error },
    })
}

/// Checks that enough memory may be locked. Returns the limit in bytes (`None`: unlimited).
///
/// # Errors
/// [`Unfit::Memlock`].
pub fn memlock() -> Result<Option<u64>, Unfit> {
    memlock_verdict(syscall::memlock_limit().unwrap_or(None))
}

fn memlock_verdict(limit: Option<u64>) -> Result<Option<u64>, Unfit> {
    match limit {
        Some(limit) if limit < MEMLOCK_MIN => Err(Unfit::Memlock { limit }),
        fine => Ok(fine),
    }
}

/// Creates the directory if absent, and checks that aligned direct writes to it read back.
///
/// # Errors
/// [`Unfit::Directory`], [`Unfit::DirectIo`] or [`Unfit::NoRoom`].
pub fn direct_io(dir: &Path) -> Result<(), Unfit> {
    let path = dir.to_path_buf();
    fs::create_dir_all(dir).map_err(|error| Unfit::Directory { path: path.clone(), error })?;
    let probe = dir.join(format!(".preflight-{}", std::process::id()));
    let created = fs::File::create(&probe).and_then(|mut file| file.write_all(&[0x5a; ALIGNMENT]));
    let tried = match &created {
        Err(_) => Ok(()),
        Ok(()) => direct_round_trip(&probe),
    };
    let result = match (created, tried) {
        (Err(error), _) | (_, Err(error)) if is_disk_full(&error) => Err(Unfit::NoRoom { path, error }),
        (Err(error), _) => Err(Unfit::Directory { path, error }),
        (_, Err(error)) => Err(Unfit::DirectIo { path, error }),
        (Ok(()), Ok(())) => Ok(()),
    };
    // A probe file that stays takes 4 KiB; that is no reason to refuse.
    let _ = fs::remove_file(&probe);
    result
}

fn direct_round_trip(probe: &Path) -> io::Result<()> {
    let mut memory = vec![0u8; 2 * ALIGNMENT];
    let skip = memory.as_ptr().align_offset(ALIGNMENT);
    let aligned = memory.get_mut(skip..skip.saturating_add(ALIGNMENT)).ok_or(io::ErrorKind::OutOfMemory)?;
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_DIRECT);
    aligned.fill(0xa5);
    let mut file = options.open(probe)?;
    file.write_all(aligned)?;
    file.sync_data()?;
    aligned.fill(0);
    options.open(probe)?.read_exact(aligned)?;
    if aligned.iter().all(|byte| *byte == 0xa5) { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Raises this process's limit of open files to the hard limit, and returns it. The usual soft limit of 1024 exists for
/// programs that use `select`.
///
/// # Errors
/// The system's error.
pub fn raise_open_files() -> io::Result<u64> {
    syscall::raise_open_files()
}

/// Bytes left on the file system that holds `dir`.
///
/// # Errors
/// [`Unfit::Directory`].
pub fn free_bytes(dir: &Path) -> Result<u64, Unfit> {
    syscall::free_bytes(dir).map_err(|error| Unfit::Directory { path: dir.to_path_buf(), error })
}

/// Do two directories lie on the same file system, so that what one of them takes is missing to the other?
///
/// # Errors
/// One of them cannot be looked at.
pub fn share_a_file_system(one: &Path, other: &Path) -> io::Result<bool> {
    Ok(fs::metadata(one)?.dev() == fs::metadata(other)?.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_are_told_apart() {
        let dir = tempfile::tempdir().expect("tempdir");
        let below = dir.path().join("below");
        let missing = share_a_file_system(dir.path(), &below).expect_err("it is not there");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        fs::create_dir(&below).expect("made");
        assert!(share_a_file_system(dir.path(), &below).expect("looked"));
        assert!(!share_a_file_system(dir.path(), Path::new("/proc")).expect("looked"));
    }

    #[test]
    fn verdicts_tell_the_cases_apart() {
        let os = |code| Err(io::Error::from_raw_os_error(code));
        assert!(io_uring_verdict(0, Ok(())).is_ok());
        assert!(matches!(io_uring_verdict(2, os(libc::EPERM)), Err(Unfit::IoUringDisabled { setting: 2 })));
        assert!(matches!(io_uring_verdict(0, os(libc::EPERM)), Err(Unfit::IoUringForbidden { .. })));
        assert!(matches!(io_uring_verdict(0, os(libc::ENOSYS)), Err(Unfit::IoUringAbsent)));
        assert!(matches!(io_uring_verdict(0, os(libc::ENOMEM)), Err(Unfit::IoUring { .. })));
        assert!(matches!(memlock_verdict(Some(MEMLOCK_MIN - 1)), Err(Unfit::Memlock { .. })));
        assert!(memlock_verdict(Some(MEMLOCK_MIN)).is_ok());
        assert!(memlock_verdict(None).is_ok());
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("file");
        fs::write(&file, b"x").expect("writes");
        let error = direct_io(&file.join("below")).expect_err("a file is no directory");
        assert!(error.to_string().contains("file/below"), "{error}");
    }

    #[test]
    fn this_directory_takes_direct_io() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("temporary directory");
        direct_io(dir.path()).expect("direct I/O works");
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 0);
        assert!(free_bytes(dir.path()).expect("counts") > 0);
    }
}
