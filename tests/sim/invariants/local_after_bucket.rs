//! What local disk has let go, the bucket holds: every row's object is there.

use tidewater::partition::state::replica::Replica;

use crate::node::Node;
use crate::world::World;

pub(crate) fn check(world: &World, node: &Node, replica: &Replica) {
    let (local, start) = (replica.log.bounds().start, replica.log_start());
    let manifest = replica.manifest();
    assert!(
        local <= start.max(manifest.archived_end),
        "{}: local bytes begin at {local}, the bucket holds up to {}",
        replica.id,
        manifest.archived_end
    );
    if node.env.rng.below(16) == 0 {
        let objects = world.bucket.objects();
        for row in &manifest.rows {
            let key = row.object().key();
            assert!(objects.contains_key(key.as_str()), "{}: {key} is named and not there", replica.id);
        }
    }
}
