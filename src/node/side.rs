//! The side runtime: one tokio runtime for everything whose crate wants tokio (object stores, HTTP, tables).

use tokio::runtime::{Builder, Handle, Runtime};

use super::error::StartError;

/// Worker threads; not pinned, so that shards keep their cores when they need them.
const WORKERS: usize = 2;
/// Threads for blocking file calls of the directory store.
const BLOCKING_MAX: usize = 16;

/// The running side runtime.
#[derive(Debug)]
pub(super) struct Side {
    runtime: Runtime,
}

impl Side {
    /// Starts it.
    ///
    /// # Errors
    /// The system refuses threads.
    pub(super) fn start() -> Result<Self, StartError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING_MAX)
            .thread_name("tidewater-side")
            .enable_all()
            .build()
            .map_err(|e| StartError::System { what: "threads for the side runtime", why: e.to_string() })?;
        Ok(Self { runtime })
    }

    /// To spawn onto it from anywhere.
    #[must_use]
    pub(super) fn handle(&self) -> Handle {
        self.runtime.handle().clone()
    }

    /// Ends it; tasks still running are dropped after a moment.
    pub(super) fn stop(self) {
        self.runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    }
}
