//! Waiting until no other process has a write under way in a file.
//!
//! Owns: how long a start waits for a lock that another handle holds, and what it logs. Does not own: the lock itself
//! (`syscall`), which files are locked (see [`super::File::take_over`]). Affinity: shard-local.

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::syscall;

const PAUSE: Duration = Duration::from_millis(5);
/// A shorter wait is not logged.
const QUIET: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What to do while another handle holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Continue,
    Log,
    GiveUp,
}

fn waiting(waited: Duration, logged: bool) -> Waiting {
    match waited {
        _ if waited >= WAIT_MAX => Waiting::GiveUp,
        _ if waited >= QUIET && !logged => Waiting::Log,
        _ => Waiting::Continue,
    }
}

/// Locks the file, waiting for another handle's lock to end.
///
/// # Errors
/// The system's error; `TimedOut` after [`WAIT_MAX`].
pub(super) async fn take_over(file: &impl AsRawFd) -> io::Result<()> {
    #[allow(clippy::disallowed_methods, reason = "waits for the real disk")]
    let start = Instant::now();
    let mut logged = false;
    while !syscall::try_lock(file)? {
        match waiting(start.elapsed(), logged) {
            Waiting::Continue => {}
            Waiting::Log => {
                logged = true;
                tracing::warn!(
                    file = %path(file).display(), at_most = ?WAIT_MAX,
                    "waiting for writes to this file that a process which has ended left in the kernel; if this takes \
                     long, see why the disk is slow, and whether another process has the data directory open"
                );
            }
            Waiting::GiveUp => {
                let why = format!(
                    "after {WAIT_MAX:?} it is still being written to: by another process, which must end first, or by \
                     the kernel for a process that has ended; see why the disk does not answer, then start again"
                );
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
        }
        glommio::timer::sleep(PAUSE).await;
    }
    if logged {
        tracing::info!(file = %path(file).display(), waited = ?start.elapsed(), "the writes have ended, the start continues");
    }
    Ok(())
}

/// The path of an open file, for a message.
fn path(file: &impl AsRawFd) -> PathBuf {
    let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    std::fs::read_link(&link).unwrap_or(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_logged_once_and_has_an_end() {
        let at = |seconds, logged| waiting(Duration::from_secs(seconds), logged);
        assert_eq!(waiting(Duration::from_millis(999), false), Waiting::Continue);
        assert_eq!((at(1, false), at(1, true)), (Waiting::Log, Waiting::Continue));
        assert_eq!((at(59, true), at(60, true), at(60, false)), (Waiting::Continue, Waiting::GiveUp, Waiting::GiveUp));
    }
}
