//! A spec over columns that the table may not have yet. Pure.
//!
//! A table is made with the fields whose columns each table has, or else by hour, and the property [`PROPERTY`] keeps
//! the whole spec. The commit that adds a column to the schema adds the fields over it as well ([`next`]), so no file
//! of the column is written by a spec without them. Which fields the table has is not noted anywhere: a table whose
//! default spec is what its columns give of the wanted one still follows it, and any other spec is its owner's choice.

use iceberg::spec::{PartitionSpec, Schema, TableMetadata, Transform, UnboundPartitionField, UnboundPartitionSpec};

use super::column::ValueColumn;
use super::is_time;
use super::spec::{PartitionChoice, SpecColumn, SystemColumn};
use crate::schema::system::SystemColumns;
use crate::schema::{self, HOUR_FIELD, ids};

/// The table property that holds the spec as the setting had it when the table was made, if it has columns of values.
pub const PROPERTY: &str = "tidewater.partition-spec";

/// What a schema gives of a spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Had {
    /// Field id of the column, name of the field, transform.
    fields: Vec<(i32, String, Transform)>,
    /// Why other fields cannot be had.
    missing: Vec<String>,
}

impl PartitionChoice {
    /// Whether it is over columns that a table may not have.
    #[must_use]
    pub fn needs_values(&self) -> bool {
        self.fields().iter().any(|(column, _)| matches!(column, SpecColumn::Value(_)))
    }

    /// The spec that a table is made with.
    ///
    /// # Errors
    /// None in practice: names and columns were checked; iceberg's builder is fallible.
    pub fn to_spec(&self) -> iceberg::Result<UnboundPartitionSpec> {
        to_spec(&self.had(&schema::table_schema()?, SystemColumns::default()).fields)
    }

    /// With the names that columns of `from` have in `to`.
    fn renamed(&self, from: &Schema, to: &Schema, system: SystemColumns) -> Self {
        let name = |name: &str| {
            let (id, _) = ValueColumn::of_name(from, name, system).ok()?;
            to.name_by_field_id(id).map(ToOwned::to_owned)
        };
        self.map_values(|held| name(held).unwrap_or_else(|| held.to_owned()))
    }

    /// What a table with `schema` gives. By hour if that is nothing of a spec that is more.
    fn had(&self, schema: &Schema, system: SystemColumns) -> Had {
        let mut had = Had::default();
        for (column, transform) in self.fields() {
            let found = match column {
                SpecColumn::System(column) => Ok((system.id(column.id()), system_name(*column, *transform))),
                SpecColumn::Value(name) => ValueColumn::of_name(schema, name, system)
                    .and_then(|(id, column)| column.check(*transform).map(|()| id))
                    .map(|id| (id, value_name(schema, id, name, *transform))),
            };
            match found {
                Ok((id, name)) => {
                    let is_taken = |name: &str| had.fields.iter().any(|(_, held, _)| held == name);
                    let name = free(name, &|name| is_taken(name));
                    had.fields.push((id, name, *transform));
                }
                Err(why) => had.missing.push(why),
            }
        }
        if had.fields.is_empty() && !self.fields().is_empty() {
            had.fields.push((system.id(ids::TIMESTAMP), HOUR_FIELD.to_owned(), Transform::Hour));
        }
        had
    }
}

/// What a commit of another schema changes beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Next {
    /// The default spec from then on, if it is another one.
    pub spec: Option<UnboundPartitionSpec>,
    /// [`PROPERTY`] from then on, if it is another one: columns may get other names.
    pub text: Option<String>,
}

/// What the table gets with `schema`, as its property wants it.
#[must_use]
pub fn next(metadata: &TableMetadata, schema: &Schema) -> Next {
    let Some(choice) = wanted(metadata) else { return Next::default() };
    let (current, system) = (metadata.current_schema(), SystemColumns::of(metadata));
    let renamed = choice.renamed(current, schema, system);
    let (held, next) = (choice.had(current, system), renamed.had(schema, system));
    if !is_of(metadata.default_partition_spec(), &held) {
        return Next::default();
    }
    let is_other = !is_same(&held.fields, &next.fields);
    // Its names and columns were checked.
    let spec = is_other.then(|| to_spec_of(metadata, &next.fields).ok()).flatten();
    Next { spec, text: (renamed != choice).then(|| renamed.to_string()) }
}

