//! [`Scatter`]: whether a table's partition spec scatters its rows over so many partitions that its files are of no
//! use.
//!
//! A turn opens 256 partitions at most, so a spec with a partition for nearly each row makes commits of some hundred
//! rows, as fast as they can be made. Such a table goes on, but rests between its commits, and says why. Only specs
//! over columns of values or keys: of the others the setting has refused those.

use std::fmt;

use super::take::Taken;

/// A file with fewer rows on average is of no use.
const ROWS: u64 = 8;
/// Turns of such files one after the other before the table rests: a burst of some values is no reason.
const TURNS: u32 = 4;

/// See the header.
#[derive(Debug, Default)]
pub(super) struct Scatter {
    /// Turns of such files so far, without another one in between.
    turns: u32,
    /// Of the last one.
    rows: u64,
    files: usize,
}

impl Scatter {
    /// Counts a turn that could open `most` partitions.
    pub(super) fn note(&mut self, taken: &Taken, most: usize) {
        let translation = &taken.translation;
        (self.rows, self.files) = (translation.rows(), translation.files());
        // Each partition of the topic has its share of the files, and may leave some of it.
        let is_full = taken.behind && self.files >= most / 2;
        let is_scattered = translation.partitioner().needs_values() && self.rows < ROWS * self.files as u64;
        self.turns = if is_full && is_scattered { (self.turns + 1).min(TURNS) } else { 0 };
    }

    /// Whether the table rests now. The next turn after that goes on.
    pub(super) fn rests(&mut self) -> bool {
        let rests = self.turns == TURNS;
        if rests {
            self.turns -= 1;
        }
        rests
    }
}

impl fmt::Display for Scatter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "its partition spec scatters rows: the last commit had {} rows in {} files. Until another spec is set in an \
             engine (ALTER TABLE … REPLACE PARTITION FIELD), such as bucket(16, …) of the column, the table rests \
             after each commit",
            self.rows, self.files
        )
    }
}
