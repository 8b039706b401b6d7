//! Making a topic's tables: its own and that of its dead letters. Both begin as tables of key and value, because a new
//! table gets its field ids by level; what else it has is added, or taken away, in a second commit.

use std::collections::HashMap;

use iceberg::TableIdent;
use iceberg::spec::{NestedFieldRef, Schema, UnboundPartitionSpec};

use super::{SinkConfig, SinkError, TableSink};
use crate::catalog::{Catalog, CatalogError, Loaded, NewTable};
use crate::commit::{CommitError, SchemaChange, TableOwner, identity};
use crate::partition::wanted;
use crate::schema::system::{PREFIX, SystemColumns, SystemLayout};
use crate::{schema, sort};

/// Makes `table` unless it is there.
pub(super) async fn make_table(
    catalog: &dyn Catalog,
    config: &SinkConfig,
    table: &TableIdent,
) -> Result<(), SinkError> {
    catalog.ensure_namespace(&table.namespace).await?;
    let owner = TableOwner { cluster: config.cluster, topic: config.topic_id, epoch: config.epoch };
    let mut properties = HashMap::from(
        [
            ("write.metadata.delete-after-commit.enabled", "true"),
            ("write.metadata.previous-versions-max", &config.bounds.metadata_kept.to_string()),
            ("write.parquet.compression-codec", "zstd"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    properties.extend(config.properties.clone());
    properties.extend(owner.properties());
    properties.extend(
        [
            (identity::TOPIC_NAME, config.topic.as_str()),
            (identity::TABLE, &table.to_string()),
            (identity::DELETE, if config.delete { "true" } else { "false" }),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    if *table == config.table && config.partition.needs_values() {
        properties.insert(wanted::PROPERTY.to_owned(), config.partition.to_string());
    }
    let new = NewTable {
        schema: schema::table_schema().map_err(CatalogError::from)?,
        // Without the columns of values that it wants, see `wanted`. Dead letters are few, and are looked for by when
        // they came.
        spec: Some(
            match *table == config.table {
                true => config.partition.to_spec().and_then(|spec| for_layout(spec, config.layout)),
                false => schema::hour_spec(),
            }
            .map_err(CatalogError::from)?,
        ),
        order: None,
        location: None,
        properties,
        format: iceberg::spec::FormatVersion::V2,
    };
    match catalog.create(table, new).await {
        Ok(_) | Err(CatalogError::TableExists(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The spec of a table that gets this layout: no column may have the name of a partition field that was there before.
fn for_layout(spec: UnboundPartitionSpec, layout: SystemLayout) -> iceberg::Result<UnboundPartitionSpec> {
    let column = |name: &str| name == format!("{PREFIX}partition");
    if layout == SystemLayout::Struct || !spec.fields().iter().any(|field| column(&field.name)) {
        return Ok(spec);
    }
    let mut renamed = UnboundPartitionSpec::builder();
    for field in spec.fields() {
        let name = if column(&field.name) { format!("{}_number", field.name) } else { field.name.clone() };
        renamed = renamed.add_partition_field(field.source_id, name, field.transform)?;
    }
    Ok(renamed.build())
}

/// `schema` without the column `value`; `None` if it has none.
pub(super) fn without_value(schema: &Schema, system: SystemColumns) -> Result<Option<Schema>, SinkError> {
    if !system.has_value(schema) {
        return Ok(None);
    }
    let others = schema.as_struct().fields().iter().filter(|field| field.id != system.id(schema::ids::VALUE));
    with_fields(schema, others.cloned())
}

/// `schema` with other top-level columns.
fn with_fields(schema: &Schema, fields: impl IntoIterator<Item = NestedFieldRef>) -> Result<Option<Schema>, SinkError> {
    let built = Schema::builder()
        .with_fields(fields)
        .with_identifier_field_ids(schema.identifier_field_ids())
        .build()
        .map_err(CatalogError::from)?;
    Ok(Some(built))
}

impl TableSink {
    /// Gives the table the sort order of the setting, if that has changed since the table got it.
    pub(super) async fn fit_to_order(&mut self, base: Loaded) -> Result<Loaded, SinkError> {
        let Some(change) = sort::wanted::change(&base.metadata, &self.config.sort) else { return Ok(base) };
        let properties = change.text.map(|text| (sort::wanted::PROPERTY, text)).into_iter().collect();
        let change = SchemaChange { order: change.order, properties, ..SchemaChange::default() };
        Ok(self.committer.change_schema(&base, change).await?)
    }

    /// Brings a table without rows into the layout of the setting; one with rows keeps what it has.
    pub(super) async fn fit_to_layout(&mut self, base: Loaded) -> Result<Loaded, SinkError> {
        let (metadata, wanted) = (&base.metadata, self.config.layout);
        let held = SystemColumns::of(metadata);
        if held.layout() == wanted {
            return Ok(base);
        }
        let is_made = held == SystemColumns::made(held.layout());
        if !is_made || metadata.snapshots().len() > 0 {
            let detail = format!(
                "its system columns have the layout {}, and iceberg.layout={} asks for another, which only a table \
                 without rows gets; set iceberg.layout back, or drop or rename the table",
                held.layout().word(),
                wanted.word()
            );
            return Err(CommitError::Unfit { table: self.config.table.clone(), detail }.into());
        }
        let (schema, system) = (metadata.current_schema(), held.with_layout(wanted));
        let top: Vec<i32> = held.fields().iter().map(|field| field.id).collect();
        let others = schema.as_struct().fields().iter().filter(|field| !top.contains(&field.id)).cloned();
        let schema = with_fields(schema, system.fields().into_iter().chain(others))?;
        Ok(self.committer.change_schema(&base, SchemaChange { schema, ..SchemaChange::default() }).await?)
    }
}
