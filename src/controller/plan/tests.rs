//! Requests that are refused with a reason, and the lanes that partitions go to.

use tidewater_storage::model::ReplicaId;

use super::*;
use crate::config::topic::{self, Shape};
use crate::controller::ask::{ConfigChange, ConfigOp};
use crate::controller::brokers;
use crate::controller::command::Founder;

fn context(planned: &Planned) -> Context<'_> {
    Context { num_partitions: 3, planned }
}

/// A cluster of `count` brokers of one shard, with the lanes of the factors it uses.
fn cluster(count: i32) -> ControllerState {
    let mut state = ControllerState::default();
    let founders = (1..=count).map(|n| Founder {
        node: NodeId(n),
        birth: Uuid::from_u128(n as u128),
        address: brokers::tests::address(n, None, if count == 1 { 2 } else { 1 }),
    });
    let (founders, voters) = (founders.collect(), (1..=count).map(|n| ReplicaId::first(NodeId(n))).collect());
    state.apply(Command::Genesis { cluster: Uuid::from_u128(9), founders, voters, level: features::LANE_TABLE });
    for factor in factors_in_use(&state) {
        state.apply(make_lanes(&state, factor).expect("lacks"));
    }
    state
}

fn create(state: &ControllerState, planned: &Planned, spec: &TopicSpec, id: TopicId) -> Result<Command, TopicError> {
    super::create(state, context(planned), spec, id)
}

fn add_partitions(state: &ControllerState, topic: &str, total: i32) -> Result<Command, TopicError> {
    super::add_partitions(state, context(&Planned::default()), topic, total, &[])
}

fn spec(name: &str) -> TopicSpec {
    TopicSpec {
        name: name.into(),
        partitions: None,
        replication_factor: -1,
        assignments: Vec::new(),
        configs: Vec::new(),
        validate_only: false,
        internal: false,
        copy: None,
    }
}

fn with_topic(name: &str) -> ControllerState {
    let mut state = cluster(1);
    let command = create(&state, &Planned::default(), &spec(name), TopicId(Uuid::from_u128(1))).expect("planned");
    state.apply(command);
    state
}

#[test]
fn partitions_go_round_the_lanes() {
    let state = with_topic("orders");
    let lanes = &state.topics.values().next().expect("one").lanes;
    assert_eq!(lanes, &[LaneId(2), LaneId(1), LaneId(2)]);
}

#[test]
fn bad_topics_are_refused_with_a_reason() {
    let state = with_topic("a.b");
    let id = TopicId::default();
    let refused = |spec: TopicSpec| create(&state, &Planned::default(), &spec, id).expect_err("refused");
    assert!(matches!(refused(spec("a.b")), TopicError::Exists(_)));
    assert!(matches!(refused(spec("a_b")), TopicError::InvalidName(_)));
    assert!(matches!(refused(spec("__consumer_offsets")), TopicError::InvalidName(_)));
    assert!(matches!(refused(spec("sp ace")), TopicError::InvalidName(_)));
    let many = TopicSpec { partitions: Some(0), ..spec("x") };
    assert!(matches!(refused(many), TopicError::InvalidPartitions(_)));
    let replicated = TopicSpec { replication_factor: 3, ..spec("x") };
    let words = "Unable to replicate the partition 3 time(s): The target replication factor of 3 cannot be reached \
                 because only 1 broker(s) are registered.";
    assert_eq!(refused(replicated), TopicError::InvalidReplicationFactor(words.into()));
    let elsewhere = TopicSpec { assignments: vec![(0, vec![2])], ..spec("x") };
    assert!(matches!(refused(elsewhere), TopicError::InvalidAssignment(_)));
    let compacted = TopicSpec { configs: vec![("cleanup.policy".into(), Some("compact".into()))], ..spec("x") };
    assert!(matches!(refused(compacted), TopicError::InvalidConfig(_)));
}

