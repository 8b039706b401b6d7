//! System calls that neither std nor glommio has, as safe functions.
//!
//! Owns: all `unsafe` of this crate. Does not own: what the results mean (`preflight`).
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Bytes left for this user on the file system that holds `path` (statvfs).
pub(super) fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` is a NUL-terminated string and `stat` is writable memory of the right type, both outlive the call.
    let result = unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: statvfs returned success, so it has filled the structure.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Locks the open file for this process, unless another open file description has the lock (flock). The lock ends when
/// the last reference to the description does; a request in the kernel's hands is one.
pub(super) fn try_lock(file: &impl AsRawFd) -> io::Result<bool> {
    // SAFETY: flock takes a descriptor, which is open for as long as its owner is borrowed, and touches no memory.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error) }
}

/// Ends the lock of [`try_lock`].
pub(super) fn unlock(file: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: as in `try_lock`.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_UN) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Tries to set up a ring of one entry and takes it down again (io_uring_setup).
pub(super) fn try_io_uring() -> io::Result<()> {
    // struct io_uring_params is 120 bytes; zero means "no flags".
    let mut params = [0u64; 15];
    // SAFETY: io_uring_setup reads and writes 120 bytes at the pointer, which is exactly this array.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1u32, params.as_mut_ptr()) };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just returned, and no other code has it.
    unsafe { libc::close(fd) };
    Ok(())
}

/// Bytes this process may lock in memory; `None` is unlimited (getrlimit).
pub(super) fn memlock_limit() -> io::Result<Option<u64>> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable memory of the right type for the duration of the call.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur))
}

/// Raises this process's soft limit of open files to the hard limit (RLIMIT_NOFILE), and returns it.
pub(super) fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable memory of the right type for the duration of the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is readable memory of the right type for the duration of the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}

/// Writes everything of the file system that holds the open file to the device, and waits for it (syncfs).
pub(super) fn sync_file_system(file: &std::fs::File) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed; the call takes no memory of ours.
    if unsafe { libc::syncfs(file.as_raw_fd()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
