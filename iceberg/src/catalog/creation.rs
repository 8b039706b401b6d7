//! Making tables: directly, staged (nothing is written until the first commit), and from a staged table's updates.

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::spec::{FormatVersion, SortOrder, TableMetadata, TableMetadataBuilder};
use iceberg::{NamespaceIdent, TableIdent, TableUpdate};
use tidewater_tiering::store::PutMode;

use super::keys::path_segment;
use super::object_store::{Claim, ObjectStoreCatalog, Swing, failed};
use super::pointer::Kind;
use super::{CatalogError, Loaded, NewTable};
use crate::location::Warehouse;

/// The property by which clients choose the format version; it never reaches the table's properties.
pub(super) const FORMAT_VERSION: &str = "format-version";

impl ObjectStoreCatalog {
    /// Where locations are.
    #[must_use]
    pub fn warehouse(&self) -> &Warehouse {
        self.files.warehouse()
    }

    /// The location of a table whose creator chose none: below its namespace's `location` property or the warehouse,
    /// with a suffix that a dropped or renamed table of the same name did not have.
    pub(super) async fn default_location(&self, table: &TableIdent) -> Result<String, CatalogError> {
        let namespace = self.load_namespace(&table.namespace).await?;
        let base = match namespace.get("location") {
            Some(location) => location.trim_end_matches('/').to_owned(),
            None => {
                let path: Vec<_> = table.namespace.iter().map(|level| path_segment(level)).collect();
                format!("{}/{}", self.files.warehouse().uri(), path.join("/"))
            }
        };
        Ok(format!("{base}/{}-{}", path_segment(&table.name), self.names.suffix()))
    }

    /// The metadata of a new table, not written yet.
    pub(super) async fn prepare(&self, table: &TableIdent, new: NewTable) -> Result<TableMetadata, CatalogError> {
        let location = match new.location {
            Some(location) => location,
            None => self.default_location(table).await?,
        };
        self.files.warehouse().locate(&format!("{location}/metadata/x"))?;
        let spec = new.spec.unwrap_or_default();
        let order = new.order.unwrap_or_else(SortOrder::unsorted_order);
        let builder = TableMetadataBuilder::new(new.schema, spec, order, location, new.format, new.properties);
        let built = builder.and_then(|b| b.assign_uuid(self.names.uuid()).build()).map_err(|e| failed(table, e))?;
        Ok(built.metadata)
    }

    /// A table as [`super::Catalog::create`] would make it, for a client that commits it later.
    ///
    /// # Errors
    /// As `create`, except that nothing is written.
    pub async fn stage(&self, table: &TableIdent, new: NewTable) -> Result<Loaded, CatalogError> {
        self.check_free(table, Kind::Table).await?;
        self.load_namespace(&table.namespace).await?;
        let metadata = self.prepare(table, new).await?;
        self.files.make_directories(metadata.location()).await?;
        Ok(Loaded::new(Arc::new(metadata), None))
    }

    /// A staged table from the updates that describe it.
    pub(super) async fn prepare_from_updates(
        &self,
        table: &TableIdent,
        updates: Vec<TableUpdate>,
    ) -> Result<TableMetadata, CatalogError> {
        let mut new = NewParts::default();
        let rest: Vec<_> = updates.into_iter().filter_map(|update| new.take(update)).collect();
        let schema = new.schema.ok_or_else(|| CatalogError::Invalid {
            detail: "a new table needs an add-schema update; none was sent".to_owned(),
        })?;
        let location = match new.location {
            Some(location) => location,
            None => self.default_location(table).await?,
        };
        self.files.warehouse().locate(&format!("{location}/metadata/x"))?;
        let format = new.format.unwrap_or(FormatVersion::V2);
        let order = new.order.unwrap_or_else(SortOrder::unsorted_order);
        let spec = new.spec.unwrap_or_default();
        let mut builder = TableMetadataBuilder::new(schema, spec, order, location, format, HashMap::new())
            .map_err(|e| failed(table, e))?
            .assign_uuid(new.uuid.unwrap_or_else(|| self.names.uuid()));
        for update in rest {
            builder = update.apply(builder).map_err(|e| failed(table, e))?;
        }
        Ok(builder.build().map_err(|e| failed(table, e))?.metadata)
    }

    /// Writes a new table's metadata and its pointer, if there is none.
    pub(super) async fn publish_new(
        &self,
        table: &TableIdent,
        metadata: TableMetadata,
    ) -> Result<Loaded, CatalogError> {
        self.load_namespace(&table.namespace).await?;
        self.check_free(table, Kind::Table).await?;
        let written = self.write_metadata(metadata, 0).await?;
        let pointer = self.fresh_pointer(&written.metadata, &written.location);
        match self.swing(table, &pointer, PutMode::IfAbsent, Claim::File { base: None }).await? {
            Swing::Done => Ok(written.into_loaded()),
            // Our file stays: if our table was there and was renamed before the other one came, the file is in use.
            Swing::Lost => {
                self.check_free(table, Kind::Table).await?;
                Err(CatalogError::TableExists(table.clone()))
            }
        }
    }

    /// Whether the namespace exists.
    ///
    /// # Errors
    /// The bucket.
    pub async fn namespace_exists(&self, namespace: &NamespaceIdent) -> Result<bool, CatalogError> {
        match self.load_namespace(namespace).await {
            Ok(_) => Ok(true),
            Err(CatalogError::NoSuchNamespace(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The first of each kind of update makes the table, later ones change it.
#[derive(Default)]
struct NewParts {
    uuid: Option<uuid::Uuid>,
    format: Option<FormatVersion>,
    schema: Option<iceberg::spec::Schema>,
    spec: Option<iceberg::spec::UnboundPartitionSpec>,
    order: Option<SortOrder>,
    location: Option<String>,
}

impl NewParts {
    fn take(&mut self, update: TableUpdate) -> Option<TableUpdate> {
        fn first<T>(held: &mut Option<T>, value: T) -> Option<T> {
            match held {
                None => {
                    *held = Some(value);
                    None
                }
                Some(_) => Some(value),
            }
        }
        match update {
            TableUpdate::AssignUuid { uuid } => {
                first(&mut self.uuid, uuid).map(|uuid| TableUpdate::AssignUuid { uuid })
            }
            TableUpdate::UpgradeFormatVersion { format_version } => first(&mut self.format, format_version)
                .map(|format_version| TableUpdate::UpgradeFormatVersion { format_version }),
            TableUpdate::AddSchema { schema } => {
                first(&mut self.schema, schema).map(|schema| TableUpdate::AddSchema { schema })
            }
            TableUpdate::AddSpec { spec } => first(&mut self.spec, spec).map(|spec| TableUpdate::AddSpec { spec }),
            TableUpdate::AddSortOrder { sort_order } => {
                first(&mut self.order, sort_order).map(|sort_order| TableUpdate::AddSortOrder { sort_order })
            }
            TableUpdate::SetLocation { location } => {
                first(&mut self.location, location).map(|location| TableUpdate::SetLocation { location })
            }
            other => Some(other),
        }
    }
}
