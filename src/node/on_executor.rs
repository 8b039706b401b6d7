//! Work on an executor before the shards run: joining a cluster, changing the number of shards.

use tidewater_storage::env::Env;
use tidewater_storage::model::ShardId;
use uuid::Uuid;

use super::error::StartError;
use super::status::ShardFailure;
use crate::shard::executor;

/// Work on its own executor.
pub(super) struct Working<T> {
    thread: std::thread::JoinHandle<()>,
    shard: ShardId,
    result: flume::Receiver<Result<T, ShardFailure>>,
}

/// Starts work on a shard's executor of its own, before the shards run.
///
/// # Errors
/// The system refuses the thread.
pub(super) fn on_executor<T, F>(
    shard: ShardId,
    work: impl FnOnce(Env) -> F + Send + 'static,
) -> Result<Working<T>, StartError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ShardFailure>> + 'static,
{
    let (sender, result) = flume::bounded(1);
    let run = move || async move {
        let done = work(Env::real(Uuid::new_v4().as_u64_pair().0)).await;
        let _ = sender.send(done);
    };
    let thread = executor::spawn(shard, run);
    let thread = thread.map_err(|e| StartError::System { what: "a thread for a shard", why: e.to_string() })?;
    Ok(Working { thread, shard, result })
}

impl<T> Working<T> {
    /// Waits for the work's end.
    ///
    /// # Errors
    /// The work failed.
    pub(super) fn wait(self) -> Result<T, StartError> {
        let ended = |_| StartError::Shard { shard: self.shard.0, why: "it ended; see the log above".into() };
        let done = self.result.recv().map_err(ended)?;
        let _ = self.thread.join();
        done.map_err(|failure| StartError::Shard { shard: failure.shard.0, why: failure.why })
    }
}
