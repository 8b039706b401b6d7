//! What a caller should do about a failure: one word for every error of this crate.

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// The same call may succeed later; back off first.
    Retry,
    /// Another term, lineage or replica owns this now.
    Redirect,
    /// The request is at fault or the answer is final; repeating it is pointless.
    Reject,
    /// Stop what asked: the process or the lane is going away.
    Shutdown,
    /// Bytes are not what was written: quarantine, do not build on them.
    Corrupt,
}
