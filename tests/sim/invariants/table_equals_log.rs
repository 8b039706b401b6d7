//! The table holds each record of the log once, with its value, up to its offsets; none that the log does not have.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidewater_storage::model::record::read_all;
use tidewater_storage::model::{BatchHeader, PartitionIndex};

use crate::table::{self, Table};
use crate::world::World;

const ROUNDS: u64 = 2_000;

pub(crate) async fn check(world: &World) {
    let table = caught_up(world).await;
    let mut rows: BTreeMap<(i32, u64), Bytes> = BTreeMap::new();
    for (partition, offset, value) in table.rows {
        let twice = rows.insert((partition, offset), value);
        assert!(twice.is_none(), "p{partition}: offset {offset} is in the table twice");
    }
    for partition in world.history.partitions() {
        world.history.with(partition, |past| {
            for seen in past.seen.values() {
                let header = BatchHeader::parse(&seen.bytes).expect("parses");
                for record in read_all(&header, &seen.bytes, 1 << 20).expect("reads") {
                    let offset = record.offset.get();
                    match rows.remove(&(partition, offset)) {
                        Some(value) => assert!(
                            Some(&value) == record.value.as_ref(),
                            "p{partition}: the table has another value at {offset}"
                        ),
                        // Deleted before the table had it.
                        None => assert!(
                            record.offset < past.trim_asked,
                            "p{partition}: offset {offset} is not in the table"
                        ),
                    }
                }
            }
        });
    }
    // What was deleted before anybody read it can only be in the table.
    for (partition, offset) in rows.into_keys() {
        let trimmed = world.history.with(partition, |past| past.trim_asked);
        assert!(offset < trimmed.get(), "p{partition}: the table invents offset {offset}");
    }
}

/// The table once its offsets are the log's ends.
async fn caught_up(world: &World) -> Table {
    for _ in 0..ROUNDS {
        let table = table::read(world, world.bucket.store()).await;
        let even = world.history.partitions().into_iter().all(|partition| {
            let end = world.history.with(partition, |past| past.high_watermark);
            table.offsets.get(&PartitionIndex(partition)).copied().unwrap_or_default() == end
        });
        if even {
            return table;
        }
        world.sleep_ms(300).await;
    }
    panic!("the table does not catch up");
}
