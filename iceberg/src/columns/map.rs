//! [`ColumnMap`]: which field id a member of a value has in the table, also after the column was renamed.
//!
//! Kept in the table's property [`PROPERTY`], and changed only in the commit that changes the schema: the columns that
//! a schema's values go to are the same after a restart and for each committer. The text is frozen (FORMAT.md).
//!
//! A member is found by the field id of what it is in (the root, a struct, a list's element, a map's value) and its
//! key, so a column that is renamed keeps what is in it. In the text a field's key is its name, a branch of a union is
//! `<full name>`, a field known by its number is `$5`, at the root `$Message.5`, a value that is not a record is `$`,
//! JSON members without columns are `$rest`, the record's key is `$key`, or `$keytext` as text; a name that begins with
//! `<`, `$` or `\` has a `\` before it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::columns::shape::{Key, column_name};

/// The table property that holds it.
pub const PROPERTY: &str = "tidewater.columns";
/// Of the text in the property. A reader that meets another one stops.
pub const FORMAT: u32 = 1;
/// What members of the root are in. Iceberg's field ids begin at 1.
pub const ROOT: i32 = 0;

/// Why the property cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    #[error("property {PROPERTY} cannot be read: {0}")]
    Invalid(String),
    #[error("property {PROPERTY} has format {0}; this version reads format {FORMAT}")]
    Format(u32),
}

/// What the map says of one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Field id of what it is in, or [`ROOT`].
    pub parent: i32,
    /// The newest key.
    pub key: Key,
    /// Keys that it had before a rename, which values of older schemas still have.
    pub former: Vec<Key>,
    /// Of a column that was added beside one of another type: the word for its type ([`Shape::word`]).
    ///
    /// [`Shape::word`]: crate::columns::shape::Shape::word
    pub beside_as: Option<String>,
    /// The table had it when it was adopted: a member whose name differs in case alone, or that is known by a number,
    /// takes it.
    pub is_adopted: bool,
}

/// Field id → key, of the members of structs; elements of lists and values of maps are found by their parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnMap {
    columns: BTreeMap<i32, Column>,
    /// Field ids by parent and key, newest and former ones.
    keys: BTreeMap<(i32, Key), Vec<i32>>,
}

impl ColumnMap {
    /// From the property's text; a table without the property has an empty map.
    ///
    /// # Errors
    /// The text is damaged or of another format.
    pub fn parse(text: &str) -> Result<Self, MapError> {
        let invalid = |e: serde_json::Error| MapError::Invalid(e.to_string());
        let head: Head = serde_json::from_str(text).map_err(invalid)?;
        if head.format != FORMAT {
            return Err(MapError::Format(head.format));
        }
        let text: Text = serde_json::from_str(text).map_err(invalid)?;
        let mut map = Self::default();
        for (id, column) in text.columns {
            map.insert(id, column.into());
        }
        Ok(map)
    }

    /// The property's text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let columns = self.columns.iter().map(|(id, column)| (*id, column.into())).collect();
        serde_json::to_string(&Text { format: FORMAT, columns }).expect("numbers and strings are JSON")
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    #[must_use]
    pub fn column(&self, id: i32) -> Option<&Column> {
        self.columns.get(&id)
    }

    /// Columns in `parent` whose newest key is `key`, in the order of their ids: one for each type that the member had,
    /// if a conflict made another column.
    pub fn at(&self, parent: i32, key: &Key) -> impl Iterator<Item = i32> {
        self.ids(parent, key).filter(move |id| self.columns.get(id).is_some_and(|column| column.key == *key))
    }

    /// Columns in `parent` that had `key` before a rename.
    pub fn formerly_at(&self, parent: i32, key: &Key) -> impl Iterator<Item = i32> {
        self.ids(parent, key).filter(move |id| self.columns.get(id).is_some_and(|column| column.key != *key))
    }

    fn ids(&self, parent: i32, key: &Key) -> impl Iterator<Item = i32> {
        self.keys.get(&(parent, key.clone())).map(Vec::as_slice).unwrap_or_default().iter().copied()
    }

    /// Top-level columns of records' keys.
    pub fn record_keys(&self) -> impl Iterator<Item = i32> {
        let is_key = |column: &Column| column.parent == ROOT && column.key.is_of_record();
        self.columns.iter().filter(move |(_, column)| is_key(column)).map(|(id, _)| *id)
    }

    /// Whether what is in `parent` are branches of a union.
    #[must_use]
    pub fn is_union(&self, parent: i32) -> bool {
        let inside = self.keys.range((parent, Key::first())..).take_while(|((at, _), _)| *at == parent);
        inside.into_iter().any(|((_, key), _)| matches!(key, Key::Branch(_)))
    }

