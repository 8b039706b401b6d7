//! Tables with a sort order: the setting sets it, columns join it when they come, an engine may set another one, and
//! compacted files go by what the table has.

use iceberg::spec::{SortField, SortOrder, TableMetadata, Transform};

use super::*;
use crate::commit::snapshot::read_list;
use crate::compact::Compactor;
use crate::sort::choice::SortChoice;
use crate::sort::{wanted, words_of};

fn sorted_sink(world: &mut World, order: &str, epoch: u64) -> TableSink {
    let config = SinkConfig { sort: SortChoice::parse(order).expect("an order"), ..world.config(epoch) };
    world.sink_with(config)
}

async fn metadata(world: &World) -> TableMetadata {
    (*world.catalog().load(&world.table()).await.expect("loads").metadata).clone()
}

async fn words(world: &World) -> String {
    let metadata = metadata(world).await;
    words_of(metadata.default_sort_order(), metadata.current_schema())
}

/// Compacts all files. Returns the sort orders of those that the table has then.
async fn compact(world: &mut World, seed: u64) -> Vec<Option<i32>> {
    let config = world.config(9);
    let owner = TableOwner { cluster: config.cluster, topic: config.topic_id, epoch: 9 };
    let bounds = Bounds { compact_quiet_ms: 0, compact_files: 2, ..Bounds::default() };
    let mut compactor = Compactor::new(world.catalog(), config.table, owner, Names::seeded(seed << 32), bounds);
    let run = compactor.run(tidewater_storage::env::clock::wall(), |_| {}).await.expect("runs");
    assert!(run.files_out > 0 && run.left.is_empty() && run.obstacle.is_none(), "{run:?}");
    let (metadata, files) = (metadata(world).await, world.catalog().files());
    let mut ids = Vec::new();
    let snapshot = metadata.current_snapshot().expect("one");
    for manifest in read_list(&files, &metadata, snapshot).await.expect("reads") {
        let manifest = manifest.load_manifest(&files.io()).await.expect("reads");
        ids.extend(manifest.entries().iter().filter(|it| it.is_alive()).map(|it| it.data_file().sort_order_id()));
    }
    ids
}

/// Sets the default order as an engine does.
async fn order_by(world: &World, name: &str) {
    let metadata = metadata(world).await;
    let field = SortField {
        source_id: metadata.current_schema().field_by_name(name).expect("a column").id,
        transform: Transform::Identity,
        direction: iceberg::spec::SortDirection::Ascending,
        null_order: iceberg::spec::NullOrder::First,
    };
    let sort_order = SortOrder { order_id: 1, fields: vec![field] };
    let updates =
        vec![TableUpdate::AddSortOrder { sort_order }, TableUpdate::SetDefaultSortOrder { sort_order_id: -1 }];
    world.catalog().commit(&world.table(), Vec::new(), updates).await.expect("commits");
}

