//! Taking on a table that another program made, so that its topic goes on in it: `iceberg adopt`.
//!
//! Owns: whether the table fits, what it lacks, the offsets at which the topic goes on. Does not own: the commit
//! (`commit::adopt`), which columns values go to from then on (`columns::evolve`, by the map that is made here).
//!
//! **Refused**, with nothing changed: another owner, another format than 2, a partition spec by which files cannot be
//! written, columns that rows of the topic may lack and that are required, names that the system columns need.
//! **Order**: the topic's table, then that of dead letters, if the topic had this table before and gave it up. Cut off
//! between the two, the same again finishes it.

use std::collections::HashMap;

use iceberg::TableIdent;
use iceberg::spec::{FormatVersion, NestedField, NestedFieldRef, PartitionSpec, Schema, TableMetadata, Type};
use tidewater_storage::model::TimestampMs;

use super::{RestoredEnds, SinkError, TableSink};
use crate::catalog::{CatalogError, Loaded};
use crate::columns::map::{self, ColumnMap, ROOT};
use crate::commit::adopt::Adoption;
use crate::commit::{CommitError, TableOwner, identity, offsets};
use crate::partition::Partitioner;
use crate::plan::Offsets;
use crate::properties::{MAX_SNAPSHOT_AGE, MAX_SNAPSHOT_AGE_MS};
use crate::schema::system::{self, SystemColumns};
use crate::translate::decoding::{Decoding, ValuesAs};

/// Where a topic goes on in a table that it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdoptFrom {
    /// At the start of its log.
    Earliest,
    /// At these offsets; at the start of its log in a partition that is not there.
    Offsets(Offsets),
    /// At the offsets that the table has, if the topic wrote it before and gave it up; else at these.
    Resume(Offsets),
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptAsk {
    /// The table that the asker means, `namespace.table`: must be the topic's.
    pub table: String,
    pub from: AdoptFrom,
    /// Change nothing, only find out.
    pub is_plan: bool,
}

/// What was done, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    pub table: TableIdent,
    /// The topic had it already; nothing was changed.
    pub was_ours: bool,
    /// Rows that it had, if its last snapshot says so.
    pub rows: Option<u64>,
    /// Snapshots that it had.
    pub snapshots: usize,
    /// Its partition spec, for people.
    pub spec: String,
    /// Top-level columns that it gets.
    pub added: Vec<String>,
    /// Its own top-level columns, to which values go by their names.
    pub columns: Vec<String>,
    /// Where the topic goes on.
    pub offsets: Offsets,
    /// The table of dead letters, if the topic gets that back too.
    pub dead_letters: Option<TableIdent>,
}

/// Why a table was not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Sink(#[from] SinkError),
}

impl From<CommitError> for AdoptError {
    fn from(error: CommitError) -> Self {
        Self::Sink(error.into())
    }
}

impl From<CatalogError> for AdoptError {
    fn from(error: CatalogError) -> Self {
        Self::Sink(error.into())
    }
}

fn refused<T>(why: String) -> Result<T, AdoptError> {
    Err(AdoptError::Refused(why))
}

/// What the table lacks.
struct Fit {
    /// With what it lacks; `None`: nothing.
    schema: Option<Schema>,
    properties: HashMap<String, String>,
    added: Vec<String>,
}

impl TableSink {
    /// Adopts the topic's table, or finds out what that would change. To be called between two turns.
    ///
    /// # Errors
    /// [`AdoptError`]. After a failure of the catalog the table may have been adopted: asking again finds out.
    pub async fn adopt(&mut self, ask: &AdoptAsk, now: TimestampMs) -> Result<Adopted, AdoptError> {
        let table = self.config.table.clone();
        if ask.table != table.to_string() {
            return refused(format!(
                "the topic's table is {table}, not {}: set iceberg.table={} first, which needs iceberg.mode=disabled \
                 for a moment",
                ask.table, ask.table
            ));
        }
        let base = match self.catalog.load(&table).await {
            Err(CatalogError::NoSuchTable(_) | CatalogError::NoSuchNamespace(_)) => {
                return refused(format!("there is no table {table} in the catalog; a view cannot be adopted"));
            }
            loaded => loaded?,
        };
        let metadata = &base.metadata;
        let owner = TableOwner { cluster: self.config.cluster, topic: self.config.topic_id, epoch: self.config.epoch };
        let was_ours = match owner.check(&table, metadata) {
            Ok(()) => true,
            Err(foreign) if foreign.is_free() => false,
            Err(foreign) => return refused(foreign.to_string()),
        };
        let dead_letters = self.dead_to_adopt(&owner).await?;
        let fit = if was_ours { Fit::nothing() } else { self.fit(metadata)? };
        let adopted = Adopted {
            was_ours,
            rows: total_rows(metadata),
            snapshots: metadata.snapshots().len(),
            spec: words_of(metadata.default_partition_spec(), metadata.current_schema()),
            added: fit.added.clone(),
            columns: own_columns(metadata),
            offsets: if was_ours { offsets::of(&table, metadata)? } else { self.start(ask, metadata)? },
            dead_letters: dead_letters.as_ref().map(|(table, _)| table.clone()),
            table,
        };
        let adoption = self.adoption(&owner, fit, &adopted.offsets);
        if !was_ours {
            self.check_after(metadata, &adoption)?;
        }
        if ask.is_plan {
            return Ok(adopted);
        }
        if !was_ours {
            self.committer.adopt(&base, &adoption, now).await?;
            self.committer.refresh().await?;
            (self.decoding, self.of_all, self.behind) = (None, None, true);
        }
        if let Some((_, dead)) = dead_letters {
            self.dead.committer.set_properties(&dead, owner.properties()).await?;
            self.dead.committer.refresh().await?;
        }
        self.dead.forget_absence();
        Ok(adopted)
    }