    /// Adds a column.
    pub fn add(&mut self, id: i32, parent: i32, key: Key) {
        assert!(!self.columns.contains_key(&id), "field id {id} is given out once");
        self.insert(id, Column { parent, key, former: Vec::new(), beside_as: None, is_adopted: false });
    }

    /// Adds a column that the table had when it was adopted.
    pub fn adopt(&mut self, id: i32, parent: i32, name: &str) {
        self.add(id, parent, Key::Field(name.to_owned()));
        if let Some(column) = self.columns.get_mut(&id) {
            column.is_adopted = true;
        }
    }

    /// Columns in `parent` that the table had when it was adopted, with the name `name` in lower case.
    pub fn adopted(&self, parent: i32, name: &str) -> impl Iterator<Item = i32> {
        let is_it = move |column: &Column| {
            column.is_adopted && column.parent == parent && column_name(&column.key.name()) == name
        };
        self.columns.iter().filter(move |(_, column)| is_it(column)).map(|(id, _)| *id)
    }

    /// Column `id` was added beside a column of another type, for members whose type has this word.
    pub fn is_beside_as(&mut self, id: i32, word: &str) {
        if let Some(column) = self.columns.get_mut(&id) {
            column.beside_as = Some(word.to_owned());
        }
    }

    /// Gives column `id` the key `to`; values that have the old key still find it.
    pub fn rename(&mut self, id: i32, to: &Key) {
        let Some(mut column) = self.columns.remove(&id) else { return };
        column.former.retain(|key| key != to);
        let old = std::mem::replace(&mut column.key, to.clone());
        column.former.push(old);
        column.is_adopted = false;
        self.insert(id, column);
    }

    /// Values that have `key` find column `id`, too, unless a column has it as its own.
    pub fn also(&mut self, id: i32, key: Key) {
        let Some(mut column) = self.columns.remove(&id) else { return };
        column.former.push(key);
        self.insert(id, column);
    }

    fn insert(&mut self, id: i32, column: Column) {
        for key in std::iter::once(&column.key).chain(&column.former) {
            let ids = self.keys.entry((column.parent, key.clone())).or_default();
            if let Err(at) = ids.binary_search(&id) {
                ids.insert(at, id);
            }
        }
        self.columns.insert(id, column);
    }
}

