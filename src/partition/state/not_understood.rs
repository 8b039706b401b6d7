//! What a lane does with an entry that a newer version wrote: it stops there. To pass over it would be made final by the
//! next checkpoint, and what the entry did would be lost for the newer version too. Shard-local.

use std::cell::RefCell;

use tidewater_storage::model::{EntryId, LaneId};

/// An entry of a lane's log that this version cannot apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "lane {lane} stops at entry {entry}, which this version does not understand ({why}); nothing was changed: \
     start the newer version that wrote it"
)]
pub struct NotUnderstood {
    /// The lane.
    pub lane: LaneId,
    /// Its first entry that is not applied.
    pub entry: EntryId,
    /// What is wrong with it.
    pub why: String,
}

/// Where a lane has stopped, if it has.
#[derive(Debug, Default)]
pub struct Stopped {
    at: RefCell<Option<NotUnderstood>>,
}

impl Stopped {
    /// Has it?
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.at.borrow().is_some()
    }

    /// Why it has.
    #[must_use]
    pub fn why(&self) -> Option<NotUnderstood> {
        self.at.borrow().clone()
    }

    /// It stops here; later entries are not looked at.
    pub fn set(&self, why: NotUnderstood) {
        tracing::error!(error = %why, "a lane stops at an entry of a newer version");
        self.at.borrow_mut().get_or_insert(why);
    }
}