    /// What the table lacks.
    fn fit(&self, metadata: &TableMetadata) -> Result<Fit, AdoptError> {
        if metadata.format_version() != FormatVersion::V2 {
            return refused(format!("it has format version {}; only 2 can be adopted", metadata.format_version()));
        }
        if self.config.delete {
            return refused(
                "iceberg.delete=true would drop the table with the topic, and it was not the topic's: set \
                 iceberg.delete=false first"
                    .to_owned(),
            );
        }
        let held = metadata.properties();
        let is_tidewaters = held.contains_key(identity::TOPIC_NAME) || held.contains_key(system::PROPERTY);
        let layout = self.config.layout;
        if is_tidewaters {
            if !self.was_detached(metadata) {
                return refused(
                    "it has rows of another topic, with partitions and offsets that a rewind or a restore of this topic would \
                     take for its own: keep that table, and let this topic have one of another name"
                        .to_owned(),
                );
            }
            let has = SystemColumns::of(metadata).layout();
            if has != layout {
                return refused(format!(
                    "its system columns have the layout {}: set iceberg.layout={} first",
                    has.word(),
                    has.word()
                ));
            }
            return Ok(Fit::nothing());
        }
        let schema = metadata.current_schema();
        if let Some(name) = required_column(schema.as_struct().fields()) {
            return refused(format!(
                "its column {name} is required, and a record of the topic may lack it: make it optional in an engine \
                 first (ALTER TABLE … ALTER COLUMN {name} DROP NOT NULL)"
            ));
        }
        let Some(columns) = SystemColumns::above(metadata.last_column_id(), layout) else {
            return refused(format!("its field ids are used up: the last one is {}", metadata.last_column_id()));
        };
        let mut fields: Vec<NestedFieldRef> = columns.fields();
        if !self.config.mode.is_typed() {
            fields.push(columns.value().into());
        }
        let taken = schema.as_struct().fields().iter().map(|field| field.name.to_lowercase());
        let parts = metadata.partition_specs_iter().flat_map(|spec| spec.fields()).map(|it| it.name.to_lowercase());
        let taken: Vec<String> = taken.chain(parts).collect();
        if let Some(field) = fields.iter().find(|field| taken.contains(&field.name)) {
            return refused(format!(
                "it has a column or partition field {} already, which is the name of a column that it needs: rename \
                 that in an engine, or choose another iceberg.layout or iceberg.mode",
                field.name
            ));
        }
        let mut map = ColumnMap::default();
        adopt_columns(&mut map, ROOT, schema.as_struct().fields());
        let added = fields.iter().map(|field| field.name.clone()).collect();
        let all = schema.as_struct().fields().iter().cloned().chain(fields);
        let built = Schema::builder().with_fields(all).build().map_err(CatalogError::from)?;
        let mut given = vec![(system::PROPERTY, columns.property()), (map::PROPERTY, map.to_text())];
        // Unset, snapshots of our own tables are kept by size, which would end another program's history within hours.
        if !held.contains_key(MAX_SNAPSHOT_AGE) {
            given.push((MAX_SNAPSHOT_AGE, MAX_SNAPSHOT_AGE_MS.to_string()));
        }
        let properties = given.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Ok(Fit { schema: Some(built), properties, added })
    }

    fn adoption(&self, owner: &TableOwner, fit: Fit, offsets: &Offsets) -> Adoption {
        let mut properties = fit.properties;
        properties.extend(owner.properties());
        let marks = self.config.restored.iter().map(RestoredEnds::mark);
        let marks = marks.filter_map(|(key, value)| Some((key, value?)));
        let own = [
            (identity::TOPIC_NAME, self.config.topic.to_string()),
            (identity::TABLE, self.config.table.to_string()),
            (identity::DELETE, "false".to_owned()),
            (offsets::OFFSETS, offsets::encode(offsets)),
        ];
        properties.extend(own.into_iter().chain(marks).map(|(key, value)| (key.to_owned(), value)));
        Adoption { schema: fit.schema, properties, offsets: offsets.clone() }
    }

