//! Whether another lineage epoch has taken over this broker's cluster: [`Superseded`].
//!
//! A restore begins a new epoch from the bucket while brokers of the old one may still run, or come back. What they
//! acknowledged from then on would be in no cluster that lives on. So they refuse to append, for clients and for group
//! offsets, until they are stopped. Owns: that state and its words. Does not own: how it is noticed (`archival`).
//! Node-wide, cheap to clone; it never goes back.

use std::fmt;
use std::sync::{Arc, OnceLock};

use tidewater_tiering::keys::LineageEpoch;

/// See the header.
#[derive(Clone, Debug, Default)]
pub struct Superseded {
    by: Arc<OnceLock<SupersededBy>>,
}

/// The cluster goes on elsewhere. A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SupersededBy {
    /// This broker's epoch.
    pub own: LineageEpoch,
    /// The epoch in which the cluster goes on.
    pub next: LineageEpoch,
}

impl Superseded {
    /// Notes that epoch `next` has taken over, as `sign` shows. A `next` that is not later than `own` is not believed.
    pub fn note(&self, own: LineageEpoch, next: LineageEpoch, sign: &str) {
        if next <= own {
            tracing::error!(%own, %next, sign, "the bucket names an epoch that is not later as the successor of this broker's epoch");
            return;
        }
        let end = SupersededBy { own, next };
        if self.by.set(end).is_ok() {
            tracing::error!(sign, "{end}");
        }
    }

    /// Has the cluster gone on elsewhere?
    #[must_use]
    pub fn by(&self) -> Option<SupersededBy> {
        self.by.get().copied()
    }
}

impl fmt::Display for SupersededBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { own, next } = self;
        write!(
            f,
            "the cluster was restored from its bucket and goes on in epoch {next}; this broker is of epoch {own} and stores \
             nothing any more: stop it, and connect clients to the restored cluster"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_epoch_takes_over_and_only_once() {
        let superseded = Superseded::default();
        superseded.note(LineageEpoch(2), LineageEpoch(2), "a test");
        assert_eq!(superseded.by(), None);
        superseded.clone().note(LineageEpoch(2), LineageEpoch(3), "a test");
        superseded.note(LineageEpoch(2), LineageEpoch(4), "a test");
        assert_eq!(superseded.by(), Some(SupersededBy { own: LineageEpoch(2), next: LineageEpoch(3) }));
    }
}
