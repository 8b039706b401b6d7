//! The side runtimes: the tokio runtime of object stores and HTTP, and a second one of tables, which gives way.

use tokio::runtime::{Builder, Handle, Runtime};

use super::error::StartError;

/// Worker threads of each. Not pinned, so that shards keep their cores.
const WORKERS: usize = 2;
/// Threads for blocking calls of each, such as the directory store's.
const BLOCKING_MAX: usize = 16;
/// Niceness of the threads of tables: they decode, sort and compress for seconds, and where a shard wants the same core
/// they get a tenth of it. Without it, a produce request waits for the end of their time slice.
const NICE: i32 = 10;

#[derive(Debug)]
pub(super) struct Side {
    runtime: Runtime,
    tables: Runtime,
}

impl Side {
    /// # Errors
    /// The system refuses threads.
    pub(super) fn start() -> Result<Self, StartError> {
        let runtime = build(Builder::new_multi_thread().thread_name("tidewater-side"))?;
        let tables = build(Builder::new_multi_thread().thread_name("tidewater-table").on_thread_start(give_way))?;
        Ok(Self { runtime, tables })
    }

    /// For spawning from other threads.
    #[must_use]
    pub(super) fn handle(&self) -> Handle {
        self.runtime.handle().clone()
    }

    /// The same for what tables do.
    #[must_use]
    pub(super) fn tables(&self) -> Handle {
        self.tables.handle().clone()
    }

    /// Stops both; tasks that still run after two seconds are dropped.
    pub(super) fn stop(self) {
        const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);
        self.tables.shutdown_timeout(PATIENCE);
        self.runtime.shutdown_timeout(PATIENCE);
    }
}

fn build(builder: &mut Builder) -> Result<Runtime, StartError> {
    let built = builder.worker_threads(WORKERS).max_blocking_threads(BLOCKING_MAX).enable_all().build();
    built.map_err(|e| StartError::System { what: "threads for the side runtime", why: e.to_string() })
}

/// Of the calling thread.
fn give_way() {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "a thread of tables runs at the priority of shards");
    }
}
