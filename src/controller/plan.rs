//! Requests about topics → commands: pure checks against the state, with words for people.

use std::collections::BTreeMap;

use tidewater_storage::model::{LaneId, NodeId, TopicId, TopicName};
use uuid::Uuid;

use super::client::{ConfigChange, ConfigOp, TopicError, TopicSpec};
use super::command::Command;
use super::state::{ControllerState, TopicRecord, data_lanes};
use crate::config::topic::{self, Shape};
use crate::limits::{PARTITIONS_PER_TOPIC_MAX, TOPIC_SETTINGS_BYTES_MAX};

/// The settings of the broker's own topics, which clients cannot change: its log is cut by the snapshots of what keeps its
/// state there and by nothing else, and all of it stays on local disk, so that a start needs no bucket.
pub const INTERNAL_SETTINGS: [(&str, &str); 4] =
    [("retention.ms", "-1"), ("retention.bytes", "-1"), ("local.retention.ms", "-1"), ("local.retention.bytes", "-1")];

/// Facts of this broker that a plan needs besides the state.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    pub broker: NodeId,
    pub shards: u16,
    /// `num.partitions`.
    pub num_partitions: u32,
}

/// Checks a topic that shall be made.
///
/// # Errors
/// Why it cannot be.
pub fn create(state: &ControllerState, context: Context, spec: &TopicSpec, id: TopicId) -> Result<Command, TopicError> {
    let name = TopicName::new(&spec.name).map_err(|e| TopicError::InvalidName(format!("{:?}: {e}", spec.name)))?;
    if state.topics.contains_key(&name) {
        return Err(TopicError::Exists(spec.name.clone()));
    }
    // Only a name with one of the two characters can collide with another: thousands of topics are not looked through.
    let suspect = name.as_str().contains(['.', '_']);
    if let Some(other) = state.topics.keys().filter(|_| suspect).find(|other| collides(other.as_str(), name.as_str())) {
        return Err(TopicError::InvalidName(format!(
            "topic {name} collides with {other}: '.' and '_' are the same in metric and table names"
        )));
    }
    if name.is_internal() && !spec.internal {
        return Err(TopicError::InvalidName(format!("topic {name} is the broker's own and is made when it is needed")));
    }
    if !matches!(spec.replication_factor, -1 | 1) {
        return Err(TopicError::InvalidReplicationFactor(spec.replication_factor));
    }
    let partitions = partitions_of(context, spec)?;
    let mut overrides = BTreeMap::new();
    for (key, value) in &spec.configs {
        if let Some(value) = value {
            check_setting(key, value)?;
            overrides.insert(key.clone(), value.clone());
        }
    }
    if spec.internal {
        overrides.extend(internal_settings());
    }
    check_size(&BTreeMap::new(), &overrides)?;
    let lanes = place(context, id, 0, partitions);
    Ok(Command::CreateTopic { name, id, lanes, overrides })
}

fn partitions_of(context: Context, spec: &TopicSpec) -> Result<u32, TopicError> {
    if !spec.assignments.is_empty() {
        return assigned(context, &spec.assignments, 0);
    }
    let wanted = spec.partitions.unwrap_or(i32::try_from(context.num_partitions).unwrap_or(i32::MAX));
    in_range(wanted)
}

fn in_range(partitions: i32) -> Result<u32, TopicError> {
    u32::try_from(partitions).ok().filter(|n| *n > 0 && partitions <= PARTITIONS_PER_TOPIC_MAX).ok_or_else(|| {
        TopicError::InvalidPartitions(format!("{partitions} partitions: use 1 to {PARTITIONS_PER_TOPIC_MAX}"))
    })
}

/// A client's own placement: possible only onto this broker, numbered from `first` without holes.
fn assigned(context: Context, assignments: &[(i32, Vec<i32>)], first: usize) -> Result<u32, TopicError> {
    let mut indexes: Vec<i32> = assignments.iter().map(|(index, _)| *index).collect();
    indexes.sort_unstable();
    if indexes.iter().enumerate().any(|(n, index)| usize::try_from(*index) != Ok(first + n)) {
        return Err(TopicError::InvalidAssignment(format!("partitions must be numbered from {first} without holes")));
    }
    if assignments.iter().any(|(_, brokers)| *brokers != [context.broker.0]) {
        return Err(TopicError::InvalidAssignment(format!(
            "every partition must be placed on broker {}, the only one",
            context.broker
        )));
    }
    in_range(i32::try_from(assignments.len()).unwrap_or(i32::MAX))
}

/// Topic names that would be one in metric and table names: '.' and '_' are the same there.
pub(super) fn collides(a: &str, b: &str) -> bool {
    let folded = |c: u8| if c == b'.' { b'_' } else { c };
    a.len() == b.len() && a.bytes().map(folded).eq(b.bytes().map(folded))
}

