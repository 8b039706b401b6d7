//! Making a topic's tables: its own and that of its dead letters. Both begin as tables of key and value, because a new
//! table gets its field ids by level; what else it has is added, or taken away, in a second commit.

use std::collections::HashMap;

use iceberg::TableIdent;
use iceberg::spec::Schema;

use super::{SinkConfig, SinkError};
use crate::catalog::{Catalog, CatalogError, NewTable};
use crate::commit::{TableOwner, identity};
use crate::schema;

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
    let new = NewTable {
        schema: schema::table_schema().map_err(CatalogError::from)?,
        // Dead letters are few, and are looked for by when they came.
        spec: Some(
            if *table == config.table { config.partition.to_spec() } else { schema::hour_spec() }
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

/// `schema` without the column `value`; `None` if it has none.
pub(super) fn without_value(schema: &Schema) -> Result<Option<Schema>, SinkError> {
    let fields = schema.as_struct().fields();
    if fields.iter().all(|field| field.id != schema::ids::VALUE) {
        return Ok(None);
    }
    let others = fields.iter().filter(|field| field.id != schema::ids::VALUE).cloned();
    let built = Schema::builder()
        .with_fields(others)
        .with_identifier_field_ids(schema.identifier_field_ids())
        .build()
        .map_err(CatalogError::from)?;
    Ok(Some(built))
}