#[derive(Deserialize)]
struct Head {
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct Text {
    format: u32,
    columns: BTreeMap<i32, ColumnText>,
}

fn is_root(parent: &i32) -> bool {
    *parent == ROOT
}

#[derive(Serialize, Deserialize)]
struct ColumnText {
    #[serde(default, rename = "in", skip_serializing_if = "is_root")]
    parent: i32,
    key: String,
    #[serde(default, rename = "was", skip_serializing_if = "Vec::is_empty")]
    former: Vec<String>,
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    beside_as: Option<String>,
    #[serde(default, rename = "adopted", skip_serializing_if = "std::ops::Not::not")]
    is_adopted: bool,
}

impl From<&Column> for ColumnText {
    fn from(column: &Column) -> Self {
        let former = column.former.iter().map(key_text).collect();
        let (parent, key, beside_as) = (column.parent, key_text(&column.key), column.beside_as.clone());
        Self { parent, key, former, beside_as, is_adopted: column.is_adopted }
    }
}

impl From<ColumnText> for Column {
    fn from(text: ColumnText) -> Self {
        let former = text.former.iter().map(|text| parse_key(text)).collect();
        let (parent, key) = (text.parent, parse_key(&text.key));
        Self { parent, key, former, beside_as: text.beside_as, is_adopted: text.is_adopted }
    }
}

fn key_text(key: &Key) -> String {
    match key {
        Key::Field(name) if name.starts_with(['<', '$', '\\']) => format!("\\{name}"),
        Key::Field(name) => name.clone(),
        Key::Number { message: None, number } => format!("${number}"),
        Key::Number { message: Some(message), number } => format!("${message}.{number}"),
        Key::Branch(name) => format!("<{name}>"),
        Key::Whole => "$".to_owned(),
        Key::Rest => "$rest".to_owned(),
        Key::RecordKey => "$key".to_owned(),
        Key::TextKey => "$keytext".to_owned(),
    }
}

fn parse_key(text: &str) -> Key {
    if let Some(name) = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) {
        return Key::Branch(name.to_owned());
    }
    match text {
        "$" => return Key::Whole,
        "$rest" => return Key::Rest,
        "$key" => return Key::RecordKey,
        "$keytext" => return Key::TextKey,
        _ => {}
    }
    let numbered = text.strip_prefix('$').map(|text| match text.rsplit_once('.') {
        Some((message, number)) => (Some(message.to_owned()), number),
        None => (None, text),
    });
    match numbered.and_then(|(message, number)| Some((message, number.parse().ok()?))) {
        Some((message, number)) => Key::Number { message, number },
        None => Key::Field(text.strip_prefix('\\').unwrap_or(text).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str) -> Key {
        Key::Field(name.to_owned())
    }

    fn sample() -> ColumnMap {
        let mut map = ColumnMap::default();
        map.add(12, ROOT, field("id"));
        map.add(13, ROOT, field("payload"));
        map.add(14, 13, Key::Branch("com.acme.Order".to_owned()));
        map.add(15, 14, field("$odd"));
        map.add(16, ROOT, Key::Whole);
        map.add(17, ROOT, Key::Rest);
        map.add(18, ROOT, Key::Number { message: Some("Outer.Order".to_owned()), number: 536_870_911 });
        map.add(19, 18, Key::Number { message: None, number: 1 });
        map.add(20, 18, field("$1"));
        map.rename(12, &field("orderId"));
        map
    }

    /// Tables have this text: it changes only with [`FORMAT`], and every old one stays readable.
    #[test]
    fn the_text_is_frozen() {
        let text = r#"{"format":1,"columns":{"12":{"key":"orderId","was":["id"]},"13":{"key":"payload"},"#.to_owned()
            + r#""14":{"in":13,"key":"<com.acme.Order>"},"15":{"in":14,"key":"\\$odd"},"#
            + r#""16":{"key":"$"},"17":{"key":"$rest"},"18":{"key":"$Outer.Order.536870911"},"#
            + r#""19":{"in":18,"key":"$1"},"20":{"in":18,"key":"\\$1"}}}"#;
        assert_eq!(sample().to_text(), text);
        assert_eq!(ColumnMap::parse(&text), Ok(sample()));
    }

    #[test]
    fn what_a_column_beside_is_for_is_in_the_text() {
        let mut map = ColumnMap::default();
        map.add(12, ROOT, field("a"));
        map.add(13, ROOT, field("a"));
        map.is_beside_as(13, "string");
        map.rename(13, &field("b"));
        let text = r#"{"format":1,"columns":{"12":{"key":"a"},"13":{"key":"b","was":["a"],"as":"string"}}}"#;
        assert_eq!(map.to_text(), text);
        assert_eq!(ColumnMap::parse(text), Ok(map));
    }

    /// As [`the_text_is_frozen`]. Texts from before keys had columns have `$key` only as a field's name, with a `\`.
    #[test]
    fn keys_of_records_are_in_the_text() {
        let mut map = ColumnMap::default();
        map.add(12, ROOT, Key::TextKey);
        map.add(13, ROOT, Key::RecordKey);
        map.add(14, 13, field("customerId"));
        map.add(15, 13, Key::Number { message: Some("OrderKey".to_owned()), number: 1 });
        map.add(16, ROOT, field("$key"));
        map.add(17, ROOT, field("key"));
        map.add(18, ROOT, Key::RecordKey);
        map.is_beside_as(18, "string");
        let text = r#"{"format":1,"columns":{"12":{"key":"$keytext"},"13":{"key":"$key"},"#.to_owned()
            + r#""14":{"in":13,"key":"customerId"},"15":{"in":13,"key":"$OrderKey.1"},"16":{"key":"\\$key"},"#
            + r#""17":{"key":"key"},"18":{"key":"$key","as":"string"}}}"#;
        assert_eq!(map.to_text(), text);
        assert_eq!(ColumnMap::parse(&text), Ok(map.clone()));
        assert_eq!(map.record_keys().collect::<Vec<_>>(), [12, 13, 18]);
    }

    #[test]
    fn another_format_and_damage_are_refused() {
        assert_eq!(ColumnMap::parse(r#"{"format":2,"columns":[]}"#), Err(MapError::Format(2)));
        assert!(matches!(ColumnMap::parse("{"), Err(MapError::Invalid(_))));
        assert!(matches!(ColumnMap::parse(r#"{"format":1}"#), Err(MapError::Invalid(_))));
    }

    #[test]
    fn a_renamed_column_is_found_by_both_names() {
        let map = sample();
        assert_eq!(map.at(ROOT, &field("orderId")).collect::<Vec<_>>(), [12]);
        assert_eq!(map.at(ROOT, &field("id")).count(), 0);
        assert_eq!(map.formerly_at(ROOT, &field("id")).collect::<Vec<_>>(), [12]);
        assert!(map.is_union(13) && !map.is_union(ROOT) && !map.is_union(14));
    }
}