    /// Whether the sink can write the table as it would be.
    fn check_after(&self, base: &TableMetadata, adoption: &Adoption) -> Result<(), AdoptError> {
        let mut builder = base.clone().into_builder(None);
        for update in adoption.updates(base) {
            builder = update.apply(builder).map_err(CatalogError::from)?;
        }
        let after = builder.build().map_err(CatalogError::from)?.metadata;
        if Partitioner::of_spec(after.default_partition_spec(), &after).is_none() {
            return refused(format!(
                "its partition spec is {}, by which files of the topic cannot be written: change it in an engine first",
                words_of(base.default_partition_spec(), base.current_schema())
            ));
        }
        let values = if self.config.mode.is_typed() { ValuesAs::Columns } else { ValuesAs::Bytes };
        match Decoding::new(&after, values) {
            Ok(_) => Ok(()),
            Err(error) => refused(format!("its columns cannot be written: {error}")),
        }
    }

    /// Where the topic goes on.
    fn start(&self, ask: &AdoptAsk, metadata: &TableMetadata) -> Result<Offsets, AdoptError> {
        Ok(match &ask.from {
            AdoptFrom::Earliest => Offsets::new(),
            AdoptFrom::Offsets(offsets) => offsets.clone(),
            AdoptFrom::Resume(_) if self.was_detached(metadata) => offsets::of(&self.config.table, metadata)?,
            AdoptFrom::Resume(offsets) => offsets.clone(),
        })
    }

    /// Whether the topic wrote the table before and gave it up.
    fn was_detached(&self, metadata: &TableMetadata) -> bool {
        metadata.properties().get(identity::DETACHED) == Some(&self.config.topic_id.to_string())
    }

    /// The table of dead letters, if the topic gave it up.
    async fn dead_to_adopt(&self, owner: &TableOwner) -> Result<Option<(TableIdent, Loaded)>, AdoptError> {
        let table = &self.dead.table;
        let loaded = match self.catalog.load(table).await {
            Err(CatalogError::NoSuchTable(_) | CatalogError::NoSuchNamespace(_)) => return Ok(None),
            loaded => loaded?,
        };
        match owner.check(table, &loaded.metadata) {
            Ok(()) => Ok(None),
            Err(foreign) if foreign.is_free() && self.was_detached(&loaded.metadata) => {
                Ok(Some((table.clone(), loaded)))
            }
            Err(_) => refused(format!(
                "dead letters of the topic go to {table}, which is a table of another owner: rename or drop that first"
            )),
        }
    }
}

impl Fit {
    fn nothing() -> Self {
        Self { schema: None, properties: HashMap::new(), added: Vec::new() }
    }
}

/// The path of a field that must have a value; keys of maps always have.
fn required_column(fields: &[NestedFieldRef]) -> Option<String> {
    fields.iter().find_map(|field| {
        let inside = || inside(&field.field_type).map(|below| format!("{}.{below}", field.name));
        if field.required { Some(field.name.clone()) } else { inside() }
    })
}

fn inside(kind: &Type) -> Option<String> {
    let of = |field: &NestedField, name: &str| match field.required {
        true => Some(name.to_owned()),
        false => inside(&field.field_type).map(|below| format!("{name}.{below}")),
    };
    match kind {
        Type::Primitive(_) => None,
        Type::Struct(inner) => required_column(inner.fields()),
        Type::List(list) => of(&list.element_field, "element"),
        Type::Map(map) => of(&map.value_field, "value"),
    }
}

/// Enters columns and what is inside them into the map of a table that is adopted.
fn adopt_columns(map: &mut ColumnMap, parent: i32, fields: &[NestedFieldRef]) {
    for field in fields {
        map.adopt(field.id, parent, &field.name);
        adopt_inside(map, field);
    }
}

fn adopt_inside(map: &mut ColumnMap, field: &NestedField) {
    match &*field.field_type {
        Type::Primitive(_) => {}
        Type::Struct(inner) => adopt_columns(map, field.id, inner.fields()),
        Type::List(list) => adopt_inside(map, &list.element_field),
        Type::Map(of) => adopt_inside(map, &of.value_field),
    }
}

fn total_rows(metadata: &TableMetadata) -> Option<u64> {
    let Some(snapshot) = metadata.current_snapshot() else { return Some(0) };
    snapshot.summary().additional_properties.get("total-records")?.parse().ok()
}

/// Top-level columns that are not ours.
fn own_columns(metadata: &TableMetadata) -> Vec<String> {
    let fields = metadata.current_schema().as_struct().fields().iter();
    fields.filter(|field| !is_of_system(&field.name)).map(|field| field.name.clone()).collect()
}

fn is_of_system(name: &str) -> bool {
    name == system::STRUCT || name.starts_with(system::PREFIX)
}

/// `(day(ts), customer)`.
fn words_of(spec: &PartitionSpec, schema: &Schema) -> String {
    let name = |id| schema.name_by_field_id(id).unwrap_or("?").to_owned();
    let fields = spec.fields().iter().map(|field| match field.transform {
        iceberg::spec::Transform::Identity => name(field.source_id),
        transform => format!("{transform}({})", name(field.source_id)),
    });
    format!("({})", fields.collect::<Vec<_>>().join(", "))
}
