//! The archived range, read from the bucket alone by a reader that has never read before, is the log's bytes.

use std::path::PathBuf;

use tidewater_storage::model::Offset;
use tidewater_tiering::fetch::{FetchConfig, RemoteReader};

use crate::world::World;

pub(crate) async fn check(world: &World) {
    let node = world.serving().await;
    let config = FetchConfig::new(PathBuf::from("/unused"), 0);
    let reader = RemoteReader::open(world.clients.clone(), world.bucket.store(), config).await.expect("opens");
    for replica in node.replicas(&world.topic()) {
        let partition = replica.id.index.0;
        let (mut from, end) = (replica.log_start(), replica.manifest().archived_end);
        while from < end {
            // Retention goes on while this reads.
            from = from.max(replica.log_start());
            let view = RemoteReader::view(&replica.manifest(), from);
            let read = reader.read_batches(view, from, end, 50_000).await;
            if from < replica.log_start() {
                // Retention has moved on.
                from = replica.log_start();
                continue;
            }
            let read = read.unwrap_or_else(|error| panic!("p{partition}: the bucket does not hold {from}: {error}"));
            let covered = world.history.observed(partition, &read.batches).expect("not empty");
            assert!(covered.contains(from), "p{partition}: {from} was asked for, {covered} answered");
            from = covered.end;
        }
        assert!(from == end || from == Offset::ZERO || from >= end, "p{partition}: ends at {from} instead of {end}");
    }
}
