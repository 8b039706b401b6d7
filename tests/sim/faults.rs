//! What goes wrong, as the plan has it: kills, power cuts, a bucket that is slow, refuses, forgets to answer or is
//! away, a disk that fails or is full, a clock that jumps.

use std::rc::Rc;
use std::time::Duration;

use tidewater_tiering::store::Faults;

use crate::plan::What;
use crate::world::World;

/// Disturbs the world as planned; the broker runs when it returns, bucket and disk behave.
pub(crate) async fn disturb(world: &Rc<World>) {
    let begun = world.now_ms();
    for event in &world.plan.events {
        let due = begun + event.at_ms;
        world.sleep_ms(due.saturating_sub(world.now_ms())).await;
        world.history.note(format!("{} {} {:?}", world.machines.now().nanos(), event.name, event.what));
        match &event.what {
            What::End { power_cut, down_ms, again_us } => {
                world.end(*power_cut);
                // Sometimes it dies again while it recovers.
                for again in again_us {
                    world.start();
                    world.clients.tasks.sleep(Duration::from_micros(*again)).await;
                    world.end(*power_cut);
                }
                world.sleep_ms(*down_ms).await;
                world.start();
            }
            What::Weather(faults) => world.bucket.set_faults(*faults),
            What::Disk(fault) => {
                world.disk_may_fail();
                world.disk().inject(fault.clone());
            }
            What::Short(twist) => {
                world.disk_may_fail();
                world.disk().twist(twist.clone());
            }
            What::Full { left, ms } => {
                world.disk_may_fail();
                let disk = world.disk();
                disk.set_capacity(disk.used() + left);
                world.sleep_ms(*ms).await;
                disk.set_capacity(u64::MAX);
            }
            What::Clock(ms) => world.machines.step_wall(*ms),
        }
    }
    let end = begun + world.plan.rough_ms;
    world.sleep_ms(end.saturating_sub(world.now_ms())).await;
    world.bucket.set_faults(Faults { latency_max: Duration::from_millis(5), ..Faults::default() });
    world.disk().clear_faults();
}