#[test]
fn a_topic_has_the_replicas_it_asks_for() {
    let state = cluster(3);
    let factor =
        |state: &ControllerState, factor| factor_of(state, &TopicSpec { replication_factor: factor, ..spec("x") });
    assert_eq!((factor(&state, -1), factor(&state, 1), factor(&state, 3)), (Ok(3), Ok(1), Ok(3)));
    assert_eq!((factor(&cluster(1), -1), factor(&cluster(5), -1), factor(&cluster(5), 5)), (Ok(1), Ok(3), Ok(5)));
    for none in [0, -2, 4, 6] {
        assert!(matches!(factor(&state, none), Err(TopicError::InvalidReplicationFactor(_))), "{none}");
    }
    let planned = Planned::default();
    let command = create(&state, &planned, &TopicSpec { partitions: Some(6), ..spec("x") }, TopicId::default());
    let Ok(Command::CreateTopic { lanes, .. }) = command else { unreachable!("{command:?}") };
    let leaders = lanes.iter().filter_map(|lane| state.lanes.lanes[lane].preferred());
    let count = leaders.fold(BTreeMap::new(), |mut count, node| {
        *count.entry(node.0).or_insert(0) += 1;
        count
    });
    assert_eq!(count, BTreeMap::from([(1, 2), (2, 2), (3, 2)]));
    assert_eq!(planned.borrow().values().sum::<u32>(), 6);
    assert!(make_lanes(&state, 1).is_some(), "no topic has asked for one replica before");
}

#[test]
fn a_clients_placement_follows_the_lanes() {
    let state = cluster(3);
    let ask = |assignments: &[&[i32]]| {
        let assignments = assignments.iter().enumerate().map(|(n, nodes)| (n as i32, nodes.to_vec())).collect();
        create(&state, &Planned::default(), &TopicSpec { assignments, ..spec("x") }, TopicId::default())
    };
    let Ok(Command::CreateTopic { lanes, .. }) = ask(&[&[2, 3, 1], &[3, 1, 2]]) else { unreachable!() };
    let led: Vec<_> = lanes.iter().map(|lane| state.lanes.lanes[lane].preferred()).collect();
    assert_eq!(led, [Some(NodeId(2)), Some(NodeId(3))]);
    for (bad, words) in [
        (&[&[1, 2][..]][..], "on brokers [1, 2]: partitions share lanes"),
        (&[&[1, 2, 9]], "includes broker 9, but no such broker is registered."),
        (&[&[1, 2, 2]], "includes the broker 2 more than once."),
        (&[&[1, 2, 3], &[1]], "includes a partition with 1 replica(s), but this is not consistent"),
        (&[&[]], "includes an empty replica list."),
        (&[&[-1, 2, 3]], "includes an invalid broker id -1."),
    ] {
        match ask(bad) {
            Err(TopicError::InvalidAssignment(why)) => assert!(why.contains(words), "{why}"),
            other => unreachable!("{bad:?}: {other:?}"),
        }
    }
}

#[test]
fn widening_keeps_the_replicas_that_are_there() {
    let mut state = cluster(1);
    assert!(widen(&state, 3).is_err(), "one broker");
    for n in 2..=3 {
        let (birth, address) = (Uuid::from_u128(n as u128), brokers::tests::address(n, None, 1));
        state.apply(Command::Register { node: NodeId(n), birth, address, replaces: false });
    }
    let commands = widen(&state, 3).expect("three brokers");
    assert_eq!(commands.len(), 3, "the controller's lane and two of topics");
    for command in commands {
        assert_eq!(state.apply(command), Verdict::Done);
    }
    for (lane, record) in &state.lanes.lanes {
        assert_eq!((record.factor, record.replicas.len(), record.initial.len()), (3, 3, 1), "{lane}");
        assert_eq!(record.replicas[0], ReplicaId::first(NodeId(1)));
        // Every broker is a learner of the controller's lane already.
        let is_new = |replica: &ReplicaId| (replica.incarnation.0 > 0) == (*lane != LaneId::CONTROLLER);
        assert!(record.replicas[1..].iter().all(is_new), "{lane}");
    }
    assert_eq!(widen(&state, 3), Ok(Vec::new()));
}

fn with_offsets_topic() -> ControllerState {
    let mut state = cluster(1);
    let own = TopicSpec { internal: true, ..spec("__consumer_offsets") };
    state.apply(create(&state, &Planned::default(), &own, TopicId::default()).expect("planned"));
    state
}

