//! Kafka's offset and the half-open range of them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A record's place in its partition, as Kafka's clients see it. Never negative; the first record of a topic is 0.
/// Protocol sentinels (-1, -2, …) are turned into `Option` or an enum at the edge and never get in here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(u64);

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Self = Self(0);
    /// The greatest offset the wire can carry.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// From a number known to be in range; anything above `MAX` is clamped to it.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        if value > Self::MAX.0 { Self::MAX } else { Self(value) }
    }

    /// From the wire: `None` for a negative number, which is a sentinel or garbage.
    #[must_use]
    pub const fn from_wire(value: i64) -> Option<Self> {
        if value < 0 { None } else { Some(Self(value as u64)) }
    }

    /// The number as the wire carries it.
    #[must_use]
    pub const fn to_wire(self) -> i64 {
        self.0 as i64
    }

    /// The bare number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The offset after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self::new(self.0 + 1)
    }

    /// `count` offsets further.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self::new(self.0.saturating_add(count))
    }

    /// How many offsets lie in `[earlier, self)`; `None` if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Offsets `[start, end)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OffsetRange {
    /// First offset inside.
    pub start: Offset,
    /// First offset after.
    pub end: Offset,
}

impl OffsetRange {
    /// `[start, end)`; an `end` before `start` gives the empty range at `start`.
    #[must_use]
    pub fn new(start: Offset, end: Offset) -> Self {
        Self { start, end: end.max(start) }
    }

    /// Is nothing inside?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// How many offsets are inside.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.end.get().saturating_sub(self.start.get())
    }

    /// Is `offset` inside?
    #[must_use]
    pub fn contains(&self, offset: Offset) -> bool {
        self.start <= offset && offset < self.end
    }

    /// What both ranges hold; empty (at the later start) when they do not touch.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}