/// Lanes for partitions `[first, total)`: round the data lanes from a place the topic id decides, so that many topics
/// of one partition spread.
#[must_use]
pub fn place(context: Context, id: TopicId, first: u32, total: u32) -> Vec<LaneId> {
    let lanes: Vec<LaneId> = data_lanes(context.shards).collect();
    let start = id.0.as_u128() % (lanes.len().max(1) as u128);
    (first..total).filter_map(|n| lanes.get((start as usize + n as usize) % lanes.len().max(1)).copied()).collect()
}

/// Checks more partitions for a topic.
///
/// # Errors
/// Why not.
pub fn add_partitions(
    state: &ControllerState,
    context: Context,
    topic: &str,
    total: i32,
) -> Result<Command, TopicError> {
    let (name, record) = state.topics.get_key_value(topic).ok_or_else(|| TopicError::Unknown(topic.to_owned()))?;
    if name.is_internal() {
        return Err(TopicError::InvalidRequest(format!(
            "topic {name} is the broker's own and gets no more partitions: the hash of a group's name chooses the group's partition"
        )));
    }
    let from = u32::try_from(record.lanes.len()).unwrap_or(u32::MAX);
    let total = in_range(total)?;
    if total <= from {
        return Err(TopicError::InvalidPartitions(format!(
            "topic {name} has {from} partitions; the number can only grow, and {total} is not more"
        )));
    }
    Ok(Command::AddPartitions { name: name.clone(), from, lanes: place(context, record.id, from, total) })
}

/// Checks changes of a topic's settings, all or none.
///
/// # Errors
/// Why not.
pub fn configure(state: &ControllerState, topic: &str, ops: &[ConfigOp]) -> Result<Command, TopicError> {
    let (name, record) = state.topics.get_key_value(topic).ok_or_else(|| TopicError::Unknown(topic.to_owned()))?;
    let mut overrides = record.overrides.clone();
    for ConfigOp { key, change } in ops {
        match change {
            ConfigChange::Set(value) => {
                check_setting(key, value)?;
                overrides.insert(key.clone(), value.clone());
            }
            ConfigChange::Delete => {
                known(key)?;
                overrides.remove(key);
            }
            ConfigChange::Append(value) | ConfigChange::Subtract(value) => {
                let row = known(key)?;
                if !matches!(row.shape, Shape::List(_)) {
                    return Err(TopicError::InvalidConfig(format!("{key} is not a list: set it instead")));
                }
                let add = matches!(change, ConfigChange::Append(_));
                let list = edit_list(overrides.get(key).map_or(row.default, String::as_str), value, add);
                check_setting(key, &list)?;
                overrides.insert(key.clone(), list);
            }
        }
    }
    if name.is_internal() && overrides != record.overrides {
        return Err(TopicError::InvalidRequest(format!(
            "topic {name} is the broker's own and its settings cannot be changed: committed offsets would go with its log"
        )));
    }
    let was_on = record.overrides.get("remote.storage.enable").is_none_or(|v| v == "true");
    let is_on = overrides.get("remote.storage.enable").is_none_or(|v| v == "true");
    if was_on && !is_on {
        return Err(TopicError::InvalidConfig(
            "remote.storage.enable=false is refused: switching it off again would strand what is in the bucket; delete the topic instead".into(),
        ));
    }
    check_size(&record.overrides, &overrides)?;
    Ok(Command::Configure { name: name.clone(), overrides })
}

/// Every partition carries its topic's settings. A topic that has too many already may get fewer.
fn check_size(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Result<(), TopicError> {
    let size = |overrides: &BTreeMap<String, String>| overrides.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
    let bytes = size(after);
    if bytes <= TOPIC_SETTINGS_BYTES_MAX || bytes < size(before) {
        return Ok(());
    }
    Err(TopicError::InvalidConfig(format!(
        "the topic's settings take {bytes} bytes, at most {TOPIC_SETTINGS_BYTES_MAX} are taken"
    )))
}

fn internal_settings() -> impl Iterator<Item = (String, String)> {
    INTERNAL_SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
}

/// What gives the broker's own topics the settings they must have, if an earlier version made or changed them.
#[must_use]
pub fn mend_internal(state: &ControllerState) -> Vec<Command> {
    let mend = |(name, record): (&TopicName, &TopicRecord)| {
        let overrides = internal_settings().collect::<BTreeMap<_, _>>();
        (record.overrides != overrides).then(|| Command::Configure { name: name.clone(), overrides })
    };
    state.topics.iter().filter(|(name, _)| name.is_internal()).filter_map(mend).collect()
}

fn known(key: &str) -> Result<&'static topic::Setting, TopicError> {
    topic::setting(key).ok_or_else(|| TopicError::InvalidConfig(format!("Unknown topic config name: {key}")))
}

fn check_setting(key: &str, value: &str) -> Result<(), TopicError> {
    topic::check(key, value).map_err(|e| TopicError::InvalidConfig(e.to_string()))
}

