//! The machine as one handle: clock, disk, tasks, random numbers; real or simulated.
//!
//! Owns: the façades through which all code below the socket uses the machine, and the two ways to make them:
//! [`Env::real`] inside a glommio executor, [`sim::World`] for a deterministic one. Does not own: what is done with
//! them. No other code on a shard asks the system for the time, a file, a task or a random number.
//!
//! Affinity: shard-local. Every handle is a cheap clone and stays on the executor it was made on.

use std::rc::Rc;

pub mod aligned;
pub mod blocking;
pub mod clock;
pub mod deadlines;
pub mod disk;
mod disk_dma;
pub mod disk_sim;
mod executor_sim;
pub mod net_sim;
mod notify;
mod pace;
pub mod preflight;
pub mod real;
pub mod rng;
pub mod sim;
mod syscall;
mod take_over;
pub mod tasks;

pub use aligned::{ALIGNMENT, AlignedBuf};
pub use clock::{Clock, Mono};
pub use deadlines::Deadlines;
pub use disk::{DirEntry, Disk, File, OpenMode, is_disk_full};
pub use notify::Notify;
pub use rng::Rng;
pub use tasks::{Sleep, Task, Tasks};

/// A shard's access to the machine. Shard-local; cheap to clone.
#[derive(Clone, Debug)]
pub struct Env {
    pub clock: Clock,
    pub disk: Disk,
    pub tasks: Tasks,
    pub rng: Rng,
}

impl Env {
    /// The real machine. Call it once in a running glommio executor; the handles belong to that executor.
    #[must_use]
    pub fn real(seed: u64) -> Self {
        Self { clock: Clock::real(), disk: Disk::real(), tasks: Tasks::real(), rng: Rng::seeded(seed) }
    }

    pub(crate) fn sim(
        executor: Rc<executor_sim::Executor>,
        group: executor_sim::Group,
        disk: disk_sim::SimDisk,
        seed: u64,
    ) -> Self {
        Self {
            clock: Clock::sim(executor.clone(), group.node),
            disk: Disk::sim(disk),
            tasks: Tasks::sim(executor, group),
            rng: Rng::seeded(seed),
        }
    }
}
