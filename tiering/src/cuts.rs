//! Cuts: earlier states of a whole cluster that a restore can go back to.
//!
//! Owns: what a cut is ([`Cut`]), which cuts a home has ([`CutIndex`]), how long they are kept ([`thin()`]), making one
//! ([`CutMaker`]). Does not own: restoring to one (`restore`), when one is due (the broker's package).
//!
//! ```text
//! make     index read → of each lane: manifest read → bundles read up to the first free key → catalogue read, until it
//!            names no other lane and lacks no topic → cut PUT if absent → all that within a part of delete.grace, by
//!            either clock → index PUT if it is the version read: the cut exists; it is taken out again if that PUT
//!            lasted too long
//! delete   the index read, at most that part of delete.grace ago → an object whose intent came after the `as_of` of a
//!            cut in it stays
//! release  index PUT without the cut → its object DELETE; by the maker, or by a lane that cuts make too large
//!            (`archive`)
//! restore  root raised → index PUT with `closed_for`: the cut that was chosen stays → cut read → lanes ended
//! ```
//!
//! Why the deleting lane sees every cut that matters: an object that a cut reaches was named by a manifest that the
//! cut's maker read, so the manifest that forgot it came later, and its grace ends more than `delete.grace` after the
//! maker began. The index that the lane goes by was read in the last quarter of that time, and the maker has noted the
//! cut in the quarters before: it begins the PUT in the first, and no PUT takes longer than two. An object that a cut
//! reaches is not pending in the manifest that it reads: its intent has a later log index than that manifest's `as_of`.

mod index;
mod make;
mod object;
mod thin;

use std::time::Duration;

pub use index::{CutEntry, CutIndex, CutLane, close_index, hold_cut, read_index, release_oldest};
pub use make::{CutDone, CutError, CutMaker, Unsettled};
pub use object::{Cut, CutLaneState};
pub use thin::thin;

/// The part of the shortest grace within which a cut is made, and for which a lane that deletes goes by an index that
/// it has read.
#[must_use]
pub fn part_of(grace: Duration) -> Duration {
    grace / 4
}
