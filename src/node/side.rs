//! The side runtime: the tokio runtime of object stores, HTTP and tables.

use tokio::runtime::{Builder, Handle, Runtime};

use super::error::StartError;

/// Worker threads. Not pinned, so that shards keep their cores.
const WORKERS: usize = 2;
/// Threads for blocking file calls of the directory store.
const BLOCKING_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Side {
    runtime: Runtime,
}

impl Side {
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

    /// For spawning from other threads.
    #[must_use]
    pub(super) fn handle(&self) -> Handle {
        self.runtime.handle().clone()
    }

    /// Stops the runtime; tasks that still run after two seconds are dropped.
    pub(super) fn stop(self) {
        self.runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    }
}
