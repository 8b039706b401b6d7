//! Is this machine fit to run on? Asked before any executor is made, because glommio answers a forbidden io_uring by
//! panicking in the executor's thread and a too old kernel by ending the process.
//!
//! Owns: the checks of the machine seam and the words for their failures: what is wrong, where, what to do. Does not
//! own: ports, locks on the data directory, printing. Affinity: any thread; nothing here needs an executor.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::aligned::ALIGNMENT;
use super::disk::is_disk_full;
use super::syscall;

/// Below this glommio refuses to make an executor. Bytes.
pub const MEMLOCK_MIN: u64 = 512 << 10;

/// Something that keeps shards from running here. Each names what is wrong and what to do.
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
    /// The kernel does not know it.
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
    /// No direct I/O on this file system.
    #[error("{} is on a file system without direct I/O (O_DIRECT): {error}; choose a directory on ext4, xfs or btrfs", path.display())]
    DirectIo { path: PathBuf, error: io::Error },
    /// There is not even a block free to try it on.
    #[error("{} has no room for 4 KiB: {error}; free some space there or choose another directory", path.display())]
    NoRoom { path: PathBuf, error: io::Error },
    /// The directory cannot be made or written.
    #[error("{} cannot be written: {error}; check its owner, mode and mount", path.display())]
    Directory { path: PathBuf, error: io::Error },
}

/// Can a ring be set up?
///
/// # Errors
/// Why not.
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

/// May enough memory be locked? Returns the limit in bytes (`None`: unlimited).
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

/// Does the directory, made if absent, take aligned direct writes and give them back?
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
    // A probe that stays behind is 4 KiB of rubbish, not a reason to refuse.
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

/// Lets this process open as many files as the system allows it, and tells how many: the usual soft limit of 1024 is
/// for programs that use `select`.
///
/// # Errors
/// The system's.
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

#[cfg(test)]
mod tests {
    use super::*;

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
