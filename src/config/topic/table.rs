//! `iceberg.table`, `iceberg.partition.spec`, `iceberg.sort.order` and `iceberg.table.properties`: what a topic's table
//! is called and made with, read and checked in one place. Pure.

use std::collections::BTreeMap;
use std::fmt;

use tidewater_storage::model::TopicName;

use super::TopicConfig;

/// The namespace of tables whose topics name no other.
pub const NAMESPACE: &str = "topics";

/// Bytes of a namespace, and of a table's name, at most: a directory bucket holds file names of 255 bytes.
const NAME_BYTES_MAX: usize = 200;

/// Where a topic's table lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableName<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
}

impl<'a> TableName<'a> {
    /// Reads `namespace.table`, or `table` in [`NAMESPACE`].
    ///
    /// # Errors
    /// `text` is neither; what was expected.
    pub fn parse(text: &'a str) -> Result<Self, String> {
        let (namespace, name) = text.split_once('.').unwrap_or((NAMESPACE, text));
        let is_legal = |part: &str| {
            (1..=NAME_BYTES_MAX).contains(&part.len())
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        };
        if is_legal(namespace) && is_legal(name) {
            return Ok(Self { namespace, name });
        }
        Err(format!(
            "String must be NAMESPACE.TABLE or TABLE, each of 1 to {NAME_BYTES_MAX} letters, digits, '_' and '-'"
        ))
    }
}

impl fmt::Display for TableName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.namespace, self.name)
    }
}

impl TopicConfig {
    /// Where the table of `topic`, which has these settings, lies or would lie.
    #[must_use]
    pub fn table_of<'a>(&'a self, topic: &'a TopicName) -> TableName<'a> {
        let default = TableName { namespace: NAMESPACE, name: topic.as_str() };
        if self.iceberg_table.is_empty() {
            return default;
        }
        // It passed its check.
        TableName::parse(&self.iceberg_table).unwrap_or(default)
    }
}

/// Reads a value of `iceberg.table.properties`: `key=value,key=value`, or nothing. The last `=`s of a pair are its
/// value's.
///
/// # Errors
/// `text` is no such list, or has a property that is not the owner's to give.
pub(super) fn parse_properties(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut properties = BTreeMap::new();
    if text.trim().is_empty() {
        return Ok(properties);
    }
    for pair in text.split(',') {
        let form =
            || format!("key=value,key=value is expected, without ',' in a value; {:?} is no such pair", pair.trim());
        let (key, value) = pair.split_once('=').ok_or_else(form)?;
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) || value.chars().any(char::is_control) {
            return Err(form());
        }
        if properties.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(format!("{key} is there twice"));
        }
    }
    #[cfg(feature = "lakehouse")]
    tidewater_iceberg::properties::check(properties.iter().map(|(key, value)| (key.as_str(), value.as_str())))?;
    Ok(properties)
}

/// Checks a value of `iceberg.sort.order`.
///
/// # Errors
/// It is no order; what was expected.
pub(super) fn check_sort_order(text: &str) -> Result<(), String> {
    #[cfg(feature = "lakehouse")]
    {
        tidewater_iceberg::sort::choice::SortChoice::parse(text).map(drop)
    }
    #[cfg(not(feature = "lakehouse"))]
    {
        let is_plain = text.chars().all(|c| !matches!(c, '(' | ')'));
        if is_plain { Ok(()) } else { Err("columns with ASC or DESC, such as customer, created_at DESC".to_owned()) }
    }
}

/// Checks a value of `iceberg.partition.spec`.
///
/// # Errors
/// It is no spec, or none that a table can have; what was expected.
pub(super) fn check_partition_spec(text: &str) -> Result<(), String> {
    #[cfg(feature = "lakehouse")]
    {
        tidewater_iceberg::partition::spec::PartitionChoice::parse(text).map(drop)
    }
    #[cfg(not(feature = "lakehouse"))]
    {
        let form = "fields in parentheses, such as (day(tidewater.timestamp))";
        if text.starts_with('(') && text.ends_with(')') { Ok(()) } else { Err(form.to_owned()) }
    }
}

/// Checks a value of `iceberg.table`; an empty one is none.
///
/// # Errors
/// What was expected.
pub(super) fn check_table(text: &str) -> Result<(), String> {
    if text.is_empty() { Ok(()) } else { TableName::parse(text).map(drop) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_at_most_one_namespace_before_its_name() {
        for (text, namespace, name) in [("lake.orders", "lake", "orders"), ("o-1_A", NAMESPACE, "o-1_A")] {
            assert_eq!(TableName::parse(text), Ok(TableName { namespace, name }));
        }
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        for text in ["", ".", "a.", ".b", "a.b.c", "a b", "a/b", "topics.orders~dlq", "ä", &long] {
            assert!(TableName::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_topic_without_the_setting_has_the_table_of_its_name() {
        let topic = TopicName::new("a.b").expect("legal");
        assert_eq!(TopicConfig::default().table_of(&topic).to_string(), "topics.a.b");
        let named = BTreeMap::from([("iceberg.table".to_owned(), "lake.orders".to_owned())]);
        assert_eq!(TopicConfig::resolve(&named).table_of(&topic).to_string(), "lake.orders");
    }

    #[test]
    fn properties_are_a_list_of_pairs() {
        let of = |pairs: &[(&str, &str)]| {
            Ok(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>())
        };
        assert_eq!(parse_properties(" "), of(&[]));
        assert_eq!(parse_properties("a=1, b = x=y ,c="), of(&[("a", "1"), ("b", "x=y"), ("c", "")]));
        for (text, part) in [
            ("a", "\"a\" is no such pair"),
            ("a=1,", "\"\" is no such pair"),
            ("=1", "is no such pair"),
            ("a b=1", "is no such pair"),
            ("a=1\n2", "is no such pair"),
            ("a=1,a=2", "twice"),
        ] {
            let refused = parse_properties(text).expect_err("is no list");
            assert!(refused.contains(part), "{text}: {refused}");
        }
    }

    #[cfg(feature = "lakehouse")]
    #[test]
    fn properties_of_the_sink_are_not_given() {
        for text in ["tidewater.topic-id=x", "uuid=x", "a=1,write.parquet.compression-codec=lzo"] {
            assert!(parse_properties(text).is_err(), "{text}");
        }
    }

    #[cfg(feature = "lakehouse")]
    #[test]
    fn the_default_spec_is_that_of_the_crate() {
        use tidewater_iceberg::partition::spec::PartitionChoice;

        let default = TopicConfig::default().iceberg_partition_spec;
        assert_eq!(PartitionChoice::parse(&default), Ok(PartitionChoice::default()));
        assert_eq!(check_partition_spec("(day(tidewater.timestamp), customer)"), Ok(()), "a column of values");
        assert_eq!(check_sort_order("customer DESC NULLS LAST, tidewater.timestamp"), Ok(()));
        assert_eq!(check_sort_order(&TopicConfig::default().iceberg_sort_order), Ok(()));
        let refused = check_sort_order("customer upwards").expect_err("no direction");
        assert!(refused.contains("customer DESC"), "{refused}");
        let refused = check_partition_spec("(day(tidewater.key))").expect_err("a key has no days");
        assert!(refused.contains("tidewater.key"), "{refused}");
    }
}
