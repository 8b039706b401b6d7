//! What one answer may come to while it is put together, where a small request can ask for a large one: charged to the
//! shard's memory as it grows, and full at some point. Shard-local.
//!
//! A request may name 250,000 things in a megabyte. What does
//! not fit is refused by name (INVALID_REQUEST), so that the client can ask for it alone.

use std::cell::{Cell, RefCell};

use super::budget::{Budget, Lease};
use super::limits::ANSWER_BYTES_MAX;

/// The message for a part that does not fit.
pub const FULL: &str = "the answer is full: ask for less at a time";

#[derive(Debug)]
pub struct AnswerRoom {
    held: RefCell<Lease>,
    full: Cell<bool>,
}

impl AnswerRoom {
    /// For an answer of which there is nothing yet.
    #[must_use]
    pub fn new(budget: &Budget) -> Self {
        Self { held: RefCell::new(budget.empty()), full: Cell::new(false) }
    }

    /// Did something not fit? Then nothing does any more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full.get()
    }

    /// Takes in a part of so many bytes, if it fits; the first fits at any size.
    #[must_use]
    pub fn takes(&self, bytes: usize) -> bool {
        let mut held = self.held.borrow_mut();
        let sum = held.bytes().saturating_add(bytes);
        if self.full.get() || (held.bytes() > 0 && sum > ANSWER_BYTES_MAX) {
            self.full.set(true);
            return false;
        }
        held.set(sum);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_part_fits_and_what_comes_behind_one_that_does_not_is_refused() {
        let budget = Budget::new(1 << 30);
        let room = AnswerRoom::new(&budget);
        assert!(room.takes(ANSWER_BYTES_MAX - 1) && room.takes(1));
        assert_eq!(budget.used(), ANSWER_BYTES_MAX);
        assert!(!room.takes(1) && room.is_full() && !room.takes(0));
        drop(room);
        assert_eq!(budget.used(), 0);
        assert!(AnswerRoom::new(&budget).takes(2 * ANSWER_BYTES_MAX), "alone");
    }
}
