//! How many shards a new data directory gets when `--shards` is not set.
//!
//! A shard polls three rings whenever it runs, and a request that crosses shards costs two wake-ups, so a shard is
//! worth its core only while nothing else needs that core. Uploads, tables, HTTP and the kernel's copies run on the
//! side runtime, which has no core of its own; on two cores it took 29 % of the processor time of a tiered topic. The
//! rule therefore leaves one core in eight, at least one, to the side runtime. It favours producers: on two cores a
//! second shard doubles the processor time of small requests, and lets consumers read 1.5 times as fast.
//! `benches/README.md` has the measurements.

/// The number of shards for a machine with `cores` cores: 1 for 1 or 2, 3 for 4, 7 for 8, 14 for 16, 56 for 64.
#[must_use]
pub(super) fn default_shards(cores: u16) -> u16 {
    let left_free = (cores / 8).max(1);
    cores.saturating_sub(left_free).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_core_in_eight_stays_free_of_shards() {
        let rule: Vec<_> = [0, 1, 2, 4, 8, 16, 64].map(|cores| (cores, default_shards(cores))).into();
        assert_eq!(rule, [(0, 1), (1, 1), (2, 1), (4, 3), (8, 7), (16, 14), (64, 56)]);
    }
}
