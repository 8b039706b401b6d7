//! Bounds and cadence of one lane's archiving: [`ArchiveConfig`]. A *message*.

use std::time::Duration;

/// Sizes are bytes.
#[derive(Clone, Debug)]
pub struct ArchiveConfig {
    /// A bundle and its parts take no more than this together (and are in memory while they are written).
    pub bundle_bytes_max: u64,
    /// A partition with this much in a bundle goes into a part, which is uploaded once. With less its bytes lie in the
    /// bundle, and once more in the segment object that replaces them: a small part would be a row and a PUT of its own
    /// for ever.
    pub part_bytes_min: u64,
    /// A partition with this much that is not archived makes a bundle due at once.
    pub part_bytes_eager: u64,
    /// This much over all partitions makes a bundle of everything due at once, whether it fills a part or not. While
    /// the local disk is filling up, [`ArchiveConfig::part_bytes_eager`] does.
    pub waiting_bytes_max: u64,
    /// A segment or gathered object takes no more than this (and is in memory while it is written).
    pub object_bytes_max: u64,
    /// With this many live bundles gathering is due.
    pub gather_bundles: usize,
    /// With a live bundle of this age gathering is due.
    pub gather_after: Duration,
    /// Rows larger than this are left in their bundles, unless the bundle is mostly dead.
    pub gather_row_bytes_max: u64,
    /// Least time between two publications of the lane's manifest.
    pub publish_interval: Duration,
    /// Time between the publication that forgets an object and its deletion: longer than any PUT with its retries and
    /// any reader's refresh.
    pub delete_grace: Duration,
    /// How often total retention is looked at.
    pub retention_interval: Duration,
    /// Instead of [`ArchiveConfig::delete_grace`] and [`ArchiveConfig::publish_interval`] while the host is short of
    /// space for the bucket: longer than a read's deadline, as no reader but this broker uses such a bucket.
    pub short_of_space: (Duration, Duration),
    /// Objects of a partition, and of a lane with its partitions, that may wait for their deletion: with more the
    /// oldest cut is released. They take about 90 bytes of memory each, and 60 in checkpoints.
    pub pending_max: (usize, usize),
    /// How often the bucket is listed for objects that nothing names.
    pub sweep_interval: Duration,
    /// How often the scrubber runs: over what is quarantined, and over the next [`ArchiveConfig::scrub_bytes`] of the
    /// rest.
    pub scrub_interval: Duration,
    /// The scrubber reads this much in one run.
    pub scrub_bytes: u64,
    /// Longest sleep between two looks at what waits for a bundle. With nothing waiting, the loop sleeps until the lane
    /// changes.
    pub tick: Duration,
    /// Sleep between two rounds of housekeeping that found nothing to do. With nothing left to do, the next round waits
    /// until the lane changes, at most `retention_interval`.
    pub housekeeping_interval: Duration,
    /// First and longest pause after a failure of the store.
    pub backoff: (Duration, Duration),
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        Self {
            bundle_bytes_max: 32 << 20,
            part_bytes_min: 4 << 20,
            part_bytes_eager: 8 << 20,
            waiting_bytes_max: 256 << 20,
            object_bytes_max: 64 << 20,
            gather_bundles: 256,
            gather_after: Duration::from_secs(3600),
            gather_row_bytes_max: 4 << 20,
            publish_interval: Duration::from_secs(60),
            delete_grace: Duration::from_secs(3600),
            short_of_space: (Duration::from_secs(45), Duration::from_secs(10)),
            retention_interval: Duration::from_secs(60),
            pending_max: (1 << 18, 1 << 20),
            sweep_interval: Duration::from_secs(6 * 3600),
            scrub_interval: Duration::from_secs(3600),
            scrub_bytes: 16 << 20,
            tick: Duration::from_millis(250),
            housekeeping_interval: Duration::from_secs(1),
            backoff: (Duration::from_millis(200), Duration::from_secs(10)),
        }
    }
}