#[test]
fn the_brokers_own_topics_stay_as_they_are() {
    let state = with_offsets_topic();
    let refused = |done: Result<Command, TopicError>| matches!(done, Err(TopicError::InvalidRequest(_)));
    assert!(refused(add_partitions(&state, "__consumer_offsets", 50)));
    let ask = |key: &str, change| configure(&state, "__consumer_offsets", &[ConfigOp { key: key.into(), change }]);
    for key in ["retention.ms", "retention.bytes", "local.retention.ms", "local.retention.bytes"] {
        assert!(refused(ask(key, ConfigChange::Set("1000".into()))), "{key}");
        assert!(refused(ask(key, ConfigChange::Delete)), "{key}");
    }
    assert!(refused(ask("max.message.bytes", ConfigChange::Set("100".into()))));
    // What changes nothing may be said again.
    assert!(ask("retention.ms", ConfigChange::Set("-1".into())).is_ok());
}

#[test]
fn the_brokers_own_topics_stay_on_local_disk_also_when_a_client_made_them() {
    let mut state = with_offsets_topic();
    let name = TopicName::new("__consumer_offsets").expect("legal");
    let local = |state: &ControllerState| topic::TopicConfig::resolve(&state.topics[&name].overrides);
    assert_eq!((local(&state).local_retention_ms, local(&state).retention_ms), (None, None));
    assert!(mend_internal(&state).is_empty());
    // As earlier versions made it.
    let overrides = BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())]);
    state.apply(Command::Configure { name: name.clone(), overrides });
    assert_eq!(local(&state).local_retention_ms, Some(86_400_000));
    for command in mend_internal(&state) {
        state.apply(command);
    }
    assert_eq!((local(&state).local_retention_ms, local(&state).local_retention_bytes), (None, None));
    assert!(mend_internal(&state).is_empty());
}

#[test]
fn a_topic_made_anew_is_not_deleted_by_the_id_of_the_old_one() {
    let state = with_topic("orders");
    let (name, now) = (TopicName::new("orders").expect("legal"), TopicId(Uuid::from_u128(1)));
    let before = TopicId(Uuid::from_u128(7));
    assert_eq!(delete(&state, &name, Some(before)), Err(TopicError::UnknownId(before)));
    let done = Command::DeleteTopic { name: name.clone(), id: now };
    assert_eq!(delete(&state, &name, Some(now)), Ok(done.clone()));
    assert_eq!(delete(&state, &name, None), Ok(done));
}

