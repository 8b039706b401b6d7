//! Schemas that a table had go with the last snapshot that was written with them.

use std::collections::BTreeSet;

use tidewater_storage::env::clock::wall;

use super::*;

const MINUTE: i64 = 60_000;

#[test]
fn schemas_go_with_the_snapshots_that_were_written_with_them() {
    block_on(async {
        let (mut world, mut produced) = (World::typed(220), Produced::default());
        register_all(&world.registry);
        let (start, mut config) = (wall(), world.config(1));
        config.bounds = Bounds { snapshots_slack: 3, snapshot_age_ms: 2 * MINUTE, ..Bounds::default() };
        let mut sink = world.sink_with(config);
        let mut ever = BTreeSet::new();
        // Each version once or twice, then the last one for a while. A tag holds what the second commit wrote.
        let versions = [1, 1, 2, 3, 3, 4].into_iter().chain(std::iter::repeat_n(4, 14));
        for (at, version) in (0..).zip(versions) {
            // Changes of the schema and the tag are stamped with the real time, so none may come after a later
            // snapshot.
            let now = if at < 6 { wall() } else { start.plus_ms(at * MINUTE) };
            produced.append(&world, 0, &[version], now);
            drain(&mut sink, now).await;
            let metadata = world.catalog().load(&world.table()).await.expect("loads").metadata;
            ever.extend(metadata.schemas_iter().map(|schema| schema.schema_id()));
            if at == 1 {
                let id = metadata.current_snapshot_id().expect("has one");
                let reference = SnapshotReference::new(id, SnapshotRetention::Tag { max_ref_age_ms: None });
                let tag = TableUpdate::SetSnapshotRef { ref_name: "kept".to_owned(), reference };
                let none: Vec<TableRequirement> = Vec::new();
                world.catalog().commit(&world.table(), none, vec![tag]).await.expect("tagged");
            }
        }
        let metadata = world.catalog().load(&world.table()).await.expect("loads").metadata;
        let held: BTreeSet<i32> = metadata.schemas_iter().map(|schema| schema.schema_id()).collect();
        let used = metadata.snapshots().filter_map(|snapshot| snapshot.schema_id());
        assert_eq!(held, used.chain([metadata.current_schema_id()]).collect());
        assert_eq!(held.len(), 2, "that of the tag and the current one, of {ever:?}");
        assert!(ever.len() >= 6, "{ever:?}");
        produced.check(&world, "after expiry").await;
    });
}
