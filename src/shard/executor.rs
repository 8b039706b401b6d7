//! One thread and one pinned glommio executor per shard.
//!
//! A panic in any task unwinds the executor. Without that shard the process could not serve its partitions, so an
//! executor that ends by a panic aborts the process.

use std::future::Future;
use std::io;
use std::thread::JoinHandle;

use glommio::{LocalExecutorBuilder, Placement};
use tidewater_storage::env::blocking;
use tidewater_storage::model::ShardId;

use super::memory;

/// Bytes registered with each ring for direct I/O; buffers beyond it come from the heap.
const IO_MEMORY: usize = 8 << 20;

/// Runs `main` on a new executor, pinned to the shard's core if the machine has that many.
///
/// # Errors
/// The system refuses the thread or the ring.
pub fn spawn<G, F>(shard: ShardId, main: G) -> io::Result<JoinHandle<()>>
where
    G: FnOnce() -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    memory::keep();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let core = usize::from(shard.0);
    let placement = if core < cores { Placement::Fixed(core) } else { Placement::Unbound };
    std::thread::Builder::new().name(format!("shard-{shard}")).spawn(move || {
        let _fuse = Fuse { shard };
        let builder = LocalExecutorBuilder::new(placement).io_memory(IO_MEMORY).name("shard");
        match builder.make() {
            Ok(executor) => executor.run(blocking::until_settled(main())),
            Err(error) => {
                tracing::error!(%shard, %error, "a shard's executor could not start; `tidewater check` checks the machine");
                std::process::abort();
            }
        }
    })
}

/// Aborts the process when its thread unwinds.
struct Fuse {
    shard: ShardId,
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(shard = %self.shard, "a shard panicked; the broker stops, a restart recovers everything acknowledged");
            std::process::abort();
        }
    }
}