#[test]
fn the_order_comes_with_the_columns_and_follows_the_setting_and_the_engine() {
    block_on(async {
        let (mut world, mut produced) = (World::typed(760), Produced::default());
        register_all(&world.registry);
        let setting = "customer DESC, tidewater.timestamp, id NULLS LAST, nosuch";
        let mut sink = sorted_sink(&mut world, setting, 1);
        produced.append(&world, 0, &[0, 9], NOW);
        drain(&mut sink, NOW).await;
        assert_eq!(words(&world).await, "tidewater.timestamp ASC NULLS FIRST", "there are no columns yet");
        let lacking = sink.status().sort_order_lacking.clone().expect("three of them");
        assert!(lacking.starts_with("the table has no column customer yet; the table has no column id"), "{lacking}");
        produced.append(&world, 0, &[1, 1], NOW);
        drain(&mut sink, NOW).await;
        let of = |customer: &str| {
            format!("{customer} DESC NULLS LAST, tidewater.timestamp ASC NULLS FIRST, id ASC NULLS LAST")
        };
        assert_eq!(words(&world).await, of("customer"));
        assert_eq!(sink.status().sort_order.as_deref(), Some(&*of("customer")));
        // `customer` becomes `client`, and a restart does not look for the old name.
        produced.append(&world, 0, &[4, 2, 4], NOW);
        drain(&mut sink, NOW).await;
        assert_eq!(words(&world).await, of("client"));
        let mut sink = sorted_sink(&mut world, setting, 2);
        produced.append(&world, 0, &[5, 3, 8, 1], NOW);
        drain(&mut sink, NOW).await;
        assert_eq!(words(&world).await, of("client"));
        assert_eq!(sink.status().sort_order_lacking.as_deref(), Some("the table has no column nosuch yet"));
        let id = i32::try_from(metadata(&world).await.default_sort_order_id()).expect("small");
        assert!(compact(&mut world, 960).await.contains(&Some(id)));
        produced.check(&world, "sorted").await;

        // An engine's order stays while the setting does, and when it is taken away; a new setting replaces it.
        order_by(&world, "note").await;
        let mut sink = sorted_sink(&mut world, setting, 9);
        produced.append(&world, 0, &[1, 2, 3], NOW);
        drain(&mut sink, NOW).await;
        assert_eq!(words(&world).await, "note ASC NULLS FIRST");
        assert_eq!(sink.status().sort_order_lacking, None, "its owner has chosen");
        let mut sink = sorted_sink(&mut world, "", 9);
        drain(&mut sink, NOW).await;
        assert_eq!(words(&world).await, "note ASC NULLS FIRST");
        assert!(!metadata(&world).await.properties().contains_key(wanted::PROPERTY));
        let mut sink = sorted_sink(&mut world, "id DESC", 9);
        drain(&mut sink, NOW).await;
        assert_eq!(words(&world).await, "id DESC NULLS LAST");
        let mut sink = sorted_sink(&mut world, "", 9);
        drain(&mut sink, NOW).await;
        assert_eq!((words(&world).await.as_str(), sink.status().sort_order.clone()), ("", None));
        for _ in 0..5 {
            produced.append(&world, 0, &[1, 2, 3], NOW);
            drain(&mut sink, NOW).await;
        }
        assert!(compact(&mut world, 961).await.contains(&None), "unsorted again");
        produced.check(&world, "unsorted").await;
    });
}

#[test]
fn a_column_that_rows_are_sorted_by_may_grow() {
    block_on(async {
        let (mut world, mut produced) = begin(770);
        let mut sink = sorted_sink(&mut world, "amount NULLS LAST", 1);
        for kinds in [[1, 1], [1, 1], [3, 4], [3, 4]] {
            produced.append(&world, 0, &kinds, NOW);
            drain(&mut sink, NOW).await;
        }
        assert_eq!(words(&world).await, "amount ASC NULLS LAST");
        assert_eq!(dead_rows(&world).await.len(), 0, "int becomes long");
        assert!(compact(&mut world, 962).await.contains(&Some(1)));
        produced.check(&world, "grown").await;
    });
}

#[test]
fn many_faults_neither_double_nor_lose_in_tables_with_a_sort_order() {
    for seed in 0..8 {
        let (mut world, mut produced) = begin(seed * 1000 + 7);
        block_on(async {
            world.store.arm_random(seed, 20 + seed * 10);
            for (round, order) in ["id", "id, customer DESC", "", "tidewater.key"].into_iter().enumerate() {
                produced.append(&world, 0, &[1, 2, 0, 3], NOW);
                for _ in 0..200 {
                    world.store.revive();
                    let mut sink = sorted_sink(&mut world, order, 1 + round as u64);
                    if matches!(sink.run_once(NOW).await, Outcome::Idle) {
                        break;
                    }
                }
            }
            world.store.calm();
            let mut sink = sorted_sink(&mut world, "tidewater.key", 5);
            drain(&mut sink, NOW).await;
            assert_eq!(words(&world).await, "tidewater.key ASC NULLS FIRST", "seed {seed}");
            produced.check(&world, &format!("seed {seed}")).await;
        });
    }
}
