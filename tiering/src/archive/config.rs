//! Bounds and cadence of archiving: [`ArchiveConfig`].
//!
//! Owns: the figures and their defaults. Does not own: what the broker makes of its own settings. A *message*.

use std::time::Duration;

/// Bounds and cadence of one lane's archiving.
#[derive(Clone, Debug)]
pub struct ArchiveConfig {
    /// A bundle takes no more than this (and is in memory while it is written).
    pub bundle_bytes_max: u64,
    /// So much waiting makes a bundle due at once.
    pub bundle_bytes_eager: u64,
    /// A segment or gathered object takes no more than this (and is in memory while it is written).
    pub object_bytes_max: u64,
    /// So many live bundles make gathering due.
    pub gather_bundles: usize,
    /// So old a live bundle makes gathering due.
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
    /// Instead of [`ArchiveConfig::delete_grace`] and [`ArchiveConfig::publish_interval`] while the host is pressed for the
    /// bucket's space: longer than a read's deadline, with no reader but this broker.
    pub pressed: (Duration, Duration),
    /// How often the bucket is listed for objects that nobody names.
    pub sweep_interval: Duration,
    /// How often the scrubber looks: at what is quarantined, and at the next [`ArchiveConfig::scrub_bytes`] of the rest.
    pub scrub_interval: Duration,
    /// So much it reads in one look.
    pub scrub_bytes: u64,
    /// Longest sleep between two looks at what waits for a bundle. With nothing waiting, a lane that stirs is left alone.
    pub tick: Duration,
    /// Sleep between two rounds of everything else that found nothing to do. With nothing left to do, the next round waits
    /// until the lane stirs, at most `retention_interval`.
    pub housekeeping_interval: Duration,
    /// First and longest pause after a failure of the store.
    pub backoff: (Duration, Duration),
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        Self {
            bundle_bytes_max: 32 << 20,
            bundle_bytes_eager: 8 << 20,
            object_bytes_max: 64 << 20,
            gather_bundles: 256,
            gather_after: Duration::from_secs(3600),
            gather_row_bytes_max: 4 << 20,
            publish_interval: Duration::from_secs(60),
            delete_grace: Duration::from_secs(3600),
            pressed: (Duration::from_secs(45), Duration::from_secs(10)),
            retention_interval: Duration::from_secs(60),
            sweep_interval: Duration::from_secs(6 * 3600),
            scrub_interval: Duration::from_secs(3600),
            scrub_bytes: 16 << 20,
            tick: Duration::from_millis(250),
            housekeeping_interval: Duration::from_secs(1),
            backoff: (Duration::from_millis(200), Duration::from_secs(10)),
        }
    }
}