/// Why the table is not partitioned by the whole spec that it was made for; `None` if it is, or if its owner has chosen
/// another one.
#[must_use]
pub fn lacking(metadata: &TableMetadata) -> Option<String> {
    let had = wanted(metadata)?.had(metadata.current_schema(), SystemColumns::of(metadata));
    let is_followed = is_of(metadata.default_partition_spec(), &had);
    (is_followed && !had.missing.is_empty()).then(|| had.missing.join("; "))
}

fn wanted(metadata: &TableMetadata) -> Option<PartitionChoice> {
    // One that cannot be read is of an owner or a later version: the table keeps its spec.
    metadata.properties().get(PROPERTY).and_then(|text| PartitionChoice::parse(text).ok())
}

fn is_of(spec: &PartitionSpec, had: &Had) -> bool {
    let held: Vec<_> = spec.fields().iter().map(|field| (field.source_id, String::new(), field.transform)).collect();
    is_same(&held, &had.fields)
}

fn is_same(a: &[(i32, String, Transform)], b: &[(i32, String, Transform)]) -> bool {
    let of = |fields: &[(i32, String, Transform)]| -> Vec<(i32, Transform)> {
        fields.iter().map(|(id, _, transform)| (*id, *transform)).collect()
    };
    of(a) == of(b)
}

fn to_spec(fields: &[(i32, String, Transform)]) -> iceberg::Result<UnboundPartitionSpec> {
    let mut builder = UnboundPartitionSpec::builder();
    for (id, name, transform) in fields {
        builder = builder.add_partition_field(*id, name, *transform)?;
    }
    Ok(builder.build())
}

/// A spec of a table that is there. Each field has the id that the table has for it, or a new one: catalogs have been
/// seen to give a field without an id one that another spec has for another field, which engines refuse to read.
fn to_spec_of(metadata: &TableMetadata, fields: &[(i32, String, Transform)]) -> iceberg::Result<UnboundPartitionSpec> {
    let all = || metadata.partition_specs_iter().flat_map(|spec| spec.fields());
    let mut last = all().map(|field| field.field_id).fold(metadata.last_partition_id(), i32::max);
    let fields = fields.iter().map(|(source, name, transform)| {
        let held = all().find(|field| field.source_id == *source && field.transform == *transform);
        let id = held.map(|field| field.field_id).unwrap_or_else(|| {
            last = last.saturating_add(1);
            last
        });
        let field = UnboundPartitionField::builder().source_id(*source).field_id(id);
        field.name(name.clone()).transform(*transform).build()
    });
    Ok(UnboundPartitionSpec::builder().add_partition_fields(fields.collect::<Vec<_>>())?.build())
}

/// The name of a partition field. Without dots: Avro, in which manifests carry it, allows none.
fn system_name(column: SystemColumn, transform: Transform) -> String {
    match transform {
        Transform::Hour => HOUR_FIELD.to_owned(),
        time if is_time(time) => format!("tidewater_{time}"),
        transform => format!("tidewater_{}{}", column.name(), kind(transform)),
    }
}

/// The name of a field over the column `name`, which has the id `id`: that of the column for the column itself.
fn value_name(schema: &Schema, id: i32, name: &str, transform: Transform) -> String {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut plain: String = name.to_lowercase().chars().map(|c| if is_legal(c) { c } else { '_' }).collect();
    if plain.starts_with(|c: char| c.is_ascii_digit()) {
        plain.insert(0, '_');
    }
    let is_taken = |name: &str| {
        let column = schema.field_by_name(name).or_else(|| schema.field_by_name_case_insensitive(name));
        column.is_some_and(|column| transform != Transform::Identity || column.id != id)
    };
    free(plain + &kind(transform), &is_taken)
}

/// What the name of a field says of its transform.
fn kind(transform: Transform) -> String {
    match transform {
        Transform::Identity => String::new(),
        Transform::Bucket(_) => "_bucket".to_owned(),
        Transform::Truncate(_) => "_trunc".to_owned(),
        time => format!("_{time}"),
    }
}

/// `name`, made longer until it is free.
fn free(mut name: String, is_taken: &dyn Fn(&str) -> bool) -> String {
    while is_taken(&name) {
        name.push_str("_part");
    }
    name
}