fn edit_list(held: &str, change: &str, add: bool) -> String {
    let mut words: Vec<&str> = held.split(',').map(str::trim).filter(|w| !w.is_empty()).collect();
    for word in change.split(',').map(str::trim) {
        words.retain(|held| *held != word);
        if add {
            words.push(word);
        }
    }
    words.join(",")
}

/// Checks the end of a topic, of the life of it that `id` names if it is given.
///
/// # Errors
/// There is none of that name or id, or it is the broker's own.
pub fn delete(state: &ControllerState, name: &TopicName, id: Option<TopicId>) -> Result<Command, TopicError> {
    let found = state.topics.get(name).filter(|record| id.is_none_or(|id| record.id == id));
    let unknown = || id.map_or_else(|| TopicError::Unknown(name.to_string()), TopicError::UnknownId);
    let record = found.ok_or_else(unknown)?;
    if name.is_internal() {
        return Err(TopicError::InvalidRequest(format!("topic {name} is the broker's own and cannot be deleted")));
    }
    Ok(Command::DeleteTopic { name: name.clone(), id: record.id })
}

/// The command a new cluster begins with.
#[must_use]
pub fn genesis(cluster: Uuid) -> Command {
    Command::Genesis { cluster, founders: Vec::new(), voters: Vec::new(), level: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: Context = Context { broker: NodeId(1), shards: 2, num_partitions: 3 };

    fn spec(name: &str) -> TopicSpec {
        TopicSpec {
            name: name.into(),
            partitions: None,
            replication_factor: -1,
            assignments: Vec::new(),
            configs: Vec::new(),
            validate_only: false,
            internal: false,
        }
    }

    fn with_topic(name: &str) -> ControllerState {
        let mut state = ControllerState::default();
        let command = create(&state, CONTEXT, &spec(name), TopicId(Uuid::from_u128(1))).expect("planned");
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
        let refused = |spec: TopicSpec| create(&state, CONTEXT, &spec, id).expect_err("refused");
        assert!(matches!(refused(spec("a.b")), TopicError::Exists(_)));
        assert!(matches!(refused(spec("a_b")), TopicError::InvalidName(_)));
        assert!(matches!(refused(spec("__consumer_offsets")), TopicError::InvalidName(_)));
        assert!(matches!(refused(spec("sp ace")), TopicError::InvalidName(_)));
        let many = TopicSpec { partitions: Some(0), ..spec("x") };
        assert!(matches!(refused(many), TopicError::InvalidPartitions(_)));
        let replicated = TopicSpec { replication_factor: 3, ..spec("x") };
        assert!(matches!(refused(replicated), TopicError::InvalidReplicationFactor(3)));
        let elsewhere = TopicSpec { assignments: vec![(0, vec![2])], ..spec("x") };
        assert!(matches!(refused(elsewhere), TopicError::InvalidAssignment(_)));
        let compacted = TopicSpec { configs: vec![("cleanup.policy".into(), Some("compact".into()))], ..spec("x") };
        assert!(matches!(refused(compacted), TopicError::InvalidConfig(_)));
    }

    fn with_offsets_topic() -> ControllerState {
        let mut state = ControllerState::default();
        let own = TopicSpec { internal: true, ..spec("__consumer_offsets") };
        state.apply(create(&state, CONTEXT, &own, TopicId::default()).expect("planned"));
        state
    }

    #[test]
    fn the_brokers_own_topics_stay_as_they_are() {
        let state = with_offsets_topic();
        let refused = |done: Result<Command, TopicError>| matches!(done, Err(TopicError::InvalidRequest(_)));
        assert!(refused(add_partitions(&state, CONTEXT, "__consumer_offsets", 50)));
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
        assert!(add_partitions(&state, CONTEXT, "orders", 3).is_err());
        match add_partitions(&state, CONTEXT, "orders", 5) {
            Ok(Command::AddPartitions { from: 3, lanes, .. }) => assert_eq!(lanes, [LaneId(1), LaneId(2)]),
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn settings_of_a_topic_are_bounded_one_by_one_and_together() {
        // 16 settings that take white space around a number, near the most that one may have.
        let wide = |n: usize| (topic::SETTINGS[n].name.to_owned(), format!("{:4000}", topic::SETTINGS[n].default));
        let numbers =
            || (0..topic::SETTINGS.len()).filter(|n| matches!(topic::SETTINGS[*n].shape, Shape::Integer { .. }));
        let configs = |count| numbers().take(count).map(wide).map(|(key, value)| (key, Some(value))).collect();
        let make = |count| TopicSpec { configs: configs(count), ..spec("x") };
        let state = with_topic("orders");
        create(&state, CONTEXT, &make(3), TopicId::default()).expect("fits");
        let refused = create(&state, CONTEXT, &make(5), TopicId::default()).expect_err("refused");
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
        match configure(&state, "orders", &[set("iceberg.mode", "key_value")]) {
            Ok(Command::Configure { overrides, .. }) => assert_eq!(overrides["iceberg.mode"], "key_value"),
            other => unreachable!("{other:?}"),
        }
    }
}
