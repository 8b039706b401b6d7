//! What a caller should do about an error: one word, used by every crate.
//!
//! Each error type that a caller reacts to has a method `disposition()`; loops and HTTP or Kafka answers match on it
//! and not on variants, so that an error which will not pass is never retried as one that will.

use std::io;

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// Passes without anyone acting: repeat the same call after a short pause. Nothing was changed, or the call is safe
    /// to repeat.
    Retry,
    /// Another writer was first or owns this now: read the current state, then plan again.
    Conflict,
    /// The call may or may not have taken effect: find out before anything that depends on it is done.
    Unknown,
    /// The request is wrong or not allowed. The same call fails until someone changes the request, a setting, a
    /// permission or the disk: report once with what to do, and look again only after a long pause.
    Refused,
    /// What was asked for does not exist.
    Absent,
    /// Bytes are not what was written: do not build on them.
    Corrupt,
    /// Going on would do harm: the process, lane or writer that asked must end.
    Fatal,
}

impl Disposition {
    /// May the same call, unchanged, succeed after a short pause?
    #[must_use]
    pub const fn passes(self) -> bool {
        matches!(self, Self::Retry)
    }

    /// Is it certain whether the call took effect? After [`Disposition::Unknown`] and [`Disposition::Fatal`] only
    /// the state that is found later answers that.
    #[must_use]
    pub const fn outcome_is_known(self) -> bool {
        !matches!(self, Self::Unknown | Self::Fatal)
    }

    /// What a failed call of the file system means. A full disk counts as [`Disposition::Retry`]: retention and deletes
    /// make room. An error that no kind names is retried.
    #[must_use]
    pub fn of_io(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::NotFound | Kind::NotADirectory => Self::Absent,
            Kind::AlreadyExists => Self::Conflict,
            Kind::InvalidData => Self::Corrupt,
            Kind::PermissionDenied
            | Kind::ReadOnlyFilesystem
            | Kind::InvalidFilename
            | Kind::InvalidInput
            | Kind::IsADirectory
            | Kind::FileTooLarge
            | Kind::NotSeekable
            | Kind::TooManyLinks
            | Kind::CrossesDevices
            | Kind::ArgumentListTooLong
            | Kind::Unsupported => Self::Refused,
            // Kinds that the standard library does not name yet.
            _ => match error.raw_os_error() {
                Some(libc::ELOOP | libc::ENXIO | libc::EOVERFLOW) => Self::Refused,
                _ => Self::Retry,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_will_not_pass_on_a_file_system_is_refused() {
        let of = |number| Disposition::of_io(&io::Error::from_raw_os_error(number));
        for number in [
            libc::ENAMETOOLONG,
            libc::EINVAL,
            libc::EROFS,
            libc::EACCES,
            libc::EPERM,
            libc::EISDIR,
            libc::EFBIG,
            libc::EXDEV,
            libc::EMLINK,
            libc::ELOOP,
            libc::EOPNOTSUPP,
        ] {
            assert_eq!(of(number), Disposition::Refused, "{}", io::Error::from_raw_os_error(number));
        }
        for number in [libc::ENOENT, libc::ENOTDIR] {
            assert_eq!(of(number), Disposition::Absent, "{}", io::Error::from_raw_os_error(number));
        }
        for number in [libc::ENOSPC, libc::EDQUOT, libc::EIO, libc::EINTR, libc::EMFILE, libc::ENOMEM, libc::ESTALE] {
            assert_eq!(of(number), Disposition::Retry, "{}", io::Error::from_raw_os_error(number));
        }
        assert_eq!(of(libc::EEXIST), Disposition::Conflict);
    }
}
