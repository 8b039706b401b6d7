//! Changes of a topic's settings → commands: which keys and values are taken, alone and together. Pure.

use std::collections::BTreeMap;

use tidewater_storage::model::TopicName;

use crate::config::topic::{self, IcebergMode, Shape, TopicConfig};
use crate::controller::ask::{ConfigChange, ConfigOp, TopicError};
use crate::controller::command::Command;
use crate::controller::state::{ControllerState, TopicRecord};
use crate::limits::TOPIC_SETTINGS_BYTES_MAX;

/// The settings of the broker's own topics, which clients cannot change: its log is cut by the snapshots of what keeps
/// its state there and by nothing else, and all of it stays on local disk, so that a start needs no bucket.
pub const INTERNAL_SETTINGS: [(&str, &str); 4] =
    [("retention.ms", "-1"), ("retention.bytes", "-1"), ("local.retention.ms", "-1"), ("local.retention.bytes", "-1")];

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
    check_same_table(name, &record.overrides, &overrides)?;
    check_same_layout(name, &record.overrides, &overrides)?;
    check_table(state, name, &overrides)?;
    check_size(&record.overrides, &overrides)?;
    Ok(Command::Configure { name: name.clone(), overrides })
}

/// No two topics write one table, and none takes its name from a table that it is writing.
pub(super) fn check_table(
    state: &ControllerState,
    topic: &TopicName,
    overrides: &BTreeMap<String, String>,
) -> Result<(), TopicError> {
    let config = TopicConfig::resolve(overrides);
    if config.iceberg_mode == IcebergMode::Disabled {
        return Ok(());
    }
    let table = config.table_of(topic);
    let is_of = |(other, record): &(&TopicName, &TopicRecord)| {
        // Most topics neither have that name nor name a table: their settings are not read.
        let may_be = other.as_str() == table.name || record.overrides.contains_key("iceberg.table");
        *other != topic && may_be && {
            let config = TopicConfig::resolve(&record.overrides);
            config.iceberg_mode != IcebergMode::Disabled && config.table_of(other) == table
        }
    };
    match state.topics.iter().find(is_of) {
        None => Ok(()),
        Some((other, _)) => Err(TopicError::InvalidConfig(format!(
            "{table} is the table of topic {other}: choose another one for topic {topic} with iceberg.table"
        ))),
    }
}

fn check_same_table(
    topic: &TopicName,
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Result<(), TopicError> {
    let (before, after) = (TopicConfig::resolve(before), TopicConfig::resolve(after));
    let is_table = |config: &TopicConfig| config.iceberg_mode != IcebergMode::Disabled;
    let (old, new) = (before.table_of(topic), after.table_of(topic));
    if old == new || !is_table(&before) || !is_table(&after) {
        return Ok(());
    }
    Err(TopicError::InvalidConfig(format!(
        "iceberg.table cannot be changed while topic {topic} is kept as table {old}: set iceberg.mode=disabled first, \
         and then the name and the mode; the table {old} stays as it is then, and {new} begins with what the topic \
         still has, unless it is {old}, renamed in the catalog"
    )))
}

/// A table's columns do not move: a second set of them beside the first would be half empty for ever.
fn check_same_layout(
    topic: &TopicName,
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Result<(), TopicError> {
    let (before, after) = (TopicConfig::resolve(before), TopicConfig::resolve(after));
    let is_table = |config: &TopicConfig| config.iceberg_mode != IcebergMode::Disabled;
    if before.iceberg_layout == after.iceberg_layout || !is_table(&before) || !is_table(&after) {
        return Ok(());
    }
    let table = before.table_of(topic);
    Err(TopicError::InvalidConfig(format!(
        "iceberg.layout cannot be changed while topic {topic} is kept as table {table}, whose columns stay where they are: \
         set iceberg.mode=disabled, rename or drop the table or choose another name with iceberg.table, and then set the \
         layout and the mode"
    )))
}

/// Every partition carries its topic's settings. A topic that has too many already may get fewer.
pub(super) fn check_size(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Result<(), TopicError> {
    let size = |overrides: &BTreeMap<String, String>| overrides.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
    let bytes = size(after);
    if bytes <= TOPIC_SETTINGS_BYTES_MAX || bytes < size(before) {
        return Ok(());
    }
    Err(TopicError::InvalidConfig(format!(
        "the topic's settings take {bytes} bytes, at most {TOPIC_SETTINGS_BYTES_MAX} are taken"
    )))
}

pub(super) fn internal_settings() -> impl Iterator<Item = (String, String)> {
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

pub(super) fn check_setting(key: &str, value: &str) -> Result<(), TopicError> {
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
