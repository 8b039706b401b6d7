//! Which readers read a partition in order, and how many chunks to fetch ahead of each.
//!
//! Owns: a bounded memory of recent reads per shard. Does not own: fetching. Pure; *shard-local* by use.
//! A read that starts where an earlier one ended is sequential; each such read doubles the depth up to the maximum, so
//! a single read of old data costs one chunk, and a scan soon has several chunks under way.

use std::collections::VecDeque;

use tidewater_storage::model::{Offset, PartitionId};

/// Streams remembered per shard; the one read longest ago is forgotten first.
const STREAMS_MAX: usize = 256;

#[derive(Debug)]
struct Stream {
    partition: PartitionId,
    next: Offset,
    depth: usize,
}

/// The recent readers of one shard. *Shard-local*.
#[derive(Debug)]
pub struct ReadAhead {
    streams: VecDeque<Stream>,
    depth_max: usize,
}

impl ReadAhead {
    /// Fetches at most `depth_max` chunks ahead of any one reader.
    #[must_use]
    pub fn new(depth_max: usize) -> Self {
        Self { streams: VecDeque::new(), depth_max }
    }

    /// Does a read from `from` continue an earlier one?
    #[must_use]
    pub fn follows(&self, partition: PartitionId, from: Offset) -> bool {
        self.streams.iter().any(|s| s.partition == partition && s.next == from)
    }

    /// A read of `[from, until)` was answered: how many chunks after `until` should be on their way?
    pub fn observe(&mut self, partition: PartitionId, from: Offset, until: Offset) -> usize {
        let known = self.streams.iter().position(|s| s.partition == partition && s.next == from);
        let depth = match known.and_then(|at| self.streams.remove(at)) {
            Some(stream) => (stream.depth * 2).clamp(1, self.depth_max.max(1)).min(self.depth_max),
            None => 0,
        };
        if self.streams.len() == STREAMS_MAX {
            self.streams.pop_back();
        }
        self.streams.push_front(Stream { partition, next: until, depth });
        depth
    }
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::{Incarnation, PartitionIndex, TopicId};

    use super::*;

    fn partition(index: i32) -> PartitionId {
        PartitionId { topic: TopicId::default(), index: PartitionIndex(index), incarnation: Incarnation(0) }
    }

    #[test]
    fn sequential_reads_deepen_and_jumps_start_again() {
        let mut ahead = ReadAhead::new(4);
        let offset = Offset::new;
        assert_eq!(ahead.observe(partition(0), offset(0), offset(10)), 0);
        assert_eq!(ahead.observe(partition(0), offset(10), offset(20)), 1);
        assert_eq!(ahead.observe(partition(1), offset(20), offset(30)), 0, "another partition");
        assert_eq!(ahead.observe(partition(0), offset(20), offset(30)), 2);
        assert_eq!(ahead.observe(partition(0), offset(30), offset(40)), 4);
        assert_eq!(ahead.observe(partition(0), offset(40), offset(50)), 4);
        assert_eq!(ahead.observe(partition(0), offset(0), offset(10)), 0, "a second reader from the start");
        assert_eq!(ahead.observe(partition(0), offset(50), offset(60)), 4, "does not disturb the first");
    }

    #[test]
    fn memory_is_bounded_and_zero_depth_never_reads_ahead() {
        let mut ahead = ReadAhead::new(0);
        for n in 0..10_000 {
            assert_eq!(ahead.observe(partition(n), Offset::ZERO, Offset::new(1)), 0);
        }
        assert_eq!(ahead.streams.len(), STREAMS_MAX);
        assert_eq!(ahead.observe(partition(9_999), Offset::new(1), Offset::new(2)), 0);
    }
}
