//! What a shard's storage engine counts. Named fields, no names at call sites; the root renders them. Shard-local
//! counters, snapshots are *messages*.

use std::cell::Cell;

/// A number that only grows. Shard-local.
#[derive(Debug, Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    /// Adds.
    pub fn add(&self, by: u64) {
        self.0.set(self.0.get().wrapping_add(by));
    }

    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The counters of one shard's engine. Shard-local.
        #[derive(Debug, Default)]
        pub struct EngineCounters { $($(#[$doc])* pub $name: Counter,)* }

        /// Their values at one moment. A *message*.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct EngineCounts { $($(#[$doc])* pub $name: u64,)* }

        impl EngineCounters {
            /// The values now.
            #[must_use]
            pub fn counts(&self) -> EngineCounts {
                EngineCounts { $($name: self.$name.get(),)* }
            }
        }

        impl EngineCounts {
            /// Name and value of each, for rendering.
            #[must_use]
            pub fn table(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Writes to segment files.
    write_backs,
    /// Bytes of them.
    write_back_bytes,
    /// Syncs of segment files.
    segment_syncs,
    /// Segments closed and indexed.
    segments_closed,
    /// Runs read from segment files.
    run_reads,
    /// Bytes of them.
    run_read_bytes,
    /// Checkpoints made durable.
    checkpoints,
    /// Pages written by them.
    checkpoint_pages,
    /// Bytes written by them, roots included.
    checkpoint_bytes,
    /// Segment files and directories removed.
    files_removed,
    /// Admissions refused for want of disk space.
    refused_disk,
    /// Admissions refused for want of memory or journal.
    refused_pressure,
}
