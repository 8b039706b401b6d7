//! Schemas that the table's columns cannot take: dead letters, a column beside, or a pause, as the topic says.

use iceberg::spec::{NestedFieldRef, Schema};
use tidewater_storage::model::record::Record;

use super::letters::Fate;
use super::*;
use crate::compact::Compactor;
use crate::mode::ConflictPolicy;

const LONG: u32 = 21;
/// `amount` and `item.price` are text, where [`LONG`] has numbers.
const TEXT: u32 = 22;
/// As [`TEXT`], and has a member more.
const LATER: u32 = 23;
const FLAG: u32 = 24;
/// Of Avro; `amount` is text, as in [`TEXT`].
const OTHER: u32 = 25;

/// A value of schema `kind` made of `n`, and its row where each type has a column.
fn value(kind: u32, n: i64) -> (Vec<u8>, Cell) {
    let strukt = |cells: &[(&str, Cell)]| {
        Cell::Struct(cells.iter().map(|(name, cell)| ((*name).to_owned(), cell.clone())).collect())
    };
    let (int, text) = (Cell::Int(n.into()), Cell::Text(format!("n{n}")));
    let id = ("id", int.clone());
    match kind {
        LONG => (
            format!(r#"{{"id":{n},"amount":{n},"item":{{"price":{n}}}}}"#).into_bytes(),
            strukt(&[id, ("amount", int.clone()), ("item", strukt(&[("price", int)]))]),
        ),
        TEXT => (
            format!(r#"{{"id":{n},"amount":"n{n}","item":{{"price":"n{n}"}}}}"#).into_bytes(),
            strukt(&[id, ("amount__string", text.clone()), ("item", strukt(&[("price__string", text)]))]),
        ),
        LATER => (
            format!(r#"{{"id":{n},"amount":"n{n}","note":"n{n}"}}"#).into_bytes(),
            strukt(&[id, ("amount__string", text.clone()), ("note", text)]),
        ),
        FLAG => (br#"{"amount":true}"#.to_vec(), strukt(&[("amount__boolean", Cell::Bool(true))])),
        OTHER => {
            let text = format!("n{n}");
            let bytes = [&[u8::try_from(text.len() * 2).expect("short")][..], text.as_bytes()].concat();
            (bytes, strukt(&[("amount__string", Cell::Text(text))]))
        }
        kind => unreachable!("schema {kind}"),
    }
}

fn json_schema(amount: &str, more: &str) -> String {
    format!(
        r#"{{"properties":{{"id":{{"type":"integer"}},"amount":{{"type":"{amount}"}},{more}
            "item":{{"type":"object","properties":{{"price":{{"type":"{amount}"}}}}}}}}}}"#
    )
}

