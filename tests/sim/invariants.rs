//! What must hold, one file each. `watch` looks while the run goes on, `at_rest` when nothing moves any more, `at_end`
//! after a last power cut.
//!
//! | property | file | when |
//! | --- | --- | --- |
//! | every acknowledged batch once, in order, at its offset | `acknowledged_once` | end |
//! | nothing that was never sent, nothing twice | `none_invented` | end |
//! | offsets without holes from log start to end | `contiguous` | end |
//! | log start, archived end and end never move back | `forward_only` | always |
//! | the archive never passes the end; manifests hold their own predicates | `archive_behind_log` | always |
//! | local bytes go only after the bucket holds them | `local_after_bucket` | always |
//! | the bucket holds the same bytes as the log | `bucket_equals_log` | rest, end |
//! | the table holds the same records as the log | `table_equals_log` | rest |
//! | of a typed table: each record is a row or a dead letter, once, as it should be | `typed_equals_log` | rest |

mod acknowledged_once;
pub(crate) mod archive_behind_log;
mod bucket_equals_log;
mod contiguous;
pub(crate) mod forward_only;
mod local_after_bucket;
mod none_invented;
mod table_equals_log;
mod typed_equals_log;

use std::rc::Rc;

use crate::history::Past;
use crate::typed::TableKind;
use crate::world::World;

/// Looks at the broker again and again until the run ends.
pub(crate) fn watch(world: &Rc<World>) {
    let (env, world) = (world.clients.clone(), Rc::downgrade(world));
    let watcher = env.clone();
    drop(env.tasks.spawn("watch", async move {
        loop {
            let pause = std::time::Duration::from_millis(10 + watcher.rng.below(300));
            watcher.tasks.sleep(pause).await;
            let Some(world) = world.upgrade() else { return };
            look(&world);
        }
    }));
}

/// What the broker shows now, if it serves.
pub(crate) fn look(world: &World) {
    let Some(node) = world.way().node() else { return };
    node.lanes().iter().for_each(|lane| archive_behind_log::check_lane_now(lane));
    for partition in &world.topic().partitions {
        let Some(replica) = node.replica(partition.id) else {
            panic!("partition {} is gone", partition.id);
        };
        forward_only::check(&world.history, &replica);
        archive_behind_log::check(&replica);
        local_after_bucket::check(world, &node, &replica);
    }
}

/// Once everything is archived and no client writes.
pub(crate) async fn at_rest(world: &World) {
    past(world).await;
    bucket_equals_log::check(world).await;
    match TableKind::of(&world.plan) {
        Some(kind) => typed_equals_log::check(world, kind).await,
        None if world.plan.has("table") => table_equals_log::check(world).await,
        None => {}
    }
}

/// After a last power cut.
pub(crate) async fn at_end(world: &World) {
    past(world).await;
    bucket_equals_log::check(world).await;
}

async fn past(world: &World) {
    for replica in world.serving().await.replicas(&world.topic()) {
        forward_only::check(&world.history, &replica);
    }
    for partition in world.history.partitions() {
        world.history.with(partition, |past| check_past(partition, past));
    }
}

/// What can be said of a partition's past alone.
pub(crate) fn check_past(partition: i32, past: &Past) {
    contiguous::check(partition, past);
    acknowledged_once::check(partition, past);
    none_invented::check(partition, past);
}
