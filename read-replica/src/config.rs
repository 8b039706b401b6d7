//! How often a source's bucket is asked: [`ReplicaConfig`]. A *message*.

use std::time::Duration;

/// Pauses and bounds of following.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// Pause after a look for the next bundle that found none: the first after a bundle, and the longest. Each is a
    /// quarter longer than the one before.
    pub poll: (Duration, Duration),
    /// A lane whose next bundle is missing for this long has its manifest looked at.
    pub manifest_interval: Duration,
    /// How often root and catalogue are looked at.
    pub root_interval: Duration,
    /// Bundles that are asked for side by side while a lane is behind.
    pub ahead: usize,
    /// First and longest pause after an answer that is an error.
    pub backoff: (Duration, Duration),
    /// Pages of a lane manifest that are read side by side.
    pub pages_ahead: usize,
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        Self {
            poll: (Duration::from_secs(1), Duration::from_secs(5)),
            manifest_interval: Duration::from_secs(60),
            root_interval: Duration::from_secs(60),
            ahead: 8,
            backoff: (Duration::from_millis(200), Duration::from_secs(10)),
            pages_ahead: 4,
        }
    }
}
