//! A table under the name and with the properties that its topic gives it.

use std::collections::BTreeMap;

use iceberg::TableUpdate;

use super::*;
use crate::catalog::Catalog;
use crate::sink::status::PauseReason;

fn named(world: &World) -> SinkConfig {
    let properties = [("comment", "of sales"), ("write.parquet.compression-codec", "snappy")];
    let properties: BTreeMap<_, _> = properties.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    SinkConfig { table: TableIdent::from_strs(["lake", "o"]).expect("legal"), properties, ..world.config(1) }
}

async fn property(world: &World, table: &TableIdent, key: &str) -> Option<String> {
    world.catalog().load(table).await.expect("loads").metadata.properties().get(key).cloned()
}

#[test]
fn both_tables_lie_where_the_topic_says_and_go_with_it() {
    block_on(async {
        let mut world = World::typed(601);
        // Values without a schema's id: dead letters.
        world.log.append(0, 3, NOW);
        let config = named(&world);
        let (table, dead) = (config.table.clone(), dead_letter_table(&config.table));
        let mut sink = world.sink_with(config);
        drain(&mut sink, NOW).await;
        assert_eq!((sink.status().dead_letters, dead.to_string()), (3, "lake.o~dlq".to_owned()));
        for table in [&table, &dead] {
            let loaded = world.catalog().load(table).await.expect("loads");
            assert!(is_under_own_name(table, loaded.metadata.properties()), "{table}");
            assert_eq!(property(&world, table, "comment").await.as_deref(), Some("of sales"));
        }
        assert!(!world.catalog().table_exists(&world.table()).await.expect("answers"), "topics.orders");
        sink.drop_table().await.expect("dropped");
        for table in [&table, &dead] {
            assert!(!world.catalog().table_exists(table).await.expect("answers"), "{table}");
        }
    });
}

#[test]
fn another_topics_table_is_left_alone_in_words() {
    block_on(async {
        let mut world = World::new(602);
        world.log.append(0, 3, NOW);
        let config = named(&world);
        drain(&mut world.sink_with(config.clone()), NOW).await;
        let before = world.catalog().load(&config.table).await.expect("loads");
        let other = SinkConfig { topic_id: TopicId(Uuid::from_u128(10)), epoch: 5, ..config.clone() };
        match world.sink_with(other).run_once(NOW).await {
            Outcome::Paused(PauseReason::Foreign(foreign)) => {
                let text = foreign.to_string();
                assert!(text.contains("table lake.o belongs to cluster") && text.contains("give the topic another"));
            }
            outcome => panic!("{outcome:?}"),
        }
        let after = world.catalog().load(&config.table).await.expect("loads");
        assert_eq!(after.location, before.location, "nothing was committed");
    });
}

#[test]
fn properties_of_the_setting_are_kept_and_others_stay() {
    block_on(async {
        let mut world = World::new(603);
        world.log.append(0, 3, NOW);
        let config = named(&world);
        drain(&mut world.sink_with(config.clone()), NOW).await;
        let base = world.catalog().load(&config.table).await.expect("loads");
        assert_eq!(base.metadata.properties()["write.parquet.compression-codec"], "snappy", "not the sink's zstd");
        let changed = [("comment", "changed"), ("owner", "me")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let updates = vec![TableUpdate::SetProperties { updates: changed.into() }];
        world.catalog().commit(&config.table, Vec::new(), updates).await.expect("commits");
        // Another process, with one property more and one that is no longer in the setting.
        let mut next = config.clone();
        next.properties.insert("more".to_owned(), "1".to_owned());
        next.properties.remove("write.parquet.compression-codec");
        world.log.append(0, 3, NOW);
        let mut sink = world.sink_with(next);
        drain(&mut sink, NOW).await;
        for (key, value) in
            [("comment", "of sales"), ("owner", "me"), ("more", "1"), ("write.parquet.compression-codec", "snappy")]
        {
            assert_eq!(property(&world, &config.table, key).await.as_deref(), Some(value), "{key}");
        }
        let location = world.catalog().load(&config.table).await.expect("loads").location;
        drain(&mut sink, NOW).await;
        let again = world.catalog().load(&config.table).await.expect("loads").location;
        assert_eq!(again, location, "no commit without a difference");
    });
}