#[test]
fn partitions_only_grow() {
    let state = with_topic("orders");
    assert!(add_partitions(&state, "orders", 3).is_err());
    match add_partitions(&state, "orders", 5) {
        Ok(Command::AddPartitions { from: 3, lanes, .. }) => assert_eq!(lanes, [LaneId(1), LaneId(2)]),
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn settings_of_a_topic_are_bounded_one_by_one_and_together() {
    // 16 settings that take white space around a number, near the most that one may have.
    let wide = |n: usize| (topic::SETTINGS[n].name.to_owned(), format!("{:4000}", topic::SETTINGS[n].default));
    let numbers = || (0..topic::SETTINGS.len()).filter(|n| matches!(topic::SETTINGS[*n].shape, Shape::Integer { .. }));
    let configs = |count| numbers().take(count).map(wide).map(|(key, value)| (key, Some(value))).collect();
    let make = |count| TopicSpec { configs: configs(count), ..spec("x") };
    let state = with_topic("orders");
    create(&state, &Planned::default(), &make(3), TopicId::default()).expect("fits");
    let refused = create(&state, &Planned::default(), &make(5), TopicId::default()).expect_err("refused");
    assert!(matches!(refused, TopicError::InvalidConfig(_)), "{refused}");
    let set = |(key, value)| ConfigOp { key, change: ConfigChange::Set(value) };
    let ops: Vec<ConfigOp> = numbers().take(5).map(wide).map(set).collect();
    assert!(matches!(configure(&state, "orders", &ops), Err(TopicError::InvalidConfig(_))));
    let text = "follower.replication.throttled.replicas".to_owned();
    let long = [set((text.clone(), "0:1,".repeat(2000)))];
    assert!(matches!(configure(&state, "orders", &long), Err(TopicError::InvalidConfig(_))));
    // One of an older version, with more than is taken now, may still get fewer.
    let mut state = state;
    let record = state.topics.values_mut().next().expect("one");
    record.overrides.extend([(text.clone(), "0:1,".repeat(5000)), ("retention.ms".into(), "5".into())]);
    let fewer = ConfigOp { key: "retention.ms".into(), change: ConfigChange::Delete };
    configure(&state, "orders", &[fewer]).expect("fewer");
    assert!(configure(&state, "orders", &[set(("retention.ms".into(), "50".into()))]).is_err());
}

#[test]
fn settings_change_all_or_none() {
    let state = with_topic("orders");
    let set = |key: &str, value: &str| ConfigOp { key: key.into(), change: ConfigChange::Set(value.into()) };
    let bad = [set("retention.ms", "5"), set("retention.bytes", "many")];
    assert!(configure(&state, "orders", &bad).is_err());
    assert!(configure(&state, "orders", &[set("remote.storage.enable", "false")]).is_err());
    let schema = set("iceberg.json.schema", r#"{"properties":{"a":{"type":"string"}}}"#);
    configure(&state, "orders", &[set("iceberg.mode", "json")]).expect("columns are found in the values");
    configure(&state, "orders", &[set("iceberg.mode", "json"), schema]).expect("both");
    match configure(&state, "orders", &[set("iceberg.mode", "key_value")]) {
        Ok(Command::Configure { overrides, .. }) => assert_eq!(overrides["iceberg.mode"], "key_value"),
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn a_table_is_of_one_topic_and_keeps_its_name() {
    let set = |key: &str, value: &str| ConfigOp { key: key.into(), change: ConfigChange::Set(value.into()) };
    let mut state = with_topic("orders");
    let mut give = |topic: &str, ops: &[ConfigOp]| {
        let command = configure(&state, topic, ops).map_err(|refused| refused.to_string())?;
        state.apply(command);
        Ok::<(), String>(())
    };
    give("orders", &[set("iceberg.mode", "key_value"), set("iceberg.table", "lake.o")]).expect("its first table");
    let refused = give("orders", &[set("iceberg.table", "lake.p")]).expect_err("while it is a table");
    assert!(refused.contains("iceberg.mode=disabled") && refused.contains("lake.o"), "{refused}");
    give("orders", &[set("iceberg.table", "lake.o"), set("iceberg.delete", "true")]).expect("the same name");
    give("orders", &[set("iceberg.mode", "disabled"), set("iceberg.table", "x")]).expect("it is none then");
    give("orders", &[set("iceberg.mode", "key_value")]).expect("and this is another");
    let with = |configs: &[(&str, &str)], name: &str| {
        let configs = configs.iter().map(|(k, v)| ((*k).to_owned(), Some((*v).to_owned()))).collect();
        create(&state, &Planned::default(), &TopicSpec { configs, ..spec(name) }, TopicId::default())
    };
    for (name, configs) in [
        ("x", &[("iceberg.mode", "key_value")][..]),
        ("y", &[("iceberg.mode", "key_value"), ("iceberg.table", "topics.x")]),
    ] {
        let refused = with(configs, name).expect_err("the table of orders").to_string();
        assert!(refused.contains("topics.x is the table of topic orders"), "{refused}");
    }
    with(&[("iceberg.table", "x")], "y").expect("it has no table yet");
    with(&[("iceberg.mode", "key_value"), ("iceberg.table", "lake.x")], "x").expect("another namespace");
}

#[test]
fn a_table_keeps_its_layout_while_it_is_one() {
    let set = |key: &str, value: &str| ConfigOp { key: key.into(), change: ConfigChange::Set(value.into()) };
    let mut state = with_topic("orders");
    let mut give = |ops: &[ConfigOp]| {
        let command = configure(&state, "orders", ops).map_err(|refused| refused.to_string())?;
        state.apply(command);
        Ok::<(), String>(())
    };
    give(&[set("iceberg.mode", "json"), set("iceberg.layout", "flat")]).expect("from the first");
    let refused = give(&[set("iceberg.layout", "struct")]).expect_err("while it is a table");
    assert!(refused.contains("iceberg.mode=disabled") && refused.contains("topics.orders"), "{refused}");
    give(&[set("iceberg.layout", "flat"), set("iceberg.mode", "key_value")]).expect("the same layout");
    give(&[set("iceberg.mode", "disabled"), set("iceberg.layout", "struct")]).expect("it is none then");
    assert!(give(&[set("iceberg.layout", "columns")]).is_err(), "no layout");
}
