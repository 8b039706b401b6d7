//! Metadata of tables and views as JSON with its lists in a fixed order: iceberg 0.10 keeps them in hash maps, whose
//! order differs from one load to the next, and clients compare.
//!
//! A table's file is written with each commit, and most of it is snapshots. So [`file()`] orders their texts, and makes
//! no [`Value`] of them, which would cost three times the writing.

use std::ops::Range;

use iceberg::spec::{TableMetadata, ViewMetadata};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Deserializer, Value};

use super::refs::Refs;

/// The lists and what orders them.
const ORDERS: [(&str, &[&str]); 5] = [
    ("snapshots", &["sequence-number", "timestamp-ms"]),
    ("schemas", &["schema-id"]),
    ("partition-specs", &["spec-id"]),
    ("sort-orders", &["order-id"]),
    ("versions", &["version-id"]),
];

/// A table's metadata as its file has it.
pub(super) struct FileText {
    pub(super) body: Vec<u8>,
    pub(super) refs: Refs,
}

/// What the members of lists are ordered by.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Place {
    sequence_number: Option<i64>,
    timestamp_ms: Option<i64>,
    schema_id: Option<i64>,
    spec_id: Option<i64>,
    order_id: Option<i64>,
}

impl Place {
    fn in_list(&self, list: &str) -> Option<[Option<i64>; 2]> {
        match list {
            "snapshots" => Some([self.sequence_number, self.timestamp_ms]),
            "schemas" => Some([self.schema_id, None]),
            "partition-specs" => Some([self.spec_id, None]),
            "sort-orders" => Some([self.order_id, None]),
            _ => None,
        }
    }
}

/// `metadata` as the bytes of its file: [`ordered`], as text.
///
/// # Errors
/// If it cannot be serialised, or what was serialised be read: a defect.
pub(super) fn file(metadata: &TableMetadata) -> iceberg::Result<FileText> {
    let text = serde_json::to_vec(metadata)?;
    let (mut body, mut refs) = (Vec::with_capacity(text.len()), Refs::new());
    let mut reader = Reader { text: &text, at: 0 };
    let mut separator = b'{';
    reader.expect(b'{')?;
    loop {
        let start = reader.at;
        let name: String = reader.value()?;
        reader.expect(b':')?;
        body.push(separator);
        body.extend_from_slice(reader.between(start..reader.at)?);
        separator = b',';
        match name.as_str() {
            "snapshots" | "schemas" | "partition-specs" | "sort-orders" => reader.list_into(&name, &mut body)?,
            "refs" => {
                let start = reader.at;
                refs = reader.value()?;
                body.extend_from_slice(reader.between(start..reader.at)?);
            }
            _ => {
                let start = reader.at;
                reader.value::<IgnoredAny>()?;
                body.extend_from_slice(reader.between(start..reader.at)?);
            }
        }
        if reader.next()? == b'}' {
            break;
        }
    }
    body.push(b'}');
    assert_eq!(body.len(), text.len(), "the same text in another order");
    Ok(FileText { body, refs })
}

/// Goes through JSON that serde_json has written, which has no white space.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn between(&self, range: Range<usize>) -> serde_json::Result<&'a [u8]> {
        self.text.get(range).ok_or_else(|| defect("it ends too early"))
    }

    /// The next byte, which is passed.
    fn next(&mut self) -> serde_json::Result<u8> {
        let next = self.text.get(self.at).copied();
        self.at += 1;
        next.ok_or_else(|| defect("it ends too early"))
    }

    fn expect(&mut self, wanted: u8) -> serde_json::Result<()> {
        match self.next()? {
            found if found == wanted => Ok(()),
            found => Err(defect(&format!("{} where {} should be", found.escape_ascii(), wanted.escape_ascii()))),
        }
    }

    /// The next value, which is passed.
    fn value<T: Deserialize<'a>>(&mut self) -> serde_json::Result<T> {
        let rest = self.between(self.at..self.text.len())?;
        let mut values = Deserializer::from_slice(rest).into_iter();
        let value = values.next().ok_or_else(|| defect("it ends too early"))??;
        self.at += values.byte_offset();
        Ok(value)
    }

    /// The next value, a list, in its order.
    fn list_into(&mut self, name: &str, body: &mut Vec<u8>) -> serde_json::Result<()> {
        self.expect(b'[')?;
        let mut items = Vec::new();
        while self.text.get(self.at) != Some(&b']') {
            let start = self.at;
            let place = self.value::<Place>()?.in_list(name);
            items.push((place, start..self.at));
            if self.text.get(self.at) == Some(&b',') {
                self.at += 1;
            }
        }
        self.expect(b']')?;
        items.sort_by_key(|(place, _)| *place);
        body.push(b'[');
        for (n, (_, item)) in items.into_iter().enumerate() {
            if n > 0 {
                body.push(b',');
            }
            body.extend_from_slice(self.between(item)?);
        }
        body.push(b']');
        Ok(())
    }
}

fn defect(what: &str) -> serde_json::Error {
    serde::de::Error::custom(format!("metadata as serde_json wrote it: {what}"))
}

/// `metadata` as JSON.
///
/// # Errors
/// If it cannot be serialised: a defect.
pub(super) fn ordered(metadata: &TableMetadata) -> iceberg::Result<Value> {
    Ok(sorted(serde_json::to_value(metadata)?))
}

/// The same of a view's.
///
/// # Errors
/// If it cannot be serialised: a defect.
pub(super) fn ordered_view(metadata: &ViewMetadata) -> iceberg::Result<Value> {
    Ok(sorted(serde_json::to_value(metadata)?))
}

fn sorted(mut json: Value) -> Value {
    for (list, keys) in ORDERS {
        if let Some(items) = json.get_mut(list).and_then(Value::as_array_mut) {
            let place =
                |item: &Value| keys.iter().map(|key| item.get(*key).and_then(Value::as_i64)).collect::<Vec<_>>();
            items.sort_by_cached_key(place);
        }
    }
    json
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use tidewater_storage::model::TimestampMs;

    use super::*;
    use crate::catalog::Catalog as _;
    use crate::fixture::World;

    #[test]
    fn a_file_has_what_the_ordered_value_has_in_its_order() {
        block_on(async {
            let mut world = World::new(5);
            let mut sink = world.sink(1);
            for n in 0..12 {
                world.log.append(0, 3, TimestampMs(1_760_000_000_000 + n));
                sink.run_once(TimestampMs(1_760_000_000_000 + n)).await;
            }
            let loaded = world.catalog().load(&world.table()).await.expect("loads");
            assert!(loaded.metadata.snapshots().len() > 10);
            let file = file(&loaded.metadata).expect("is written");
            let ordered = ordered(&loaded.metadata).expect("is written");
            let read: Value = serde_json::from_slice(&file.body).expect("JSON");
            assert_eq!(read, ordered);
            let ids = |json: &Value| {
                json["snapshots"]
                    .as_array()
                    .map(|all| all.iter().map(|it| it["snapshot-id"].clone()).collect::<Vec<_>>())
            };
            assert_eq!(ids(&read), ids(&ordered));
            assert_eq!(&file.refs, loaded.refs().expect("known"));
            assert!(file.refs.contains_key("main"));
        });
    }
}
