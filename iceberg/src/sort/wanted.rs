//! The order that the setting asks for, and the one that a table has. Pure.
//!
//! The table's default sort order is what its files go by. The setting sets it once for each change of the setting
//! ([`change`]), so an engine may set another one afterwards. Columns that are not there yet join the order in the
//! commit that adds them ([`next`]), as long as the default order is what the table's columns give of the wanted one:
//! any other is its owner's choice. [`PROPERTY`] says which setting that was.

use iceberg::spec::{Schema, SortField, SortOrder, TableMetadata};
use serde::{Deserialize, Serialize};

use super::TableOrder;
use super::choice::SortChoice;
use crate::schema::system::SystemColumns;

/// The table property that holds the setting that was taken over last. JSON.
pub const PROPERTY: &str = "tidewater.sort-order";

/// The value of [`PROPERTY`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// As [`SortChoice`] is written.
    setting: String,
    /// The same with the names that columns have got since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    now: Option<String>,
}

impl Kept {
    /// `None` without one, and for one that cannot be read: it is of an owner or a later version.
    fn of(metadata: &TableMetadata) -> Option<Self> {
        metadata.properties().get(PROPERTY).and_then(|text| serde_json::from_str(text).ok())
    }

    fn choice(&self) -> Option<SortChoice> {
        SortChoice::parse(self.now.as_ref().unwrap_or(&self.setting)).ok()
    }

    fn to_text(&self) -> String {
        serde_json::json!(self).to_string()
    }
}

/// What a commit changes for an order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OrderChange {
    /// The default order from then on, if it is another one.
    pub order: Option<SortOrder>,
    /// [`PROPERTY`] from then on, if it is another one; within, `None`: it goes.
    pub text: Option<Option<String>>,
}

/// What the table gets since its topic has the setting `choice`; `None` if it was taken over before.
#[must_use]
pub fn change(metadata: &TableMetadata, choice: &SortChoice) -> Option<OrderChange> {
    let (kept, setting) = (Kept::of(metadata), choice.to_string());
    if kept.as_ref().map_or("", |kept| &kept.setting) == setting {
        return None;
    }
    let (schema, system) = (metadata.current_schema(), SystemColumns::of(metadata));
    if choice.is_empty() {
        // What an engine has set since stays.
        let had = kept.and_then(|kept| kept.choice()).map(|choice| choice.had(schema, system).fields);
        let is_ours = had.is_some_and(|had| is_of(metadata, &had));
        return Some(OrderChange { order: is_ours.then(|| to_order(&[])), text: Some(None) });
    }
    let had = choice.had(schema, system).fields;
    let order = (!is_of(metadata, &had)).then(|| to_order(&had));
    Some(OrderChange { order, text: Some(Some(Kept { setting, now: None }.to_text())) })
}

/// What the table gets with `schema`.
#[must_use]
pub fn next(metadata: &TableMetadata, schema: &Schema) -> OrderChange {
    let Some((kept, choice)) = wanted(metadata) else { return OrderChange::default() };
    let (current, system) = (metadata.current_schema(), SystemColumns::of(metadata));
    let renamed = choice.renamed(current, schema, system);
    let (held, next) = (choice.had(current, system).fields, renamed.had(schema, system).fields);
    if !is_of(metadata, &held) {
        return OrderChange::default();
    }
    let text = (renamed != choice).then(|| Some(Kept { now: Some(renamed.to_string()), ..kept }.to_text()));
    OrderChange { order: (next != held).then(|| to_order(&next)), text }
}

/// Why the table's files are not sorted by all that was asked for: by the setting, or in an engine.
#[must_use]
pub fn lacking(metadata: &TableMetadata) -> Option<String> {
    let had = wanted(metadata).map(|(_, choice)| choice.had(metadata.current_schema(), SystemColumns::of(metadata)));
    match had.filter(|had| is_of(metadata, &had.fields) && !had.missing.is_empty()) {
        Some(had) => Some(had.missing.join("; ")),
        None => TableOrder::of(metadata).err(),
    }
}

fn wanted(metadata: &TableMetadata) -> Option<(Kept, SortChoice)> {
    let kept = Kept::of(metadata)?;
    let choice = kept.choice()?;
    Some((kept, choice))
}

/// Whether the table's default order is this one.
fn is_of(metadata: &TableMetadata, fields: &[SortField]) -> bool {
    metadata.default_sort_order().fields == fields
}

/// The catalog gives it its id.
fn to_order(fields: &[SortField]) -> SortOrder {
    SortOrder { order_id: i64::from(!fields.is_empty()), fields: fields.to_vec() }
}
