//! What goes wrong, by the seed: kills, power cuts, a bucket that is slow, refuses, forgets to answer or is away.

use std::time::Duration;

use tidewater_tiering::store::Faults;

use crate::world::World;

/// How bad the bucket is for a while.
fn weather(world: &World) -> Faults {
    let rng = &world.clients.rng;
    let mild =
        Faults { latency_min: Duration::from_millis(1), latency_max: Duration::from_millis(30), ..Faults::default() };
    match rng.below(6) {
        0 => Faults { down: true, ..mild },
        1 => Faults { throttled: 300, ..mild },
        2 => Faults { lost_answers: 300, ..mild },
        3 => Faults { late_writes: 150, late_max: Duration::from_secs(1), ..Faults::rough() },
        4 => Faults { late_max: Duration::from_millis(300), ..Faults::rough() },
        _ => mild,
    }
}

/// Disturbs the world until `until_ms` of virtual time; the broker runs when it returns, the bucket behaves.
pub(crate) async fn disturb(world: &std::rc::Rc<World>, until_ms: u64) {
    let rng = world.clients.rng.clone();
    let often = 100 + rng.below(2_500);
    while world.machines.now().nanos() / 1_000_000 < until_ms {
        world.sleep_ms(1 + rng.below(often)).await;
        match rng.below(4) {
            0 | 1 => {
                world.end(rng.below(3) > 0);
                // Sometimes it dies again while it recovers.
                while rng.below(4) == 0 {
                    world.start();
                    world.clients.tasks.sleep(Duration::from_micros(rng.below(60_000))).await;
                    world.end(rng.below(3) > 0);
                }
                world.sleep_ms(rng.below(200)).await;
                world.start();
            }
            2 => world.bucket.set_faults(weather(world)),
            _ => world.sleep_ms(rng.below(2_000)).await,
        }
    }
    world.bucket.set_faults(Faults { latency_max: Duration::from_millis(5), ..Faults::default() });
}