fn begin(seed: u64) -> World {
    let world = World::typed(seed);
    for (id, text) in [
        (LONG, json_schema("integer", "")),
        (TEXT, json_schema("string", "")),
        (LATER, json_schema("string", r#""note":{"type":"string"},"#)),
        (FLAG, r#"{"properties":{"amount":{"type":"boolean"}}}"#.to_owned()),
    ] {
        world.registry.register(id, WriterSchema::Json(schema(&text)));
    }
    let avro = r#"{"type":"record","name":"Order","fields":[{"name":"amount","type":"string"}]}"#;
    world.registry.register(OTHER, WriterSchema::Avro(schema(avro)));
    world
}

fn sink(world: &mut World, epoch: u64, conflict: ConflictPolicy) -> TableSink {
    let config = SinkConfig { conflict, ..world.config(epoch) };
    world.sink_with(config)
}

/// Appends a batch of values of `kinds`; all but [`LONG`] conflict with its columns.
fn append(world: &World, produced: &mut Produced, partition: i32, kinds: &[u32], conflict: ConflictPolicy) {
    let start = world.log.ends().get(&partition).copied().unwrap_or(0);
    let made = kinds.iter().zip(start..).map(|(kind, offset)| {
        let (bytes, cell) = value(*kind, i64::try_from(offset).expect("small") + 100 * i64::from(partition));
        let fits = *kind == LONG || conflict == ConflictPolicy::Column;
        let bytes = framed(*kind, &bytes);
        let fate = if fits { Fate::Row(cell) } else { Fate::Dead };
        produced.0.insert((partition, offset), (Some(bytes.clone()), fate));
        Record::new(NOW, None, Some(bytes))
    });
    world.log.append_records(partition, made.collect::<Vec<_>>());
}

async fn names(world: &World) -> Vec<String> {
    columns(world).await.into_iter().skip(1).map(|(_, name)| name).collect()
}

/// What the table's owner does to its columns.
async fn alter(world: &World, keeps: impl Fn(&NestedFieldRef) -> bool) {
    let catalog = world.catalog();
    let loaded = catalog.load(&world.table()).await.expect("loads");
    let fields = loaded.metadata.current_schema().as_struct().fields().iter().filter(|field| keeps(field)).cloned();
    let schema = Schema::builder().with_fields(fields).build().expect("a schema");
    let updates = vec![TableUpdate::AddSchema { schema }, TableUpdate::SetCurrentSchema { schema_id: -1 }];
    let uuid = vec![TableRequirement::UuidMatch { uuid: loaded.metadata.uuid() }];
    catalog.commit(&world.table(), uuid, updates).await.expect("altered");
}

#[test]
fn by_default_they_are_dead_letters_and_the_table_keeps_its_columns() {
    block_on(async {
        let (mut world, mut produced) = (begin(260), Produced::default());
        let policy = ConflictPolicy::default();
        append(&world, &mut produced, 0, &[LONG, TEXT, LONG, LATER, OTHER, FLAG], policy);
        drain(&mut sink(&mut world, 1, policy), NOW).await;
        append(&world, &mut produced, 1, &[TEXT, LONG], policy);
        drain(&mut sink(&mut world, 2, policy), NOW).await;
        produced.check(&world, "dead letters").await;
        assert_eq!(names(&world).await, ["amount", "id", "item"]);
        let why = &dead_rows(&world).await[&(0, 1)].1;
        assert!(why.contains("column amount is long; the schema has string there"), "{why}");
        assert!(why.contains("column item.price is long"), "{why}");
    });
}

#[test]
fn a_column_beside_takes_them_and_is_found_again_by_later_schemas_and_after_a_restart() {
    block_on(async {
        let (mut world, mut produced) = (begin(261), Produced::default());
        let policy = ConflictPolicy::Column;
        append(&world, &mut produced, 0, &[LONG, TEXT, LONG], policy);
        drain(&mut sink(&mut world, 1, policy), NOW).await;
        produced.check(&world, "a column").await;
        assert_eq!(names(&world).await, ["amount", "id", "item", "amount__string"]);
        // Another process, other schemas and another format with the same conflict: the same columns.
        append(&world, &mut produced, 0, &[LATER, TEXT, OTHER, LONG], policy);
        append(&world, &mut produced, 1, &[FLAG, OTHER, LONG, TEXT, FLAG], policy);
        drain(&mut sink(&mut world, 2, policy), NOW).await;
        produced.check(&world, "restarted").await;
        let all = ["amount", "id", "item", "amount__string", "amount__boolean", "note"];
        assert_eq!(names(&world).await, all);
        // Files from before the columns are read and written again with them.
        for kind in [LONG, TEXT, LATER] {
            append(&world, &mut produced, 0, &[kind], policy);
            drain(&mut sink(&mut world, 2, policy), NOW).await;
        }
        let (config, catalog) = (world.config(1), world.catalog());
        let owner = TableOwner { cluster: config.cluster, topic: config.topic_id, epoch: 2 };
        let mut compactor = Compactor::new(catalog, config.table, owner, Names::seeded(500 << 32), config.bounds);
        let later = tidewater_storage::env::clock::wall().plus_ms(3_600_000);
        let run = compactor.run(later, |_| {}).await.expect("runs");
        assert_eq!((run.files_out, run.left.len()), (1, 0), "{run:?}");
        produced.check(&world, "compacted").await;
        // Columns that are there take their values under each policy.
        append(&world, &mut produced, 1, &[TEXT, FLAG, LONG], policy);
        drain(&mut sink(&mut world, 3, ConflictPolicy::DeadLetters), NOW).await;
        produced.check(&world, "set back").await;
        assert_eq!(names(&world).await, all);
    });
}

#[test]
fn a_pause_stops_the_table_before_the_first_of_them_and_loses_nothing() {
    block_on(async {
        for (seed, then) in [(262, ConflictPolicy::Column), (263, ConflictPolicy::DeadLetters)] {
            let (mut world, mut produced) = (begin(seed), Produced::default());
            append(&world, &mut produced, 0, &[LONG; 5], then);
            append(&world, &mut produced, 1, &[LONG, TEXT, LONG, LATER], then);
            let mut sink = sink(&mut world, 1, ConflictPolicy::Pause);
            // What comes before it is committed first.
            let outcome = sink.run_once(NOW).await;
            assert!(matches!(outcome, Outcome::Committed { rows: 6, more: true, .. }), "{outcome:?}");
            append(&world, &mut produced, 0, &[LONG], then);
            for _ in 0..3 {
                let reason = match sink.run_once(NOW).await {
                    Outcome::Paused(reason) => reason.to_string(),
                    other => panic!("{other:?}"),
                };
                for part in ["partition 1, offset 1", "schema 22: column amount is long", "conflict=column", "dlq"] {
                    assert!(reason.contains(part), "{part}: {reason}");
                }
                assert_eq!(sink.status().held_by().into_iter().collect::<Vec<_>>(), [HeldBy::Conflict]);
            }
            let rows = typed_rows(&world).await;
            assert!(rows.len() == 6 && rows.contains_key(&(1, 0)), "nothing is skipped: {rows:?}");
            assert!(dead_rows(&world).await.is_empty());
            // Another process takes nothing of the other partition either.
            let mut sink = self::sink(&mut world, 2, ConflictPolicy::Pause);
            assert!(matches!(sink.run_once(NOW).await, Outcome::Paused(PauseReason::Conflict { .. })));
            assert_eq!(typed_rows(&world).await.len(), 6);
            sink.set_conflict(then);
            drain(&mut sink, NOW).await;
            assert!(sink.status().held_by().is_empty());
            produced.check(&world, &format!("then {then:?}")).await;
        }
    });
}

#[test]
fn a_paused_table_goes_on_after_a_restart_and_once_the_column_is_gone() {
    block_on(async {
        let (mut world, policy) = (begin(264), ConflictPolicy::Pause);
        let mut produced = Produced::default();
        append(&world, &mut produced, 0, &[LONG, FLAG, LONG], policy);
        for epoch in 1..3 {
            let mut sink = sink(&mut world, epoch, policy);
            let mut outcome = sink.run_once(NOW).await;
            if matches!(outcome, Outcome::Committed { .. }) {
                outcome = sink.run_once(NOW).await;
            }
            assert!(matches!(outcome, Outcome::Paused(PauseReason::Conflict { .. })), "{outcome:?}");
        }
        let mut sink = sink(&mut world, 3, policy);
        assert!(matches!(sink.run_once(NOW).await, Outcome::Paused(_)));
        // A column that the owner dropped takes nothing; the rest of the value is a row.
        alter(&world, |field| field.name != "amount").await;
        drain(&mut sink, NOW).await;
        let rows = typed_rows(&world).await;
        assert_eq!(rows.keys().collect::<Vec<_>>(), [&(0, 0), &(0, 1), &(0, 2)]);
        assert_eq!(rows[&(0, 1)], Cell::Struct([].into()));
        assert!(dead_rows(&world).await.is_empty());
    });
}

#[test]
fn a_paused_table_goes_on_with_a_newer_schema_of_its_subject() {
    block_on(async {
        let mut world = begin(265);
        world.mode = TableMode::ValueSchemaLatest { subject: "orders-value".into() };
        let text = |world: &World, text: &str| {
            let value = bytes::Bytes::from(text.to_owned().into_bytes());
            world.log.append_records(0, [Record::new(NOW, None, Some(value))]);
        };
        world.registry.set_latest("orders-value", LONG);
        text(&world, r#"{"id":1,"amount":1}"#);
        let mut sink = sink(&mut world, 1, ConflictPolicy::Pause);
        drain(&mut sink, NOW).await;
        world.registry.set_latest("orders-value", TEXT);
        text(&world, r#"{"id":2,"amount":3}"#);
        let outcome = sink.run_once(NOW).await;
        assert!(matches!(outcome, Outcome::Paused(PauseReason::Conflict { .. })), "{outcome:?}");
        world.registry.set_latest("orders-value", LONG);
        drain(&mut sink, NOW).await;
        let (rows, dead) = (typed_rows(&world).await, dead_rows(&world).await);
        assert_eq!((rows.len(), dead.len()), (2, 0));
    });
}

#[test]
fn dead_letters_stay_so_when_the_policy_changes() {
    block_on(async {
        let (mut world, mut produced) = (begin(266), Produced::default());
        let mut sink = sink(&mut world, 1, ConflictPolicy::DeadLetters);
        for (partition, policy) in
            [(0, ConflictPolicy::DeadLetters), (1, ConflictPolicy::Column), (0, ConflictPolicy::Column)]
        {
            sink.set_conflict(policy);
            append(&world, &mut produced, partition, &[LONG, TEXT, FLAG, LONG], policy);
            drain(&mut sink, NOW).await;
            produced.check(&world, &format!("{policy:?}")).await;
        }
        // A table that is made from the log once more leaves them out.
        world.catalog().drop_table(&world.table(), true).await.expect("dropped");
        append(&world, &mut produced, 2, &[TEXT, LONG], ConflictPolicy::Column);
        drain(&mut sink, NOW).await;
        produced.check(&world, "filled again").await;
        assert!(names(&world).await.contains(&"amount__string".to_owned()));
    });
}

#[test]
fn json_of_a_setting_gets_a_column_beside_when_the_setting_changes() {
    block_on(async {
        let mode = |kind: &str| TableMode::Json { schema: json_schema(kind, "").into() };
        let mut world = World { mode: mode("integer"), ..World::new(267) };
        let text = |world: &World, text: &'static str| {
            world.log.append_records(0, [Record::new(NOW, None, Some(bytes::Bytes::from_static(text.as_bytes())))]);
        };
        text(&world, r#"{"id":1,"amount":1}"#);
        drain(&mut sink(&mut world, 1, ConflictPolicy::Column), NOW).await;
        world.mode = mode("string");
        text(&world, r#"{"id":2,"amount":"2"}"#);
        let outcome = sink(&mut world, 2, ConflictPolicy::Pause).run_once(NOW).await;
        assert!(matches!(outcome, Outcome::Paused(PauseReason::Unfit { .. })), "{outcome:?}");
        drain(&mut sink(&mut world, 3, ConflictPolicy::Column), NOW).await;
        assert_eq!(names(&world).await, ["amount", "id", "item", "amount__string"]);
        assert_eq!((typed_rows(&world).await.len(), dead_rows(&world).await.len()), (2, 0));
    });
}

/// Any step fails, and processes begin again.
#[test]
fn many_faults_neither_double_nor_lose_with_columns_beside() {
    block_on(async {
        for seed in 0..40_u64 {
            let (mut world, mut produced, policy) = (begin(seed * 1000), Produced::default(), ConflictPolicy::Column);
            let mut random = Random::new(seed);
            let mut epoch = 1;
            let mut current = sink(&mut world, epoch, policy);
            world.store.arm_random(seed, 5 + seed % 60);
            for _ in 0..4 {
                let kinds: Vec<u32> = (0..=random.below(4)).map(|_| LONG + random.below(5) as u32).collect();
                // The first value decides the column, so that all know what becomes of the others.
                let kinds = if produced.0.is_empty() { [vec![LONG], kinds].concat() } else { kinds };
                let partition = if produced.0.is_empty() { 0 } else { random.below(2) as i32 };
                append(&world, &mut produced, partition, &kinds, policy);
                for turn in 0.. {
                    assert!(turn < 500, "seed {seed}: never idle: {:?}", current.status());
                    let outcome = current.run_once(NOW).await;
                    if world.store.is_dead() {
                        world.store.revive();
                        epoch += 1;
                        current = sink(&mut world, epoch, policy);
                    } else if matches!(outcome, Outcome::Idle) {
                        break;
                    }
                }
            }
            world.store.calm();
            produced.check(&world, &format!("seed {seed}")).await;
        }
    });
}
